"""infercache.sglang: HiCache's storage, called as its controller calls it.

Against SGLang's own base class and factory where SGLang is installed, else against the names in engines/.
"""

import hashlib
from types import SimpleNamespace

import numpy as np
import pytest

from conftest import Daemon, until, use_engine

REAL = use_engine("sglang")

from sglang.srt.mem_cache.hicache_storage import (  # noqa: E402
    HiCacheStorage,
    HiCacheStorageConfig,
    HiCacheStorageExtraInfo,
    PoolName,
)

from infercache.sglang import InfercacheStorage  # noqa: E402

PAGE, LAYERS, WIDTH, PAGES = 4, 3, 32, 8


class Pool:
    """A host pool, as far as a storage looks at it: keys and values of float32, in one of two layouts."""

    page_size = PAGE
    dtype = "torch.float32"

    def __init__(self, layout="page_first"):
        self.layout = layout
        tokens = PAGES * PAGE
        shape = (2, tokens, LAYERS, WIDTH) if layout == "page_first" else (2, LAYERS, tokens, WIDTH)
        self.buffer = np.zeros(shape, np.float32)

    def page(self, number):
        tokens = slice(number * PAGE, (number + 1) * PAGE)
        return self.buffer[:, tokens] if self.layout == "page_first" else self.buffer[:, :, tokens]

    def get_page_buffer_meta(self, indices):
        pieces = []
        for first in indices[::PAGE]:
            page = self.page(int(first) // PAGE)
            if self.layout == "page_first":
                pieces += [page[0], page[1]]
            else:
                pieces += [page[which, layer] for layer in range(LAYERS) for which in (0, 1)]
        return [piece.ctypes.data for piece in pieces], [piece.nbytes for piece in pieces]


def indices(*pages):
    return np.concatenate([np.arange(page * PAGE, (page + 1) * PAGE) for page in pages])


@pytest.fixture
def storage(daemon, request):
    made = []

    def make(
        pool=None, endpoint=daemon.endpoint, test=request.node.nodeid, deadline=5.0, told=None, **fields
    ):
        defaults = {
            "tp_rank": 0, "tp_size": 1, "pp_rank": 0, "pp_size": 1, "attn_cp_rank": 0, "attn_cp_size": 1,
            "is_mla_model": False, "enable_storage_metrics": False, "is_page_first_layout": True,
            "model_name": "meta-llama/Llama-3-8B",
        }  # fmt: skip
        extra = {
            "backend_name": "infercache", "module_path": "infercache.sglang", "class_name": "InfercacheStorage",
            "interface_v1": 1, "endpoint": endpoint, "fingerprint": {"test": test} | (told or {}), "deadline": deadline,
        }  # fmt: skip
        config = HiCacheStorageConfig(**(defaults | fields), extra_config=extra)
        if REAL:
            from sglang.srt.mem_cache.storage import StorageBackendFactory

            backend = StorageBackendFactory.create_backend("dynamic", config, None)
        else:
            backend = InfercacheStorage(config, {})
        assert isinstance(backend, HiCacheStorage)
        made.append(backend)
        assert not backend.exists("before there is a pool")
        backend.register_mem_pool_host(pool or Pool())
        return backend

    yield make
    for backend in made:
        backend.close()


@pytest.mark.parametrize("layout", ["page_first", "layer_first"])
@pytest.mark.parametrize("lane", ["local", "remote"])
def test_pages_are_copied_between_pools(storage, daemon, layout, lane):
    endpoint = daemon.endpoint if lane == "local" else daemon.grpc
    one, two = Pool(layout), Pool(layout)
    one.buffer[...] = np.random.default_rng(1).random(one.buffer.shape)
    writer, reader = storage(one, endpoint), storage(two, endpoint)
    keys = [f"{i:064x}" for i in range(4)]
    assert writer.batch_exists(keys) == 0
    assert writer.batch_set_v1(keys[:3], indices(5, 1, 2)) == [True] * 3
    assert reader.batch_exists(keys) == 3 and reader.exists(keys[2]) and not reader.exists(keys[3])
    assert reader.batch_get_v1(keys, indices(0, 1, 2, 3)) == [True, True, True, False]
    for page, source in [(0, 5), (1, 1), (2, 2)]:
        assert (two.page(page) == one.page(source)).all()
    assert not two.page(3).any()
    assert writer.batch_set_v1(keys[:1], indices(7)) == [True], "a page that is there stays"
    assert reader.batch_get_v1(keys[:1], indices(7)) == [True] and (two.page(7) == one.page(5)).all()


def test_a_page_names_the_one_before_it(storage):
    backend = storage()
    keys = [f"{i:064x}" for i in range(4)]
    parents = [info[-1] for info in backend._infos(keys[2:], HiCacheStorageExtraInfo(prefix_keys=keys[:2]))]
    assert parents == [keys[1], keys[2]]
    assert [info[-1] for info in backend._infos(keys[:2], None)] == [None, keys[0]]


def test_a_prompt_in_several_batches_without_prefix_keys_is_told_of_once(storage, caplog):
    """SGLang's default: neither the next batch nor the next node of its tree says what is before it."""
    backend = storage()
    keys = [f"{i:064x}" for i in range(4)]
    told = HiCacheStorageExtraInfo(prefix_keys=[])  # a prompt's beginning, with the option
    assert backend.batch_set_v1(keys[:1], indices(0), told) == [True] and not caplog.records
    for key in keys[1:]:
        assert backend.batch_set_v1([key], indices(1), HiCacheStorageExtraInfo()) == [True]
    assert [record.name for record in caplog.records] == ["infercache"]
    assert "hicache_storage_pass_prefix_keys" in caplog.text


def test_pools_beside_keys_and_values_are_refused(storage):
    """SGLang would take the storage for usable, and each call for them would fail."""
    backend, pool = storage(), Pool()
    backend.register_mem_host_pool_v2(pool, PoolName.KV)
    assert backend.registered_pools == {PoolName.KV: pool}
    for name in (PoolName.MAMBA, PoolName.DRAFT, "swa"):
        with pytest.raises(NotImplementedError, match=f"pool '{str(getattr(name, 'value', name))}'"):
            backend.register_mem_host_pool_v2(pool, name)


def test_what_is_evicted_is_the_end_of_a_prompt(tmp_path, storage):
    """Of a prompt in several batches, when another takes its room."""
    daemon = Daemon(tmp_path, "--capacity", "4MiB", "--default-quota", "256KiB").start()
    try:
        backend = storage(endpoint=daemon.endpoint)
        size = sum(len(piece) for piece in backend._pages(1, indices(0))[0])
        count = 100 * 1024 // size
        prompts = [[hashlib.sha256(f"{n} {i}".encode()).hexdigest() for i in range(count)] for n in range(3)]
        for keys in prompts:
            for start in range(0, count, PAGES):
                batch = keys[start : start + PAGES]
                extra = HiCacheStorageExtraInfo(prefix_keys=keys[:start])
                assert all(backend.batch_set_v1(batch, indices(*range(len(batch))), extra))
        kept = [backend._client.exists_many(keys) for keys in prompts]
        assert 0 < sum(map(sum, kept)) < 3 * count
        for there in kept:
            assert [*there, False].index(False) == sum(there)
    finally:
        daemon.stop()


def test_a_batch_is_a_chain_by_either_interface(storage, monkeypatch):
    """What the controller's backup hands over: slices of a prompt's pages in their order, of as many
    as its batch size; in batch_set, without what comes before."""
    backend = storage()
    seen = []
    put_many = backend._client._put_many

    def spy(puts, deadline):
        seen.append([(key, info[-1]) for key, _, info, _ in puts])
        return put_many(puts, deadline)

    monkeypatch.setattr(backend._client, "_put_many", spy)
    keys = [f"{i:064x}" for i in range(4)]
    pages = [np.full(100, i, np.float32) for i in range(4)]
    assert backend.batch_set(keys[:3], pages[:3]) and backend.set(keys[3], pages[3])
    assert seen == [[(keys[0], None), (keys[1], keys[0]), (keys[2], keys[1])], [(keys[3], None)]]
    backend.clear()
    seen.clear()
    extra = HiCacheStorageExtraInfo(prefix_keys=keys[:2])
    assert backend.batch_set_v1(keys[2:], indices(0, 1), extra) == [True, True]
    assert seen == [[(keys[2], keys[1]), (keys[3], keys[2])]]


def test_tensors_are_kept_with_dtype_and_shape(storage):
    torch = pytest.importorskip("torch")
    backend = storage()
    pages = [torch.arange(100, dtype=torch.bfloat16) + i for i in range(2)]
    assert backend.batch_set(["a", "b"], pages) and backend.set("c", pages[0].view(10, 10).t())
    targets = [torch.zeros(100, dtype=torch.bfloat16) for _ in range(3)]
    got = backend.batch_get(["a", "b", "gone"], targets)
    assert got[0] is targets[0] and torch.equal(got[0], pages[0]) and torch.equal(got[1], pages[1])
    assert got[2] is None and not targets[2].any()
    assert backend.get("a", torch.zeros(100)) is None, "another dtype"
    assert torch.equal(backend.get("c"), pages[0].view(10, 10).t())
    assert backend.get("gone") is None


def test_ranks_share_what_is_the_same(storage):
    keys, pages = ["key"], indices(0)
    assert storage(tp_rank=0, tp_size=2).batch_set_v1(keys, pages) == [True]
    others = [
        storage(tp_rank=1, tp_size=2), storage(tp_size=1), storage(tp_size=2, pp_rank=1, pp_size=2),
        storage(tp_size=2, model_name="other"), storage(Pool("layer_first"), tp_size=2),
        storage(tp_size=2, is_mla_model=True), storage(tp_size=2, test="another revision"),
    ]  # fmt: skip
    assert [other.batch_exists(keys) for other in others] == [0] * len(others)
    assert storage(tp_rank=0, tp_size=2).batch_exists(keys) == 1
    storage(tp_rank=0, tp_size=2, is_mla_model=True).batch_set_v1(keys, pages)
    assert storage(tp_rank=1, tp_size=2, is_mla_model=True).batch_exists(keys) == 1


class QuantizedPool(Pool):
    """As SGLang keeps float8, of either kind, and float4."""

    dtype = "torch.uint8"


def test_quantized_pages_are_told_apart(storage, monkeypatch):
    """A host pool says uint8 of e4m3 and e5m2 alike."""
    keys, pages = ["key"], indices(0)

    def serving(**options):
        monkeypatch.setattr(
            "sglang.srt.runtime_context.get_model", lambda: SimpleNamespace(**options), raising=False
        )

    serving(kv_cache_dtype="fp8_e4m3")
    assert storage(QuantizedPool()).batch_set_v1(keys, pages) == [True]
    assert storage(QuantizedPool()).batch_exists(keys) == 1
    for options in (
        {"kv_cache_dtype": "fp8_e5m2"}, {"kv_cache_dtype": "fp8_e4m3", "quantization": "fp8"},
        {"kv_cache_dtype": "fp8_e4m3", "json_model_override_args": '{"rope_scaling": {}}'},
    ):  # fmt: skip
        serving(**options)
        assert storage(QuantizedPool()).batch_exists(keys) == 0, options


def test_bytes_that_nobody_describes_are_refused(storage):
    """As in releases that do not publish their options."""
    with pytest.raises(ValueError, match="kv_cache_dtype"):
        storage(QuantizedPool())
    told = {"kv_cache_dtype": "fp8_e4m3"}
    assert storage(QuantizedPool(), told=told).batch_set_v1(["key"], indices(0)) == [True]
    assert storage(QuantizedPool(), told={"kv_cache_dtype": "fp8_e5m2"}).batch_exists(["key"]) == 0
    with_device = QuantizedPool()
    with_device.device_pool = SimpleNamespace(dtype="torch.float8_e5m2")
    assert storage(with_device).batch_exists(["key"]) == 0


def test_releases_of_sglang_share_nothing(storage, monkeypatch):
    storage().batch_set_v1(["key"], indices(0))
    assert storage().batch_exists(["key"]) == 1
    monkeypatch.setattr("sglang.__version__", "another")
    assert storage().batch_exists(["key"]) == 0


def test_a_release_that_is_too_old_is_refused():
    """0.5.5, whose ranks could not be told apart."""
    config = SimpleNamespace(
        tp_rank=0, tp_size=1, is_mla_model=False, is_page_first_layout=True, model_name="m", extra_config={}
    )
    with pytest.raises(RuntimeError, match="needs SGLang .* has no pp_rank"):
        InfercacheStorage(config, {})


def test_a_release_that_names_pages_by_their_tokens_alone_is_refused(storage, monkeypatch):
    """0.5.15: LoRA adapters used each other's pages."""
    from sglang.srt.mem_cache import utils

    monkeypatch.delattr(utils, "storage_namespace_seed")
    with pytest.raises(RuntimeError, match="LoRA adapter"):
        storage()


def test_clear_deletes_the_pages_of_this_model_alone(storage):
    one, other = storage(), storage(model_name="other")
    for backend in (one, other):
        backend.batch_set_v1(["a", "b"], indices(0, 1))
    assert one.clear()
    assert (one.batch_exists(["a"]), other.batch_exists(["a"])) == (0, 1)


def test_every_failure_of_the_daemon_is_a_miss(own_daemon, storage):
    pool = Pool()
    pool.page(0)[...] = 7
    backend = storage(pool, own_daemon.endpoint, deadline=1)
    assert backend.batch_set_v1(["a"], indices(0)) == [True]
    own_daemon.kill()
    until(lambda: not backend.exists("a"), "misses")
    assert backend.batch_get_v1(["a", "b"], indices(1, 2)) == [False, False]
    assert backend.batch_set_v1(["b"], indices(0)) == [False]
    assert backend.batch_exists(["a"]) == 0 and backend.batch_get(["a"]) == [None] and not backend.clear()
    own_daemon.start()
    until(lambda: backend.batch_set_v1(["a"], indices(0)) == [True], "the next daemon is found")
    assert backend.batch_get_v1(["a"], indices(1)) == [True] and (pool.page(1) == 7).all()


def test_the_log_says_why_nothing_hits(own_daemon, storage, caplog):
    storage(endpoint=f"{own_daemon.endpoint}.not")
    [record] = caplog.records
    assert record.name == "infercache" and "infercached.sock.not" in record.getMessage()
    backend = storage(endpoint=own_daemon.endpoint)
    own_daemon.kill()
    caplog.clear()
    until(lambda: backend.batch_exists(["a"]) or caplog.records, "a warning")
    assert "UNAVAILABLE" in caplog.text


def test_an_object_that_is_no_such_page_is_a_miss(storage):
    pool = Pool()
    backend = storage(pool)
    backend._client.put("a", bytes(pool.page(0).nbytes))
    assert backend.batch_get_v1(["a"], indices(0)) == [False]
