"""infercached as an L2 of LMCache's server, by its `native_plugin` adapter:

    lmcache server ... --l2-adapter '{"type": "native_plugin", "module_path": "infercache.lmcache",
        "class_name": "Connector", "adapter_params": {
            "endpoint": "unix:/run/infercache/infercached.sock", "fingerprint": {"revision": "..."}}}'

Needs nothing of LMCache's. Its keys name model, rank and chunk; what the bytes depend on beside these
belongs in the fingerprint.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ._client import engine_client, info_of
from ._health import Health
from ._jobs import Jobs

# (whether it succeeded, why not, for each key whether it did)
_Outcome = tuple[bool, str, list[bool] | None]
Completion = tuple[int, bool, str, list[bool] | None]


class Connector:
    """What LMCache asks of a native connector: batches that are submitted, and told of later.

    `submit_...` returns an id at once; a few threads move the bytes. Every id comes back from
    `drain_completions` once. Whatever is wrong with the daemon, gets and lookups are misses and sets did
    not succeed; nothing raises. Thread-safe. The arguments are those of `infercache.connect`, but that without an
    `endpoint` (and $INFERCACHE_ENDPOINT) it is the daemon's socket at its default place, there or not yet; and: `threads`, how many batches are moved at a time; `ttl`, seconds until a chunk expires.
    """

    def __init__(
        self,
        endpoint: str | None = None,
        *,
        namespace: str = "default",
        fingerprint: Mapping[str, str] | None = None,
        deadline: float = 5.0,
        token: str | None = None,
        threads: int = 2,
        ttl: float | None = None,
    ) -> None:
        self._info = info_of("kv", 0.0, 0, ttl, None)
        self._client = engine_client(
            endpoint, namespace=namespace, fingerprint=fingerprint, deadline=deadline, token=token
        )
        self._health = Health(self._client, "lmcache")
        self._health.ping()
        self._jobs: Jobs[_Outcome] = Jobs(threads, failed=lambda error: (False, str(error), None))
        self._ids = itertools.count(1)

    def event_fd(self) -> int:
        """Readable while there are completions. Owned by the connector."""
        return self._jobs.event_fd

    def submit_batch_get(self, keys: Sequence[str], memoryviews: Sequence[Any]) -> int:
        """Fills each writable buffer with the chunk of its key. One of another size is a miss."""
        return self._submit(self._get, list(keys), list(memoryviews))

    def submit_batch_set(self, keys: Sequence[str], memoryviews: Sequence[Any]) -> int:
        """Stores each buffer, which must not change until the completion; what is there already stays."""
        return self._submit(self._set, list(keys), list(memoryviews))

    def submit_batch_exists(self, keys: Sequence[str]) -> int:
        return self._submit(self._exists, list(keys))

    def submit_batch_delete(self, keys: Sequence[str]) -> int:
        return self._submit(self._delete, list(keys))

    def drain_completions(self) -> list[Completion]:
        """(id, ok, error, for each key whether it was a hit) of the batches that are done; a set has no
        answers by key. Does not wait."""
        return [(job, *outcome) for job, outcome in self._jobs.drain()]

    def close(self) -> None:
        """Batches that have not begun fail; waits for those that have. Idempotent."""
        self._jobs.close()
        self._client.close()

    # --- In the threads ---

    def _submit(self, work: Callable[..., _Outcome], *batch: Any) -> int:
        job = next(self._ids)
        self._jobs.submit(job, lambda: self._run(work, batch))
        return job

    def _run(self, work: Callable[..., _Outcome], batch: tuple[Any, ...]) -> _Outcome:
        outcome = work(*batch)
        self._health.look()
        return outcome

    def _get(self, keys: list[str], buffers: list[Any]) -> _Outcome:
        try:
            sizes = self._client.get_into_many(keys, buffers)
        except ValueError:  # an object is larger than its buffer, and which one is not told
            sizes = [self._get_one(key, buffer) for key, buffer in zip(keys, buffers, strict=True)]
        hits = [size == memoryview(buffer).nbytes for size, buffer in zip(sizes, buffers, strict=True)]
        return True, "", hits

    def _get_one(self, key: str, buffer: Any) -> int | None:
        try:
            return self._client.get_into(key, buffer)
        except ValueError:
            return None

    def _set(self, keys: list[str], buffers: list[Any]) -> _Outcome:
        puts = [
            (key, [(buffer, 0, ())], self._info, False) for key, buffer in zip(keys, buffers, strict=True)
        ]
        for outcome, code, reason in self._client._put_many(puts, None):
            if outcome == "refused":
                return False, f"{code}: {reason}", None
        return True, "", None

    def _exists(self, keys: list[str]) -> _Outcome:
        return True, "", self._client.exists_many(keys)

    def _delete(self, keys: list[str]) -> _Outcome:
        return True, "", self._client.delete_many(keys)
