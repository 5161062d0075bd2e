"""Receivers that look right. Each is the honest example but for the one thing that its name says."""

import json
import os
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "examples" / "webhooks"))

from receiver import PAYMENTS, Receiver

HOUR = 3600


class AcksBeforeStoring(Receiver):
    """Keeps what came in memory and stores it when it is called to work."""

    def __init__(self, env):
        super().__init__(env)
        self.pending = []

    def deliver(self, headers, body):
        if not self.genuine(headers, body):
            return 401
        self.pending.append((headers, body))
        return 200

    def work(self):
        while self.pending:
            super().deliver(*self.pending.pop(0))
        return super().work()


class AdmitsEverybody(Receiver):
    """Answers 200 to whatever comes, forged or not, and acts on it."""

    def genuine(self, headers, body):
        headers.setdefault("webhook-id", body)
        return True


class AnswersEverybody(Receiver):
    """Answers 200 to whatever comes, but acts on the genuine only."""

    def deliver(self, headers, body):
        super().deliver(headers, body)
        return 200


class RemembersElsewhere(Receiver):
    """Remembers what it did in a file of its own, outside the folder that it was given: an earlier trial does its work."""

    def __init__(self, env):
        super().__init__(env)
        self.book = Path(tempfile.gettempdir()) / "done-before"

    def note(self, id, body):
        done = self.book.read_text().split() if self.book.exists() else []
        if id not in done:
            super().note(id, body)
            with self.book.open("a") as book:
                book.write(f"{id}\n")


class ChecksThenActs(Receiver):
    """Looks whether it knows the event, acts, and notes it afterwards: two copies at once both find nothing."""

    def deliver(self, headers, body):
        if not self.genuine(headers, body):
            return 401
        if not self.rows("SELECT 1 FROM event WHERE id = ?", headers["webhook-id"]):
            event = json.loads(body)
            if event["type"] in PAYMENTS:
                for callee in ("orders", "emails", "credits"):
                    self.send("POST", callee, "", json.dumps({"reference": f"{callee}:{event['data']['payment']}"}), None)
            self.write("INSERT OR IGNORE INTO event VALUES (?, ?)", headers["webhook-id"], body)
        return 200


class ForgetsAfter47Hours(Receiver):
    """Keeps ids and effects for 47 hours, as if nobody sent anything later."""

    def deliver(self, headers, body):
        with self.lock:
            self.db.execute("CREATE TABLE IF NOT EXISTS born (id TEXT PRIMARY KEY, at REAL)")
            old = [id for id, in self.db.execute("SELECT id FROM born WHERE at < ?", (self.clock.now() - 47 * HOUR,))]
            for id in old:
                for table, column in (("event", "id"), ("effect", "key"), ("born", "id")):
                    self.db.execute(f"DELETE FROM {table} WHERE {column} = ?", (id,))
        status = super().deliver(headers, body)
        with self.lock:
            self.db.execute("INSERT OR IGNORE INTO born SELECT id, ?1 FROM event UNION ALL SELECT key, ?1 FROM effect", (self.clock.now(),))
        return status


class TakesOrdersAsTheyCome(Receiver):
    """Whatever state arrives last is the state."""

    def note(self, id, body):
        event = json.loads(body)
        if event["type"] == "order.updated":
            self.db.execute("DELETE FROM orders WHERE name = ?", (event["data"]["order"],))
        super().note(id, body)


class NamesEffectsAfterEvents(Receiver):
    """Two events that tell one fact are two effects."""

    def note(self, id, body):
        event = json.loads(body)
        if event["type"] not in PAYMENTS:
            return super().note(id, body)
        for callee in ("orders", "emails", "credits"):
            reference = json.dumps({"reference": f"{callee}:{event['data']['payment']}"})
            self.db.execute("INSERT INTO effect VALUES (?, ?, ?, ?, NULL)", (callee, f"{id}:{callee}", reference, self.clock.now()))
        return None


class SendsAgainInDoubt(Receiver):
    """After a doubt it sends to the callee that honours no key without looking first."""

    def effect(self, callee, key, body, doubt):
        return super().effect(callee, key, body, None if callee == "credits" else doubt)


class LacksWork:
    def __init__(self, env):
        self.env = env

    def deliver(self, headers, body):
        return 200


def dies(env):
    raise OSError(f"no room for a receiver in {os.path.basename(env.dir)}")
