"""Device: objects in the memory of a GPU, and tensors that workers lend each other."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from . import _core, _device_arrays
from ._client import Key, Kind, Put, PutResult, info_of, put_info
from ._core import DeviceReservation, DeviceTensor, DeviceView
from ._device_arrays import stream_handle, torch_stream, view_to_numpy, view_to_torch
from ._errors import ClosedError, ForkedError

if TYPE_CHECKING:
    from ._client import Client

__all__ = [
    "Device", "Lend", "LendResult", "Reserve", "stream_handle", "stream_to_wait_for", "view_to_numpy", "view_to_torch",
]  # fmt: skip


def stream_to_wait_for(ordinal: int) -> int:
    """What a view that is released waits for if nobody says: torch's current stream, or the default one."""
    return torch_stream(ordinal) or 0


class _Loan:
    """A tensor that others may have, or may be given any moment."""

    def __init__(self, tensor: Any, keep: list[Any]) -> None:
        self.tensor = tensor
        self.keep = keep
        self.told = False  # the call that lends it is over: what is taken back from now on includes it


# What was not taken back is kept for the life of the process, even when its device is closed or gone: those who
# borrowed it still read it, and its memory must not become another tensor's.
_loans: set[_Loan] = set()


class Reserve(NamedTuple):
    """Room that is asked for: an element of `reserve_many`. The fields are the arguments of `Device.reserve`."""

    key: Key
    shape: int | Iterable[int] | None = None
    dtype: Any = None
    parts: Iterable[tuple[int | Iterable[int], Any]] | None = None
    kind: Kind = "blob"
    compute_cost_ms: float = 0.0
    class_id: int = 0
    ttl: float | None = None
    parent: Key | None = None
    overwrite: bool = False


HostCopy = Literal["never", "fallback", "always"]
_HOST_COPIES: dict[str, int] = {"never": 0, "fallback": 1, "always": 2}  # as in infercache/device.h


class Lend(NamedTuple):
    """One tensor of a `lend_many`. See `Device.lend`."""

    key: Key
    tensor: Any
    kind: Kind = "blob"
    compute_cost_ms: float = 0.0
    class_id: int = 0
    host_copy: HostCopy = "never"


class LendResult(NamedTuple):
    """What became of a lend. True if others can read the tensor, or a copy of it in host memory."""

    lent: bool  # until take_back is True
    may_be_lent: bool  # lent, or nobody knows whether the daemon heard of it: take it back before it is changed
    copied_to_host: bool  # see host_copy
    code: str  # a gRPC status code; "OK" unless it is not lent, or not copied as asked
    reason: str  # why not; else empty

    def __bool__(self) -> bool:
        return self.lent or self.copied_to_host


class Device(_core._Device):
    """The objects of a client's namespace in the memory of one GPU. Made by `Client.device`.

    A hit is a read of shared memory: nothing is copied, neither the daemon nor the driver is called. What is
    put here is found here, by any worker of this host, after its writer is gone too; objects in host memory
    are others, even under the same key.

    The rules are those of Client: any number of threads; a miss, and every failure of a daemon, is None, False
    or a refused put, and `last_failure` says why (NOT_FOUND: the namespace has no tier on this GPU;
    UNIMPLEMENTED: it is off; `ping()` raises that). ClosedError, ForkedError, and ValueError and TypeError for
    arguments that can never work. Waits and the driver's calls are made without the GIL.

    `stream` is a handle, or a stream of torch or CuPy. A device keeps its client; it is a context manager.
    """

    def __init__(self, client: Client, gpu: str | int = "auto", *, register_host_memory: bool = False) -> None:
        super().__init__(client, gpu, register_host_memory)
        self.client = client
        self._lent: dict[bytes, list[_Loan]] = {}
        self._lent_lock = threading.Lock()

    def __enter__(self) -> Device:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise TypeError("a Device cannot be pickled: it belongs to its process; open one in the other")

    def _reader(self, stream: Any) -> tuple[int | None, Any]:
        """Its handle, and what has to be kept so that it exists: torch's own streams always do."""
        if stream is None:
            return torch_stream(self.ordinal), None
        return stream_handle(stream), None if isinstance(stream, int) else stream

    def get(self, key: Key, *, stream: Any = None, deadline: float | None = None) -> DeviceView | None:
        """The object under `key` as a DeviceView, or None.

        `stream`: in which it will be read, so that its bytes are not reused before that is done; None: torch's
        current stream, if torch uses CUDA; others are named to the view.
        """
        return self.get_many((key,), stream=stream, deadline=deadline)[0]

    def get_many(
        self, keys: Iterable[Key], *, stream: Any = None, deadline: float | None = None
    ) -> list[DeviceView | None]:
        """`get` of many keys, in their order, in one call."""
        views: list[DeviceView | None] = self._get_many(keys, *self._reader(stream), deadline)
        return views

    def get_into(
        self, key: Key, tensor: Any, *, stream: Any = None, deadline: float | None = None
    ) -> int | None:
        """Copies the object into a contiguous tensor of this GPU; its size in bytes, or None for a miss.

        The copy is under way when this returns, in the order of `stream` (None: torch's current stream for its
        tensors, else the legacy default one); nobody waits for it. What is in host memory alone is copied from
        there, and `stats` counts it. ValueError: the object is larger than the tensor, into which nothing is
        written then.
        """
        if isinstance(tensor, DeviceView) or (isinstance(tensor, DeviceTensor) and tensor.read_only):
            raise TypeError("a view is read-only")
        source = _device_arrays.describe(tensor, self.ordinal, stream)
        if len(source.parts) != 1:
            raise TypeError("an object is copied into one tensor")
        if _device_arrays.is_read_only(tensor):
            raise ValueError("the tensor is read-only")
        address, capacity, _, _ = source.parts[0]
        return self._get_into(key, address, capacity, source.stream, deadline)

    def put(
        self,
        key: Key,
        value: Any,
        *,
        stream: Any = None,
        kind: Kind = "blob",
        compute_cost_ms: float = 0.0,
        class_id: int = 0,
        ttl: float | None = None,
        parent: Key | None = None,
        overwrite: bool = False,
        deadline: float | None = None,
    ) -> PutResult:
        """Stores a tensor of this GPU under `key`: copied once, within the GPU; visible when it returns.

        `value`: a contiguous CUDA tensor of torch, or anything with `__dlpack__` or `__cuda_array_interface__`;
        dtype and shape are kept. A list becomes the parts of one object, copied one by one. Waits until
        `stream`, in which it was written, has done what it was given so far, and the copy with it; None:
        torch's current stream for its tensors, what the others say, else the legacy default stream.
        After DEADLINE_EXCEEDED the stream may still read the tensor. The other arguments are those of
        Client.put. TypeError: no such tensor or dtype, or in host memory. ValueError: not contiguous, another
        GPU's, empty, a key or argument out of range.
        """
        item = Put(key, value, kind, compute_cost_ms, class_id, ttl, parent, overwrite)
        return self.put_many((item,), stream=stream, deadline=deadline)[0]

    def put_many(
        self, puts: Iterable[Put], *, stream: Any = None, deadline: float | None = None
    ) -> list[PutResult]:
        """`put` of many in one call, which asks the daemon twice: each is stored or not for itself. Blocks of one
        chain come in chain order. All are written in one stream."""
        batch = list(puts)
        sources, written_in = _device_arrays.describe_all([put.value for put in batch], self.ordinal, stream)
        items = [
            (put.key, source.parts, put_info(put), bool(put.overwrite))
            for put, source in zip(batch, sources, strict=True)
        ]
        return [PutResult(*answer) for answer in self._put_many(items, written_in, deadline)]

    def reserve(
        self,
        key: Key,
        shape: int | Iterable[int] | None = None,
        dtype: Any = None,
        *,
        parts: Iterable[tuple[int | Iterable[int], Any]] | None = None,
        kind: Kind = "blob",
        compute_cost_ms: float = 0.0,
        class_id: int = 0,
        ttl: float | None = None,
        parent: Key | None = None,
        overwrite: bool = False,
        deadline: float | None = None,
    ) -> DeviceReservation | None:
        """Room in this GPU's memory for an object that kernels write in place, and that nobody finds before its
        `commit`; nothing is copied. None: there is an object already (ALREADY_EXISTS in `last_failure`), or it is
        refused.

        `shape`, `dtype`: of the tensor, as torch.empty has them; the dtype is one of torch or numpy, or its name.
        `parts`: instead of them a (shape, dtype) for each tensor of an object of several, which lie back to back.
        The other arguments are those of Client.put. TypeError: no such dtype. ValueError: no byte, elements that
        would not be aligned, a key or argument out of range.
        """
        room = Reserve(key, shape, dtype, parts, kind, compute_cost_ms, class_id, ttl, parent, overwrite)
        return self.reserve_many((room,), deadline=deadline)[0]

    def reserve_many(
        self, rooms: Iterable[Reserve], *, deadline: float | None = None
    ) -> list[DeviceReservation | None]:
        """`reserve` of many in one round trip to the daemon. Each has room or not for itself."""
        return list(self._reserve_many([_room_item(room) for room in rooms], deadline))

    def commit_many(
        self, reservations: Iterable[DeviceReservation], stream: Any = None, *, deadline: float | None = None
    ) -> list[PutResult]:
        """`commit` of many in one round trip to the daemon, when all streams that were named for any of them are
        done. If one of them cannot be committed (BufferError, ValueError), or a stream fails, none is."""
        return [PutResult(*answer) for answer in self._commit_many(reservations, stream, deadline)]

    def exists(self, key: Key, *, deadline: float | None = None) -> bool:
        """Whether the key is present in this GPU's memory. Not a use of it."""
        return bool(self.exists_many((key,), deadline)[0])

    def delete(self, key: Key, *, deadline: float | None = None) -> bool:
        """Whether the key was there and is deleted. Views of it stay valid."""
        return bool(self.delete_many((key,), deadline)[0])

    # --- Tensors in workers' own memory ---

    def lend(
        self,
        key: Key,
        tensor: Any,
        *,
        stream: Any = None,
        kind: Kind = "blob",
        compute_cost_ms: float = 0.0,
        class_id: int = 0,
        host_copy: HostCopy = "never",
        deadline: float | None = None,
    ) -> LendResult:
        """Lets other workers of this host read a tensor where it is, under `key`, until `take_back` is True.

        Waits for `stream` as `put` does. Until then the tensor must not be changed; it is kept, so that
        its memory is not reused: until it is taken back, or for the life of the process, also if the device is
        closed before that. Borrowers map the whole allocation that it lies in, which with torch
        is more than the tensor. Refused: ALREADY_EXISTS: somebody lends this key; UNIMPLEMENTED: its memory
        cannot be shared (cudaMallocAsync, expandable segments). After errors that leave it open whether the daemon
        heard of it (`may_be_lent`), it is kept too: take it back. If the daemon goes, nothing is lent any more.

        `host_copy` puts a copy into host memory, for `get_into` and Client.get: "fallback" in place of lending
        what cannot be shared, "always" also beside it, for workers that cannot open it (`borrow`).
        """
        item = Lend(key, tensor, kind, compute_cost_ms, class_id, host_copy)
        return self.lend_many((item,), stream=stream, deadline=deadline)[0]

    def lend_many(
        self, lends: Iterable[Lend], *, stream: Any = None, deadline: float | None = None
    ) -> list[LendResult]:
        """`lend` of many in one call: tensors of one allocation take one round trip, however many they are. Each
        is lent or not for itself, also if another is a ValueError. All were written in one stream."""
        batch = list(lends)
        for lend in batch:
            if lend.host_copy not in _HOST_COPIES:
                raise ValueError(f"host_copy is one of {', '.join(_HOST_COPIES)}; not {lend.host_copy!r}")
        sources, written_in = _device_arrays.describe_all([lend.tensor for lend in batch], self.ordinal, stream)
        items = [
            (lend.key, source.parts, info_of(lend.kind, lend.compute_cost_ms, lend.class_id, None, None),
             _HOST_COPIES[lend.host_copy])
            for lend, source in zip(batch, sources, strict=True)
        ]  # fmt: skip
        keys = [_bytes_of(lend.key) for lend in batch]
        loans = [_Loan(lend.tensor, source.keep) for lend, source in zip(batch, sources, strict=True)]
        may_be_lent = [True] * len(batch)
        try:
            for key, loan in zip(keys, loans, strict=True):
                self._keep(key, loan)  # before it may be lent: an interrupt may come before the result does
            results = [LendResult(*answer) for answer in self._lend_many(items, written_in, deadline)]
            may_be_lent = [result.may_be_lent for result in results]
        except (TypeError, ValueError, ClosedError, ForkedError):
            may_be_lent = [False] * len(batch)
            raise
        finally:
            for key, loan, may_be in zip(keys, loans, may_be_lent, strict=True):
                loan.told = True
                if not may_be:
                    self._let_go(key, [loan])
        for result in results:
            if result.code in ("INVALID_ARGUMENT", "OUT_OF_RANGE"):
                raise ValueError(result.reason)
        return results

    def _keep(self, key: bytes, loan: _Loan) -> None:
        with self._lent_lock:
            _loans.add(loan)
            self._lent.setdefault(key, []).append(loan)

    def _let_go(self, key: bytes, loans: list[_Loan]) -> None:
        with self._lent_lock:
            left = [loan for loan in self._lent.pop(key, []) if loan not in loans]
            if left:
                self._lent[key] = left
            _loans.difference_update(loans)

    def borrow(self, key: Key, *, stream: Any = None, deadline: float | None = None) -> DeviceView | None:
        """As `get`, of what another worker, or this one, lends. Its owner may not have it back before the view
        and what was made from it are gone, and their streams done. FAILED_PRECONDITION in `last_failure`: CUDA
        cannot tell the processes apart, whose PIDs are the same, each in its own container. If the owner put a copy
        into host memory (`host_copy`), `get_into` and Client.get find that."""
        return self.borrow_many((key,), stream=stream, deadline=deadline)[0]

    def borrow_many(
        self, keys: Iterable[Key], *, stream: Any = None, deadline: float | None = None
    ) -> list[DeviceView | None]:
        """`borrow` of many keys, in their order, in one round trip to the daemon."""
        views: list[DeviceView | None] = self._borrow_many(keys, *self._reader(stream), deadline)
        return views

    def take_back(self, key: Key, *, deadline: float | None = None) -> bool:
        """From here on nobody finds the key; waits until nobody has the tensor, and says whether that is so.

        True: it may be changed, and freed: the device lets go of it. False: it must be neither, and
        `last_failure` says why: DEADLINE_EXCEEDED: somebody still has it; ask again. UNAVAILABLE: the daemon
        is gone, and nobody can say who has it; the device keeps the tensor until it is asked once more.
        NOT_FOUND: this device does not lend it.
        """
        with self._lent_lock:  # not what another thread lends meanwhile
            loans = [loan for loan in self._lent.get(_bytes_of(key), []) if loan.told]
        code = self._take_back(key, deadline)
        if code in ("OK", "NOT_FOUND"):
            self._let_go(_bytes_of(key), loans)
        return bool(code == "OK")


def _room_item(room: Reserve) -> tuple[Any, ...]:
    parts = room.parts
    if parts is None and room.shape is not None and room.dtype is not None:
        parts = [(room.shape, room.dtype)]
    elif parts is None or room.shape is not None or room.dtype is not None:
        raise TypeError("what is reserved has a shape and a dtype, or parts, each of which is (shape, dtype)")
    info = info_of(room.kind, room.compute_cost_ms, room.class_id, room.ttl, room.parent)
    return room.key, _device_arrays.describe_room(parts), info, bool(room.overwrite)


def _bytes_of(key: Key) -> bytes:
    if not isinstance(key, (str, bytes)):
        raise TypeError(f"a key is str or bytes, not {type(key).__name__}")
    return key.encode() if isinstance(key, str) else key
