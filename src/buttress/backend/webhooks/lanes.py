"""The outbox by callee, and within a callee by lane: what one object asks for arrives in order.

Effects without an order go to a callee's stream and overtake each other freely. Those with one go to a lane, and the next of
a lane waits until the one before it is settled: retried, an older state must not arrive after a newer one.
"""

from __future__ import annotations

from collections.abc import Sequence

from buttress.kernel.outbox import Message, SqlOutbox
from buttress.kernel.store import Tx


class LaneOutbox(SqlOutbox):
    """The kernel's outbox, seen through the callees of one endpoint: others in the same store are left alone.

    A callee has one stream without order, ``<prefix><callee>``, and a lane for each object whose effects keep their order,
    ``<prefix><callee>/<lane>``: there only the oldest message that is not settled counts.
    """

    def take_for(self, callees: Sequence[str], limit: int, lease_s: float) -> list[tuple[Message, float]]:
        """``take``, restricted to the streams and lanes of these callees; with each the time since when it may be in doubt."""
        now = self._clock.now()
        skip = " FOR UPDATE SKIP LOCKED" if self._store.dialect == "postgres" else ""
        among, params = _among(callees)
        taken = []
        with self._store.transaction() as tx:
            rows = tx.all("SELECT stream, epoch, seq, key, payload, attempt, doubted, fence, until FROM buttress_outbox a "
                          f"WHERE state = 'pending' AND due <= ? AND until <= ? AND {among} ORDER BY due, epoch, seq, stream LIMIT ?{skip}",
                          (now, now, *params, limit))
            for stream, epoch, seq, key, payload, attempt, doubted, fence, until in rows:
                message = Message(stream, epoch, seq, key, bytes(payload), attempt + 1, bool(doubted) or until > 0, fence + 1, now + lease_s)
                tx.execute("UPDATE buttress_outbox SET attempt = ?, doubted = ?, fence = ?, until = ? WHERE stream = ? AND epoch = ? AND seq = ?",
                           (message.attempt, int(message.doubted), message.fence, message.until, stream, epoch, seq))
                taken.append((message, until - lease_s if until > 0 else now))
        return taken

    def next_due(self, tx: Tx, callees: Sequence[str]) -> float | None:
        """When the next message for these callees is due."""
        if not callees:
            return None
        among, params = _among(callees)
        row = tx.one(f"SELECT min(CASE WHEN until > due THEN until ELSE due END) FROM buttress_outbox a WHERE state = 'pending' AND {among}", params)
        return row[0] if row else None

    def pending_in(self, tx: Tx, prefix: str) -> int:
        """How many messages of the streams that begin with ``prefix`` wait."""
        row = tx.one("SELECT count(*) FROM buttress_outbox WHERE state = 'pending' AND substr(stream, 1, ?) = ?", (len(prefix), prefix))
        return row[0] if row else 0

    def dead_in(self, tx: Tx, prefix: str, limit: int, key: str | None = None) -> list[tuple[Message, str]]:
        """Dead messages of all streams that begin with ``prefix``, with their errors, oldest first."""
        only, more = ("AND key = ?", (key,)) if key is not None else ("", ())
        rows = tx.all("SELECT stream, epoch, seq, key, payload, attempt, doubted, fence, until, error FROM buttress_outbox WHERE state = 'dead' "
                      f"AND substr(stream, 1, ?) = ? {only} ORDER BY epoch, seq, stream LIMIT ?", (len(prefix), prefix, *more, limit))
        return [(Message(stream, epoch, seq, key, bytes(payload), attempt, bool(doubted), fence, until), error or "")
                for stream, epoch, seq, key, payload, attempt, doubted, fence, until, error in rows]

    def overtaken(self, tx: Tx, message: Message) -> bool:
        """Whether something later was sent in the same stream already: in a lane, this message would undo it."""
        return tx.one("SELECT 1 FROM buttress_outbox WHERE stream = ? AND state = 'sent' AND (epoch > ? OR (epoch = ? AND seq > ?)) LIMIT 1",
                      (message.stream, message.epoch, message.epoch, message.seq)) is not None


def _among(streams: Sequence[str]) -> tuple[str, tuple[object, ...]]:
    """SQL for: in one of these streams, or at the head of one of their lanes."""
    heads = " OR ".join(["substr(stream, 1, ?) = ?"] * len(streams))
    sql = (f"(stream IN ({', '.join('?' * len(streams))}) OR (({heads}) AND NOT EXISTS (SELECT 1 FROM buttress_outbox b WHERE b.stream = a.stream "
           "AND b.state = 'pending' AND (b.epoch < a.epoch OR (b.epoch = a.epoch AND b.seq < a.seq)))))")
    return sql, (*streams, *(part for stream in streams for part in (len(stream) + 1, f"{stream}/")))
