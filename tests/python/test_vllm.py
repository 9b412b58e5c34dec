"""infercache.vllm: a secondary tier, driven as vLLM's tiering manager drives it.

Against vLLM's own base classes, and inside its own manager, where vLLM is installed; else against the
names in engines/."""

import hashlib
import socket
import time
from types import SimpleNamespace

import numpy as np
import pytest

from conftest import Daemon, until, use_engine

REAL = use_engine("vllm")

from vllm.v1.kv_offload.base import (  # noqa: E402
    LookupResult,
    ReqContext,
    RequestOffloadingContext,
    ScheduleEndContext,
)
from vllm.v1.kv_offload.tiering.base import SecondaryTierManager, TransferJob  # noqa: E402

from infercache.vllm import InfercacheTier, model_fingerprint  # noqa: E402

ROW = 4096
CHUNKS = 64


def spec_of(**changes):
    """An OffloadingSpec, as far as a tier looks at it."""
    fields = {
        "model": SimpleNamespace(name="meta-llama/Llama-3-8B", dtype="bfloat16"),
        "cache": SimpleNamespace(tokens_per_hash=16, blocks_per_chunk=1),
        "parallel": SimpleNamespace(tp_size=1, pp_size=1, pcp_size=1, dcp_size=1),
        "groups": (SimpleNamespace(tokens_per_block=16, layer_names=("model.layers.0.self_attn",)),),
        "kv_cache_layout": "NHD",
        "canonical_layout": False,
        "replicated_layout": False,
    }
    return SimpleNamespace(config=SimpleNamespace(**fields | changes))


def key_of(number, group=0):
    return number.to_bytes(32, "big") + group.to_bytes(4, "big")


class Engine:
    """One engine: its CPU tier, and our tier below it."""

    def __init__(self, endpoint, test, spec=None, **options):
        self.memory = np.zeros((CHUNKS, ROW), np.int8)
        options = {"endpoint": endpoint, "fingerprint": {"test": test}} | options
        self.tier = InfercacheTier(spec or spec_of(), memoryview(self.memory), "InfercacheTier", **options)
        self.request = ReqContext(req_id="request-1")
        self.jobs = 0

    def job(self, keys, chunks, load):
        """As vLLM makes it: the keys of a store are a set, and chunk_ids are in the order of its iteration."""
        chunk_of = dict(zip(keys, chunks, strict=True))
        keys = list(keys) if load else set(keys)
        self.jobs += 1
        return TransferJob(
            job_id=self.jobs, keys=keys, chunk_ids=np.array([chunk_of[key] for key in keys], np.int32),
            is_promotion=load, req_context=self.request,
        )  # fmt: skip

    def prompt(self, keys, request="request-1"):
        """A request of these keys, chunk by chunk, of which vLLM records where in the prompt each ends."""
        self.request = ReqContext(req_id=request)
        for number, key in enumerate(keys):
            self.request.set_offload_key_position(key, 16 * (number + 1))
        return keys

    def finished(self, count=1):
        results = []
        until(lambda: results.extend(self.tier.get_finished_jobs()) or len(results) >= count, "finished jobs")
        return results

    def store(self, keys, chunks):
        self.tier.submit_store(self.job(keys, chunks, load=False))
        return self.finished()[0]

    def load(self, keys, chunks):
        self.tier.submit_load(self.job(keys, chunks, load=True))
        return self.finished()[0]

    def step(self):
        self.tier.on_schedule_end(ScheduleEndContext(new_req_ids=(), preempted_req_ids=()))

    def lookup(self, key):
        return self.tier.lookup(key, self.request)


@pytest.fixture
def engine(daemon, request):
    engines = []

    def make(endpoint=daemon.endpoint, **options):
        engines.append(Engine(endpoint, request.node.nodeid, **options))
        return engines[-1]

    yield make
    for made in engines:
        made.tier.shutdown()


def test_another_engine_loads_what_one_stored(engine):
    one, two = engine(), engine()
    assert isinstance(one.tier, SecondaryTierManager)
    assert isinstance(one.tier.on_new_request(one.request), RequestOffloadingContext)
    one.memory[3], one.memory[7] = 33, 77
    keys = [key_of(1), key_of(2)]
    assert one.lookup(keys[0]) is LookupResult.MISS
    assert one.store(keys, [3, 7]).success
    assert [two.lookup(key) for key in [*keys, key_of(3)]] == [
        LookupResult.HIT,
        LookupResult.HIT,
        LookupResult.MISS,
    ]
    assert two.load(keys, [60, 0]).success
    assert (two.memory[60] == 33).all() and (two.memory[0] == 77).all() and not two.memory[1:60].any()
    assert one.store(keys, [0, 1]).success, "chunks that are there already"
    one.tier.touch(keys, one.request)


def chain_keys(seed, count, group=0):
    """Keys as hashes are: in no order of theirs."""
    return [hashlib.sha256(f"{seed} {i}".encode()).digest() + group.to_bytes(4, "big") for i in range(count)]


def puts_of(engine, monkeypatch):
    """(key, parent) of each put from here on, a list for each job."""
    seen = []
    put_many = engine.tier._client._put_many

    def spy(puts, deadline):
        seen.append([(key, info[-1]) for key, _, info, _ in puts])
        return put_many(puts, deadline)

    monkeypatch.setattr(engine.tier._client, "_put_many", spy)
    return seen


def test_a_store_names_the_chunk_before_each(engine, monkeypatch):
    """Whatever order a set has; over the jobs of a chunked prefill, and behind chunks that only another tier has."""
    one = engine()
    seen = puts_of(one, monkeypatch)
    keys = one.prompt(chain_keys("prompt", 48))
    for start in (8, 24):  # what is before was a hit in the CPU tier
        one.memory[:16] = np.arange(start, start + 16)[:, None]
        assert one.store(keys[start : start + 16], range(16)).success
    parents = dict(zip(keys[1:], keys, strict=False))
    assert seen == [[(key, parents[key]) for key in keys[start : start + 16]] for start in (8, 24)]
    two = engine()
    assert two.load(keys[8:40], range(32)).success
    assert (two.memory[:32] == np.arange(8, 40, dtype=np.int8)[:, None]).all(), "each chunk has its own bytes"


def test_each_group_is_a_chain(engine, monkeypatch):
    """A window's chunks are not all stored; the chunks of all groups at one place of the prompt stand together."""
    one = engine()
    seen = puts_of(one, monkeypatch)
    full, window = chain_keys("full", 4), chain_keys("window", 4, group=1)
    one.request = ReqContext(req_id="request-1")
    for number in range(4):
        one.request.set_offload_key_position(full[number], 16 * (number + 1))
        one.request.set_offload_key_position(window[number], 16 * (number + 1))
    assert one.store([*full[:2], window[1]], [0, 1, 2]).success
    assert one.store([full[2], window[2], full[3]], [0, 1, 2]).success
    unknown = key_of(1)
    assert one.store([unknown], [0]).success
    assert seen == [
        [(full[0], None), (full[1], full[0]), (window[1], window[0])],
        [(full[2], full[1]), (window[2], window[1]), (full[3], full[2])],
        [(unknown, None)],
    ]


def test_what_is_evicted_is_the_end_of_a_prompt(tmp_path, engine):
    """The chunks of a prompt are of use only behind all before them: when others take their room, what stays is its
    beginning."""
    daemon = Daemon(tmp_path, "--capacity", "4MiB", "--default-quota", "256KiB").start()
    try:
        one = engine(daemon.endpoint)
        prompts = [chain_keys(name, 40) for name in ("first", "second")]
        for number, keys in enumerate(prompts):
            one.prompt(keys, request=f"request-{number}")
            for start in range(0, len(keys), 8):  # chunked prefill: a job for each step
                assert one.store(keys[start : start + 8], range(8)).success
        kept = [one.tier._client.exists_many(keys) for keys in prompts]
        assert 10 < sum(kept[0]) < 40, "the second took room of the first"
        for there in kept:
            prefix = [*there, False].index(False)
            assert prefix == sum(there), f"a prefix of {prefix} of {sum(there)} chunks"
    finally:
        daemon.stop()


def test_a_failed_load_is_a_miss_for_its_request(engine):
    one = engine()
    one.memory[1] = 1
    one.store([key_of(1), key_of(2)], [1, 1])
    one.tier._client.delete(key_of(2))
    result = one.load([key_of(1), key_of(2)], [5, 6])
    assert not result.success and list(result.successful_keys) == [key_of(1)]
    assert (one.memory[5] == 1).all()
    one.store([key_of(2)], [1])  # it comes back, but this request has decided to compute it
    assert [one.lookup(key_of(1)), one.lookup(key_of(2))] == [LookupResult.HIT, LookupResult.MISS]
    assert one.tier.lookup(key_of(2), ReqContext(req_id="request-2")) is LookupResult.HIT
    one.tier.on_request_finished(one.request)
    assert one.lookup(key_of(2)) is LookupResult.HIT


def test_nothing_is_kept_of_a_request_that_ended(engine):
    """Also if a load of its fails only then."""
    one = engine()
    one.tier.submit_load(one.job([key_of(1)], [0], load=True))
    one.tier.on_request_finished(one.request)
    assert not one.finished()[0].success
    assert not one.tier._failed and not one.tier._loads


@pytest.mark.parametrize(
    ("where", "lacking"), [("TransferJob", "chunk_ids"), ("ReqContext", "get_offload_key_position")]
)
def test_a_release_that_is_too_old_is_refused(daemon, engine, monkeypatch, where, lacking):
    """0.28 to 0.30, which would otherwise fail in the scheduler."""
    older = type(where, (), {"__dataclass_fields__": ("job_id", "keys", "block_ids", "req_context")})
    monkeypatch.setattr(f"infercache.vllm.{where}", older)
    with pytest.raises(RuntimeError, match=f"needs vLLM .* has no .*{lacking}"):
        engine()


def test_an_engine_of_another_model_or_layout_finds_nothing(engine):
    one = engine()
    one.store([key_of(1)], [0])
    others = [
        {"spec": spec_of(model=SimpleNamespace(name="other", dtype="bfloat16"))},
        {"spec": spec_of(model=SimpleNamespace(name="meta-llama/Llama-3-8B", dtype="float16"))},
        {
            "spec": spec_of(
                model=SimpleNamespace(name="meta-llama/Llama-3-8B", dtype="bfloat16", max_model_len=131072)
            )
        },
        {"spec": spec_of(parallel=SimpleNamespace(tp_size=2, pp_size=1, pcp_size=1, dcp_size=1))},
        {"spec": spec_of(kv_cache_layout="HND")},
        {"spec": spec_of(cache=SimpleNamespace(tokens_per_hash=16, blocks_per_chunk=2))},
        {"fingerprint": {"test": "another revision"}},
    ]
    assert [engine(**other).lookup(key_of(1)) for other in others] == [LookupResult.MISS] * len(others)
    assert engine().lookup(key_of(1)) is LookupResult.HIT
    assert model_fingerprint(spec_of(), ROW) != model_fingerprint(spec_of(), 2 * ROW)


def submit_all(engine):
    """A job of four chunks for each four rows; how many."""
    keys = [key_of(i) for i in range(CHUNKS)]
    for i in range(0, CHUNKS, 4):
        engine.tier.submit_store(engine.job(keys[i : i + 4], range(i, i + 4), load=False))
    return CHUNKS // 4


def test_submits_do_not_wait_and_drain_does(engine):
    one = engine()
    count = submit_all(one)
    one.tier.drain_jobs()
    results = list(one.tier.get_finished_jobs())
    assert sorted(r.job_id for r in results) == list(range(1, count + 1))
    stored = one.tier._client.exists_many([key_of(i) for i in range(CHUNKS)])
    assert [r.success for r in sorted(results, key=lambda r: r.job_id)] == stored[::4], (
        "the rest was given up"
    )


@pytest.mark.parametrize("end", ["drain_jobs", "shutdown"])
def test_a_slow_daemon_holds_up_no_more_than_the_jobs_that_have_begun(engine, monkeypatch, end):
    """vLLM drains before a weight update and at its end, in the scheduler."""
    one = engine(threads=2)
    begun = []

    def slow(puts, deadline):
        begun.append(puts)
        time.sleep(0.2)
        return [("refused", "DEADLINE_EXCEEDED", "")] * len(puts)

    monkeypatch.setattr(one.tier._client, "_put_many", slow)
    count = submit_all(one)
    getattr(one.tier, end)()
    assert len(begun) <= 4 < count
    results = list(one.tier.get_finished_jobs())
    assert sorted(r.job_id for r in results) == list(range(1, count + 1))
    assert not any(r.success for r in results)


def test_the_daemon_may_die(own_daemon, engine):
    one = engine(own_daemon.endpoint, deadline=1)
    one.memory[0] = 9
    assert one.store([key_of(1)], [0]).success
    own_daemon.kill()
    until(lambda: one.lookup(key_of(1)) is LookupResult.MISS, "lookups miss")
    assert not one.store([key_of(2)], [0]).success
    assert not one.load([key_of(1)], [1]).success and not one.memory[1].any()
    one.tier.on_request_finished(one.request)
    own_daemon.start()
    until(lambda: one.store([key_of(1)], [0]).success, "the next daemon takes stores")
    assert one.lookup(key_of(1)) is LookupResult.HIT
    assert one.load([key_of(1)], [1]).success and (one.memory[1] == 9).all()


def test_a_hanging_daemon_does_not_hold_up_the_scheduler(own_daemon, engine):
    one = engine(own_daemon.endpoint)
    one.store([key_of(1)], [0])
    own_daemon.pause()
    try:
        start = time.monotonic()
        for number in range(100):
            one.lookup(key_of(number))
        one.tier.submit_store(one.job([key_of(9)], [0], load=False))
        assert time.monotonic() - start < 1, "a deadline of a store is 5 s"
    finally:
        own_daemon.resume()
    assert one.finished()[0].success


class MuteDaemon:
    """Takes connections and says nothing."""

    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.bind(str(path))
        self.socket.listen()
        self.endpoint = f"unix:{path}"


def test_a_step_waits_once_for_a_daemon_that_does_not_answer(tmp_path, engine, monkeypatch):
    """Not once for each key."""
    mute = MuteDaemon(tmp_path / "mute.sock")
    one = engine(mute.endpoint)
    asked = []
    exists = one.tier._client.exists

    def spy(key, deadline):
        asked.append(key)
        return exists(key, deadline=deadline)

    monkeypatch.setattr(one.tier._client, "exists", spy)
    for count in (1, 2):
        assert [one.lookup(key_of(number)) for number in range(50)] == [LookupResult.MISS] * 50
        one.tier.touch([key_of(1)], one.request)
        assert len(asked) == count
        one.step()


def test_the_log_says_why_nothing_hits(own_daemon, engine, caplog):
    engine(f"{own_daemon.endpoint}.not")
    [record] = caplog.records
    assert record.name == "infercache" and "infercached.sock.not" in record.getMessage()
    one = engine(own_daemon.endpoint)
    own_daemon.kill()
    caplog.clear()

    def step():
        one.lookup(key_of(1))
        one.tier.get_finished_jobs()
        return caplog.records

    until(step, "a warning")
    assert "UNAVAILABLE" in caplog.text


def test_a_daemon_of_another_host_is_refused(daemon, engine):
    with pytest.raises(ValueError, match="of this host"):
        engine(daemon.grpc)


@pytest.mark.skipif(not REAL, reason="vLLM is not installed")
def test_inside_vllms_own_manager(daemon, request):
    """Its factory makes the tier, its tiering manager stores a chunk in one engine and promotes it in
    another. Only the copies between GPU and CPU tier are missing."""
    from vllm.v1.kv_offload.cpu.shared_offload_region import SharedOffloadRegion
    from vllm.v1.kv_offload.tiering.factory import SecondaryTierFactory
    from vllm.v1.kv_offload.tiering.manager import CPUPrimaryTierOffloadingManager, TieringOffloadingManager

    def engine(name):
        region = SharedOffloadRegion(
            engine_id=f"infercache-test-{name}-{time.time_ns()}", num_chunks=8, rank=None, kv_bytes_per_chunk=ROW,
            cpu_page_size=ROW,
        )  # fmt: skip
        primary = CPUPrimaryTierOffloadingManager(8, region)
        tier = SecondaryTierFactory.create_secondary_tier(
            {
                "type": "InfercacheTier", "module_path": "infercache.vllm", "endpoint": daemon.endpoint,
                "fingerprint": {"test": request.node.nodeid},
            },
            primary.get_kv_memoryview(), spec_of(),
        )  # fmt: skip
        return TieringOffloadingManager(primary, [tier]), primary

    def step(manager):
        manager.on_schedule_end(ScheduleEndContext(new_req_ids=(), preempted_req_ids=()))

    def rows(primary):
        return np.frombuffer(primary.get_kv_memoryview().cast("B"), np.uint8).reshape(8, ROW)

    keys = [key_of(1), key_of(2)]
    one, one_primary = engine("one")
    context = ReqContext(req_id="request-1")
    one.on_new_request(context)
    prepared = one.prepare_store(keys, context)
    for chunk, value in zip(prepared.store_spec.block_ids, (11, 22), strict=True):
        rows(one_primary)[chunk] = value  # what the GPU worker copies
    one.complete_store(keys, context)
    until(lambda: step(one) or not one.has_pending_work(), "the cascade to our tier")
    one.on_request_finished(context)

    two, two_primary = engine("two")
    context = ReqContext(req_id="request-2")
    two.on_new_request(context)
    assert two.lookup(keys[0], context) is LookupResult.HIT_PENDING
    assert two.lookup(keys[1], context) is LookupResult.HIT_PENDING
    assert two.lookup(key_of(3), context) is LookupResult.MISS
    until(lambda: step(two) or two.lookup(keys[0], context) is LookupResult.HIT, "the promotion")
    assert two.lookup(keys[1], context) is LookupResult.HIT
    loaded = two.prepare_load(keys, context)
    assert [set(rows(two_primary)[chunk]) for chunk in loaded.block_ids] == [{11}, {22}]
    two.complete_load(keys, context)
    two.on_request_finished(context)
    for manager in (one, two):
        manager.shutdown()
