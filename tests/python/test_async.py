"""AsyncClient, memoize and get_or_compute."""

import asyncio
import subprocess
import sys
import threading

import numpy as np
import pytest

import infercache
from conftest import until


def run(main):
    return asyncio.run(asyncio.wait_for(main, 30))


@pytest.mark.parametrize("lane", ["local", "remote"])
def test_async_calls(daemon, connect, lane):
    client = connect(daemon.endpoint if lane == "local" else daemon.grpc, infercache.AsyncClient)

    async def main():
        assert await client.get("key") is None
        assert await client.put("key", np.arange(100_000))
        assert (await client.get("key")).numpy()[99_999] == 99_999
        many = await asyncio.gather(*(client.put(f"k{i}", b"x" * (i + 1)) for i in range(200)))
        assert all(result.outcome == "stored" for result in many)
        assert await client.match([f"k{i}" for i in range(300)]) == 200
        assert await client.exists_many(["k0", "gone"]) == [True, False]
        assert await client.delete("k0") and not await client.exists("k0")
        room = bytearray(2)
        assert await client.get_into_many(["k1", "gone"], [room, bytearray(1)]) == [2, None]
        assert room == b"xx"
        with pytest.raises(ValueError):
            await client.get("")
        assert bytes(await client.get_or_compute("computed", lambda: b"value")) == b"value"

        async def never():
            raise AssertionError("it is there")

        assert bytes(await client.get_or_compute("computed", never)) == b"value"

    run(main())


def test_async_waiters_get_what_one_computes(daemon, connect):
    clients = [connect(cls=infercache.AsyncClient) for _ in range(4)]
    computed = []

    async def compute():
        computed.append(1)
        await asyncio.sleep(0)
        return b"value"

    async def main():
        views = await asyncio.gather(*(client.get_or_compute("key", compute) for client in clients))
        assert [bytes(view) for view in views] == [b"value"] * 4

    run(main())
    assert len(computed) == 1


def test_a_computation_that_raises_passes_on(connect):
    one, two = connect(), connect()
    with pytest.raises(ZeroDivisionError):
        one.get_or_compute("key", lambda: 1 // 0)
    assert bytes(two.get_or_compute("key", lambda: b"two")) == b"two"
    assert bytes(one.get_or_compute("key", lambda: 1 // 0)) == b"two"


def test_eight_threads_and_a_loop(daemon, connect):
    client = connect()
    value = np.arange(50_000)
    client.put("key", value)
    errors = []

    def work(number):
        try:
            for i in range(300):
                assert client.put(f"{number}/{i}", value[i:]).outcome == "stored"
                assert (client.get(f"{number}/{i}").numpy()[:5] == value[i : i + 5]).all()
                assert client.delete(f"{number}/{i}")
        except BaseException as error:
            errors.append(error)
            raise

    async def loop():
        async with infercache.AsyncClient(daemon.endpoint, fingerprint=client.fingerprint) as other:
            for _ in range(1000):
                assert (await other.get("key")).numpy()[7] == 7

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    run(loop())
    for thread in threads:
        thread.join()
    assert not errors


@pytest.mark.parametrize("order", ["infercache, grpc", "grpc, infercache"])
def test_grpc_lives_in_the_same_process(daemon, order):
    pytest.importorskip("grpc")
    script = f"""
import {order}
channel = grpc.insecure_channel({daemon.grpc!r})
for endpoint in ({daemon.endpoint!r}, {daemon.grpc!r}):
    with infercache.connect(endpoint, fingerprint={{"order": {order!r}}}) as client:
        client.ping()
        assert client.put("key", b"x" * 100_000, overwrite=True)
        assert len(client.get("key")) == 100_000
        check = channel.unary_unary("/grpc.health.v1.Health/Check")
        assert check(b"", timeout=20) == bytes([8, 1])
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)


def test_a_restarted_daemon_is_found_again(own_daemon):
    with infercache.connect(own_daemon.endpoint, deadline=2) as client:
        client.put("key", b"old")
        view = client.get("key")
        own_daemon.kill()
        until(lambda: client.get("key") is None, "gets become misses")
        assert bytes(view) == b"old"
        own_daemon.start()
        until(lambda: client.put("key", b"new"), "the new daemon is found")
        assert bytes(client.get("key")) == b"new" and bytes(view) == b"old"


def test_memoize(connect):
    calls = []

    def function(x, scale=2):
        calls.append(1)
        return {"out": (x * scale, [1, 2.5, None, "s", b"b", np.float32(3)])}

    arrays = [np.arange(5), np.arange(5.0), np.arange(6)]
    for _ in range(2):
        memoized = connect().memoize(version="1")(function)
        for array in arrays:
            out, rest = memoized(array)["out"]
            assert (out == array * 2).all() and out.dtype == array.dtype and out.flags.writeable
            assert rest == [1, 2.5, None, "s", b"b", 3] and type(rest[5]) is np.float32
    assert len(calls) == 3
    with pytest.raises(TypeError, match="cannot hash"):
        memoized(object())
    with pytest.raises(TypeError, match="cannot cache"):
        connect().memoize()(lambda: {1, 2})()
