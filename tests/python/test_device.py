"""Objects in a GPU's memory: what is put and found. On a fake driver."""

import threading

import ml_dtypes
import numpy as np
import pytest

import infercache
from conftest import LIMIT_S, Daemon, until
from device_worker import VALUE
from gpu_memory import Consumer, DlpackArray, read

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
        assert view.address % 256 == 0
        assert read(gpu.driver, view.address, view.nbytes).tobytes() == array.tobytes()
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
    for use in (view.part(2).__dlpack__, lambda: view.part(2).__cuda_array_interface__):
        with pytest.raises(BufferError, match="not aligned"):
            use()
    with pytest.raises(IndexError):
        view.part(3)


def test_an_object_outlives_the_worker_that_wrote_it(device, worker, gpu):
    writer = worker("put", "key")
    assert writer.said == "stored"
    writer.kill()
    device = infercache.connect(gpu.daemon.endpoint).device("auto" if gpu.state.device_count == 1 else 0)
    assert same(device.get("key").numpy(), VALUE)


def test_a_batch_of_puts(device, gpu):
    device.put("there", gpu.array(np.arange(3)))
    arrays = [np.arange(i + 1) for i in range(20)]
    puts = [infercache.Put(f"chain/{i}", gpu.array(array), kind="kv", parent=f"chain/{i - 1}" if i else None)
            for i, array in enumerate(arrays)]  # fmt: skip
    puts[1:1] = [
        infercache.Put("there", gpu.array(np.arange(9))),
        infercache.Put("large", gpu.array(np.zeros(1 << 23))),
        infercache.Put("parts", [gpu.array(np.arange(2)), gpu.array(np.float32(7))]),
    ]
    results = device.put_many(put for put in puts)
    assert [result.outcome for result in results] == ["stored", "exists", "refused", "stored"] + ["stored"] * 19
    assert results[2].code == "RESOURCE_EXHAUSTED"
    keys = [f"chain/{i}" for i in range(20)]
    views = device.get_many(keys)
    assert all(same(view.numpy(), array) for view, array in zip(views, arrays, strict=True))
    assert same(device.get("there").numpy(), np.arange(3))
    assert same(device.get("parts").numpy(1), np.float32(7))
    assert device.put_many([]) == []
    assert device.delete_many([*keys, "there", "parts", "large"]) == [True] * 22 + [False]
    with pytest.raises(ValueError, match="at least one byte"):
        device.put_many([infercache.Put("good", gpu.array(np.arange(3))), infercache.Put("empty", gpu.array(np.zeros(0)))])
    assert not device.exists("good"), "nothing is stored of a batch that can never work"


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
    done, begun = [], threading.Semaphore(0)

    def run(call):
        begun.release()
        done.append(bool(call()))

    calls = (
        lambda: device.put("key", arrays[0], deadline=LIMIT_S),
        lambda: device.lend("lent", arrays[1], deadline=LIMIT_S),
    )
    threads = [threading.Thread(target=run, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
        assert begun.acquire(timeout=LIMIT_S)
    # With the GIL held they would be over, by their deadlines, when this thread has it.
    for _ in range(100):
        assert not device.exists("lent") and not done
    assert not done
    gpu.state.streams_stuck = 0
    for thread in threads:
        thread.join()
    assert done == [True, True]
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
    with pytest.raises(ValueError, match="different streams"):
        device.put_many([infercache.Put("a", gpu.array(np.arange(4), stream=handle)),
                         infercache.Put("b", gpu.array(np.arange(4)))])  # fmt: skip
    with pytest.raises(ValueError, match="INVALID_HANDLE"):
        device.put("key", array, stream=4096, overwrite=True)


def test_a_killed_daemon_is_a_miss_and_the_next_one_serves(gpus, gpu, tmp_path):
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
