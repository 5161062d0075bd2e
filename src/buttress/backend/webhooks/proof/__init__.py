"""The proof of webhooks: no protection, the case's own remedy, ours, and yours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from buttress.backend.webhooks.proof import checkers, peers, redis_faults
from buttress.backend.webhooks.proof.port import Receiver, Served
from buttress.backend.webhooks.proof.racing import lap
from buttress.backend.webhooks.proof.scenarios import (
    Failing,
    KilledMidway,
    Size,
    crash_points,
    outside,
    real_time,
    three_days,
    two_workers,
)
from buttress.backend.webhooks.proof.subjects import at_url
from buttress.proof import Claim, Control, Figure, Proof, Race, Scenario, Subject
from buttress.proof.contract import Measured
from buttress.proof.faults import Crash, CrashAtCall, Pause, Proxy
from buttress.proof.verdict import count

POWERTOOLS = ("pip:aws-lambda-powertools[redis]==3.37.0", "pip:boto3==1.44.8", "pip:uvicorn==0.54.0", "pip:uvloop==0.23.0", "pip:httptools==0.9.0")
INSIDE = ("store.commit", "inbox.received", "inbox.handled", "outbox.settle")  # failpoints within a write transaction
HERE, RACING = "buttress.backend.webhooks.proof.subjects", "buttress.backend.webhooks.proof.racing"


def scenarios(size: Size) -> tuple[Scenario, ...]:
    calls = (CrashAtCall("sync", size.calls, name="kill -9 at a sync"), CrashAtCall("write", size.calls, name="kill -9 at a write")) if size.calls else ()
    shared = (
        *calls, Pause(inside=INSIDE, each=size.each),
        Proxy(("orders", "emails", "credits"), "drop_after_commit", name="answer dropped after commit"),
        Proxy(("orders", "credits"), "outage", every=2, name="callee outage"),
        KilledMidway(("orders", "emails", "credits")),
        Failing(("orders", "credits"), "refuse", "callee answers 503"),
        Failing(("orders", "credits"), "after", "callee acts, then answers 500", lookups=1),
    )
    # A subject that acknowledges before it stores is found by a kill after the acknowledgement of an event that nobody sends again:
    # so those that are judged are killed after every one of them, the ways that broke after a few.
    acknowledged = Crash(each=size.each, replies=size.replies, of=("deliver",))
    few = Crash(each=size.each, replies=2, of=("deliver",))
    started = Crash(replies=size.kills, of=("deliver",))
    return (
        Scenario(checkers.STEADY, three_days, processes=True),
        Scenario(checkers.CRASH, crash_points, (few, *shared), processes=True, roles=("baseline", "peer")),
        Scenario(checkers.CRASH, crash_points, (acknowledged, *shared), processes=True, roles=("buttress", "yours")),
        Scenario(checkers.TWO, two_workers, (few,), processes=True, roles=("peer", "buttress")),
        Scenario(checkers.SERVICE, real_time, (started,), virtual=False, hosting=("service", "url")),
        Scenario(checkers.NOTHING, crash_points, (few,), processes=True, roles=("buttress",)),
        *redis_faults.scenarios(size),
    )


def nothing_wrong(size: Any) -> Measured:
    return count(0, size.events)


PROOF = Proof(
    system="webhooks",
    port=Receiver,
    subjects=(
        Subject("no protection", f"{HERE}:none", "baseline", about="acts at each delivery"),
        Subject("SETNX, 48 h", f"{HERE}:setnx", "baseline", about="the case's own remedy"),
        Subject("SETNX on Redis", f"{HERE}:setnx_redis", "baseline", needs=("redis",), scale="full", about="the same, on a real server"),
        Subject("Powertools", str(Path(__file__).with_name("peers") / "powertools.py") + ":factory", "peer", needs=("redis",), parts=POWERTOOLS,
                scale="full", about="AWS Lambda Powertools 3.37 on Redis"),
        redis_faults.FENCED, *peers.SUBJECTS,
        Subject("buttress", f"{HERE}:buttress", "buttress", about="inbox on SQLite"),
        Subject("buttress on Postgres", f"{HERE}:buttress_postgres", "buttress", needs=("postgres",), scale="full", about="inbox on Postgres"),
    ),
    scenarios=scenarios,
    checkers=(checkers.effects, checkers.states, checkers.forgeries, redis_faults.forgotten),
    claims=(
        Claim("effects doubled or lost over 72 hours and day 10", "wrong", "== 0", "effects", needs=("virtual",), perfect=nothing_wrong),
        Claim("effects doubled or lost when nothing breaks", "wrong_clean", "== 0", "effects", perfect=nothing_wrong),
        Claim("effects doubled or lost under one fault each", "wrong_under_faults", "== 0", "effects", needs=("crash",), perfect=nothing_wrong),
        Claim("orders in a wrong final state", "diverged", "== 0", "orders", perfect=nothing_wrong),
        Claim("forged or stale deliveries acted on", "forged", "== 0", "deliveries", perfect=nothing_wrong),
        Claim("doubled at a callee that honours nothing, at_most_once", "coupons_doubled", "== 0", "effects", about="buttress", perfect=nothing_wrong),
        Claim("lost at a callee that honours nothing, at_least_once", "points_lost", "== 0", "effects", about="buttress", perfect=nothing_wrong),
        Claim("on Postgres: effects doubled or lost over 72 hours and day 10", "wrong", "== 0", "effects", scale="full", needs=("postgres",),
              about="buttress on Postgres", perfect=nothing_wrong),
        Claim("on Postgres: effects doubled or lost under one fault each", "wrong_under_faults", "== 0", "effects", scale="full", needs=("postgres",),
              about="buttress on Postgres", perfect=nothing_wrong),
        Claim("verified events a second over HTTP, 40 in flight", "events_per_s", ">= 3000", "/s", scale="full", speed=True),
        Claim("acknowledgement p99", "ack_p99_ms", "< 20", "ms", scale="full", speed=True),
        Claim("events a second over Powertools", "events_per_s", ">= 1", "×", over="Powertools", scale="full"),
        # SETNX on Redis makes nothing durable before it answers: no bar asks a synced commit to beat that. Half of it is what we stand for.
        Claim("events a second over SETNX on Redis", "events_per_s", ">= 0.5", "×", over="SETNX on Redis", scale="full"),
    ),
    controls=(
        Control("no protection must double at once", "no protection", "doubled_at_once", "> 0"),
        Control("SETNX must double after hour 48", "SETNX, 48 h", "doubled_after_48", "> 0"),
        Control("SETNX must not double before", "SETNX, 48 h", "doubled_at_once", "== 0", kind="positive"),
        Control("SETNX must lose under faults", "SETNX, 48 h", "lost_under_faults", "> 0"),
        Control("every genuine event is let in", "judged", "genuine_refused", "== 0", kind="positive"),
    ),
    sizes={
        "quick": Size(events=300, crash_events=12, forged=3, each=1, replies=0, calls=0, kills=4),
        "full": Size(events=20_000, crash_events=40, forged=40, each=4, replies=0, calls=10, kills=20),
    },
    world=outside,
    races=(Race("http", lap, port=Served, scale="full", better={"events_per_s": "more", "ack_p99_ms": "less", "cpu_us_per_event": "less"}, factories={
        "buttress": f"{RACING}:serve_buttress", "SETNX on Redis": f"{RACING}:serve_setnx",
        "Powertools": str(Path(__file__).with_name("peers") / "powertools.py") + ":serve",
        **peers.RACING}),),
    from_url=at_url,
    findings={
        "pass": "Nothing doubled, nothing lost: not in 72 hours, not on day 10, not at any of the faults.",
        "fail": "Not once each: {wrong} effects doubled or lost over 72 hours, {wrong_under_faults} under faults, {diverged} orders wrong, {forged} forgeries taken.",
        "unknown": "{wrong} effects doubled or lost over 72 hours, {wrong_under_faults} under faults; not all of it could be told.",
    },
    figures=(
        Figure("wrong effects over 72 hours", "strip", "Wrong effects over 72 hours and on day 10",
               "Bars above a line count effects done twice, in bins of two hours, on one scale for all subjects; hollow bars below count effects never done. "
               "Time is virtual; the provider and its callees are simulated.", checkers.strip,
               {"pass": "A marker that expires lets the retry through; a fact that stays does not", "fail": "Effects were doubled or lost", "unknown": "Wrong effects, and when"}),
        Figure("who failed, and where", "matrix", "Wrong effects by situation and subject", "", checkers.where,
               {"pass": "Each remedy moved the failure; one removed it"}),
    ),
    labels=("Provider and callees simulated", "Time virtual", "Events generated: no customer's data"),
    hurts="A provider delivers events at least once, in any order, for days. Orders were shipped twice, e-mails sent twice, credits given twice. "
          "The case's remedy was to remember event ids in Redis for 48 hours; the provider retries for 72.",
    headline="duplicate + lost effects",
)
