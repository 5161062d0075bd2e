"""What every Leases promises: at most one who may, for a while, and a fence that tells the one who slept from its successor."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from buttress.kernel.clock import Clock, ManualClock
from buttress.kernel.errors import ButtressError, InvalidInput, Stale
from buttress.kernel.lease import HOLDER_MAX_BYTES, NAME_MAX_BYTES, Lease, Leases, Taken
from buttress.testing.promise import expect, refused, rolled_back, together, verify

LEASE_S = 30.0
NAME, A, B = "feed-1", "worker-a", "worker-b"


@dataclass(frozen=True)
class Case:
    """What the caller handed in."""

    maker: Callable[[Clock], Leases]
    transaction: Callable[[Leases], AbstractContextManager[object]] | None = None
    reopen: Callable[[Leases, Clock], Leases] | None = None

    def fresh(self) -> tuple[Leases, ManualClock]:
        """An empty one, and the clock that it goes by."""
        clock = ManualClock()
        return self.maker(clock), clock

    def begin(self, mine: Leases) -> AbstractContextManager[object]:
        assert self.transaction is not None
        return self.transaction(mine)

    def again(self, mine: Leases, clock: Clock) -> Leases:
        assert self.reopen is not None
        return self.reopen(mine, clock)


def check_leases(
    maker: Callable[[Clock], Leases],
    *,
    transaction: Callable[[Leases], AbstractContextManager[object]] | None = None,
    reopen: Callable[[Leases, Clock], Leases] | None = None,
) -> None:
    """Checks a Leases. ``maker(clock)`` gives an empty one that goes by this clock and by no other time.

    ``transaction(mine)``: begins a transaction that ``hold`` on this thread joins, commits at the end of the block, rolls back
    on an error; what another thread then waits for must end in an error within 20 s, so hand in a short timeout.
    ``reopen(mine, clock)``: closes it and opens the same state anew.
    """
    case = Case(maker, transaction, reopen)
    verify("Leases", promises(case), case)


def promises(case: Case) -> tuple[Callable[[Case], None], ...]:
    """Those that apply to what was handed in."""
    return ALWAYS + (JOINING if case.transaction else ()) + (DURABLE if case.reopen else ())


# -- steps that the promises share


def got(mine: Leases, holder: str = A, name: str = NAME, lease_s: float = LEASE_S, *, why: str) -> Lease:
    """Acquires, expects the lease."""
    answer = mine.acquire(name, holder, lease_s)
    expect(isinstance(answer, Lease), f"{why}: acquire answered {answer}")
    assert isinstance(answer, Lease)
    return answer


def taken(mine: Leases, holder: str, *, by: str, until: float, why: str) -> None:
    """Acquires, expects that it is somebody else's until then."""
    answer = mine.acquire(NAME, holder, LEASE_S)
    expect(isinstance(answer, Taken), f"{why}: acquire answered {answer}")
    assert isinstance(answer, Taken)
    expect(answer.holder == by and abs(answer.until - until) < 0.001, f"{why}: {answer}, expected {by} until {until!r}")


def stands(mine: Leases, lease: Lease, *, why: str) -> None:
    try:
        mine.hold(lease)
    except Stale as error:
        raise AssertionError(f"{why}: hold refused the lease ({error})") from error


# -- who gets it


def a_free_name_is_given(case: Case) -> None:
    """A name that nobody has is given, from now for lease_s, with a fence that is a whole number above 0."""
    mine, clock = case.fresh()
    for name in (NAME, "feed-2"):
        lease = got(mine, name=name, why="a free name")
        expect((lease.name, lease.holder) == (name, A), f"acquire({name!r}, {A!r}) gave {lease}")
        expect(abs(lease.until - clock.now() - LEASE_S) < 0.001, f"until {lease.until!r} at {clock.now()!r} for {LEASE_S} s")
        expect(type(lease.fence) is int and lease.fence > 0, f"the fence is {lease.fence!r}")
        stands(mine, lease, why="at once")


def a_held_name_is_taken(case: Case) -> None:
    """While a lease stands everybody else is told who has it and until when; it is not changed by that."""
    mine, clock = case.fresh()
    lease = got(mine, why="a free name")
    taken(mine, B, by=A, until=lease.until, why="at once")
    clock.advance(LEASE_S - 1)
    taken(mine, B, by=A, until=lease.until, why="one second before it ends")
    stands(mine, lease, why="after others asked for it")


def a_lease_ends_by_itself(case: Case) -> None:
    """At the end of its time a lease is over: the next one gets it, without a word from the one before."""
    mine, clock = case.fresh()
    first = got(mine, why="a free name")
    clock.advance(LEASE_S)
    second = got(mine, B, why="when the lease ended")
    expect(second.fence > first.fence, f"fence {second.fence} after {first.fence}")
    expect(abs(second.until - clock.now() - LEASE_S) < 0.001, f"until {second.until!r} at {clock.now()!r} for {LEASE_S} s")


def fences_rise(case: Case) -> None:
    """Each time that a name is given its fence is above every one before, also after it was let go or ran out."""
    mine, clock = case.fresh()
    last = got(mine, why="a free name")
    for turn in range(6):
        if turn % 3 == 0:
            mine.release(last)
        elif turn % 3 == 1:
            clock.advance(LEASE_S + 1)
        lease = got(mine, (A, B)[turn % 2] if turn % 3 < 2 else last.holder, why=f"turn {turn}")
        expect(lease.fence > last.fence, f"fence {lease.fence} after {last.fence}")
        last = lease


def the_same_holder_gets_a_new_fence(case: Case) -> None:
    """The same holder gets its standing lease again with a higher fence, and the one before is no longer good: it may be another process."""
    mine, _ = case.fresh()
    first = got(mine, why="a free name")
    second = got(mine, why="the same holder again")
    expect(second.fence > first.fence, f"fence {second.fence} after {first.fence}")
    refused(Stale, "hold with the lease before", mine.hold, first)
    refused(Stale, "renew of the lease before", mine.renew, first, LEASE_S)
    stands(mine, second, why="the newest lease")


def names_are_apart(case: Case) -> None:
    """A lease on one name says nothing of another: neither taking, renewing nor letting go."""
    mine, clock = case.fresh()
    first, second = got(mine, why="a free name"), got(mine, B, "feed-2", why="another name")
    mine.release(first)
    stands(mine, second, why="after the other name was let go")
    clock.advance(LEASE_S - 1)
    mine.renew(got(mine, why="let go before"), 10 * LEASE_S)
    clock.advance(2)
    refused(Stale, "hold beyond the end, after another name was renewed", mine.hold, second)


def names_are_compared_byte_by_byte(case: Case) -> None:
    """Names that differ in case, in a space or in the form of a letter are different names."""
    mine, _ = case.fresh()
    for n, name in enumerate(("name", "Name", "name ", " name", "né", "ne\u0301")):
        lease = got(mine, f"worker-{n}", name, why=f"{name!r}, a name of its own")
        answer = mine.acquire(name, B, LEASE_S)
        expect(answer == Taken(lease.holder, lease.until), f"{name!r} again: acquire answered {answer}")


def of_many_one_gets_it(case: Case) -> None:
    """Of many who ask at the same time exactly one gets the lease, and the others are told so."""
    for _ in range(5):
        mine, _ = case.fresh()
        answers = together(*[lambda holder=f"worker-{n}", leases=mine: leases.acquire(NAME, holder, LEASE_S) for n in range(4)])
        kinds = sorted(type(answer).__name__ for answer in answers)
        expect(kinds == ["Lease", "Taken", "Taken", "Taken"], f"four asked at once: {answers}")


# -- holding, renewing, letting go


def hold_goes_by_time(case: Case) -> None:
    """hold is Stale from the moment the lease ends, also where nobody has taken it: that the holder believes in it is no evidence."""
    mine, clock = case.fresh()
    lease = got(mine, why="a free name")
    clock.advance(LEASE_S - 0.001)
    stands(mine, lease, why="just before it ends")
    clock.advance(0.001)
    refused(Stale, "hold when it ended", mine.hold, lease)
    clock.advance(1)
    refused(Stale, "hold a second later", mine.hold, lease)


def a_holder_that_slept_is_refused(case: Case) -> None:
    """Once another has the name, hold and renew of the holder before are Stale, and its release changes nothing."""
    mine, clock = case.fresh()
    first = got(mine, why="a free name")
    clock.advance(LEASE_S + 1)
    second = got(mine, B, why="after the lease")
    refused(Stale, "hold by the holder before", mine.hold, first)
    refused(Stale, "renew by the holder before", mine.renew, first, LEASE_S)
    mine.release(first)
    stands(mine, second, why="after the holder before tried everything")
    taken(mine, A, by=B, until=second.until, why="after the holder before tried everything")


def renew_counts_from_now(case: Case) -> None:
    """renew makes the lease end lease_s from now, keeps its fence, and keeps others out until then."""
    mine, clock = case.fresh()
    lease = got(mine, why="a free name")
    clock.advance(LEASE_S - 1)
    renewed = mine.renew(lease, 2 * LEASE_S)
    until = clock.now() + 2 * LEASE_S
    expect((renewed.name, renewed.holder, renewed.fence) == (NAME, A, lease.fence), f"renew of {lease} gave {renewed}")
    expect(abs(renewed.until - until) < 0.001, f"until {renewed.until!r} at {clock.now()!r} for {2 * LEASE_S} s")
    clock.advance(LEASE_S)
    taken(mine, B, by=A, until=until, why="beyond the first lease")
    stands(mine, renewed, why="beyond the first lease")
    clock.advance(LEASE_S)
    refused(Stale, "hold beyond the renewed lease", mine.hold, renewed)


def a_lease_that_is_over_is_not_renewed(case: Case) -> None:
    """renew is Stale once the time of the lease is over, whether or not another had it since."""
    mine, clock = case.fresh()
    lease = got(mine, why="a free name")
    clock.advance(LEASE_S)
    refused(Stale, "renew when it ended", mine.renew, lease, LEASE_S)
    expect(mine.standing(NAME) is None, f"after a refused renew the lease stands: {mine.standing(NAME)}")
    second = got(mine, B, why="after the lease")
    mine.release(second)
    refused(Stale, "renew after another had it and let go", mine.renew, lease, LEASE_S)


def release_frees_at_once(case: Case) -> None:
    """A lease that was let go is free at once; it can no longer be held or renewed, and letting go again does nothing."""
    mine, _ = case.fresh()
    first = got(mine, why="a free name")
    mine.release(first)
    refused(Stale, "hold after release", mine.hold, first)
    refused(Stale, "renew after release", mine.renew, first, LEASE_S)
    second = got(mine, B, why="right after release")
    mine.release(first)
    stands(mine, second, why="after the one before let go again")
    renewed = mine.renew(second, LEASE_S)
    mine.release(second)
    refused(Stale, "hold of a renewed lease after release", mine.hold, renewed)


def standing_tells_who_has_it(case: Case) -> None:
    """standing names the holder and the end of a lease that stands, and nobody before, after its end and after release."""
    mine, clock = case.fresh()
    expect(mine.standing(NAME) is None, f"nobody ever had it: {mine.standing(NAME)}")
    lease = got(mine, why="a free name")
    expect(mine.standing(NAME) == Taken(A, lease.until), f"{lease} stands: {mine.standing(NAME)}")
    clock.advance(LEASE_S)
    expect(mine.standing(NAME) is None, f"it ended: {mine.standing(NAME)}")
    mine.release(got(mine, B, why="after the lease"))
    expect(mine.standing(NAME) is None, f"it was let go: {mine.standing(NAME)}")


def what_was_never_given_is_not_held(case: Case) -> None:
    """hold and renew of a lease that acquire never gave are Stale, and its release changes nothing."""
    mine, clock = case.fresh()
    until = clock.now() + LEASE_S
    for fence in (0, 1):
        never = Lease("nobody's", A, fence, until)
        refused(Stale, f"hold of a name that nobody acquired, fence {fence}", mine.hold, never)
        refused(Stale, f"renew of a name that nobody acquired, fence {fence}", mine.renew, never, LEASE_S)
        mine.release(never)
    lease = got(mine, why="a free name")
    ahead = Lease(NAME, A, lease.fence + 1, until)
    refused(Stale, "hold with a fence of the future", mine.hold, ahead)
    mine.release(ahead)
    stands(mine, lease, why="after a release with a fence of the future")


# -- limits


def bad_texts(longest: int) -> tuple[tuple[str, Any], ...]:
    return (
        ("of no characters", ""),
        (f"of {longest + 1} bytes", "k" * (longest + 1)),
        (f"of {longest} characters and more bytes", "é" * longest),
        ("with NUL", "a\0b"),
        ("with a lone surrogate", "a\ud800b"),
        ("of bytes", b"key"),
        ("of None", None),
    )


def limits_are_refused(case: Case) -> None:
    """A name, holder or time outside the limits is InvalidInput, and changes nothing."""
    mine, _ = case.fresh()
    for what, text in bad_texts(NAME_MAX_BYTES):
        refused(InvalidInput, f"acquire of a name {what}", mine.acquire, text, A, LEASE_S)
        refused(InvalidInput, f"standing of a name {what}", mine.standing, text)
    for what, text in bad_texts(HOLDER_MAX_BYTES):
        refused(InvalidInput, f"acquire by a holder {what}", mine.acquire, NAME, text, LEASE_S)
    expect(mine.standing(NAME) is None, "a refused acquire took the name")
    lease = got(mine, why="after refusals")
    times: tuple[Any, ...] = (0, 0.0, -1.0, float("nan"), float("inf"), True, "30", None)
    for lease_s in times:
        refused(InvalidInput, f"acquire for {lease_s!r} s", mine.acquire, NAME, A, lease_s)
        refused(InvalidInput, f"renew for {lease_s!r} s", mine.renew, lease, lease_s)
    stands(mine, lease, why="after refusals")
    expect(mine.standing(NAME) == Taken(A, lease.until), f"after refusals {mine.standing(NAME)} stands instead of {lease}")


def any_number_is_a_time_or_refused(case: Case) -> None:
    """A time that no float can hold is InvalidInput, like infinity."""
    mine, _ = case.fresh()
    refused(InvalidInput, "acquire for 10**400 s", mine.acquire, NAME, A, 10**400)
    refused(InvalidInput, "renew for 10**400 s", mine.renew, got(mine, why="a free name"), 10**400)


def limits_are_inclusive(case: Case) -> None:
    """The longest name and the longest holder are taken, and come back as they were."""
    mine, _ = case.fresh()
    name, holder = "é" * (NAME_MAX_BYTES // 2), "é" * (HOLDER_MAX_BYTES // 2)
    lease = got(mine, holder, name, why="the longest name and holder")
    expect((lease.name, lease.holder) == (name, holder), "the longest name or holder came back changed")
    expect(mine.standing(name) == Taken(holder, lease.until), "standing does not know the longest name, or cut its holder")


# -- with transaction


def hold_keeps_others_out(case: Case) -> None:
    """From hold to the end of its transaction nobody else gets the name, even when its time ends meanwhile."""
    mine, clock = case.fresh()
    lease = got(mine, why="a free name")
    with case.begin(mine):
        mine.hold(lease)
        clock.advance(LEASE_S + 1)
        (answer,) = together(lambda: mine.acquire(NAME, B, LEASE_S))
        expect(isinstance(answer, ButtressError | Taken), f"while the effect was under way another's acquire answered {answer}")
    got(mine, B, why="after the effect was committed")


def hold_joins_the_transaction(case: Case) -> None:
    """A refused hold undoes the effect of its transaction, and one that was rolled back leaves the lease as it was."""
    mine, clock = case.fresh()
    lease = got(mine, why="a free name")
    with rolled_back(case.begin(mine)):
        mine.hold(lease)
        mine.release(lease)
        refused(Stale, "hold after release in one transaction", mine.hold, lease)
    stands(mine, lease, why="after a release that was rolled back")
    taken(mine, B, by=A, until=lease.until, why="after a release that was rolled back")
    clock.advance(LEASE_S - 1)
    with rolled_back(case.begin(mine)):
        mine.renew(lease, 10 * LEASE_S)
    clock.advance(2)
    refused(Stale, "hold after a renew that was rolled back", mine.hold, lease)


def a_lease_that_was_rolled_back_is_none(case: Case) -> None:
    """acquire in a transaction is refused, or what it gave there does not stand once that was rolled back: also not beside a successor."""
    mine, _ = case.fresh()
    undone: Lease | Taken | None = None
    try:
        with rolled_back(case.begin(mine)):
            undone = mine.acquire(NAME, A, LEASE_S)
    except ButtressError:
        pass
    expect(mine.standing(NAME) is None, f"after the rollback {mine.standing(NAME)} stands")
    lease = got(mine, B, why="after the rollback")
    stands(mine, lease, why="after the rollback")
    if isinstance(undone, Lease):
        refused(Stale, "hold with the lease that was rolled back", mine.hold, undone)
        mine.release(undone)
        stands(mine, lease, why="after a release of what was rolled back")


# -- with reopen


def everything_outlives_the_process(case: Case) -> None:
    """Leases, their ends and fences are there when the state is opened anew; what was let go stays free."""
    mine, clock = case.fresh()
    first = got(mine, why="a free name")
    clock.advance(LEASE_S - 1)
    renewed = mine.renew(first, LEASE_S)
    mine.release(got(mine, name="feed-2", why="another name"))
    mine = case.again(mine, clock)
    taken(mine, B, by=A, until=renewed.until, why="after the reopening")
    stands(mine, renewed, why="after the reopening")
    expect(mine.standing("feed-2") is None, "what was let go stands again")
    clock.advance(LEASE_S)
    second = got(mine, B, why="after the lease")
    expect(second.fence > first.fence, f"fence {second.fence} after {first.fence}")
    mine = case.again(mine, clock)
    refused(Stale, "hold by the holder of before", mine.hold, renewed)
    mine.release(second)
    mine = case.again(mine, clock)
    third = got(mine, why="let go before the reopening")
    expect(third.fence > second.fence, f"fence {third.fence} after {second.fence}")


ALWAYS: tuple[Callable[[Case], None], ...] = (
    a_free_name_is_given,
    a_held_name_is_taken,
    a_lease_ends_by_itself,
    fences_rise,
    the_same_holder_gets_a_new_fence,
    names_are_apart,
    names_are_compared_byte_by_byte,
    of_many_one_gets_it,
    hold_goes_by_time,
    a_holder_that_slept_is_refused,
    renew_counts_from_now,
    a_lease_that_is_over_is_not_renewed,
    release_frees_at_once,
    standing_tells_who_has_it,
    what_was_never_given_is_not_held,
    limits_are_refused,
    any_number_is_a_time_or_refused,
    limits_are_inclusive,
)
JOINING: tuple[Callable[[Case], None], ...] = (
    hold_keeps_others_out,
    hold_joins_the_transaction,
    a_lease_that_was_rolled_back_is_none,
)
DURABLE: tuple[Callable[[Case], None], ...] = (everything_outlives_the_process,)
