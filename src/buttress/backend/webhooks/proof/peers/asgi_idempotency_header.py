"""asgi-idempotency-header 0.2.0, the middleware for Starlette and FastAPI, on Redis: as its README says ("Setup", "Configuration").

``Middleware(IdempotencyHeaderMiddleware, backend=RedisBackend(...))`` around a FastAPI app, keyed by ``webhook-id``; answers are
kept for 30 days, far beyond any retry. In its best form here: the signature is checked outside of it, so that no forgery can
replay an answer or leave one behind; and a failure is answered as text, because it keeps every JSON answer, a 500 as well.
Runs in an environment of its own: standard library, the package, ``fastapi``, ``redis`` and, for the race, uvicorn.

It reads no clock: its record of a request under way has no expiry, that of an answer is Redis's own, in the machine's time.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import http.client
import json
import socket
import threading
from urllib.parse import urlsplit

import redis.asyncio
from fastapi import FastAPI, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.middleware import Middleware
from fastapi.responses import JSONResponse, PlainTextResponse
from idempotency_header_middleware import IdempotencyHeaderMiddleware
from idempotency_header_middleware.backends import RedisBackend

KEPT_S = 30 * 24 * 3600
ANSWER_MAX_S = 60
PATH = "/default"
PAYMENTS = ("invoice.paid", "checkout.session.completed", "payment_intent.succeeded")


class Signed:
    """Verifies each delivery over its raw body and hands it on; what nobody signed gets no further."""

    def __init__(self, app, env):
        self.app, self.env = app, env

    async def __call__(self, scope, receive, send):
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        if not verified(self.env, headers, body.decode("utf-8", "replace")):
            await PlainTextResponse("", 401)(scope, receive, send)
            return

        async def again():
            return {"type": "http.request", "body": body, "more_body": False}

        await self.app(scope, again, send)


def application(env, act):
    backend = RedisBackend(redis=redis.asyncio.Redis.from_url(env.world["redis"]), expiry=KEPT_S)
    app = FastAPI(openapi_url=None, middleware=[
        Middleware(Signed, env=env),
        Middleware(IdempotencyHeaderMiddleware, backend=backend, idempotency_header_key="webhook-id"),
    ])

    @app.post(PATH)
    async def receive(request: Request):
        delivery = {"id": request.headers["webhook-id"], "body": (await request.body()).decode()}
        try:
            await run_in_threadpool(act, delivery)
        except (OSError, http.client.HTTPException):
            return PlainTextResponse("", 500)
        except ValueError:  # not JSON
            return PlainTextResponse("", 400)
        return JSONResponse({"ok": True})

    return app


class Receiver:
    """The app without a socket: a delivery is one ASGI call, in a loop of its own thread."""

    def __init__(self, env, act):
        self.app = application(env, act)
        self.loop = asyncio.new_event_loop()
        threading.Thread(target=self.loop.run_forever, daemon=True).start()

    def deliver(self, headers, body):
        return asyncio.run_coroutine_threadsafe(self.call(headers, body.encode()), self.loop).result(ANSWER_MAX_S)

    async def call(self, headers, body):
        answers = []
        scope = {"type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST", "scheme": "http", "path": PATH, "raw_path": PATH.encode(),
                 "query_string": b"", "root_path": "", "server": ("127.0.0.1", 80), "client": ("127.0.0.1", 1),
                 "headers": [(name.lower().encode("latin-1"), value.encode("latin-1", "replace")) for name, value in headers.items()]}

        async def receive():
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message):
            if message["type"] == "http.response.start":
                answers.append(message["status"])

        try:
            await self.app(scope, receive, send)
        except redis.RedisError:
            return 500
        return answers[0]

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


# -- the race: the same app behind uvicorn


class Served:
    def __init__(self, env):
        self.taken = 0
        self.app = application(env, self.take)
        self.url = ""

    def take(self, delivery):
        self.taken += 1

    def serve(self):
        if not self.url:
            import uvicorn

            listener = socket.create_server(("127.0.0.1", 0), backlog=128)
            server = uvicorn.Server(uvicorn.Config(self.app, access_log=False, log_level="error", lifespan="off", loop="uvloop", http="httptools"))
            threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True).start()
            self.url = f"http://127.0.0.1:{listener.getsockname()[1]}{PATH}"
        return self.url

    def done(self):
        return self.taken


def serve(env):
    return Served(env)
