"""Objects in a GPU's memory: what is put, found, kept and given back. On a fake driver."""

import gc
import os
import subprocess
import sys
import threading

import ml_dtypes
import numpy as np
import pytest

import infercache
from conftest import LIMIT_S, until
from device_worker import VALUE
from gpu_memory import Consumer, DlpackArray, read
from gpus import MIB, TIER

DTYPES = [
    np.dtype(name) for name in (
        "bool", "uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64", "float16", "float32",
        "float64", "complex64", "complex128")
] + [np.dtype(ml_dtypes.bfloat16), np.dtype(ml_dtypes.float8_e4m3fn), np.dtype(ml_dtypes.float8_e5m2)]  # fmt: skip


def random_array(dtype, shape=(3, 5)):
    raw = np.random.default_rng(7).integers(0, 256, (*shape, dtype.itemsize), np.uint8)
    return (raw % 2).astype(bool)[..., 0] if dtype == bool else raw.reshape(-1).view(dtype).reshape(shape)


def same(one, other):
    """Bit for bit, NaNs too."""
    return one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()


# --- Round trips ---


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_dtype_comes_back_bit_for_bit(device, gpu, dtype):
    array = random_array(dtype)
    assert device.put("key", DlpackArray(gpu.driver, array)).outcome == "stored"
    with device.get("key") as view:
        assert same(view.numpy(), array)
        assert (view.shape, view.nbytes, view.device_uuid) == ((3, 5), array.nbytes, gpu.gpus.uuid(0))
        assert view.address % 256 == 0 and (read(gpu.driver, view.address, view.nbytes) == array.view(np.uint8).ravel()).all()
        taken = Consumer(view.__dlpack__())
        assert (taken.shape, taken.tensor.data, taken.tensor.device_type) == ((3, 5), view.address, 2)
        assert device.put("again", view).outcome == "stored", "a view has DLPack"
        taken.let_go(with_gil=True)
    assert same(device.get("again").numpy(), array)
    target = DlpackArray(gpu.driver, np.zeros((3, 5), dtype))
    assert device.get_into("key", target) == array.nbytes
    assert same(target.numpy(), array)


def test_what_cuda_array_interface_can_express(device, gpu):
    for dtype in DTYPES[:14]:
        array = random_array(dtype)
        device.put("key", gpu.array(array), overwrite=True)
        view = device.get("key")
        interface = view.__cuda_array_interface__
        assert (np.dtype(interface["typestr"]), interface["shape"]) == (dtype, (3, 5))
        assert interface["data"] == (view.address, True) and interface["version"] == 3
        assert same(view.numpy(), array)
    device.put("bfloat16", DlpackArray(gpu.driver, random_array(DTYPES[14])))
    assert not hasattr(device.get("bfloat16"), "__cuda_array_interface__")


def test_scalars_and_several_parts(device, gpu):
    assert device.put("scalar", gpu.array(np.float64(2.5)))
    assert device.get("scalar").numpy() == 2.5 and device.get("scalar").shape == ()
    values = [np.arange(3, dtype=np.int8), np.zeros((0, 4), np.float16), np.arange(6.0).reshape(2, 3)]
    assert device.put("parts", [gpu.array(value) for value in values], kind="kv", compute_cost_ms=5, ttl=60)
    view = device.get("parts")
    assert [part.shape for part in view.parts] == [(3,), (0, 4), (2, 3)]
    assert all(same(view.numpy(i), value) for i, value in enumerate(values))
    assert same(view.numpy(-1), values[2])
    assert view.part(2).address == view.address + 3 and view.part(2).dtype == "float64"
    assert (view.kind, view.compute_cost_ms) == ("kv", 5) and 0 < view.ttl < 61
    for use in (lambda: view.shape, view.__dlpack__, lambda: view.__cuda_array_interface__):
        with pytest.raises(ValueError, match="3 parts"):
            use()
    with pytest.raises(IndexError):
        view.part(3)


def test_an_object_outlives_the_worker_that_wrote_it(device, worker, gpu):
    writer = worker("put", "key")
    assert writer.said == "stored"
    writer.kill()
    device = infercache.connect(gpu.daemon.endpoint).device("auto" if gpu.state.device_count == 1 else 0)
    assert same(device.get("key").numpy(), VALUE)


def test_keys(device, gpu, gpu_client):
    device.put("a", gpu.array(np.arange(3)))
    assert device.put("a", gpu.array(np.arange(9))).outcome == "exists"
    assert device.exists("a") and not device.exists("b")
    assert device.match(["a", "b"]) == 1
    assert device.touch_many(["a", "b"]) == [True, False]
    assert device.get("b") is None and device.last_failure is None
    assert [view is None for view in device.get_many(["b", "a"])] == [True, False]
    assert gpu_client.get("a") is None, "host memory is another place"
    assert device.delete("a") and not device.delete("a")


def test_between_host_memory_and_the_gpu(device, gpu, gpu_client):
    gpu_client.put("host", np.arange(5, dtype=np.int16))
    target = gpu.array(np.zeros(8, np.int16))
    assert device.get("host") is None
    assert device.get_into("host", target) == 10
    assert (target.numpy()[:5] == np.arange(5)).all()
    assert device.stats()["host_to_device_bytes"] == 10
    device.put("gpu", target)
    buffer = bytearray(16)
    assert device.get_into_host("gpu", buffer) == 16
    assert bytes(buffer) == target.numpy().tobytes()
    assert device.stats()["device_to_host_bytes"] == 16
    assert device.get_into("nothing", target) is None and device.get_into_host("nothing", buffer) is None
    with pytest.raises(ValueError, match="destination of"):
        device.get_into("gpu", gpu.array(np.zeros(3, np.int8)))
    with pytest.raises(ValueError, match="destination of"):
        device.get_into_host("gpu", bytearray(15))


# --- What keeps an object, and until when ---


def put_and_delete(device, gpu, key="key"):
    """A view of what nobody finds any more: its bytes are in limbo for as long as it is pinned."""
    device.put(key, gpu.array(np.arange(1000)))
    view = device.get(key)
    device.delete(key)
    until(lambda: gpu.limbo() > 0, "it is held")
    return view


def test_a_consumer_of_dlpack_keeps_the_bytes_from_being_reused(device, gpu):
    view = put_and_delete(device, gpu)
    address = view.address
    taken = [Consumer(view.__dlpack__()), Consumer(view.__dlpack__(max_version=(1, 0)))]
    unused = view.__dlpack__(stream=1)
    assert [consumer.versioned for consumer in taken] == [False, True] and taken[1].managed.flags == 1
    view.release()
    filler = gpu.array(np.full(MIB, 255, np.uint8))
    for i in range(2 * TIER // MIB):
        assert device.put(f"filler/{i}", filler).outcome == "stored"
    assert (read(gpu.driver, address, 8000).view(np.int64) == np.arange(1000)).all()
    assert gpu.limbo() > 0
    taken[0].let_go(with_gil=False)
    taken[1].let_go(with_gil=True)
    del unused
    until(lambda: gpu.limbo() == 0, "the bytes are free again")


@pytest.mark.parametrize("how", ["interface", "part", "drop"])
def test_what_was_made_from_a_view_keeps_it(device, gpu, how):
    view = put_and_delete(device, gpu)
    keeper = view.part() if how == "part" else view
    if how == "interface":
        assert view.__cuda_array_interface__["data"][0] == view.address
    if how != "drop":
        view.release()
        with pytest.raises(ValueError, match="released"):
            view.address
    del view
    gc.collect()
    assert gpu.limbo() > 0
    del keeper
    until(lambda: gpu.limbo() == 0, "the bytes are free again")


@pytest.mark.parametrize("how", ["drop", "release", "release_after", "with", "record_stream", "consumer"])
def test_a_pin_waits_for_the_streams_that_use_the_object(device, gpu, how):
    stream = gpu.driver.stream()
    view = put_and_delete(device, gpu)
    gpu.state.streams_stuck = 1
    streams = 1
    if how == "release":
        view.release()
        view.release()
    elif how == "release_after":
        view.release_after(stream)
    elif how == "with":
        with view:
            pass
    elif how == "record_stream":
        view.record_stream(stream)
        view.record_stream(stream)
        view.record_stream(0)
        streams = 2
    elif how == "consumer":
        taken = Consumer(view.__dlpack__(stream=stream))
        view.release_after(1)
        assert device.stats()["held_for_streams"] == 0
        taken.let_go(with_gil=False)
        streams = 2
    del view
    assert device.stats()["held_for_streams"] == streams
    assert gpu.limbo() > 0, "the GPU may still read it"
    gpu.state.streams_stuck = 0
    until(lambda: gpu.limbo() == 0, "the bytes are free again")
    assert device.stats()["held_for_streams"] == 0


def test_the_stream_of_a_get_is_waited_for(device, gpu):
    device.put("key", gpu.array(np.arange(4)))
    view = device.get("key", stream=gpu.driver.stream())
    gpu.state.streams_stuck = 1
    view.release_after(0)
    assert device.stats()["held_for_streams"] == 2


def test_a_stream_that_is_none_releases_nothing(device, gpu):
    view = put_and_delete(device, gpu)
    with pytest.raises(ValueError, match="INVALID_HANDLE"):
        view.release_after(4096)
    assert not view.released and (view.numpy() == np.arange(1000)).all()
    for wrong in (-1, "stream", None, True):
        with pytest.raises((TypeError, ValueError), match="stream"):
            view.release_after(wrong)
    view.record_stream(4096)
    del view
    until(lambda: gpu.limbo() == 0, "the default stream is waited for instead")


def test_a_view_that_is_dropped_while_streams_are_captured_goes_later(device, gpu):
    view = put_and_delete(device, gpu)
    gpu.state.streams_capture = 1
    with pytest.raises(infercache.DeviceError, match="FAILED_PRECONDITION.*captured"):
        view.release_after(0)
    assert not view.released
    del view
    assert device.put("other", gpu.array(np.arange(3))).code == "FAILED_PRECONDITION"
    assert gpu.limbo() > 0
    gpu.state.streams_capture = 0
    device.put("other", gpu.array(np.arange(3)))
    device.get("other").release()
    until(lambda: gpu.limbo() == 0, "the next release tries it again")


def test_a_view_outlives_its_device_and_client(device, gpu, gpu_client):
    view = put_and_delete(device, gpu)
    gpu_client.close()
    assert device.closed
    assert (view.numpy() == np.arange(1000)).all()
    view.release()
    until(lambda: gpu.limbo() == 0, "the bytes are free again")


def test_ten_thousand_views_leave_nothing(device, gpu):
    device.put("key", gpu.array(np.arange(10)))

    done = []

    def work():
        for _ in range(1250):
            # Pins that wait for their stream count among the 1,024 that a client may have.
            until(lambda: device.get("key"), "a hit").part().__dlpack__()
        done.append(True)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(done) == 8
    device.delete("key")
    until(lambda: gpu.limbo() == 0, "the bytes are free again")


@pytest.mark.parametrize("stuck", [0, 1])
def test_a_process_ends_with_all_that_it_has(device, gpu, stuck):
    device.put("key", gpu.array(np.arange(1000)))
    program = f"""
import infercache
client = infercache.connect({gpu.daemon.endpoint!r}, fingerprint={device.client.fingerprint!r})
device = client.device(0)
views = [device.get("key") for _ in range(4)]
views[1].__cuda_array_interface__
kept = views[0].part(), views[2].__dlpack__()
views[3].release()
del views[2]
print("ending")
"""
    gpu.state.streams_stuck = stuck
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "ending\n", "")
    gpu.state.streams_stuck = 0
    device.delete("key")
    until(lambda: gpu.limbo() == 0, "the daemon has it back")


def test_a_client_pins_no_more_than_its_budget(device, gpu):
    views = []
    for i in range(TIER // MIB):
        device.put(f"key/{i}", gpu.array(np.zeros(MIB, np.uint8)))
        views.append(device.get(f"key/{i}"))
    assert views[0] is not None and views[-1] is None
    assert device.last_failure.code == "RESOURCE_EXHAUSTED"


# --- Streams of puts ---


def test_a_put_waits_for_its_stream_within_its_deadline(device, gpu):
    stream = gpu.driver.stream()
    array = gpu.array(np.arange(4), stream=stream)
    gpu.state.streams_stuck = 1
    refused = device.put("key", array, deadline=0.1)
    assert (refused.outcome, refused.code) == ("refused", "DEADLINE_EXCEEDED") and not refused
    gpu.state.streams_stuck = 0
    assert device.put("key", array).outcome == "stored"


def test_other_threads_run_while_a_put_and_a_lend_wait_for_their_stream(device, gpu):
    arrays = [gpu.array(np.arange(4)), gpu.array(np.arange(4))]
    gpu.state.streams_stuck = 1
    done = []
    threads = [
        threading.Thread(target=lambda: done.append(device.put("key", arrays[0], deadline=LIMIT_S).outcome)),
        threading.Thread(target=lambda: done.append(device.lend("lent", arrays[1], deadline=LIMIT_S).outcome)),
    ]
    for waiting, thread in enumerate(threads, 1):
        thread.start()
        until(lambda: device.stats()["held_for_streams"] == waiting, "it waits")
    assert not done
    gpu.state.streams_stuck = 0
    for thread in threads:
        thread.join()
    assert sorted(done) == ["lent", "stored"]
    assert device.take_back("lent")


def test_a_stream_goes_by_every_name(device, gpu):
    handle = gpu.driver.stream()

    class Torch:
        cuda_stream = handle

    class Cupy:
        ptr = handle

    class Protocol:
        def __cuda_stream__(self):
            return 0, handle

    array = DlpackArray(gpu.driver, np.arange(4))
    for stream in (handle, Torch(), Cupy(), Protocol()):
        assert device.put("key", array, stream=stream, overwrite=True).outcome == "stored"
    device.put("key", array, overwrite=True)
    assert array.asked == [handle] * 4 + [1], "the exporter hears in which stream it is read"
    with pytest.raises(ValueError, match="different streams"):
        device.put("key", [gpu.array(np.arange(4), stream=handle), gpu.array(np.arange(4))])
    with pytest.raises(ValueError, match="INVALID_HANDLE"):
        device.put("key", array, stream=4096, overwrite=True)


# --- Arguments that can never work ---


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
    array.readonly = True
    with pytest.raises(ValueError, match="read-only"):
        device.get_into("key", array)
    with pytest.raises(TypeError, match="one tensor"):
        device.get_into("key", [array, array])


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


def test_a_killed_daemon_is_a_miss_and_the_next_one_serves(gpus, gpu, tmp_path):
    from conftest import Daemon

    daemon = Daemon(tmp_path, f"--default-devices={gpus.uuid(0)}=4MiB").start()
    with infercache.connect(daemon.endpoint, deadline=2) as client, client.device(0) as device:
        array = gpu.array(np.arange(100))
        assert device.put("key", array)
        view = device.get("key")
        daemon.kill()
        until(lambda: device.get("key") is None, "a miss")
        assert device.last_failure.code in ("UNAVAILABLE", "DEADLINE_EXCEEDED")
        assert (view.numpy() == np.arange(100)).all(), "a view outlives the daemon"
        daemon.start()
        until(lambda: device.put("key", array), "the next daemon takes puts")
        assert (device.get("key").numpy() == np.arange(100)).all()
    daemon.stop()
