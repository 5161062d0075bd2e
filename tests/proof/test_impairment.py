"""The decisions about packets: their shares inside binomial bounds, bursts against theory, and the same ones from the same seed."""

from __future__ import annotations

import itertools
import math
import random
from statistics import fmean, pstdev

import pytest

from buttress.kernel.errors import InvalidInput
from buttress.proof.faults.impairment import NS, GilbertElliott, Impair, Impairment

N = 30_000
EVERY_NS = NS // 1000


def sent(spec, seed=7, n=N, size=100, every_ns=EVERY_NS):
    """What leaves of ``n`` packets, one each millisecond: (index, due, packet)."""
    line = Impairment(spec, seed)
    out = []
    for index in range(n):
        packet = index.to_bytes(4, "big") + bytes(size - 4)
        out += [(index, due_ns, each) for due_ns, each in line.offer(packet, index * every_ns)]
    return line, out


def inside(found: int, share: float, n: int = N) -> bool:
    """Within five standard deviations of a binomial count: wrong once in two million."""
    return abs(found - n * share) <= 5 * math.sqrt(n * share * (1 - share))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("spec", "counted", "share"), [
    (Impair(loss=0.1), lambda p: p.dropped["loss"], 0.1), (Impair(loss=0.01), lambda p: p.dropped["loss"], 0.01),
    (Impair(duplicate=0.05), lambda p: p.duplicated, 0.05), (Impair(corrupt=0.2), lambda p: p.corrupted, 0.2),
    (Impair(reorder=0.25, delay_ms=10), lambda p: p.reordered, 0.25),
], ids=["loss 10 %", "loss 1 %", "duplicate", "corrupt", "reorder"])
def test_shares_are_what_was_asked_for(spec, counted, share, seed):
    line, out = sent(spec, seed)
    assert inside(counted(line.passed), share)
    assert line.passed.offered == N
    assert line.passed.sent == len(out) == N - sum(line.passed.dropped.values()) + line.passed.duplicated


def test_nothing_asked_is_nothing_done():
    line, out = sent(Impair(), n=1000)
    assert [(index, due) for index, due, _ in out] == [(index, index * EVERY_NS) for index in range(1000)]
    assert line.passed.affected == 0


@pytest.mark.parametrize("model", [GilbertElliott(0.01, 0.2), GilbertElliott(0.05, 0.5, h=0.3, k=0.99)], ids=["Gilbert", "Gilbert-Elliott"])
def test_losses_come_in_bursts_as_the_model_says(model):
    """Mean loss, and for the pure Gilbert model the length of a burst: geometric with mean 1/r."""
    n = 200_000
    _line, out = sent(Impair(loss=model), n=n)
    lost = n - len(out)
    spread = math.sqrt(n * model.mean_loss * (1 - model.mean_loss) * (2 / (model.p + model.r) - 1))  # correlated: wider than binomial
    assert abs(lost - n * model.mean_loss) < 5 * spread
    if model.h == 0:
        there = {index for index, _, _ in out}
        bursts = [len(list(group)) for gone, group in itertools.groupby(range(n), lambda index: index not in there) if gone]
        assert abs(fmean(bursts) - model.mean_burst) < 5 * pstdev(bursts) / math.sqrt(len(bursts))
        assert model.mean_burst == 5


def test_independent_losses_do_not_come_in_bursts():
    _, out = sent(Impair(loss=0.1))
    there = {index for index, _, _ in out}
    bursts = [len(list(group)) for gone, group in itertools.groupby(range(N), lambda index: index not in there) if gone]
    assert abs(fmean(bursts) - 1 / 0.9) < 0.05


@pytest.mark.parametrize("distribution", ["normal", "pareto", "uniform"])
def test_delay_and_jitter_are_what_was_asked_for(distribution):
    _, out = sent(Impair(delay_ms=100, jitter_ms=10, distribution=distribution, jitter_reorders=True))
    waits = [(due - index * EVERY_NS) / 1e6 for index, due, _ in out]
    assert fmean(waits) == pytest.approx(100, abs=0.5)
    assert pstdev(waits) == pytest.approx(10, rel=0.35 if distribution == "pareto" else 0.05)  # a heavy tail shows its deviation late
    assert min(waits) >= 0


@pytest.mark.parametrize("reorders", [True, False])
def test_jitter_reorders_only_where_it_was_asked_to(reorders):
    _, out = sent(Impair(delay_ms=100, jitter_ms=10, jitter_reorders=reorders))
    dues = [due for _, due, _ in out]
    assert (dues == sorted(dues)) is not reorders


def test_reordered_packets_go_ahead_of_those_that_wait():
    line, out = sent(Impair(reorder=0.25, delay_ms=10))
    ahead = {index for index, due, _ in out if due == index * EVERY_NS}
    assert len(ahead) == line.passed.reordered
    order = [index for _, index in sorted((due, index) for index, due, _ in out)]
    assert order != sorted(order)
    assert [index for index in order if index not in ahead] == sorted(set(range(N)) - ahead)


def test_a_corrupt_packet_differs_in_one_bit():
    _, out = sent(Impair(corrupt=1.0), n=500, size=20)
    bits = [sum((a ^ b).bit_count() for a, b in zip(packet, index.to_bytes(4, "big") + bytes(16), strict=True)) for index, _, packet in out]
    assert set(bits) == {1}
    assert Impairment(Impair(corrupt=1.0), 1).offer(b"", 0) == [(0, b"")]


def test_a_rate_spaces_packets_and_a_full_queue_drops_the_newest():
    """1,000 packets of 100 bytes a second are 800 kbit/s; at 400 kbit/s every second one is too many once ten wait."""
    line, out = sent(Impair(rate_bps=400_000, queue_packets=10), n=2000)
    gaps = {round(b - a) for (_, a, _), (_, b, _) in itertools.pairwise(out)}
    assert gaps == {2_000_000}
    assert line.passed.dropped["queue"] == pytest.approx(1000, abs=15)
    assert max(due - index * EVERY_NS for index, due, _ in out) <= 10 * 2_000_000


def test_nothing_passes_in_a_blackout():
    line, out = sent(Impair(blackouts=((1.0, 2.0), (5.0, 5.5))), n=10_000)
    assert set(range(10_000)) - {index for index, _, _ in out} == {*range(1000, 2000), *range(5000, 5500)}
    assert line.passed.dropped == {"blackout": 1500}


def test_the_address_changes_at_its_times():
    line = Impairment(Impair(rebinds=(1.0, 2.5)), 7)
    assert [line.address(int(at * NS)) for at in (0, 0.999, 1.0, 2.4, 2.5, 9)] == [0, 0, 1, 1, 2, 2]


EVERYTHING = Impair(delay_ms=20, jitter_ms=5, loss=GilbertElliott(0.02, 0.3), duplicate=0.1, reorder=0.1, corrupt=0.1, rate_bps=5e6, blackouts=((1, 1.2),))


def test_the_same_seed_makes_the_same_decisions_and_another_one_others():
    assert sent(EVERYTHING, "a", 5000)[1] == sent(EVERYTHING, "a", 5000)[1]
    assert sent(EVERYTHING, "a", 5000)[1] != sent(EVERYTHING, "b", 5000)[1]


def test_a_slow_machine_changes_times_and_never_decisions():
    """The same packets, offered late and unevenly: the same are lost, doubled and damaged."""
    spec = Impair(delay_ms=20, jitter_ms=5, loss=0.1, duplicate=0.1, reorder=0.1, corrupt=0.1)
    rng, now, line, late = random.Random(1), 0, Impairment(spec, 7), []
    for index in range(5000):
        now += rng.randrange(5 * EVERY_NS)
        late += [(index, packet) for _, packet in line.offer(index.to_bytes(4, "big") + bytes(96), now)]
    assert late == [(index, packet) for index, _, packet in sent(spec, 7, 5000)[1]]


@pytest.mark.parametrize(("one", "other"), [(Impair(loss=0.1), Impair(loss=0.1, delay_ms=50, jitter_ms=10, corrupt=0.5)), (Impair(loss=0.1), Impair(loss=0.1, duplicate=0.3, rate_bps=1e9))])
def test_one_impairment_more_does_not_change_which_packets_are_lost(one, other):
    assert {index for index, _, _ in sent(one)[1]} == {index for index, _, _ in sent(other)[1]}


@pytest.mark.parametrize(("fields", "name"), [
    ({"loss": 1.1}, "loss"), ({"loss": -0.1}, "loss"), ({"duplicate": 2}, "duplicate"), ({"delay_ms": -1}, "delay_ms"), ({"jitter_ms": float("nan")}, "jitter_ms"),
    ({"distribution": "gamma"}, "distribution"), ({"queue_packets": 0}, "queue_packets"), ({"blackouts": ((2, 1),)}, "blackouts"), ({"rate_bps": float("inf")}, "rate_bps")])
def test_what_makes_no_sense_is_refused_by_its_name(fields, name):
    with pytest.raises(InvalidInput) as refused:
        Impair(**fields)
    assert refused.value.field == name


@pytest.mark.parametrize("model", [(1.1, 0.1), (0, 0), (0.1, 0.1, 2)])
def test_a_model_that_makes_no_sense_is_refused(model):
    with pytest.raises(InvalidInput):
        GilbertElliott(*model)
