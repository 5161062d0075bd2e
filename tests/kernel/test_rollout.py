"""What every rollout promises, on SQLite and Postgres; ways to be wrong that are found; a machine beside a plain model; kills."""

from __future__ import annotations

import itertools
from dataclasses import replace

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from buttress.kernel import failpoint
from buttress.kernel.clock import ManualClock
from buttress.kernel.errors import InvalidInput
from buttress.kernel.rollout import GATE, FailureRate, Judgement, Plan, Seen, SqlRollout, Stage, units
from buttress.kernel.store.sqlite import SqliteStore
from buttress.testing import rollout as conformance
from buttress.testing.promise import sentence, verify

ALL = conformance.promises(conformance.Case(None, reopen=True))
PROMISES = [pytest.param(engine, promise, id=f"{engine}-{promise.__name__}") for engine in ("sqlite", "postgres") for promise in ALL]


def case_of(stores, kind=SqlRollout):
    return conformance.Case(
        maker=lambda clock, plan, strata, gate: kind(stores.fresh(clock), "fw-2", plan, strata, gate),
        reopen=lambda mine, clock: kind(stores.reopen(mine._store, clock), "fw-2", mine.plan, conformance.STRATA, conformance.strict))


@pytest.mark.parametrize(("stores", "promise"), PROMISES, indirect=["stores"])
def test_promise(stores, promise):
    promise(case_of(stores))


def test_another_plan_under_the_same_name_is_refused(sqlite_stores):
    store = sqlite_stores.fresh(ManualClock())
    SqlRollout(store, "fw-2", conformance.PLAN, conformance.STRATA, conformance.strict)
    SqlRollout(store, "fw-3", replace(conformance.PLAN, silence_s=60.0), {"x": 1}, conformance.strict)
    for plan, strata in ((replace(conformance.PLAN, silence_s=60.0), conformance.STRATA), (conformance.PLAN, {"rev-a": 41, "rev-b": 40})):
        with pytest.raises(InvalidInput, match="differ from those"):
            SqlRollout(store, "fw-2", plan, strata, conformance.strict)


# -- the gate that comes with it


def seen(ok, bad, silent=0):
    return Seen("a", "canary", 1000, ok + bad, ok, bad, silent, 0, 60.0)


@pytest.mark.parametrize(("ok", "bad", "phase"), [(0, 0, "Inconclusive"), (3, 0, "Successful"), (0, 5, "Failed"), (99, 1, "Inconclusive"), (999, 1, "Successful"),
                                                  (80, 20, "Failed"), (19, 1, "Inconclusive")])
def test_a_failure_rate_is_judged_by_its_interval(ok, bad, phase):
    assert FailureRate(0.02)(seen(ok, bad)).phase == phase


def test_a_small_clean_canary_is_only_trusted_where_it_was_asked_to():
    assert FailureRate(0.01)(seen(3, 0)).phase == "Successful"
    assert FailureRate(0.01, trust_clean=False)(seen(3, 0)).phase == "Inconclusive"
    assert FailureRate(0.01, trust_clean=False)(seen(1000, 0)).phase == "Successful"


@pytest.mark.parametrize("bad_max", [0, 1, -0.1])
def test_a_bar_is_a_share(bad_max):
    with pytest.raises(InvalidInput):
        FailureRate(bad_max)


def test_units_are_counted_by_stratum():
    assert units([("1", "a"), ("2", "b"), ("3", "a")]) == {"a": 2, "b": 1}


# -- wrong on purpose

COUNTER = itertools.count()

class NoQuota(SqlRollout):
    """Lets everybody in."""

    def admit(self, stratum, unit):
        return super().admit(stratum, unit) or stratum in self._names()


class ForgetsPlaces(SqlRollout):
    """A unit that asks again takes another place."""

    def admit(self, stratum, unit):
        return super().admit(stratum, f"{unit}#{next(COUNTER)}" if unit else unit)


class OneCanary(SqlRollout):
    """What passes in one stratum passes for all."""

    def decide(self):
        made = super().decide()
        if any(one.action == "promote" for one in made):
            with self._store.transaction() as tx:
                tx.execute("UPDATE buttress_rollout_stratum SET stage = (SELECT max(stage) FROM buttress_rollout_stratum)")
        return made


class SilenceIsGolden(SqlRollout):
    """Who does not report is fine."""

    def _seen(self, tx, one):
        found = super()._seen(tx, one)
        return replace(found, ok=found.ok + found.silent, bad=found.bad - found.silent, silent=0)


class NoSoak(SqlRollout):
    @staticmethod
    def _ripe(stage, found):
        return found.told >= min(stage.sample_min, found.population) and found.waiting == 0


class DoesNotWait(SqlRollout):
    """Judges before all that were exposed have reported."""

    @staticmethod
    def _ripe(stage, found):
        return found.told >= 1 and found.since_s >= stage.soak_s


class WaitsForTheSample(SqlRollout):
    """Sees a failure only when the stage is over."""

    def _early(self, found):
        return None


class ErrorsPass(SqlRollout):
    def _ask(self, found):
        judgement = super()._ask(found)
        return Judgement("Successful", "no complaint") if judgement.phase == "Error" else judgement


class DoubtPasses(SqlRollout):
    def _ask(self, found):
        judgement = super()._ask(found)
        return Judgement("Successful", "nothing against it") if judgement.phase == "Inconclusive" else judgement


class Heals(SqlRollout):
    """The last report counts."""

    def report(self, unit, outcome, reason=""):
        told = super().report(unit, outcome, reason)
        with self._store.transaction() as tx:
            tx.execute("UPDATE buttress_rollout_unit SET outcome = ? WHERE unit = ?", (outcome, unit))
        return told


class KeepsGivingOut(SqlRollout):
    """After a rollback those that were exposed may still come."""

    def admit(self, stratum, unit):
        with self._store.transaction() as tx:
            known = tx.one("SELECT 1 FROM buttress_rollout_unit WHERE unit = ? AND stratum = ?", (unit, stratum))
        return bool(known) or super().admit(stratum, unit)


class RewritesHistory(SqlRollout):
    """One row a stratum: the newest decision."""

    def _record(self, tx, one, *rest):
        made = super()._record(tx, one, *rest)
        tx.execute("DELETE FROM buttress_rollout_decision WHERE stratum = ? AND number < ?", (one.name, made.number))
        return made


class Anonymous(SqlRollout):
    def order(self, action, by, *, stratum=None, reason=""):
        return super().order(action, GATE if by else by, stratum=stratum, reason=reason)


class NeverLooksBack(SqlRollout):
    def _look_back(self, tx, one):
        return None


class EndlessPatience(SqlRollout):
    def __init__(self, store, name, plan, *rest, **more):
        super().__init__(store, name, replace(plan, stages=tuple(replace(stage, patience_s=float("inf")) for stage in plan.stages)), *rest, **more)


MUTANTS = [
    (NoQuota, conformance.no_more_than_the_quota_is_exposed), (ForgetsPlaces, conformance.who_was_admitted_stays_so),
    (OneCanary, conformance.each_stratum_passes_on_its_own), (SilenceIsGolden, conformance.silence_counts_as_failure),
    (NoSoak, conformance.a_stage_is_passed_by_evidence), (DoesNotWait, conformance.a_stage_is_passed_by_evidence),
    (WaitsForTheSample, conformance.a_failure_rolls_back_by_itself), (ErrorsPass, conformance.an_error_of_the_gate_is_no_success),
    (DoubtPasses, conformance.what_cannot_be_told_never_passes), (Heals, conformance.a_report_counts_once),
    (KeepsGivingOut, conformance.a_failure_rolls_back_by_itself), (RewritesHistory, conformance.every_decision_is_a_row),
    (Anonymous, conformance.orders_are_obeyed_and_recorded), (NeverLooksBack, conformance.after_the_last_stage_it_is_complete),
    (EndlessPatience, conformance.patience_ends),
]


@pytest.mark.parametrize(("mutant", "promise"), MUTANTS, ids=[mutant.__name__ for mutant, _ in MUTANTS])
def test_each_way_to_be_wrong_is_found(sqlite_stores, mutant, promise):
    case = case_of(sqlite_stores, mutant)
    with pytest.raises(AssertionError) as found:
        verify("Rollout", [promise], case)
    assert sentence(promise) in str(found.value)


# -- a machine beside a plain model


class Machine(RuleBasedStateMachine):
    """One stratum of 12 in stages of 2, 6 and 12; the strict gate. What is exposed, and what was decided, by a few plain lists."""

    stores = None
    quotas = (2, 6, 12)

    @initialize()
    def open(self):
        self.clock = ManualClock()
        self.plan = Plan((Stage("a", 0.1, 2, 2, 50.0), Stage("b", 0.5, 1, 4, 50.0), Stage("c", 1.0, 1, 12, 50.0)), 200.0)
        self.store = type(self).stores.fresh(self.clock)
        self.real = SqlRollout(self.store, "r", self.plan, {"s": 12}, conformance.strict)
        self.exposed: dict[int, float] = {}
        self.told: dict[int, str] = {}
        self.stage, self.entered, self.state = 0, self.clock.now(), "running"

    def counts(self):
        now = self.clock.now()
        silent = {n for n, at in self.exposed.items() if n not in self.told and at <= now - 200.0}
        bad = {n for n, outcome in self.told.items() if outcome == "bad"} | silent
        ok = {n for n, outcome in self.told.items() if outcome == "ok"}
        return len(ok), len(bad), len(self.exposed) - len(ok) - len(bad)

    @rule(n=st.integers(0, 11))
    def admit(self, n):
        allowed = self.state in ("running", "complete") and (n in self.exposed or len(self.exposed) < self.quotas[self.stage])
        assert self.real.admit("s", f"u{n}") == allowed
        if allowed:
            self.exposed.setdefault(n, self.clock.now())

    @rule(n=st.integers(0, 11), outcome=st.sampled_from(["ok", "ok", "ok", "bad"]))
    def report(self, n, outcome):
        if n not in self.exposed:
            with pytest.raises(InvalidInput):
                self.real.report(f"u{n}", outcome)
            return
        news = n not in self.told or (self.told[n] == "ok" and outcome == "bad")
        assert self.real.report(f"u{n}", outcome) == news
        if news:
            self.told[n] = outcome

    @rule()
    def all_report_well(self):
        for n in set(range(12)) - set(self.exposed):
            self.admit(n)
        for n in set(self.exposed) - set(self.told):
            self.report(n, "ok")

    @rule()
    def decide(self):
        ok, bad, waiting = self.counts()
        made = [one.action for one in self.real.decide()]
        wanted: list[str] = []
        if self.state in ("running", "complete") and bad:
            wanted, self.state = ["roll_back"], "rolled_back"
        elif self.state == "running" and not waiting and ok + bad >= min(self.plan.stages[self.stage].sample_min, 12) and self.clock.now() - self.entered >= 50.0:
            last = self.stage == 2
            wanted = ["complete" if last else "promote"]
            self.state = "complete" if last else "running"
            if not last:
                self.stage, self.entered = self.stage + 1, self.clock.now()
        assert made == wanted

    @rule(seconds=st.sampled_from([10.0, 60.0, 199.0]))
    def advance(self, seconds):
        self.clock.advance(seconds)

    @rule()
    def reopen(self):
        self.store = type(self).stores.reopen(self.store, self.clock)
        self.real = SqlRollout(self.store, "r", self.plan, {"s": 12}, conformance.strict)

    @invariant()
    def it_stands_where_the_model_stands(self):
        if not hasattr(self, "real"):
            return
        (found,) = self.real.standing()
        assert (found.stage, found.state, found.seen.exposed) == ("abc"[self.stage], self.state, len(self.exposed))
        assert (found.seen.ok, found.seen.bad, found.seen.waiting) == self.counts()
        assert len(self.exposed) <= self.quotas[self.stage]


def walk(stores, machine, examples):
    run_state_machine_as_test(type("On", (machine,), {"stores": stores}), settings=settings(
        max_examples=examples, stateful_step_count=40, deadline=None, database=None, print_blob=True, suppress_health_check=list(HealthCheck)))


def test_it_does_what_the_model_says(sqlite_stores):
    walk(sqlite_stores, Machine, 60)


# -- kill -9


@pytest.mark.parametrize("point", ["rollout.admitted", "rollout.decided", "store.commit", "store.committed"])
def test_a_kill_at_each_step_loses_no_place_and_decides_nothing_twice(tmp_path, fork, point):
    """The same calls again after each death: never more exposed than the quota, decisions numbered without a gap, and it gets to its end."""
    path, strata = str(tmp_path / "rollout.db"), {"s": 10}
    plan = Plan((Stage("a", 0.2, 2, 2, 0.0), Stage("b", 1.0, 1, 10, 0.0)), 600.0)

    def through(mine):
        for _ in range(3):
            for n in range(10):
                if mine.admit("s", f"u{n}"):
                    mine.report(f"u{n}", "ok")
            mine.decide()

    def opened():
        return SqlRollout(SqliteStore(path, clock=ManualClock()), "r", plan, strata, conformance.strict)

    opened()._store.close()
    hit = 0
    while True:
        hit += 1

        def dying(tell, fd, hit=hit):
            mine = opened()
            failpoint.arm({point: (hit, "kill")}, mark_fd=fd)
            through(mine)
            failpoint.arm(None)
            mine._store.close()

        ended = fork(dying).ends()
        mine = opened()
        (found,) = mine.standing()
        assert found.seen.exposed <= found.quota
        assert [one.number for one in mine.decisions()] == list(range(1, len(mine.decisions()) + 1))
        mine._store.close()
        if ended == 0:
            break
        assert hit < 200
    assert hit > 1 or point == "rollout.decided"
    mine = opened()
    assert [one.action for one in mine.decisions()] == ["promote", "complete"]
    assert mine.standing()[0].state == "complete"
    mine._store.close()
