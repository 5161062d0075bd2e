"""The proof of webhooks sees each of these flaws, and by the measure that is about it; what the port does not ask for, nobody fails on."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from buttress.backend.webhooks import Verifier, world
from buttress.backend.webhooks.proof import PROOF, checkers
from buttress.backend.webhooks.proof.scenarios import Failing
from buttress.proof import Subject
from buttress.proof.contract import Unmeasured
from buttress.proof.run import Options, run
from buttress.proof.world import Callee

FLAWED = Path(__file__).with_name("flawed.py")
NOW = 1_800_000_000.0
SEEDS = range(40)


@pytest.fixture
def measured(tmp_path):
    """``measured(name, scenario, *faults)``: the measures of a receiver of flawed.py over one scenario, with those of its faults."""

    def measure(name, scenario, *faults):
        def only(size):
            found = next(s for s in PROOF.scenarios_at(size) if s.name == scenario and (not s.roles or "yours" in s.roles))
            return (replace(found, faults=tuple(f for f in found.faults if f.name in faults)),)

        proof = replace(PROOF, subjects=(), controls=(), scenarios=only, sizes={"quick": replace(PROOF.sizes["quick"], events=150)})
        outcome = run(proof, tmp_path / "run", Options(seed=3, subject=Subject("yours", f"{FLAWED}:{name}", "yours"), races=False))
        assert not outcome.errors
        evidence = outcome.evidence["yours"]
        assert not evidence.unhit
        return {key: value.value for key, value in evidence.measures.items() if not isinstance(value, Unmeasured)}

    return measure


MEASURES = ("wrong_clean", "wrong_under_faults", "diverged", "forged", "genuine_refused")


@pytest.mark.parametrize(("name", "scenario", "faults", "wrong"), [
    ("Honest", checkers.STEADY, (), set()),
    ("Honest", checkers.CRASH, ("callee answers 503", "callee acts, then answers 500"), set()),
    ("NamesStatesInItsOwnWay", checkers.STEADY, (), set()),
    ("FirstSignatureOnly", checkers.STEADY, (), {"wrong_clean", "genuine_refused"}),
    ("KnowsPayloadsNotIds", checkers.STEADY, (), {"forged"}),
    ("OrdersByTime", checkers.STEADY, (), {"diverged"}),
    ("ForgetsWhatWasDeleted", checkers.STEADY, (), {"diverged"}),
    ("ChokesOnWhatItCannotRead", checkers.STEADY, (), {"wrong_clean", "diverged"}),
    ("ActsAfterElevenDays", checkers.STEADY, (), {"wrong_clean"}),
    ("SaysThatNothingWaits", checkers.STEADY, (), {"wrong_clean"}),
    ("TakesAFailedLookUpForNothing", checkers.CRASH, ("callee acts, then answers 500",), {"wrong_under_faults"}),
    ("TakesEveryAnswerForDone", checkers.CRASH, ("callee answers 503",), {"wrong_under_faults", "diverged"}),
])
def test_a_flaw_shows_in_the_measure_that_is_about_it(measured, name, scenario, faults, wrong):
    found = measured(name, scenario, *faults)
    assert {measure for measure in MEASURES if found.get(measure)} == wrong, found


def test_an_event_that_comes_again_later_is_a_later_chance():
    """An effect is late by the last delivery of any event that tells of it, not by the first."""
    day = 24 * checkers.HOUR

    def late(*deliveries, done):
        promises = checkers._Promises(applies=True, told={("orders", "orders:p"): ["evt_1", "evt_2"]})
        for id, at in deliveries:
            promises.op({"kind": "op", "call": "deliver", "status": "ok", "value": 200, "at": at, "args": {"headers": {"webhook-id": id}}})
        return set(promises.late({("orders", "orders:p"): [done]}))

    assert late(("evt_1", 0.0), done=day) == set()
    assert late(("evt_1", 0.0), done=day + 1) == {("orders", "orders:p")}
    assert late(("evt_1", 0.0), ("evt_2", 10 * day), done=10.5 * day) == set()
    assert late(("evt_1", 0.0), ("evt_1", 10 * day), ("evt_other", 12 * day), done=12 * day) == {("orders", "orders:p")}


# -- what is sent


@pytest.mark.parametrize("seed", SEEDS)
def test_a_short_run_holds_each_kind_at_every_seed(seed):
    sent = list(world.events(PROOF.sizes["quick"].crash_events, random.Random(seed)))
    assert len({one.delivery.id for one in sent}) == len(sent) == PROOF.sizes["quick"].crash_events
    told = [json.loads(one.delivery.body)["data"].get("payment") for one in sent]
    assert any(name and told.count(name) == 2 for name in told), "one fact, two ids"
    orders = {one.object: [other for other in sent if other.object == one.object] for one in sent if one.object}
    assert any(len(changes) >= 3 for changes in orders.values())
    assert any(changes[-1].status == "deleted" and changes[-1].ahead and len(changes) > 1 for changes in orders.values())
    for changes in orders.values():
        data = [json.loads(one.delivery.body)["data"] for one in changes]
        assert [one["version"] for one in data] == list(range(len(data)))
        assert len({one["created"] for one in data}) == 1, "the version decides, not the second"
        assert [one.status for one in changes[:-1]] == [""] * (len(changes) - 1)
    assert any(" " in one.delivery.headers(NOW)["webhook-signature"] for one in sent if one.due), "secrets are rotated"
    assert len({due.reference for one in sent for due in one.due if due.callee == "emails"}) >= 3, "enough for every third answer to fail"


def test_a_deletion_arrives_first():
    from buttress.backend.webhooks.proof.scenarios import _starts

    for seed in SEEDS:
        rng = random.Random(seed)
        sent = list(world.events(60, rng))
        starts = dict(zip((one.delivery.id for one in sent), _starts(sent, rng, 3600.0), strict=True))
        for one in sent:
            if one.ahead:
                others = [starts[other.delivery.id] for other in sent if other.object == one.object and other is not one]
                assert others and all(starts[one.delivery.id] < start for start in others)


@pytest.fixture
def inbox(sqlite_stores, make_inbox):
    return make_inbox(sqlite_stores.open(), verifier=Verifier.standard(world.SECRET))


def receive(inbox, delivery):
    return inbox.receive(delivery.headers(NOW), delivery.body.encode())


def test_each_counterfeit_is_refused_and_each_oddity_kept(inbox, clock):
    clock.set(NOW)
    kinds = {}
    for how, delivery in world.counterfeits(NOW, random.Random(1), oversized=True):
        kinds[how] = receive(inbox, delivery)
        assert 400 <= kinds[how].status < 500, how
    assert (kinds["oversized"].status, kinds["two signatures, none right"].code) == (413, "bad_signature")
    assert inbox.backlog().events == 0
    assert receive(inbox, world.unreadable(NOW, random.Random(1))).code == "dead_letter"
    first = world.payment(0, "invoice.paid", False).delivery
    assert receive(inbox, first).code == "stored", "the second of two signatures is right"
    assert receive(inbox, world.altered(first, NOW, random.Random(1))).code == "mismatch"


# -- what fails


def fake_trial(*callees):
    trial = SimpleNamespace(outside={callee.name: callee for callee in callees}, hit=True, facts=[])
    trial.record = lambda kind, **fields: trial.facts.append((kind, fields))
    return trial


@pytest.mark.parametrize(("how", "lookups", "posts", "gets"), [("refuse", 0, ["", "", "refuse"] * 2, [""] * 3), ("after", 1, ["", "", "after"] * 2, ["after", "", ""])])
def test_a_failing_callee_strikes_every_third_time(how, lookups, posts, gets):
    fault = Failing(("credits", "orders"), how, "fails", lookups=lookups)
    cases = list(fault.cases({}))
    assert [case.label for case in cases] == ["fails · credits", "fails · orders"]
    trial = fake_trial(Callee("credits", "lookup"), Callee("orders", "keyed"))
    with cases[0].during(trial):
        assert not trial.hit
        fails = trial.outside["credits"].fails
        assert [fails("POST", number) for number in range(1, 7)] == posts
        assert [fails("GET", number) for number in range(1, 4)] == gets
        assert trial.outside["orders"].fails("POST", 3) == ""
    struck = 2 + lookups
    assert trial.hit and trial.facts == [("fault", {"name": "fails", "armed": 1, "hit": 1, "struck": struck})]


def test_a_failing_callee_that_nobody_asked_did_not_hit():
    trial = fake_trial(Callee("credits", "lookup"))
    (case,) = Failing(("credits",), "refuse", "fails").cases({})
    with case.during(trial):
        assert trial.outside["credits"].fails("POST", 1) == ""
    assert not trial.hit


def test_a_service_is_killed_four_times_at_quick():
    (service,) = [s for s in PROOF.scenarios_at(PROOF.sizes["quick"]) if s.hosting]
    (crash,) = service.faults
    assert [case.label for case in crash.cases({"@reply:deliver": 40})] == [f"kill -9 after reply {n} to deliver" for n in (6, 16, 26, 36)]
