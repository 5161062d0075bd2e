"""Who may do a thing for a while: expiring, renewable, fenced ownership of a name (a job, a feed, a leader's seat).

A lease ends by itself. Whoever holds one writes its fence with each effect, or checks it in the effect's own transaction
(``hold``), so that a holder that was paused beyond its lease and woke up is refused: that it still believes in its lease is no
evidence. Time is the store's: with Postgres that of the database, on which several machines agree.

Source: C. Gray and D. Cheriton, "Leases" (SOSP 1989); fencing tokens as in M. Kleppmann, "How to do distributed locking" (2016).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from buttress.kernel.clock import Clock
from buttress.kernel.errors import InvalidInput, Stale, check_text
from buttress.kernel.failpoint import failpoint
from buttress.kernel.store import Schema, Store, Tx

NAME_MAX_BYTES = 512
HOLDER_MAX_BYTES = 256


@dataclass(frozen=True)
class Lease:
    """Yours until ``until`` (seconds since the epoch, in the store's time). ``fence`` grows with each holder."""

    name: str
    holder: str
    fence: int
    until: float


@dataclass(frozen=True)
class Taken:
    """Somebody else's until then. Come back later."""

    holder: str
    until: float


class Leases(Protocol):
    """Expiring, renewable, fenced ownership. All methods raise InvalidInput before anything is written."""

    def acquire(self, name: str, holder: str, lease_s: float) -> Lease | Taken:
        """Takes the name if it is free or its lease has ended. The same holder again gets a new fence: it may be another process.

        Refused inside a transaction: what is not committed yet belongs to nobody.
        """
        ...

    def renew(self, lease: Lease, lease_s: float) -> Lease:
        """Extends it from now. Raises Stale once another one has it, also if that was let go meanwhile, or once its time is over."""
        ...

    def hold(self, lease: Lease) -> None:
        """In the effect's own transaction: raises Stale unless this lease stands, and keeps others from taking it until the commit."""
        ...

    def release(self, lease: Lease) -> None:
        """Lets go before its time. Of a lease that is not held any more: nothing happens."""
        ...

    def standing(self, name: str) -> Taken | None:
        """Who has it now; None: nobody."""
        ...


SCHEMA = Schema(
    "kernel.lease",
    1,
    ("CREATE TABLE buttress_lease (name TEXT PRIMARY KEY, holder TEXT NOT NULL, fence {int} NOT NULL, until {real} NOT NULL)",),
)


class SqlLeases:
    """On a Store (SQLite or Postgres). ``clock`` None means the store's own time."""

    def __init__(self, store: Store, *, clock: Clock | None = None) -> None:
        self._store = store
        self._clock = clock or store.clock
        store.setup(SCHEMA)

    def acquire(self, name: str, holder: str, lease_s: float) -> Lease | Taken:
        check_text("name", name, NAME_MAX_BYTES)
        check_text("holder", holder, HOLDER_MAX_BYTES)
        _check_time(lease_s)

        def work(tx: Tx) -> Lease | Taken:
            fresh = tx.execute("INSERT INTO buttress_lease (name, holder, fence, until) VALUES (?, ?, 0, 0) ON CONFLICT (name) DO NOTHING", (name, holder))
            before, fence, until = ("", 0, 0.0) if fresh else self._row(tx, name)
            now = self._clock.now()  # after the row is locked: the wait for it belongs to nobody's lease
            if until > now and before != holder:
                return Taken(before, until)
            taken = Lease(name, holder, fence + 1, now + lease_s)
            tx.execute("UPDATE buttress_lease SET holder = ?, fence = ?, until = ? WHERE name = ?", (holder, taken.fence, taken.until, name))
            return taken

        answer = self._store.submit(work)  # never inside a transaction: rolled back, its fence would be given twice
        if isinstance(answer, Lease):
            failpoint("lease.acquired")
        return answer

    def renew(self, lease: Lease, lease_s: float) -> Lease:
        _check_time(lease_s)
        with self._store.transaction() as tx:
            now = self._standing(tx, lease)
            renewed = Lease(lease.name, lease.holder, lease.fence, now + lease_s)
            tx.execute("UPDATE buttress_lease SET until = ? WHERE name = ?", (renewed.until, lease.name))
        return renewed

    def hold(self, lease: Lease) -> None:
        with self._store.transaction() as tx:
            self._standing(tx, lease)

    def release(self, lease: Lease) -> None:
        with self._store.transaction() as tx:
            tx.execute("UPDATE buttress_lease SET until = 0 WHERE name = ? AND fence = ?", (lease.name, lease.fence))

    def standing(self, name: str) -> Taken | None:
        check_text("name", name, NAME_MAX_BYTES)
        with self._store.transaction() as tx:
            row = tx.one("SELECT holder, until FROM buttress_lease WHERE name = ? AND until > ?", (name, self._clock.now()))
        return Taken(row[0], row[1]) if row else None

    def _row(self, tx: Tx, name: str) -> tuple[str, int, float]:
        lock = " FOR UPDATE" if tx.dialect == "postgres" else ""
        row = tx.one(f"SELECT holder, fence, until FROM buttress_lease WHERE name = ?{lock}", (name,))
        return (row[0], row[1], row[2]) if row else ("", 0, 0.0)

    def _standing(self, tx: Tx, lease: Lease) -> float:
        """Now, if the lease stands: its fence is the newest and its time is not over."""
        _, fence, until = self._row(tx, lease.name)
        now = self._clock.now()
        if fence != lease.fence:
            raise Stale(f"fence {lease.fence} no longer holds this lease", fix="drop the work: another holder has it")
        if until <= now:
            raise Stale("this lease is over", fix="drop the work, or acquire it again: somebody may have had it since")
        return now


def _check_time(lease_s: float) -> None:
    if isinstance(lease_s, bool) or not isinstance(lease_s, int | float) or not 0 < lease_s < 1e9:
        raise InvalidInput("lease_s", lease_s, "must be a number above 0 and below 1e9 seconds")
