from __future__ import annotations

import math
import random
import signal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from buttress.kernel.errors import InvalidInput
from buttress.kernel.stats import (
    Interval,
    beta_cdf,
    beta_quantile,
    clopper_pearson,
    quantile,
    quantile_ranks,
    samples_for_quantile,
    wilson,
)

COUNTS = [(hits, n) for n in (1, 2, 3, 10, 97, 1_000, 10_000, 1_000_000) for hits in sorted({0, 1, 2, n // 100, n // 3, n // 2, n - 1, n}) if hits <= n]
CONFIDENCES = [0.5, 0.9, 0.95, 0.999, 0.999999]


@pytest.fixture(scope="module")
def scipy():
    pytest.importorskip("scipy")
    import scipy.special
    import scipy.stats

    return scipy


@pytest.mark.parametrize("confidence", CONFIDENCES)
def test_wilson_and_clopper_pearson_agree_with_scipy(scipy, confidence):
    for hits, n in COUNTS:
        test = scipy.stats.binomtest(hits, n)
        for ours, method in ((wilson, "wilson"), (clopper_pearson, "exact")):
            interval = ours(hits, n, confidence)
            theirs = test.proportion_ci(confidence, method)
            where = f"{method}({hits}, {n}, {confidence})"
            assert interval.low == pytest.approx(theirs.low, abs=1e-9), where
            assert interval.high == pytest.approx(theirs.high, abs=1e-9), where
            assert interval.value == hits / n
            assert interval.n == n
            assert 0.0 <= interval.low <= interval.value <= interval.high <= 1.0, where


def test_the_extremes_touch_their_ends():
    for interval in (wilson, clopper_pearson):
        assert interval(0, 10).low == 0.0
        assert interval(10, 10).high == 1.0
        assert 0 < interval(0, 10).high < 1
        assert 0 < interval(10, 10).low < 1


def test_zero_of_ten_thousand_is_at_most_0_037_percent():
    assert f"{clopper_pearson(0, 10_000).high:.3%}" == "0.037%"
    assert clopper_pearson(0, 10_000).high == pytest.approx(1 - 0.025 ** (1 / 10_000), abs=1e-12)


def test_clopper_pearson_never_covers_less_than_it_says(scipy):
    """Exact coverage over all outcomes, for shares on a grid; Wilson's is about right on average and dips below."""
    n = 30
    intervals = [clopper_pearson(hits, n) for hits in range(n + 1)]
    for share in [step / 200 for step in range(1, 200)]:
        covered = sum(scipy.stats.binom.pmf(hits, n, share) for hits, i in enumerate(intervals) if i.low <= share <= i.high)
        assert covered >= 0.95 - 1e-12, f"{covered} at a share of {share}"


def test_beta_cdf_agrees_with_scipy(scipy):
    shapes = [0.5, 1.0, 1.5, 2.0, 7.0, 31.0, 500.0, 9_999.0, 100_000.0]
    points = [0.0, 1e-12, 1e-6, 0.001, 0.01, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99, 0.999999, 1.0]
    for a in shapes:
        for b in shapes:
            near = [a / (a + b) + step * math.sqrt(a * b / (a + b + 1)) / (a + b) for step in (-3, -1, 0, 1, 3)]
            for x in [*points, *(x for x in near if 0 < x < 1)]:
                assert beta_cdf(x, a, b) == pytest.approx(scipy.special.betainc(a, b, x), abs=1e-9), (x, a, b)


def test_beta_quantile_is_the_inverse(scipy):
    for a in (1.0, 3.0, 50.0, 2_000.0):
        for b in (1.0, 4.0, 9_000.0):
            for p in (1e-9, 0.025, 0.5, 0.975, 1 - 1e-9):
                assert beta_quantile(p, a, b) == pytest.approx(scipy.special.betaincinv(a, b, p), abs=1e-9), (p, a, b)


def test_six_samples_make_a_median():
    assert quantile_ranks(5, 0.5) is None
    assert quantile_ranks(6, 0.5) == (1, 6)
    assert quantile([1.0, 2.0, 3.0, 4.0, 5.0]) is None
    assert quantile([6.0, 1.0, 5.0, 2.0, 4.0, 3.0]) == Interval(3.5, 1.0, 6.0, 6)
    assert samples_for_quantile(0.5) == 6
    assert samples_for_quantile(0.99) == 368
    assert quantile([]) is None


def test_the_ranks_are_the_tightest_whose_tails_hold(scipy):
    """Each tail of the binomial holds at most (1 - confidence) / 2, and one rank further in it would hold more."""
    for q in (0.01, 0.1, 0.25, 0.5, 0.9, 0.99):
        for confidence in (0.8, 0.95, 0.99):
            tail = (1 - confidence) / 2
            for n in [*range(1, 60), 100, 368, 500, 1_000, 5_000]:
                count = scipy.stats.binom(n, q)
                ranks = quantile_ranks(n, q, confidence)
                where = (n, q, confidence, ranks)
                if ranks is None:
                    assert max(q**n, (1 - q) ** n) > tail, where
                    continue
                low, high = ranks
                assert 1 <= low <= high <= n, where
                assert count.cdf(low - 1) <= tail + 1e-12, where
                assert count.cdf(low) > tail - 1e-12, where
                assert 1 - count.cdf(high - 1) <= tail + 1e-12, where
                assert 1 - count.cdf(high - 2) > tail - 1e-12, where


@pytest.mark.parametrize(("q", "n"), [(0.5, 6), (0.5, 15), (0.5, 41), (0.9, 40), (0.99, 400)])
def test_a_quantile_is_covered_as_often_as_it_says(scipy, q, n):
    """2,000 samples from a skewed distribution: the count of covered ones lies where its binomial puts it (1 in 10^6)."""
    rng = random.Random(20_240_229)
    runs, truth = 2_000, -math.log1p(-q)
    low, high = quantile_ranks(n, q)
    binomial = scipy.stats.binom(n, q)
    exact = binomial.cdf(high - 1) - binomial.cdf(low - 1)
    assert exact >= 0.95
    covered = 0
    for _ in range(runs):
        interval = quantile([rng.expovariate(1.0) for _ in range(n)], q)
        covered += interval.low <= truth <= interval.high
    least, most = scipy.stats.binom(runs, exact).ppf([5e-7, 1 - 5e-7])
    assert least <= covered <= most, f"{covered} of {runs}, expected {exact:.2%}"


@settings(max_examples=150, deadline=None, database=None)
@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=80), st.sampled_from([0.1, 0.5, 0.75, 0.9]))
def test_a_quantile_lies_in_its_interval_and_among_its_samples(samples, q):
    interval = quantile(samples, q)
    if interval is None:
        assert len(samples) < samples_for_quantile(q)
        return
    assert len(samples) >= samples_for_quantile(q)
    assert interval.low <= interval.value <= interval.high
    assert interval.low in samples
    assert interval.high in samples
    assert interval.n == len(samples)


def test_more_samples_narrow_the_interval():
    rng = random.Random(7)
    samples = [rng.random() for _ in range(2_000)]
    widths = [interval.high - interval.low for interval in (quantile(samples[:n]) for n in (20, 200, 2_000)) if interval]
    assert widths == sorted(widths, reverse=True)
    assert len(widths) == 3


@pytest.mark.parametrize(("hits", "n", "confidence"), [(-1, 10, 0.95), (11, 10, 0.95), (0, 0, 0.95), (1, 10, 0.0), (1, 10, 1.0), (1, 10, 1.5)])
def test_counts_outside_the_rules_are_refused(hits, n, confidence):
    for interval in (wilson, clopper_pearson):
        with pytest.raises(InvalidInput):
            interval(hits, n, confidence)


@pytest.mark.parametrize("q", [0.0, 1.0, -0.5, 2.0])
def test_a_quantile_outside_the_rules_is_refused(q):
    with pytest.raises(InvalidInput):
        quantile([1.0] * 10, q)


@pytest.mark.parametrize("place", [0, 3, 9])
def test_a_sample_that_is_no_number_is_refused(place):
    samples = [float(n) for n in range(10)]
    samples[place] = math.nan
    with pytest.raises(InvalidInput):
        quantile(samples)


@pytest.mark.parametrize("confidence", [-0.1, 1.0, 1.5])
def test_a_confidence_outside_the_rules_is_refused(confidence):
    with pytest.raises(InvalidInput):
        quantile([float(n) for n in range(10)], 0.5, confidence)


@pytest.mark.parametrize("q", [0.0, 1.0])
def test_the_samples_for_an_extreme_are_refused(fork, q):
    def work(tell, _):
        signal.setitimer(signal.ITIMER_REAL, 0.5)  # ends the child if it counts for ever
        try:
            samples_for_quantile(q)
        except InvalidInput:
            tell("refused")

    child = fork(work)
    assert child.says() == "refused"
