"""What keeps an object in a GPU's memory, and until when. On a fake driver."""

import gc
import subprocess
import sys
import threading
import weakref
from pathlib import Path

import numpy as np
import pytest

import infercache
from conftest import until
from infercache import _arrays
from gpu_memory import Consumer, read
from gpus import MIB, TIER


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
        stored = device.put(f"filler/{i}", filler)
        assert stored.outcome == "stored", stored
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
    gpu.state.streams_stuck = 1  # so that it is seen whether anything was let go of
    if how != "drop":
        view.release()
        with pytest.raises(ValueError, match="released"):
            view.address
    del view
    gc.collect()
    assert device.stats()["held_for_streams"] == 0 and gpu.limbo() > 0
    del keeper
    gc.collect()
    assert device.stats()["held_for_streams"] == 1
    gpu.state.streams_stuck = 0
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
    for remembered in (view.record_stream, view.release_after, lambda s: device.get("key", stream=s)):
        with pytest.raises(ValueError, match="per-thread"):
            remembered(2)
    for wrong in (-1, "stream", None, True):
        with pytest.raises((TypeError, ValueError), match="stream"):
            view.release_after(wrong)
    view.release()
    until(lambda: gpu.limbo() == 0, "the bytes are free again")


def test_a_stream_that_is_no_more_keeps_the_object_until_the_process_ends(device, gpu):
    device.put("key", gpu.array(np.arange(1000)))
    program = f"""
import sys, infercache
from gpu_memory import Driver
client = infercache.connect({gpu.daemon.endpoint!r}, fingerprint={device.client.fingerprint!r})
device, driver = client.device(0), Driver()
view, stream = device.get("key"), driver.stream()
view.record_stream(stream)
driver.destroy(stream)
del view
print("dropped", flush=True)
sys.stdin.read()
"""
    with subprocess.Popen(
        [sys.executable, "-c", program], cwd=Path(__file__).parent, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        text=True,
    ) as process:  # fmt: skip
        assert process.stdout.readline() == "dropped\n"
        device.delete("key")
        # Nobody can say what that stream still does. What another view had goes meanwhile.
        device.put("other", gpu.array(np.arange(1000)))
        view = device.get("other")
        device.delete("other")
        both = gpu.limbo()
        view.release()
        until(lambda: gpu.limbo() < both, "the other's bytes are free again")
        assert gpu.limbo() > 0
        process.stdin.close()
        assert process.wait(60) == 0
    until(lambda: gpu.limbo() == 0, "the daemon has it back")


class Stream:
    """As CuPy's: gone when nobody has it."""

    def __init__(self, driver):
        self.ptr = driver.stream()


@pytest.mark.parametrize("how", ["get", "record_stream", "part", "release_after"])
def test_a_stream_is_kept_until_the_view_is_gone(device, gpu, how):
    view = put_and_delete(device, gpu)
    stream = Stream(gpu.driver)
    gone = weakref.ref(stream)
    tensor = view.part()
    if how == "get":
        device.put("other", gpu.array(np.arange(3)))
        view = device.get("other", stream=stream)
        tensor = view.part()
    elif how == "part":
        tensor.record_stream(stream)
    else:
        getattr(view, how)(stream)
    del stream, view
    gc.collect()
    assert gone() is not None, "the tensor has a share of the pin"
    del tensor
    gc.collect()
    assert gone() is None


def test_what_a_graph_is_to_read_is_refused(device, gpu):
    device.put("key", gpu.array(np.arange(3)))
    view = device.get("key")
    gpu.state.streams_capture = 1
    for read_in in (view.record_stream, view.part().record_stream, lambda s: view.__dlpack__(stream=s)):
        with pytest.raises(infercache.DeviceError, match="FAILED_PRECONDITION.*captured"):
            read_in(1)
    view.__dlpack__(stream=-1)
    # Also by who lets go of a view whose tensors live on, and by who gets one.
    part = view.part()
    for call in (lambda: view.release_after(1), lambda: device.get("key", stream=1)):
        with pytest.raises(infercache.DeviceError, match="FAILED_PRECONDITION.*captured"):
            call()
    assert not view.released
    gpu.state.streams_capture = 0
    view.record_stream(1)
    device.get("key", stream=1).release()
    view.release_after(1)


def test_a_stream_that_is_none_is_refused_before_anything_changes(device, gpu):
    device.put("key", gpu.array(np.arange(3)))
    view = device.get("key")
    part = view.part()
    for call in (view.record_stream, view.release_after, lambda stream: device.get("key", stream=stream)):
        with pytest.raises(ValueError, match="CUDA_ERROR_INVALID_HANDLE"):
            call(4096)
    assert not view.released
    view.release()
    del part
    until(lambda: device.stats()["held_for_streams"] == 0, "its streams were waited for")


class LetsGo:
    """A stream whose user lets go of the memory while it is asked for its handle, as another thread may."""

    def __init__(self, let_go):
        self.let_go = let_go

    @property
    def cuda_stream(self):
        self.let_go()
        return 0


def test_memory_that_is_let_go_of_while_a_stream_is_named(device, gpu):
    device.put("key", gpu.array(np.arange(3)))
    view = device.get("key")
    view.record_stream(LetsGo(view.release))
    assert view.released
    room = device.reserve("room", 4, "int64")
    room.record_stream(LetsGo(room.abandon))
    assert not room.open


def test_parts_that_are_asked_for_while_the_view_is_released(device, gpu, gpu_client, monkeypatch):
    device.put("key", [gpu.array(np.arange(3, dtype=np.int8)) for _ in range(8)])
    gpu_client.put("key", [np.arange(3, dtype=np.int8) for _ in range(8)])
    part = _arrays.Part
    for view in (device.get("key"), gpu_client.get("key")):

        def made(*facts, view=view):
            view.release()
            return part(*facts)

        monkeypatch.setattr(_arrays, "Part", made)
        assert view.parts == [("int8", (3,), 3)] * 8
        assert view.released


def test_a_copy_to_host_memory_ends_by_its_deadline(device, gpu):
    device.put("key", gpu.array(np.arange(3)))
    view = device.get("key")
    gpu.state.streams_stuck = 1
    with pytest.raises(infercache.DeviceError, match="DEADLINE_EXCEEDED"):
        view.numpy(deadline=0.05)
    buffer = bytearray(24)
    assert device.get_into_host("key", buffer, deadline=0.05) is None
    assert device.last_failure.code == "DEADLINE_EXCEEDED" and buffer == bytearray(24)


def test_a_view_that_is_dropped_while_streams_are_captured_goes_later(device, gpu):
    view = put_and_delete(device, gpu)
    gpu.state.streams_capture = 1
    with pytest.raises(infercache.DeviceError, match="FAILED_PRECONDITION.*captured"):
        view.release_after(0)
    assert not view.released
    del view
    assert device.put("other", gpu.array(np.arange(3))).code == "FAILED_PRECONDITION"
    gpu.state.streams_capture = 0
    gpu.state.streams_stuck = 1  # so that it is seen that it was still there
    assert device.get("nothing") is None, "which tries it again"
    assert device.stats()["held_for_streams"] == 1 and gpu.limbo() > 0
    gpu.state.streams_stuck = 0
    until(lambda: gpu.limbo() == 0, "the bytes are free again")


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
            # Pins that wait for their stream count in the budget.
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
