"""A webhook receiver in plain Python: no import of Buttress, one SQLite file, nothing lost and nothing done twice.

    buttress prove webhooks --subject examples/webhooks/receiver.py:factory

An event is stored, together with what it asks for, before it is acknowledged. What it asks for is a row with a name of its
own, so a duplicate, a retry on day three and a second event about the same payment all find the row there. ``work`` sends
what is not done. A send that was interrupted is sent again under the same key, or looked up first where no key is honoured.
"""

import base64
import hashlib
import hmac
import http.client
import json
import sqlite3
import threading
from urllib.parse import quote, urlsplit

TOLERANCE_S = 300
RETRY_S = 60
KEYS_LIVE_S = 23 * 3600  # the callees honour a key for 24 hours: after that, ask a person instead of sending again
PAYMENTS = ("invoice.paid", "checkout.session.completed", "payment_intent.succeeded")
TABLES = """
PRAGMA journal_mode = WAL;
PRAGMA synchronous = FULL;
CREATE TABLE IF NOT EXISTS event (id TEXT PRIMARY KEY, body TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS effect (callee TEXT, key TEXT, body TEXT NOT NULL, due REAL, tried REAL, PRIMARY KEY (callee, key));
CREATE TABLE IF NOT EXISTS orders (name TEXT PRIMARY KEY, version INTEGER NOT NULL, body TEXT NOT NULL, due REAL);
"""  # due NULL: done. tried: since when an effect may have happened without our knowing


class Receiver:
    def __init__(self, env):
        self.secret = base64.b64decode(env.world["secret"])
        self.world, self.clock = env.world, env.clock
        self.db = sqlite3.connect(f"{env.dir}/receiver.db", isolation_level=None, check_same_thread=False)
        self.db.executescript(TABLES)
        self.lock = threading.Lock()  # deliveries come in several threads

    # -- what arrives

    def deliver(self, headers, body):
        if not self.genuine(headers, body):
            return 401
        with self.lock:
            self.db.execute("BEGIN IMMEDIATE")
            try:
                if self.db.execute("INSERT OR IGNORE INTO event VALUES (?, ?)", (headers["webhook-id"], body)).rowcount:
                    self.note(headers["webhook-id"], json.loads(body))
                self.db.execute("COMMIT")
            except BaseException:
                self.db.execute("ROLLBACK")
                raise
        return 200  # only now: it is on disk

    def genuine(self, headers, body):
        """Standard Webhooks 1.0, scheme v1: HMAC-SHA256 over ``id.timestamp.body``, and a time within the tolerance."""
        id, sent = headers.get("webhook-id", ""), headers.get("webhook-timestamp", "")
        if not (id and sent.isascii() and sent.isdigit() and abs(self.clock.now() - int(sent)) <= TOLERANCE_S):
            return False
        mac = hmac.new(self.secret, f"{id}.{sent}.{body}".encode(), hashlib.sha256).digest()
        wanted = b"v1," + base64.b64encode(mac)
        return any(hmac.compare_digest(wanted, one.encode()) for one in headers.get("webhook-signature", "").split())

    def note(self, id, event):
        """What an event asks for, in the transaction that stores it. Unknown types ask for nothing."""
        now, data = self.clock.now(), event["data"]
        if event["type"] in PAYMENTS:
            for callee in ("orders", "emails", "credits"):
                reference = f"{callee}:{data['payment']}"  # named after the payment: two events about it are one effect
                self.db.execute("INSERT OR IGNORE INTO effect VALUES (?, ?, ?, ?, NULL)", (callee, reference, json.dumps({"reference": reference}), now))
        elif event["type"] == "order.updated":
            body = json.dumps({"reference": f"status:{id}", "object": data["order"], "status": data["status"]})
            self.db.execute("INSERT INTO orders VALUES (?1, ?2, ?3, ?4) ON CONFLICT (name) DO UPDATE SET version = ?2, body = ?3, due = ?4 "
                            "WHERE version < ?2", (data["order"], data["version"], body, now))  # what is older than what we know is over

    # -- what is due

    def work(self):
        for callee, key, body, tried in self.rows("SELECT callee, key, body, tried FROM effect WHERE due <= ?", self.clock.now()):
            self.write("UPDATE effect SET tried = coalesce(tried, ?) WHERE callee = ? AND key = ?", self.clock.now(), callee, key)
            due, known = self.effect(callee, key, body, tried)
            self.write("UPDATE effect SET due = ?, tried = CASE WHEN ? THEN NULL ELSE tried END WHERE callee = ? AND key = ?", due, known, callee, key)
        for name, version, body in self.rows("SELECT name, version, body FROM orders WHERE due <= ?", self.clock.now()):
            status = self.send("POST", "orders", "", body, f"{name}:{version}")  # setting a state twice is setting it once
            if status != 200:
                self.write("UPDATE orders SET due = ? WHERE name = ? AND version = ?", self.clock.now() + RETRY_S, name, version)
            else:
                self.write("UPDATE orders SET due = NULL WHERE name = ? AND version = ?", name, version)
        (due,), = self.rows("SELECT min(due) FROM (SELECT due FROM effect UNION ALL SELECT due FROM orders)")
        return due

    def effect(self, callee, key, body, tried):
        """One attempt. When to try again (None: done), and whether it is known what became of it."""
        later = self.clock.now() + RETRY_S
        if tried and callee == "credits":  # honours no key, but tells what it has under our reference
            found = self.send("GET", callee, "/" + quote(key), None, None)
            if found != 404:
                return (None, True) if found == 200 else (later, False)
        elif tried and self.clock.now() - tried > KEYS_LIVE_S:
            return later, False
        status = self.send("POST", callee, "", body, key)
        return (None, True) if status == 200 else (later, status == 503)

    def send(self, method, callee, path, body, key):
        """The status of the answer, or None where none came: then nobody knows."""
        url = urlsplit(self.world[callee])
        connection = http.client.HTTPConnection(url.hostname, url.port, timeout=10)
        try:
            connection.request(method, url.path + path, body, {"Content-Type": "application/json", **({"Idempotency-Key": key} if key else {})})
            answer = connection.getresponse()
            answer.read()
            return answer.status
        except (OSError, http.client.HTTPException):
            return None
        finally:
            connection.close()

    def rows(self, sql, *values):
        with self.lock:
            return self.db.execute(sql, values).fetchall()

    def write(self, sql, *values):
        with self.lock:
            self.db.execute(sql, values)


def factory(env):
    return Receiver(env)
