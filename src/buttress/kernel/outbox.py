"""Messages committed with the state that caused them, and sent afterwards.

A message gets its place (epoch, seq) in its stream inside the caller's transaction: no commit, no message; a commit, and
it will be sent. Senders ``take`` what is due under a lease with a fence, and ``settle`` each. A message that a lost sender
held comes again with ``doubted`` set: it may have been sent. Sequence numbers are 32 bits and compared by RFC 1982.

The receiver's side, ``Gaps``, turns the numbers that arrived into acknowledgement ranges and names what is missing.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from buttress.kernel.clock import Clock
from buttress.kernel.errors import InvalidInput, Stale, check_text
from buttress.kernel.failpoint import failpoint
from buttress.kernel.store import Schema, Store, Tx

SEQ_BITS = 32
SEQ_SPAN = 1 << SEQ_BITS
PAYLOAD_MAX_BYTES = 1 << 20
NOTE_MAX_BYTES = 65_536
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
    """Not sent, or not known: try again at ``due``. ``doubted``: True, it may have been sent; False, known not to; None, as it was."""

    due: float
    error: str
    doubted: bool | None = None


@dataclass(frozen=True)
class Dead:
    """Given up. ``replay`` brings it back."""

    error: str


Verdict = Sent | Retry | Dead


class PayloadDiffers(InvalidInput):
    """A key came again with another payload than the message that it named before, whose payload is ``first``."""

    def __init__(self, payload: bytes, first: bytes) -> None:
        super().__init__("payload", f"{len(payload)} bytes", "differs from the message that this key named before")
        self.first = first


@dataclass(frozen=True)
class DeadMessage:
    """One that was given up, and why. ``overtaken``: a later one of its lane was or may have been sent, so it can no longer go out."""

    message: Message
    error: str
    overtaken: bool


@dataclass(frozen=True)
class Backlog:
    """What stands in a stream: counts, the first number not sent, and when the next one is due (None: nothing waits)."""

    pending: int
    dead: int
    first_unsent: tuple[int, int] | None
    next_due: float | None


class Outbox(Protocol):
    """Messages committed with the state that caused them."""

    def put(self, stream: str, key: str, payload: bytes, *, due: float | None = None, lane: str | None = None) -> tuple[int, int]:
        """Joins the open transaction. Returns (epoch, seq). The same key again in a stream is the same message; raises
        PayloadDiffers where its payload is another one.

        Messages of one ``lane`` of a stream go out one after another, each when the one before is sent or dead.
        """
        ...

    def take(self, limit: int, lease_s: float, streams: Sequence[str] | None = None) -> list[Message]:
        """Up to ``limit`` messages that are due (of those streams; None: of all), held for ``lease_s`` seconds."""
        ...

    def settle(self, message: Message, verdict: Verdict) -> None:
        """Says what became of it; joins the open transaction. Raises Stale if the lease passed to another sender."""
        ...

    def backlog(self, stream: str | None = None) -> Backlog:
        """What waits, in one stream or in all."""
        ...

    def replay(self, stream: str, keys: Iterable[str] | None = None) -> int:
        """Makes dead messages due again (all, or those keys), with their attempts counted anew. Returns how many.

        One that a later message of its lane has overtaken (sent, under way, or perhaps sent) stays dead: it would undo what came after it.
        """
        ...


SCHEMA = Schema(
    "kernel.outbox",
    1,
    (
        """CREATE TABLE buttress_outbox (
             stream TEXT NOT NULL, epoch {int} NOT NULL, seq {int} NOT NULL, key TEXT NOT NULL, payload {bytes} NOT NULL,
             state TEXT NOT NULL, due {real}, attempt {int} NOT NULL, doubted {int} NOT NULL, fence {int} NOT NULL,
             until {real} NOT NULL, lane TEXT, note {bytes}, error TEXT, PRIMARY KEY (stream, epoch, seq), UNIQUE (stream, key))""",
        "CREATE INDEX buttress_outbox_due ON buttress_outbox (due) WHERE state = 'pending'",
        "CREATE INDEX buttress_outbox_stream_due ON buttress_outbox (stream, due) WHERE state = 'pending'",
        "CREATE INDEX buttress_outbox_unsent ON buttress_outbox (stream, epoch, seq, state) WHERE state <> 'sent'",
        "CREATE INDEX buttress_outbox_lane ON buttress_outbox (stream, lane, epoch, seq) WHERE state = 'pending' AND lane IS NOT NULL",
        """CREATE TABLE buttress_outbox_stream (
             stream TEXT PRIMARY KEY, epoch {int} NOT NULL, next_seq {int} NOT NULL)""",
    ),
)


_LATER = "b.stream = a.stream AND b.lane = a.lane AND (b.epoch > a.epoch OR (b.epoch = a.epoch AND b.seq > a.seq))"
_OVERTAKEN = f"(lane IS NOT NULL AND EXISTS (SELECT 1 FROM buttress_outbox b WHERE {_LATER} AND (b.state = 'sent' OR b.until > 0 OR b.doubted = 1)))"
# Of a lane only the oldest pending message may go out.
_HEAD = ("(lane IS NULL OR NOT EXISTS (SELECT 1 FROM buttress_outbox b WHERE b.stream = a.stream AND b.lane = a.lane "
         "AND b.state = 'pending' AND (b.epoch < a.epoch OR (b.epoch = a.epoch AND b.seq < a.seq))))")


class SqlOutbox:
    """On a Store (SQLite or Postgres). ``ordered``: each stream is one lane, unless ``put`` names another."""

    def __init__(self, store: Store, *, ordered: bool = False, clock: Clock | None = None) -> None:
        self._store = store
        self._lane = "" if ordered else None
        self._clock = clock or store.clock
        store.setup(SCHEMA)

    def put(self, stream: str, key: str, payload: bytes, *, due: float | None = None, lane: str | None = None) -> tuple[int, int]:
        _check(stream, key, payload, lane)
        due = self._clock.now() if due is None else _check_time("due", due)
        with self._store.transaction() as tx:
            epoch, seq = self._place(tx, stream)
            fresh = tx.execute(
                "INSERT INTO buttress_outbox (stream, epoch, seq, key, payload, state, due, attempt, doubted, fence, until, lane) "
                "VALUES (?, ?, ?, ?, ?, 'pending', ?, 0, 0, 0, 0, ?) ON CONFLICT (stream, key) DO NOTHING",
                (stream, epoch, seq, key, payload, due, self._lane if lane is None else lane),
            )
            if not fresh:
                row = tx.one("SELECT epoch, seq, payload FROM buttress_outbox WHERE stream = ? AND key = ?", (stream, key))
                assert row is not None, "messages are never deleted while their key is known"
                if (first := bytes(row[2])) != payload:
                    raise PayloadDiffers(payload, first)
                return row[0], row[1]
            after = (seq + 1) % SEQ_SPAN
            tx.execute("UPDATE buttress_outbox_stream SET next_seq = ?, epoch = ? WHERE stream = ?",
                       (after, epoch + (after == 0), stream))
        return epoch, seq

    def _place(self, tx: Tx, stream: str) -> tuple[int, int]:
        lock = " FOR UPDATE" if tx.dialect == "postgres" else ""
        find = f"SELECT epoch, next_seq FROM buttress_outbox_stream WHERE stream = ?{lock}"
        row = tx.one(find, (stream,))
        if row is None:
            tx.execute("INSERT INTO buttress_outbox_stream (stream, epoch, next_seq) VALUES (?, 0, 0) ON CONFLICT (stream) DO NOTHING", (stream,))
            row = tx.one(find, (stream,))
        assert row is not None
        return row[0], row[1]

    def hold(self, streams: Sequence[str]) -> None:
        """Joins the open transaction: locks the places of those streams in the order of their names, so that it may put to them in any order."""
        _check_names("streams", streams)
        with self._store.transaction() as tx:
            for stream in sorted(set(streams)) if tx.dialect == "postgres" else ():  # SQLite has one writer
                self._place(tx, stream)

    def take(self, limit: int, lease_s: float, streams: Sequence[str] | None = None) -> list[Message]:
        if limit < 1 or _check_time("lease_s", lease_s) <= 0:
            raise InvalidInput("limit, lease_s", (limit, lease_s), "must be at least 1, and above 0 seconds")
        if streams is not None and not streams:
            return []
        only, names = _among("a.stream", streams)
        skip = " FOR UPDATE SKIP LOCKED" if self._store.dialect == "postgres" else ""

        def work(tx: Tx) -> list[Message]:
            now = self._clock.now()
            rows = tx.all(
                "SELECT stream, epoch, seq, key, payload, attempt, doubted, fence, until FROM buttress_outbox a "
                f"WHERE state = 'pending' AND due <= ? AND until <= ? {only}AND {_HEAD} ORDER BY due, epoch, seq LIMIT ?{skip}",
                (now, now, *names, limit),
            )
            return [self._hold(tx, row, now + lease_s) for row in rows]

        return self._store.submit(work)  # never inside a transaction: a lease that is rolled back would hide that it may be sent

    @staticmethod
    def _hold(tx: Tx, row: Sequence[Any], until: float) -> Message:
        stream, epoch, seq, key, payload, attempt, doubted, fence, held_until = row
        lost = held_until > 0  # held before, and its holder never settled
        message = Message(stream, epoch, seq, key, bytes(payload), attempt + 1, bool(doubted) or lost, fence + 1, until)
        tx.execute(
            "UPDATE buttress_outbox SET attempt = ?, doubted = ?, fence = ?, until = ? WHERE stream = ? AND epoch = ? AND seq = ? AND state = 'pending'",
            (message.attempt, int(message.doubted), message.fence, until, stream, epoch, seq),
        )
        return message

    def settle(self, message: Message, verdict: Verdict) -> None:
        if isinstance(verdict, Sent):
            if not isinstance(verdict.note, bytes) or len(verdict.note) > NOTE_MAX_BYTES:
                raise InvalidInput("note", type(verdict.note).__name__, f"must be bytes, at most {NOTE_MAX_BYTES}")
            assign: tuple[str, tuple[object, ...]] = ("state = 'sent', due = NULL, until = 0, error = NULL, note = ?", (verdict.note,))
        elif isinstance(verdict, Retry):
            assign = ("due = ?, until = 0, error = ?", (_check_time("due", verdict.due), _told(verdict.error)))
            if verdict.doubted is not None:
                assign = (f"{assign[0]}, doubted = ?", (*assign[1], int(verdict.doubted)))
        else:
            assign = ("state = 'dead', due = NULL, until = 0, error = ?", (_told(verdict.error),))
        failpoint("outbox.settle")
        with self._store.transaction() as tx:
            changed = tx.execute(
                f"UPDATE buttress_outbox SET {assign[0]} WHERE stream = ? AND epoch = ? AND seq = ? AND fence = ? AND state = 'pending'",
                (*assign[1], message.stream, message.epoch, message.seq, message.fence),
            )
            if changed != 1:
                raise Stale(f"fence {message.fence} no longer holds this message", fix="drop the work: another sender has it")

    def backlog(self, stream: str | None = None) -> Backlog:
        only, params = _among("stream", None if stream is None else [stream])
        with self._store.transaction() as tx:
            counts: dict[str, int] = dict(tx.all(f"SELECT state, count(*) FROM buttress_outbox WHERE state <> 'sent' {only} GROUP BY state", params))
            first = tx.one(f"SELECT epoch, seq FROM buttress_outbox WHERE state <> 'sent' {only} ORDER BY epoch, seq LIMIT 1", params)
        due = self.next_due(None if stream is None else [stream])
        return Backlog(counts.get("pending", 0), counts.get("dead", 0), (first[0], first[1]) if first else None, due)

    def replay(self, stream: str, keys: Iterable[str] | None = None) -> int:
        _check_names("keys", keys)
        again = (f"UPDATE buttress_outbox AS a SET state = 'pending', due = ?, attempt = 0, error = NULL WHERE stream = ? AND state = 'dead' "
                 f"AND state <> 'sent' AND NOT {_OVERTAKEN}")
        with self._store.transaction() as tx:
            now = self._clock.now()
            if tx.dialect == "postgres":  # a sender that is taking a later one of the lane is waited for, and then seen
                tx.all("SELECT seq FROM buttress_outbox WHERE stream = ? AND lane IS NOT NULL AND state = 'pending' ORDER BY epoch, seq FOR UPDATE", (stream,))
            if keys is None:
                return tx.execute(again, (now, stream))
            return sum(tx.execute(f"{again} AND key = ?", (now, stream, key)) for key in keys)

    # -- for operators, and for a loop that sends

    def next_due(self, streams: Sequence[str] | None = None) -> float | None:
        """When the next message of those streams (None: of all) may be taken; None: nothing waits. Costs no count of the backlog."""
        only, names = _among("stream", streams)
        with self._store.transaction() as tx:
            row = tx.one(f"SELECT min(CASE WHEN until > due THEN until ELSE due END) FROM buttress_outbox a WHERE state = 'pending' {only}AND {_HEAD}", names)
        return row[0] if row else None

    def dead(self, stream: str, limit: int, *, key: str | None = None) -> list[DeadMessage]:
        """What was given up in a stream, oldest first."""
        only, more = ("AND key = ?", (key,)) if key is not None else ("", ())
        with self._store.transaction() as tx:
            rows = tx.all(f"SELECT epoch, seq, key, payload, attempt, doubted, fence, until, error, {_OVERTAKEN} FROM buttress_outbox a "
                          f"WHERE stream = ? AND state <> 'sent' AND state = 'dead' {only} ORDER BY epoch, seq LIMIT ?", (stream, *more, limit))
        return [DeadMessage(Message(stream, epoch, seq, key, bytes(payload), attempt, bool(doubted), fence, until), error or "", bool(overtaken))
                for epoch, seq, key, payload, attempt, doubted, fence, until, error, overtaken in rows]

    def mark_sent(self, message: Message, note: bytes = b"") -> None:
        """Somebody found out that a dead message was sent after all. Raises Stale if it is not dead any more."""
        with self._store.transaction() as tx:
            if tx.execute("UPDATE buttress_outbox SET state = 'sent', error = NULL, note = ? WHERE stream = ? AND epoch = ? AND seq = ? AND fence = ? "
                          "AND state = 'dead'", (note, message.stream, message.epoch, message.seq, message.fence)) != 1:
                raise Stale("this message is not dead any more", fix="look again: it was replayed meanwhile")

    def streams(self, prefix: str = "") -> list[str]:
        """The names of the streams that begin so."""
        with self._store.transaction() as tx:
            rows = tx.all("SELECT stream FROM buttress_outbox_stream WHERE substr(stream, 1, ?) = ? ORDER BY stream", (len(prefix), prefix))
        return [stream for (stream,) in rows]


def _among(column: str, streams: Sequence[str] | None) -> tuple[str, tuple[str, ...]]:
    """A condition and its parameters; no stream at all matches nothing."""
    if streams is None:
        return "", ()
    _check_names("streams", streams)
    return f"AND {column} IN ({', '.join('?' * len(streams)) or 'NULL'}) ", tuple(streams)


def _check(stream: str, key: str, payload: bytes, lane: str | None) -> None:
    check_text("stream", stream, KEY_MAX_BYTES)
    check_text("key", key, KEY_MAX_BYTES)
    if lane:
        check_text("lane", lane, KEY_MAX_BYTES)
    if not isinstance(payload, bytes) or len(payload) > PAYLOAD_MAX_BYTES:
        raise InvalidInput("payload", type(payload).__name__, f"must be bytes, at most {PAYLOAD_MAX_BYTES}")


def _check_names(field: str, names: Iterable[str] | None) -> None:
    if isinstance(names, str | bytes):
        raise InvalidInput(field, type(names).__name__, "must be several names, not one text")


def _check_time(field: str, seconds: float) -> float:
    if not isinstance(seconds, int | float) or not math.isfinite(seconds):
        raise InvalidInput(field, seconds, "must be a finite number of seconds")
    return seconds


def _told(error: str) -> str:
    """Any error text as every engine can store it: Unicode, without NUL, at most 2,000 characters."""
    return error[:2000].replace("\0", "\ufffd").encode("utf-8", "replace").decode()


class Gaps:
    """The receiver's account of one stream and epoch: which numbers arrived, as ranges, and which are missing.

    Distances are measured from the first gap, so the account goes on for ever (RFC 1982). Bounded: a number ``window`` or
    more ahead of the first gap is refused (InvalidInput), so that a sender cannot make the receiver remember without end.
    """

    def __init__(self, start: int = 0, window: int = 1 << 20, ranges: Iterable[tuple[int, int]] = ()) -> None:
        if not 0 <= start < SEQ_SPAN or not 1 <= window <= SEQ_SPAN // 2 - 1:
            raise InvalidInput("start, window", (start, window), f"must be 0 to {SEQ_SPAN - 1}, and 1 to {SEQ_SPAN // 2 - 1}")
        self._start = start
        self.window = window
        self._first = start  # all before it arrived; counted without wrapping
        self._lows: list[int] = []  # what arrived beyond the first gap, as ranges, sorted, apart from each other
        self._highs: list[int] = []
        for low, high in ranges:
            at = self._absolute(low)
            self._put(at, at + (high - low) % SEQ_SPAN)

    @property
    def start(self) -> int:
        """Where the account begins: an account rebuilt from ``start``, ``window`` and ``ranges`` is the same one."""
        return self._low() % SEQ_SPAN

    def _low(self) -> int:
        return max(self._start, self._first - SEQ_SPAN // 2 + 1)

    @property
    def ranges(self) -> list[tuple[int, int]]:
        """What arrived, inclusive, in serial order. What lies more than half the numbers back is left out."""
        spans = list(zip(self._lows, self._highs, strict=True))
        if self._first > self.start:
            spans.insert(0, (self._low(), self._first - 1))
        return [(low % SEQ_SPAN, high % SEQ_SPAN) for low, high in spans]

    def add(self, seq: int) -> bool:
        """Takes a number in. False: it was there already (a duplicate)."""
        if not isinstance(seq, int) or not 0 <= seq < SEQ_SPAN:
            raise InvalidInput("seq", seq, f"must be 0 to {SEQ_SPAN - 1}")
        at = self._absolute(seq)
        if at < self._first:
            return False
        if at >= self._first + self.window:
            raise InvalidInput("seq", seq, f"is {self.window} or more ahead of the oldest gap")
        index = bisect.bisect_right(self._lows, at) - 1
        if index >= 0 and at <= self._highs[index]:
            return False
        self._put(at, at)
        return True

    def missing(self, up_to: int | None = None) -> list[tuple[int, int]]:
        """The holes, inclusive; up to ``up_to`` where the sender's own high mark is known, else up to the highest seen."""
        end = (self._highs[-1] if self._highs else self._first - 1) if up_to is None else self._absolute(up_to)
        holes, at = [], self._first
        for low, high in zip(self._lows, self._highs, strict=True):
            if at <= min(low - 1, end):
                holes.append((at, min(low - 1, end)))
            at = high + 1
        if at <= end:
            holes.append((at, end))
        return [(low % SEQ_SPAN, high % SEQ_SPAN) for low, high in holes]

    def _absolute(self, seq: int) -> int:
        """Without wrapping: the one within half the numbers of the first gap."""
        ahead = (seq - self._first) % SEQ_SPAN
        return self._first + (ahead if ahead < SEQ_SPAN // 2 else ahead - SEQ_SPAN)

    def _put(self, low: int, high: int) -> None:
        index = bisect.bisect_left(self._lows, low)
        if index > 0 and self._highs[index - 1] == low - 1:
            index -= 1
            low = self._lows[index]
            del self._lows[index], self._highs[index]
        if index < len(self._lows) and self._lows[index] == high + 1:
            high = self._highs[index]
            del self._lows[index], self._highs[index]
        if low == self._first:
            self._first = high + 1
        else:
            self._lows.insert(index, low)
            self._highs.insert(index, high)
