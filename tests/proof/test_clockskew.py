"""A clock that is wrong: what the subject reads, what the driver knows, and that a fault that came too late is told."""

from __future__ import annotations

from typing import Protocol

import pytest

from buttress.kernel.errors import InvalidInput
from buttress.proof.contract import Claim, Proof, Scenario, Subject
from buttress.proof.faults import ClockSkew
from buttress.proof.trial import EPOCH
from buttress.proof.verdict import count

from . import lab
from .subjects import Echo


class Watch(Protocol):
    def now(self) -> float: ...


TIMES = (0.0, 50.0, 100.0, 150.0, 300.0)


@pytest.mark.parametrize("host", ["process", "in-process"])
@pytest.mark.parametrize(("skew", "off"), [
    (ClockSkew(step_s=120, after_s=100), (0, 0, 120, 120, 120)),
    (ClockSkew(step_s=-120, after_s=100), (0, 0, -120, -120, -120)),
    (ClockSkew(drift=0.5, after_s=50), (0, 0, 25, 50, 125)),
    (ClockSkew(frozen=True, after_s=50, lasts_s=100), (0, 0, -50, 0, 0)),
    (ClockSkew(step_s=120, after_s=0, lasts_s=150), (120, 120, 120, 0, 0)),
], ids=["stepped", "set back", "drifting", "frozen", "corrected"])
def test_the_subject_reads_the_wrong_time_and_the_driver_the_right_one(trial_of, host, skew, off):
    (case,) = skew.cases({})
    trial = trial_of(Watch, Echo if host == "in-process" else lab.factory("Echo"), case, in_process=host == "in-process")
    with case.during(trial):
        watch = trial.open()
        read = []
        for at in TIMES:
            trial.clock.to(EPOCH + at)
            assert trial.clock.now() == EPOCH + at
            read.append(watch.now() - trial.clock.now())
    assert read == list(off)
    assert trial.hit
    assert watch.now() == trial.clock.now(), "it is right again afterwards"


def test_time_may_go_backwards_for_the_subject_and_never_for_the_driver(trial_of):
    (case,) = ClockSkew(step_s=-3600, after_s=10).cases({})
    trial = trial_of(Watch, lab.factory("Echo"), case)
    with case.during(trial):
        watch = trial.open()
        before = watch.now()
        trial.clock.to(EPOCH + 10)
        assert watch.now() == before - 3590
        trial.clock.to(EPOCH + 5)
        assert trial.clock.now() == EPOCH + 10


def judged(prove, after_s, virtual=True):
    def drive(trial):
        watch = trial.open()
        for at in range(10):
            if virtual:
                trial.clock.to(EPOCH + 10 * at)
            trial.record("fact", off=watch.now() - trial.clock.now())

    def wrong(history):
        facts = list(history.where(kind="fact"))
        return {"wrong": count(sum(fact["off"] != 0 for fact in facts if virtual), len(facts))}

    return prove(Proof(system="watches", port=Watch, subjects=(Subject("ours", lab.factory("Echo"), "buttress"),),
                       scenarios=(Scenario("ticks", drive, (ClockSkew(step_s=1, after_s=after_s),), virtual=virtual),),
                       checkers=(wrong,), controls=(), claims=(Claim("readings that were wrong", "wrong", "== 0", "readings"),), sizes={"quick": None, "full": None}))


def test_a_subject_that_believes_its_clock_is_caught(prove):
    outcome = judged(prove, 50)
    assert outcome.faults == {"clock stepped +1 s": {"armed": 1, "hit": 1, "by": {"ours": [1, 1]}, "cases": {"clock stepped +1 s": 1}}}
    assert outcome.claims[0].verdict == "fail"


def test_one_that_would_come_after_the_end_did_not_hit(prove):
    outcome = judged(prove, 91)
    assert (outcome.claims[0].verdict, outcome.faults["clock stepped +1 s"]["hit"]) == ("unknown", 0)


def test_the_machines_own_clock_is_never_set(prove):
    outcome = judged(prove, 0, virtual=False)
    assert "the machine's own clock is never set" in outcome.errors[0]
    assert outcome.claims[0].verdict == "unknown"


@pytest.mark.parametrize("fields", [{}, {"step_s": 1, "after_s": -1}, {"drift": 1, "lasts_s": 0}])
def test_a_skew_that_says_nothing_is_refused(fields):
    with pytest.raises(InvalidInput):
        ClockSkew(**fields)
