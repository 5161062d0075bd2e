"""Bars and the interval rule: whatever the numbers, a pass means that every value of the interval is on the good side."""

from __future__ import annotations

import math
import re

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from buttress.kernel.errors import InvalidInput
from buttress.proof.contract import Estimate, Unmeasured
from buttress.proof.verdict import Bar, as_estimate, count, judge, median, ratio, share, show

plain = st.decimals(-10**6, 10**6, places=3).map(float)
signs = st.sampled_from(["==", ">=", "<=", "<", ">"])
singles = st.builds("{} {}".format, signs, plain)
ranges = st.tuples(plain, plain).map(sorted).map(lambda pair: f"{pair[0]}..{pair[1]}")
bars = singles | ranges
numbers = st.floats(-1e9, 1e9)
any_number = st.sampled_from([0.0, 1.0, 2.0, math.nan, math.inf, -math.inf])
intervals = st.tuples(numbers, numbers).map(sorted)


@given(signs, plain, st.sampled_from(["", " ", "  "]))
def test_a_single_bar_is_read_as_it_is_written(op, at, gap):
    assert Bar.parse(f" {op}{gap}{at} ") == Bar(op, at) or math.isnan(Bar.parse(f"{op}{at}").to)
    parsed = Bar.parse(f"{op}{gap}{at}")
    assert (parsed.op, parsed.at) == (op, at)


@given(plain, plain)
def test_a_range_is_read_low_to_high_and_refused_the_other_way(a, b):
    low, high = sorted((a, b))
    parsed = Bar.parse(f"{low}..{high}")
    assert (parsed.op, parsed.at, parsed.to) == ("..", low, high)
    if low != high:
        with pytest.raises(InvalidInput):
            Bar.parse(f"{high}..{low}")


@given(st.text(max_size=12))
@example("1e3")
@example("== 1..2")
@example("=> 0")
@example("5.8 .. 7.8")
@example("== nan")
@example("<= inf")
@example("== 0 ")
def test_any_other_text_is_refused_with_what_a_bar_looks_like(text):
    looks_right = re.fullmatch(r"\s*((==|>=|<=|<|>)\s*-?\d+(\.\d+)?(e-?\d+)?|-?\d+(\.\d+)?\.\.-?\d+(\.\d+)?)\s*", text)
    if looks_right is None:
        with pytest.raises(InvalidInput, match="must be like '== 0', '>= 10'"):
            Bar.parse(text)


@given(bars, intervals, st.floats(0, 1))
def test_a_pass_means_that_all_of_the_interval_holds_and_a_fail_that_none_does(text, interval, at):
    low, high = interval
    inside = min(high, max(low, low + at * (high - low)))
    bar = Bar.parse(text)
    verdict = bar.judge(low, high)
    if verdict == "pass":
        assert bar.holds(inside)
    elif verdict == "fail":
        assert not bar.holds(inside)
    else:
        assert low < high


@given(bars, numbers)
def test_a_point_is_never_undecided(text, value):
    verdict, why = judge(value, text)
    assert verdict == ("pass" if Bar.parse(text).holds(value) else "fail")
    assert (why == "") == (verdict == "pass")


@given(bars, intervals, st.floats(0, 1), st.floats(0, 1))
def test_a_narrower_interval_never_turns_a_verdict_round(text, interval, a, b):
    low, high = interval
    narrow = sorted(min(high, max(low, low + part * (high - low))) for part in (a, b))
    bar = Bar.parse(text)
    wide = bar.judge(low, high)
    assert wide == "unknown" or bar.judge(*narrow) == wide


@given(bars)
def test_what_was_not_measured_passes_no_bar(text):
    for nothing in (None, Unmeasured("too few"), math.nan, Estimate(0.0, n=0), Estimate(math.nan, 0, 1)):
        verdict, why = judge(nothing, text)
        assert verdict == "unknown"
        assert why


@given(bars, st.tuples(any_number, any_number, any_number).filter(lambda three: not all(map(math.isfinite, three))))
def test_what_is_not_finite_neither_passes_nor_fails_a_bar(text, value_and_limits):
    """The result shows it as null, which means not measured: nobody knows."""
    assert judge(Estimate(*value_and_limits), text) == ("unknown", "the value is not a finite number")


@given(bars, st.sampled_from([math.nan, math.inf, -math.inf]))
def test_a_point_that_is_not_finite_neither_passes_nor_fails_a_bar(text, value):
    assert judge(value, text)[0] == "unknown"


@given(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6), st.floats(1e-6, 1e6), st.floats(1e-6, 1e6), st.floats(0, 1), st.floats(0, 1))
def test_a_ratio_holds_every_quotient_of_its_two_intervals(a, b, c, d, at_ours, at_theirs):
    (a, b), (c, d) = sorted((a, b)), sorted((c, d))
    found = ratio(Estimate((a + b) / 2, a, b, 9), Estimate((c + d) / 2, c, d, 7))
    assert isinstance(found, Estimate)
    quotient = (a + at_ours * (b - a)) / (c + at_theirs * (d - c))
    slack = 1e-9 * max(abs(a), abs(b)) / c
    assert found.low - slack <= quotient <= found.high + slack
    assert found.n == 7


@given(st.integers(0, 400), st.integers(1, 400))
def test_a_share_lies_in_its_interval_and_never_outside_of_zero_to_one(hits, n):
    assume(hits <= n)
    found = share(hits, n)
    assert isinstance(found, Estimate)
    assert 0 <= found.low <= found.value <= found.high <= 1
    assert (found.low == 0) == (hits == 0)
    assert (found.high == 1) == (hits == n)


@given(st.lists(numbers, max_size=40))
def test_a_median_has_an_interval_of_its_own_samples_from_six_on(samples):
    found = median(samples)
    if len(samples) < 6:
        assert found == Unmeasured(f"{len(samples)} samples give no interval")
    else:
        assert isinstance(found, Estimate)
        assert found.low in samples
        assert found.high in samples
        assert found.low <= found.value <= found.high


@given(st.integers(0, 10**9), st.integers(0, 10**9))
def test_a_count_is_exact_and_of_nothing_is_no_answer(hits, of):
    assert count(hits, of) == (Estimate(float(hits), n=of) if of else Unmeasured("nothing was tried"))
    assert as_estimate(hits) == Estimate(float(hits))


@given(st.floats(allow_nan=False))
def test_any_number_can_be_shown(value):
    text = show(value)
    assert text
    if math.isfinite(value) and 1e-3 <= abs(value) < 1e15:
        assert float(text.replace(",", "")) == pytest.approx(value, rel=1e-3)
