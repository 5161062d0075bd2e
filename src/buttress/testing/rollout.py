"""What every Rollout promises: exposure in stages, passed by evidence, each stratum on its own; silence is never success."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from buttress.kernel.clock import Clock, ManualClock
from buttress.kernel.errors import ButtressError, InvalidInput
from buttress.kernel.rollout import Decision, Gate, Judgement, Plan, Rollout, Seen, Stage, Standing
from buttress.testing.promise import expect, refused, together, verify

SILENCE_S = 600.0
CANARY, HALF, ALL = Stage("canary", 0.05, 2, 2, 60.0), Stage("half", 0.5, 1, 10, 60.0), Stage("all", 1.0, 1, 20, 60.0)
PLAN = Plan((CANARY, HALF, ALL), SILENCE_S)
STRATA = {"rev-a": 40, "rev-b": 40}
A, B = "rev-a", "rev-b"


class Recorded(Rollout, Protocol):
    """With the rows of what was decided."""

    def decisions(self) -> list[Decision]: ...


Maker = Callable[[Clock, Plan, Mapping[str, int], Gate], Recorded]


@dataclass(frozen=True)
class Case:
    """What the caller handed in."""

    maker: Maker
    reopen: Callable[[Recorded, Clock], Recorded] | None = None

    def fresh(self, gate: Gate | None = None, plan: Plan = PLAN, strata: Mapping[str, int] = STRATA) -> tuple[Recorded, ManualClock]:
        clock = ManualClock()
        return self.maker(clock, plan, strata, gate or strict), clock

    def again(self, mine: Recorded, clock: Clock) -> Recorded:
        assert self.reopen is not None
        return self.reopen(mine, clock)


def check_rollout(maker: Maker, *, reopen: Callable[[Recorded, Clock], Recorded] | None = None) -> None:
    """Checks a Rollout. ``maker(clock, plan, strata, gate)`` gives a fresh one; ``reopen(mine, clock)`` opens the same state anew."""
    case = Case(maker, reopen)
    verify("Rollout", promises(case), case)


def promises(case: Case) -> tuple[Callable[[Case], None], ...]:
    """Those that apply to what was handed in."""
    return ALWAYS + JUDGING + (DURABLE if case.reopen else ())


# -- steps that the promises share


def strict(seen: Seen) -> Judgement:
    """A gate: any failure is Failed."""
    return Judgement("Failed", f"{seen.bad} failed", float(seen.bad)) if seen.bad else Judgement("Successful", "none failed", 0.0)


def units(stratum: str, count: int, start: int = 0) -> list[str]:
    return [f"{stratum}/{number}" for number in range(start, start + count)]


def exposed(mine: Recorded, stratum: str, count: int = 40, start: int = 0) -> list[str]:
    """Asks for so many units; those that were let in."""
    return [unit for unit in units(stratum, count, start) if mine.admit(stratum, unit)]


def passed(mine: Recorded, clock: ManualClock, stratum: str) -> list[Decision]:
    """All that may be exposed are, and report well; the soak passes; what is decided of this stratum."""
    for unit in exposed(mine, stratum):
        mine.report(unit, "ok")
    clock.advance(61)
    return [made for made in mine.decide() if made.stratum == stratum]


def at(mine: Recorded, stratum: str) -> Standing:
    (found,) = [one for one in mine.standing() if one.stratum == stratum]
    return found


def decided(mine: Recorded, action: str | None, *, why: str) -> None:
    """decide() does this one thing, or nothing."""
    made = [one.action for one in mine.decide()]
    expect(made == ([] if action is None else [action]), f"{why}: decided {made}")


# -- exposure


def no_more_than_the_quota_is_exposed(case: Case) -> None:
    """Of a stratum no more units are admitted than its stage allows: the share, rounded up, or at least at_least; the rest is told no."""
    mine, _ = case.fresh()
    expect(len(exposed(mine, A)) == 2, f"{at(mine, A).seen.exposed} were admitted to a canary of 2")
    expect(len(exposed(mine, B, 1)) == 1, "the other stratum has places of its own")
    expect((at(mine, A).quota, at(mine, A).seen.exposed, at(mine, B).seen.exposed) == (2, 2, 1), f"it stands at {mine.standing()}")


def who_was_admitted_stays_so(case: Case) -> None:
    """The same unit again is admitted again, and takes no second place; nobody else takes its own."""
    mine, _ = case.fresh()
    first = exposed(mine, A)
    expect(exposed(mine, A) == first, "asked again, others were admitted")
    expect(at(mine, A).seen.exposed == 2, f"{at(mine, A).seen.exposed} places were taken by 2 units")


def units_that_ask_at_once_share_the_places(case: Case) -> None:
    """Eight units that ask at the same moment get the two places, each at most one."""
    mine, _ = case.fresh()
    answers = together(*[lambda unit=unit: mine.admit(A, unit) for unit in units(A, 8)])
    expect(sum(answer is True for answer in answers) == 2, f"the answers were {answers}")
    expect(at(mine, A).seen.exposed == 2, f"{at(mine, A).seen.exposed} are exposed")


def names_that_are_not_its_own_are_refused(case: Case) -> None:
    """Unknown strata, a unit in two of them, a report of one that was never admitted, other outcomes: InvalidInput, and nothing changed."""
    mine, _ = case.fresh()
    mine.admit(A, "unit")
    refused(InvalidInput, "an unknown stratum", mine.admit, "rev-z", "unit-2")
    refused(InvalidInput, "a unit in another stratum", mine.admit, B, "unit")
    refused(InvalidInput, "an empty name", mine.admit, A, "")
    refused(InvalidInput, "a report of nobody", mine.report, "unit-3", "ok")
    refused(InvalidInput, "another outcome", mine.report, "unit", "fine")
    refused(InvalidInput, "another order", mine.order, "stop", "me")
    refused(InvalidInput, "an order by nobody", mine.order, "pause", "")
    refused(InvalidInput, "an order of an unknown stratum", lambda: mine.order("pause", "me", stratum="rev-z"))
    seen = at(mine, A).seen
    expect((seen.exposed, seen.ok, seen.bad) == (1, 0, 0), f"after all that was refused: {seen}")


# -- reports


def a_report_counts_once(case: Case) -> None:
    """Told again is told once. Bad after ok is bad; ok after bad does not heal."""
    mine, _ = case.fresh()
    one, two = exposed(mine, A)
    told = [mine.report(one, "ok"), mine.report(one, "ok"), mine.report(two, "bad"), mine.report(two, "ok"), mine.report(one, "bad")]
    expect(told == [True, False, True, False, True], f"the answers were {told}")
    seen = at(mine, A).seen
    expect((seen.ok, seen.bad, seen.waiting) == (0, 2, 0), f"both are bad by now: {seen}")


def silence_counts_as_failure(case: Case) -> None:
    """A unit that was exposed and has not reported in silence_s has failed; before, it is waited for. A late report still counts."""
    mine, clock = case.fresh()
    one, two = exposed(mine, A)
    mine.report(one, "ok")
    clock.advance(SILENCE_S - 1)
    expect((at(mine, A).seen.waiting, at(mine, A).seen.bad) == (1, 0), f"a second before: {at(mine, A).seen}")
    decided(mine, None, why="one is still waited for")
    clock.advance(1)
    seen = at(mine, A).seen
    expect((seen.waiting, seen.bad, seen.silent) == (0, 1, 1), f"when its time was over: {seen}")
    mine.report(two, "ok")
    expect((at(mine, A).seen.bad, at(mine, A).seen.ok) == (0, 2), f"after its late report: {at(mine, A).seen}")


# -- stages


def a_stage_is_passed_by_evidence(case: Case) -> None:
    """Not before its sample has reported, its soak is over, and nobody is waited for; then the next stage begins, with a soak of its own."""
    mine, clock = case.fresh()
    decided(mine, None, why="nobody was exposed")
    one, two = exposed(mine, A)
    clock.advance(61)
    mine.report(one, "ok")
    decided(mine, None, why="one of two has reported")
    mine.report(two, "ok")
    decided(mine, "promote", why="both have reported, and the soak is over")
    expect((at(mine, A).stage, at(mine, A).quota) == ("half", 20), f"it stands at {at(mine, A)}")
    for unit in exposed(mine, A):
        mine.report(unit, "ok")
    decided(mine, None, why="the soak of the second stage has just begun")
    clock.advance(61)
    decided(mine, "promote", why="after the soak")


def each_stratum_passes_on_its_own(case: Case) -> None:
    """The canary of one revision says nothing of another: it stays where it is, and where one fails the other goes on."""
    mine, clock = case.fresh()
    passed(mine, clock, A)
    expect((at(mine, A).stage, at(mine, B).stage) == ("half", "canary"), f"it stands at {mine.standing()}")
    (unit, *_) = exposed(mine, B)
    mine.report(unit, "bad")
    decided(mine, "roll_back", why="the canary of one failed")
    expect((at(mine, A).state, at(mine, B).state) == ("running", "rolled_back"), f"it stands at {mine.standing()}")
    expect(len(exposed(mine, A)) == 20, "the other one goes on")


def a_failure_rolls_back_by_itself(case: Case) -> None:
    """At the gate's Failed the stratum is rolled back at once, whatever the soak; nobody is admitted any more, and it stays so."""
    mine, clock = case.fresh()
    one, _ = exposed(mine, A)
    mine.report(one, "bad")
    decided(mine, "roll_back", why="one of the canary failed")
    expect(at(mine, A).state == "rolled_back", f"it stands at {at(mine, A)}")
    expect(exposed(mine, A) == [], "units were admitted after the rollback")
    clock.advance(10_000)
    decided(mine, None, why="long after")


def after_the_last_stage_it_is_complete(case: Case) -> None:
    """A stratum that passed all stages is complete: all its units may be exposed, and a failure that shows later is rolled back all the same."""
    mine, clock = case.fresh()
    actions = [made.action for _ in range(3) for made in passed(mine, clock, A)]
    expect(actions == ["promote", "promote", "complete"], f"decided {actions}")
    expect((at(mine, A).state, len(exposed(mine, A))) == ("complete", 40), f"it stands at {at(mine, A)}")
    mine.report(units(A, 1)[0], "bad")
    decided(mine, "roll_back", why="after it was complete one failed")
    expect(at(mine, A).state == "rolled_back" and exposed(mine, A) == [], "it is still given out")


def a_small_stratum_needs_all_it_has(case: Case) -> None:
    """Of fewer units than the sample all must have reported."""
    plan = Plan((Stage("canary", 0.1, 5, 5, 0.0), Stage("all", 1.0, 1, 50, 0.0)), SILENCE_S)
    mine, _ = case.fresh(plan=plan, strata={"rare": 3})
    found = exposed(mine, "rare", 3)
    expect(len(found) == 3, f"{found} of a stratum of 3 in a canary of 5")
    for unit in found[:2]:
        mine.report(unit, "ok")
    decided(mine, None, why="two of three have reported")
    mine.report(found[2], "ok")
    decided(mine, "promote", why="all three have reported")


# -- gates


def an_error_of_the_gate_is_no_success(case: Case) -> None:
    """A gate that raises, or answers what is no verdict or NaN, is an Error: it waits, is recorded, and pauses when it goes on."""
    fine: Any = "fine"
    gates: tuple[Any, ...] = (lambda seen: 1 / 0, lambda seen: Judgement(fine, "?"), lambda seen: Judgement("Successful", "?", float("nan")))
    for gate in gates:
        mine, clock = case.fresh(gate)
        made = passed(mine, clock, A)
        expect([(one.phase, one.action) for one in made] == [("Error", "wait")], f"decided {made}")
        expect((at(mine, A).stage, at(mine, A).state) == ("canary", "running"), f"it stands at {at(mine, A)}")
        for _ in range(20):
            mine.decide()
        expect(at(mine, A).state == "paused", f"after many errors: {at(mine, A)}")
        expect(len(exposed(mine, A, 4)) == 0, "units were admitted while it was paused")


def what_cannot_be_told_never_passes(case: Case) -> None:
    """Inconclusive, with nobody left to wait for: it pauses, and does not go on by itself."""
    mine, clock = case.fresh(lambda seen: Judgement("Inconclusive", "too few"))
    made = passed(mine, clock, A)
    expect([(one.phase, one.action) for one in made] == [("Inconclusive", "pause")], f"decided {made}")
    clock.advance(10_000)
    decided(mine, None, why="while it is paused")
    expect(at(mine, A).stage == "canary", f"it stands at {at(mine, A)}")


def patience_ends(case: Case) -> None:
    """A stage whose sample does not come together pauses after patience_s."""
    mine, clock = case.fresh(plan=Plan((Stage("canary", 0.5, 1, 10, 0.0, 3600.0),), SILENCE_S))
    (unit, *_) = exposed(mine, A, 1)
    mine.report(unit, "ok")
    clock.advance(3600)
    decided(mine, None, why="at the end of its patience")
    clock.advance(1)
    made = [(one.stratum, one.phase, one.action) for one in mine.decide()]
    expect(made == [(A, "Inconclusive", "pause"), (B, "Inconclusive", "pause")], f"decided {made}")


# -- people


def orders_are_obeyed_and_recorded(case: Case) -> None:
    """Pause, resume, promote and roll_back by name: what may not be ordered is refused, what was is a row with who and why."""
    mine, _ = case.fresh()
    mine.order("pause", "ann", stratum=A, reason="a call from the field")
    expect(at(mine, A).state == "paused" and exposed(mine, A) == [], f"it stands at {at(mine, A)}")
    refused(ButtressError, "pause of what is paused", lambda: mine.order("pause", "ann", stratum=A))
    mine.order("resume", "ann", stratum=A)
    expect(at(mine, A).state == "running" and len(exposed(mine, A)) == 2, f"it stands at {at(mine, A)}")
    mine.order("promote", "bob", stratum=A)
    expect(at(mine, A).stage == "half", f"it stands at {at(mine, A)}")
    made = mine.order("roll_back", "bob", reason="all of it")
    expect([one.stratum for one in made] == [A, B], f"an order of all: {made}")
    refused(ButtressError, "resume of what was rolled back", lambda: mine.order("resume", "ann", stratum=A))
    rows = [(one.number, one.stratum, one.action, one.by, one.reason) for one in mine.decisions()]
    expect(rows == [(1, A, "pause", "ann", "a call from the field"), (2, A, "resume", "ann", ""), (3, A, "promote", "bob", ""),
                    (4, A, "roll_back", "bob", "all of it"), (5, B, "roll_back", "bob", "all of it")], f"the rows are {rows}")


def every_decision_is_a_row(case: Case) -> None:
    """Each decision stands with its number, stage, phase, reason, time and what was seen; those of before are not changed by it."""
    mine, clock = case.fresh()
    (first,) = passed(mine, clock, A)
    (second,) = passed(mine, clock, A)
    rows = mine.decisions()
    expect(rows == [first, second], f"decided {[first, second]}, the rows are {rows}")
    expect([(one.number, one.stage, one.phase, one.action) for one in rows] == [(1, "canary", "Successful", "promote"), (2, "half", "Successful", "promote")], f"{rows}")
    expect((rows[0].seen["ok"], rows[1].seen["ok"], rows[1].at) == (2, 20, clock.now()), f"what was seen: {rows}")


def everything_outlives_the_process(case: Case) -> None:
    """Opened again it stands where it stood: stage, places, reports and decisions. With another plan it is refused."""
    mine, clock = case.fresh()
    passed(mine, clock, A)
    before = (mine.standing(), mine.decisions())
    mine = case.again(mine, clock)
    expect((mine.standing(), mine.decisions()) == before, f"{mine.standing()} after it was opened again")
    expect(len(exposed(mine, A)) == 20, "the places of the second stage, of which two were taken before")


def a_plan_makes_sense_or_is_refused(case: Case) -> None:
    """No stages, shrinking shares, no sample, endless silence, no strata or empty ones: InvalidInput."""
    for name, make in {
        "no stage": lambda: Plan((), 60.0), "a share of 0": lambda: Plan((Stage("a", 0.0),), 60.0), "a share above 1": lambda: Plan((Stage("a", 1.1),), 60.0),
        "shrinking shares": lambda: Plan((Stage("a", 0.5), Stage("b", 0.1)), 60.0), "two stages of one name": lambda: Plan((Stage("a", 0.5), Stage("a", 1.0)), 60.0),
        "no sample": lambda: Plan((Stage("a", 0.5, sample_min=0),), 60.0), "endless silence": lambda: Plan((Stage("a", 0.5),), float("inf")),
        "no silence": lambda: Plan((Stage("a", 0.5),), 0.0), "an endless soak": lambda: Plan((Stage("a", 0.5, soak_s=float("inf")),), 60.0),
        "no strata": lambda: case.fresh(strata={}), "an empty stratum": lambda: case.fresh(strata={"a": 0}),
    }.items():
        refused(InvalidInput, name, make)


ALWAYS: tuple[Callable[[Case], None], ...] = (
    no_more_than_the_quota_is_exposed,
    who_was_admitted_stays_so,
    units_that_ask_at_once_share_the_places,
    names_that_are_not_its_own_are_refused,
    a_report_counts_once,
    silence_counts_as_failure,
    a_plan_makes_sense_or_is_refused,
)
JUDGING: tuple[Callable[[Case], None], ...] = (
    a_stage_is_passed_by_evidence,
    each_stratum_passes_on_its_own,
    a_failure_rolls_back_by_itself,
    after_the_last_stage_it_is_complete,
    a_small_stratum_needs_all_it_has,
    an_error_of_the_gate_is_no_success,
    what_cannot_be_told_never_passes,
    patience_ends,
    orders_are_obeyed_and_recorded,
    every_decision_is_a_row,
)
DURABLE: tuple[Callable[[Case], None], ...] = (everything_outlives_the_process,)
