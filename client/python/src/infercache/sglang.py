"""infercached as the storage below SGLang's HiCache, by its dynamic backend:

python -m sglang.launch_server --model-path MODEL --enable-hierarchical-cache
    --hicache-mem-layout page_first --hicache-storage-backend dynamic
    --hicache-storage-backend-extra-config '{"backend_name": "infercache", "interface_v1": 1,
        "hicache_storage_pass_prefix_keys": true,
        "module_path": "infercache.sglang", "class_name": "InfercacheStorage",
        "endpoint": "unix:/run/infercache/infercached.sock",
        "fingerprint": {"revision": "..."}}'
"""

from __future__ import annotations

import ctypes
import functools
import logging
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import sglang
from sglang.srt.mem_cache import utils as _cache_utils
from sglang.srt.mem_cache.hicache_storage import HiCacheStorage

from ._arrays import describe
from ._client import Client, Info, engine_client, info_of
from ._core import View
from ._errors import DaemonError
from ._health import Health

_log = logging.getLogger("infercache")
_Result = TypeVar("_Result")

_DELETED_AT_A_TIME = 1024
# How the ranks of an engine divide a page, as fields of HiCacheStorageConfig; releases lack some of them.
_SHARDS = ("pp_rank", "pp_size", "attn_cp_rank", "attn_cp_size", "dcp_rank", "dcp_size", "logical_page_size")
_NEEDED = (
    "tp_rank", "tp_size", "pp_rank", "pp_size", "attn_cp_rank", "attn_cp_size", "is_mla_model", "model_name",
    "extra_config",
)  # fmt: skip
# Fields of SGLang's resolved configuration that change what a model computes of the same tokens.
_MODEL_OPTIONS = (
    "revision", "dtype", "json_model_override_args", "quantization", "quantization_param_path", "modelopt_quant",
    "rl_quant_profile", "kv_cache_dtype",
)  # fmt: skip
_HEAD_SHARDS = ("tp_rank", "tp_size", "tp_lcm_size", "should_split_heads")


class InfercacheStorage(HiCacheStorage):
    """Pages of HiCache's host pool as objects, shared by all engines of the same model.

    A page is one object, of as many parts as the pool's layout cuts it into. With "interface_v1": 1 in the
    configuration pages are copied between the pool and infercached directly, without it through a buffer
    of SGLang's; each finds only what was stored in its own way. Whatever is wrong with the daemon is a
    miss, or a page not stored. "hicache_storage_pass_prefix_keys": true lets each page name the one before
    it also where a prompt is stored in several batches: else the daemon evicts heads of prompts before
    their tails. For the KV pool alone: an engine with further pools (Mamba, sliding windows, drafts, the
    indexer of sparse attention) is refused when it registers them.

    Options in the extra configuration: `endpoint` (without it and $INFERCACHE_ENDPOINT the daemon's socket at its default
    place, there or not yet), `namespace`, `fingerprint`, `deadline` (seconds), `token`, `ttl` (seconds). What SGLang tells of the model is part of every key; weights that change under the same
    path are not: see "What a key does not know" in docs/integrations.md.
    """

    def __init__(self, storage_config: Any, kwargs: Mapping[str, Any] | None = None) -> None:
        lacking = [name for name in _NEEDED if not hasattr(storage_config, name)]
        if lacking:  # ranks would share pages that are not the same
            raise RuntimeError(
                f"infercache.sglang needs SGLang 0.5.20 or newer; {sglang.__version__} has no {', '.join(lacking)}"
            )
        if not hasattr(_cache_utils, "storage_namespace_seed"):
            raise RuntimeError(
                f"infercache.sglang needs a SGLang that names pages by LoRA adapter and cache salt too (0.5.20 or newer): those "
                f"of {sglang.__version__} are named by their tokens alone, so that adapters would use each other's"
            )
        self._config = storage_config
        self._options: dict[str, Any] = dict(storage_config.extra_config or {})
        self._ttl: float | None = self._options.get("ttl")
        info_of("kv", 0.0, 0, self._ttl, None)  # raises for a ttl that can never work
        self._client: Client | None = None
        self._health: Health | None = None
        self._warned_of_prefixes = False

    def register_mem_pool_host(self, mem_pool_host: Any) -> None:
        """Connects: what a page looks like, and so its fingerprint, is the pool's to say. ValueError: a pool of
        bytes whose format nobody tells."""
        super().register_mem_pool_host(mem_pool_host)
        self.close()
        given = dict(self._options.get("fingerprint") or {})
        self._client = engine_client(
            self._options.get("endpoint"),
            namespace=self._options.get("namespace", "default"),
            deadline=self._options.get("deadline", 5.0),
            token=self._options.get("token"),
            fingerprint=page_fingerprint(self._config, mem_pool_host, given) | given,
        )
        self._health = Health(self._client, "sglang")
        self._health.ping()

    def register_mem_host_pool_v2(self, host_pool: Any, host_pool_name: Any) -> None:
        """NotImplementedError: any pool but that of keys and values. SGLang takes the storage for usable otherwise, and
        fails each of its calls."""
        name = str(getattr(host_pool_name, "value", host_pool_name))
        if name != "kv":
            raise NotImplementedError(
                f"infercache.sglang stores the pool of keys and values alone, and this engine has a pool {name!r} too "
                "(a draft model, a sliding window, Mamba or sparse attention): serve it without this storage backend"
            )
        super().register_mem_host_pool_v2(host_pool, host_pool_name)

    # --- Presence ---

    def exists(self, key: str) -> bool:
        return self._client is not None and self._client.exists(key)

    def batch_exists(self, keys: Sequence[str], extra_info: Any = None) -> int:
        """How many of the first keys are all present."""
        return self._told(0 if self._client is None else self._client.match(keys))

    # --- Between the pool and infercached ---

    def batch_get_v1(self, keys: Sequence[str], host_indices: Any, extra_info: Any = None) -> list[bool]:
        pages = self._pages(len(keys), host_indices)
        views = [] if self._client is None else self._client.get_many(keys)
        loaded = [view is not None and _fill(page, view) for page, view in zip(pages, views, strict=False)]
        return self._told(loaded + [False] * (len(keys) - len(loaded)))

    def batch_set_v1(self, keys: Sequence[str], host_indices: Any, extra_info: Any = None) -> list[bool]:
        if self._client is None:
            return [False] * len(keys)
        infos = self._infos(keys, extra_info)
        puts = [
            (key, [(piece, 0, ()) for piece in page], info, False)
            for key, page, info in zip(keys, self._pages(len(keys), host_indices), infos, strict=True)
        ]
        return self._told([outcome != "refused" for outcome, _, _ in self._client._put_many(puts, None)])

    def _pages(self, count: int, host_indices: Any) -> list[list[np.ndarray[Any, Any]]]:
        """The pieces of the pool's memory that each page consists of."""
        pointers, sizes = self.mem_pool_host.get_page_buffer_meta(host_indices)
        pieces = [_memory(pointer, size) for pointer, size in zip(pointers, sizes, strict=True)]
        each = len(pieces) // max(1, count)
        return [pieces[i * each : (i + 1) * each] for i in range(count)]

    def _infos(self, keys: Sequence[str], extra_info: Any) -> list[Info]:
        """With the page before each as its parent, as far as SGLang says which that is: for the first of a batch with
        hicache_storage_pass_prefix_keys alone, of which storage learns by what it gets."""
        known = getattr(extra_info, "prefix_keys", None)
        if extra_info is not None and known is None and not self._warned_of_prefixes:
            self._warned_of_prefixes = True
            _log.warning(
                'infercache.sglang: put "hicache_storage_pass_prefix_keys": true into the extra configuration of the '
                "storage backend: without it heads of prompts are evicted before their tails, and those are of no use"
            )
        before = known or [None]
        return [info_of("kv", 0.0, 0, self._ttl, parent) for parent in [before[-1], *keys[:-1]]]

    # --- Through tensors ---

    def get(self, key: str, target_location: Any = None, target_sizes: Any = None) -> Any:
        return self.batch_get([key], None if target_location is None else [target_location])[0]

    def batch_get(
        self, keys: Sequence[str], target_locations: Any = None, target_sizes: Any = None
    ) -> list[Any]:
        """The page of each key, in its target if there is one; None for a miss."""
        if self._client is None:
            return [None] * len(keys)
        targets = [None] * len(keys) if target_locations is None else target_locations
        views = self._client.get_many(keys)
        return self._told([_tensor(view, target) for view, target in zip(views, targets, strict=True)])

    def set(self, key: str, value: Any = None, target_location: Any = None, target_sizes: Any = None) -> bool:
        return self.batch_set([key], [value])

    def batch_set(
        self, keys: Sequence[str], values: Any = None, target_locations: Any = None, target_sizes: Any = None
    ) -> bool:
        if self._client is None or values is None:
            return False
        # Slices of one prompt's pages in their order, as in batch_set_v1; what is before them is not told.
        infos = self._infos(keys, None)
        puts = [
            (key, describe(value), info, False) for key, value, info in zip(keys, values, infos, strict=True)
        ]
        return self._told(all(outcome != "refused" for outcome, _, _ in self._client._put_many(puts, None)))

    # --- The rest ---

    def clear(self) -> bool:
        """Deletes the pages of this model and layout; False if the daemon does not answer."""
        if self._client is None:
            return False
        try:
            keys = list(self._client.keys())
        except DaemonError:
            return False
        for i in range(0, len(keys), _DELETED_AT_A_TIME):
            self._client.delete_many(keys[i : i + _DELETED_AT_A_TIME])
        return True

    def _told(self, result: _Result) -> _Result:
        """The result, once the log knows what made it a miss."""
        if self._health is not None:
            self._health.look()
        return result

    def close(self) -> None:
        self._health = None
        client, self._client = self._client, None
        if client is not None:
            client.close()


def page_fingerprint(config: Any, pool: Any, given: Mapping[str, str]) -> dict[str, str]:
    """What the bytes of a page depend on beside its tokens, as far as SGLang tells. Ranks that hold the same bytes
    (all of an MLA model's, replicas of data parallelism) have it in common. ValueError: the pool holds bytes
    (quantized keys and values) of a format that neither SGLang nor `given`, its "kv_cache_dtype", names."""
    fields = _SHARDS if config.is_mla_model else _SHARDS + _HEAD_SHARDS
    shard = {name: getattr(config, name) for name in fields if getattr(config, name, None) is not None}
    pages = {name: getattr(pool, name, None) for name in ("layout", "page_size", "dtype")}
    fingerprint = {
        "engine": f"sglang-{sglang.__version__}",
        "model": str(config.model_name),
        "shard": " ".join(f"{name}={value}" for name, value in sorted(shard.items())),
        "pages": " ".join(f"{name}={value}" for name, value in pages.items()) + f" {type(pool).__name__}",
    }
    options = _model_options(pool)
    # A pool keeps float8 of either kind, and float4, as uint8: its dtype does not tell them apart.
    if "kv_cache_dtype" not in options and "uint8" in str(pages["dtype"]) and "kv_cache_dtype" not in given:
        raise ValueError(
            f"the host pool of SGLang {sglang.__version__} holds uint8, and SGLang does not say in which format: put "
            '"kv_cache_dtype" (what --kv-cache-dtype says, or what "auto" becomes) into the "fingerprint"'
        )
    fingerprint["options"] = " ".join(f"{name}={value}" for name, value in options.items())
    return fingerprint


def _model_options(pool: Any) -> dict[str, str]:
    """The options of this engine that keys and values depend on, as far as they are to be had. "auto" as
    kv_cache_dtype leaves it to the checkpoint; releases whose host pool knows its device pool tell the outcome."""
    try:
        from sglang.srt.runtime_context import get_model

        model = get_model()
    except (ImportError, ValueError):
        model = None  # an older release; or not in an engine, which would have published them
    options = {name: getattr(model, name, None) for name in _MODEL_OPTIONS}
    device_dtype = getattr(getattr(pool, "device_pool", None), "dtype", None)
    if device_dtype is not None:
        options["kv_cache_dtype"] = f"{options['kv_cache_dtype']}/{device_dtype}"
    return {name: str(value) for name, value in options.items() if value is not None}


@functools.cache
def _array_type(size: int) -> Any:
    # ctypes keeps every array type that it ever made.
    return ctypes.c_ubyte * size


def _memory(pointer: int, size: int) -> np.ndarray[Any, Any]:
    return np.frombuffer(_array_type(size).from_address(pointer), np.uint8)


def _fill(page: list[np.ndarray[Any, Any]], view: View) -> bool:
    """Copies an object's parts to a page's pieces; False if it is not such a page."""
    with view:
        if [part.nbytes for part in view.parts] != [len(piece) for piece in page]:
            return False
        stored = np.frombuffer(memoryview(view), np.uint8)
        for piece in page:
            np.copyto(piece, stored[: len(piece)])
            stored = stored[len(piece) :]
    return True


def _tensor(view: View | None, target: Any) -> Any:
    if view is None:
        return None
    with view:
        if target is None:
            return view.torch(copy=True)
        _, code, shape = describe(target)[0]
        page = view.torch()
        if describe(page)[0][1:] != (code, shape):
            return None
        return target.copy_(page)
