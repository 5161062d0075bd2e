"""idempotency-kit 0.5.0, the decorator for asyncio services, on Redis: as its quick start and its docstrings say.

``@async_idempotent`` on a use case, its coordinator over ``RedisAsyncIdempotencyRepository``, keyed by ``webhook-id``, the body
as fingerprint. In its best form here: a second caller gets a 409 (``in_flight="raise"``), a store that is down stops the
handler (``on_storage_error="raise"``; the default runs it unprotected), and records are kept for 30 days, the most it allows.
Runs in an environment of its own: standard library, ``idempotency-kit[redis]`` and, for the race, uvicorn.

Its clock is ``datetime.now()``; so that it lives in the proof's virtual time, its modules are given a ``datetime`` that
reads the proof's clock, and the factory refuses to start where that does not hold.
"""

from __future__ import annotations

import asyncio
import base64
import datetime
import hashlib
import hmac
import http.client
import importlib
import json
import logging
import socket
import threading
from urllib.parse import urlsplit

import redis.asyncio
from idempotency_kit import (
    AsyncIdempotencyCoordinator,
    IdempotencyDomainService,
    IdempotencyInProgressError,
    IdempotencyKeyReuseError,
    IdempotencyRecord,
    IdempotencyStorageError,
    JsonResultAdapter,
    async_idempotent,
)
from idempotency_kit.infra.storage.redis.aio import RedisAsyncIdempotencyRepository

KEPT_S = 30 * 24 * 3600
ANSWER_MAX_S = 60
PAYMENTS = ("invoice.paid", "checkout.session.completed", "payment_intent.succeeded")
WITH_TIME = ("models.entities", "services.aio.coordinator")


def live_in(clock):
    class Datetime(datetime.datetime):
        @classmethod
        def now(cls, tz=None):
            return datetime.datetime.fromtimestamp(clock.now(), tz)

    for name in WITH_TIME:
        module = importlib.import_module(f"idempotency_kit.core.{name}")
        if not hasattr(module, "datetime"):
            raise RuntimeError(f"{name} no longer reads its time where this file expects it")
        module.datetime = Datetime
    made = IdempotencyRecord.create("webhook", "k", None, 10)
    if abs(made.created_at.timestamp() - clock.now()) > 5:
        raise RuntimeError("the virtual clock does not reach it")


class Handler:
    """The use case."""

    def __init__(self, coordinator, act):
        self.coordinator = coordinator
        self.act = act

    @async_idempotent(operation="webhook", adapter=JsonResultAdapter(), ttl_seconds=KEPT_S, fingerprint_params=("body",))
    async def execute(self, body, idempotency_key=None):
        await asyncio.to_thread(self.act, {"id": idempotency_key, "body": body})
        return {"ok": True}


class Receiver:
    """The use case in a loop of its own thread."""

    def __init__(self, env, act):
        self.env = env
        logging.getLogger("idempotency_kit").setLevel(logging.CRITICAL)
        live_in(env.clock)
        repository = RedisAsyncIdempotencyRepository(redis.asyncio.Redis.from_url(env.world["redis"]))
        coordinator = AsyncIdempotencyCoordinator(repository, IdempotencyDomainService(), in_flight="raise", on_storage_error="raise")
        self.handler = Handler(coordinator, act)
        self.loop = None

    def deliver(self, headers, body):
        if self.loop is None:
            self.loop = asyncio.new_event_loop()
            threading.Thread(target=self.loop.run_forever, daemon=True).start()
        return asyncio.run_coroutine_threadsafe(self.take(headers, body), self.loop).result(ANSWER_MAX_S)

    async def take(self, headers, body):
        if not verified(self.env, headers, body):
            return 401
        try:
            await self.handler.execute(body=body, idempotency_key=headers["webhook-id"])
        except (IdempotencyInProgressError, IdempotencyKeyReuseError):
            return 409
        except (OSError, http.client.HTTPException, IdempotencyStorageError):
            return 500
        except ValueError:  # not JSON
            return 400
        return 200

    def work(self):
        return None


def verified(env, headers, body):
    try:
        stamp = headers["webhook-timestamp"]
        if abs(env.clock.now() - int(stamp)) > 300:
            return False
        signed = f"{headers['webhook-id']}.{stamp}.{body}".encode()
        wanted = "v1," + base64.b64encode(hmac.new(base64.b64decode(env.world["secret"]), signed, hashlib.sha256).digest()).decode()
        return any(hmac.compare_digest(wanted, given) for given in headers["webhook-signature"].split())
    except (KeyError, ValueError, TypeError):
        return False


class Callees:
    """The handler's effects, over one connection a callee and thread."""

    def __init__(self, world):
        self.world = world
        self.local = threading.local()

    def __call__(self, delivery):
        event = json.loads(delivery["body"])
        data = event["data"]
        if event["type"] in PAYMENTS:
            for callee in ("orders", "emails", "credits"):
                self.post(callee, {"reference": f"{callee}:{data['payment']}"})
        elif event["type"] == "order.updated":
            self.post("orders", {"reference": f"status:{delivery['id']}", "object": data["order"], "status": data["status"]})

    def post(self, callee, payload):
        parts = urlsplit(self.world[callee])
        connections = self.local.__dict__.setdefault("connections", {})
        connection = connections.setdefault(callee, http.client.HTTPConnection(parts.hostname, parts.port, timeout=10))
        try:
            connection.request("POST", parts.path, json.dumps(payload), {"Content-Type": "application/json"})
            answer = connection.getresponse()
            answer.read()
        except (OSError, http.client.HTTPException):
            connection.close()
            raise
        if answer.status >= 300:
            raise ConnectionError(callee)


def factory(env):
    return Receiver(env, Callees(env.world))


# -- the race: the same receiver behind uvicorn, in uvicorn's own loop


class Served:
    def __init__(self, env):
        self.taken = 0
        self.receiver = Receiver(env, lambda event: None)
        self.url = ""

    def serve(self):
        if not self.url:
            import uvicorn

            listener = socket.create_server(("127.0.0.1", 0), backlog=128)
            server = uvicorn.Server(uvicorn.Config(self.app, access_log=False, log_level="error", interface="asgi3", lifespan="off", loop="uvloop", http="httptools"))
            threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True).start()
            self.url = f"http://127.0.0.1:{listener.getsockname()[1]}/default"
        return self.url

    def done(self):
        return self.taken

    async def app(self, scope, receive, send):
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        status = await self.receiver.take(headers, body.decode())
        self.taken += status == 200
        await send({"type": "http.response.start", "status": status, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"{}"})


def serve(env):
    return Served(env)
