"""What every Delta promises: all that changed, offered until it is settled; and no delete without evidence of a complete run."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from buttress.kernel.clock import Clock, ManualClock
from buttress.kernel.delta import HASH_MAX_BYTES, KEY_MAX_BYTES, Change, Delta, Evidence, Finished, Item, Run
from buttress.kernel.errors import InvalidInput, Stale
from buttress.testing.promise import expect, refused, rolled_back, verify

SOURCE = "feed-1"
WHOLE = Evidence(True)
BROKEN = Evidence(False, "the connection was lost")


@dataclass(frozen=True)
class Case:
    """What the caller handed in."""

    maker: Callable[[Clock], Delta]
    deletes: Callable[[Delta, Finished], Iterable[list[Change]]]
    transaction: Callable[[Delta], AbstractContextManager[object]] | None = None
    reopen: Callable[[Delta, Clock], Delta] | None = None

    def fresh(self) -> Delta:
        """An empty one."""
        return self.maker(ManualClock())

    def gone(self, mine: Delta, finished: Finished) -> list[Change]:
        """All deletes of a run."""
        return [change for batch in self.deletes(mine, finished) for change in batch]

    def begin(self, mine: Delta) -> AbstractContextManager[object]:
        assert self.transaction is not None
        return self.transaction(mine)

    def again(self, mine: Delta) -> Delta:
        assert self.reopen is not None
        return self.reopen(mine, ManualClock())


def check_delta(
    maker: Callable[[Clock], Delta],
    *,
    deletes: Callable[[Delta, Finished], Iterable[list[Change]]],
    transaction: Callable[[Delta], AbstractContextManager[object]] | None = None,
    reopen: Callable[[Delta, Clock], Delta] | None = None,
) -> None:
    """Checks a Delta. ``maker(clock)`` gives an empty one with the guard that ``Guard()`` is.

    ``deletes(mine, finished)``: the deletes of a run in batches, for the sink. ``transaction(mine)``: begins a transaction that
    ``settle`` on this thread joins, commits at the end of the block, rolls back on an error. ``reopen(mine, clock)``: closes
    it and opens the same state anew.
    """
    case = Case(maker, deletes, transaction, reopen)
    verify("Delta", promises(case), case)


def promises(case: Case) -> tuple[Callable[[Case], None], ...]:
    """Those that apply to what was handed in."""
    return ALWAYS + (JOINING if case.transaction else ()) + (DURABLE if case.reopen else ())


# -- steps that the promises share


def item(key: str, content: str = "one", raw: str | None = None) -> Item:
    """A record; its raw bytes are its content unless told otherwise."""
    return Item(key, content.encode(), (content if raw is None else raw).encode())


def names(count: int, start: int = 0) -> list[str]:
    return [f"k{n:04}" for n in range(start, start + count)]


def kept(mine: Delta, *items: Item, source: str = SOURCE) -> Finished:
    """A whole run that read these records, all changes settled; its deletes are not asked for."""
    run = mine.begin(source)
    mine.settle(run, changed(mine, run, *items))
    return mine.finish(run, WHOLE)


def changed(mine: Delta, run: Run, *items: Item) -> list[Change]:
    """What compare gives of these records, without those that are not news."""
    answers = mine.compare(run, items)
    expect(len(answers) == len(items), f"compare of {len(items)} records gave {len(answers)} answers")
    return [change for change in answers if change is not None]


def upserts(changes: Iterable[Change], *keys: str, why: str) -> None:
    seen = [(change.kind, change.key) for change in changes]
    expect(seen == [("upsert", key) for key in keys], f"{why}: the changes are {seen}, expected upserts of {list(keys)}")


def deleted(case: Case, mine: Delta, finished: Finished, *keys: str, why: str) -> list[Change]:
    """The deletes of a run must be these."""
    changes = case.gone(mine, finished)
    seen = sorted(change.key for change in changes)
    expect(all(change.kind == "delete" for change in changes), f"{why}: among the deletes are {[change.kind for change in changes]}")
    expect(seen == sorted(keys), f"{why}: deletes of {seen}, expected {sorted(keys)}")
    return changes


def state(finished: Finished, expected: str, *, why: str) -> None:
    expect(finished.state == expected, f"{why}: the run ended {finished.state} ({finished.reason}), expected {expected}")


# -- what is news


def a_new_record_is_an_upsert(case: Case) -> None:
    """A record that is not known is an upsert, with its key, content, raw bytes and the number of the run."""
    mine = case.fresh()
    run = mine.begin(SOURCE)
    seen = mine.compare(run, [item("a", "says", "bytes"), item("b", "says", "")])
    expected = [Change("upsert", "a", run.number, b"says", b"bytes"), Change("upsert", "b", run.number, b"says", b"")]
    expect(seen == expected, f"compare gave {seen}, expected {expected}")
    expect(mine.compare(run, []) == [] and mine.same(run, []) == [], "of no records there is something to say")


def what_was_settled_is_no_news(case: Case) -> None:
    """What was settled is unchanged in later runs; another content is an upsert again."""
    mine = case.fresh()
    kept(mine, item("a"), item("b"))
    run = mine.begin(SOURCE)
    expect(mine.compare(run, [item("a"), item("b", "two")]) == [None, Change("upsert", "b", run.number, b"two", b"two")],
           "of one record as before and one with another content, not just the second is news")
    upserts(changed(mine, mine.begin(SOURCE), item("b", "two")), "b", why="the second content was never settled")


def what_was_not_settled_comes_again(case: Case) -> None:
    """A change that was not settled (the sink failed, the process died) is offered again by the next run, with a higher version."""
    mine = case.fresh()
    last = 0
    for turn in range(3):
        run = mine.begin(SOURCE)
        changes = changed(mine, run, item("a"))
        upserts(changes, "a", why=f"offered {turn} times, never settled")
        expect(changes[0].version > last, f"version {changes[0].version} after {last}")
        last = changes[0].version
        if turn:
            state(mine.finish(run, WHOLE), "complete", why="a whole run")
    mine.settle(run, changes)
    expect(changed(mine, mine.begin(SOURCE), item("a")) == [], "settled at last, it is offered again")


def the_same_bytes_need_no_parsing(case: Case) -> None:
    """same is True for a record known with these very bytes, and for no other; it is then seen."""
    mine = case.fresh()
    kept(mine, item("a", raw="bytes"), item("b", raw="bytes"), item("c", raw="bytes"))
    run = mine.begin(SOURCE)
    seen = mine.same(run, [("a", b"bytes"), ("b", b"others"), ("new", b"bytes")])
    expect(seen == [True, False, False], f"same bytes, other bytes, a new record: same gave {seen}")
    expect((run.same, run.seen) == (1, 1), f"one of them was seen: same {run.same}, seen {run.seen}")
    deleted(case, mine, mine.finish(run, WHOLE), "b", "c", why="one was the same, the others were not compared")


def no_bytes_are_never_the_same(case: Case) -> None:
    """Without raw bytes (the reader has none) same is False: the record is compared by what it says."""
    mine = case.fresh()
    kept(mine, item("a", raw=""))
    run = mine.begin(SOURCE)
    expect(mine.same(run, [("a", b"")]) == [False], "known without raw bytes, and without them now: same is True, nobody looked at it")
    upserts(changed(mine, run, item("a", "two", "")), "a", why="another content, without raw bytes")


def same_knows_only_what_was_settled(case: Case) -> None:
    """same is False for bytes whose change was not settled: or the sink would never get it."""
    mine = case.fresh()
    kept(mine, item("a", "one"))
    changed(mine, mine.begin(SOURCE), item("a", "two"), item("new"))
    run = mine.begin(SOURCE)
    seen = mine.same(run, [("a", b"two"), ("new", b"one")])
    expect(seen == [False, False], f"offered before and not settled: same gave {seen}")
    upserts(changed(mine, run, item("a", "two"), item("new")), "a", "new", why="offered before and not settled")


def other_bytes_that_say_the_same_are_remembered(case: Case) -> None:
    """Other bytes with the same content are no news, and next time these bytes are the same, the old ones not."""
    mine = case.fresh()
    kept(mine, item("a", "says", "old"))
    run = mine.begin(SOURCE)
    expect(mine.same(run, [("a", b"new")]) == [False], "other bytes are the same")
    expect(changed(mine, run, item("a", "says", "new")) == [], "other bytes that say the same are news")
    run = mine.begin(SOURCE)
    expect(mine.same(run, [("a", b"old")]) == [False], "the bytes before the last are the same")
    expect(mine.same(run, [("a", b"new")]) == [True], "the last bytes, which said the same, need to be parsed again")


def the_first_of_a_repeated_key_counts(case: Case) -> None:
    """A key that comes more than once in a run counts once, as it came first: before and after that was settled."""
    mine = case.fresh()
    kept(mine, item("known"))
    run = mine.begin(SOURCE)
    changes = changed(mine, run, item("a", "first"), item("a", "second"), item("known", "first"), item("known", "second"))
    changes += changed(mine, run, item("a", "third"), item("known", "third"))
    upserts(changes, "a", "known", why="three of each came")
    expect({change.content for change in changes} == {b"first"}, f"not the first counted: {changes}")
    mine.settle(run, changes)
    expect(changed(mine, run, item("a", "fourth"), item("known", "fourth")) == [], "a key that came before is news after it was settled")
    expect((run.seen, run.upserts, run.repeated) == (2, 2, 6), f"two records came, six were repeated: {run}")
    state(mine.finish(run, Evidence(True, count=2)), "complete", why="the source holds two records, both came, one of them often")


def versions_grow(case: Case) -> None:
    """Each run of a source has a higher number than every one before, however that ended; its changes bear it as their version."""
    mine = case.fresh()
    last = 0
    for turn in range(6):
        run = mine.begin(SOURCE)
        expect(run.number > last, f"run {run.number} after {last}")
        last = run.number
        changes = changed(mine, run, item("a", str(turn)))
        if turn % 2:
            finished = mine.finish(run, WHOLE if turn % 3 else BROKEN)
            changes += case.gone(mine, finished)
        expect(all(change.version == run.number for change in changes), f"run {run.number} gave {changes}")
        mine.settle(run, changes)


def the_run_counts(case: Case) -> None:
    """A run tells what was known before it, what it saw and how, and its end tells what it missed."""
    mine = case.fresh()
    kept(mine, *[item(key) for key in ("same", "unchanged", "changed", "missing", "lost")])
    run = mine.begin(SOURCE)
    expect((run.source, run.known, run.seen) == (SOURCE, 5, 0), f"five records are known: {run}")
    mine.same(run, [("same", b"one"), ("same", b"one"), ("changed", b"two")])
    changed(mine, run, item("unchanged"), item("changed", "two"), item("new"), item("new"))
    seen = (run.same, run.unchanged, run.upserts, run.repeated, run.seen)
    expect(seen == (1, 1, 2, 2, 4), f"same, unchanged, upserts, repeated, seen are {seen}")
    finished = mine.finish(run, WHOLE)
    expect((finished.missing, finished.run.number) == (2, run.number), f"two were not seen: {finished}")


def sources_are_apart(case: Case) -> None:
    """What is known of one source says nothing of another: changes, runs and deletes stay inside."""
    mine = case.fresh()
    kept(mine, item("a"), item("b"))
    run, other = mine.begin(SOURCE), mine.begin("feed-2")
    expect((other.known, mine.same(other, [("a", b"one")])) == (0, [False]), f"another source knows the records of the first: {other}")
    changes = changed(mine, other, item("a", "two"))
    upserts(changes, "a", why="the same key in another source")
    mine.settle(other, changes)
    deleted(case, mine, mine.finish(other, WHOLE), why="the first whole run of another source")
    expect(changed(mine, run, item("a")) == [], "a record that another source changed is news here")
    deleted(case, mine, mine.finish(run, WHOLE), "b", why="a whole run of the first source")


def keys_are_compared_byte_by_byte(case: Case) -> None:
    """Keys that differ in case, in a space or in the form of a letter are different records."""
    mine = case.fresh()
    keys = ("key", "Key", "key ", " key", "né", "ne\u0301", "1", "01", "1.0")
    run = mine.begin(SOURCE)
    changes = changed(mine, run, *[item(key) for key in keys])
    upserts(changes, *keys, why="different keys")
    mine.settle(run, changes)
    run = mine.begin(SOURCE)
    expect(mine.same(run, [(key, b"one") for key in keys[1:]]) == [True] * (len(keys) - 1), "one of the keys is not known")
    deleted(case, mine, mine.finish(run, WHOLE), "key", why="all keys but one were seen")


# -- what is gone


def what_a_whole_run_missed_is_deleted(case: Case) -> None:
    """What a complete run did not see is deleted, whatever the number of records; nothing else is; and only once."""
    mine = case.fresh()
    count = 1_200
    keys = names(count)
    kept(mine, *[item(key) for key in keys])
    run = mine.begin(SOURCE)
    odd = keys[::7]
    mine.same(run, [(key, b"one") for key in keys[: count // 2] if key not in odd])
    changes = changed(mine, run, *[item(key, "two" if n % 2 else "one") for n, key in enumerate(keys[count // 2 :]) if key not in odd], item("new"))
    mine.settle(run, changes[::2])  # the sink failed for the others: seen they were
    finished = mine.finish(run, WHOLE)
    state(finished, "complete", why="one in seven is missing")
    gone = deleted(case, mine, finished, *odd, why="one in seven was not seen")
    expect(all(change.version == run.number for change in gone), "a delete has another version than the run")
    mine.settle(run, gone)
    run = mine.begin(SOURCE)
    left = [key for key in keys if key not in odd]
    expect(run.known >= len(left), f"{len(left)} of {count} are left, {run.known} are known")
    mine.compare(run, [item(key, "three") for key in [*left, "new"]])
    deleted(case, mine, mine.finish(run, WHOLE), why="what was deleted before")


def nothing_goes_without_evidence(case: Case) -> None:
    """A run whose reader has no evidence of the end deletes nothing, says why, and everything stays known."""
    mine = case.fresh()
    kept(mine, item("a"), item("b"))
    run = mine.begin(SOURCE)
    changed(mine, run, item("a"))
    finished = mine.finish(run, BROKEN)
    state(finished, "incomplete", why="the connection was lost")
    expect(BROKEN.reason in finished.reason, f"the reason is {finished.reason!r}, the reader said {BROKEN.reason!r}")
    deleted(case, mine, finished, why="the connection was lost")
    finished = mine.finish(mine.begin(SOURCE), Evidence(False))
    state(finished, "incomplete", why="no evidence, and no reason")
    expect(finished.reason != "", "an incomplete run has no reason")
    deleted(case, mine, finished, why="a run that saw nothing, without evidence")
    expect(changed(mine, mine.begin(SOURCE), item("a"), item("b")) == [], "after incomplete runs what was known is news")


def a_count_that_differs_is_no_evidence(case: Case) -> None:
    """Where the source itself says how many records it holds, another number is no complete run; repeated keys count once."""
    mine = case.fresh()
    kept(mine, item("a"), item("b"), item("c"))
    for count, expected in ((1, "incomplete"), (3, "incomplete"), (0, "incomplete"), (2, "complete")):
        run = mine.begin(SOURCE)
        mine.same(run, [("a", b"one")])
        changed(mine, run, item("b"), item("b"))
        finished = mine.finish(run, Evidence(True, count=count))
        state(finished, expected, why=f"two records came, the source says {count}")
        deleted(case, mine, finished, *(["c"] if expected == "complete" else []), why=f"two records came, the source says {count}")


def shrunk(mine: Delta, known: int, missing: int, **named: Any) -> Finished:
    """A source of so many records, and then a whole run of it that misses some."""
    source = f"{known}-{missing}"
    kept(mine, *[item(key) for key in names(known)], source=source)
    run = mine.begin(source)
    mine.same(run, [(key, b"one") for key in names(known - missing)])
    return mine.finish(run, WHOLE, **named)


def a_mass_delete_is_held(case: Case) -> None:
    """A whole run that would delete more than its share of what is known is held: it deletes nothing, says why, and all stays known."""
    mine = case.fresh()
    for known, missing in ((100, 31), (40, 13), (11, 11), (12, 11), (100, 100)):
        finished = shrunk(mine, known, missing)
        state(finished, "held", why=f"{missing} of {known} are missing")
        expect(finished.reason != "" and finished.missing == missing, f"{missing} of {known} are missing: {finished}")
        deleted(case, mine, finished, why=f"{missing} of {known} are missing, and held")
        run = mine.begin(finished.run.source)
        expect(all(mine.same(run, [(key, b"one") for key in names(known)])), "what was held back is no longer known")


def a_source_may_shrink(case: Case) -> None:
    """Up to its share of what is known goes at once, and a few always, so that a small source can shrink to nothing."""
    mine = case.fresh()
    for known, missing in ((100, 29), (200, 59), (10, 10), (20, 10), (1, 1)):
        finished = shrunk(mine, known, missing)
        state(finished, "complete", why=f"{missing} of {known} are missing")
        deleted(case, mine, finished, *names(missing, known - missing), why=f"{missing} of {known} are missing")


def the_guard_looks_at_what_is_known(case: Case) -> None:
    """Where all keys of a source are new ones, the old ones are held: as many records as before are no evidence that these are the same."""
    mine = case.fresh()
    kept(mine, *[item(key) for key in names(40)])
    run = mine.begin(SOURCE)
    mine.settle(run, changed(mine, run, *[item(key) for key in names(40, 1_000)]))
    finished = mine.finish(run, WHOLE)
    state(finished, "held", why="40 other keys came, none of the 40 known")
    deleted(case, mine, finished, why="40 other keys came, none of the 40 known")


def somebody_may_allow_it(case: Case) -> None:
    """With the name of who allows it a mass delete goes through; without evidence of the end it does not, whoever allows it."""
    mine = case.fresh()
    finished = shrunk(mine, 40, 40, allow="somebody")
    state(finished, "complete", why="allowed by name")
    deleted(case, mine, finished, *names(40), why="allowed by name")
    kept(mine, *[item(key) for key in names(40)], source="broken")
    for evidence in (BROKEN, Evidence(True, count=5)):
        finished = mine.finish(mine.begin("broken"), evidence, allow="somebody")
        state(finished, "incomplete", why=f"allowed by name, with {evidence}")
        deleted(case, mine, finished, why=f"allowed by name, with {evidence}")


def what_was_held_goes_later(case: Case) -> None:
    """What was held back is deleted by a later run that is let through; what came back meanwhile is not, and is no news."""
    mine = case.fresh()
    source = shrunk(mine, 40, 30).run.source
    run = mine.begin(source)
    back = names(35)
    expect(all(mine.same(run, [(key, b"one") for key in back])), "what was held back is no longer known")
    finished = mine.finish(run, WHOLE)
    deleted(case, mine, finished, *names(5, 35), why="held before; now 5 of 40 are missing")


def a_delete_that_was_not_settled_comes_again(case: Case) -> None:
    """A delete that was not settled is given again by the next whole run, with a higher version; a settled one is not."""
    mine = case.fresh()
    kept(mine, item("a"), item("b"), item("c"))
    last = 0
    for turn in range(3):
        run = mine.begin(SOURCE)
        mine.compare(run, [item("a")])
        finished = mine.finish(run, WHOLE)
        gone = deleted(case, mine, finished, "b", "c", why=f"given {turn} times, never settled")
        expect(all(change.version > last for change in gone), f"{gone} after version {last}")
        last = run.number
    mine.settle(run, [change for change in gone if change.key == "b"])
    run = mine.begin(SOURCE)
    mine.compare(run, [item("a")])
    deleted(case, mine, mine.finish(run, WHOLE), "c", why="one of two deletes was settled")


def what_was_deleted_may_come_back(case: Case) -> None:
    """A record that comes back after its delete is an upsert, with the very bytes of before too; it is then known as any other."""
    mine = case.fresh()
    kept(mine, item("a"), item("b"))
    run = mine.begin(SOURCE)
    mine.compare(run, [item("a")])
    finished = mine.finish(run, WHOLE)
    mine.settle(run, deleted(case, mine, finished, "b", why="not seen"))
    run = mine.begin(SOURCE)
    expect(run.known == 1, f"one of two records was deleted, {run.known} are known")
    expect(mine.same(run, [("b", b"one")]) == [False], "a deleted record is the same as before: the sink does not have it")
    changes = changed(mine, run, item("b"), item("a"), item("b", "two"))
    upserts(changes, "b", why="deleted before, with the content of before")
    mine.settle(run, changes)
    deleted(case, mine, mine.finish(run, WHOLE), why="both were seen")
    run = mine.begin(SOURCE)
    expect((run.known, mine.same(run, [("b", b"one")])) == (2, [True]), f"back and settled, it is not known: {run}")


# -- what may have reached the sink


def a_change_in_doubt_is_given_again(case: Case) -> None:
    """A change that was given and not settled may be in the sink: where its source takes it back, the next run gives what it says now."""
    mine = case.fresh()
    kept(mine, item("a", "one"))
    changed(mine, mine.begin(SOURCE), item("a", "two"))  # the sink took it, and the process died
    run = mine.begin(SOURCE)
    expect(mine.same(run, [("a", b"one")]) == [False], "the sink may say 'two', the source says 'one' again, and same is True")
    upserts(changed(mine, run, item("a", "one")), "a", why="the sink may say 'two', the source says 'one' again")


def a_delete_in_doubt_is_made_good(case: Case) -> None:
    """A delete that was given and not settled may have reached the sink: where the record is there again, it is an upsert."""
    mine = case.fresh()
    kept(mine, item("a"), item("b"))
    run = mine.begin(SOURCE)
    mine.compare(run, [item("a")])
    deleted(case, mine, mine.finish(run, WHOLE), "b", why="not seen")  # the sink took it, and the process died
    run = mine.begin(SOURCE)
    expect(mine.same(run, [("b", b"one")]) == [False], "the sink may have deleted it, the source has it again, and same is True")
    upserts(changed(mine, run, item("a"), item("b")), "b", why="the sink may have deleted it, the source has it again")


def a_new_record_in_doubt_is_deleted(case: Case) -> None:
    """A new record that was given and not settled may be in the sink: where it is gone from its source, a whole run deletes it."""
    mine = case.fresh()
    kept(mine, item("a"))
    changed(mine, mine.begin(SOURCE), item("a"), item("new"))  # the sink took it, and the process died
    run = mine.begin(SOURCE)
    mine.compare(run, [item("a")])
    deleted(case, mine, mine.finish(run, WHOLE), "new", why="the sink may have it, the source does not")


def an_overtaken_run_gives_no_deletes(case: Case) -> None:
    """Once a later run has begun, the deletes of an earlier one are over: Stale, or none. What it missed may be there again."""
    mine = case.fresh()
    kept(mine, item("a"), item("b"))
    run = mine.begin(SOURCE)
    mine.compare(run, [item("a")])
    finished = mine.finish(run, WHOLE)
    later = mine.begin(SOURCE)
    mine.settle(later, changed(mine, later, item("a"), item("b"), item("new")))
    try:
        gone = case.gone(mine, finished)
    except Stale:
        return
    expect(gone == [], f"a later run saw what an earlier one now deletes: {gone}")


# -- one run at a time


def a_later_run_ends_the_one_before(case: Case) -> None:
    """Once a later run of a source has begun, same, compare, settle and finish of the one before are Stale and change nothing."""
    mine = case.fresh()
    kept(mine, item("a"), item("b"))
    run = mine.begin(SOURCE)
    changes = changed(mine, run, item("a", "stale"))
    later = mine.begin(SOURCE)
    for name, call in (("same", lambda: mine.same(run, [("a", b"one")])), ("compare", lambda: mine.compare(run, [item("a", "stale")])),
                       ("settle", lambda: mine.settle(run, changes)), ("finish", lambda: mine.finish(run, WHOLE))):
        refused(Stale, f"{name} of the run before", call)
    news = changed(mine, later, item("a", "now"), item("b"))
    upserts(news, "a", why="after a stale run tried everything")
    mine.settle(later, news)
    refused(Stale, "settle of the run before", mine.settle, run, changes)
    state(mine.finish(later, WHOLE), "complete", why="the later run")
    refused(Stale, "settle of the run before, after the later one was finished", mine.settle, run, changes)
    expect(mine.same(mine.begin(SOURCE), [("a", b"now")]) == [True], "what the later run settled is not what is known")


def a_finished_run_reads_no_more(case: Case) -> None:
    """After finish a run only settles: same, compare and a second finish are Stale."""
    mine = case.fresh()
    for evidence in (WHOLE, BROKEN):
        run = mine.begin(SOURCE)
        changes = changed(mine, run, item("a", str(run.number)))
        mine.finish(run, evidence)
        refused(Stale, "same after finish", mine.same, run, [("a", b"one")])
        refused(Stale, "compare after finish", mine.compare, run, [item("b")])
        refused(Stale, "a second finish", mine.finish, run, WHOLE, allow="somebody")
        mine.settle(run, changes)
        expect(mine.same(mine.begin(SOURCE), [("a", changes[0].raw)]) == [True], "what was settled after finish is not known")


def settle_takes_its_own_changes(case: Case) -> None:
    """A change of another version than that of the run is InvalidInput, and nothing of the call is remembered."""
    mine = case.fresh()
    run = mine.begin(SOURCE)
    changes = changed(mine, run, item("a"))
    for version in (run.number - 1, run.number + 1):
        refused(InvalidInput, f"version {version} in run {run.number}", mine.settle, run, [*changes, Change("upsert", "b", version, b"one", b"one")])
    upserts(changed(mine, mine.begin(SOURCE), item("a")), "a", why="settled together with a change of another version")


def settle_twice_is_settle_once(case: Case) -> None:
    """The same changes settled again, and a settle of none, change nothing."""
    mine = case.fresh()
    run = mine.begin(SOURCE)
    changes = changed(mine, run, item("a"), item("b"))
    for batch in (changes, changes, [], changes[:1]):
        mine.settle(run, batch)
    run = mine.begin(SOURCE)
    expect((run.known, mine.same(run, [("a", b"one"), ("b", b"one")])) == (2, [True, True]), f"two records, settled twice: {run}")
    finished = mine.finish(run, WHOLE)
    mine.settle(run, case.gone(mine, finished))
    expect(mine.begin(SOURCE).known == 2, "a whole run that saw all of them deleted one")


def no_delete_is_settled_without_evidence(case: Case) -> None:
    """A delete in a run that has not ended complete is refused by settle, whoever made it, and nothing of the call is remembered."""
    mine = case.fresh()
    kept(mine, item("a"), item("b"))
    for finish in (False, True):
        run = mine.begin(SOURCE)
        if finish:
            mine.finish(run, BROKEN)
        try:
            mine.settle(run, [Change("delete", "a", run.number)])
        except (InvalidInput, Stale):
            pass
        expect(mine.begin(SOURCE).known == 2, f"a delete was settled in a run that {'broke off' if finish else 'is still open'}")


# -- limits

BAD_TEXTS: tuple[tuple[str, Any], ...] = (
    ("of no characters", ""),
    (f"of {KEY_MAX_BYTES + 1} bytes", "k" * (KEY_MAX_BYTES + 1)),
    (f"of {KEY_MAX_BYTES} characters and more bytes", "é" * KEY_MAX_BYTES),
    ("with NUL", "a\0b"),
    ("with a lone surrogate", "a\ud800b"),
    ("of bytes", b"key"),
    ("of None", None),
)
BAD_HASHES: tuple[Any, ...] = (b"h" * (HASH_MAX_BYTES + 1), "text", None)


def limits_are_refused(case: Case) -> None:
    """A source, key, content, raw or name outside the limits is InvalidInput before anything is written, seen or counted."""
    mine = case.fresh()
    kept(mine, item("a"))
    for what, text in BAD_TEXTS:
        refused(InvalidInput, f"a source {what}", mine.begin, text)
    run = mine.begin(SOURCE)
    for what, text in BAD_TEXTS:
        refused(InvalidInput, f"compare of a key {what}", mine.compare, run, [item("a"), item("b"), Item(text, b"one")])
        refused(InvalidInput, f"same of a key {what}", mine.same, run, [("a", b"one"), (text, b"one")])
        if text:
            refused(InvalidInput, f"a name {what} that allows", mine.finish, run, WHOLE, allow=text)
    for value in BAD_HASHES:
        refused(InvalidInput, f"a content of {type(value).__name__}", mine.compare, run, [item("a"), item("b"), Item("c", value)])
        refused(InvalidInput, f"raw of {type(value).__name__}", mine.compare, run, [item("a"), item("b"), Item("c", b"one", value)])
        refused(InvalidInput, f"same with raw of {type(value).__name__}", mine.same, run, [("a", b"one"), ("b", value)])
    refused(InvalidInput, "a content of no bytes", mine.compare, run, [item("a"), item("b"), Item("c", b"")])
    expect((run.seen, run.repeated) == (0, 0), f"refused records were counted: {run}")
    finished = mine.finish(run, WHOLE)
    deleted(case, mine, finished, "a", why="all that came was refused")


def limits_are_inclusive(case: Case) -> None:
    """The longest source, key, content and raw are taken, and known again."""
    mine = case.fresh()
    longest = "é" * (KEY_MAX_BYTES // 2)
    record = Item(longest, b"\x00" * HASH_MAX_BYTES, b"\xff" * HASH_MAX_BYTES)
    run = mine.begin(longest)
    changes = changed(mine, run, record)
    expect(changes == [Change("upsert", longest, run.number, record.content, record.raw)], "the longest record came back changed")
    mine.settle(run, changes)
    run = mine.begin(longest)
    expect(mine.same(run, [(longest, record.raw)]) == [True], "the longest record is not known again")
    mine.finish(run, WHOLE, allow=longest)


def any_reason_can_be_told(case: Case) -> None:
    """A run may be incomplete for whatever reason its reader gives: with NUL, a lone surrogate, or very long."""
    mine = case.fresh()
    for reason in ("NUL \0 inside", "a lone \ud800 surrogate", "long " * 100_000):
        state(mine.finish(mine.begin(SOURCE), Evidence(False, reason)), "incomplete", why=f"the reason {reason[:10]!r}")


# -- with transaction


def settle_joins_the_transaction(case: Case) -> None:
    """settle lives and dies with the open transaction: rolled back, its changes come again, the deletes too."""
    mine = case.fresh()
    kept(mine, item("a"), item("b"))
    for rolls_back in (True, False):
        run = mine.begin(SOURCE)
        changes = changed(mine, run, item("a", "two"), item("new"))
        upserts(changes, "a", "new", why="not settled yet")
        with rolled_back(case.begin(mine)) if rolls_back else case.begin(mine):
            mine.settle(run, changes)
        finished = mine.finish(run, WHOLE)
        gone = deleted(case, mine, finished, "b", why="not seen")
        with rolled_back(case.begin(mine)) if rolls_back else case.begin(mine):
            mine.settle(run, gone)
    run = mine.begin(SOURCE)
    expect(mine.same(run, [("a", b"two"), ("new", b"one")]) == [True, True], "what was committed is not known")
    deleted(case, mine, mine.finish(run, WHOLE), why="the delete was committed")


def marks_outlive_a_rollback(case: Case) -> None:
    """A settle that was rolled back and done again in the same run leaves each record seen once, and none deleted."""
    mine = case.fresh()
    kept(mine, item("a"))
    run = mine.begin(SOURCE)
    first, second = changed(mine, run, item("x"), item("y")), changed(mine, run, item("a"), item("z"))
    with rolled_back(case.begin(mine)):
        mine.settle(run, first)
    mine.settle(run, second)
    mine.settle(run, first)
    expect(run.seen == 4, f"four records came: {run}")
    deleted(case, mine, mine.finish(run, WHOLE), why="all were seen")
    expect(all(mine.same(mine.begin(SOURCE), [(key, b"one") for key in "axyz"])), "one of the four is not known")


def a_repeated_key_counts_once_through_a_rollback(case: Case) -> None:
    """A key that comes again after its settle was rolled back counts once, and is no news in this run."""
    mine = case.fresh()
    run = mine.begin(SOURCE)
    changes = changed(mine, run, item("a"))
    with rolled_back(case.begin(mine)):
        mine.settle(run, changes)
    expect(changed(mine, run, item("a", "second")) == [], "a key that came before is news after its settle was rolled back")
    expect((run.seen, run.repeated) == (1, 1), f"one record came twice: {run}")
    mine.settle(run, changes)
    state(mine.finish(run, Evidence(True, count=1)), "complete", why="the source holds one record, which came twice")


def what_a_rolled_back_compare_gave_is_settled(case: Case) -> None:
    """A change that compare gave in a transaction that was rolled back is remembered once it is settled, and its record is kept."""
    mine = case.fresh()
    kept(mine, item("a"))
    run = mine.begin(SOURCE)
    with rolled_back(case.begin(mine)):
        changes = changed(mine, run, item("a", "two"), item("new"))
    mine.settle(run, changes)
    deleted(case, mine, mine.finish(run, WHOLE), why="both records came")
    expect(mine.same(mine.begin(SOURCE), [("a", b"two"), ("new", b"one")]) == [True, True], "what was settled is not known")


# -- with reopen


def everything_outlives_the_process(case: Case) -> None:
    """What was settled is known when the state is opened anew; a run that was under way left nothing, and ends with the next."""
    mine = case.fresh()
    kept(mine, item("a"), item("b"), item("c"))
    run = mine.begin(SOURCE)
    mine.compare(run, [item("a")])
    mine.settle(run, deleted(case, mine, mine.finish(run, WHOLE), "b", "c", why="not seen")[:1])
    lost = mine.begin(SOURCE)
    mine.settle(lost, changed(mine, lost, item("settled")))
    changed(mine, lost, item("never"))

    mine = case.again(mine)
    run = mine.begin(SOURCE)
    expect(run.number > lost.number, f"run {run.number} after {lost.number} and a reopening")
    refused(Stale, "settle of the run of before", mine.settle, lost, [])
    expect(mine.same(run, [("a", b"one"), ("settled", b"one"), ("never", b"one")]) == [True, True, False], "not just what was settled is known")
    upserts(changed(mine, run, item("never")), "never", why="it was never settled")
    deleted(case, mine, mine.finish(run, WHOLE), "c", why="of two deletes one was settled before the reopening")


ALWAYS: tuple[Callable[[Case], None], ...] = (
    a_new_record_is_an_upsert,
    what_was_settled_is_no_news,
    what_was_not_settled_comes_again,
    the_same_bytes_need_no_parsing,
    no_bytes_are_never_the_same,
    same_knows_only_what_was_settled,
    other_bytes_that_say_the_same_are_remembered,
    the_first_of_a_repeated_key_counts,
    versions_grow,
    the_run_counts,
    sources_are_apart,
    keys_are_compared_byte_by_byte,
    what_a_whole_run_missed_is_deleted,
    nothing_goes_without_evidence,
    a_count_that_differs_is_no_evidence,
    a_mass_delete_is_held,
    a_source_may_shrink,
    the_guard_looks_at_what_is_known,
    somebody_may_allow_it,
    what_was_held_goes_later,
    a_delete_that_was_not_settled_comes_again,
    what_was_deleted_may_come_back,
    a_change_in_doubt_is_given_again,
    a_delete_in_doubt_is_made_good,
    a_new_record_in_doubt_is_deleted,
    an_overtaken_run_gives_no_deletes,
    a_later_run_ends_the_one_before,
    a_finished_run_reads_no_more,
    settle_takes_its_own_changes,
    settle_twice_is_settle_once,
    no_delete_is_settled_without_evidence,
    limits_are_refused,
    limits_are_inclusive,
    any_reason_can_be_told,
)
JOINING: tuple[Callable[[Case], None], ...] = (
    settle_joins_the_transaction,
    marks_outlive_a_rollback,
    a_repeated_key_counts_once_through_a_rollback,
    what_a_rolled_back_compare_gave_is_settled,
)
DURABLE: tuple[Callable[[Case], None], ...] = (everything_outlives_the_process,)
