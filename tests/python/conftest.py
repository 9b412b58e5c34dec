"""Real daemons for the tests of the Python client.

INFERCACHE_BUILD_DIR is the build folder with bin/infercached, default build/dev of the repository.
"""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import infercache

pytest_plugins = ["gpus", "fake_torch"]

ROOT = Path(__file__).resolve().parents[2]
BUILD = Path(os.environ.get("INFERCACHE_BUILD_DIR", ROOT / "build" / "dev"))
LIMIT_S = 30  # for anything that a test waits for


def until(condition, what, limit_s=LIMIT_S):
    """Polls for the thing itself; fails the test if it does not come."""
    end = time.monotonic() + limit_s
    while not (result := condition()):
        assert time.monotonic() < end, f"not within {limit_s} s: {what}"
        time.sleep(0.002)
    return result


def use_engine(name):
    """Whether an engine is installed. If not, what the adapter imports of it is taken from engines/."""
    stand_ins = Path(__file__).parent / "engines"
    found = importlib.util.find_spec(name)
    if found is not None and not Path(found.origin).is_relative_to(stand_ins):
        return True
    if found is None:
        sys.path.append(str(stand_ins))
    return False


class Daemon:
    """An infercached with a socket of its own. May be killed and started again."""

    def __init__(self, directory, *options):
        self.directory = Path(directory)
        self.socket = self.directory / "infercached.sock"
        self.endpoint = f"unix:{self.socket}"
        self.options = options
        self.process = None

    def start(self):
        ready = self.directory / "ready.json"
        ready.unlink(missing_ok=True)
        environment = {k: v for k, v in os.environ.items() if not k.startswith("INFERCACHE_")}
        with open(self.directory / "log", "ab") as log:
            self.process = subprocess.Popen(
                [BUILD / "bin" / "infercached", "--capacity", "256MiB", "--default-quota", "128MiB",
                 "--grpc-listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0",
                 "--socket", self.socket, "--ready-file", ready, *self.options],
                env=environment, stdout=log, stderr=log,
            )  # fmt: skip

        def is_ready():
            assert self.process.poll() is None, (self.directory / "log").read_text()
            return ready.exists()

        until(is_ready, "the daemon's ready file")
        self.addresses = json.loads(ready.read_text())
        return self

    @property
    def grpc(self):
        return self.addresses["grpc"]

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(LIMIT_S)

    def pause(self):
        self.process.send_signal(signal.SIGSTOP)

    def resume(self):
        self.process.send_signal(signal.SIGCONT)

    def stop(self):
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            assert self.process.wait(LIMIT_S) == 0

    def stat(self):
        """The daemon's own numbers, as infercachectl tells them."""
        out = subprocess.run(
            [BUILD / "bin" / "infercachectl", "--endpoint", self.grpc, "-o", "json", "stat"],
            check=True, capture_output=True, text=True,
        ).stdout  # fmt: skip
        return json.loads(out)

    def metric(self, name, **labels):
        """The sum of a metric over its other labels."""
        from urllib.request import urlopen

        with urlopen(f"http://{self.addresses['http']}/metrics") as answer:
            lines = answer.read().decode().splitlines()
        wanted = [f'{label}="{value}"' for label, value in labels.items()]
        values = [line.rsplit(" ", 1)[1] for line in lines
                  if line.split("{")[0].split(" ")[0] == name and all(label in line for label in wanted)]  # fmt: skip
        assert values, f"no metric {name} {labels}"
        return sum(float(value) for value in values)


@pytest.fixture(scope="session")
def daemon(tmp_path_factory):
    """One for all tests that leave it running."""
    daemon = Daemon(tmp_path_factory.mktemp("daemon")).start()
    yield daemon
    daemon.stop()


@pytest.fixture
def own_daemon(tmp_path):
    """One for a test that kills it, or counts what it holds."""
    daemon = Daemon(tmp_path).start()
    yield daemon
    daemon.stop()


@pytest.fixture
def connect(daemon, request):
    """connect() to the shared daemon under a fingerprint of this test's own, so that no test sees
    another's objects."""
    clients = []

    def connect(endpoint=daemon.endpoint, cls=infercache.Client, **options):
        options.setdefault("fingerprint", {"test": request.node.nodeid})
        clients.append(cls(endpoint, **options))
        return clients[-1]

    yield connect
    for client in clients:
        client.close()


@pytest.fixture(params=["local", "remote"])
def client(request, daemon, connect):
    """A client over each lane."""
    client = connect(daemon.endpoint if request.param == "local" else daemon.grpc)
    assert client.lane == request.param
    client.ping()
    return client


@pytest.fixture
def local(connect):
    """A client over shared memory."""
    client = connect()
    client.ping()
    return client
