"""The events of one endpoint, as rows: what arrived, where it stands, who holds it.

``received -> claimed(lease, fence) -> done | superseded | ignored | retry | dead``. A row is never deleted: ``retire`` drops
bodies, and the id stays, so that a duplicate on day 1000 is still a duplicate. ``due`` is when somebody should look at the
row next; for a claimed row that is the end of its lease. Bodies lie in a table of their own, so that a change of state does
not write them again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from buttress.backend.webhooks.event import Event, mode_name
from buttress.kernel.store import Row, Schema, Tx

State = Literal["received", "claimed", "done", "superseded", "ignored", "retry", "dead"]
RETIRE_BATCH = 500

SCHEMA = Schema(
    "webhooks",
    1,
    (
        """CREATE TABLE buttress_webhooks_event (
             endpoint TEXT NOT NULL, account TEXT NOT NULL, mode TEXT NOT NULL, id TEXT NOT NULL,
             type TEXT NOT NULL, fingerprint {bytes} NOT NULL, occurred {real}, sent {real},
             received {real} NOT NULL, delivered {real}, state TEXT NOT NULL, due {real}, attempt {int} NOT NULL,
             fence {int} NOT NULL, settled {real}, error TEXT, kept {int} NOT NULL, PRIMARY KEY (endpoint, account, mode, id))""",
        """CREATE TABLE buttress_webhooks_body (
             endpoint TEXT NOT NULL, account TEXT NOT NULL, mode TEXT NOT NULL, id TEXT NOT NULL, body {bytes} NOT NULL,
             PRIMARY KEY (endpoint, account, mode, id))""",
        "CREATE INDEX buttress_webhooks_due ON buttress_webhooks_event (endpoint, due) WHERE due IS NOT NULL",
        "CREATE INDEX buttress_webhooks_idle ON buttress_webhooks_event (endpoint, state, type) WHERE state IN ('dead', 'ignored')",
        "CREATE INDEX buttress_webhooks_missed ON buttress_webhooks_event (endpoint, received) WHERE delivered IS NULL",
        "CREATE INDEX buttress_webhooks_old ON buttress_webhooks_event (endpoint, settled) WHERE settled IS NOT NULL AND kept = 1",
        """CREATE TABLE buttress_webhooks_order (
             endpoint TEXT NOT NULL, account TEXT NOT NULL, mode TEXT NOT NULL, guard TEXT NOT NULL, object TEXT NOT NULL,
             version TEXT NOT NULL, event TEXT NOT NULL, deleted {int} NOT NULL, PRIMARY KEY (endpoint, account, mode, guard, object))""",
        """CREATE TABLE buttress_webhooks_alarm (
             endpoint TEXT NOT NULL, account TEXT NOT NULL, mode TEXT NOT NULL, kind TEXT NOT NULL, key TEXT NOT NULL,
             fingerprint {bytes} NOT NULL, seen {real} NOT NULL, first {bytes}, other {bytes},
             PRIMARY KEY (endpoint, account, mode, kind, key, fingerprint))""",
        """CREATE TABLE buttress_webhooks_doubt (
             endpoint TEXT NOT NULL, effect TEXT NOT NULL, key TEXT NOT NULL, fence {int} NOT NULL, seen {real} NOT NULL,
             outcome TEXT NOT NULL, reason TEXT NOT NULL, resolved {real}, PRIMARY KEY (endpoint, effect, key, fence))""",
        """CREATE TABLE buttress_webhooks_trying (
             endpoint TEXT NOT NULL, effect TEXT NOT NULL, key TEXT NOT NULL, since {real} NOT NULL, PRIMARY KEY (endpoint, effect, key))""",
    ),
)

_COLUMNS = "account, mode, id, type, fingerprint, occurred, sent, received, delivered, state, due, attempt, fence, settled, error, kept"
_HERE = "endpoint = ? AND account = ? AND mode = ? AND id = ?"
_BODY = ("(SELECT b.body FROM buttress_webhooks_body b WHERE b.endpoint = e.endpoint AND b.account = e.account AND b.mode = e.mode "
         "AND b.id = e.id)")


@dataclass(frozen=True)
class Entry:
    """One event as it stands. Times are seconds since the epoch. ``kept``: its body is there; ``error`` holds no payload."""

    account: str | None
    livemode: bool | None
    id: str
    type: str
    state: State
    received: float
    delivered: float | None
    due: float | None
    attempt: int
    settled: float | None
    error: str | None
    occurred: float | None
    sent: float | None
    kept: bool
    fence: int = field(repr=False)
    fingerprint: bytes = field(repr=False)
    body: bytes | None = field(repr=False, default=None)

    def event(self) -> Event:
        """The event again, from its row. Only where the body was read."""
        assert self.body is not None, "a row that waits for work keeps its body"
        return Event(self.id, self.type, self.body, self.occurred, self.sent, self.account, self.livemode)


@dataclass(frozen=True)
class Held:
    """An event under lease. ``fence`` is what ``finish`` must still find in the row."""

    event: Event
    attempt: int
    fence: int
    lost: bool


class Ledger:
    """All SQL about the events of one endpoint. Every method works inside the transaction it is given."""

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint

    def _key(self, event: Event) -> tuple[str, str, str, str]:
        return (self.endpoint, event.account or "", event.mode, event.id)

    @staticmethod
    def order(event: Event) -> tuple[str, str, str]:
        """Batches insert in this order: two of them with the same events then wait for each other instead of locking each other out."""
        return (event.account or "", event.mode, event.id)

    # -- arrival

    def insert(self, tx: Tx, event: Event, now: float, *, delivered: bool, state: State = "received") -> bool:
        """False: an event of this id, account and mode is known."""
        waits, key = state == "received", self._key(event)
        fresh = tx.execute(
            f"INSERT INTO buttress_webhooks_event (endpoint, {_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 0, 0, ?, ?, 1) "
            "ON CONFLICT (endpoint, account, mode, id) DO NOTHING",
            (*key, event.type, event.fingerprint, event.occurred, event.sent, now, now if delivered else None,
             state, now if waits else None, now if state == "done" else None, event.problem or None))
        if fresh:
            tx.execute("INSERT INTO buttress_webhooks_body (endpoint, account, mode, id, body) VALUES (?, ?, ?, ?, ?)", (*key, event.body))
        return bool(fresh)

    def find(self, tx: Tx, event: Event, *, lock: bool = False) -> Entry | None:
        """The row of this event's id, account and mode, without its body."""
        suffix = " FOR UPDATE" if lock and tx.dialect == "postgres" else ""
        row = tx.one(f"SELECT {_COLUMNS} FROM buttress_webhooks_event WHERE {_HERE}{suffix}", self._key(event))
        return _entry(row) if row else None

    def body(self, tx: Tx, event: Event) -> bytes | None:
        """The body that is stored under this event's id, account and mode; None once it was retired."""
        row = tx.one(f"SELECT body FROM buttress_webhooks_body WHERE {_HERE}", self._key(event))
        return bytes(row[0]) if row else None

    def named(self, tx: Tx, ident: str) -> list[Entry]:
        """All events of this id, in every account and mode."""
        rows = tx.all(f"SELECT {_COLUMNS}, {_BODY} FROM buttress_webhooks_event e WHERE endpoint = ? AND id = ? ORDER BY account, mode",
                      (self.endpoint, ident))
        return [_entry(row) for row in rows]

    def arrived(self, tx: Tx, event: Event, fingerprint: bytes, now: float) -> None:
        """An event that a listing found first was delivered after all: later copies are compared with this one."""
        tx.execute(f"UPDATE buttress_webhooks_event SET delivered = ?, fingerprint = ? WHERE {_HERE} AND delivered IS NULL",
                   (now, fingerprint, *self._key(event)))

    def take_over(self, tx: Tx, entry: Entry, now: float) -> bool:
        """Marks a waiting or ignored event done for whoever handles it in this very transaction. False: somebody else has it."""
        changed = tx.execute(
            f"UPDATE buttress_webhooks_event SET state = 'done', due = NULL, settled = ?, error = NULL, fence = fence + 1 WHERE {_HERE} "
            "AND state IN ('received', 'retry', 'ignored') AND fence = ?",
            (now, self.endpoint, entry.account or "", mode_name(entry.livemode), entry.id, entry.fence))
        return changed == 1

    # -- work

    def claim(self, tx: Tx, now: float, lease_s: float, limit: int) -> list[Held]:
        """Up to ``limit`` events that are due, each under a lease and a higher fence."""
        skip = " FOR UPDATE SKIP LOCKED" if tx.dialect == "postgres" else ""
        rows = tx.all(f"SELECT {_COLUMNS}, {_BODY} FROM buttress_webhooks_event e WHERE endpoint = ? AND due IS NOT NULL AND due <= ? "
                      f"ORDER BY due, received, id LIMIT ?{skip}", (self.endpoint, now, limit))
        entries = [_entry(row) for row in rows]
        lost = next((n for n, entry in enumerate(entries) if entry.state == "claimed"), None)
        if lost is not None:  # one whose holder was lost goes alone: should it kill this one too, it takes no innocent with it
            entries = entries[: max(lost, 1)]
        held = []
        for entry in entries:
            claimed = Held(entry.event(), entry.attempt + 1, entry.fence + 1, entry.state == "claimed")
            tx.execute(f"UPDATE buttress_webhooks_event SET state = 'claimed', due = ?, attempt = ?, fence = ? WHERE {_HERE}",
                       (now + lease_s, claimed.attempt, claimed.fence, *self._key(claimed.event)))
            held.append(claimed)
        return held

    def finish(self, tx: Tx, held: Held, state: State, now: float, *, due: float | None = None, error: str | None = None) -> bool:
        """False: the lease has passed to another holder, and nothing was changed."""
        settled = now if due is None and state != "dead" else None
        changed = tx.execute(
            f"UPDATE buttress_webhooks_event SET state = ?, due = ?, settled = ?, error = ? WHERE {_HERE} AND fence = ? AND state = 'claimed'",
            (state, due, settled, error, *self._key(held.event), held.fence))
        return changed == 1

    def amend(self, tx: Tx, held: Held, state: State, error: str) -> None:
        """Renames the state of a row that ``finish`` took in this transaction."""
        settled = ", settled = NULL" if state == "dead" else ""
        tx.execute(f"UPDATE buttress_webhooks_event SET state = ?, error = ?{settled} WHERE {_HERE} AND fence = ? AND state = 'done'",
                   (state, error, *self._key(held.event), held.fence))

    def release(self, tx: Tx, held: Held, due: float) -> bool:
        """Gives an event back, due at that time, as if it had not been claimed. False: it is not held any more."""
        changed = tx.execute(
            f"UPDATE buttress_webhooks_event SET state = 'received', due = ?, attempt = ? WHERE {_HERE} AND fence = ? AND state = 'claimed'",
            (due, held.attempt - 1, *self._key(held.event), held.fence))
        return changed == 1

    def next_due(self, tx: Tx) -> float | None:
        row = tx.one("SELECT min(due) FROM buttress_webhooks_event WHERE endpoint = ? AND due IS NOT NULL", (self.endpoint,))
        return row[0] if row else None

    # -- operation

    def replay(self, tx: Tx, entry: Entry, now: float) -> bool:
        """Makes one settled event due again. False: it is in flight, waits already, or its body was retired."""
        return tx.execute(
            f"UPDATE buttress_webhooks_event SET state = 'received', due = ?, attempt = 0, settled = NULL, error = NULL WHERE {_HERE} "
            "AND state NOT IN ('claimed', 'received') AND kept = 1",
            (now, self.endpoint, entry.account or "", mode_name(entry.livemode), entry.id)) == 1

    def revive(self, tx: Tx, state: Literal["dead", "ignored"], now: float, kind: str | None = None) -> int:
        """Makes all dead or all ignored events due again, or those of one type."""
        only, more = ("AND type = ?", (kind,)) if kind is not None else ("", ())
        return tx.execute(
            "UPDATE buttress_webhooks_event SET state = 'received', due = ?, attempt = 0, settled = NULL, error = NULL WHERE endpoint = ? "
            f"AND state IN ('dead', 'ignored') AND state = ? AND kept = 1 {only}", (now, self.endpoint, state, *more))

    def retire(self, tx: Tx, before: float, canonical: Callable[[bytes], bytes]) -> int:
        """Drops up to RETIRE_BATCH bodies settled before that time. What is still open keeps its own: waiting, retried, dead.

        The fingerprint of what a body says (``canonical``) takes the place of that of its bytes, so that a copy that was only
        written differently is known for ever. Where a delivery differed from the listing that came first, its own stays.
        """
        rows = tx.all(f"SELECT account, mode, id, fingerprint, {_BODY} FROM buttress_webhooks_event e WHERE endpoint = ? AND settled IS NOT NULL "
                      "AND kept = 1 AND settled < ? LIMIT ?", (self.endpoint, before, RETIRE_BATCH))
        for account, mode, ident, fingerprint, body in rows:
            key = (self.endpoint, account, mode, ident)
            own = body is not None and hashlib.sha256(body).digest() == bytes(fingerprint)
            tx.execute(f"DELETE FROM buttress_webhooks_body WHERE {_HERE}", key)
            tx.execute(f"UPDATE buttress_webhooks_event SET kept = 0, fingerprint = ? WHERE {_HERE}",
                       (canonical(bytes(body)) if own else bytes(fingerprint), *key))
        return len(rows)

    def waiting(self, tx: Tx) -> tuple[int, float | None]:
        """How many wait or are in work, and when the oldest of them was received."""
        row = tx.one("SELECT count(*), min(received) FROM buttress_webhooks_event WHERE endpoint = ? AND due IS NOT NULL", (self.endpoint,))
        return (row[0], row[1]) if row else (0, None)

    def idle(self, tx: Tx, state: Literal["dead", "ignored"]) -> dict[str, int]:
        """Dead or ignored events, counted by type."""
        return dict(tx.all("SELECT type, count(*) FROM buttress_webhooks_event WHERE endpoint = ? AND state IN ('dead', 'ignored') "
                           "AND state = ? GROUP BY type ORDER BY type", (self.endpoint, state)))

    def dead(self, tx: Tx, limit: int, *, bodies: bool = False) -> list[Entry]:
        """The dead letters, oldest first."""
        return self._some(tx, "state IN ('dead', 'ignored') AND state = 'dead'", (), limit, bodies=bodies)

    def stuck(self, tx: Tx, before: float, limit: int) -> list[Entry]:
        """Waiting, retried or in work since before that time."""
        return self._some(tx, "due IS NOT NULL AND received < ?", (before,), limit)

    def missed(self, tx: Tx, since: float, limit: int) -> list[Entry]:
        """Found only in the provider's list, since that time: never delivered to us."""
        return self._some(tx, "delivered IS NULL AND received >= ?", (since,), limit)

    def _some(self, tx: Tx, where: str, params: tuple[object, ...], limit: int, *, bodies: bool = False) -> list[Entry]:
        body = f", {_BODY}" if bodies else ""
        rows = tx.all(f"SELECT {_COLUMNS}{body} FROM buttress_webhooks_event e WHERE endpoint = ? AND {where} ORDER BY received, id LIMIT ?",
                      (self.endpoint, *params, limit))
        return [_entry(row) for row in rows]


def _entry(row: Row) -> Entry:
    (account, mode, ident, kind, fingerprint, occurred, sent, received, delivered, state, due, attempt, fence, settled, error, kept, *body) = row
    return Entry(account or None, None if not mode else mode == "live", ident, kind, state, received, delivered, due, attempt, settled,
                 error, occurred, sent, bool(kept), fence, bytes(fingerprint), bytes(body[0]) if body and body[0] is not None else None)
