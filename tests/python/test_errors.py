"""What raises, and what is a miss instead."""

import os
import pickle

import numpy as np
import pytest

import infercache


def test_arguments_that_can_never_work(client):
    for key in ("", b"", "x" * 1025):
        with pytest.raises(ValueError, match="key"):
            client.get(key)
        with pytest.raises(ValueError, match="key"):
            client.put(key, b"x")
    assert client.put("x" * 1024, b"x")
    for wrong in ({"kind": "tensor"}, {"class_id": 16}, {"ttl": 0}, {"ttl": -1}):
        with pytest.raises(ValueError):
            client.put("key", b"x", **wrong)
    with pytest.raises(ValueError, match="deadline"):
        client.get("key", deadline=0)
    for keys in ("key", b"key"):
        with pytest.raises(TypeError, match="sequence"):
            client.get_many(keys)
    assert not client.exists("key")


@pytest.mark.parametrize("endpoint", ["nonsense", "unix:", "host:99999"])
def test_an_endpoint_that_can_never_work(endpoint):
    with pytest.raises(ValueError):
        infercache.connect(endpoint)


@pytest.mark.parametrize("options", [{"namespace": "No Such"}, {"deadline": 0}, {"fingerprint": {"": "x"}}])
def test_options_that_can_never_work(daemon, options):
    with pytest.raises(ValueError):
        infercache.connect(daemon.endpoint, **options)


@pytest.mark.parametrize("endpoint", ["unix:/nonexistent/socket", "127.0.0.1:1"])
def test_without_a_daemon_everything_is_a_miss(endpoint):
    with infercache.connect(endpoint, deadline=0.5) as client:
        assert client.get("key") is None
        assert client.last_failure.code in ("UNAVAILABLE", "DEADLINE_EXCEEDED") and client.last_failure.reason
        assert client.get_many(["a", "b"]) == [None, None]
        assert client.match(["a"]) == 0
        assert client.exists_many(["a", "b"]) == [False, False]
        refused = client.put("key", b"x")
        assert refused.outcome == "refused" and not refused and refused.code and refused.reason
        assert bytes(client.get_or_compute("key", lambda: b"computed")) == b"computed"
        with pytest.raises(infercache.DaemonError) as raised:
            client.ping()
        assert raised.value.code in ("UNAVAILABLE", "DEADLINE_EXCEEDED") and raised.value.reason


def test_an_unknown_namespace_is_a_miss_and_ping_says_so(daemon):
    with infercache.connect(daemon.endpoint, namespace="nobody-made-it", deadline=2) as client:
        assert client.get("key") is None
        with pytest.raises(infercache.DaemonError, match="nobody-made-it"):
            client.ping()


def test_a_closed_client_says_so(connect):
    client = connect()
    with client:
        client.put("key", b"value")
        view = client.get("key")
    assert client.closed
    client.close()
    for call in (client.get, client.exists, client.delete, lambda key: client.put(key, b"x")):
        with pytest.raises(infercache.ClosedError):
            call("key")
    with pytest.raises(infercache.ClosedError):
        client.ping()
    assert bytes(view) == b"value"  # outlives its client


def test_values_that_are_none(local):
    for value in ({}, 3.5, "text", None, [object()]):
        with pytest.raises(TypeError, match="bytes, a buffer"):
            local.put("key", value)
    with pytest.raises(ValueError, match="at least one part"):
        local.put("key", [])
    for dtype in ("datetime64[s]", "U5", object, np.longdouble):
        with pytest.raises(TypeError, match="no dtype"):
            local.put("key", np.zeros(3, dtype))
    assert not local.exists("key")


def test_clients_and_views_are_not_pickled(local):
    local.put("key", b"x")
    for thing in (local, local.get("key")):
        with pytest.raises(TypeError, match="cannot be pickled"):
            pickle.dumps(thing)


def run_in_child(function):
    """function() in a forked child; fails if it raises, or dies."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            function()
            code = 0
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_fork_is_told_that_it_has_no_client(daemon, local):
    local.put("key", b"value")
    view = local.get("key")

    def child():
        for call in (lambda: local.get("key"), local.ping, lambda: bytes(local.get_many(["key"])[0])):
            with pytest.raises(infercache.ForkedError, match="fork"):
                call()
        for use in (view.tobytes, view.numpy, lambda: view.shape, lambda: bytes(view)):
            with pytest.raises(infercache.ForkedError, match="fork"):
                use()
        view.release()
        local.close()
        with infercache.connect(daemon.endpoint, fingerprint=local.fingerprint) as own:
            assert bytes(own.get("key")) == b"value"

    run_in_child(child)
    assert bytes(view) == b"value" and bytes(local.get("key")) == b"value"
