"""What an adapter says in the log: its engine sees misses alone."""

import logging
from types import SimpleNamespace

import pytest

import infercache
from conftest import until
from infercache import _health
from infercache.lmcache import Connector


@pytest.fixture
def warnings(caplog):
    """What was said since the last call."""
    caplog.set_level(logging.WARNING, "infercache")

    def take():
        said = [record.getMessage() for record in caplog.records if record.name == "infercache"]
        caplog.clear()
        return said

    return take


def test_a_daemon_that_does_not_serve_is_told_once_with_the_reason(daemon, tmp_path, warnings):
    for endpoint, options, reason in [
        (f"unix:{tmp_path}/none.sock", {}, "No such file"),
        (daemon.endpoint, {"namespace": "no-such"}, "no namespace 'no-such'"),
        (daemon.grpc, {"namespace": "no-such"}, "no-such"),
    ]:
        with infercache.connect(endpoint, **options) as client:
            health = _health.Health(client, "engine")
            health.ping()
            for _ in range(10):
                client.get("key")
                health.look()
        [said] = warnings()
        assert "infercache.engine" in said and reason in said


def test_each_change_of_the_cause_is_told_but_none_again_and_again(warnings, monkeypatch):
    now = SimpleNamespace(monotonic=lambda: now.time, time=0.0)
    monkeypatch.setattr(_health, "time", now)
    client = SimpleNamespace(last_failure=None)
    health = _health.Health(client, "engine")
    health.look()
    assert warnings() == []
    for seconds, code, told in [
        (0, "UNAVAILABLE", 1), (1, "UNAVAILABLE", 0), (2, "DEADLINE_EXCEEDED", 1), (3, "UNAVAILABLE", 0),
        (4, "DEADLINE_EXCEEDED", 0), (61, "UNAVAILABLE", 1), (70, "UNAVAILABLE", 0),
    ]:  # fmt: skip
        now.time = seconds
        client.last_failure = infercache.Failure(code, "because")
        health.look()
        assert len(warnings()) == told, (seconds, code)


def test_a_daemon_that_ends_is_told(own_daemon, warnings):
    connector = Connector(own_daemon.endpoint, deadline=1)
    connector.submit_batch_exists(["key"])
    until(connector.drain_completions, "an answer")
    assert warnings() == []
    own_daemon.kill()

    def failed():
        connector.submit_batch_exists(["key"])
        until(connector.drain_completions, "an answer")
        return warnings()

    [said] = until(failed, "the warning")
    assert "infercache.lmcache: UNAVAILABLE" in said
    connector.close()
