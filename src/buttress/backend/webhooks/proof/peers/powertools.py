"""AWS Lambda Powertools for Python, Idempotency utility, on Redis: as its documentation says (features 3.x, "Idempotency").

``@idempotent_function`` with ``CachePersistenceLayer``, the event's id by JMESPath, payload validation by ``body``, and a Lambda
context so that an INPROGRESS record expires. Records are kept for 30 days, far beyond any retry: its best form here.
Runs in an environment of its own: standard library, ``aws-lambda-powertools[redis]`` and, for the race, uvicorn.

On this store its payload validation refuses a genuine duplicate as well: ``_update_record`` drops the hash when a record completes
(3.37.0; the same was powertools-lambda-typescript #5705). So a duplicate is answered 409 and comes again; it is never acted on.

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
import os
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from urllib.parse import urlsplit

os.environ.setdefault("POWERTOOLS_SERVICE_NAME", "webhooks")
import redis
from aws_lambda_powertools.utilities.idempotency import IdempotencyConfig, idempotent_function
from aws_lambda_powertools.utilities.idempotency.exceptions import (
    IdempotencyAlreadyInProgressError,
    IdempotencyPersistenceLayerError,
    IdempotencyValidationError,
)
from aws_lambda_powertools.utilities.idempotency.persistence.cache import CachePersistenceLayer

HANDLER_TIMEOUT_MS = 60_000
KEPT_S = 30 * 24 * 3600
PAYMENTS = ("invoice.paid", "checkout.session.completed", "payment_intent.succeeded")
WITH_TIME = ("persistence.base", "persistence.datarecord", "persistence.redis", "base")


def live_in(clock):
    class Datetime(datetime.datetime):
        @classmethod
        def now(cls, tz=None):
            return datetime.datetime.fromtimestamp(clock.now(), tz)

    stand_in = SimpleNamespace(datetime=Datetime, timedelta=datetime.timedelta, timezone=datetime.timezone)
    for name in WITH_TIME:
        module = importlib.import_module(f"aws_lambda_powertools.utilities.idempotency.{name}")
        if not hasattr(module, "dt"):
            raise RuntimeError(f"{name} no longer reads its time where this file expects it")
        module.dt = stand_in
    record = importlib.import_module("aws_lambda_powertools.utilities.idempotency.persistence.datarecord").DataRecord
    if record("k", expiry_timestamp=int(clock.now()) - 10).is_expired is not True:
        raise RuntimeError("the virtual clock does not reach it")


class Receiver:
    def __init__(self, env, act):
        self.env = env
        live_in(env.clock)
        config = IdempotencyConfig(event_key_jmespath="id", payload_validation_jmespath="body", expires_after_seconds=KEPT_S)
        config.register_lambda_context(SimpleNamespace(get_remaining_time_in_millis=lambda: HANDLER_TIMEOUT_MS))
        store = CachePersistenceLayer(client=redis.Redis.from_url(env.world["redis"]))

        @idempotent_function(data_keyword_argument="event", config=config, persistence_store=store)
        def handle(*, event):
            act(event)
            return {"ok": True}

        self.handle = handle

    def deliver(self, headers, body):
        if not verified(self.env, headers, body):
            return 401
        try:
            self.handle(event={"id": headers["webhook-id"], "body": body})
        except (IdempotencyAlreadyInProgressError, IdempotencyValidationError):
            return 409
        except (OSError, http.client.HTTPException, IdempotencyPersistenceLayerError):
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
    except (KeyError, ValueError):
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
        except OSError:
            connection.close()
            raise
        if answer.status >= 300:
            raise ConnectionError(callee)


def factory(env):
    return Receiver(env, Callees(env.world))


# -- the race: the same receiver behind uvicorn, its blocking work in threads


class Served:
    def __init__(self, env):
        self.taken = 0
        self.receiver = Receiver(env, lambda event: None)
        self.pool = ThreadPoolExecutor(max_workers=40)
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
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        status = await asyncio.get_running_loop().run_in_executor(self.pool, self.receiver.deliver, headers, body.decode())
        self.taken += status == 200
        await send({"type": "http.response.start", "status": status, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"{}"})


def serve(env):
    return Served(env)
