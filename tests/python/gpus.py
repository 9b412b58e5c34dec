"""Fixtures of the tests of Device: a daemon with a tier in the memory of a fake GPU."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import LIMIT_S, Daemon, until
from fake_gpus import FakeGpus
from gpu_memory import Driver, GpuArray

MIB = 1 << 20
TIER = 16 * MIB


@pytest.fixture(scope="session")
def gpus(tmp_path_factory):
    """Two GPUs, of which the first has a tier."""
    return FakeGpus(tmp_path_factory.mktemp("gpus") / "state", devices=2, device_bytes=256 * MIB)


@pytest.fixture(scope="session")
def gpu_daemon(gpus, tmp_path_factory):
    daemon = Daemon(tmp_path_factory.mktemp("gpu-daemon"), f"--default-devices={gpus.uuid(0)}=16MiB").start()
    yield daemon
    daemon.stop()


@pytest.fixture
def driver(gpus):
    return Driver()


@pytest.fixture
def gpu_client(gpu_daemon, connect):
    client = connect(gpu_daemon.endpoint)
    client.ping()
    return client


@pytest.fixture
def device(gpus, gpu_client):
    """Of the GPU with the tier. Ends with the question whether everything was given back."""
    device = gpu_client.device(gpus.uuid(0))
    device.ping()
    yield device
    gpus.clear_faults()
    if not device.closed:
        until(lambda: device.stats()["held_for_streams"] == 0, "nothing waits for a stream")


class Gpu:
    """What a test of a device needs beside it."""

    def __init__(self, gpus, daemon, driver):
        self.gpus, self.daemon, self.driver, self.state = gpus, daemon, driver, gpus.state

    def array(self, array, **options):
        return GpuArray(self.driver, array, **options)

    def limbo(self):
        """Bytes of the tier that were freed and are still pinned."""
        return self.daemon.metric("infercache_used_bytes", tier=self.gpus.uuid(0), state="limbo")


@pytest.fixture
def gpu(gpus, gpu_daemon, driver):
    gpu = Gpu(gpus, gpu_daemon, driver)
    until(lambda: gpu.limbo() == 0, "nothing of another test is pinned")
    return gpu


class Worker:
    """A process of device_worker.py, as far as it tells: killed, or ended with its input."""

    def __init__(self, endpoint, *what):
        self.process = subprocess.Popen(
            [sys.executable, Path(__file__).with_name("device_worker.py"), endpoint, *what],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        line = self.process.stdout.readline()
        self.said = json.loads(line) if line else None

    def kill(self):
        self.process.kill()
        self.wait()

    def end(self):
        self.process.stdin.close()
        assert self.wait() == 0

    def wait(self):
        code = self.process.wait(LIMIT_S)
        self.process.stdout.close()
        return code


@pytest.fixture
def worker(gpus, gpu_daemon):
    """worker(what, key): a process beside this one."""
    workers = []

    def start(*what):
        workers.append(Worker(gpu_daemon.endpoint, *what))
        return workers[-1]

    yield start
    for one in workers:
        one.kill()
