"""Client and connect()."""

from __future__ import annotations

import time
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeVar

from . import _arrays, _core, _memoize
from ._core import View

if TYPE_CHECKING:
    from ._device import Device

Key = str | bytes
Kind = Literal["blob", "kv", "activation", "embedding", "output"]
_KINDS = {"blob": 0, "kv": 1, "activation": 2, "embedding": 3, "output": 4}
_Function = TypeVar("_Function", bound=Callable[..., Any])

# (kind, compute cost in ms, class id, TTL in ms, parent key): what the extension takes.
Info = tuple[int, float, int, int, Key | None]


class PutResult(NamedTuple):
    """What became of a put. True if the object is in the cache now."""

    outcome: Literal["stored", "exists", "refused"]
    code: str  # a gRPC status code; "OK" unless refused
    reason: str  # empty unless refused

    def __bool__(self) -> bool:
        return self.outcome != "refused"


class Put(NamedTuple):
    """An object to be stored: an element of `put_many`. The fields are the arguments of `put`."""

    key: Key
    value: Any
    kind: Kind = "blob"
    compute_cost_ms: float = 0.0
    class_id: int = 0
    ttl: float | None = None
    parent: Key | None = None
    overwrite: bool = False


_SYSTEM_SOCKET = "unix:/run/infercache/infercached.sock"


def engine_client(endpoint: str | None, **options: Any) -> Client:
    """For engines, which may start before the daemon: without an endpoint, the daemon's socket on this host, whether it
    is there yet or not, and never gRPC on the default port."""
    client = Client(endpoint, **options)
    if endpoint is not None or os.environ.get("INFERCACHE_ENDPOINT") or client.lane == "local":
        return client
    client.close()
    return Client(_SYSTEM_SOCKET, **options)


def info_of(kind: str, compute_cost_ms: float, class_id: int, ttl: float | None, parent: Key | None) -> Info:
    if kind not in _KINDS:
        raise ValueError(f"kind is one of {', '.join(_KINDS)}; not {kind!r}")
    if not 0 <= class_id <= 15:
        raise ValueError(f"class_id is 0..15; not {class_id}")
    if ttl is not None and not ttl > 0:
        raise ValueError(f"ttl is a positive number of seconds, or None; not {ttl}")
    ttl_ms = 0 if ttl is None else max(1, round(ttl * 1000))
    return _KINDS[kind], compute_cost_ms, class_id, ttl_ms, parent


def put_info(put: Put) -> Info:
    return info_of(put.kind, put.compute_cost_ms, put.class_id, put.ttl, put.parent)


def put_item(put: Put) -> tuple[Any, ...]:
    return put.key, _arrays.describe(put.value), put_info(put), bool(put.overwrite)


class Client(_core._Client):
    """A client of one daemon, in one namespace and under one fingerprint. Made by `connect`.

    Any number of threads may use it; waits and copies are made without the GIL. It is a context
    manager. Calls never raise for what a daemon does: a daemon that is dead, slow or refusing makes
    gets misses and puts refused (`last_failure` says why), and nobody has to reconnect when it is back.
    What raises: ClosedError, ForkedError (a client belongs to the process that made it), ValueError and
    TypeError for arguments that can never work.
    """

    def __init__(
        self,
        endpoint: str | None = None,
        *,
        namespace: str = "default",
        fingerprint: Mapping[str, str] | None = None,
        deadline: float = 5.0,
        token: str | None = None,
        ca_pem: Key | None = None,
        certificate_pem: Key | None = None,
        private_key_pem: Key | None = None,
    ) -> None:
        entries = None if fingerprint is None else {str(k): str(v) for k, v in fingerprint.items()}
        super().__init__(
            endpoint, namespace, entries, deadline, token, ca_pem, certificate_pem, private_key_pem
        )
        self.fingerprint: dict[str, str] = entries or {}

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise TypeError("a Client cannot be pickled: it belongs to its process; connect again in the other")

    def put(
        self,
        key: Key,
        value: Any,
        *,
        kind: Kind = "blob",
        compute_cost_ms: float = 0.0,
        class_id: int = 0,
        ttl: float | None = None,
        parent: Key | None = None,
        overwrite: bool = False,
        deadline: float | None = None,
    ) -> PutResult:
        """Stores `value` under `key` (1 to 1024 bytes; str as UTF-8). Copied once; visible when it returns.

        `value`: bytes or another buffer, a numpy array, a CPU torch tensor (any strides; dtype and shape
        are kept), or a list of these, which become the parts of one object. An object that is there
        stays, unless `overwrite`. `kind` is for accounting; `compute_cost_ms`, what computing it took,
        feeds the count of compute saved; `ttl` in seconds; `parent`, the key of the block before this
        one, keeps the heads of chains longer than their tails.
        TypeError: a value or dtype that objects do not have. ValueError: a key or argument out of range.
        """
        item = put_item(Put(key, value, kind, compute_cost_ms, class_id, ttl, parent, overwrite))
        return PutResult(*self._put_many((item,), deadline)[0])

    def put_many(self, puts: Iterable[Put], *, deadline: float | None = None) -> list[PutResult]:
        """Stores many objects in one call. Blocks of one chain come in chain order."""
        return [PutResult(*answer) for answer in self._put_many([put_item(put) for put in puts], deadline)]

    def get_into(self, key: Key, buffer: Any, *, deadline: float | None = None) -> int | None:
        """Copies the object into a writable buffer; its size in bytes, or None for a miss."""
        size: int | None = self.get_into_many((key,), (buffer,), deadline)[0]
        return size

    def exists(self, key: Key, *, deadline: float | None = None) -> bool:
        """Whether the key is present. Not a use of it."""
        return bool(self.exists_many((key,), deadline)[0])

    def delete(self, key: Key, *, deadline: float | None = None) -> bool:
        """Whether the key was there and is deleted. Views of it stay valid."""
        return bool(self.delete_many((key,), deadline)[0])

    def keys(self, prefix: Key = b"", *, deadline: float | None = None) -> Iterator[bytes]:
        """The keys that begin with `prefix`, in byte order, page by page. DaemonError: it cannot say."""
        token = b""
        while True:
            page, token = self._list(prefix, 0, token, deadline)
            yield from page
            if not token:
                return

    def get_or_compute(
        self,
        key: Key,
        compute: Callable[[], Any],
        *,
        kind: Kind = "blob",
        class_id: int = 0,
        ttl: float | None = None,
        parent: Key | None = None,
        deadline: float | None = None,
        claim_time: float = 60.0,
    ) -> View:
        """The object under `key`, computed by `compute()` in this thread if nobody else has or does.

        Of all clients that miss a key one computes it; the others wait, for `deadline` seconds, and then
        compute for themselves. `compute` returns what `put` takes; how long it took becomes the
        object's cost. Whatever is wrong with the daemon, the value is computed and returned; what
        could not be stored stands in `last_failure`. An exception of `compute` goes through, and another
        waiter computes. `claim_time`: how many seconds a computation may take before that.
        """
        return self.get_or_compute_many(
            (key,), lambda _: compute(), kind=kind, class_id=class_id, ttl=ttl, parent=parent,
            deadline=deadline, claim_time=claim_time,
        )[0]  # fmt: skip

    def get_or_compute_many(
        self,
        keys: Iterable[Key],
        compute: Callable[[int], Any],
        *,
        kind: Kind = "blob",
        class_id: int = 0,
        ttl: float | None = None,
        parent: Key | None = None,
        deadline: float | None = None,
        claim_time: float = 60.0,
    ) -> list[View]:
        """`get_or_compute` of many keys: `compute(i)` computes keys[i]. All that this call won is
        computed before it waits for others. After an exception nothing more is computed. The keys are a
        chain, which goes on behind `parent`."""

        def described(index: int) -> tuple[list[_arrays.PartIn], Info]:
            start = time.perf_counter()
            value = compute(index)
            cost_ms = (time.perf_counter() - start) * 1e3
            before = parent if index == 0 else None  # the others follow each other
            return _arrays.describe(value), info_of(kind, cost_ms, class_id, ttl, before)

        info_of(kind, 0.0, class_id, ttl, parent)  # before anything is computed
        return [view for view, _ in self._get_or_compute(keys, described, deadline, claim_time)]

    def device(self, gpu: str | int = "auto", *, register_host_memory: bool = False) -> Device:
        """The namespace's objects in the memory of a GPU.

        `gpu`: its number in this process, its UUID as `nvidia-smi -L` tells it, or "auto" for the only one that
        this process sees. Takes hold of the GPU's primary context, the one that torch works in. Does not wait
        for the daemon: if that has no tier there, calls are misses that say so. The client's `close` closes it.
        DeviceError: UNIMPLEMENTED: no driver, or the client is one over gRPC; NOT_FOUND: no such GPU. ValueError:
        no UUID.
        `register_host_memory`: `get_into` of what is in host memory alone copies from there at the speed of the
        bus, without the CPU; registering it takes long, once, with the first of them.
        """
        from ._device import Device  # which is made of what is here

        return Device(self, gpu, register_host_memory=register_host_memory)

    def memoize(
        self,
        *,
        key: Callable[..., Key] | None = None,
        version: str = "",
        kind: Kind = "output",
        ttl: float | None = None,
        copy: bool = True,
    ) -> Callable[[_Function], _Function]:
        """`infercache.memoize` with this client."""
        return _memoize.memoize(self, key=key, version=version, kind=kind, ttl=ttl, copy=copy)


def connect(
    endpoint: str | None = None,
    *,
    namespace: str = "default",
    fingerprint: Mapping[str, str] | None = None,
    deadline: float = 5.0,
    token: str | None = None,
    ca_pem: Key | None = None,
    certificate_pem: Key | None = None,
    private_key_pem: Key | None = None,
) -> Client:
    """A client of a daemon, to be closed, or used as a context manager.

    `endpoint`: "unix:PATH" is a daemon of this host, through shared memory; "HOST:PORT" any daemon over
    gRPC; "grpc+unix:PATH" gRPC over a Unix socket. None: $INFERCACHE_ENDPOINT, else the daemon's default
    socket if there is one, else 127.0.0.1:7400. `fingerprint`: what the objects depend on beside their
    keys, at least model, revision, dtype and layout; objects that were stored under another one are
    misses. `deadline`: seconds a call may take, unless it says so itself. `token`, `ca_pem`,
    `certificate_pem`, `private_key_pem`: bearer token and (m)TLS, for gRPC.

    Does not wait for the daemon: until there is one every get is a miss; `ping()` asks it. ValueError:
    an endpoint or option that can never work.
    """
    return Client(
        endpoint, namespace=namespace, fingerprint=fingerprint, deadline=deadline, token=token,
        ca_pem=ca_pem, certificate_pem=certificate_pem, private_key_pem=private_key_pem,
    )  # fmt: skip
