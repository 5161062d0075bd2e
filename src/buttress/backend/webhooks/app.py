"""The receiver as an ASGI app: one path an endpoint, acknowledged after the commit, many deliveries in one commit.

The loop reads, caps and verifies; what is good waits in a list that one thread inserts at once (``Store.submit``), so that a
commit takes whatever arrived while the last one was synced. Handlers and effects run in threads of their own.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
import threading
import time
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from buttress.backend.webhooks.driver import drive
from buttress.backend.webhooks.inbox import TOO_LARGE, UNAVAILABLE, Answer, Inbox, Received
from buttress.backend.webhooks.ledger import Ledger
from buttress.kernel.errors import InvalidInput, Unavailable
from buttress.kernel.failpoint import failpoint
from buttress.kernel.store import Store

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Waiting = tuple[Inbox, Received, "asyncio.Future[Answer]"]

LATENCY_BUCKETS_S = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
SENDER_THREADS_MAX = 8
log = logging.getLogger("buttress.webhooks")


@dataclass(frozen=True)
class AppConfig:
    """The limits of the service. Seconds and counts.

    ``waiting_max`` deliveries may wait for the store; what comes on top is answered 503. ``batch_max`` go into one commit.
    ``metrics_token`` is asked for as a bearer credential at ``/metrics``. ``work`` False: this process only receives.
    """

    metrics_token: str | None = None
    batch_max: int = 256
    waiting_max: int = 2048
    body_timeout_s: float = 10.0
    work: bool = True
    work_limit: int = 64
    poll_s: float = 1.0

    def __post_init__(self) -> None:
        if self.metrics_token is not None and not self.metrics_token.strip():
            raise InvalidInput("metrics_token", "blank", "must not be blank", fix="leave it None to ask for none")
        for name in ("batch_max", "waiting_max", "body_timeout_s", "work_limit", "poll_s"):
            if getattr(self, name) <= 0:
                raise InvalidInput(name, getattr(self, name), "must be above 0")


def create_app(inboxes: Inbox | Mapping[str, Inbox], config: AppConfig | None = None) -> App:
    """An ASGI app: ``POST /<name>`` for each inbox, ``GET /healthz``, ``GET /metrics``. One inbox is served under its endpoint's name."""
    named = {inboxes.endpoint: inboxes} if isinstance(inboxes, Inbox) else dict(inboxes)
    if not named:
        raise InvalidInput("inboxes", "none", "must hold at least one")
    for name in named:
        if not name or name.strip("/") != name or name in ("healthz", "metrics"):
            raise InvalidInput("inboxes", name, "must be a path without a slash at either end, other than healthz and metrics")
    return App(named, config or AppConfig())


class App:
    """Made by ``create_app``. Call ``start`` and ``stop`` where the server knows no lifespan."""

    def __init__(self, inboxes: Mapping[str, Inbox], config: AppConfig) -> None:
        self._config = config
        self._meters = _Meters()
        self._executor = ThreadPoolExecutor(len({id(inbox.store) for inbox in inboxes.values()}), thread_name_prefix="webhooks-store")
        self._aside = ThreadPoolExecutor(1, thread_name_prefix="webhooks-look")  # who asks how we are must not hold up a delivery
        self._probe: asyncio.Future[None] | None = None
        self._drivers = _Drivers(list(inboxes.values()), config)
        batchers = {id(inbox.store): _Batcher(inbox.store, self._executor, config, self._drivers.wake) for inbox in inboxes.values()}
        self._endpoints = {f"/{name}": _Endpoint(inbox, batchers[id(inbox.store)], self._meters, config) for name, inbox in inboxes.items()}

    def start(self) -> None:
        """Starts the threads that handle events and send effects."""
        if self._config.work:
            self._drivers.start()

    def stop(self) -> None:
        """Lets them finish what they hold. What is left is taken up at the next start."""
        self._drivers.stop()
        self._executor.shutdown(wait=True)
        self._aside.shutdown(wait=True)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
            return
        if scope["type"] != "http":
            return
        path = scope["path"].removeprefix(scope.get("root_path", ""))  # ASGI: the path includes where the app is mounted
        endpoint = self._endpoints.get(path)
        if endpoint is not None:
            if scope["method"] == "POST":
                await endpoint(scope, receive, send)
            else:
                await _respond(send, 405, b'{"code":"method"}', [(b"allow", b"POST")])
        elif path == "/healthz" and scope["method"] in ("GET", "HEAD"):
            await self._health(send)
        elif path == "/metrics" and scope["method"] == "GET":
            await self._metrics(scope, send)
        else:
            await _respond(send, 404, b'{"code":"no_such_endpoint"}')

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                self.start()
                await send({"type": "lifespan.startup.complete"})
            elif message["type"] == "lifespan.shutdown":
                await asyncio.get_running_loop().run_in_executor(None, self.stop)
                await send({"type": "lifespan.shutdown.complete"})
                return

    async def _health(self, send: Send) -> None:
        """Many who ask at once share one look at the store."""
        if self._probe is None or self._probe.done():
            self._probe = asyncio.get_running_loop().run_in_executor(self._aside, self._touch)
        try:
            await asyncio.wait_for(asyncio.shield(self._probe), timeout=2.0)
        except Exception as error:
            log.error("the store does not answer", extra={"reason": type(error).__name__})
            await _respond(send, 503, b'{"status":"unavailable"}')
            return
        await _respond(send, 200, b'{"status":"ok"}')

    def _touch(self) -> None:
        for endpoint in self._endpoints.values():
            with endpoint.inbox.store.transaction() as tx:
                tx.one("SELECT 1")

    async def _metrics(self, scope: Scope, send: Send) -> None:
        token = self._config.metrics_token
        if token is not None:
            given = dict(scope["headers"]).get(b"authorization", b"")
            if not hmac.compare_digest(given, b"Bearer " + token.encode()):
                await _respond(send, 401, b'{"code":"credential"}', [(b"www-authenticate", b"Bearer")])
                return
        try:
            page = await asyncio.get_running_loop().run_in_executor(self._aside, self._meters.page, [e.inbox for e in self._endpoints.values()])
        except Unavailable:
            await _respond(send, 503, b'{"status":"unavailable"}')
            return
        await _respond(send, 200, page, [(b"content-type", CONTENT_TYPE_LATEST.encode())])


class _Endpoint:
    """One path: reads with a cap and a timeout, verifies, waits for the commit, answers."""

    def __init__(self, inbox: Inbox, batcher: _Batcher, meters: _Meters, config: AppConfig) -> None:
        self.inbox = inbox
        self._batcher = batcher
        self._count = partial(meters.answer, inbox.endpoint)
        self._wanted = {name.encode(): name for name in inbox.verifier.headers}
        self._max_bytes = inbox.config.body_max_bytes
        self._timeout_s = config.body_timeout_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        began = time.perf_counter()
        answer = await self._answer(scope, receive)
        if answer is None:
            return  # the sender has gone: there is nobody to answer
        more = _MORE.get(answer.status, ())
        await _respond(send, answer.status, b'{"code":"%s"}' % answer.code.encode(), more)
        self._count(answer.code, time.perf_counter() - began)
        if answer.status != 200:
            log.warning("a delivery was not taken", extra={"endpoint": self.inbox.endpoint, "status": answer.status, "code": answer.code})

    async def _answer(self, scope: Scope, receive: Receive) -> Answer | None:
        headers: dict[str, str] = {}
        for name, value in scope["headers"]:
            known = self._wanted.get(name)
            if known is not None:
                if known in headers:
                    return Answer(400, "malformed", f"the header {known} came twice")
                headers[known] = value.decode("latin-1")
            elif name == b"content-length":
                if not value.isdigit():  # RFC 9110, section 8.6: digits, and nothing else
                    return Answer(400, "malformed", "Content-Length must be a whole number")
                if len(value) > 18 or int(value) > self._max_bytes:
                    return Answer(413, TOO_LARGE)
        try:
            async with asyncio.timeout(self._timeout_s):  # from the headers on: a body of which nothing comes holds no place for ever
                body = await self._body(receive)
        except TimeoutError:
            return Answer(408, "slow_body")
        if body is None:
            return None
        if len(body) > self._max_bytes:
            return Answer(413, TOO_LARGE)
        received = self.inbox.prepare(headers, body)
        return received if isinstance(received, Answer) else await self._batcher.add(self.inbox, received)

    async def _body(self, receive: Receive) -> bytes | None:
        """The body, also one that comes in pieces; stops reading as soon as it is too large. None: the sender has gone."""
        pieces: list[bytes] = []
        size, more = 0, True
        while more and size <= self._max_bytes:
            message = await receive()
            if message["type"] != "http.request":
                return None
            pieces.append(message.get("body", b""))
            size, more = size + len(pieces[-1]), message.get("more_body", False)
        return b"".join(pieces)


class _Batcher:
    """What waits for one store. One batch is under way at a time; the next one takes what came meanwhile."""

    def __init__(self, store: Store, executor: ThreadPoolExecutor, config: AppConfig, stored: Callable[[], None]) -> None:
        self._store = store
        self._executor = executor
        self._batch_max = config.batch_max
        self._waiting_max = config.waiting_max
        self._stored = stored
        self._waiting: list[Waiting] = []
        self._busy = False

    async def add(self, inbox: Inbox, received: Received) -> Answer:
        if len(self._waiting) >= self._waiting_max:
            return UNAVAILABLE
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Answer] = loop.create_future()
        self._waiting.append((inbox, received, future))
        if not self._busy:
            self._busy = True
            loop.call_soon(self._begin, loop)  # after the other deliveries that this turn of the loop reads
        return await future

    def _begin(self, loop: asyncio.AbstractEventLoop) -> None:
        batch, self._waiting = self._waiting[: self._batch_max], self._waiting[self._batch_max:]
        self._busy = bool(batch)
        if batch:
            loop.run_in_executor(self._executor, self._insert, batch).add_done_callback(partial(self._end, loop, batch))

    def _insert(self, batch: list[Waiting]) -> list[Answer]:
        """In a thread of the executor."""
        order = sorted(range(len(batch)), key=lambda at: (batch[at][0].endpoint, *Ledger.order(batch[at][1].event)))
        try:
            by_place = self._store.submit(lambda tx: {at: batch[at][0].insert(tx, batch[at][1]) for at in order})
        except Unavailable as error:
            return [inbox.unavailable(error) for inbox, _, _ in batch]
        except Exception as error:  # one of them may be the cause: it shall not take the others with it
            if len(batch) == 1:
                return [batch[0][0].unavailable(error)]
            return [inbox.keep(received) for inbox, received, _ in batch]
        failpoint("inbox.stored")
        self._stored()
        return [by_place[at] for at in range(len(batch))]

    def _end(self, loop: asyncio.AbstractEventLoop, batch: list[Waiting], done: asyncio.Future[list[Answer]]) -> None:
        error = done.exception()
        answers = [UNAVAILABLE] * len(batch) if error else done.result()
        if error:
            log.error("a batch could not be stored", extra={"reason": type(error).__name__})
        for (_, _, future), answer in zip(batch, answers, strict=True):
            if not future.done():
                future.set_result(answer)
        self._begin(loop)


class _Drivers:
    """The threads behind the receiver: one handles events, a few send effects. They poll, and are woken by what arrives."""

    def __init__(self, inboxes: list[Inbox], config: AppConfig) -> None:
        self._inboxes = inboxes
        self._config = config
        self._stopping = threading.Event()
        self._events = threading.Event()
        self._effects = [threading.Event() for _ in range(min(len(inboxes), SENDER_THREADS_MAX))]
        self._threads: list[threading.Thread] = []

    def wake(self) -> None:
        """Events have arrived."""
        self._events.set()

    def start(self) -> None:
        limit = self._config.work_limit
        jobs: list[tuple[list[Inbox], Callable[[Inbox], int], threading.Event]] = [(self._inboxes, partial(self._handle, limit), self._events)]
        for number, signal in enumerate(self._effects):
            jobs.append((self._inboxes[number::len(self._effects)], lambda inbox: inbox.work_effects(limit), signal))
        for inboxes, step, signal in jobs:
            thread = threading.Thread(target=self._drive, args=(inboxes, step, signal), name="webhooks-work", daemon=True)
            self._threads.append(thread)
            thread.start()

    def stop(self) -> None:
        self._stopping.set()
        for signal in (self._events, *self._effects):
            signal.set()
        for thread in self._threads:
            thread.join(timeout=30)

    def _handle(self, limit: int, inbox: Inbox) -> int:
        count = inbox.work_events(limit)
        if count:
            for signal in self._effects:
                signal.set()
        return count

    def _drive(self, inboxes: list[Inbox], step: Callable[[Inbox], int], signal: threading.Event) -> None:
        steps = [(inbox.endpoint, partial(step, inbox)) for inbox in inboxes]
        drive(steps, self._stopping, signal, poll_s=self._config.poll_s, retire=self._retire if signal is self._events else None)

    def _retire(self) -> None:
        for inbox in self._inboxes:
            inbox.retire()


class _Meters:
    """Prometheus metrics of one app, in a registry of its own."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._answers = Counter("buttress_webhooks_answers", "Deliveries by the code of their answer", ["endpoint", "code"], registry=self._registry)
        self._ack = Histogram("buttress_webhooks_ack_seconds", "From the first byte of a delivery read to its answer", ["endpoint"],
                              buckets=LATENCY_BUCKETS_S, registry=self._registry)
        self._waiting = Gauge("buttress_webhooks_waiting_events", "Events received and not settled", ["endpoint"], registry=self._registry)
        self._age = Gauge("buttress_webhooks_oldest_event_seconds", "Age of the oldest event that is not settled", ["endpoint"], registry=self._registry)
        self._dead = Gauge("buttress_webhooks_dead_events", "Events given up", ["endpoint"], registry=self._registry)
        self._effects = Gauge("buttress_webhooks_waiting_effects", "Effects not sent yet", ["endpoint"], registry=self._registry)
        self._cells: dict[tuple[str, str], tuple[Callable[[], None], Callable[[float], None]]] = {}

    def answer(self, endpoint: str, code: str, seconds: float) -> None:
        cells = self._cells.get((endpoint, code))
        if cells is None:
            cells = self._cells[endpoint, code] = (self._answers.labels(endpoint, code).inc, self._ack.labels(endpoint).observe)
        cells[0]()
        cells[1](seconds)

    def page(self, inboxes: list[Inbox]) -> bytes:
        for inbox in inboxes:
            backlog = inbox.backlog()
            self._waiting.labels(inbox.endpoint).set(backlog.events)
            self._age.labels(inbox.endpoint).set(max(0.0, inbox.store.clock.now() - backlog.oldest) if backlog.oldest is not None else 0.0)
            self._dead.labels(inbox.endpoint).set(backlog.dead)
            self._effects.labels(inbox.endpoint).set(backlog.effects)
        return generate_latest(self._registry)


class JsonLines(logging.Formatter):
    """A log record as one JSON object: time, level, message, and the fields that were passed as ``extra``."""

    _OWN = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName", "color_message"}

    def format(self, record: logging.LogRecord) -> str:
        fields = {name: value for name, value in record.__dict__.items() if name not in self._OWN}
        line = {"at": round(record.created, 3), "level": record.levelname.lower(), "logger": record.name, "message": record.getMessage(), **fields}
        return json.dumps(line, default=str)


_MORE: Mapping[int, tuple[tuple[bytes, bytes], ...]] = {
    401: ((b"www-authenticate", b"Signature"),),
    408: ((b"connection", b"close"),),
    409: ((b"retry-after", b"5"),),
    413: ((b"connection", b"close"),),
    503: ((b"retry-after", b"5"),),
}


async def _respond(send: Send, status: int, body: bytes, more: list[tuple[bytes, bytes]] | tuple[tuple[bytes, bytes], ...] = ()) -> None:
    headers = [(b"content-length", b"%d" % len(body)), *more]
    if not any(name == b"content-type" for name, _ in more):
        headers.append((b"content-type", b"application/json"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
