"""Redis for short claims: the same promises while it keeps its keys, and by how much it is weaker when it does not."""

from __future__ import annotations

import contextlib

import pytest

from buttress import servers
from buttress.kernel.clock import ManualClock
from buttress.kernel.errors import Unavailable
from buttress.kernel.idempotency import Done, New
from buttress.testing import idempotency as conformance

pytestmark = pytest.mark.xdist_group("redis")
driver = pytest.importorskip("redis")
from buttress.kernel.idempotency_redis import RedisIdempotency  # noqa: E402

CASE = conformance.Case(lambda clock: None, neighbour=True, reopen=True)


@pytest.fixture(scope="module")
def redis():
    try:
        with servers.redis() as server:
            yield server
    except servers.NotThere as missing:
        pytest.skip(f"{missing.message}; {missing.fix}")


@pytest.fixture
def maker(redis, request):
    made = iter(range(1000))

    def make(clock):
        return RedisIdempotency.from_url(redis.url, f"{redis.prefix}{request.node.name}{next(made)}", clock=clock)

    return make


@pytest.mark.parametrize("promise", conformance.promises(CASE), ids=lambda p: p.__name__)
def test_promise(maker, redis, promise):
    promise(conformance.Case(
        maker,
        reopen=lambda mine, clock: RedisIdempotency(mine._client, mine._prefix.decode()[10:-2], clock=clock),
        neighbour=lambda mine, clock: RedisIdempotency(mine._client, "another", clock=clock),
    ))


def test_the_server_keeps_the_time_where_no_clock_is_given(redis):
    mine = RedisIdempotency.from_url(redis.url, f"{redis.prefix}server time")
    assert mine.claim("a", b"f", 1000) == New(1)
    assert mine.claim("a", b"f", 1000).until > 1_700_000_000


def test_outcomes_are_retired_in_batches(maker):
    clock = ManualClock()
    mine = maker(clock)
    for n in range(1500):
        mine.settle(str(n), mine.claim(str(n), b"", 60).fence, b"outcome")
    assert mine.retire(clock.now() + 1) == 1500
    assert mine.claim("7", b"", 60) == Done(None)


def test_a_server_that_is_gone_is_unavailable(maker, redis):
    mine = RedisIdempotency.from_url("redis://127.0.0.1:1", timeout_s=0.5)
    with pytest.raises(Unavailable, match="not known"):
        mine.claim("a", b"", 60)


def test_weaker_an_evicting_server_forgets_what_was_done():
    """Documented: a key that was evicted is New, and its effect happens again. ``noeviction`` refuses instead."""
    with _server(settings={"maxmemory": "5mb", "maxmemory-policy": "allkeys-lru", "appendonly": "no"}) as small:
        mine = RedisIdempotency.from_url(small.url)
        for n in range(12_000):
            mine._client.hset(mine._key(f"done {n}"), mapping={"f": b"", "n": 1, "u": 0, "s": 1, "o": b"x" * 300})
        again = sum(isinstance(mine.claim(f"done {n}", b"", 60), New) for n in range(0, 12_000, 40))
        assert again > 0, "nothing was evicted: the test shows nothing"


def test_weaker_a_failover_forgets_what_the_replica_had_not_seen():
    """Documented: 200 keys acknowledged behind a cut link, none of them on the replica that is promoted."""
    from buttress.proof.faults.proxy import Relay

    with _server() as leader, contextlib.ExitStack() as link:
        host, port = leader.url.removeprefix("redis://").split(":")
        through = link.enter_context(Relay(host, int(port), "delay", frozenset()).serving())
        with _server(replica_of=servers.Redis(f"redis://127.0.0.1:{through}", "", None)) as follower:
            client = driver.Redis.from_url(follower.url)
            _until(lambda: client.info("replication")["master_link_status"] == "up")
            first = RedisIdempotency.from_url(leader.url)
            first.settle("before", first.claim("before", b"", 60).fence, b"done")
            _until(lambda: client.exists(first._key("before")))
            link.close()  # the link is cut; a paused replica would still be fed by the kernel
            for n in range(200):
                first.settle(str(n), first.claim(str(n), b"", 60).fence, b"done")
            client.replicaof("NO", "ONE")
            promoted = RedisIdempotency.from_url(follower.url)
            assert promoted.claim("before", b"", 60) == Done(b"done")
            assert all(isinstance(promoted.claim(str(n), b"", 60), New) for n in range(200))


@contextlib.contextmanager
def _server(**options):
    try:
        with servers.redis(**options) as server:
            yield server
    except servers.NotThere as missing:
        pytest.skip(f"{missing.message}; {missing.fix}")


def _until(condition, timeout_s=10.0):
    import time

    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come about"
        time.sleep(0.01)
