"""Every rule of the verdict by evidence made by hand; and each rule, taken out, turns one of these tests red.

A check takes the verdict module, so that the same check runs against a copy with one rule or one guard deleted.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from types import ModuleType
from typing import Any

import pytest

from buttress.kernel.errors import InvalidInput
from buttress.proof import run, verdict
from buttress.proof.contract import Claim, Control, Estimate, Measured, Subject, Unmeasured

from . import rules
from .shapes import document

CORRECT = Claim("correct", "wrong", "== 0", "rows")
SPEED = Claim("fast", "cpu_s", "<= 1.5", "×", over="naive")
SLOWER, FASTER = Estimate(4.0, 3.5, 4.5, 15), Estimate(0.5, 0.4, 0.6, 15)
ROWS = Estimate(0.0, n=100)


@dataclass(frozen=True)
class Known:
    """Evidence about one subject, with what a test leaves out filled in."""

    measures: Mapping[str, Measured] = field(default_factory=dict)
    races: Mapping[str, Measured] = field(default_factory=dict)
    missing: Mapping[str, str] = field(default_factory=dict)
    voids: tuple[str, ...] = ()
    unhit: tuple[str, ...] = ()
    absent: str = ""
    hosted: str = "in-process"
    armed: Mapping[str, int] = field(default_factory=dict)

    def of(self, v: Any) -> Any:
        return v.Evidence({**self.measures, **self.races}, frozenset(self.races), self.missing, self.voids, self.unhit, self.absent, self.hosted, self.armed)


@dataclass(frozen=True)
class Row:
    """``ours`` is judged by ``claim``, beside ``naive``; the verdict and the pattern of ``why`` are what must come out."""

    about: str
    verdict: str
    why: str
    ours: Known | None
    claim: Claim = CORRECT
    naive: Known | None = field(default_factory=lambda: Known({"wrong": 9.0}))
    beside: tuple[Claim, ...] = ()
    controls: tuple[Control, ...] = ()
    scale: str = "quick"

    def check(self, v: ModuleType) -> None:
        evidence = {name: known.of(v) for name, known in (("ours", self.ours), ("naive", self.naive)) if known is not None}
        controls = v.judge_controls(self.controls, evidence, "ours", self.scale)
        judged = v.judge_claims([self.claim, *self.beside], controls, evidence, "ours", self.scale)[0]
        assert (judged.verdict, judged.subject) == (self.verdict, "ours"), judged
        assert re.search(self.why, judged.why) if self.why else judged.why == "", judged


def bar(text: str) -> Claim:
    return Claim("correct", "wrong", text, "rows")


GOOD = Known({"wrong": ROWS, "admitted": 10})
AWAKE = Control("naive fails", "naive", "wrong", "> 0")
ASLEEP = Control("naive fails", "naive", "wrong", "> 10")
GENUINE = Control("genuine let in", "judged", "admitted", "== 10", "positive")
REFERENCE = Control("reference admits", "naive", "admitted", "== 10", "positive")
RACED = {"cpu_s over naive": FASTER, "cpu_s": FASTER}
CRASHED = replace(CORRECT, needs=("virtual", "crash"))

TABLE: dict[str, list[Row]] = {
    "deferred": [
        Row("a claim of full at quick", "deferred", "what quick cannot decide", GOOD, Claim("c", "wrong", "== 0", "rows", scale="full")),
        Row("a claim of full at full", "pass", "", GOOD, Claim("c", "wrong", "== 0", "rows", scale="full"), scale="full"),
        Row("deferred, though the subject is absent", "deferred", "what quick cannot decide", Known(absent="no disk"), Claim("c", "wrong", "== 0", "rows", scale="full")),
    ],
    "absent": [
        Row("it did not run, whatever was measured before", "unknown", "^no disk$", Known({"wrong": ROWS}, absent="no disk")),
        Row("nobody of that name", "unknown", "no subject is called ours", None),
    ],
    "needs": [
        Row("a capability that is missing", "unknown", "^needs crash: no signals here$", Known({"wrong": ROWS}, missing={"crash": "no signals here"}),
            CRASHED),
        Row("a capability that is missing, and it failed", "unknown", "^needs crash", Known({"wrong": 3}, missing={"crash": "no signals here"}), CRASHED),
        Row("a missing capability that the claim does not need", "pass", "", Known({"wrong": ROWS}, missing={"redis": "none"})),
    ],
    "armed": [
        Row("not one case of its need", "unknown", "^needs crash: no case of it could be armed$", Known({"wrong": ROWS}, armed={"crash": 0}), CRASHED),
        Row("not one case of its need, and it failed", "unknown", "no case of it could be armed$", Known({"wrong": 3}, armed={"crash": 0}), CRASHED),
        Row("a case of its need", "pass", "", Known({"wrong": ROWS}, armed={"crash": 1}), CRASHED),
        Row("not one case of a need that is another claim's", "pass", "", Known({"wrong": ROWS}, armed={"crash": 1, "pause": 0}), CRASHED),
        Row("a need that no fault shows", "pass", "", Known({"wrong": ROWS}), CRASHED),
    ],
    "interval": [
        Row("on the bad side", "fail", "^3 against == 0$", Known({"wrong": Estimate(3.0, n=10)})),
        Row("wholly on the bad side", "fail", "^0.2 against <= 0.1$", Known({"wrong": Estimate(0.2, 0.11, 0.3, 50)}), bar("<= 0.1")),
        Row("across the bar, its value on the good side", "unknown", "the interval, 0.01 to 0.12, holds the bar: more samples",
            Known({"wrong": Estimate(0.05, 0.01, 0.12, 50)}), bar("<= 0.1")),
        Row("wholly on the good side", "pass", "", Known({"wrong": Estimate(0.05, 0.01, 0.1, 50)}), bar("<= 0.1")),
        Row("inside the range", "pass", "", Known({"wrong": Estimate(6.5, 5.8, 7.8, 9)}), bar("5.8..7.8")),
        Row("sampled zero is no zero", "unknown", "more samples", Known({"wrong": Estimate(0.0, 0.0, 0.004, 1000)})),
        Row("not measured", "unknown", "^it was not measured$", Known()),
        Row("unmeasured says why", "unknown", "^13 of 13 were inconclusive$", Known({"wrong": Unmeasured("13 of 13 were inconclusive")})),
        Row("not a number", "unknown", "^the value is not a finite number$", Known({"wrong": math.nan})),
        Row("without end, on the good side", "unknown", "^the value is not a finite number$", Known({"wrong": math.inf}), bar(">= 1")),
        Row("a limit without end", "unknown", "^the value is not a finite number$", Known({"wrong": Estimate(0.2, 0.1, math.inf, 9)}), bar(">= 0.1")),
        Row("zero of nothing", "unknown", "^nothing was tried$", Known({"wrong": Estimate(0.0, n=0)})),
        Row("nothing found of nothing, above a bar", "unknown", "^nothing was tried$", Known({"wrong": Estimate(0.0, n=0)}), bar(">= 1")),
    ],
    "void": [
        Row("a pass that rests on void trials", "unknown", r"^2 trials were void: steady · clean: OSError$", Known({"wrong": ROWS}, voids=("steady · clean: OSError", "b"))),
        Row("a failure stands beside void trials", "fail", "^1 against", Known({"wrong": 1}, voids=("steady",))),
        Row("what is unknown anyway names its void trials too", "unknown", "^it was not measured; 2 trials were void: steady$", Known(voids=("steady", "b"))),
        Row("a race does not rest on the trials", "pass", "", Known({"wrong": ROWS}, RACED, voids=("steady",)), Claim("s", "cpu_s", "<= 1.5", "s")),
    ],
    "hit": [
        Row("a pass with a case that did not hit", "unknown", r"^1 armed cases did not hit: crash: kill -9 at x #1$", Known({"wrong": ROWS}, unhit=("crash: kill -9 at x #1",))),
        Row("a failure stands beside cases that did not hit", "fail", "^1 against", Known({"wrong": 1}, unhit=("crash",))),
    ],
    "negative control": [
        Row("asleep", "unknown", r"^the control 'naive fails' is asleep: 9 against > 10$", GOOD, controls=(ASLEEP,)),
        Row("asleep, because the baseline did not run", "unknown", "is asleep: naive did not run: no redis", GOOD, naive=Known({"wrong": 9}, absent="no redis"), controls=(AWAKE,)),
        Row("asleep, because there is no baseline", "unknown", "is asleep: naive did not run: it is not among the subjects", GOOD, naive=None, controls=(AWAKE,)),
        Row("asleep, because nobody can tell", "unknown", "is asleep: the interval", GOOD, naive=Known({"wrong": Estimate(1, -1, 2, 5)}), controls=(AWAKE,)),
        Row("awake", "pass", "", GOOD, controls=(AWAKE,)),
        Row("asleep, and a failure survives it", "fail", "^3 against", Known({"wrong": 3}), controls=(ASLEEP,)),
        Row("asleep, but it guards another claim", "pass", "", GOOD, controls=(Control("c", "naive", "wrong", "> 10", guards=("another",)),)),
        Row("asleep, and it guards this claim", "unknown", "asleep", GOOD, controls=(Control("c", "naive", "wrong", "> 10", guards=("correct",)),)),
        Row("a control of full does not count at quick", "pass", "", GOOD, controls=(Control("c", "naive", "wrong", "> 10", scale="full"),)),
        Row("a control of full counts at full", "unknown", "asleep", GOOD, controls=(Control("c", "naive", "wrong", "> 10", scale="full"),), scale="full"),
        Row("one awake, one asleep", "unknown", "asleep", GOOD, controls=(AWAKE, ASLEEP)),
    ],
    "positive control, judged": [
        Row("the judged subject refuses the genuine", "unknown", "'genuine let in' is asleep: 0 against == 10", Known({"wrong": ROWS, "admitted": 0}), controls=(GENUINE,)),
        Row("the judged subject, by its name", "unknown", "asleep", Known({"wrong": ROWS, "admitted": 0}),
            controls=(Control("genuine let in", "ours", "admitted", "== 10", "positive"),)),
        Row("the judged subject lets the genuine in", "pass", "", GOOD, controls=(GENUINE,)),
        Row("the judged subject refuses the genuine, and failed", "fail", "^3 against", Known({"wrong": 3, "admitted": 0}), controls=(GENUINE,)),
    ],
    "positive control, reference": [
        Row("the reference misses, so a failure is not believed", "unknown", "'reference admits' is asleep", Known({"wrong": 3}), controls=(REFERENCE,)),
        Row("the reference misses, and a pass stands", "pass", "", GOOD, controls=(REFERENCE,)),
        Row("the reference is awake, and a failure stands", "fail", "^3 against", Known({"wrong": 3}), naive=Known({"admitted": 10}), controls=(REFERENCE,)),
    ],
    "hosted alike": [
        Row("a pass between two ways of hosting", "unknown", "between subjects hosted alike: ours is hosted url, naive in-process",
            Known({"wrong": ROWS}, RACED, hosted="url"), SPEED, naive=Known({}, {"cpu_s": SLOWER}), beside=(CORRECT,)),
        Row("a failure between two ways of hosting", "unknown", "hosted alike",
            Known({"wrong": ROWS}, {"cpu_s over naive": SLOWER, "cpu_s": SLOWER}, hosted="url"), SPEED, naive=Known({}, {"cpu_s": FASTER}), beside=(CORRECT,)),
        Row("hosted alike", "pass", "", Known({"wrong": ROWS}, RACED, hosted="line"), SPEED, naive=Known({}, {"cpu_s": SLOWER}, hosted="line"), beside=(CORRECT,)),
        Row("no ratio, so nobody to be hosted like", "pass", "", Known({"wrong": ROWS}, RACED, hosted="url"), Claim("s", "cpu_s", "<= 1.5", "s", speed=True), beside=(CORRECT,)),
        Row("a count of one that is hosted elsewhere", "pass", "", Known({"wrong": ROWS}, hosted="url")),
    ],
    "correct first": [
        Row("fast and wrong", "unknown", "speed counts only where the correctness claims pass", Known({"wrong": 3}, RACED), SPEED, beside=(CORRECT,)),
        Row("fast, and nobody knows whether it is right", "unknown", "speed counts only", Known({}, RACED), SPEED, beside=(CORRECT,)),
        Row("fast, and nothing says that it is right", "unknown", "speed counts only", Known({}, RACED), SPEED),
        Row("fast, and what says that it is right is deferred", "unknown", "speed counts only", Known({"wrong": ROWS}, RACED), SPEED,
            beside=(Claim("c", "wrong", "== 0", "rows", scale="full"),)),
        Row("fast in plain seconds, and wrong", "unknown", "speed counts only", Known({"wrong": 3}, RACED), Claim("s", "cpu_s", "<= 1.5", "s", speed=True), beside=(CORRECT,)),
        Row("fast and right", "pass", "", Known({"wrong": ROWS}, RACED), SPEED, beside=(CORRECT,)),
        Row("fast and right, beside a claim that is deferred", "pass", "", Known({"wrong": ROWS}, RACED), SPEED,
            beside=(CORRECT, Claim("c", "wrong", "== 0", "rows", scale="full"))),
        Row("slow and wrong is slow all the same", "fail", "^4 against <= 1.5$", Known({"wrong": 3}, {"cpu_s over naive": SLOWER, "cpu_s": SLOWER}), SPEED, beside=(CORRECT,)),
        Row("another speed claim that fails does not stand in the way", "pass", "", Known({"wrong": ROWS}, RACED), SPEED,
            beside=(CORRECT, Claim("s", "cpu_s", "<= 0.1", "s", speed=True))),
        Row("a claim of correctness waits for no other", "pass", "", GOOD, CORRECT, beside=(Claim("other", "admitted", "== 0", "x"),)),
    ],
    "ratio": [
        Row("of a race, as it was measured round by round", "pass", "", Known({"wrong": ROWS}, {"cpu_s": SLOWER, "cpu_s over naive": FASTER}), SPEED,
            naive=Known({}, {"cpu_s": FASTER}), beside=(CORRECT,)),
        Row("of a race that the other left", "unknown", "^it was not measured$", Known({"wrong": ROWS}, {"cpu_s": FASTER}), SPEED, beside=(CORRECT,)),
        Row("of two measures", "fail", "^2 against <= 1.5$", Known({"wrong": ROWS, "cpu_s": 4}), SPEED, naive=Known({"cpu_s": 2}), beside=(CORRECT,)),
        Row("to one that did not run", "unknown", "^naive did not run: no redis$", Known({"wrong": ROWS}, RACED), SPEED,
            naive=Known({"cpu_s": 2}, absent="no redis"), beside=(CORRECT,)),
        Row("to nobody", "unknown", "^naive did not run: no subject is called naive$", Known({"wrong": ROWS}, RACED), SPEED, naive=None, beside=(CORRECT,)),
        Row("to one that was not measured", "unknown", "one side of the ratio was not measured", Known({"wrong": ROWS, "cpu_s": 4}), SPEED, beside=(CORRECT,)),
        Row("to one that could not be measured", "unknown", "^too few$", Known({"wrong": ROWS, "cpu_s": 4}), SPEED, naive=Known({"cpu_s": Unmeasured("too few")}), beside=(CORRECT,)),
        Row("to zero", "unknown", "zero or below", Known({"wrong": ROWS, "cpu_s": 4}), SPEED, naive=Known({"cpu_s": Estimate(1.0, 0.0, 2.0)}), beside=(CORRECT,)),
    ],
}

Check = Callable[[ModuleType], None]
CHECKS: dict[str, Check] = {f"{rule}: {row.about}": row.check for rule, rows in TABLE.items() for row in rows}


def check(function: Check) -> Check:
    CHECKS[function.__name__.replace("_", " ")] = function
    return function


@check
def the_worst_verdict_names_the_run(v: Any) -> None:
    assert v.worst(["pass", "unknown", "fail"]) == "fail"
    assert v.worst(["pass", "unknown"]) == "unknown"
    assert v.worst(["pass", "pass"]) == "pass"
    assert v.worst(["pass", "deferred", "not run"]) == "pass"


@check
def no_claims_is_unknown(v: Any) -> None:
    assert v.worst([]) == "unknown"
    assert v.worst(["deferred", "not run"]) == "unknown"


@check
def helpers_of_checkers_refuse_to_make_something_of_nothing(v: Any) -> None:
    assert v.share(0, 0) == Unmeasured("nothing was tried")
    assert v.count(0, 0) == Unmeasured("nothing was tried")
    assert v.median([1.0] * 5) == Unmeasured("5 samples give no interval")
    assert v.count(2, 10) == Estimate(2.0, n=10)
    assert v.median([1, 2, 3, 4, 5, 6]) == Estimate(3.5, 1, 6, 6)
    found = v.share(0, 10_000)
    assert (found.value, found.low, found.n) == (0.0, 0.0, 10_000)
    assert found.high == pytest.approx(0.000369, abs=1e-6)  # 0 of 10,000: 0.037 %


@check
def a_claim_about_another_subject_is_judged_by_what_is_known_of_that(v: Any) -> None:
    evidence = {"ours": Known({"wrong": 9.0}).of(v), "ours on another store": Known({"wrong": ROWS}, RACED, hosted="line").of(v), "naive": Known({}, hosted="line").of(v)}
    other = "ours on another store"
    claims = [replace(CORRECT, about=other), replace(SPEED, about=other), replace(CORRECT, about="nobody")]
    judged = v.judge_claims(claims, [], evidence, "ours", "quick")
    assert [(j.subject, j.verdict) for j in judged] == [(other, "pass"), (other, "unknown"), ("nobody", "unknown")]
    judged = v.judge_claims(claims[:2], [], evidence, "ours", "quick")
    assert [(j.subject, j.verdict) for j in judged] == [(other, "pass"), (other, "pass")]


@check
def a_ratio_has_the_widest_interval(v: Any) -> None:
    assert v.ratio(Estimate(4, 2, 6, 9), Estimate(2, 1, 4, 7)) == Estimate(2, 0.5, 6, 7)
    assert v.ratio(6, 3) == Estimate(2, 2, 2, None)
    assert v.ratio(Estimate(6, n=9), 3).n == 9
    for ours, theirs in ((None, 1), (1, None), (1, 0)):
        assert isinstance(v.ratio(ours, theirs), Unmeasured)


@check
def a_bar_is_parsed_or_refused(v: Any) -> None:
    assert v.Bar.parse(" >= 10 ") == v.Bar(">=", 10.0)
    parsed = v.Bar.parse("5.8..7.8")
    assert (parsed.op, parsed.at, parsed.to) == ("..", 5.8, 7.8)
    for text in ("", "10", "=> 3", "== x", "7.8..5.8", "!= 1", "< 1 < 2"):
        with pytest.raises(InvalidInput, match="bar = "):
            v.Bar.parse(text)


@check
def a_bar_judges_an_interval(v: Any) -> None:
    for text, low, high, verdict_ in (
        ("== 0", 0, 0, "pass"), ("== 0", 0, 1, "unknown"), ("== 0", -1, 1, "unknown"), ("== 0", 1, 2, "fail"), ("== 0", -2, -1, "fail"),
        (">= 10", 10, 12, "pass"), (">= 10", 9, 10, "unknown"), (">= 10", 8, 9, "fail"), ("> 10", 10, 10, "fail"),
        ("<= 10", 9, 10, "pass"), ("< 10", 9, 10, "unknown"), ("< 10", 10, 11, "fail"),
        ("5..7", 5, 7, "pass"), ("5..7", 4, 6, "unknown"), ("5..7", 6, 8, "unknown"), ("5..7", 4, 8, "unknown"),
        ("5..7", 1, 4, "fail"), ("5..7", 8, 9, "fail"),
    ):
        assert v.Bar.parse(text).judge(low, high) == verdict_, (text, low, high)


@check
def numbers_are_shown_for_people(v: Any) -> None:
    shown = [v.show(x) for x in (0, 3.0, 1234567, 0.12345, 1234.5678, 0.00012345, math.inf, -2.5)]
    assert shown == ["0", "3", "1,234,567", "0.1235", "1,235", "1.23e-04", "inf", "-2.5"]


def survives(module: ModuleType) -> bool:
    """Whether every check is green for this copy."""
    for holds in CHECKS.values():
        try:
            holds(module)
        except Exception:
            return False
    return True


@pytest.mark.parametrize("holds", CHECKS.values(), ids=CHECKS)
def test_rule(holds):
    holds(verdict)


def test_every_rule_that_the_source_names_has_its_rows():
    assert set(rules.rules(verdict)) <= set(TABLE)


@pytest.mark.parametrize("rule", rules.rules(verdict))
def test_deleting_a_rule_turns_one_of_its_own_rows_red(rule):
    red = []
    for row in TABLE[rule]:
        try:
            row.check(rules.without_rule(rule))
        except Exception:
            red.append(row.about)
    assert red, f"without the rule {rule!r} every row of it is still green"


@pytest.mark.parametrize("guard", rules.guards(verdict))
def test_deleting_any_guard_of_the_module_turns_a_check_red(guard):
    assert not survives(rules.without_guard(guard)), f"nothing here notices that the condition at {guard} is gone"


def test_an_untouched_copy_is_green():
    """The transformation itself does no harm: what turns red above is the rule."""
    assert survives(rules.copy(verdict))


def test_a_checker_that_throws_is_unknown_and_the_run_goes_on(prove):
    yours = Subject("yours", lambda env: _Answers([{"not": "hashable"}]), "yours")
    outcome = prove(document.PROOF, yours)
    assert [(c.verdict, c.why.partition(": ")[0]) for c in outcome.claims] == [("unknown", "the checker compared threw TypeError")] * 2
    assert outcome.others["good"][0].verdict == "pass"
    (error,) = outcome.errors
    assert error.startswith("yours: the checker compared threw TypeError")


def test_deleting_the_rule_of_checkers_lets_one_break_the_run(prove):
    (rule,) = rules.rules(run)
    yours = Subject("yours", lambda env: _Answers([{"not": "hashable"}]), "yours")
    with pytest.raises(TypeError):
        prove(document.PROOF, yours, by=rules.without_rule(rule, run).run)


class _Answers:
    def __init__(self, value: Any) -> None:
        self.value = value

    def findings(self, document: str) -> Any:
        return self.value
