"""What a View shares, keeps and gives back."""

import gc
import threading

import numpy as np
import pytest

import infercache
from conftest import until


def mapping_of(address):
    """The line of /proc/self/maps that an address lies in."""
    with open("/proc/self/maps") as maps:
        for line in maps:
            low, high = (int(end, 16) for end in line.split()[0].split("-"))
            if low <= address < high:
                return line
    raise AssertionError(f"{address:#x} is not mapped")


def address_of(array):
    return array.__array_interface__["data"][0]


def test_arrays_are_the_daemons_memory(local):
    local.put("key", np.arange(1 << 20, dtype=np.float32))
    view, again = local.get("key"), local.get("key")
    array = view.numpy()
    assert "memfd:" in mapping_of(address_of(array))
    assert address_of(array) == address_of(again.numpy()) == address_of(np.frombuffer(view, np.uint8))
    assert view.zero_copy
    private = view.numpy(copy=True)
    assert "memfd:" not in mapping_of(address_of(private))


def test_a_view_is_read_only_and_a_copy_is_not(client):
    client.put("key", np.arange(4, dtype=np.float32))
    view = client.get("key")
    array = view.numpy()
    with pytest.raises(ValueError, match="read-only"):
        array[0] = 1
    with pytest.raises(ValueError):
        array.flags.writeable = True
    with pytest.raises(TypeError, match="read-only"):
        memoryview(view)[0] = 1
    private = view.numpy(copy=True)
    private[0] = 7
    assert private[0] == 7 and client.get("key").numpy()[0] == 0


def test_a_released_view_says_so(local):
    local.put("key", b"value")
    view = local.get("key")
    with view as same:
        assert same is view
    assert view.released and "released" in repr(view)
    view.release()
    for use in (view.tobytes, view.numpy, lambda: bytes(view), lambda: len(view), lambda: view.parts):
        with pytest.raises(ValueError, match="released"):
            use()


@pytest.mark.parametrize("make", [
    lambda view: view.numpy(),
    lambda view: np.frombuffer(view, np.int64),
    lambda view: np.ndarray((1000,), np.int64, view),  # keeps the exporter and no buffer
    memoryview,
])  # fmt: skip
def test_what_was_made_from_a_view_outlives_it(own_daemon, make):
    with infercache.connect(own_daemon.endpoint) as client:
        client.put("key", np.arange(1000))
        with client.get("key") as view:
            array = make(view)
        del view
        # Freed, its block would be the first to be reused.
        client.delete("key")
        for i in range(100):
            client.put(f"other{i}", np.full(1000, -1))
        assert (np.frombuffer(array, np.int64) == np.arange(1000)).all()
        assert own_daemon.metric("infercache_pins") == 1
        del array
        until(lambda: own_daemon.metric("infercache_pins") == 0, "the pin is given back")


def test_ten_thousand_views_leak_nothing(own_daemon):
    with infercache.connect(own_daemon.endpoint) as client:
        client.put("key", np.arange(128))
        client.put("large", np.zeros(1 << 20, np.uint8))
        views = []
        for _ in range(10_000):
            view = client.get("key")
            views.append((view, view.numpy(), memoryview(view)))
        assert own_daemon.metric("infercache_pins") > 0
        del view, views
        gc.collect()
        until(lambda: own_daemon.metric("infercache_pins") == 0, "all pins are given back")

        def resident_kib():
            with open("/proc/self/status") as status:
                return next(int(line.split()[1]) for line in status if line.startswith("RssAnon"))

        def churn():
            for _ in range(10_000):
                with client.get("large") as view:
                    assert view.numpy()[0] == 0

        churn()
        before = resident_kib()
        churn()
        assert resident_kib() - before < 2_000  # 10,000 leaks of 200 bytes
        assert own_daemon.metric("infercache_pins") == 0


def test_beyond_the_pin_budget_there_are_copies(own_daemon):
    with infercache.connect(own_daemon.endpoint) as client:
        for i in range(12):
            client.put(f"k{i}", np.full(4 << 20, i, np.uint8))
        views = client.get_many([f"k{i}" for i in range(12)])
        assert {view.zero_copy for view in views} == {True, False}
        assert all((view.numpy() == i).all() for i, view in enumerate(views))


def test_the_last_view_may_die_in_any_thread_after_its_client(own_daemon):
    client = infercache.connect(own_daemon.endpoint)
    client.put("key", b"x" * 5000)
    views = [client.get("key") for _ in range(8)]
    client.close()
    threads = [threading.Thread(target=lambda: bytes(views.pop())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not views
    until(lambda: own_daemon.metric("infercache_pins") == 0, "the pins are given back")


def test_parts_are_numbered(local):
    local.put("key", [np.float32(1.5), b"plain", np.zeros((2, 3), np.int16)])
    view = local.get("key")
    assert view.parts == [("float32", (), 4), ("bytes", (), 5), ("int16", (2, 3), 12)]
    assert view.numpy(0) == 1.5 and view.numpy(1).tobytes() == b"plain" and view.numpy(-1).shape == (2, 3)
    for part in (3, -4):
        with pytest.raises(IndexError, match="3 parts"):
            view.numpy(part)
    with pytest.raises(ValueError, match="3 parts"):
        view.shape  # noqa: B018
