"""Messages committed with the state that caused them, and sent afterwards.

A message gets its place (epoch, seq) in its stream inside the caller's transaction: no commit, no message; a commit, and
it will be sent. Senders ``take`` what is due under a lease with a fence, and ``settle`` each. A message that a lost sender
held comes again with ``doubted`` set: it may have been sent. Sequence numbers are 32 bits and compared by RFC 1982.

The receiver's side, ``Gaps``, turns the numbers that arrived into acknowledgement ranges and names what is missing.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Protocol

from buttress.kernel.clock import Clock
from buttress.kernel.errors import InvalidInput, Stale
from buttress.kernel.failpoint import failpoint
from buttress.kernel.store import Schema, Store, Tx

SEQ_BITS = 32
SEQ_SPAN = 1 << SEQ_BITS
PAYLOAD_MAX_BYTES = 1 << 20
KEY_MAX_BYTES = 512


def serial_before(a: int, b: int) -> bool:
    """RFC 1982 section 3.2: a comes before b, with 32-bit numbers that wrap. Opposite numbers compare as False both ways."""
    return a != b and ((a < b and b - a < SEQ_SPAN // 2) or (a > b and a - b > SEQ_SPAN // 2))


@dataclass(frozen=True)
class Message:
    """One message as a sender holds it. ``attempt`` counts from 1. ``doubted``: a former sender never said what became of it."""

    stream: str
    epoch: int
    seq: int
    key: str
    payload: bytes
    attempt: int
    doubted: bool
    fence: int
    until: float


@dataclass(frozen=True)
class Sent:
    """The callee has it. ``note`` is kept for whoever looks (at most 64 KiB)."""

    note: bytes = b""


@dataclass(frozen=True)
class Retry:
    """Not sent, or not known: try again at ``due``. ``doubted`` carries over that it may have been sent."""

    due: float
    error: str
    doubted: bool = False


@dataclass(frozen=True)
class Dead:
    """Given up. ``replay`` brings it back."""

    error: str


Verdict = Sent | Retry | Dead


@dataclass(frozen=True)
class Backlog:
    """What stands in a stream: counts, the first number not sent, and when the next one is due (None: nothing waits)."""

    pending: int
    dead: int
    first_unsent: tuple[int, int] | None
    next_due: float | None


class Outbox(Protocol):
    """Messages committed with the state that caused them."""

    def put(self, stream: str, key: str, payload: bytes, *, due: float | None = None) -> tuple[int, int]:
        """Joins the open transaction. Returns (epoch, seq). The same key again in a stream is the same message."""
        ...

    def take(self, limit: int, lease_s: float) -> list[Message]:
        """Up to ``limit`` messages that are due, held for ``lease_s`` seconds."""
        ...

    def settle(self, message: Message, verdict: Verdict) -> None:
        """Says what became of it; joins the open transaction. Raises Stale if the lease passed to another sender."""
        ...

    def backlog(self, stream: str | None = None) -> Backlog:
        """What waits, in one stream or in all."""
        ...

    def replay(self, stream: str, keys: Iterable[str] | None = None) -> int:
        """Makes dead messages due again (all, or those keys). Returns how many."""
        ...


SCHEMA = Schema(
    "kernel.outbox",
    1,
    (
        """CREATE TABLE buttress_outbox (
             stream TEXT NOT NULL, epoch {int} NOT NULL, seq {int} NOT NULL, key TEXT NOT NULL, payload {bytes} NOT NULL,
             state TEXT NOT NULL, due {real}, attempt {int} NOT NULL, doubted {int} NOT NULL, fence {int} NOT NULL,
             until {real} NOT NULL, note {bytes}, error TEXT, PRIMARY KEY (stream, epoch, seq), UNIQUE (stream, key))""",
        "CREATE INDEX buttress_outbox_due ON buttress_outbox (due) WHERE state = 'pending'",
        """CREATE TABLE buttress_outbox_stream (
             stream TEXT PRIMARY KEY, epoch {int} NOT NULL, next_seq {int} NOT NULL)""",
    ),
)


class SqlOutbox:
    """On a Store (SQLite or Postgres). ``ordered`` holds a stream back behind its oldest pending message."""

    def __init__(self, store: Store, *, ordered: bool = False, clock: Clock | None = None) -> None:
        self._store = store
        self._ordered = ordered
        self._clock = clock or store.clock
        store.setup(SCHEMA)

    def put(self, stream: str, key: str, payload: bytes, *, due: float | None = None) -> tuple[int, int]:
        _check(stream, key, payload)
        with self._store.transaction() as tx:
            epoch, seq = self._place(tx, stream)
            fresh = tx.execute(
                "INSERT INTO buttress_outbox (stream, epoch, seq, key, payload, state, due, attempt, doubted, fence, until) "
                "VALUES (?, ?, ?, ?, ?, 'pending', ?, 0, 0, 0, 0) ON CONFLICT (stream, key) DO NOTHING",
                (stream, epoch, seq, key, payload, self._clock.now() if due is None else due),
            )
            if not fresh:
                row = tx.one("SELECT epoch, seq, payload FROM buttress_outbox WHERE stream = ? AND key = ?", (stream, key))
                assert row is not None, "messages are never deleted while their key is known"
                if bytes(row[2]) != payload:
                    raise InvalidInput("payload", f"{len(payload)} bytes", "differs from the message that this key named before")
                return row[0], row[1]
            after = (seq + 1) % SEQ_SPAN
            tx.execute("UPDATE buttress_outbox_stream SET next_seq = ?, epoch = ? WHERE stream = ?",
                       (after, epoch + (after == 0), stream))
        return epoch, seq

    def _place(self, tx: Tx, stream: str) -> tuple[int, int]:
        tx.execute("INSERT INTO buttress_outbox_stream (stream, epoch, next_seq) VALUES (?, 0, 0) ON CONFLICT (stream) DO NOTHING",
                   (stream,))
        lock = " FOR UPDATE" if tx.dialect == "postgres" else ""
        row = tx.one(f"SELECT epoch, next_seq FROM buttress_outbox_stream WHERE stream = ?{lock}", (stream,))
        assert row is not None
        return row[0], row[1]

    def take(self, limit: int, lease_s: float) -> list[Message]:
        if limit < 1 or lease_s <= 0:
            raise InvalidInput("limit, lease_s", (limit, lease_s), "must be at least 1, and above 0 seconds")
        now = self._clock.now()
        order = ("AND NOT EXISTS (SELECT 1 FROM buttress_outbox b WHERE b.stream = a.stream AND b.state = 'pending' "
                 "AND (b.epoch < a.epoch OR (b.epoch = a.epoch AND b.seq < a.seq))) ") if self._ordered else ""
        skip = " FOR UPDATE SKIP LOCKED" if self._store.dialect == "postgres" else ""
        with self._store.transaction() as tx:
            rows = tx.all(
                "SELECT stream, epoch, seq, key, payload, attempt, doubted, fence, until FROM buttress_outbox a "
                f"WHERE state = 'pending' AND due <= ? AND until <= ? {order}ORDER BY due, epoch, seq LIMIT ?{skip}",
                (now, now, limit),
            )
            taken = []
            for stream, epoch, seq, key, payload, attempt, doubted, fence, until in rows:
                lost = until > 0  # held before, and its holder never settled
                message = Message(stream, epoch, seq, key, bytes(payload), attempt + 1, bool(doubted) or lost, fence + 1, now + lease_s)
                tx.execute(
                    "UPDATE buttress_outbox SET attempt = ?, doubted = ?, fence = ?, until = ? WHERE stream = ? AND epoch = ? AND seq = ?",
                    (message.attempt, int(message.doubted), message.fence, message.until, stream, epoch, seq),
                )
                taken.append(message)
        return taken

    def settle(self, message: Message, verdict: Verdict) -> None:
        failpoint("outbox.settle")
        with self._store.transaction() as tx:
            if isinstance(verdict, Sent):
                assign: tuple[str, tuple[object, ...]] = ("state = 'sent', due = NULL, until = 0, error = NULL, note = ?", (verdict.note,))
            elif isinstance(verdict, Retry):
                assign = ("due = ?, until = 0, error = ?, doubted = ?", (verdict.due, verdict.error, int(verdict.doubted)))
            else:
                assign = ("state = 'dead', due = NULL, until = 0, error = ?", (verdict.error,))
            changed = tx.execute(
                f"UPDATE buttress_outbox SET {assign[0]} WHERE stream = ? AND epoch = ? AND seq = ? AND fence = ? AND state = 'pending'",
                (*assign[1], message.stream, message.epoch, message.seq, message.fence),
            )
            if changed != 1:
                raise Stale(f"fence {message.fence} no longer holds this message", fix="drop the work: another sender has it")

    def backlog(self, stream: str | None = None) -> Backlog:
        only, params = ("AND stream = ?", (stream,)) if stream is not None else ("", ())
        with self._store.transaction() as tx:
            counts: dict[str, int] = dict(tx.all(f"SELECT state, count(*) FROM buttress_outbox WHERE state <> 'sent' {only} GROUP BY state", params))
            first = tx.one(f"SELECT epoch, seq FROM buttress_outbox WHERE state <> 'sent' {only} ORDER BY epoch, seq LIMIT 1", params)
            due = tx.one("SELECT min(CASE WHEN until > due THEN until ELSE due END) FROM buttress_outbox "
                         f"WHERE state = 'pending' {only}", params)
        return Backlog(counts.get("pending", 0), counts.get("dead", 0), (first[0], first[1]) if first else None, due[0] if due else None)

    def replay(self, stream: str, keys: Iterable[str] | None = None) -> int:
        with self._store.transaction() as tx:
            now = self._clock.now()
            if keys is None:
                return tx.execute("UPDATE buttress_outbox SET state = 'pending', due = ?, error = NULL WHERE stream = ? AND state = 'dead'",
                                  (now, stream))
            return sum(
                tx.execute("UPDATE buttress_outbox SET state = 'pending', due = ?, error = NULL "
                           "WHERE stream = ? AND key = ? AND state = 'dead'", (now, stream, key))
                for key in keys
            )


def _check(stream: str, key: str, payload: bytes) -> None:
    for name, text in (("stream", stream), ("key", key)):
        if not isinstance(text, str) or not text or len(text.encode()) > KEY_MAX_BYTES or "\0" in text:
            raise InvalidInput(name, type(text).__name__, f"must be text of 1 to {KEY_MAX_BYTES} bytes without NUL")
    if not isinstance(payload, bytes) or len(payload) > PAYLOAD_MAX_BYTES:
        raise InvalidInput("payload", type(payload).__name__, f"must be bytes, at most {PAYLOAD_MAX_BYTES}")


@dataclass
class Gaps:
    """The receiver's account of one stream and epoch: which numbers arrived, as ranges, and which are missing.

    ``ranges`` are inclusive, in serial order, apart from each other. Bounded: a number further than ``window`` ahead of the
    oldest gap is refused (InvalidInput), so that a sender cannot make the receiver remember without end.
    """

    start: int = 0
    window: int = 1 << 20
    ranges: list[tuple[int, int]] = field(default_factory=list)

    def add(self, seq: int) -> bool:
        """Takes a number in. False: it was there already (a duplicate)."""
        if not 0 <= seq < SEQ_SPAN:
            raise InvalidInput("seq", seq, f"must be 0 to {SEQ_SPAN - 1}")
        offset = (seq - self.start) % SEQ_SPAN
        if offset >= SEQ_SPAN // 2:
            return False  # before the start: acknowledged long ago
        if offset >= self._first_gap() + self.window:
            raise InvalidInput("seq", seq, f"is more than {self.window} ahead of the oldest gap")
        spans = [((a - self.start) % SEQ_SPAN, (b - self.start) % SEQ_SPAN) for a, b in self.ranges]
        if any(a <= offset <= b for a, b in spans):
            return False
        spans.append((offset, offset))
        spans.sort()
        merged: list[tuple[int, int]] = []
        for a, b in spans:
            if merged and a == merged[-1][1] + 1:
                merged[-1] = (merged[-1][0], b)
            else:
                merged.append((a, b))
        self.ranges = [((a + self.start) % SEQ_SPAN, (b + self.start) % SEQ_SPAN) for a, b in merged]
        return True

    def missing(self, up_to: int | None = None) -> list[tuple[int, int]]:
        """The holes, inclusive; up to ``up_to`` where the sender's own high mark is known, else up to the highest seen."""
        spans = [((a - self.start) % SEQ_SPAN, (b - self.start) % SEQ_SPAN) for a, b in self.ranges]
        end = (up_to - self.start) % SEQ_SPAN if up_to is not None else (spans[-1][1] if spans else -1)
        holes, at = [], 0
        for a, b in spans:
            if a > at:
                holes.append((at, min(a - 1, end)))
            at = b + 1
        if at <= end:
            holes.append((at, end))
        return [((a + self.start) % SEQ_SPAN, (b + self.start) % SEQ_SPAN) for a, b in holes if a <= end]

    def _first_gap(self) -> int:
        if not self.ranges or self.ranges[0][0] != self.start:
            return 0
        return (self.ranges[0][1] - self.start) % SEQ_SPAN + 1
