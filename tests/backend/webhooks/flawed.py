"""Receivers with one flaw each, for test_proof.py: the honest example of examples/webhooks but for what its name says."""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "examples" / "webhooks"))

from receiver import Receiver  # a file of the examples, found by the line above


class Honest(Receiver):
    """None."""


class FirstSignatureOnly(Receiver):
    def genuine(self, headers, body):
        return super().genuine({**headers, "webhook-signature": headers.get("webhook-signature", "").partition(" ")[0]}, body)


class KnowsPayloadsNotIds(Receiver):
    """A known id with another payload is another event."""

    def deliver(self, headers, body):
        if not self.genuine(headers, body):
            return 401
        with self.lock:
            name = f"{headers['webhook-id']}:{hashlib.sha256(body.encode()).hexdigest()}"
            if self.db.execute("INSERT OR IGNORE INTO event VALUES (?, ?)", (name, body)).rowcount:
                self.note(headers["webhook-id"], body)
        return 200


class ReadsNoteBeforeStoring(Receiver):
    """``note`` sees each event changed by ``changed(data)`` first."""

    def note(self, id, body):
        try:
            event = json.loads(body)
        except ValueError:
            return
        if event["type"] == "order.updated":
            event["data"] = self.changed(event["data"])
        super().note(id, json.dumps(event))

    def changed(self, data):
        raise NotImplementedError


class OrdersByTime(ReadsNoteBeforeStoring):
    """Takes the second of a change for its version: of two within one second the first to arrive stays."""

    def changed(self, data):
        return {**data, "version": data["created"]}


class ForgetsWhatWasDeleted(ReadsNoteBeforeStoring):
    """Drops the row of a deleted order once that was told, so that a late change makes it anew."""

    def changed(self, data):
        if data["status"] == "deleted":
            self.gone = {*getattr(self, "gone", ()), data["order"]}
        return data

    def work(self):
        due = super().work()
        for name in getattr(self, "gone", ()):
            self.write("DELETE FROM orders WHERE name = ? AND due IS NULL", name)
        return due


class TakesAFailedLookUpForNothing(Receiver):
    def send(self, method, callee, path, body, key):
        status = super().send(method, callee, path, body, key)
        return 404 if method == "GET" and status == 500 else status


class TakesEveryAnswerForDone(Receiver):
    def send(self, method, callee, path, body, key):
        status = super().send(method, callee, path, body, key)
        return 200 if method == "POST" and status else status


class ChokesOnWhatItCannotRead(Receiver):
    """Keeps what is signed, and reads it when it works: what is no JSON stands in the way of all that came after."""

    def note(self, id, body):
        if not body.endswith("}"):
            self.db.execute("CREATE TABLE IF NOT EXISTS stuck (id TEXT)")
            self.db.execute("INSERT INTO stuck VALUES (?)", (id,))
        super().note(id, body)

    def work(self):
        if self.rows("SELECT 1 FROM sqlite_master WHERE name = 'stuck'"):
            raise ValueError("Unterminated string")
        return super().work()


class ActsAfterElevenDays(Receiver):
    """Keeps everything, and does it when nobody waits for it any more."""

    def note(self, id, body):
        super().note(id, body)
        self.db.execute("UPDATE effect SET due = due + 950400 WHERE doubt IS NULL AND due <= ?", (self.clock.now(),))


class SaysThatNothingWaits(Receiver):
    """Does one effect a call, and says each time that this was all."""

    def rows(self, sql, *values):
        return super().rows(f"{sql} LIMIT 1" if "FROM effect WHERE" in sql else sql, *values)

    def work(self):
        super().work()


class NamesStatesInItsOwnWay(Receiver):
    """No flaw: the reference of an effect that sets a state is its own business."""

    def send(self, method, callee, path, body, key):
        effect = json.loads(body) if body else {}
        if "object" in effect:
            body = json.dumps({**effect, "reference": f"{effect['object']} is {effect['status']}"})
        return super().send(method, callee, path, body, key)
