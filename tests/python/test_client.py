"""The calls of Client, over both lanes."""

import numpy as np
import pytest

import infercache
from infercache import Put


def test_what_is_put_can_be_got(client):
    assert client.get("key") is None
    assert client.last_failure is None  # an absent key is no failure
    result = client.put("key", b"value", kind="output", compute_cost_ms=12.5, ttl=600, class_id=3)
    assert result == ("stored", "OK", "") and result
    with client.get("key") as view:
        assert bytes(view) == view.tobytes() == b"value"
        assert len(view) == view.nbytes == 5
        assert (view.dtype, view.shape) == ("bytes", ())
        assert view.parts == [("bytes", (), 5)]
        assert (view.kind, view.compute_cost_ms) == ("output", 12.5)
        assert 590 < view.ttl <= 600.1
        assert view.zero_copy == (client.lane == "local")


def test_keys_are_str_or_bytes(client):
    client.put("schlüssel", b"1")
    assert bytes(client.get("schlüssel".encode())) == b"1"
    client.put(bytes(range(256)), b"2")
    assert bytes(client.get(bytes(range(256)))) == b"2"
    for call in (client.get, client.exists, lambda key: client.put(key, b"x")):
        with pytest.raises(TypeError, match="str or bytes"):
            call(7)


def test_an_object_stays_unless_it_is_overwritten(client):
    assert client.put("key", b"one").outcome == "stored"
    old = client.get("key")
    again = client.put("key", b"two")
    assert again.outcome == "exists" and again
    assert bytes(client.get("key")) == b"one"
    assert client.put("key", b"two", overwrite=True).outcome == "stored"
    assert bytes(client.get("key")) == b"two"
    assert bytes(old) == b"one"


def test_exists_delete_and_touch(client):
    client.put("here", b"x")
    assert client.exists("here") and not client.exists("gone")
    assert client.exists_many(["gone", "here"]) == [False, True]
    assert client.touch_many(["here", "gone"]) == [True, False]
    view = client.get("here")
    assert client.delete("here") and not client.delete("here")
    assert client.delete_many(["here", "gone"]) == [False, False]
    assert client.get("here") is None and bytes(view) == b"x"


def test_batches_keep_their_order(client):
    puts = [Put(f"k{i}", np.full(1000 * (i + 1), i, np.int32), parent=f"k{i - 1}" if i else None) for i in range(50)]
    assert all(result.outcome == "stored" for result in client.put_many(puts))
    views = client.get_many([f"k{i}" for i in reversed(range(51))])
    assert views[0] is None
    for i, view in zip(reversed(range(50)), views[1:], strict=True):
        assert (view.numpy() == i).all() and view.shape == (1000 * (i + 1),)
    assert client.put_many([]) == client.get_many([]) == client.exists_many([]) == []


def test_match_is_the_length_of_the_cached_prefix(client):
    keys = [f"block{i}" for i in range(100)]
    assert client.match(keys) == client.match([]) == 0
    client.put_many([Put(key, b"x") for key in keys if key != "block70"])
    assert client.match(keys) == 70
    assert client.match(key for key in keys[:70]) == 70


def test_get_into_copies_into_the_callers_buffer(client):
    client.put("key", np.arange(10, dtype=np.int64))
    room = np.zeros(12, np.int64)
    assert client.get_into("key", room) == 80
    assert (room == [*range(10), 0, 0]).all()
    assert client.get_into("gone", room) is None
    with pytest.raises(ValueError):
        client.get_into("key", bytearray(79))
    with pytest.raises((TypeError, BufferError)):
        client.get_into("key", bytes(80))  # read-only
    with pytest.raises(ValueError, match="as many buffers"):
        client.get_into_many(["key"], [])


def test_the_keys_of_the_fingerprint_are_listed(client):
    client.put_many([Put(f"{name}{i}", b"x") for name in "ab" for i in range(3)])
    assert list(client.keys("b")) == [b"b0", b"b1", b"b2"]
    assert len(list(client.keys())) == 6


def test_fingerprints_do_not_meet(connect, daemon):
    one = connect(fingerprint={"model": "a", "dtype": "f16"})
    same = connect(fingerprint={"dtype": "f16", "model": "a"})
    other = connect(fingerprint={"model": "b", "dtype": "f16"})
    one.put("key", b"x")
    assert same.get("key") is not None and other.get("key") is None
    assert one.fingerprint == {"model": "a", "dtype": "f16"}


def test_a_large_value_travels_whole(client):
    value = np.random.default_rng(1).integers(0, 256, 9_000_001, np.uint8)
    assert client.put("key", value)
    assert (client.get("key").numpy() == value).all()


def test_the_endpoint_can_come_from_the_environment(daemon, monkeypatch):
    monkeypatch.setenv("INFERCACHE_ENDPOINT", daemon.endpoint)
    with infercache.connect() as client:
        client.ping()
        assert client.lane == "local"
