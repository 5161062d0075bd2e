"""Who is judged: the ways that broke, and ours. Each factory gives a Receiver."""

from __future__ import annotations

import base64
import hashlib
import hmac
import http.client
import json
import os
import random
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from buttress.backend.webhooks.callee import (
    Effect,
    HttpCallee,
    NotSent,
    Rejected,
    Unanswered,
    at_least_once,
    at_most_once,
    keyed,
    lookup,
)
from buttress.backend.webhooks.event import Event
from buttress.backend.webhooks.inbox import Inbox, InboxConfig
from buttress.backend.webhooks.signature import Verifier
from buttress.backend.webhooks.worker import Context
from buttress.kernel.errors import Stale, Unavailable
from buttress.kernel.failpoint import failpoint
from buttress.kernel.idempotency import Done, InFlight, Mismatch, New, Unknown
from buttress.kernel.idempotency_redis import RedisIdempotency
from buttress.kernel.store import Schema, Store
from buttress.kernel.store.sqlite import SqliteStore
from buttress.proof import Env

LEASE_S = 60.0
TTL_S = 48 * 3600.0
PAYMENTS = ("invoice.paid", "checkout.session.completed", "payment_intent.succeeded")


# -- ours


class Ours:
    """The inbox as an adopter writes it: handlers, callees by what they honour, a worker that is called when it is due."""

    def __init__(self, env: Env, store: Store) -> None:
        inbox = Inbox(store, Verifier.standard(env.world["secret"]), config=InboxConfig(lease_s=LEASE_S), rng=random.Random(env.seed))
        world = env.world
        inbox.callee("orders", keyed(HttpCallee(world["orders"])))
        inbox.callee("emails", keyed(HttpCallee(world["emails"])))
        credits = HttpCallee(world["credits"], key_header=None, reference_field="key", find_url=world["credits"] + "/{reference}")
        inbox.callee("credits", lookup(credits, credits.find))
        if "coupons" in world:
            inbox.callee("coupons", at_most_once(HttpCallee(world["coupons"], key_header=None)))
            inbox.callee("points", at_least_once(HttpCallee(world["points"], key_header=None)))
        self.inbox = inbox

        @inbox.on(*PAYMENTS)
        def paid(event: Event, ctx: Context) -> None:
            name = event.data["data"]["payment"]
            for callee in ("orders", "emails", "credits", *(("coupons", "points") if "coupons" in world else ())):
                ctx.effect(callee, key=name, payload={"reference": f"{callee}:{name}"})

        @inbox.on("order.updated", order_by=lambda event: (event.data["data"]["order"], event.data["data"]["version"]))
        def changed(event: Event, ctx: Context) -> None:
            data = event.data["data"]
            ctx.effect("orders", key=f"{data['order']}:{data['version']}", in_order=data["order"],
                       payload={"reference": f"status:{event.id}", "object": data["order"], "status": data["status"]})

    def deliver(self, headers: Mapping[str, str], body: str) -> int:
        return self.inbox.receive(headers, body.encode()).status

    def work(self) -> float | None:
        return self.inbox.work()

    def close(self) -> None:
        self.inbox.store.close()


def buttress(env: Env) -> Ours:
    """On SQLite, the embedded default."""
    return Ours(env, SqliteStore(os.path.join(env.dir, "inbox.db"), clock=env.clock))


def buttress_postgres(env: Env) -> Ours:
    from buttress.kernel.store.postgres import PostgresStore

    return Ours(env, PostgresStore(env.world["postgres"], clock=env.clock, create=True))


# -- yours, as a service


class AtUrl:
    """A receiver that is reached over HTTP: what it does on its own it does in its own time."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self.host, self.port, self.path = parts.hostname or "", parts.port, (parts.path or "/") + (f"?{parts.query}" if parts.query else "")

    def deliver(self, headers: Mapping[str, str], body: str) -> int:
        connection = http.client.HTTPConnection(self.host, self.port, timeout=20)
        try:
            connection.request("POST", self.path, body.encode(), {"Content-Type": "application/json", **headers})
            answer = connection.getresponse()
            answer.read()
            return answer.status
        finally:
            connection.close()

    def work(self) -> float | None:
        return None


def at_url(url: str, env: Env) -> AtUrl:
    return AtUrl(url)


# -- the ways that broke


class Naive:
    """No protection: verify, act, answer. Whatever is delivered again is done again."""

    def __init__(self, env: Env) -> None:
        self.env = env
        self.connections: dict[str, http.client.HTTPConnection] = {}

    def deliver(self, headers: Mapping[str, str], body: str) -> int:
        if not self.verified(headers, body):
            return 401
        if self.seen(headers["webhook-id"]):
            return 200
        failpoint("marked")
        try:
            self.act(json.loads(body), headers["webhook-id"])
        except (OSError, http.client.HTTPException):
            self.forget(headers["webhook-id"])
            return 500
        failpoint("acted")
        return 200

    def work(self) -> float | None:
        return None

    def seen(self, id: str) -> bool:
        return False

    def forget(self, id: str) -> None:
        """After an error that it noticed: the mark goes, so that the retry is let in."""

    def verified(self, headers: Mapping[str, str], body: str) -> bool:
        try:
            id, stamp = headers["webhook-id"], headers["webhook-timestamp"]
            if abs(self.env.clock.now() - int(stamp)) > 300:
                return False
            mac = hmac.new(base64.b64decode(self.env.world["secret"]), f"{id}.{stamp}.{body}".encode(), hashlib.sha256).digest()
            wanted = "v1," + base64.b64encode(mac).decode()
            return any(hmac.compare_digest(wanted, given) for given in headers["webhook-signature"].split())
        except (KeyError, ValueError):
            return False

    def act(self, event: dict[str, Any], id: str) -> None:
        data = event["data"]
        if event["type"] in PAYMENTS:
            for callee in ("orders", "emails", "credits", "coupons", "points"):
                if callee in self.env.world:
                    self.post(callee, {"reference": f"{callee}:{data['payment']}"})
                    failpoint(f"acted.{callee}")
        elif event["type"] == "order.updated":
            self.post("orders", {"reference": f"status:{id}", "object": data["order"], "status": data["status"]})

    def post(self, callee: str, payload: Mapping[str, object]) -> None:
        parts = urlsplit(self.env.world[callee])
        connection = self.connections.get(callee)
        if connection is None:
            connection = self.connections[callee] = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=10)
        try:
            connection.request("POST", parts.path, json.dumps(payload), {"Content-Type": "application/json"})
            answer = connection.getresponse()
            answer.read()
        except OSError:
            connection.close()
            raise
        if answer.status >= 300:
            raise ConnectionError(f"{callee} answered {answer.status}")


MARKERS = Schema("proof.setnx", 1, ("CREATE TABLE marker (id TEXT PRIMARY KEY, expires {real} NOT NULL)",))


class SetNx(Naive):
    """The case's own remedy: SET id NX EX 172800, then act. Its store is embedded, on the harness's clock."""

    def __init__(self, env: Env) -> None:
        super().__init__(env)
        self.store = SqliteStore(os.path.join(env.dir, "markers.db"), clock=env.clock)
        self.store.setup(MARKERS)

    def seen(self, id: str) -> bool:
        now = self.env.clock.now()
        with self.store.transaction() as tx:
            tx.execute("DELETE FROM marker WHERE id = ? AND expires <= ?", (id, now))
            return tx.execute("INSERT INTO marker VALUES (?, ?) ON CONFLICT DO NOTHING", (id, now + TTL_S)) == 0

    def forget(self, id: str) -> None:
        with self.store.transaction() as tx:
            tx.execute("DELETE FROM marker WHERE id = ?", (id,))


class SetNxRedis(Naive):
    """The same on a real Redis. Its keys cannot live in virtual time, so what has expired on our clock is deleted first."""

    def __init__(self, env: Env) -> None:
        super().__init__(env)
        import redis

        self.redis = redis.Redis.from_url(env.world["redis"], socket_timeout=5)

    def seen(self, id: str) -> bool:
        key, now = f"webhook:{id}", self.env.clock.now()
        expires = self.redis.get(key)
        if expires is not None and float(expires) <= now:
            self.redis.delete(key)
        return not self.redis.set(key, now + TTL_S, nx=True, ex=int(TTL_S))

    def forget(self, id: str) -> None:
        self.redis.delete(f"webhook:{id}")


class Fenced(Naive):
    """The kernel's claims on Redis, as carefully as a receiver can use them: fence, intent, keys for the callees that honour one,
    in doubt a look-up at the one that does not. Weaker than the inbox, and documented so: what Redis forgets is New.
    """

    def __init__(self, env: Env) -> None:
        super().__init__(env)
        self.claims = RedisIdempotency.from_url(env.world["redis"], "webhooks", clock=env.clock)
        self.callees = {name: HttpCallee(env.world[name]) for name in ("orders", "emails")}
        self.credits = HttpCallee(env.world["credits"], key_header=None, find_url=env.world["credits"] + "/{reference}")

    def deliver(self, headers: Mapping[str, str], body: str) -> int:
        if not self.verified(headers, body):
            return 401
        try:
            id, event = headers["webhook-id"], json.loads(body)
        except ValueError:
            return 400
        try:
            claim = self.claims.claim(id, hashlib.sha256(body.encode()).digest(), LEASE_S)
            if isinstance(claim, Done):
                return 200
            if isinstance(claim, InFlight | Mismatch):
                return 409
            if isinstance(claim, New):
                self.claims.intend(id, claim.fence, b"its effects")
            self.perform(event, id, in_doubt=isinstance(claim, Unknown))
            self.claims.settle(id, claim.fence, b"200")
        except (Stale, Unavailable, NotSent, Rejected, Unanswered):
            return 503  # the intent stays: who claims the event after the lease finds out what became of it
        failpoint("acted")
        return 200

    def perform(self, event: dict[str, Any], id: str, *, in_doubt: bool) -> None:
        data = event["data"]
        if event["type"] in PAYMENTS:
            for callee, send in self.callees.items():
                send(Effect(callee, f"{id}:{callee}", {"reference": f"{callee}:{data['payment']}"}, 1))
                failpoint(f"acted.{callee}")
            reference = f"credits:{data['payment']}"
            if not (in_doubt and self.credits.find(reference)):
                self.credits(Effect("credits", reference, {"reference": reference}, 1))
            failpoint("acted.credits")
        elif event["type"] == "order.updated":
            payload = {"reference": f"status:{id}", "object": data["order"], "status": data["status"]}
            self.callees["orders"](Effect("orders", f"{id}:status", payload, 1))


def none(env: Env) -> Naive:
    return Naive(env)


def setnx(env: Env) -> SetNx:
    return SetNx(env)


def setnx_redis(env: Env) -> SetNxRedis:
    return SetNxRedis(env)


def fenced_redis(env: Env) -> Fenced:
    return Fenced(env)


__all__ = ["AtUrl", "Fenced", "Naive", "Ours", "SetNx", "SetNxRedis", "at_url", "buttress", "buttress_postgres", "fenced_redis", "none", "setnx", "setnx_redis"]
