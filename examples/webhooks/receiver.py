"""A webhook receiver in plain Python: no import of Buttress, one SQLite file, nothing lost and nothing done twice.

    buttress prove webhooks --subject examples/webhooks/receiver.py:factory

An event is stored, together with what it asks for, before it is acknowledged. What it asks for is a row with a name of its
own, so a duplicate, a retry on day three and a second event about the same payment all find that row there. ``work`` sends
what is not done yet, one after the other and in one process. A send that nobody answered is repeated under the same key,
or looked up first where no key is honoured.
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
TIMEOUT_S = 10
RETRY_S = 60
KEYS_LIVE_S = 23 * 3600  # the callees honour a key for 24 hours: what is in doubt for longer is for a person, and never sent again
PAYMENTS = ("invoice.paid", "checkout.session.completed", "payment_intent.succeeded")
TABLES = """
PRAGMA journal_mode = WAL;
PRAGMA synchronous = FULL;
CREATE TABLE IF NOT EXISTS event (id TEXT PRIMARY KEY, body TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS effect (callee TEXT, key TEXT, body TEXT NOT NULL, due REAL, doubt REAL, PRIMARY KEY (callee, key));
CREATE TABLE IF NOT EXISTS orders (name TEXT PRIMARY KEY, version INTEGER NOT NULL, body TEXT NOT NULL, due REAL);
"""  # due: when to try next, NULL when it is done. doubt: since when it may have happened without our knowing, else NULL


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
                fresh = self.db.execute("INSERT OR IGNORE INTO event VALUES (?, ?)", (headers["webhook-id"], body)).rowcount
                if fresh:
                    self.note(headers["webhook-id"], body)
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

    def note(self, id, body):
        """What an event asks for, in the transaction that stores it."""
        try:
            event, now = json.loads(body), self.clock.now()
            kind, data = event["type"], event["data"]
        except (ValueError, KeyError, TypeError):
            return  # signed, but nothing that we can read: it is stored, for a person to look at
        if kind in PAYMENTS:
            for callee in ("orders", "emails", "credits"):
                key = f"{callee}:{data['payment']}"  # named after the payment: two events about it are one effect
                self.db.execute("INSERT OR IGNORE INTO effect VALUES (?, ?, ?, ?, NULL)", (callee, key, json.dumps({"reference": key}), now))
        elif kind == "order.updated":  # deliveries come in any order: what is older than what we know is over
            status = json.dumps({"reference": f"status:{id}", "object": data["order"], "status": data["status"]})
            self.db.execute("INSERT INTO orders VALUES (?1, ?2, ?3, ?4) ON CONFLICT (name) DO UPDATE SET version = ?2, body = ?3, due = ?4 "
                            "WHERE version < ?2", (data["order"], data["version"], status, now))

    # -- what is due

    def work(self):
        """Sends what is due; returns when to call again, None when nothing waits."""
        for callee, key, body, doubt in self.rows("SELECT callee, key, body, doubt FROM effect WHERE due <= ?", self.clock.now()):
            self.effect(callee, key, body, doubt)
        for name, version, body in self.rows("SELECT name, version, body FROM orders WHERE due <= ?", self.clock.now()):
            status = self.send("POST", "orders", "", body, f"{name}:{version}")  # a state that is set twice is set
            due = None if status == 200 else self.clock.now() + RETRY_S
            self.write("UPDATE orders SET due = ? WHERE name = ? AND version = ?", due, name, version)
        (due,), = self.rows("SELECT min(due) FROM (SELECT due FROM effect UNION ALL SELECT due FROM orders)")
        return due

    def effect(self, callee, key, body, doubt):
        """One attempt. The doubt is on disk before the request leaves, and goes when an answer says what became of it."""
        now = self.clock.now()
        if doubt and callee == "credits":  # honours no key, but tells what it has under our reference
            if now < doubt + TIMEOUT_S:
                return self.settle(callee, key, doubt + TIMEOUT_S, doubt)
            found = self.send("GET", callee, "/" + quote(key), None, None)
            if found != 404:
                return self.settle(callee, key, None if found == 200 else now + RETRY_S, doubt)
            doubt = None  # it has nothing, so nothing happened
        elif doubt and now > doubt + KEYS_LIVE_S:
            return self.settle(callee, key, now + KEYS_LIVE_S, doubt)
        self.settle(callee, key, now, doubt or now)
        status = self.send("POST", callee, "", body, key)
        if status == 200:
            return self.settle(callee, key, None, None)
        return self.settle(callee, key, now + RETRY_S, doubt if status == 503 else doubt or now)  # 503: nothing happened this time

    def settle(self, callee, key, due, doubt):
        self.write("UPDATE effect SET due = ?, doubt = ? WHERE callee = ? AND key = ?", due, doubt, callee, key)

    def send(self, method, callee, path, body, key):
        """The status of the answer, or None where none came: then nobody knows."""
        url = urlsplit(self.world[callee])
        connection = http.client.HTTPConnection(url.hostname, url.port, timeout=TIMEOUT_S)
        try:
            connection.request(method, url.path + path, body, {"Content-Type": "application/json", **({"Idempotency-Key": key} if key else {})})
            answer = connection.getresponse()
            answer.read()
            return answer.status
        except (OSError, http.client.HTTPException):
            return None
        finally:
            connection.close()

    # -- the file

    def rows(self, sql, *values):
        with self.lock:
            return self.db.execute(sql, values).fetchall()

    def write(self, sql, *values):
        with self.lock:
            self.db.execute(sql, values)


def factory(env):
    return Receiver(env)
