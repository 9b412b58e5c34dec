"""infercache.lmcache: the six methods that LMCache calls, and LMCache itself where it is installed."""

import ctypes
import select

import pytest

from conftest import until
from infercache.lmcache import Connector


class Driver:
    """As LMCache uses a connector: submits, waits for the descriptor, drains."""

    def __init__(self, connector):
        self.connector = connector
        self.epoll = select.epoll()
        self.epoll.register(connector.event_fd(), select.EPOLLIN)
        self.completions = {}

    def wait(self, job, limit_s=30):
        while job not in self.completions:
            assert self.epoll.poll(limit_s), f"no event for job {job}"
            for done, *outcome in self.connector.drain_completions():
                assert done not in self.completions, "each id completes once"
                self.completions[done] = tuple(outcome)
        return self.completions[job]


@pytest.fixture(params=["local", "remote"])
def connector(request, daemon):
    endpoint = daemon.endpoint if request.param == "local" else daemon.grpc
    connector = Connector(endpoint, fingerprint={"test": request.node.nodeid})
    yield connector
    connector.close()


def chunk(number, size):
    """The buffer that LMCache hands over: a memoryview of a ctypes array, whose format is '<B'."""
    return memoryview((ctypes.c_ubyte * size).from_buffer(bytearray(bytes([number % 251]) * size)))


def room(size):
    return memoryview((ctypes.c_ubyte * size)())


def test_what_was_set_is_there(connector):
    driver = Driver(connector)
    keys = [f"meta-llama/Llama-3@00000000@0@{i:064x}" for i in range(4)]
    assert driver.wait(connector.submit_batch_exists(keys)) == (True, "", [False] * 4)
    assert driver.wait(connector.submit_batch_set(keys[:2], [chunk(1, 5000), chunk(2, 5000)])) == (
        True,
        "",
        None,
    )
    assert driver.wait(connector.submit_batch_exists(keys)) == (True, "", [True, True, False, False])
    rooms = [room(5000) for _ in keys]
    assert driver.wait(connector.submit_batch_get(keys, rooms)) == (True, "", [True, True, False, False])
    assert rooms[:2] == [chunk(1, 5000), chunk(2, 5000)] and bytes(rooms[2]) == bytes(5000)
    assert driver.wait(connector.submit_batch_set(keys[:1], [chunk(9, 5000)])) == (True, "", None)
    assert driver.wait(connector.submit_batch_get(keys[:1], rooms[3:])) == (True, "", [True])
    assert rooms[3] == chunk(1, 5000), "a chunk that is there stays"
    assert driver.wait(connector.submit_batch_delete(keys)) == (True, "", [True, True, False, False])
    assert driver.wait(connector.submit_batch_exists(keys)) == (True, "", [False] * 4)


@pytest.mark.parametrize("lane", ["local", "remote"])
def test_a_thousand_chunks_by_epoll_alone(own_daemon, lane):
    """All sets in flight at once, then all gets: 94 MiB, for which an empty namespace of 128 MiB has room."""
    connector = Connector(own_daemon.endpoint if lane == "local" else own_daemon.grpc)
    size, count, batch = 96 * 1024, 1000, 25
    driver = Driver(connector)
    keys = [f"model@00000000@0@{i:064x}" for i in range(count)]
    batches = [slice(i, i + batch) for i in range(0, count, batch)]
    chunks = [chunk(i, size) for i in range(count)]
    for job in [connector.submit_batch_set(keys[b], chunks[b]) for b in batches]:
        assert driver.wait(job) == (True, "", None)
    rooms = [room(size) for _ in range(count)]
    for job in [connector.submit_batch_get(keys[b], rooms[b]) for b in batches]:
        assert driver.wait(job) == (True, "", [True] * batch)
    # As bytes: buffers of format '<B' are compared element by element.
    assert all(bytes(got) == bytes(put) for got, put in zip(rooms, chunks, strict=True))
    assert driver.wait(connector.submit_batch_delete(keys))[2] == [True] * count
    connector.close()


def test_a_chunk_of_another_size_is_a_miss(connector):
    driver = Driver(connector)
    driver.wait(connector.submit_batch_set(["k"], [chunk(1, 100)]))
    assert driver.wait(connector.submit_batch_get(["k"], [room(101)]))[2] == [False]
    driver.wait(connector.submit_batch_set(["other"], [chunk(2, 100)]))
    rooms = [room(100), room(99), room(100)]
    assert driver.wait(connector.submit_batch_get(["other", "k", "gone"], rooms)) == (
        True,
        "",
        [True, False, False],
    )
    assert rooms[0] == chunk(2, 100) and bytes(rooms[1]) == bytes(99), (
        "a smaller one does not fail the others"
    )


def test_every_failure_of_the_daemon_is_a_miss(own_daemon):
    connector = Connector(own_daemon.endpoint, deadline=1)
    driver = Driver(connector)
    assert driver.wait(connector.submit_batch_set(["k"], [chunk(1, 100)]))[0]
    own_daemon.kill()
    ok, error, _ = driver.wait(connector.submit_batch_set(["other"], [chunk(1, 100)]))
    assert not ok and error
    assert driver.wait(connector.submit_batch_exists(["k"]))[2] == [False]
    assert driver.wait(connector.submit_batch_get(["k"], [room(100)]))[2] == [False]
    own_daemon.start()
    store = lambda: driver.wait(connector.submit_batch_set(["k"], [chunk(1, 100)]))[0]  # noqa: E731
    until(store, "the next daemon is found")
    assert driver.wait(connector.submit_batch_get(["k"], [room(100)]))[2] == [True]
    connector.close()
    connector.close()


def test_lmcache_itself_stores_and_loads(daemon, request):
    """Its own adapter, made from the JSON that its server takes."""
    pytest.importorskip("lmcache")
    torch = pytest.importorskip("torch")
    from lmcache.v1.distributed.api import ObjectKey
    from lmcache.v1.distributed.l2_adapters.config import get_registered_l2_adapter_types
    from lmcache.v1.distributed.l2_adapters.factory import create_l2_adapter_from_registry
    from lmcache.v1.distributed.l2_adapters.native_plugin_l2_adapter import NativePluginL2AdapterConfig
    from lmcache.v1.memory_management import MemoryFormat, MemoryObjMetadata, TensorMemoryObj

    assert "native_plugin" in get_registered_l2_adapter_types()
    config = NativePluginL2AdapterConfig.from_dict(
        {
            "type": "native_plugin", "module_path": "infercache.lmcache", "class_name": "Connector",
            "adapter_params": {"endpoint": daemon.endpoint, "fingerprint": {"test": request.node.nodeid}},
        }
    )  # fmt: skip
    adapter = create_l2_adapter_from_registry(config)

    def memory_object(value):
        data = torch.full((2, 4096), value, dtype=torch.uint8).view(-1)
        metadata = MemoryObjMetadata(
            shape=torch.Size([2, 4096]), dtype=torch.uint8, address=0, phy_size=8192, ref_count=1,
            fmt=MemoryFormat.KV_2LTD,
        )  # fmt: skip
        return TensorMemoryObj(data, metadata, None)

    def wait(fd, result):
        assert select.select([fd], [], [], 30)[0]
        return result()

    try:
        keys = [ObjectKey(chunk_hash=bytes([i] * 32), model_name="m", kv_rank=0) for i in range(3)]
        objects = [memory_object(7), memory_object(9)]  # the adapter takes their addresses
        stored = adapter.submit_store_task(keys[:2], objects)
        results = wait(adapter.get_store_event_fd(), adapter.pop_completed_store_tasks)
        assert results[stored].is_successful()
        looked = adapter.submit_lookup_and_lock_task(keys, {})
        found = wait(
            adapter.get_lookup_and_lock_event_fd(), lambda: adapter.query_lookup_and_lock_result(looked)
        )
        assert [found.test(i) for i in range(3)] == [True, True, False]
        rooms = [memory_object(0) for _ in keys]
        loading = adapter.submit_load_task(keys, rooms)
        loaded = wait(adapter.get_load_event_fd(), lambda: adapter.query_load_result(loading))
        assert [loaded.test(i) for i in range(3)] == [True, True, False]
        assert [set(bytes(r.byte_array)) for r in rooms] == [{7}, {9}, {0}]
        adapter.submit_unlock(keys[:2])
        adapter.delete(keys)
        assert adapter.report_status()["is_healthy"]
    finally:
        adapter.close()
