#!/usr/bin/env python3
"""The rows of the Python client, beside redis-py and pymemcache on the same host. Run by compare.sh.

Numbers are taken as bench/README.md says, but a round's number is the median time of a call. Needs
infercache, numpy, redis and pymemcache; without torch the view of 16 MiB is a numpy array.
"""

import argparse
import json
import os
import signal
import statistics
import sys
import time
import warnings

import infercache
import numpy as np
import pymemcache
import redis

try:
    import torch
except ImportError:
    torch = None

ROUNDS, ROUND_S = 5, 2.0
CALLS_PER_LOOK = 50  # at the clock, for calls that are shorter than a look
CHAIN = 4096
LARGE = (4, 1024, 1024)  # float32: 16 MiB


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("case", choices=CASES)
    parser.add_argument("-o", dest="output", choices=["text", "json"], default="text")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--ours", required=True, metavar="unix:PATH")
    parser.add_argument("--memcached", required=True, metavar="PATH")
    parser.add_argument("--redis", required=True, metavar="PATH")
    options = parser.parse_args()
    warnings.filterwarnings("ignore", message="The given buffer is not writable")
    with infercache.connect(options.ours, fingerprint={"bench": "python"}) as client:
        client.ping()
        peers = redis.Redis(unix_socket_path=options.redis), pymemcache.Client(options.memcached)
        rows = CASES[options.case](client, *peers, options.quick)
    for row in rows:
        print_row(row, options.output)
    return 1 if any(row["ok"] is False for row in rows) else 0


# --- Cases: (ours, redis-py, pymemcache), each a call and how many calls a look at the clock covers ---


def get_1k(client, redis_client, memcached, quick):
    value = os.urandom(1024)
    key = store(client, redis_client, memcached, "python_get_1k", value)
    for got in (client.get(key).tobytes(), redis_client.get(key), memcached.get(key)):
        assert got == value
    sides = [
        (lambda: client.get(key), CALLS_PER_LOOK),
        (lambda: redis_client.get(key), 1),
        (lambda: memcached.get(key), 1),
    ]
    return compare("python_get_1k", sides, 2.0, "us", 1e6, quick)


def view_16m(client, redis_client, memcached, quick):
    value = np.random.default_rng(1).random(LARGE, np.float32)
    key = store(client, redis_client, memcached, "python_view_16m", value)

    if torch is None:
        print("python_view_16m: torch is missing; its views are numpy's", file=sys.stderr)
        view = lambda: client.get(key).numpy()  # noqa: E731
        of_bytes = lambda data: np.frombuffer(data, np.float32).reshape(LARGE)  # noqa: E731
    else:
        view = lambda: client.get(key).torch()  # noqa: E731
        of_bytes = lambda data: torch.frombuffer(data, dtype=torch.float32).view(LARGE)  # noqa: E731
    for got in (view(), of_bytes(redis_client.get(key)), of_bytes(memcached.get(key))):
        assert (np.asarray(got) == value).all()
    sides = [
        (view, CALLS_PER_LOOK),
        (lambda: of_bytes(redis_client.get(key)), 1),
        (lambda: of_bytes(memcached.get(key)), 1),
    ]
    return compare("python_view_16m", sides, 5.0, "us", 1e6, quick)


def match_4096(client, redis_client, memcached, quick):
    keys = [f"python_match:{i}" for i in range(CHAIN)]
    client.put_many([infercache.Put(key, b"x") for key in keys])
    redis_client.mset(dict.fromkeys(keys, b"x"))
    memcached.set_many(dict.fromkeys(keys, b"x"))

    def by_redis():
        pipeline = redis_client.pipeline(transaction=False)
        for key in keys:
            pipeline.exists(key)
        return sum(pipeline.execute())

    def by_memcached():
        return len(memcached.get_many(keys))

    sides = [(lambda: client.match(keys), 1), (by_redis, 1), (by_memcached, 1)]
    assert [call() for call, _ in sides] == [CHAIN] * 3
    return compare("python_match_4096", sides, 1.0, "ms", 1e3, quick)


CASES = {"python_get_1k": get_1k, "python_view_16m": view_16m, "python_match_4096": match_4096}


def store(client, redis_client, memcached, key, value):
    data = value if isinstance(value, bytes) else value.tobytes()
    assert client.put(key, value) and redis_client.set(key, data) and memcached.set(key, data, noreply=False)
    return key


# --- Rounds and rows ---


def compare(name, sides, bound, unit, scale, quick):
    """Two rows: ours beside the faster peer in its better condition, and ours beside its bound."""
    names = ["ours", "redis-py", "pymemcache"]
    conditions = {"idle": measure(sides, quick)}
    with BusyCpus():
        conditions["busy"] = measure(sides, quick)
    middle = {(c, i): statistics.median(times[i]) for c, times in conditions.items() for i in range(3)}
    condition, best = min((key for key in middle if key[1] != 0), key=middle.get)
    times = conditions[condition]
    ratios = [peer / ours for ours, peer in zip(times[0], times[best], strict=True)]
    ratio, ours = statistics.median(ratios), middle[condition, 0] * scale
    others = [
        f"{c}: {middle[c, 0] * scale:.4g} beside {names[i]} {middle[c, i] * scale:.4g}"
        for c, i in middle
        if i != 0 and (c, i) != (condition, best)
    ]
    row = {
        "case": name, "ours": ours, "peer": middle[condition, best] * scale, "unit": unit, "ratio": ratio,
        "spread": [min(ratios), max(ratios)], "target": ">= 10", "ok": None if quick else ratio >= 10,
        "note": "; ".join([f"{names[best]}, {condition} counts", *others]),
    }  # fmt: skip
    bounded = {
        "case": f"{name}/bound", "ours": ours, "peer": None, "unit": unit, "ratio": None, "spread": None,
        "target": f"<= {bound:g} {unit}", "ok": None if quick else ours <= bound, "note": "median of the rounds",
    }  # fmt: skip
    return [row, bounded]


def measure(sides, quick):
    """Seconds a call, for each side in each round; each side comes first in turn."""
    times = [[] for _ in sides]
    for number in range(1 if quick else ROUNDS):
        for i in range(len(sides)):
            side = (i + number) % len(sides)
            times[side].append(one_round(*sides[side], 0.1 if quick else ROUND_S))
    return times


def one_round(call, calls, seconds):
    looks = []
    end = time.perf_counter() + seconds
    while True:
        start = time.perf_counter()
        for _ in range(calls):
            call()
        now = time.perf_counter()
        looks.append((now - start) / calls)
        if now >= end:
            return statistics.median(looks)


class BusyCpus:
    """A spinning process for each CPU in the class SCHED_IDLE, which keeps it awake and takes it from nobody."""

    def __enter__(self):
        self.children = [self.spin() for _ in range(os.cpu_count())]

    def __exit__(self, *_):
        for child in self.children:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)

    @staticmethod
    def spin():
        parent = os.getpid()
        child = os.fork()
        if child == 0:
            os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
            while os.getppid() == parent:
                pass
            os._exit(0)
        return child


def print_row(row, output):
    """As bench/compare/row.cc does."""
    if output == "json":
        print(json.dumps(row), flush=True)
        return
    number = lambda value: "-" if value is None else f"{value:.2f}" if value < 100 else f"{value:.1f}"  # noqa: E731
    spread = "-" if row["spread"] is None else "{:.2f}-{:.2f}".format(*row["spread"])
    verdict = {None: "-", True: "yes", False: "MISSED"}[row["ok"]]
    print(
        f"{row['case']:<28} {number(row['ours']):>10} {number(row['peer']):>10} {row['unit']:<6} "
        f"{number(row['ratio']):>7} {spread:>13} {row['target']:>8} {verdict:<6} {row['note']}",
        flush=True,
    )


if __name__ == "__main__":
    sys.exit(main())
