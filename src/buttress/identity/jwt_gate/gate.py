"""``JwtGate``: an ASGI layer that lets a request through to the app only with a genuine bearer token (RFC 6750)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping
from typing import Any, Protocol

from buttress.identity.jwt_gate.claims import Claims
from buttress.identity.jwt_gate.keys import Pending
from buttress.identity.jwt_gate.refusal import KeysUnavailable, Refused

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
OnError = Callable[[Refused | KeysUnavailable], tuple[int, Mapping[str, str], bytes]]

WAITING_MAX = 64
log = logging.getLogger("buttress.jwt_gate")


class Judge(Protocol):
    """A Verifier, or Issuers."""

    def verify(self, token: str | bytes, *, wait: bool = True) -> Claims: ...


def bearer(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """The one bearer token of a request's headers. Raises Refused ``no_token``, ``two_tokens`` or ``scheme``."""
    found = [value for name, value in headers if name.lower() == b"authorization"]
    if not found:
        raise Refused("no_token")
    if len(found) > 1:
        raise Refused("two_tokens")
    scheme, _, token = found[0].strip().partition(b" ")
    if scheme.lower() != b"bearer":
        raise Refused("scheme")
    token = token.strip(b" ")
    if not token:
        raise Refused("no_token")
    if b"," in token:  # two header lines that a proxy joined
        raise Refused("two_tokens")
    return token


async def judge(verifier: Judge, token: bytes, waiting: asyncio.Semaphore) -> Claims:
    """The verdict. On this loop where the keys are at hand; from a thread, a few at a time, where they must be fetched first."""
    try:
        return verifier.verify(token, wait=False)
    except Pending:
        async with waiting:
            return await asyncio.to_thread(verifier.verify, token)


def rfc6750(error: Refused | KeysUnavailable) -> tuple[int, Mapping[str, str], bytes]:
    """Status, headers and body of a refusal: the code, the rule and nothing of the token (RFC 6750 3)."""
    if isinstance(error, KeysUnavailable):
        return 503, {"retry-after": "5"}, b'{"error":"temporarily_unavailable"}'
    if error.code == "no_token":  # RFC 6750 3.1: without credentials, no error code
        return 401, {"www-authenticate": "Bearer"}, b'{"error":"no_token"}'
    status, kind = (400, "invalid_request") if error.code in ("two_tokens", "scheme") else (401, "invalid_token")
    body = f'{{"error":"{kind}","code":"{error.code}"}}'.encode()
    return status, {"www-authenticate": f'Bearer error="{kind}", error_description="{error.code}"'}, body


class JwtGate:
    """``JwtGate(app, verifier)``. The app finds what the token says in ``scope["state"]["claims"]``, a Claims.

    ``open_paths`` are let through without a token, letter by letter: no pattern, no prefix. WebSockets are refused before they
    are accepted. ``on_error`` makes the answer of a refusal.
    """

    def __init__(self, app: App, verifier: Judge, on_error: OnError = rfc6750, *, open_paths: Iterable[str] = ()) -> None:
        self._app, self._verifier, self._on_error = app, verifier, on_error
        self._open = frozenset(open_paths)
        self._waiting = asyncio.Semaphore(WAITING_MAX)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        scope = {**scope, "state": {name: value for name, value in scope.get("state", {}).items() if name != "claims"}}
        if scope["type"] == "http" and scope["path"] in self._open:
            await self._app(scope, receive, send)
            return
        try:
            claims = await judge(self._verifier, bearer(scope["headers"]), self._waiting)
        except (Refused, KeysUnavailable) as error:
            log.info("refused", extra={"code": error.code, "path": scope["path"]})
            await self._refuse(scope, send, error)
            return
        scope["state"]["claims"] = claims
        await self._app(scope, receive, send)

    async def _refuse(self, scope: Scope, send: Send, error: Refused | KeysUnavailable) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
            return
        status, headers, body = self._on_error(error)
        listed = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body)), (b"cache-control", b"no-store"),
                  *((name.encode(), value.encode()) for name, value in headers.items())]
        await send({"type": "http.response.start", "status": status, "headers": listed})
        await send({"type": "http.response.body", "body": body})
