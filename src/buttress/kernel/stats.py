"""Counts and samples to intervals. Two-sided, 95 % unless told otherwise. Checked against scipy in the tests.

Sources: E. B. Wilson, JASA 22 (1927) for ``wilson``; C. Clopper and E. Pearson, Biometrika 26 (1934) for
``clopper_pearson``; order statistics as in H. David and H. Nagaraja, Order Statistics, section 7.1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

from buttress.kernel.errors import InvalidInput


@dataclass(frozen=True)
class Interval:
    """A value with its limits; ``n`` is the number of trials or samples behind it."""

    value: float
    low: float
    high: float
    n: int


def wilson(hits: int, n: int, confidence: float = 0.95) -> Interval:
    """A share from counts by the score interval: good for n of any size when the share is not extreme."""
    _check_counts(hits, n, confidence)
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    p = hits / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return Interval(p, 0.0 if hits == 0 else max(0.0, centre - half), 1.0 if hits == n else min(1.0, centre + half), n)


def clopper_pearson(hits: int, n: int, confidence: float = 0.95) -> Interval:
    """A share from counts by exact tails: never covers less than it says. 0 of 10,000 has the upper limit 0.037 %."""
    _check_counts(hits, n, confidence)
    tail = (1 - confidence) / 2
    low = 0.0 if hits == 0 else beta_quantile(tail, hits, n - hits + 1)
    high = 1.0 if hits == n else beta_quantile(1 - tail, hits + 1, n - hits)
    return Interval(hits / n, low, high, n)


def quantile(samples: Sequence[float], q: float = 0.5, confidence: float = 0.95) -> Interval | None:
    """A quantile with the order-statistic interval (distribution-free). None: too few samples to have one.

    A median needs 6 samples; the 99th percentile 368.
    """
    if any(math.isnan(value) for value in samples):
        raise InvalidInput("samples", "NaN", "must be numbers")
    ordered = sorted(samples)
    n = len(ordered)
    ranks = quantile_ranks(n, q, confidence)
    if ranks is None:
        return None
    low, high = ranks
    position = q * (n - 1)
    below = int(position)
    value = ordered[below] + (ordered[min(below + 1, n - 1)] - ordered[below]) * (position - below)
    return Interval(value, ordered[low - 1], ordered[high - 1], n)


def quantile_ranks(n: int, q: float, confidence: float = 0.95) -> tuple[int, int] | None:
    """Ranks (from 1) whose order statistics enclose the quantile: each tail of the binomial holds at most (1 - confidence) / 2."""
    _check_unit("q", q)
    _check_unit("confidence", confidence)
    tail = (1 - confidence) / 2
    if n < 1 or q**n > tail or (1 - q) ** n > tail:
        return None
    cumulative, low, high = 0.0, 0, n
    for k in range(n + 1):
        cumulative += math.exp(_log_binomial(n, k) + k * math.log(q) + (n - k) * math.log1p(-q))
        if cumulative <= tail:
            low = k + 1
        if cumulative >= 1 - tail:
            high = k + 1
            break
    return max(low, 1), min(high, n)


def samples_for_quantile(q: float, confidence: float = 0.95) -> int:
    """The fewest samples for which ``quantile`` has an interval."""
    n = 1
    while quantile_ranks(n, q, confidence) is None:
        n += 1
    return n


def beta_quantile(p: float, a: float, b: float) -> float:
    """The inverse of the regularised incomplete beta function, by bisection (abs. error below 1e-12)."""
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        if beta_cdf(middle, a, b) < p:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def beta_cdf(x: float, a: float, b: float) -> float:
    """The regularised incomplete beta function I_x(a, b), by its continued fraction (Lentz; DLMF 8.17.22)."""
    if x <= 0 or x >= 1:
        return 0.0 if x <= 0 else 1.0
    if x > (a + 1) / (a + b + 2):
        return 1 - beta_cdf(1 - x, b, a)
    front = math.exp(a * math.log(x) + b * math.log1p(-x) + math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b)) / a
    tiny = 1e-300
    c, d = 1.0, 1 - (a + b) * x / (a + 1)
    d = 1 / (d if abs(d) > tiny else tiny)
    result = d
    for m in range(1, 10_000):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        d = 1 / _away_from_zero(1 + even * d, tiny)
        c = _away_from_zero(1 + even / c, tiny)
        result *= d * c
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        d = 1 / _away_from_zero(1 + odd * d, tiny)
        c = _away_from_zero(1 + odd / c, tiny)
        result *= d * c
        if abs(d * c - 1) < 1e-15:
            break
    return front * result


def _away_from_zero(value: float, tiny: float) -> float:
    return value if abs(value) > tiny else tiny


def _log_binomial(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)


def _check_counts(hits: int, n: int, confidence: float) -> None:
    if n < 1 or not 0 <= hits <= n:
        raise InvalidInput("hits, n", (hits, n), "must be 0 <= hits <= n, n at least 1")
    _check_unit("confidence", confidence)


def _check_unit(field: str, value: float) -> None:
    if not 0 < value < 1:
        raise InvalidInput(field, value, "must be between 0 and 1")
