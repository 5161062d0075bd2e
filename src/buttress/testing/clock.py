"""What every Clock promises."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from buttress.kernel.clock import Clock
from buttress.testing.promise import elsewhere, expect, verify

EARLIEST, LATEST = 1.0e9, 1.0e10  # 2001 and 2286: milliseconds and time since boot fall outside


@dataclass(frozen=True)
class Case:
    """What the caller handed in."""

    maker: Callable[[], Clock]
    advance: Callable[[Clock, float], object] | None = None
    twin: Callable[[Clock], Clock] | None = None


def check_clock(
    maker: Callable[[], Clock],
    *,
    advance: Callable[[Clock, float], object] | None = None,
    twin: Callable[[Clock], Clock] | None = None,
) -> None:
    """Checks a Clock. ``maker()`` gives one that shows a time between 2001 and 2286.

    ``advance(clock, seconds)``: for a clock that stands still until it is turned. ``twin(clock)``: another reader of the
    same time (a second mapping, a second connection).
    """
    case = Case(maker, advance, twin)
    verify("Clock", promises(case), case)


def promises(case: Case) -> tuple[Callable[[Case], None], ...]:
    """Those that apply to what was handed in."""
    return ALWAYS + (TURNED if case.advance else ()) + (SHARED if case.twin else ())


def gives_seconds_since_the_epoch(case: Case) -> None:
    """now() is seconds since the Unix epoch: not milliseconds, not the time since boot."""
    now = case.maker().now()
    expect(EARLIEST < now < LATEST, f"now() is {now!r}")


def gives_a_float(case: Case) -> None:
    """now() is a finite float."""
    now = case.maker().now()
    expect(type(now) is float and math.isfinite(now), f"now() is {now!r}, a {type(now).__name__}")


def does_not_run_backwards(case: Case) -> None:
    """A later now() is not before an earlier one."""
    clock = case.maker()
    earlier = clock.now()
    for _ in range(1000):
        later = clock.now()
        expect(later >= earlier, f"{later!r} came after {earlier!r}")
        earlier = later


def answers_on_any_thread(case: Case) -> None:
    """now() answers on every thread, with the same time."""
    clock = case.maker()
    before, other = clock.now(), elsewhere(clock.now)
    after = clock.now()
    expect(isinstance(other, float) and before <= other <= after, f"another thread saw {other!r} between {before!r} and {after!r}")


def moves_only_when_turned(case: Case) -> None:
    """A clock that is turned by hand moves by as much as it is told, and not otherwise."""
    assert case.advance is not None
    clock = case.maker()
    start = clock.now()
    expect(clock.now() == start, "it moved by itself")
    for seconds in (0.25, 3600.0, 86_400.0 * 3):
        before = clock.now()
        case.advance(clock, seconds)
        expect(clock.now() == before + seconds, f"advance({seconds}) led from {before!r} to {clock.now()!r}")


def shows_every_reader_the_same(case: Case) -> None:
    """Two readers of one time see the same time, at once and after it moved."""
    assert case.twin is not None
    clock = case.maker()
    other = case.twin(clock)
    for seconds in (0.0, 1.5):
        if case.advance:
            case.advance(clock, seconds)
        before, seen, after = clock.now(), other.now(), clock.now()
        expect(before <= seen <= after, f"one reader saw {before!r}, the other {seen!r}, then the first {after!r}")


ALWAYS: tuple[Callable[[Case], None], ...] = (
    gives_seconds_since_the_epoch,
    gives_a_float,
    does_not_run_backwards,
    answers_on_any_thread,
)
TURNED: tuple[Callable[[Case], None], ...] = (moves_only_when_turned,)
SHARED: tuple[Callable[[Case], None], ...] = (shows_every_reader_the_same,)
