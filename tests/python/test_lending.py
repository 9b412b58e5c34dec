"""Tensors of workers' own GPU memory that others read where they are. On a fake driver."""

import gc
import weakref

import numpy as np
import pytest

import infercache
from conftest import until
from device_worker import VALUE


@pytest.fixture
def gpu_client(gpu_daemon, connect):
    """Under the fingerprint of device_worker.py."""
    return connect(gpu_daemon.endpoint, fingerprint=None)


def test_a_lent_tensor_is_read_where_it_is_and_comes_back(device, gpu, worker):
    array = gpu.array(VALUE)
    assert device.lend("lent", array).lent
    assert device.get("lent") is None, "what is lent is borrowed"
    reader = worker("borrow", "lent")
    assert reader.said == VALUE.sum()
    assert device.stats()["lent"] == 1
    assert not device.take_back("lent", deadline=0.05)
    assert device.last_failure.code == "DEADLINE_EXCEEDED"
    assert device.borrow("lent") is None, "nobody finds it any more"
    reader.end()
    assert device.take_back("lent")
    assert not device.take_back("lent") and device.last_failure.code == "NOT_FOUND"


def test_what_is_borrowed_is_the_tensor_itself_and_outlives_its_owner(device, gpu, worker):
    owner = worker("lend", "of a worker")
    assert owner.said == "lent"
    view = device.borrow("of a worker")
    assert (view.numpy() == VALUE).all() and view.shape == VALUE.shape
    assert device.stats()["allocations_opened"] == 1
    owner.kill()
    until(lambda: device.borrow("of a worker") is None, "its keys go with it")
    assert (view.numpy() == VALUE).all()
    assert device.put("kept", view).outcome == "stored", "copied within the GPU"
    view.release()
    assert (device.get("kept").numpy() == VALUE).all()


def test_a_lent_tensor_lives_until_it_is_back(device, gpu):
    array = gpu.array(np.arange(10))
    alive = weakref.ref(array)
    assert device.lend("mine", array)
    assert device.lend("mine", gpu.array(np.arange(10))).code == "ALREADY_EXISTS"
    del array
    gc.collect()
    assert alive() is not None
    view = device.borrow("mine")
    assert view.address == alive().address, "this worker's own is not mapped again"
    gpu.state.streams_stuck = 1
    view.release()
    assert not device.take_back("mine", deadline=0.05), "its reader's stream is not done"
    gc.collect()
    assert alive() is not None
    gpu.state.streams_stuck = 0
    assert device.take_back("mine")
    gc.collect()
    assert alive() is None


def test_what_is_not_taken_back_is_kept_for_good(device, gpu, worker):
    array = gpu.array(VALUE)
    alive = weakref.ref(array)
    assert device.lend("left", array)
    reader = worker("borrow", "left")
    assert reader.said == VALUE.sum()
    del array
    device.close()
    gc.collect()
    assert alive() is not None, "its memory would become another tensor's, under its reader's eyes"
    reader.end()


def test_what_is_not_lent_is_not_kept(device, gpu, connect):
    array = gpu.array(np.arange(10))
    alive = weakref.ref(array)
    with pytest.raises(ValueError, match="key"):
        device.lend("", array)
    # Those that are no keys were found out after the tensor was kept, and the good ones of their batch, too.
    for key in (bytearray(b"key"), [1], "\ud800"):
        with pytest.raises((TypeError, UnicodeEncodeError)):
            device.lend_many([infercache.Lend("good", array), infercache.Lend(key, array)])
    assert device.borrow("good") is None
    gpu.state.refuse_exports = 1
    assert not device.lend("private", array)
    # Nor what no daemon heard of, as happened to every lend while there was none.
    elsewhere = connect("unix:/nowhere/s").device(device.uuid)
    refused = elsewhere.lend("key", array)
    assert refused.code == "UNAVAILABLE" and not refused.may_be_lent
    del array
    gc.collect()
    assert alive() is None


def test_memory_that_cannot_be_shared(device, gpu, gpu_client):
    gpu.state.refuse_exports = 1
    array = gpu.array(np.arange(10))
    refused = device.lend("private", array)
    assert not refused and (refused.code, device.last_failure.code) == ("UNIMPLEMENTED",) * 2 and refused.reason
    copied = device.lend("private", array, host_copy="fallback")
    assert copied and (copied.lent, copied.copied_to_host, copied.code) == (False, True, "OK")
    assert device.stats()["lent_as_host_copies"] == 1
    assert (gpu_client.get("private").numpy() == np.arange(10)).all()
    assert device.borrow("private") is None


def test_a_copy_beside_what_is_lent(device, gpu, gpu_client):
    array = gpu.array(np.arange(10))
    assert device.lend("only lent", array, host_copy="fallback") == (True, True, False, "OK", "")
    assert gpu_client.get("only lent") is None
    assert device.lend("both", array, host_copy="always") == (True, True, True, "OK", "")
    assert (gpu_client.get("both").numpy() == np.arange(10)).all()
    assert (device.borrow("both").numpy() == np.arange(10)).all()
    stats = device.stats()
    assert (stats["lent"], stats["lent_as_host_copies"]) == (2, 0)
    assert (stats["lend_host_copies"], stats["lend_host_copies_bytes"]) == (1, 80)
    with pytest.raises(ValueError, match="host_copy is one of never, fallback, always; not 'sometimes'"):
        device.lend("neither", array, host_copy="sometimes")
    assert device.take_back("both", deadline=30) and device.take_back("only lent", deadline=30)
    assert gpu_client.get("both") is not None, "an object of its own"


def test_a_lend_whose_copy_finds_no_room(device, gpu, gpu_client):
    big = gpu.array(np.zeros(129 << 20, np.uint8))  # the namespace has 128 MiB
    result = device.lend("big", big, host_copy="always")
    assert result and (result.lent, result.copied_to_host) == (True, False) and result.code != "OK" and result.reason
    assert device.last_failure.code == result.code
    assert device.take_back("big", deadline=30)


def test_many_are_lent_at_once_each_for_itself(device, gpu):
    arrays = [gpu.array(np.full(10, i)) for i in range(3)]
    device.lend("b", arrays[1])
    results = device.lend_many([infercache.Lend(key, array) for key, array in zip("abc", arrays)])
    assert [r.lent for r in results] == [True, False, True]
    assert results[1].code == "ALREADY_EXISTS"
    assert all((device.borrow(key).numpy() == i).all() for i, key in enumerate("abc"))
    gone = weakref.ref(arrays[2])
    del arrays
    gc.collect()
    assert gone() is not None
    assert all(device.take_back(key, deadline=30) for key in "abc")
    gc.collect()
    assert gone() is None
    with pytest.raises(ValueError, match="key"):
        device.lend_many([infercache.Lend("d", gpu.array(np.arange(3))), infercache.Lend("", gpu.array(np.arange(3)))])
    assert device.borrow("d") is not None, "the other one is lent all the same, and kept"
    assert device.take_back("d", deadline=30)


def test_one_tensor_is_lent_under_a_key(device, gpu):
    with pytest.raises(ValueError, match="one tensor"):
        device.lend("two", [gpu.array(np.arange(3)), gpu.array(np.arange(3))])
