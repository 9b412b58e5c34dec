"""Daemons that die, threads, event loops and other users of gRPC in one process."""

import asyncio
import functools
import subprocess
import sys
import threading

import numpy as np
import pytest

import infercache
from conftest import until


def test_a_killed_daemon_is_a_miss_and_the_next_one_serves(own_daemon):
    with infercache.connect(own_daemon.endpoint, deadline=2) as client:
        client.put("key", np.arange(100))
        view = client.get("key")
        own_daemon.kill()
        until(lambda: client.get("key") is None, "a miss")
        assert not client.put("other", b"x")
        assert (view.numpy() == np.arange(100)).all(), "a view outlives the daemon"
        own_daemon.start()
        until(lambda: client.put("key", b"new"), "the next daemon takes puts")
        assert bytes(client.get("key")) == b"new"


def test_eight_threads_share_a_client(client):
    failures = []

    def work(number):
        try:
            for i in range(100):
                key = f"{number}/{i % 10}"
                client.put(key, np.full(100, number))
                if not (client.get(key).numpy() == number).all():
                    failures.append(key)
        except Exception as error:  # told to the test's own thread
            failures.append(error)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


@pytest.mark.parametrize("lane", ["local", "remote"])
def test_asyncio(daemon, connect, lane):
    async def session():
        endpoint = daemon.endpoint if lane == "local" else daemon.grpc
        async with connect(endpoint, cls=infercache.AsyncClient) as client:
            assert await client.get("key") is None
            puts = [client.put(f"k{i}", np.full(1000, i)) for i in range(50)]
            assert all(result.outcome == "stored" for result in await asyncio.gather(*puts))
            views = await asyncio.gather(*(client.get(f"k{i}") for i in range(50)))
            assert all((view.numpy() == i).all() for i, view in enumerate(views))
            assert await client.match([f"k{i}" for i in range(60)]) == 50
            calls = 0

            async def compute():
                nonlocal calls
                calls += 1
                await asyncio.sleep(0)
                return b"computed"

            waiting = [client.get_or_compute("once", compute) for _ in range(20)]
            assert {bytes(view) for view in await asyncio.gather(*waiting)} == {b"computed"}
            assert calls == 1
        with pytest.raises(infercache.ClosedError):
            await client.get("key")

    threads = set(threading.enumerate())
    asyncio.run(session())
    assert set(threading.enumerate()) <= threads


def test_get_or_compute_computes_once_over_threads(client):
    calls = []
    results = []

    def work():
        results.append(bytes(client.get_or_compute("key", lambda: calls.append(1) or b"value")))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(calls) == 1 and results == [b"value"] * 8


def test_an_exception_of_compute_goes_through(client):
    with pytest.raises(ZeroDivisionError):
        client.get_or_compute("key", lambda: 1 / 0)
    assert bytes(client.get_or_compute("key", lambda: b"value")) == b"value"


def test_memoize_gives_back_what_the_function_gave(client):
    calls = []

    @client.memoize(version="1")
    def function(a, *, b):
        calls.append((a, b))
        return {"sum": np.asarray(a) + b, "name": "x", "rest": [None, 1.5, (b"bytes", True)]}

    first, second = function([1, 2], b=3), function([1, 2], b=3)
    assert calls == [([1, 2], 3)]
    assert (first["sum"] == second["sum"]).all() and first["sum"].dtype == second["sum"].dtype
    assert {k: v for k, v in first.items() if k != "sum"} == {k: v for k, v in second.items() if k != "sum"}
    function([1, 2], b=4)
    assert len(calls) == 2
    with pytest.raises(TypeError, match="cannot hash"):
        function(object(), b=1)


def made(text):
    """A function of a script of its own, as `python script.py` runs it."""
    names = {"__name__": "__main__"}
    exec(text, names)
    return names["function"]


def test_functions_of_one_name_that_do_something_else_share_nothing(client):
    functions = [
        made(f"def function(x, by={by}): return [x, by, {more}]") for by, more in ((1, 1), (1, 2), (2, 2))
    ]
    functions.append(made("function = lambda x: 'a lambda'"))
    for _ in range(2):
        assert [client.memoize()(function)(3) for function in functions] == [[3, 1, 1], [3, 1, 2], [3, 2, 2], "a lambda"]
    factor = 2
    for unknown in (lambda x: x * factor, functools.partial(functions[0], 1), len):
        with pytest.raises(ValueError, match="say it by version="):
            client.memoize()(unknown)
    with pytest.raises(ValueError, match="default"):
        client.memoize()(lambda x=object(): 1)
    assert client.memoize(version="1")(lambda x: x * factor)(3) == 6
    assert client.memoize(key=lambda x: f"key/{x}")(lambda x: x * factor)(4) == 8


def test_a_masked_array_is_no_key_and_no_value(client):
    masked = np.ma.masked_array([1, 2], mask=[False, True])
    with pytest.raises(TypeError, match="mask"):
        client.memoize()(made("def function(x): return 1"))(masked)
    with pytest.raises(TypeError, match="mask"):
        client.put("masked", masked)


@pytest.mark.parametrize("order", ["grpc, infercache", "infercache, grpc"])
def test_it_lives_in_one_process_with_grpcio(daemon, order):
    pytest.importorskip("grpc")
    program = f"""
import {order}
channel = grpc.insecure_channel({daemon.grpc!r})
grpc.channel_ready_future(channel).result(20)
for endpoint in ({daemon.endpoint!r}, {daemon.grpc!r}):
    with infercache.connect(endpoint) as client:
        client.put("both", b"x", overwrite=True)
        assert bytes(client.get("both")) == b"x"
channel.close()
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
