"""Clocks that are wrong on purpose: the check must find each, by the promise that it breaks."""

from __future__ import annotations

import threading
import time

import pytest

from buttress.kernel.clock import ManualClock
from buttress.testing import check_clock
from buttress.testing import clock as conformance
from buttress.testing.promise import sentence


class Milliseconds(ManualClock):
    def now(self):
        return super().now() * 1000


class SinceBoot(ManualClock):
    def now(self):
        return time.monotonic()


class WholeSeconds(ManualClock):
    def now(self):
        return int(super().now())


class Backwards(ManualClock):
    def now(self):
        self.advance(-0.001)
        return super().now()


class OneForEachThread(ManualClock):
    def now(self):
        return super().now() + (0 if threading.current_thread() is threading.main_thread() else 60.0)


class Slow(ManualClock):
    def advance(self, seconds):
        super().advance(seconds / 2)


MUTANTS = [
    (Milliseconds, conformance.gives_seconds_since_the_epoch),
    (SinceBoot, conformance.gives_seconds_since_the_epoch),
    (WholeSeconds, conformance.gives_a_float),
    (Backwards, conformance.does_not_run_backwards),
    (OneForEachThread, conformance.answers_on_any_thread),
    (Slow, conformance.moves_only_when_turned),
    (SinceBoot, conformance.moves_only_when_turned),
]
TWINS = [
    pytest.param({"twin": lambda clock: ManualClock(clock.now() + 1)}, id="another time"),
    pytest.param({"twin": lambda clock: ManualClock(clock.now()), "advance": ManualClock.advance}, id="stands still"),
]


@pytest.mark.parametrize(("mutant", "promise"), MUTANTS)
def test_a_mutant_is_found(mutant, promise):
    with pytest.raises(AssertionError) as failure:
        check_clock(mutant, advance=mutant.advance)
    assert sentence(promise) in str(failure.value)


@pytest.mark.parametrize("options", TWINS)
def test_a_wrong_twin_is_found(options):
    with pytest.raises(AssertionError) as failure:
        check_clock(ManualClock, **options)
    assert sentence(conformance.shows_every_reader_the_same) in str(failure.value)


def test_every_promise_was_seen_broken():
    assert {promise for _, promise in MUTANTS} == {*conformance.ALWAYS, *conformance.TURNED}
