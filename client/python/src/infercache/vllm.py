"""infercached as a secondary tier of vLLM's tiering offload:

vllm serve MODEL --kv-transfer-config '{"kv_connector": "OffloadingConnector", "kv_role": "kv_both",
    "kv_connector_extra_config": {"spec_name": "TieringOffloadingSpec", "cpu_bytes_to_use": 8589934592,
        "secondary_tiers": [{"type": "InfercacheTier", "module_path": "infercache.vllm",
                             "fingerprint": {"revision": "..."}}]}}'
"""

from __future__ import annotations

import bisect
import hashlib
import itertools
import json
import math
import time
from collections.abc import Collection, Iterable, Mapping
from typing import Any, ClassVar

import vllm

try:
    from vllm.v1.kv_offload.base import Locality, LookupResult, Medium, ReqContext, RequestOffloadingContext
    from vllm.v1.kv_offload.tiering.base import JobResult, SecondaryTierManager, TransferJob
except ImportError as error:
    raise ImportError(f"infercache.vllm needs vLLM 0.31 or newer; this is {vllm.__version__}") from error

from ._client import engine_client, info_of
from ._health import Health
from ._jobs import Jobs

# A lookup is a read of shared memory. What that does not settle is asked of the daemon, in the scheduler:
# a miss costs less than waiting for it. Once in a step of the scheduler, if there is no answer.
_LOOKUP_SECONDS = 0.001


class InfercacheTier(SecondaryTierManager):
    """Chunks of vLLM's CPU tier as objects, shared by all engines of the host that serve the same model.

    Lookups are reads of shared memory, in the scheduler, which waits for a daemon that does not answer for a
    millisecond in each of its steps at most; a few threads copy between infercached and the
    CPU tier. Whatever is wrong with the daemon, lookups miss, stores fail, and a chunk that could not be
    loaded is computed. vLLM does not tell a tier all that the bytes depend on (the revision, quantization,
    overrides of the configuration, weights updated in place): see "What a key does not know" in
    docs/integrations.md for what to put into `fingerprint`.

    Options in the tier's configuration: `endpoint` (of the same-host lane, "unix:PATH"; without it and
    $INFERCACHE_ENDPOINT the daemon's socket at its default place, there or not yet), `namespace`,
    `fingerprint`, `deadline` (seconds), `threads`, `ttl` (seconds). ValueError: an endpoint over gRPC, whose
    lookups would keep the scheduler waiting. RuntimeError: a release of vLLM that is too old.
    """

    medium: ClassVar[Medium | None] = Medium.CPU

    def __init__(
        self,
        offloading_spec: Any,
        primary_kv_view: memoryview,
        tier_type: str,
        *,
        endpoint: str | None = None,
        namespace: str = "default",
        fingerprint: Mapping[str, str] | None = None,
        deadline: float = 5.0,
        threads: int = 2,
        ttl: float | None = None,
        locality: str = "LOCAL",
        **engine: Any,
    ) -> None:
        _check_release()
        super().__init__(offloading_spec, primary_kv_view, tier_type, **engine)
        self.locality = Locality(locality)
        assert primary_kv_view.strides is not None
        self._row_bytes = primary_kv_view.strides[0]
        self._rows = primary_kv_view.cast("B")  # a view of two dimensions cannot be sliced
        self._info = info_of("kv", 0.0, 0, ttl, None)
        self._client = engine_client(
            endpoint, namespace=namespace, deadline=deadline,
            fingerprint=model_fingerprint(offloading_spec, self._row_bytes) | dict(fingerprint or {}),
        )  # fmt: skip
        if self._client.lane != "local":
            self._client.close()
            raise ValueError(f"{endpoint}: the tier needs a daemon of this host, at unix:PATH")
        self._health = Health(self._client, "vllm")
        self._health.ping()  # else the first lookups would find no session yet, too
        self._jobs: Jobs[JobResult | None] = Jobs(threads, failed=lambda error: None)
        # Keys of a request whose load failed, so that it computes them instead of trying again.
        self._failed: dict[str, set[bytes]] = {}
        self._loads: dict[int, tuple[str, list[bytes]]] = {}
        # The daemon was asked in this step of the scheduler and did not answer in time.
        self._waited = False

    def lookup(self, key: bytes, req_context: Any) -> LookupResult:
        if self._waited or key in self._failed.get(req_context.req_id, ()):
            return LookupResult.MISS
        before = self._client.failures, time.monotonic()
        found = self._client.exists(bytes(key), deadline=_LOOKUP_SECONDS)
        if not found:
            self._note_wait(*before)
        return LookupResult.HIT if found else LookupResult.MISS

    def _note_wait(self, failures: int, start: float) -> None:
        """One wait for a daemon that does not answer is enough for a step: not one for each key."""
        if time.monotonic() - start >= _LOOKUP_SECONDS and self._client.failures != failures:
            failure = self._client.last_failure
            self._waited = failure is not None and failure.code == "DEADLINE_EXCEEDED"

    def on_schedule_end(self, context: Any) -> None:
        self._waited = False

    def submit_store(self, job_metadata: Any) -> None:
        job, keys, rows = self._described(job_metadata)
        parents = _prompt_of(job_metadata.req_context).parents(job_metadata.req_context, keys)
        self._jobs.submit(job, lambda: self._store(job, keys, parents, rows))

    def submit_load(self, job_metadata: Any) -> None:
        job, keys, rows = self._described(job_metadata)
        self._loads[job] = (job_metadata.req_context.req_id, keys)
        self._jobs.submit(job, lambda: self._load(job, keys, rows))

    def get_finished_jobs(self) -> Iterable[JobResult]:
        self._health.look()
        finished = []
        for job, outcome in self._jobs.drain():
            result = outcome or JobResult(job_id=job, success=False)
            finished.append(result)
            request, keys = self._loads.pop(job, ("", []))
            if keys and not result.success:
                self._failed.setdefault(request, set()).update(set(keys) - set(result.successful_keys or ()))
        return finished

    def touch(self, keys: Collection[bytes], req_context: Any) -> None:
        if not self._waited:
            before = self._client.failures, time.monotonic()
            self._client.touch_many([bytes(key) for key in keys], deadline=_LOOKUP_SECONDS)
            self._note_wait(*before)

    def on_new_request(self, req_context: Any) -> RequestOffloadingContext:
        return RequestOffloadingContext()

    def on_request_finished(self, req_context: Any) -> None:
        self._failed.pop(req_context.req_id, None)
        # What is still under way may fail, and nobody will ask for the request again.
        self._loads = {job: load for job, load in self._loads.items() if load[0] != req_context.req_id}

    def drain_jobs(self) -> None:
        """As vLLM permits, jobs that have not begun fail: with a daemon that hangs each would take its deadline."""
        self._jobs.give_up()

    def shutdown(self) -> None:
        self._jobs.close()
        self._client.close()
        self._rows.release()

    def _described(self, job: Any) -> tuple[int, list[bytes], list[memoryview]]:
        """A job's keys and their rows in the order of the prompt. vLLM hands the keys of a store over as a set, and
        chunk_ids in the order in which that set is iterated."""

        def place(pair: tuple[bytes, int]) -> tuple[float, bytes]:
            position = job.req_context.get_offload_key_position(pair[0])
            return math.inf if position is None else position, _group_of(pair[0])

        chunks = sorted(
            zip((bytes(key) for key in job.keys), map(int, job.chunk_ids), strict=True), key=place
        )
        size = self._row_bytes
        rows = [self._rows[chunk * size : (chunk + 1) * size] for _, chunk in chunks]
        return job.job_id, [key for key, _ in chunks], rows

    # --- In the threads ---

    def _store(
        self, job: int, keys: list[bytes], parents: list[bytes | None], rows: list[memoryview]
    ) -> JobResult:
        start = time.perf_counter()
        puts = [
            (key, [(row, 0, ())], (*self._info[:-1], parent), False)
            for key, parent, row in zip(keys, parents, rows, strict=True)
        ]
        outcomes = self._client._put_many(puts, None)
        stored = all(outcome != "refused" for outcome, _, _ in outcomes)
        return JobResult(job_id=job, success=stored, transfer_time=time.perf_counter() - start)

    def _load(self, job: int, keys: list[bytes], rows: list[memoryview]) -> JobResult:
        start = time.perf_counter()
        sizes = self._client.get_into_many(keys, rows)
        loaded = [key for key, size in zip(keys, sizes, strict=True) if size == self._row_bytes]
        return JobResult(
            job_id=job, success=len(loaded) == len(keys), successful_keys=loaded,
            transfer_time=time.perf_counter() - start,
        )  # fmt: skip


def _check_release() -> None:
    """RuntimeError: of this release vLLM's scheduler would ask for what is not there, or be asked, when it serves."""
    fields = {name for job in (TransferJob, JobResult) for name in job.__dataclass_fields__}
    lacking = {"job_id", "keys", "chunk_ids", "req_context", "success", "successful_keys"} - fields
    lacking |= {name for name in ("get_offload_key_position", "get_state") if not hasattr(ReqContext, name)}
    if lacking:
        raise RuntimeError(
            f"infercache.vllm needs vLLM 0.31 or newer; {vllm.__version__} has no {', '.join(sorted(lacking))}"
        )


class _Prompt:
    """The keys of a request, by group, in the order of its tokens: which chunk comes before which. Kept in vLLM's own
    state of the request, and gone with it."""

    def __init__(self) -> None:
        self._taken = 0
        self._groups: dict[bytes, list[tuple[int, bytes]]] = {}

    def parents(self, req_context: Any, keys: list[bytes]) -> list[bytes | None]:
        """The key before each of a job's keys, which are in the order of the prompt: that of the job if it has one of
        the group, since a sliding window stores not every chunk, else that of the request."""
        positions = {key: req_context.get_offload_key_position(key) for key in keys}
        # All of the request, since chunks that another tier has are in no job of ours; without it, those of our jobs.
        known = getattr(req_context, "_offload_key_positions", None)
        new = positions if known is None else dict(itertools.islice(known.items(), self._taken, None))
        self._taken += len(new)
        for key, position in new.items():
            if position is not None:
                bisect.insort(self._groups.setdefault(_group_of(key), []), (position, bytes(key)))
        latest: dict[bytes, bytes] = {}
        parents: list[bytes | None] = []
        for key, position in positions.items():
            group = _group_of(key)
            if position is None:
                parents.append(None)
                continue
            parents.append(latest.get(group) or self._before(position, group))
            latest[group] = key
        return parents

    def _before(self, position: int, group: bytes) -> bytes | None:
        chunks = self._groups.get(group, [])
        place = bisect.bisect_left(chunks, (position,))
        return chunks[place - 1][1] if place > 0 else None


def _prompt_of(req_context: Any) -> _Prompt:
    prompt: _Prompt | None = req_context.get_state(_Prompt)
    if prompt is None:
        prompt = _Prompt()
        req_context.set_state(prompt)
    return prompt


def _group_of(key: bytes) -> bytes:
    return key[-4:]  # vLLM's make_offload_key


def model_fingerprint(offloading_spec: Any, row_bytes: int) -> dict[str, str]:
    """What the bytes of a chunk depend on beside its tokens, as far as vLLM tells a tier. All of it: an
    engine of another layout, or another release, must not find them."""
    config = offloading_spec.config
    parallel = config.parallel
    layout = {
        "row_bytes": row_bytes,
        "tokens_per_hash": config.cache.tokens_per_hash,
        "blocks_per_chunk": config.cache.blocks_per_chunk,
        "parallel": [parallel.tp_size, parallel.pp_size, parallel.pcp_size, parallel.dcp_size],
        "groups": [[group.tokens_per_block, list(group.layer_names)] for group in config.groups],
        "kv_cache_layout": config.kv_cache_layout,
        "canonical_layout": config.canonical_layout,
        "replicated_layout": config.replicated_layout,
    }
    return {
        "engine": f"vllm-{vllm.__version__}",
        "model": config.model.name,
        "dtype": config.model.dtype,
        # Some kinds of RoPE scaling go by it, and it is the one trace of --hf-overrides that a tier sees.
        "max_model_len": str(getattr(config.model, "max_model_len", 0)),
        "layout": hashlib.blake2b(json.dumps(layout).encode(), digest_size=16).hexdigest(),
    }
