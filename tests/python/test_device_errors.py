"""What of a device raises, and what is a miss instead. On a fake driver."""

import os
import subprocess
import sys

import numpy as np
import pytest

import infercache
from gpu_memory import Consumer, DlpackArray, VersionedArray


def test_tensors_that_are_none(device, gpu):
    for value in (b"bytes", bytearray(3), np.arange(3), np.float32(1), [np.arange(3)]):
        with pytest.raises(TypeError, match="host memory"):
            device.put("key", value)
    for value in ({}, 3.5, None, "text", [object()]):
        with pytest.raises(TypeError, match="a tensor in a GPU's memory"):
            device.put("key", value)
    with pytest.raises(TypeError, match="DLPack's device 1"):
        device.put("key", DlpackArray(gpu.driver, np.arange(3), device=(1, 0)))
    with pytest.raises(ValueError, match="on GPU 1; this device is GPU 0"):
        device.put("key", DlpackArray(gpu.driver, np.arange(3), device=(2, 1)))
    with pytest.raises(ValueError, match="at least one part"):
        device.put("key", [])
    for empty in (gpu.array(np.zeros((0, 3))), [gpu.array(np.zeros((0, 3)))] * 2):
        with pytest.raises(ValueError, match="at least one byte"):
            device.put("key", empty)
    for dtype in (">i4", "datetime64[s]", "V8"):
        with pytest.raises(TypeError):
            device.put("key", gpu.array(np.zeros(3, dtype)))
    assert not device.exists("key")


def test_tensors_that_are_not_contiguous(device, gpu):
    array = gpu.array(np.arange(6, dtype=np.float32).reshape(2, 3))
    array.strides = (12, 4)
    assert device.put("dense", array).outcome == "stored"
    array.strides = (4, 8)
    for wrong in (array, DlpackArray(gpu.driver, np.zeros((2, 3)), strides=(1, 2))):
        for call in (device.put, device.lend, device.get_into):
            with pytest.raises(ValueError, match="not contiguous"):
                call("key", wrong)
    dense = DlpackArray(gpu.driver, np.zeros((1, 3)), strides=(77, 1))
    assert device.put("one row", dense).outcome == "stored"


def test_targets_that_are_read_only(device, gpu):
    array = gpu.array(np.arange(3))
    device.put("key", array)
    for target in (device.get("key"), device.get("key").part()):
        with pytest.raises(TypeError, match="read-only"):
            device.get_into("key", target)
    with pytest.raises(ValueError, match="read-only"):
        device.get_into("key", VersionedArray(gpu.driver, np.arange(3), flags=1))
    array.readonly = True
    with pytest.raises(ValueError, match="read-only"):
        device.get_into("key", array)
    with pytest.raises(TypeError, match="one tensor"):
        device.get_into("key", [array, array])


def test_dlpack_of_either_version(device, gpu):
    array = VersionedArray(gpu.driver, np.arange(5))
    assert device.put("key", array).outcome == "stored"
    assert array.asked == [(1, (1, 0))] and (device.get("key").numpy() == np.arange(5)).all()
    target = VersionedArray(gpu.driver, np.zeros(5, np.int64))
    assert device.get_into("key", target) == 40 and (target.numpy() == np.arange(5)).all()
    with pytest.raises(TypeError, match="version"):
        device.put("other", VersionedArray(gpu.driver, np.arange(3), major=2))


def test_what_dlpack_does_not_do(device, gpu):
    device.put("key", gpu.array(np.arange(3)))
    view = device.get("key")
    assert view.__dlpack_device__() == (2, 0) == view.part().__dlpack_device__()
    Consumer(view.__dlpack__(dl_device=(2, 0), copy=False)).let_go(with_gil=True)
    for wrong in ({"copy": True}, {"dl_device": (1, 0)}):
        with pytest.raises(BufferError):
            view.__dlpack__(**wrong)


def test_keys_and_options_that_can_never_work(device, gpu):
    array = gpu.array(np.arange(3))
    for key in ("", b"", "x" * 1025):
        for call in (device.get, device.borrow, lambda key: device.put(key, array)):
            with pytest.raises(ValueError, match="key"):
                call(key)
    for wrong in ({"kind": "tensor"}, {"class_id": 16}, {"ttl": 0}):
        with pytest.raises(ValueError):
            device.put("key", array, **wrong)
    with pytest.raises(ValueError, match="deadline"):
        device.get("key", deadline=0)
    with pytest.raises(TypeError, match="sequence"):
        device.get_many("key")


def test_the_plain_client_names_the_device(gpu_client, gpu):
    with pytest.raises(TypeError, match=r"client\.device\(\)"):
        gpu_client.put("key", gpu.array(np.arange(3)))


# --- Devices that are none, or no more ---


def test_gpus_by_every_name(gpu_client, gpus):
    assert gpu_client.device(1).uuid == gpus.uuid(1)
    assert gpu_client.device(gpus.uuid(1)).ordinal == 1
    for wrong, code in (("auto", "NOT_FOUND"), (2, "NOT_FOUND"), (-1, "NOT_FOUND"), (gpus.uuid(7), "NOT_FOUND")):
        with pytest.raises(infercache.DeviceError) as raised:
            gpu_client.device(wrong)
        assert raised.value.code == code and raised.value.reason
    with pytest.raises(ValueError, match="UUID"):
        gpu_client.device("cuda:0")
    for wrong in (None, 1.5, True):
        with pytest.raises(TypeError, match="a GPU is"):
            gpu_client.device(wrong)


def test_without_a_driver_it_says_why(gpu_daemon, tmp_path):
    (tmp_path / "libcuda.so.1").write_text("no library")
    program = f"""
import infercache
with infercache.connect({gpu_daemon.endpoint!r}) as client:
    client.put("without a driver", b"value", overwrite=True)
    assert bytes(client.get("without a driver")) == b"value"
    for gpu in ("auto", 0):
        try:
            client.device(gpu)
        except infercache.DeviceError as error:
            print(error.code, error.reason)
"""
    told = subprocess.run(
        [sys.executable, "-c", program], env={**os.environ, "LD_LIBRARY_PATH": str(tmp_path)},
        check=True, capture_output=True, text=True, timeout=60,
    ).stdout  # fmt: skip
    assert told.count("UNIMPLEMENTED no CUDA driver: libcuda.so.1") == 2, told


def test_not_over_grpc(gpu_daemon, gpus, connect):
    with pytest.raises(infercache.DeviceError, match="UNIMPLEMENTED.*unix:PATH"):
        connect(gpu_daemon.grpc).device(0)


def test_a_gpu_without_a_tier_is_a_miss_that_says_so(gpu_client, gpu):
    device = gpu_client.device(1)
    assert device.get("key") is None and device.last_failure.code == "NOT_FOUND"
    refused = device.put("key", DlpackArray(type(gpu.driver)(1), np.arange(3)))
    assert (refused.outcome, refused.code) == ("refused", "NOT_FOUND") and "tier" in refused.reason
    assert device.match(["key"]) == 0 and device.exists_many(["a", "b"]) == [False, False]
    with pytest.raises(infercache.DaemonError, match="NOT_FOUND"):
        device.ping()


def test_a_closed_client_or_device_says_so(device, gpu, gpu_client):
    array = gpu.array(np.arange(3))
    calls = (
        lambda: device.get("key"), lambda: device.put("key", array), lambda: device.get_into("key", array),
        lambda: device.lend("key", array), lambda: device.borrow("key"), lambda: device.take_back("key"),
        lambda: device.exists("key"), lambda: device.match(["key"]), device.ping, device.stats,
    )  # fmt: skip
    with device as same_device:
        assert same_device is device
    again = gpu_client.device(0)
    gpu_client.close()
    for one in (device, again):
        assert one.closed and one.uuid == gpu.gpus.uuid(0)
        one.close()
    for call in calls:
        with pytest.raises(infercache.ClosedError, match="closed"):
            call()
    with pytest.raises(infercache.ClosedError):
        gpu_client.device(0)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_fork_is_told_that_it_has_no_device(device, gpu):
    device.put("key", gpu.array(np.arange(3)))
    view = device.get("key")
    taken = Consumer(view.__dlpack__())
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            calls = (lambda: device.get("key"), device.stats, lambda: device.take_back("key"), device.ping,
                     lambda: view.address, view.numpy, view.__dlpack__, lambda: view.shape, view.part)  # fmt: skip
            for call in calls:
                with pytest.raises(infercache.ForkedError, match="fork"):
                    call()
            taken.let_go(with_gil=False)
            view.release()
            device.close()
            code = 0
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert (view.numpy() == np.arange(3)).all() and device.exists("key")
    taken.let_go(with_gil=False)
