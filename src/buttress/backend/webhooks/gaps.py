"""What went wrong and is still open: alarms, doubts, dead letters, and what the report of gaps says about them.

An alarm: one id (or one effect key) came with two payloads. A doubt: whether an effect happened is not known, because its
callee honours no key and answers no look-up.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from buttress.backend.webhooks.event import Event
from buttress.backend.webhooks.ledger import Entry
from buttress.kernel.store import Tx

ALARMS_MAX = 10  # payloads kept of one key: a provider whose retries differ each time must not fill the store
DoubtOutcome = Literal["not_sent_again", "sent_again", "given_up"]


@dataclass(frozen=True)
class Alarm:
    """Two payloads under one name. ``kind`` is ``event`` or ``effect``; both payloads are kept until they are retired."""

    kind: Literal["event", "effect"]
    key: str
    account: str | None
    mode: str
    seen: float
    first: bytes | None = field(repr=False)
    other: bytes | None = field(repr=False)


@dataclass(frozen=True)
class Doubt:
    """An effect of which nobody knows whether it happened. ``resolve`` closes it once somebody found out."""

    effect: str
    key: str
    seen: float
    outcome: DoubtOutcome
    reason: str


@dataclass(frozen=True)
class DeadEffect:
    """An effect that was given up. ``replay`` brings it back."""

    effect: str
    key: str
    attempt: int
    error: str


@dataclass(frozen=True)
class GapReport:
    """What an operator should look at. Lists are cut at the limit that was asked for, oldest first."""

    missed: tuple[Entry, ...]
    stuck: tuple[Entry, ...]
    dead: tuple[Entry, ...]
    dead_effects: tuple[DeadEffect, ...]
    ignored: Mapping[str, int]
    alarms: tuple[Alarm, ...]
    doubts: tuple[Doubt, ...]

    @property
    def clean(self) -> bool:
        """Nothing but ignored types: those were told to us, and we said that we do not care."""
        return not (self.missed or self.stuck or self.dead or self.dead_effects or self.alarms or self.doubts)


class Gaps:
    """Alarms and doubts of one endpoint. Every method works inside the transaction it is given."""

    def __init__(self, endpoint: str) -> None:
        self._endpoint = endpoint

    def alarm(self, tx: Tx, kind: Literal["event", "effect"], event: Event, key: str, fingerprint: bytes, now: float,
              first: bytes | None, other: bytes) -> bool:
        """False: this very mismatch is recorded already, or as many of this key as are kept."""
        known = tx.one("SELECT count(*) FROM buttress_webhooks_alarm WHERE endpoint = ? AND account = ? AND mode = ? AND kind = ? AND key = ?",
                       (self._endpoint, event.account or "", event.mode, kind, key))
        if known is not None and known[0] >= ALARMS_MAX:
            return False
        return bool(tx.execute(
            "INSERT INTO buttress_webhooks_alarm (endpoint, account, mode, kind, key, fingerprint, seen, first, other) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (endpoint, account, mode, kind, key, fingerprint) DO NOTHING",
            (self._endpoint, event.account or "", event.mode, kind, key, fingerprint, now, first, other)))

    def alarms(self, tx: Tx, limit: int) -> list[Alarm]:
        """Alarms whose payloads are still kept, oldest first."""
        rows = tx.all("SELECT kind, key, account, mode, seen, first, other FROM buttress_webhooks_alarm "
                      "WHERE endpoint = ? AND other IS NOT NULL ORDER BY seen, key LIMIT ?", (self._endpoint, limit))
        return [Alarm(kind, key, account or None, mode, seen, None if first is None else bytes(first), bytes(other))
                for kind, key, account, mode, seen, first, other in rows]

    def retire(self, tx: Tx, before: float) -> int:
        """Drops the payloads of alarms older than that; the alarm stays as a row."""
        return tx.execute("UPDATE buttress_webhooks_alarm SET first = NULL, other = NULL WHERE endpoint = ? AND seen < ? AND other IS NOT NULL",
                          (self._endpoint, before))

    def doubt(self, tx: Tx, effect: str, key: str, fence: int, now: float, outcome: DoubtOutcome, reason: str) -> None:
        """Lists a doubt, once for each fence."""
        tx.execute("INSERT INTO buttress_webhooks_doubt (endpoint, effect, key, fence, seen, outcome, reason) VALUES (?, ?, ?, ?, ?, ?, ?) "
                   "ON CONFLICT (endpoint, effect, key, fence) DO NOTHING", (self._endpoint, effect, key, fence, now, outcome, reason))

    def trying(self, tx: Tx, effect: str, key: str, now: float) -> float:
        """An effect is about to be sent under its key. Since when it is being tried without a known end: ``now``, or an earlier time."""
        tx.execute("INSERT INTO buttress_webhooks_trying (endpoint, effect, key, since) VALUES (?, ?, ?, ?) "
                   "ON CONFLICT (endpoint, effect, key) DO NOTHING", (self._endpoint, effect, key, now))
        row = tx.one("SELECT since FROM buttress_webhooks_trying WHERE endpoint = ? AND effect = ? AND key = ?", (self._endpoint, effect, key))
        assert row is not None
        return float(row[0])

    def tried(self, tx: Tx, effect: str, key: str) -> None:
        """It is known what became of it."""
        tx.execute("DELETE FROM buttress_webhooks_trying WHERE endpoint = ? AND effect = ? AND key = ?", (self._endpoint, effect, key))

    def doubts(self, tx: Tx, limit: int) -> list[Doubt]:
        """What nobody resolved yet, oldest first."""
        rows = tx.all("SELECT effect, key, seen, outcome, reason FROM buttress_webhooks_doubt WHERE endpoint = ? AND resolved IS NULL "
                      "ORDER BY seen, key, fence LIMIT ?", (self._endpoint, limit))
        return [Doubt(*row) for row in rows]

    def resolve(self, tx: Tx, effect: str, key: str, now: float) -> int:
        """Closes the doubts about one effect."""
        self.tried(tx, effect, key)
        return tx.execute("UPDATE buttress_webhooks_doubt SET resolved = ? WHERE endpoint = ? AND effect = ? AND key = ? AND resolved IS NULL",
                          (now, self._endpoint, effect, key))
