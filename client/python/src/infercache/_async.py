"""AsyncClient: the same client for asyncio, without threads of Python's."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Callable, Iterable, Mapping
from types import TracebackType
from typing import Any

from . import _arrays, _core
from ._client import Client, Key, Kind, Put, PutResult, info_of, put_item
from ._core import View
from ._errors import ClosedError, Failure


class AsyncClient:
    """A client for one asyncio event loop: the one that runs when it is first used.

        async with infercache.AsyncClient(fingerprint={...}) as client:
            view = await client.get("block/42")

    Takes the arguments of `connect`, and its methods are Client's. Requests are answered through a
    descriptor that the loop watches; a hit on the local lane is there without a turn of the loop. Not
    thread-safe, as asyncio's objects are not. Cancelling a call abandons its answer, and what was asked
    for may happen. A value must not be changed until its put has returned, nor a buffer of
    `get_into_many` be used before, even if that was cancelled.
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
        self._client = Client(
            endpoint, namespace=namespace, fingerprint=fingerprint, deadline=deadline, token=token,
            ca_pem=ca_pem, certificate_pem=certificate_pem, private_key_pem=private_key_pem,
        )  # fmt: skip
        self.fingerprint = self._client.fingerprint
        self._loop: asyncio.AbstractEventLoop | None = None
        self._fd = -1
        self._waiting: dict[int, asyncio.Future[Any]] = {}

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends the client; calls under way raise ClosedError. Views stay valid. Idempotent."""
        if self._loop is not None and not self._loop.is_closed():
            self._loop.remove_reader(self._fd)
        self._loop = None
        waiting, self._waiting = self._waiting, {}
        self._client.close()
        for future in waiting.values():
            if not future.done():
                future.set_exception(ClosedError("the client was closed"))

    @property
    def closed(self) -> bool:
        """Whether close() was called."""
        return self._client.closed

    @property
    def lane(self) -> str:
        """'local' (shared memory, this host) or 'remote' (gRPC)."""
        return self._client.lane

    @property
    def last_failure(self) -> Failure | None:
        """As `Client.last_failure`."""
        return self._client.last_failure

    # --- Requests ---

    async def get(self, key: Key, *, deadline: float | None = None) -> View | None:
        """As `Client.get`."""
        view: View | None = (await self.get_many((key,), deadline=deadline))[0]
        return view

    async def get_many(self, keys: Iterable[Key], *, deadline: float | None = None) -> list[View | None]:
        """As `Client.get_many`."""
        views: list[View | None] = await self._answer(self._core()._submit_get(keys, deadline))
        return views

    async def get_into_many(
        self, keys: Iterable[Key], buffers: Iterable[Any], *, deadline: float | None = None
    ) -> list[int | None]:
        """As `Client.get_into_many`."""
        sizes: list[int | None] = await self._answer(
            self._core()._submit_get_into(keys, buffers, deadline)
        )
        return sizes

    async def put(
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
        """As `Client.put`."""
        item = Put(key, value, kind, compute_cost_ms, class_id, ttl, parent, overwrite)
        return (await self.put_many((item,), deadline=deadline))[0]

    async def put_many(self, puts: Iterable[Put], *, deadline: float | None = None) -> list[PutResult]:
        """As `Client.put_many`."""
        items = [put_item(put) for put in puts]
        return [PutResult(*a) for a in await self._answer(self._core()._submit_put(items, deadline))]

    async def match(self, keys: Iterable[Key], *, deadline: float | None = None) -> int:
        """As `Client.match`."""
        length: int = await self._answer(self._core()._submit_match(keys, deadline))
        return length

    async def exists_many(self, keys: Iterable[Key], *, deadline: float | None = None) -> list[bool]:
        """As `Client.exists_many`."""
        keys = tuple(keys)
        return await self._flags(self._core()._submit_exists(keys, deadline), len(keys))

    async def exists(self, key: Key, *, deadline: float | None = None) -> bool:
        """As `Client.exists`."""
        return (await self.exists_many((key,), deadline=deadline))[0]

    async def delete_many(self, keys: Iterable[Key], *, deadline: float | None = None) -> list[bool]:
        """As `Client.delete_many`."""
        keys = tuple(keys)
        return await self._flags(self._core()._submit_delete(keys, deadline), len(keys))

    async def delete(self, key: Key, *, deadline: float | None = None) -> bool:
        """As `Client.delete`."""
        return (await self.delete_many((key,), deadline=deadline))[0]

    async def touch_many(self, keys: Iterable[Key], *, deadline: float | None = None) -> list[bool]:
        """As `Client.touch_many`."""
        keys = tuple(keys)
        return await self._flags(self._core()._submit_touch(keys, deadline), len(keys))

    async def get_or_compute(
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
        """As `Client.get_or_compute`; `compute` may be a coroutine function."""
        info_of(kind, 0.0, class_id, ttl, parent)  # before anything is computed
        request = self._core()._submit_get_or_reserve((key,), deadline, claim_time)
        _, view, claim = (await self._answer(request))[0]
        if view is not None:
            found: View = view
            return found
        try:
            start = time.perf_counter()
            value = compute()
            if inspect.isawaitable(value):
                value = await value
            cost_ms = (time.perf_counter() - start) * 1e3
            put = Put(key, value, kind, cost_ms, class_id, ttl, parent)
            if (await self.put_many((put,), deadline=deadline))[0]:
                stored = await self.get(key, deadline=deadline)
                if stored is not None:
                    return stored
            info = info_of(kind, cost_ms, class_id, ttl, parent)
            own: View = _core._private_view(_arrays.describe(value), info)  # type: ignore[assignment]
            return own
        finally:
            if claim is not None:
                claim.give_up()

    # --- Answers ---

    def _core(self) -> Client:
        """The client, watched by the running loop."""
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            if self._loop is not None:
                raise RuntimeError("this AsyncClient belongs to another event loop; make one for each")
            self._fd = self._client.event_fd()
            loop.add_reader(self._fd, self._take)
            self._loop = loop
        return self._client

    async def _flags(self, request: int, count: int) -> list[bool]:
        flags: list[bool] | None = await self._answer(request)
        return [False] * count if flags is None else flags

    async def _answer(self, request: int) -> Any:
        assert self._loop is not None
        future: asyncio.Future[Any] = self._loop.create_future()
        self._waiting[request] = future
        self._take()  # a local hit is there already
        return await future

    def _take(self) -> None:
        for request, _, result, error in self._client._drain():
            # Absent: of a call that was cancelled.
            future = self._waiting.pop(request, None)
            if future is None or future.done():
                continue
            if error is not None:
                future.set_exception(error)
            else:
                future.set_result(result)
