"""What every Idempotency promises: one effect per key."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from buttress.kernel.clock import Clock, ManualClock
from buttress.kernel.errors import ButtressError, InvalidInput, Stale
from buttress.kernel.idempotency import (
    FINGERPRINT_MAX_BYTES,
    KEY_MAX_BYTES,
    PAYLOAD_MAX_BYTES,
    Claim,
    Done,
    Idempotency,
    InFlight,
    Mismatch,
    New,
    Unknown,
)
from buttress.testing.promise import expect, refused, rolled_back, together, verify

LEASE_S = 30.0
KEY, PRINT, OTHER_PRINT = "order-1", b"\x00print", b"\x00another"


@dataclass(frozen=True)
class Case:
    """What the caller handed in."""

    maker: Callable[[Clock], Idempotency]
    reopen: Callable[[Idempotency, Clock], Idempotency] | None = None
    transaction: Callable[[Idempotency], AbstractContextManager[object]] | None = None
    neighbour: Callable[[Idempotency, Clock], Idempotency] | None = None

    def fresh(self) -> tuple[Idempotency, ManualClock]:
        """An empty one, and the clock that it goes by."""
        clock = ManualClock()
        return self.maker(clock), clock

    def begin(self, mine: Idempotency) -> AbstractContextManager[object]:
        assert self.transaction is not None
        return self.transaction(mine)

    def again(self, mine: Idempotency, clock: Clock) -> Idempotency:
        assert self.reopen is not None
        return self.reopen(mine, clock)


def check_idempotency(
    maker: Callable[[Clock], Idempotency],
    *,
    reopen: Callable[[Idempotency, Clock], Idempotency] | None = None,
    transaction: Callable[[Idempotency], AbstractContextManager[object]] | None = None,
    neighbour: Callable[[Idempotency, Clock], Idempotency] | None = None,
) -> None:
    """Checks an Idempotency. ``maker(clock)`` gives an empty one that goes by this clock and by no other time.

    ``reopen(mine, clock)``: closes it and opens the same state anew (what is durable). ``transaction(mine)``: begins a
    transaction that ``claim`` and ``settle`` on this thread join, commits at the end of the block, rolls back on an error.
    ``neighbour(mine, clock)``: another namespace of the same state.
    """
    case = Case(maker, reopen, transaction, neighbour)
    verify("Idempotency", promises(case), case)


def promises(case: Case) -> tuple[Callable[[Case], None], ...]:
    """Those that apply to what was handed in."""
    return (
        ALWAYS
        + (JOINING if case.transaction else ())
        + (DURABLE if case.reopen else ())
        + (SEPARATE if case.neighbour else ())
    )


# -- steps that the promises share


def claim(mine: Idempotency, key: str = KEY, fingerprint: bytes = PRINT, lease_s: float = LEASE_S) -> Claim:
    return mine.claim(key, fingerprint, lease_s)


def new(mine: Idempotency, key: str = KEY, *, why: str) -> int:
    """Claims, expects New, gives the fence."""
    answer = claim(mine, key)
    expect(isinstance(answer, New), f"{why}: claim answered {answer}")
    assert isinstance(answer, New)
    expect(type(answer.fence) is int, f"the fence is a {type(answer.fence).__name__}")
    return answer.fence


def unknown(mine: Idempotency, intent: bytes, *, above: int, why: str) -> int:
    """Claims, expects Unknown with this intent and a fence above the last, gives the fence."""
    answer = claim(mine)
    expect(isinstance(answer, Unknown), f"{why}: claim answered {answer}")
    assert isinstance(answer, Unknown)
    expect(answer.intent == intent, f"{why}: the intent came back as {answer.intent!r}")
    expect(answer.fence > above, f"{why}: fence {answer.fence} after {above}")
    return answer.fence


def in_flight(mine: Idempotency, until: float, *, why: str) -> None:
    answer = claim(mine)
    expect(isinstance(answer, InFlight), f"{why}: claim answered {answer}")
    assert isinstance(answer, InFlight)
    expect(abs(answer.until - until) < 0.001, f"{why}: in flight until {answer.until!r}, expected {until!r}")


def done(mine: Idempotency, outcome: bytes | None, key: str = KEY, *, why: str) -> None:
    answer = claim(mine, key)
    expect(answer == Done(outcome), f"{why}: claim answered {shown(answer)}")


def shown(answer: object) -> str:
    text = repr(answer)
    return text if len(text) < 120 else text[:119] + "…"


def lost(mine: Idempotency, clock: ManualClock, intent: bytes | None = None) -> int:
    """A holder that claimed, perhaps announced an effect, and was never heard of again. Its lease is over."""
    fence = new(mine, why="a fresh key")
    if intent is not None:
        mine.intend(KEY, fence, intent)
    clock.advance(LEASE_S + 1)
    return fence


# -- always


def a_fresh_key_is_new(case: Case) -> None:
    """The first claim of a key is New."""
    mine, _ = case.fresh()
    new(mine, why="a fresh key")
    new(mine, "order-2", why="a second fresh key")


def a_held_key_is_in_flight(case: Case) -> None:
    """While a holder has the key every other claim is InFlight until the end of its lease."""
    mine, clock = case.fresh()
    until = clock.now() + LEASE_S
    new(mine, why="a fresh key")
    in_flight(mine, until, why="at once")
    clock.advance(LEASE_S - 1)
    in_flight(mine, until, why="one second before the lease ended")


def a_settled_key_is_done(case: Case) -> None:
    """After settle every claim is Done with the outcome as it was stored, however much later."""
    mine, clock = case.fresh()
    for key, outcome in {"empty": b"", "zeros": b"\x00\xff\x00", "longest": b"x" * PAYLOAD_MAX_BYTES}.items():
        fence = new(mine, key, why="a fresh key")
        mine.settle(key, fence, outcome)
        done(mine, outcome, key, why="after settle")
    clock.advance(400 * 86_400.0)
    done(mine, b"", "empty", why="400 days after settle")
    done(mine, b"\x00\xff\x00", "zeros", why="400 days after settle")


def another_payload_is_a_mismatch(case: Case) -> None:
    """A known key with another payload is a Mismatch that names the first fingerprint, and changes nothing."""
    mine, clock = case.fresh()

    def mismatch(when: str) -> None:
        answer = claim(mine, fingerprint=OTHER_PRINT)
        expect(answer == Mismatch(PRINT), f"{when}: claim answered {answer}")

    until = clock.now() + LEASE_S
    fence = new(mine, why="a fresh key")
    mismatch("in flight")
    in_flight(mine, until, why="after a mismatch")
    clock.advance(LEASE_S + 1)
    mismatch("after its holder was lost")
    mine.settle(KEY, fence, b"ours")
    mismatch("after it was done")
    done(mine, b"ours", why="after three mismatches")


def a_lost_holder_without_intent_is_new(case: Case) -> None:
    """A holder that was lost before it announced an effect leaves the key New, with a higher fence."""
    mine, clock = case.fresh()
    first = lost(mine, clock)
    second = new(mine, why="after the lease")
    expect(second > first, f"fence {second} after {first}")
    in_flight(mine, clock.now() + LEASE_S, why="while the second holder has it")


def fences_rise(case: Case) -> None:
    """Each holder of a key has a higher fence than every one before, also after the key was freed or resolved."""
    mine, clock = case.fresh()
    last = new(mine, why="a fresh key")
    for turn in range(6):
        if turn % 3 == 0:
            mine.settle(KEY, last, None)
            fence = new(mine, why="after settle(None)")
        elif turn % 3 == 1:
            clock.advance(LEASE_S + 1)
            fence = new(mine, why="after the lease")
        else:
            mine.intend(KEY, last, b"intent")
            clock.advance(LEASE_S + 1)
            fence = unknown(mine, b"intent", above=last, why="after the lease")
        expect(fence > last, f"fence {fence} after {last}")
        last = fence


def a_lost_holder_with_intent_is_unknown(case: Case) -> None:
    """A holder that was lost after intend leaves the key Unknown with its intent: never New."""
    for intent in (b"charge 12.30", b"", b"\x00" * PAYLOAD_MAX_BYTES):
        mine, clock = case.fresh()
        first = lost(mine, clock, intent)
        unknown(mine, intent, above=first, why=f"after the lease (an intent of {len(intent)} bytes)")


def there_is_one_resolver(case: Case) -> None:
    """An Unknown belongs to the one who was answered so: others are InFlight, and if it is lost too the next is Unknown."""
    mine, clock = case.fresh()
    first = lost(mine, clock, b"intent")
    second = unknown(mine, b"intent", above=first, why="after the lease")
    in_flight(mine, clock.now() + LEASE_S, why="while the resolver has it")
    clock.advance(LEASE_S + 1)
    third = unknown(mine, b"intent", above=second, why="after the resolver was lost")
    refused(Stale, "settle by the resolver that was lost", mine.settle, KEY, second, b"late")
    mine.settle(KEY, third, b"found at the callee")
    done(mine, b"found at the callee", why="after the second resolver settled")


def what_did_not_happen_is_forgotten(case: Case) -> None:
    """settle(None) by a resolver leaves nothing of the old intent: the next holder is New, and New again if it is lost."""
    mine, clock = case.fresh()
    first = lost(mine, clock, b"intent")
    mine.settle(KEY, unknown(mine, b"intent", above=first, why="after the lease"), None)
    new(mine, why="after settle(None)")
    clock.advance(LEASE_S + 1)
    new(mine, why="after the new holder was lost, which announced nothing")


def settle_none_frees_the_key(case: Case) -> None:
    """settle(None) frees the key at once, long before the lease ends."""
    mine, _ = case.fresh()
    first = new(mine, why="a fresh key")
    mine.settle(KEY, first, None)
    second = new(mine, why="right after settle(None)")
    refused(Stale, "settle by the holder that gave the key back", mine.settle, KEY, first, b"late")
    mine.settle(KEY, second, b"second")
    done(mine, b"second", why="after the second holder settled")


def a_stale_holder_is_refused(case: Case) -> None:
    """settle, renew and intend of a holder whose lease has passed to another raise Stale and change nothing."""
    mine, clock = case.fresh()
    first = lost(mine, clock)
    until = clock.now() + LEASE_S
    second = new(mine, why="after the lease")
    refused(Stale, "settle with an outcome", mine.settle, KEY, first, b"stale")
    refused(Stale, "settle(None)", mine.settle, KEY, first, None)
    refused(Stale, "renew", mine.renew, KEY, first, 10 * LEASE_S)
    refused(Stale, "intend", mine.intend, KEY, first, b"stale")
    in_flight(mine, until, why="after a stale holder tried everything")
    clock.advance(LEASE_S + 1)
    third = new(mine, why="after the second lease (a stale intend was refused)")
    expect(third > second, f"fence {third} after {second}")


def a_late_holder_may_settle(case: Case) -> None:
    """A holder whose lease ended is refused only once another has the key: fences decide, not time."""
    mine, clock = case.fresh()
    fence = lost(mine, clock)
    mine.renew(KEY, fence, LEASE_S)
    in_flight(mine, clock.now() + LEASE_S, why="after a late renew")
    clock.advance(LEASE_S + 1)
    mine.settle(KEY, fence, b"late")
    done(mine, b"late", why="after a late settle")


def renew_counts_from_now(case: Case) -> None:
    """renew makes the lease end lease_s seconds from now."""
    mine, clock = case.fresh()
    fence = new(mine, why="a fresh key")
    clock.advance(LEASE_S - 1)
    mine.renew(KEY, fence, LEASE_S)
    in_flight(mine, clock.now() + LEASE_S, why="after renew")
    clock.advance(LEASE_S - 1)
    in_flight(mine, clock.now() + 1, why="beyond the first lease")
    clock.advance(2)
    expect(new(mine, why="after the renewed lease") > fence, "the fence did not rise")


def done_stays_done(case: Case) -> None:
    """Nobody changes what is done: every further settle, renew and intend is Stale, and the outcome stays."""
    mine, clock = case.fresh()
    fence = new(mine, why="a fresh key")
    mine.intend(KEY, fence, b"intent")
    mine.settle(KEY, fence, b"first")
    for late in (0.0, 2 * LEASE_S):
        clock.advance(late)
        refused(Stale, "a second settle", mine.settle, KEY, fence, b"second")
        refused(Stale, "settle(None) after settle", mine.settle, KEY, fence, None)
        refused(Stale, "renew after settle", mine.renew, KEY, fence, LEASE_S)
        refused(Stale, "intend after settle", mine.intend, KEY, fence, b"again")
        done(mine, b"first", why="after all that")


def nobody_holds_what_was_not_claimed(case: Case) -> None:
    """settle, renew and intend with a fence that was never given raise Stale and make nothing."""
    mine, clock = case.fresh()
    refused(Stale, "settle of a key that nobody claimed", mine.settle, KEY, 1, b"x")
    refused(Stale, "settle(None) of a key that nobody claimed", mine.settle, KEY, 1, None)
    refused(Stale, "renew of a key that nobody claimed", mine.renew, KEY, 1, LEASE_S)
    refused(Stale, "intend of a key that nobody claimed", mine.intend, KEY, 1, b"x")
    until = clock.now() + LEASE_S
    fence = new(mine, why="a key that nobody claimed")
    refused(Stale, "settle with the fence of the next holder", mine.settle, KEY, fence + 1, b"x")
    in_flight(mine, until, why="after settle with a fence of the future")


def what_cannot_be_held_is_refused(case: Case) -> None:
    """settle, renew and intend of a key or fence that no claim can have given raise Stale or InvalidInput, nothing else."""
    mine, clock = case.fresh()
    until = clock.now() + LEASE_S
    new(mine, why="a fresh key")
    for key, fence in (("a\0b", 1), ("a\ud800b", 1), ("", 1), ("k" * (KEY_MAX_BYTES + 1), 1), (KEY, 0), (KEY, -1), (KEY, 2**80)):
        what = f"of the key {key[:8]!r} with the fence {fence}"
        refused(ButtressError, f"settle {what}", mine.settle, key, fence, b"x")
        refused(ButtressError, f"settle(None) {what}", mine.settle, key, fence, None)
        refused(ButtressError, f"renew {what}", mine.renew, key, fence, LEASE_S)
        refused(ButtressError, f"intend {what}", mine.intend, key, fence, b"x")
    in_flight(mine, until, why="after all that was refused")


def retire_keeps_the_fact(case: Case) -> None:
    """retire drops outcomes settled before that time, says how many, and never the fact: later claims are Done(None)."""
    mine, clock = case.fresh()
    for key in ("old-1", "old-2"):
        mine.settle(key, new(mine, key, why="a fresh key"), b"old")
    clock.advance(3600)
    cut = clock.now()
    clock.advance(3600)
    mine.settle("young", new(mine, "young", why="a fresh key"), b"young")
    count = mine.retire(cut)
    expect(count == 2, f"retire answered {count!r}, two outcomes were settled before")
    count = mine.retire(cut)
    expect(count == 0, f"a second retire answered {count!r}")
    done(mine, None, "old-1", why="after retire")
    done(mine, None, "old-2", why="after retire")
    done(mine, b"young", "young", why="settled after that time")
    answer = claim(mine, "old-1", OTHER_PRINT)
    expect(answer == Mismatch(PRINT), f"another payload after retire: claim answered {answer}")


def retire_leaves_the_unsettled(case: Case) -> None:
    """retire touches nothing that is not settled: holders, intents and lost keys stay as they are."""
    mine, clock = case.fresh()
    fence = new(mine, why="a fresh key")
    mine.intend(KEY, fence, b"intent")
    held = new(mine, "held", why="a fresh key")
    mine.renew("held", held, 1000 * LEASE_S)
    clock.advance(LEASE_S + 1)
    count = mine.retire(clock.now() + 1)
    expect(count == 0, f"retire answered {count!r}, nothing was settled")
    unknown(mine, b"intent", above=fence, why="after retire")
    mine.settle("held", held, b"done")
    done(mine, b"done", "held", why="its holder settled after retire")


LONGEST_KEY = "é" * (KEY_MAX_BYTES // 2)
BAD_KEYS: tuple[tuple[str, Any], ...] = (
    ("an empty key", ""),
    (f"a key of {KEY_MAX_BYTES + 1} bytes", "k" * (KEY_MAX_BYTES + 1)),
    (f"a key of {KEY_MAX_BYTES} characters and more bytes", "é" * KEY_MAX_BYTES),
    ("a key with NUL", "a\0b"),
    ("a key of bytes", b"key"),
    ("a key of None", None),
)
BAD_PRINTS: tuple[tuple[str, Any], ...] = (
    (f"a fingerprint of {FINGERPRINT_MAX_BYTES + 1} bytes", b"f" * (FINGERPRINT_MAX_BYTES + 1)),
    ("a fingerprint of text", "print"),
    ("a fingerprint of None", None),
)
BAD_LEASES: tuple[float, ...] = (0.0, -1.0, float("nan"), float("inf"), 1e9)


def limits_are_refused(case: Case) -> None:
    """A key, fingerprint, lease, intent or outcome outside the limits is InvalidInput before anything is written."""
    mine, clock = case.fresh()
    for what, key in BAD_KEYS:
        refused(InvalidInput, what, claim, mine, key)
    for what, fingerprint in BAD_PRINTS:
        refused(InvalidInput, what, claim, mine, fingerprint=fingerprint)
    for lease_s in BAD_LEASES:
        refused(InvalidInput, f"a lease of {lease_s} s", claim, mine, lease_s=lease_s)
    until = clock.now() + LEASE_S
    fence = new(mine, why="after refused claims of the same key")
    for lease_s in BAD_LEASES:
        refused(InvalidInput, f"renew for {lease_s} s", mine.renew, KEY, fence, lease_s)
    too_long: tuple[Any, ...] = (b"x" * (PAYLOAD_MAX_BYTES + 1), "text")
    for payload in too_long:
        what = f"of {type(payload).__name__}, {len(payload)} long"
        refused(InvalidInput, f"an intent {what}", mine.intend, KEY, fence, payload)
        refused(InvalidInput, f"an outcome {what}", mine.settle, KEY, fence, payload)
    in_flight(mine, until, why="after refused renewals, intents and outcomes")
    clock.advance(LEASE_S + 1)
    new(mine, why="after the lease (a refused intent is none)")


def an_intent_is_bytes(case: Case) -> None:
    """intend without an intent (None) is InvalidInput: it would quietly turn a doubt into New."""
    mine, clock = case.fresh()
    fence = new(mine, why="a fresh key")
    mine.intend(KEY, fence, b"intent")
    nothing: Any = None
    refused(InvalidInput, "an intent of None", mine.intend, KEY, fence, nothing)
    clock.advance(LEASE_S + 1)
    unknown(mine, b"intent", above=fence, why="after a refused intend")


def text_that_is_not_unicode_is_refused(case: Case) -> None:
    """A key with a lone surrogate (``"\\ud800"`` in JSON) is InvalidInput: no store can hold it."""
    mine, _ = case.fresh()
    refused(InvalidInput, "a key with a lone surrogate", claim, mine, "a\ud800b")


def a_lease_is_a_number(case: Case) -> None:
    """A lease that is no number is InvalidInput, like every other value of a wrong type."""
    mine, _ = case.fresh()
    wrong: tuple[Any, ...] = ("30", None)
    for lease_s in wrong:
        refused(InvalidInput, f"a lease of {lease_s!r}", claim, mine, lease_s=lease_s)


def limits_are_inclusive(case: Case) -> None:
    """What lies just inside the limits is taken: the longest key, the longest and the empty fingerprint, a short lease."""
    mine, clock = case.fresh()
    fence = new(mine, LONGEST_KEY, why=f"a key of {KEY_MAX_BYTES} bytes")
    mine.settle(LONGEST_KEY, fence, b"longest")
    done(mine, b"longest", LONGEST_KEY, why="the longest key")
    for fingerprint in (b"", b"f" * FINGERPRINT_MAX_BYTES):
        key = f"print-{len(fingerprint)}"
        answer = claim(mine, key, fingerprint, 0.001)
        expect(isinstance(answer, New), f"a fingerprint of {len(fingerprint)} bytes: claim answered {answer}")
        clock.advance(1)
        answer = claim(mine, key, fingerprint)
        expect(isinstance(answer, New), f"the same fingerprint again, after its lease: claim answered {answer}")


def keys_are_compared_byte_by_byte(case: Case) -> None:
    """Keys that differ in case, spaces or normal form are different keys."""
    mine, _ = case.fresh()
    keys = ("key", "KEY", "key ", " key", "k\u00e9y", "ke\u0301y", "kéy ", "k%y", "k_y", "k'y", 'k"y', "k\\y")
    for key in keys:
        new(mine, key, why=f"{key!r} beside its likes")


def of_many_claims_one_is_new(case: Case) -> None:
    """Of claims that come at the same time one is New and all others are InFlight."""
    mine, _ = case.fresh()
    keys = [f"key-{n}" for n in range(8)]

    def claims() -> list[Claim]:
        return [claim(mine, key) for key in keys]

    answers = together(*[claims] * 4)
    for n, key in enumerate(keys):
        each = [answer[n] if isinstance(answer, list) else answer for answer in answers]
        news = sum(isinstance(answer, New) for answer in each)
        rest = sum(isinstance(answer, InFlight) for answer in each)
        expect((news, rest) == (1, 3), f"four claims of {key} at once were answered {each}")


# -- with a transaction


def claim_joins_the_transaction(case: Case) -> None:
    """claim joins the open transaction: it is taken back when that rolls back, and stays when it commits."""
    mine, clock = case.fresh()
    with rolled_back(case.begin(mine)):
        new(mine, why="a fresh key in a transaction")
    new(mine, why="after the transaction was rolled back")
    with case.begin(mine):
        new(mine, "order-2", why="a fresh key in a transaction")
    answer = claim(mine, "order-2")
    expect(isinstance(answer, InFlight), f"after the transaction was committed: claim answered {answer}")
    clock.advance(LEASE_S + 1)
    with rolled_back(case.begin(mine)):
        new(mine, why="a lost key in a transaction")
    new(mine, why="after the takeover was rolled back")


def settle_joins_the_transaction(case: Case) -> None:
    """settle joins the open transaction: no effect without Done, no Done without the effect."""
    mine, clock = case.fresh()
    until = clock.now() + LEASE_S
    fence = new(mine, why="a fresh key")
    with rolled_back(case.begin(mine)):
        mine.settle(KEY, fence, b"undone")
    in_flight(mine, until, why="after settle was rolled back")
    with rolled_back(case.begin(mine)):
        mine.settle(KEY, fence, None)
    in_flight(mine, until, why="after settle(None) was rolled back")
    with case.begin(mine):
        mine.settle(KEY, fence, b"committed")
    done(mine, b"committed", why="after settle was committed")


def claim_and_settle_in_one_transaction(case: Case) -> None:
    """claim and settle in one transaction are one step: all of it happens, or nothing."""
    mine, _ = case.fresh()
    with rolled_back(case.begin(mine)):
        mine.settle(KEY, new(mine, why="in a transaction"), b"undone")
        done(mine, b"undone", why="later in the same transaction")
    with case.begin(mine):
        mine.settle(KEY, new(mine, why="in a transaction, after the first was rolled back"), b"whole")
    done(mine, b"whole", why="after the commit")


def intend_refuses_a_transaction(case: Case) -> None:
    """intend inside a transaction is refused and writes nothing: it would not be durable before the effect."""
    mine, clock = case.fresh()
    fence = new(mine, why="a fresh key")
    with case.begin(mine):
        refused(ButtressError, "intend inside a transaction", mine.intend, KEY, fence, b"intent")
    clock.advance(LEASE_S + 1)
    new(mine, why="after the lease (the intent was refused)")


# -- with reopen


def everything_outlives_the_process(case: Case) -> None:
    """Claims, intents, outcomes, fences and facts are there when the state is opened anew."""
    mine, clock = case.fresh()
    until = clock.now() + LEASE_S
    fence = new(mine, why="a fresh key")
    intended = new(mine, "intended", why="a fresh key")
    mine.intend("intended", intended, b"intent")
    mine.settle("settled", new(mine, "settled", why="a fresh key"), b"outcome")
    mine.settle("retired", new(mine, "retired", why="a fresh key"), b"outcome")
    freed = new(mine, "freed", why="a fresh key")
    mine.settle("freed", freed, None)

    mine = case.again(mine, clock)
    in_flight(mine, until, why="a held key")
    done(mine, b"outcome", "settled", why="a settled key")
    expect(new(mine, "freed", why="a freed key") > freed, "the fence of a freed key did not rise")
    clock.advance(LEASE_S + 1)
    answer = claim(mine, "intended")
    expect(isinstance(answer, Unknown) and answer.intent == b"intent" and answer.fence > intended,
           f"a lost key with an intent: claim answered {answer}")
    mine.settle(KEY, fence, b"by its holder")
    count = mine.retire(clock.now())
    expect(count == 2, f"retire answered {count!r}, two outcomes were settled before")

    mine = case.again(mine, clock)
    done(mine, b"by its holder", why="settled after the first reopening")
    done(mine, None, "retired", why="a retired key")


def a_stale_holder_is_refused_after_a_restart(case: Case) -> None:
    """Fences do not start again when the state is opened anew."""
    mine, clock = case.fresh()
    first = lost(mine, clock)
    mine = case.again(mine, clock)
    second = new(mine, why="after the lease")
    expect(second > first, f"fence {second} after {first}")
    mine = case.again(mine, clock)
    refused(Stale, "settle by the first holder", mine.settle, KEY, first, b"stale")
    mine.settle(KEY, second, b"second")
    done(mine, b"second", why="after the second holder settled")


# -- with a neighbour


def namespaces_are_apart(case: Case) -> None:
    """A key in one namespace says nothing of the same key in another: claims, outcomes and retire stay inside."""
    assert case.neighbour is not None
    mine, clock = case.fresh()
    other = case.neighbour(mine, clock)
    fence = new(mine, why="a fresh key")
    answer = claim(other, fingerprint=OTHER_PRINT)
    expect(isinstance(answer, New), f"the same key in another namespace, with another payload: claim answered {answer}")
    mine.settle(KEY, fence, b"mine")
    answer = claim(other, fingerprint=OTHER_PRINT)
    expect(isinstance(answer, InFlight), f"in flight there, done here: claim answered {answer}")
    other.settle("there", new(other, "there", why="a fresh key"), b"theirs")
    clock.advance(1)
    count = other.retire(clock.now())
    expect(count == 1, f"retire answered {count!r}, one outcome was settled in this namespace")
    done(mine, b"mine", why="after the other namespace was retired")


ALWAYS: tuple[Callable[[Case], None], ...] = (
    a_fresh_key_is_new,
    a_held_key_is_in_flight,
    a_settled_key_is_done,
    another_payload_is_a_mismatch,
    a_lost_holder_without_intent_is_new,
    fences_rise,
    a_lost_holder_with_intent_is_unknown,
    there_is_one_resolver,
    what_did_not_happen_is_forgotten,
    settle_none_frees_the_key,
    a_stale_holder_is_refused,
    a_late_holder_may_settle,
    renew_counts_from_now,
    done_stays_done,
    nobody_holds_what_was_not_claimed,
    what_cannot_be_held_is_refused,
    retire_keeps_the_fact,
    retire_leaves_the_unsettled,
    limits_are_refused,
    an_intent_is_bytes,
    text_that_is_not_unicode_is_refused,
    a_lease_is_a_number,
    limits_are_inclusive,
    keys_are_compared_byte_by_byte,
    of_many_claims_one_is_new,
)
JOINING: tuple[Callable[[Case], None], ...] = (
    claim_joins_the_transaction,
    settle_joins_the_transaction,
    claim_and_settle_in_one_transaction,
    intend_refuses_a_transaction,
)
DURABLE: tuple[Callable[[Case], None], ...] = (everything_outlives_the_process, a_stale_holder_is_refused_after_a_restart)
SEPARATE: tuple[Callable[[Case], None], ...] = (namespaces_are_apart,)
