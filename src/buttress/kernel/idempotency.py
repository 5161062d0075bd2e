"""One effect per key.

``claim`` says what to do: the work is yours (New), somebody has it (InFlight), it was done (Done), the same key came with
another payload (Mismatch), or a holder was lost after it announced an effect outside this database (Unknown: find out,
never guess). Each claim carries a fence; a holder whose lease has passed to another is refused by ``settle`` (Stale).

Without an intent a lost holder is simply New with a higher fence, because local effects and Done are one transaction.
Retention is housekeeping, never correctness: ``retire`` drops outcomes and keeps the fact. A key that ``settle(None)`` freed
keeps its payload's fingerprint, and its last fence stays good until somebody claims it again. Whoever claims several keys in
one transaction claims them in sorted order, or Postgres will find a deadlock.

Source: the Idempotency-Key header draft (draft-ietf-httpapi-idempotency-key-header) for key and fingerprint; fencing
tokens as in M. Kleppmann, "How to do distributed locking" (2016).
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

from buttress.kernel.clock import Clock, SystemClock
from buttress.kernel.errors import InvalidInput, Stale, check_text
from buttress.kernel.failpoint import failpoint
from buttress.kernel.store import Schema, Store, Tx

KEY_MAX_BYTES = 512
FINGERPRINT_MAX_BYTES = 64
PAYLOAD_MAX_BYTES = 65_536


@dataclass(frozen=True)
class New:
    """The work is yours until the lease ends. ``fence`` goes into ``intend``, ``renew`` and ``settle``."""

    fence: int


@dataclass(frozen=True)
class InFlight:
    """Another holder has it until ``until`` (seconds since the epoch). Come back later."""

    until: float


@dataclass(frozen=True)
class Done:
    """It happened. ``outcome`` is what ``settle`` stored, or None after ``retire``."""

    outcome: bytes | None


@dataclass(frozen=True)
class Mismatch:
    """The key is known with another payload. ``fingerprint`` is the first one's. An alarm, not a duplicate."""

    fingerprint: bytes


@dataclass(frozen=True)
class Unknown:
    """A holder announced ``intent`` and was lost. Ask the callee what became of it, then ``settle`` with ``fence``."""

    fence: int
    intent: bytes


Claim = New | InFlight | Done | Mismatch | Unknown


class Idempotency(Protocol):
    """One effect per key; see the module. All methods raise InvalidInput before anything is written."""

    def claim(self, key: str, fingerprint: bytes, lease_s: float) -> Claim:
        """Takes the key for ``lease_s`` seconds. Joins the transaction that this thread has open, if any."""
        ...

    def intend(self, key: str, fence: int, intent: bytes) -> None:
        """Durable before an effect outside this database. Never inside a transaction. Raises Stale."""
        ...

    def renew(self, key: str, fence: int, lease_s: float) -> None:
        """Extends the lease from now. Raises Stale."""
        ...

    def settle(self, key: str, fence: int, outcome: bytes | None) -> None:
        """In the effect's transaction: it happened, with this outcome; None: known not to have happened. Raises Stale."""
        ...

    def retire(self, before: float) -> int:
        """Drops the outcomes settled before that time, never the fact. Returns how many."""
        ...


SCHEMA = Schema(
    "kernel.idempotency",
    1,
    (
        """CREATE TABLE buttress_idempotency (
             namespace TEXT NOT NULL, key TEXT NOT NULL, fingerprint {bytes} NOT NULL, fence {int} NOT NULL,
             until {real} NOT NULL, intent {bytes}, outcome {bytes}, settled {real},
             PRIMARY KEY (namespace, key))""",
    ),
)


class SqlIdempotency:
    """On a Store (SQLite or Postgres). ``namespace`` keeps tenants, accounts and live or test mode apart."""

    def __init__(self, store: Store, namespace: str = "", *, clock: Clock | None = None) -> None:
        self._store = store
        self._namespace = namespace
        self._clock = clock or store.clock
        store.setup(SCHEMA)

    def claim(self, key: str, fingerprint: bytes, lease_s: float) -> Claim:
        check_claim(key, fingerprint, lease_s)
        with self._store.transaction() as tx:
            now = self._clock.now()
            fresh = tx.execute(
                "INSERT INTO buttress_idempotency (namespace, key, fingerprint, fence, until) VALUES (?, ?, ?, 1, ?) "
                "ON CONFLICT (namespace, key) DO NOTHING",
                (self._namespace, key, fingerprint, now + lease_s),
            )
            if fresh:
                return New(1)
            return self._held(tx, key, fingerprint, now, lease_s)

    def _held(self, tx: Tx, key: str, fingerprint: bytes, now: float, lease_s: float) -> Claim:
        lock = " FOR UPDATE" if tx.dialect == "postgres" else ""
        row = tx.one(
            "SELECT fingerprint, fence, until, intent, outcome, settled FROM buttress_idempotency "
            f"WHERE namespace = ? AND key = ?{lock}",
            (self._namespace, key),
        )
        assert row is not None, "rows of this table are never deleted"
        known, fence, until, intent, outcome, settled = row
        if bytes(known) != fingerprint:
            return Mismatch(bytes(known))
        if settled is not None:
            return Done(None if outcome is None else bytes(outcome))
        if until > now:
            return InFlight(until)
        tx.execute(
            "UPDATE buttress_idempotency SET fence = ?, until = ? WHERE namespace = ? AND key = ?",
            (fence + 1, now + lease_s, self._namespace, key),
        )
        return New(fence + 1) if intent is None else Unknown(fence + 1, bytes(intent))

    def intend(self, key: str, fence: int, intent: bytes) -> None:
        check_holder(key, fence)
        check_intent(intent)

        def write(tx: Tx) -> None:
            self._update(tx, "intent = ?", (intent,), key, fence)

        failpoint("idempotency.intend")
        self._store.submit(write)  # refuses to run inside a transaction: it would not be durable before the effect
        failpoint("idempotency.intended")

    def renew(self, key: str, fence: int, lease_s: float) -> None:
        check_holder(key, fence)
        check_lease(lease_s)
        with self._store.transaction() as tx:
            self._update(tx, "until = ?", (self._clock.now() + lease_s,), key, fence)

    def settle(self, key: str, fence: int, outcome: bytes | None) -> None:
        check_holder(key, fence)
        check_payload("outcome", outcome)
        with self._store.transaction() as tx:
            if outcome is None:
                self._update(tx, "until = ?, intent = ?", (0.0, None), key, fence)
            else:
                self._update(tx, "outcome = ?, settled = ?, intent = ?", (outcome, self._clock.now(), None), key, fence)

    def retire(self, before: float) -> int:
        with self._store.transaction() as tx:
            return tx.execute(
                "UPDATE buttress_idempotency SET outcome = NULL WHERE namespace = ? AND settled < ? AND outcome IS NOT NULL",
                (self._namespace, before),
            )

    def _update(self, tx: Tx, assign: str, values: tuple[object, ...], key: str, fence: int) -> None:
        changed = tx.execute(
            f"UPDATE buttress_idempotency SET {assign} WHERE namespace = ? AND key = ? AND fence = ? AND settled IS NULL",
            (*values, self._namespace, key, fence),
        )
        if changed != 1:
            raise stale(key, fence)


@dataclass(frozen=True)
class _Entry:
    fingerprint: bytes
    fence: int
    until: float
    intent: bytes | None = None
    outcome: bytes | None = None
    settled: float | None = None


class MemoryIdempotency:
    """In this process only: for tests, and for callers whose keys need not outlive them."""

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()
        self._lock = threading.Lock()
        self._entries: dict[str, _Entry] = {}

    def claim(self, key: str, fingerprint: bytes, lease_s: float) -> Claim:
        check_claim(key, fingerprint, lease_s)
        with self._lock:
            now = self._clock.now()
            entry = self._entries.get(key)
            if entry is None:
                self._entries[key] = _Entry(fingerprint, 1, now + lease_s)
                return New(1)
            if entry.fingerprint != fingerprint:
                return Mismatch(entry.fingerprint)
            if entry.settled is not None:
                return Done(entry.outcome)
            if entry.until > now:
                return InFlight(entry.until)
            self._entries[key] = entry = replace(entry, fence=entry.fence + 1, until=now + lease_s)
            return New(entry.fence) if entry.intent is None else Unknown(entry.fence, entry.intent)

    def intend(self, key: str, fence: int, intent: bytes) -> None:
        check_holder(key, fence)
        check_intent(intent)
        self._update(key, fence, lambda entry: replace(entry, intent=intent))

    def renew(self, key: str, fence: int, lease_s: float) -> None:
        check_holder(key, fence)
        check_lease(lease_s)
        self._update(key, fence, lambda entry: replace(entry, until=self._clock.now() + lease_s))

    def settle(self, key: str, fence: int, outcome: bytes | None) -> None:
        check_holder(key, fence)
        check_payload("outcome", outcome)
        if outcome is None:
            self._update(key, fence, lambda entry: replace(entry, until=0.0, intent=None))
        else:
            self._update(key, fence, lambda entry: replace(entry, outcome=outcome, settled=self._clock.now(), intent=None))

    def retire(self, before: float) -> int:
        with self._lock:
            old = [k for k, e in self._entries.items() if e.settled is not None and e.settled < before and e.outcome is not None]
            for key in old:
                self._entries[key] = replace(self._entries[key], outcome=None)
            return len(old)

    def _update(self, key: str, fence: int, change: Callable[[_Entry], _Entry]) -> None:
        with self._lock:
            entry = self._entries.get(key)
            if entry is None or entry.fence != fence or entry.settled is not None:
                raise stale(key, fence)
            self._entries[key] = change(entry)


def stale(key: str, fence: int) -> Stale:
    """The error for a holder that is no longer the holder. The key is not shown: it may be personal data."""
    return Stale(f"fence {fence} no longer holds this key ({len(key)} characters)", fix="drop the work: another holder has it")


def check_claim(key: str, fingerprint: bytes, lease_s: float) -> None:
    """Raises InvalidInput for a key, fingerprint or lease outside the limits. The key is not shown: it may be personal data."""
    check_text("key", key, KEY_MAX_BYTES)
    if not isinstance(fingerprint, bytes) or len(fingerprint) > FINGERPRINT_MAX_BYTES:
        raise InvalidInput("fingerprint", type(fingerprint).__name__, f"must be at most {FINGERPRINT_MAX_BYTES} bytes")
    check_lease(lease_s)


def check_holder(key: str, fence: int) -> None:
    """Raises InvalidInput for what nobody can hold."""
    check_text("key", key, KEY_MAX_BYTES)
    if not isinstance(fence, int) or not 0 <= fence < 1 << 63:
        raise InvalidInput("fence", type(fence).__name__, "must be the number that claim gave")


def check_lease(lease_s: float) -> None:
    if not isinstance(lease_s, int | float) or not 0 < lease_s < 1e9:
        raise InvalidInput("lease_s", lease_s, "must be a number above 0 and below 1e9 seconds")


def check_intent(intent: bytes) -> None:
    if not isinstance(intent, bytes):
        raise InvalidInput("intent", type(intent).__name__, "must be bytes")
    check_payload("intent", intent)


def check_payload(field: str, payload: bytes | None) -> None:
    if payload is not None and not isinstance(payload, bytes):
        raise InvalidInput(field, type(payload).__name__, "must be bytes or None")
    if payload is not None and len(payload) > PAYLOAD_MAX_BYTES:
        raise InvalidInput(field, f"{len(payload)} bytes", f"must be at most {PAYLOAD_MAX_BYTES} bytes: store the rest yourself")
