"""A real Redis that loses keys: each loss takes hold, doubles effects for those that stand on it, and meets only a server of ours."""

from __future__ import annotations

import contextlib
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest

from buttress import servers
from buttress.backend.webhooks.proof import PROOF, redis_faults
from buttress.backend.webhooks.proof.redis_faults import EVICTED, FAILED_OVER, FENCED, FLUSHED, Evict, Failover, Flush
from buttress.proof.faults import Capability
from buttress.proof.faults.proxy import Relay
from buttress.proof.run import Options, run

pytestmark = pytest.mark.xdist_group("redis")
driver = pytest.importorskip("redis")
WAIT_S = 15.0


@contextlib.contextmanager
def server(**options):
    try:
        with servers.redis(**{"settings": {"appendonly": "no"}, **options}) as started:
            yield started
    except servers.NotThere as missing:
        pytest.skip(f"{missing.message}; {missing.fix}")


def until(condition) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, "it never came about"
        time.sleep(0.01)


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    """A small proof of this scenario alone: the case's remedy, our fenced claims, and two that need no Redis."""
    with server():
        pass
    named = {subject.name: replace(subject, scale="quick") for subject in (*PROOF.subjects, FENCED)}
    size = replace(PROOF.sizes["quick"], crash_events=10, calls=1)
    small = replace(PROOF, subjects=tuple(named[name] for name in ("no protection", "SETNX on Redis", FENCED.name, "buttress")), sizes={"quick": size},
                    scenarios=redis_faults.scenarios(size), checkers=(redis_faults.forgotten,), claims=(), controls=(), figures=(), races=())
    return run(small, tmp_path_factory.mktemp("run"), Options(scale="quick", seed=3, races=False, probe=lambda name: Capability(name, True, "there")))


def test_each_loss_took_hold_and_no_trial_was_void(outcome):
    assert outcome.errors == []
    assert {name: (fault["armed"], fault["hit"]) for name, fault in outcome.faults.items()} == {FLUSHED: (2, 2), EVICTED: (2, 2), FAILED_OVER: (2, 2)}
    assert set(outcome.faults[FLUSHED]["by"]) == {"SETNX on Redis", FENCED.name}, "who needs no Redis takes no part"


@pytest.mark.parametrize("name", ["SETNX on Redis", FENCED.name])
def test_what_redis_forgets_is_done_again(outcome, name):
    measured = {key: value.value for key, value in outcome.evidence[name].measures.items()}
    assert measured["doubled_remembered"] == 0, "while Redis remembers nothing is doubled: what is doubled below was forgotten"
    assert measured["doubled_flushed"] > 0
    assert measured["doubled_evicted"] > 0
    assert 0 < measured["doubled_failed_over"] < measured["doubled_flushed"], "the replica knew what was told before the link was cut"
    assert all(value == 0 for key, value in measured.items() if key.startswith("lost_"))


def test_nothing_is_armed_at_quick_or_where_nothing_was_called():
    assert redis_faults.scenarios(PROOF.sizes["quick"]) == ()
    assert len(redis_faults.scenarios(PROOF.sizes["full"])) == 1
    for fault in (Flush(), Evict(), Failover()):
        assert list(fault.cases({"marked": 3})) == []
        assert [case.label for case in fault.cases({"@reply": 3})] == [fault.name]


@pytest.mark.parametrize("fault", [Flush(), Evict(), Failover()], ids=lambda fault: fault.name)
def test_another_persons_server_is_left_alone(fault, monkeypatch):
    with server() as theirs, contextlib.closing(driver.Redis.from_url(theirs.url)) as client:
        client.set("theirs", 1)
        monkeypatch.setenv("BUTTRESS_REDIS_URL", theirs.url)
        trial = SimpleNamespace(hit=True, world={"redis": theirs.url})
        (case,) = fault.cases({"@reply": 1})
        with pytest.raises(servers.NotThere, match="of our own"), case.during(trial):
            pytest.fail("it began")
        assert trial.hit is False
        assert client.get("theirs") == b"1"
        assert client.config_get("maxmemory") == {"maxmemory": "0"}


@pytest.mark.parametrize(("cut", "missing"), [(True, 300), (False, 0)], ids=["link cut", "replica stopped"])
def test_a_cut_link_loses_what_a_stopped_replica_does_not(cut, missing):
    """Why the failover cuts its link: a stream to a replica that sleeps waits in the kernel, and is there when it wakes."""
    with server() as leader, contextlib.ExitStack() as link, contextlib.closing(driver.Redis.from_url(leader.url)) as primary:
        primary.config_set("repl-diskless-sync-delay", 0)
        port = link.enter_context(Relay("127.0.0.1", int(leader.url.rpartition(":")[2]), "delay", frozenset()).serving())
        with server(replica_of=servers.Redis(f"redis://127.0.0.1:{port}", "", None)) as follower, contextlib.closing(driver.Redis.from_url(follower.url)) as replica:
            until(lambda: replica.info("replication")["master_link_status"] == "up")
            if cut:
                link.close()
            else:
                follower.server.pause()
            for number in range(300):
                assert primary.set(f"event:{number}", 1, nx=True)
            if not cut:
                follower.server.resume()
                offset = primary.info("replication")["master_repl_offset"]
                until(lambda: replica.info("replication")["slave_repl_offset"] >= offset)
            replica.replicaof("NO", "ONE")
            assert 300 - replica.dbsize() == missing
