"""The proof sees each flaw by the measure that is about it, believes no status code, and cannot be blinded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from buttress.identity.jwt_gate.proof import PROOF, checkers
from buttress.identity.jwt_gate.proof.scenarios import Size
from buttress.proof import Subject
from buttress.proof.contract import Unmeasured
from buttress.proof.run import Options, run

CHEATS = Path(__file__).with_name("cheats.py")
SMALL = Size(valid=400, rsa=60, kids=300)
BARS = {"forged": 0, "false_rejects": 0, "untimely": 0, "too_old": 0, "random_in": 0, "genuine_refused": 0}


@pytest.fixture
def judge(tmp_path):
    """``judge(factory, scenario)``: the outcome of a proof of one gateway over one scenario (empty: all)."""

    def go(factory, scenario="", **changes):
        def only(size):
            return tuple(replace(s, roles=()) for s in PROOF.scenarios_at(size) if s.virtual and "yours" in s.roles and scenario in ("", s.name))

        subjects = tuple(s for s in PROOF.subjects if s.role == "baseline") if changes.pop("baseline", False) else ()
        proof = replace(PROOF, subjects=subjects, scenarios=only, sizes={"quick": SMALL}, **{"controls": (), **changes})
        return run(proof, tmp_path / "run", Options(seed=3, subject=Subject("yours", factory, "yours"), races=False))

    return go


def measured(outcome):
    assert not outcome.errors, outcome.errors
    return {key: value.value for key, value in outcome.evidence["yours"].measures.items() if not isinstance(value, Unmeasured)}


@pytest.mark.parametrize(("name", "scenario", "wrong"), [
    ("Honest", "", set()),
    ("AnswersAheadOfItsVerdict", checkers.CATALOGUE, {"forged"}),
    ("RefusesEverybody", checkers.CATALOGUE, {"genuine_refused"}),
    ("RefusesEverybody", checkers.ROTATION, {"false_rejects"}),
    ("AnswersWithoutForwarding", checkers.CATALOGUE, {"genuine_refused"}),
    ("TakesUnsigned", checkers.CATALOGUE, {"forged"}),
    ("FollowsTheHeaderKey", checkers.CATALOGUE, {"forged"}),
    ("NeverFetchesAgain", checkers.ROTATION, {"false_rejects"}),
    ("NeverFetchesAgain", checkers.OUTAGE, {"too_old"}),
    ("AsksForEachKid", checkers.KIDS, {"fetches_an_interval"}),
    ("FiveMinutesOfGrace", checkers.CLOCK, {"untimely"}),
    ("ClosesAtOnceInAnOutage", checkers.OUTAGE, {"false_rejects"}),
    ("KeepsVerdictsForGood", checkers.CATALOGUE, {"forged"}),
])
def test_a_flaw_shows_in_the_measure_that_is_about_it(judge, name, scenario, wrong):
    found = measured(judge(f"{CHEATS}:{name}", scenario))
    shown = {key for key in BARS if found.get(key)} | ({"fetches_an_interval"} if found.get("fetches_an_interval", 1) > 1 else set())
    assert shown == wrong, found


def verdict_of(outcome, claim="forged tokens let in, of the whole catalogue"):
    return next((c.verdict, c.why) for c in outcome.claims if c.claim.name == claim)


def test_a_cheat_fails_and_one_that_lets_nobody_in_does_not_pass(judge):
    controls = tuple(c for c in PROOF.controls if c.subject == "judged" or c.name == "two algorithms must let a forged token in")
    assert verdict_of(judge(f"{CHEATS}:AnswersAheadOfItsVerdict", checkers.CATALOGUE, controls=controls, baseline=True))[0] == "fail"
    verdict, why = verdict_of(judge(f"{CHEATS}:RefusesEverybody", checkers.CATALOGUE, controls=controls, baseline=True))
    assert verdict == "unknown" and "every genuine token around the catalogue is let in" in why


def test_a_blinded_checker_is_no_pass(judge):
    """One that sees nothing arrive finds nothing forged anywhere: the control on the baseline falls asleep, and takes the pass with it."""

    def blinded(history) -> Mapping[str, object]:
        return checkers.verdicts(history.where(what="sent"))

    verdict, why = verdict_of(judge(f"{CHEATS}:Honest", checkers.CATALOGUE, controls=PROOF.controls, baseline=True, checkers=(blinded, checkers.fetches)))
    assert verdict == "unknown" and "asleep" in why


def test_a_checker_of_nothing_measures_nothing(tmp_path):
    from buttress.proof.history import History, HistoryWriter

    writer = HistoryWriter(tmp_path / "history.jsonl.gz")
    writer.close()
    empty = History(tmp_path / "history.jsonl.gz")
    assert all(isinstance(value, Unmeasured) for value in {**checkers.verdicts(empty), **checkers.fetches(empty)}.values())


def test_quick_is_5000_valid_tokens_with_one_rotation_and_full_a_hundred_thousand():
    assert (PROOF.sizes["quick"].valid, PROOF.sizes["full"].valid, PROOF.sizes["full"].kids) == (5_000, 100_000, 10_000)
