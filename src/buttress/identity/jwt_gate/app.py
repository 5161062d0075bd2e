"""The sidecar: ``/verify`` for nginx ``auth_request`` and the like. 200 lets in, 401 refuses, 503 cannot tell (nginx: 500, closed)."""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import quote

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest

from buttress.identity.jwt_gate.claims import Claims
from buttress.identity.jwt_gate.gate import WAITING_MAX, Judge, Receive, Scope, Send, bearer, judge, rfc6750
from buttress.identity.jwt_gate.jwks import JwksProvider
from buttress.identity.jwt_gate.refusal import KeysUnavailable, Refused
from buttress.kernel.errors import InvalidInput

log = logging.getLogger("buttress.jwt_gate")
BUCKETS_S = (0.00002, 0.00005, 0.0001, 0.0002, 0.0005, 0.001, 0.005, 0.05, 0.5, 5)
VALUE_MAX = 512


@dataclass(frozen=True)
class SidecarConfig:
    """``forward`` maps claims to the response headers that carry them on (``auth_request_set``), percent-encoded where they are no
    plain ASCII. ``metrics_token`` is the bearer credential of ``/metrics`` and ``/state``; without one they are for nobody.
    ``scopes``: all of them must be in the token's ``scope``, else 403.
    """

    forward: Mapping[str, str] = field(default_factory=lambda: {"sub": "x-auth-subject", "scope": "x-auth-scope"})
    metrics_token: str | None = field(default=None, repr=False)
    scopes: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        for name in self.forward.values():
            if not name.startswith("x-") or not name.replace("-", "").isalnum() or name != name.lower():
                raise InvalidInput("forward", name, "must be header names in small letters that begin with x-")


def create_app(verifier: Judge, config: SidecarConfig | None = None, keys: JwksProvider | None = None) -> Sidecar:
    """An ASGI app: ``/verify`` judges the request's own Authorization header, whatever the method; ``/healthz``, ``/metrics``, ``/state``."""
    return Sidecar(verifier, config or SidecarConfig(), keys)


class Sidecar:
    """See ``create_app``."""

    def __init__(self, verifier: Judge, config: SidecarConfig, keys: JwksProvider | None) -> None:
        self._verifier, self._config, self._keys = verifier, config, keys
        self._waiting = asyncio.Semaphore(WAITING_MAX)
        self._registry = CollectorRegistry()
        self._answers = Counter("buttress_jwt_gate_verdicts", "Requests by the code of their verdict", ["code"], registry=self._registry)
        self._took = Histogram("buttress_jwt_gate_seconds", "From request to verdict", buckets=BUCKETS_S, registry=self._registry)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        elif scope["type"] != "http":
            return
        elif scope["path"] == "/verify":
            await self._verify(scope, send)
        elif scope["path"] == "/healthz":
            usable = self._keys is None or bool(self._keys.state["usable"])
            await _respond(send, 200 if usable else 503, b'{"usable":%s}' % (b"true" if usable else b"false"))
        elif scope["path"] in ("/metrics", "/state"):
            await self._inside(scope, send)
        else:
            await _respond(send, 404, b'{"error":"not_found"}')

    async def _verify(self, scope: Scope, send: Send) -> None:
        began = time.perf_counter()
        try:
            claims = await judge(self._verifier, bearer(scope["headers"]), self._waiting)
        except (Refused, KeysUnavailable) as error:
            self._answers.labels(error.code).inc()
            log.info("refused", extra={"code": error.code})
            status, headers, body = rfc6750(error)
            # nginx knows 2xx, 401 and 403 as answers of auth_request; 400 would be its own error 500
            await _respond(send, 401 if status == 400 else status, body, headers)
            return
        finally:
            self._took.observe(time.perf_counter() - began)
        if not self._config.scopes <= claims.scopes:
            self._answers.labels("scope").inc()
            await _respond(send, 403, b'{"error":"insufficient_scope"}', {"www-authenticate": 'Bearer error="insufficient_scope"'})
            return
        self._answers.labels("in").inc()
        await _respond(send, 200, b"{}", self._forwarded(claims))

    def _forwarded(self, claims: Claims) -> dict[str, str]:
        """Claims as headers. What is no text, or longer than 512 letters, is left out; no value can end its line."""
        found = {}
        for claim, header in self._config.forward.items():
            value = claims.get(claim)
            if isinstance(value, str) and len(value) <= VALUE_MAX:
                found[header] = quote(value, safe=" !#$&'()*+,/:;=?@[]|~-._")
        return found

    async def _inside(self, scope: Scope, send: Send) -> None:
        wanted = self._config.metrics_token
        try:
            given = bearer(scope["headers"])
        except Refused:
            given = b""
        if not wanted or not hmac.compare_digest(given, wanted.encode()):
            await _respond(send, 401, b'{"error":"no_token"}', {"www-authenticate": "Bearer"})
        elif scope["path"] == "/metrics":
            await _respond(send, 200, generate_latest(self._registry), {"content-type": "text/plain; version=0.0.4"})
        else:
            await _respond(send, 200, json.dumps(self._keys.state if self._keys is not None else {}).encode())

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                if self._keys is not None:
                    await asyncio.to_thread(self._keys.refresh)  # a failure shows on /healthz; the next request tries again
                await send({"type": "lifespan.startup.complete"})
            else:
                await send({"type": "lifespan.shutdown.complete"})
                return


async def _respond(send: Send, status: int, body: bytes, headers: Mapping[str, str] | None = None) -> None:
    listed = {"content-type": "application/json", "cache-control": "no-store", **(headers or {}), "content-length": str(len(body))}
    await send({"type": "http.response.start", "status": status, "headers": [(n.encode(), v.encode()) for n, v in listed.items()]})
    await send({"type": "http.response.body", "body": body})
