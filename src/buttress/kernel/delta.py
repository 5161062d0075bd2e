"""What changed since the last time: upserts, deletes and unchanged records of a source that is read whole, run after run.

A run reads its source once. ``same`` says whether a record's raw bytes are those of the last time, before anybody has parsed
them; ``compare`` says, by content hash, whether what was parsed is news. What is news goes to the sink, and then ``settle``
remembers it. Between the two it is in doubt, and that is written down before it is given: a crash there, or a worker that slept,
may or may not have reached the sink, so the next run gives again what it finds, whatever it is. A sink takes a change twice, and
keeps the version of what it deleted (also of what it never had), so that a late one is refused.

**No delete without evidence of a complete run.** What a run did not see is only deleted if its reader shows that it read all
of the source, and if not too much would go at once: a feed that broke off must not empty the shop. What is held back is told,
and deleted by a later run, which somebody may allow by name.

Memory is a bit for each record known, whatever their size: rows are numbered, and a run marks what it saw.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from buttress.kernel.clock import Clock
from buttress.kernel.errors import InvalidInput, Stale, check_text
from buttress.kernel.failpoint import failpoint
from buttress.kernel.store import Schema, Store, Tx

KEY_MAX_BYTES = 512
HASH_MAX_BYTES = 64
BATCH_MAX = 500  # keys in one statement
REASON_MAX = 4_096  # characters


@dataclass(frozen=True)
class Item:
    """A record as it was read. ``content`` is a hash of what it says, ``raw`` of its bytes and all that their meaning hangs on."""

    key: str
    content: bytes
    raw: bytes = b""


@dataclass(frozen=True)
class Change:
    """What the sink must do. ``version`` grows from run to run: a late or repeated write of an older one must be refused."""

    kind: Literal["upsert", "delete"]
    key: str
    version: int
    content: bytes = b""
    raw: bytes = b""


@dataclass(frozen=True)
class Guard:
    """How much may go at once, beside evidence of a complete run.

    A run is held in which fewer records came than ``count_min`` of those known before it, and one that would delete more than
    ``deletes_max`` of them (stricter where new records came in their place); up to ``free`` deletes are always let through, so
    that a small source can shrink.
    """

    count_min: float = 0.7
    deletes_max: float = 0.3
    free: int = 10

    def __post_init__(self) -> None:
        for name in ("count_min", "deletes_max"):
            share = getattr(self, name)
            if not isinstance(share, int | float) or not 0 <= share <= 1:
                raise InvalidInput(name, share, "must be between 0 and 1")
        if not isinstance(self.free, int) or self.free < 0:
            raise InvalidInput("free", self.free, "must be a whole number, 0 or more")


@dataclass(frozen=True)
class Evidence:
    """What the reader knows of the end of its source. ``count``: how many records the source itself says that it holds."""

    complete: bool
    reason: str = ""
    count: int | None = None


@dataclass
class Run:
    """One reading of one source. ``number`` is also the version of its changes, and its fence: a later run of the source ends it."""

    source: str
    number: int
    known: int  # live records before it began
    same: int = 0
    unchanged: int = 0
    upserts: int = 0
    repeated: int = 0  # keys that came more than once: the first one counts
    marks: Marks = field(default_factory=lambda: Marks(), repr=False)

    @property
    def seen(self) -> int:
        """Different records so far."""
        return self.same + self.unchanged + self.upserts


@dataclass(frozen=True)
class Finished:
    """How a run ended. ``held``: it was complete, and deletes too much at once. Only a ``complete`` one has deletes to give."""

    state: Literal["complete", "incomplete", "held"]
    reason: str
    run: Run
    missing: int  # records known before that it did not see


class Delta(Protocol):
    """See the module. Raises InvalidInput before anything is written, and Stale once a later run of the source has begun."""

    def begin(self, source: str) -> Run:
        """A new run; one of the same source that is still open ends with this, incomplete."""
        ...

    def same(self, run: Run, raws: Sequence[tuple[str, bytes]]) -> list[bool]:
        """Of (key, raw hash): True where the record is known with these very bytes. It is then seen, and needs no parsing."""
        ...

    def compare(self, run: Run, items: Sequence[Item]) -> list[Change | None]:
        """For each record: an upsert, or None where its content is that of before. All of them are seen.

        Commits before the sink has anything; inside a transaction only if the sink's writes are part of it.
        """
        ...

    def settle(self, run: Run, changes: Sequence[Change]) -> None:
        """The sink has them; joins the open transaction. Only now are they remembered."""
        ...

    def finish(self, run: Run, evidence: Evidence, *, allow: str = "") -> Finished:
        """Ends the reading. ``allow`` names who lets a mass delete through, and is kept."""
        ...


SCHEMA = Schema(
    "kernel.delta",
    1,
    (
        """CREATE TABLE buttress_delta (
             source TEXT NOT NULL, key TEXT NOT NULL, number {int} NOT NULL, content {bytes} NOT NULL, raw {bytes} NOT NULL,
             version {int} NOT NULL, live {int} NOT NULL, PRIMARY KEY (source, key))""",
        "CREATE UNIQUE INDEX buttress_delta_number ON buttress_delta (source, number)",
        """CREATE TABLE buttress_delta_source (
             source TEXT PRIMARY KEY, run {int} NOT NULL, next_number {int} NOT NULL, state TEXT NOT NULL, reason TEXT NOT NULL,
             seen {int} NOT NULL, began {real} NOT NULL, ended {real}, allowed TEXT NOT NULL)""",
    ),
)


class Marks:
    """Which numbers a run saw: a bit each."""

    def __init__(self) -> None:
        self._bits = bytearray()

    def add(self, number: int) -> bool:
        """False: it was there already."""
        place, bit = number >> 3, 1 << (number & 7)
        if place >= len(self._bits):
            self._bits.extend(bytes(place + 1 - len(self._bits) + len(self._bits) // 8))
        if self._bits[place] & bit:
            return False
        self._bits[place] |= bit
        return True

    def __contains__(self, number: int) -> bool:
        return number >> 3 < len(self._bits) and bool(self._bits[number >> 3] & 1 << (number & 7))


class SqlDelta:
    """On a Store (SQLite or Postgres). ``guard`` holds for all its sources."""

    def __init__(self, store: Store, *, guard: Guard | None = None, clock: Clock | None = None) -> None:
        self._store = store
        self._guard = guard or Guard()
        self._clock = clock or store.clock
        store.setup(SCHEMA)

    def begin(self, source: str) -> Run:
        check_text("source", source, KEY_MAX_BYTES)
        with self._store.transaction() as tx:
            tx.execute("INSERT INTO buttress_delta_source (source, run, next_number, state, reason, seen, began, allowed) "
                       "VALUES (?, 0, 0, 'complete', '', 0, 0, '') ON CONFLICT (source) DO NOTHING", (source,))
            tx.execute("UPDATE buttress_delta_source SET run = run + 1, state = 'open', reason = '', seen = 0, began = ?, ended = NULL, allowed = '' "
                       "WHERE source = ?", (self._clock.now(), source))
            row = tx.one("SELECT run FROM buttress_delta_source WHERE source = ?", (source,))
            live = tx.one("SELECT count(*) FROM buttress_delta WHERE source = ? AND live = 1", (source,))
        assert row is not None and live is not None
        return Run(source, row[0], live[0])

    def same(self, run: Run, raws: Sequence[tuple[str, bytes]]) -> list[bool]:
        for key, raw in raws:
            _check_key(key)
            _check_hash("raw", raw)
        with self._store.transaction() as tx:
            self._check_open(tx, run)
            known = self._known(tx, run, [key for key, _ in raws])
        answers = []
        for key, raw in raws:
            number, _, before, live = known.get(key, (0, b"", b"", 0))
            there = bool(live and raw and before == raw)
            if there:
                if run.marks.add(number):
                    run.same += 1
                else:
                    run.repeated += 1
            answers.append(there)
        return answers

    def compare(self, run: Run, items: Sequence[Item]) -> list[Change | None]:
        for item in items:
            _check_item(item)
        changes: list[Change | None] = []
        seen: set[int] = set()  # marked and counted once it is committed: who is told of a failure asks again
        unchanged = repeated = 0
        with self._store.transaction() as tx:
            self._check_open(tx, run)
            known = self._known(tx, run, [item.key for item in items])
            fresh = first_new = self._next_number(tx, run)
            for item in items:
                number, content, raw, live = known.get(item.key, (-1, b"", b"", 0))
                if number in seen or (live and number in run.marks):
                    repeated += 1
                    changes.append(None)
                    continue
                if live and content == item.content:
                    unchanged += 1
                    if item.raw != raw:  # other bytes that say the same: next time they need no parsing
                        tx.execute("UPDATE buttress_delta SET raw = ? WHERE source = ? AND key = ?", (item.raw, run.source, item.key))
                    changes.append(None)
                else:
                    if number < 0:
                        number, fresh = fresh, fresh + 1
                    self._doubt(tx, run, item.key, number)
                    known[item.key] = (number, b"", b"", 1)
                    changes.append(Change("upsert", item.key, run.number, item.content, item.raw))
                seen.add(number)
            if fresh > first_new:
                tx.execute("UPDATE buttress_delta_source SET next_number = ? WHERE source = ?", (fresh, run.source))
        for number in seen:
            run.marks.add(number)
        run.unchanged += unchanged
        run.repeated += repeated
        run.upserts += len(seen) - unchanged
        return changes

    def settle(self, run: Run, changes: Sequence[Change]) -> None:
        for change in changes:
            if change.version != run.number:
                raise InvalidInput("version", change.version, f"must be that of the run, {run.number}")
        failpoint("delta.settle")
        with self._store.transaction() as tx:
            state = self._check_open(tx, run, finished=True)
            if state != "complete" and any(change.kind == "delete" for change in changes):
                raise InvalidInput("kind", "delete", f"must be of a run that ended complete, this one is {state}")
            for change in changes:
                row = (int(change.kind == "upsert"), change.content, change.raw, change.version, run.source, change.key)
                update = "UPDATE buttress_delta SET live = ?, content = ?, raw = ?, version = ? WHERE source = ? AND key = ?"
                if not tx.execute(update, row) and change.kind == "upsert":  # its compare was rolled back, and the row with it
                    number = self._next_number(tx, run)
                    self._doubt(tx, run, change.key, number)
                    tx.execute("UPDATE buttress_delta_source SET next_number = ? WHERE source = ?", (number + 1, run.source))
                    tx.execute(update, row)
                    run.marks.add(number)

    def finish(self, run: Run, evidence: Evidence, *, allow: str = "") -> Finished:
        if allow:
            check_text("allow", allow, KEY_MAX_BYTES)
        missing = sum(1 for _ in self._missing(run))
        state, reason = self._judge(run, evidence, missing, allow)
        with self._store.transaction() as tx:
            self._check_open(tx, run)
            tx.execute("UPDATE buttress_delta_source SET state = ?, reason = ?, seen = ?, ended = ?, allowed = ? WHERE source = ?",
                       (state, _told(reason), run.seen, self._clock.now(), allow, run.source))
        return Finished(state, reason, run, missing)

    def _judge(self, run: Run, evidence: Evidence, missing: int, allow: str) -> tuple[Literal["complete", "incomplete", "held"], str]:
        guard = self._guard
        if not evidence.complete:
            return "incomplete", evidence.reason or "its reader has no evidence of the end"
        if evidence.count is not None and evidence.count != run.seen:
            return "incomplete", f"the source says that it holds {evidence.count} records, {run.seen} came"
        if allow or missing <= guard.free:
            return "complete", ""
        if run.seen < guard.count_min * run.known:
            return "held", f"{run.seen} records came, below {guard.count_min:.0%} of the {run.known} known"
        if missing > guard.deletes_max * run.known:
            return "held", f"{missing} of {run.known} would be deleted, above {guard.deletes_max:.0%}"
        return "complete", ""

    # -- deletes, and what stands

    def deletes(self, finished: Finished, limit: int = BATCH_MAX) -> Iterator[list[Change]]:
        """What a complete run did not see, in batches; settle each once the sink has it. Of any other run: nothing.

        Raises Stale once a later run has begun: what was missing then may be there again.
        """
        if limit < 1:
            raise InvalidInput("limit", limit, "must be at least 1")
        if finished.state != "complete":
            return
        batch: list[tuple[int, str]] = []
        for row in self._missing(finished.run):
            batch.append(row)
            if len(batch) == limit:
                yield self._doubted(finished.run, batch)
                batch = []
        if batch:
            yield self._doubted(finished.run, batch)

    def _doubted(self, run: Run, rows: Sequence[tuple[int, str]]) -> list[Change]:
        """Their deletes, in doubt from now on."""
        with self._store.transaction() as tx:
            self._check_open(tx, run, finished=True)
            for number, key in rows:
                self._doubt(tx, run, key, number)
        return [Change("delete", key, run.number) for _, key in rows]

    @staticmethod
    def _doubt(tx: Tx, run: Run, key: str, number: int) -> None:
        """What the sink has of it is not known from here to its settle: it is live, and nothing is the same as it."""
        tx.execute("INSERT INTO buttress_delta (source, key, number, content, raw, version, live) VALUES (?, ?, ?, ?, ?, ?, 1) "
                   "ON CONFLICT (source, key) DO UPDATE SET content = excluded.content, raw = excluded.raw, version = excluded.version, live = 1",
                   (run.source, key, number, b"", b"", run.number))

    @staticmethod
    def _next_number(tx: Tx, run: Run) -> int:
        row = tx.one("SELECT next_number FROM buttress_delta_source WHERE source = ?", (run.source,))
        assert row is not None
        return int(row[0])

    def last(self, source: str) -> tuple[int, str, str, int] | None:
        """The newest run of a source: its number, state, reason, and how many records it saw."""
        with self._store.transaction() as tx:
            row = tx.one("SELECT run, state, reason, seen FROM buttress_delta_source WHERE source = ? AND run > 0", (source,))
        return (row[0], row[1], row[2], row[3]) if row else None

    def _missing(self, run: Run) -> Iterator[tuple[int, str]]:
        """Numbers and keys of live records that the run has not marked, page by page in the order of their numbers."""
        after = -1
        while True:
            with self._store.transaction() as tx:
                rows = tx.all("SELECT number, key, live FROM buttress_delta WHERE source = ? AND number > ? ORDER BY number LIMIT ?",
                              (run.source, after, 10 * BATCH_MAX))
            yield from ((number, key) for number, key, live in rows if live and number not in run.marks)
            if not rows:
                return
            after = rows[-1][0]

    def _known(self, tx: Tx, run: Run, keys: Iterable[str]) -> dict[str, tuple[int, bytes, bytes, int]]:
        wanted = list(dict.fromkeys(keys))
        found: dict[str, tuple[int, bytes, bytes, int]] = {}
        for start in range(0, len(wanted), BATCH_MAX):
            some = wanted[start : start + BATCH_MAX]
            rows = tx.all(f"SELECT key, number, content, raw, live FROM buttress_delta WHERE source = ? AND key IN ({', '.join('?' * len(some))})",
                          (run.source, *some))
            found.update({key: (number, bytes(content), bytes(raw), live) for key, number, content, raw, live in rows})
        return found

    @staticmethod
    def _check_open(tx: Tx, run: Run, *, finished: bool = False) -> str:
        """The state of the run; raises Stale unless it may still do this."""
        lock = " FOR UPDATE" if tx.dialect == "postgres" else ""
        row: Any = tx.one(f"SELECT run, state FROM buttress_delta_source WHERE source = ?{lock}", (run.source,))
        if row is None or row[0] != run.number or (row[1] != "open" and not finished):
            raise Stale(f"run {run.number} of {run.source} is over", fix="begin another run: a later one has begun, or this one was finished")
        return str(row[1])


def _check_key(key: str) -> None:
    check_text("key", key, KEY_MAX_BYTES)


def _check_hash(name: str, value: bytes) -> None:
    if not isinstance(value, bytes) or len(value) > HASH_MAX_BYTES:
        raise InvalidInput(name, type(value).__name__, f"must be bytes, at most {HASH_MAX_BYTES}")


def _check_item(item: Item) -> None:
    _check_key(item.key)
    _check_hash("raw", item.raw)
    _check_hash("content", item.content)
    if not item.content:
        raise InvalidInput("content", "0 bytes", "must be a hash of what the record says")


def _told(reason: str) -> str:
    """What a reader said, as any store can keep it: no NUL, no lone surrogate, 4,096 characters at most."""
    return reason[:REASON_MAX].replace("\0", "\ufffd").encode("utf-8", "replace").decode()
