"""The race: verified events per second over HTTP, 40 in flight, acknowledged when the receiver says that it has them.

Each subject serves on a socket of its own process; the load comes from this one. Handlers do nothing in all of them: what is
compared is verify, remember, answer. Ours answers after a commit that was synced; the others when Redis has the marker.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import socket
import threading
import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from buttress.backend.webhooks import world
from buttress.backend.webhooks.inbox import Inbox
from buttress.backend.webhooks.proof.subjects import Naive
from buttress.backend.webhooks.signature import Verifier
from buttress.kernel.store.sqlite import SqliteStore
from buttress.proof import Env, Trial

IN_FLIGHT = 40
_numbers = itertools.count()


def lap(trial: Trial, port: Any) -> Mapping[str, float]:
    """One lap: fresh ids, signed now. Every answer must be 200, and as many events be stored (or marked) as were acknowledged.

    Else the lap raises, and the subject leaves the race: it would be void. Only the load is timed.
    """
    url = trial.url or port.serve()
    requests = _requests(url, trial.size.lap_events)
    before = None if trial.url else port.done()  # a stranger at a URL has no ``done`` to ask
    cpu = trial.cpu_s()
    began = time.perf_counter()
    latencies = asyncio.run(_load(url, requests))
    wall_s = time.perf_counter() - began
    cpu = trial.cpu_s() - cpu
    if before is not None and (stored := port.done() - before) != len(latencies):
        raise ValueError(f"{len(latencies)} events were acknowledged, and {stored} are there")
    latencies.sort()
    return {
        "events_per_s": len(latencies) / wall_s,
        "ack_p99_ms": 1000 * latencies[int(0.99 * (len(latencies) - 1))],
        "cpu_us_per_event": 1e6 * cpu / len(latencies),
    }


def _requests(url: str, count: int) -> list[bytes]:
    parts = urlsplit(url)
    now, made = time.time(), []
    pad = "x" * 3000
    for _ in range(count):
        id = f"evt_race_{os.getpid()}_{next(_numbers)}"
        body = f'{{"type":"invoice.paid","data":{{"payment":"{id}","amount_minor":1000,"currency":"EUR","note":"{pad}"}}}}'
        headers = "".join(f"{name}: {value}\r\n" for name, value in world.sign(id, body, now).items())
        made.append((f"POST {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\nContent-Type: application/json\r\n{headers}"
                     f"Content-Length: {len(body)}\r\n\r\n{body}").encode())
    return made


class _Client(asyncio.Protocol):
    """One connection that sends the next request when the answer to the last one is there."""

    def __init__(self, queue: list[bytes], latencies: list[float], done: asyncio.Future[None]) -> None:
        self.queue, self.latencies, self.done = queue, latencies, done
        self.buffer = b""
        self.sent = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: Any = transport
        self._next()

    def _next(self) -> None:
        if not self.queue:
            self.transport.close()
            if not self.done.done():
                self.done.set_result(None)
            return
        self.sent = time.perf_counter()
        self.transport.write(self.queue.pop())

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        head, found, rest = self.buffer.partition(b"\r\n\r\n")
        if not found:
            return
        length = next((int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")), 0)
        if len(rest) < length:
            return
        if not head.startswith(b"HTTP/1.1 200"):
            self._fail(f"a genuine delivery was answered {head[:40]!r}")
            return
        self.latencies.append(time.perf_counter() - self.sent)
        self.buffer = b""
        self._next()

    def connection_lost(self, error: Exception | None) -> None:
        self._fail("the connection was closed")

    def _fail(self, why: str) -> None:
        if not self.done.done():
            self.done.set_exception(ConnectionError(why))


async def _load(url: str, queue: list[bytes]) -> list[float]:
    loop = asyncio.get_running_loop()
    parts = urlsplit(url)
    latencies: list[float] = []
    waits = []
    for _ in range(IN_FLIGHT):
        done: asyncio.Future[None] = loop.create_future()
        await loop.create_connection(lambda done=done: _Client(queue, latencies, done), parts.hostname or "", parts.port or 80)  # type: ignore[misc]
        waits.append(done)
    async with asyncio.timeout(60):
        await asyncio.gather(*waits)
    return latencies


class _Server:
    """uvicorn on a free port, in a thread of the subject's process."""

    def __init__(self, app: Any, lifespan: str) -> None:
        self._app, self._lifespan, self._url = app, lifespan, ""

    def serve(self) -> str:
        if not self._url:
            import uvicorn

            listener = socket.create_server(("127.0.0.1", 0), backlog=128)
            config = uvicorn.Config(self._app, access_log=False, log_level="error", interface="asgi3", lifespan=self._lifespan, loop="uvloop", http="httptools")  # type: ignore[arg-type]
            threading.Thread(target=uvicorn.Server(config).run, kwargs={"sockets": [listener]}, daemon=True).start()
            self._url = f"http://127.0.0.1:{listener.getsockname()[1]}/default"
        return self._url


class ServedInbox(_Server):
    """Ours: the ASGI receiver on SQLite, with its worker running."""

    def __init__(self, env: Env) -> None:
        from buttress.backend.webhooks.app import create_app

        self.inbox = Inbox(SqliteStore(os.path.join(env.dir, "inbox.db")), Verifier.standard(env.world["secret"]))

        @self.inbox.on("invoice.paid")
        def paid(event: Any, ctx: Any) -> None:
            return None

        super().__init__(create_app(self.inbox), "on")

    def done(self) -> int:
        with self.inbox.store.transaction() as tx:
            row = tx.one("SELECT count(*) FROM buttress_webhooks_event")
        return int(row[0]) if row else 0


class ServedSetNx(_Server):
    """The case's remedy on Redis, with its asynchronous client."""

    def __init__(self, env: Env) -> None:
        import redis.asyncio

        self.naive = Naive(env)
        self.redis = redis.asyncio.Redis.from_url(env.world["redis"])
        self.taken = 0
        super().__init__(self._handle, "off")

    async def _handle(self, scope: Any, receive: Any, send: Any) -> None:
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        status = 401
        if self.naive.verified(headers, body.decode()):
            fresh = await self.redis.set(f"webhook:{headers['webhook-id']}", 1, nx=True, ex=172_800)
            self.taken += bool(fresh)  # not in one line: the sum would be that of before the wait
            status = 200
        await send({"type": "http.response.start", "status": status, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"{}"})

    def done(self) -> int:
        return self.taken


def serve_buttress(env: Env) -> ServedInbox:
    return ServedInbox(env)


def serve_setnx(env: Env) -> ServedSetNx:
    return ServedSetNx(env)


__all__ = ["ServedInbox", "ServedSetNx", "lap", "serve_buttress", "serve_setnx"]
