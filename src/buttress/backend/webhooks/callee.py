"""Those whom effects are sent to, by what they honour. The kind is an explicit choice: it decides what a lost answer means.

``keyed``: it honours our key (Idempotency-Key), so what may have happened is simply sent again. ``lookup``: it honours none,
but answers whether it has something under our reference, so a doubt is resolved by evidence. ``at_most_once`` and
``at_least_once``: neither; each doubt is listed, and the choice says on which side to err.

Source of the key header: draft-ietf-httpapi-idempotency-key-header.
"""

from __future__ import annotations

import http.client
import selectors
import socket
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from inspect import iscoroutinefunction
from typing import Any, Literal
from urllib.parse import quote, urlsplit

import msgspec

from buttress.kernel.errors import ButtressError, InvalidInput

Kind = Literal["keyed", "lookup", "at_most_once", "at_least_once"]
TIMEOUT_S = 10.0
REMEMBERS_S = 24 * 3600.0
IDLE_MAX_S = 5.0


class Rejected(ButtressError):
    """For good: the callee refused, and nothing happened. Raised by ``send`` or by a handler; makes a dead letter.

    The message is stored and shown: no personal data in it.
    """

    code = "rejected"


class NotSent(ButtressError):
    """For now: known not to have happened. Tried again, after ``after_s`` seconds at the earliest if that is given."""

    code = "not_sent"

    def __init__(self, message: str, *, after_s: float | None = None) -> None:
        super().__init__(message)
        self.after_s = after_s


class Unanswered(ButtressError):
    """It may have happened: the request went out, and no answer came that says."""

    code = "unanswered"


@dataclass(frozen=True)
class Effect:
    """What a callee is sent. ``key`` is the same at every attempt: the Idempotency-Key, or our reference for a look-up."""

    name: str
    key: str
    payload: Mapping[str, Any]
    attempt: int


# Both return bytes or None and nothing else, and raise where it did not succeed: Rejected, NotSent, or anything else for "not known".
Send = Callable[[Effect], bytes | None]
Find = Callable[[str], bytes | None]  # None: it is not there


@dataclass(frozen=True)
class Callee:
    """Made by ``keyed``, ``lookup``, ``at_most_once`` or ``at_least_once``."""

    kind: Kind
    send: Send
    find: Find | None = None
    timeout_s: float = TIMEOUT_S
    remembers_s: float = REMEMBERS_S

    def __post_init__(self) -> None:
        if not callable(self.send) or (self.kind == "lookup" and not callable(self.find)):
            raise InvalidInput("send, find", type(self.send).__name__, "must be callable")
        if iscoroutinefunction(self.send) or iscoroutinefunction(self.find):
            raise InvalidInput("send, find", "async", "must be plain functions: they run in a thread of their own")
        if not 0 < self.timeout_s <= 3600:
            raise InvalidInput("timeout_s", self.timeout_s, "must be above 0 and at most 3600 seconds")
        if self.remembers_s <= 0:
            raise InvalidInput("remembers_s", self.remembers_s, "must be above 0 seconds")


def keyed(send: Send, *, remembers_s: float = REMEMBERS_S, timeout_s: float = TIMEOUT_S) -> Callee:
    """``send(effect)`` passes ``effect.key`` on, and the callee acts once for each key.

    ``remembers_s`` is how long it does (Stripe: 24 hours at least; ``math.inf``: for ever). What has been in doubt for longer is not sent again but
    listed, as with ``at_most_once``.
    """
    return Callee("keyed", send, timeout_s=timeout_s, remembers_s=remembers_s)


def lookup(send: Send, find: Find, *, timeout_s: float = TIMEOUT_S) -> Callee:
    """``find(key)`` returns what the callee has under our reference, or None if it has nothing.

    ``timeout_s`` is how long a send, and the callee's work on it, can take: a doubt is looked up only after that.
    """
    return Callee("lookup", send, find, timeout_s)


def at_most_once(send: Send, *, timeout_s: float = TIMEOUT_S) -> Callee:
    """A doubtful effect is never sent again: it is listed, and may be lost."""
    return Callee("at_most_once", send, timeout_s=timeout_s)


def at_least_once(send: Send, *, timeout_s: float = TIMEOUT_S) -> Callee:
    """A doubtful effect is sent again: it is listed, and may have happened twice."""
    return Callee("at_least_once", send, timeout_s=timeout_s)


class HttpCallee:
    """Sends an effect as a JSON POST over a connection that is kept, one for each thread. Standard library only.

    ``key_header`` carries the key (None: no header). ``reference_field`` puts the key into the body, for callees that answer
    look-ups; ``find_url`` then holds ``{reference}``: 200 is evidence, 404 is none. Answers: 2xx is success; 400 to 499 other
    than 408, 409, 425 and 429 is Rejected; 425, 429 and 503 is NotSent; anything else, and a connection lost after the request
    went out, is Unanswered. So is a redirect, which is not followed: a 303 is how many answer what they have done.
    """

    def __init__(self, url: str, *, key_header: str | None = "Idempotency-Key", reference_field: str | None = None, find_url: str | None = None,
                 timeout_s: float = TIMEOUT_S, headers: Mapping[str, str] | None = None, response_max_bytes: int = 65_536) -> None:
        self._scheme, self._host, self._port, self._path = _split("url", url)
        self._find = _split("find_url", find_url) if find_url else None
        if find_url and "{reference}" not in find_url:
            raise InvalidInput("find_url", find_url, "must hold {reference}")
        if self._find and self._find[:3] != (self._scheme, self._host, self._port):
            raise InvalidInput("find_url", find_url, "must be on the same host as url")
        self._key_header = key_header
        self._reference_field = reference_field
        self._timeout_s = timeout_s
        self._headers = dict(headers or {})
        self._response_max_bytes = response_max_bytes
        self._local = threading.local()

    def __call__(self, effect: Effect) -> bytes | None:
        """Sends it. Returns the body of the answer, cut at ``response_max_bytes``."""
        payload = {**effect.payload, self._reference_field: effect.key} if self._reference_field else effect.payload
        headers = {"Content-Type": "application/json", **self._headers}
        if self._key_header:
            headers[self._key_header] = effect.key
        status, body, after = self._request("POST", self._path, msgspec.json.encode(payload), headers)
        if 200 <= status < 300:
            return body
        if status in (425, 429, 503):
            raise NotSent(f"HTTP {status}", after_s=after)
        if 400 <= status < 500 and status not in (408, 409):
            raise Rejected(f"HTTP {status}")
        raise Unanswered(f"HTTP {status}")

    def find(self, reference: str) -> bytes | None:
        """What the callee has under our reference; None: nothing."""
        if self._find is None:
            raise InvalidInput("find_url", None, "is needed for a look-up")
        status, body, _ = self._request("GET", self._find[3].replace("{reference}", quote(reference, safe="")), None, self._headers)
        if status == 404:
            return None
        if 200 <= status < 300:
            return body
        raise Unanswered(f"look-up: HTTP {status}")

    def _request(self, method: str, path: str, body: bytes | None, headers: Mapping[str, str]) -> tuple[int, bytes, float | None]:
        connection = self._connection()
        try:
            if connection.sock is None:
                connection.connect()
        except OSError as error:
            connection.close()
            raise NotSent(f"no connection: {type(error).__name__}") from error
        try:
            connection.request(method, path, body, dict(headers))
            answer = connection.getresponse()
            data = answer.read(self._response_max_bytes + 1)
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise Unanswered(f"no answer: {type(error).__name__}") from error
        if not answer.isclosed() or answer.will_close:
            connection.close()
        self._local.used = time.monotonic()
        after = answer.headers.get("Retry-After", "")
        return answer.status, data[: self._response_max_bytes], float(after) if after.isascii() and after.isdigit() and len(after) < 7 else None

    def _connection(self) -> http.client.HTTPConnection:
        """This thread's connection. One that the callee may have closed meanwhile is opened anew: a send into it would be a doubt."""
        connection: http.client.HTTPConnection | None = getattr(self._local, "connection", None)
        if connection is None:
            if self._scheme == "https":
                connection = http.client.HTTPSConnection(self._host, self._port, timeout=self._timeout_s, context=ssl.create_default_context())
            else:
                connection = http.client.HTTPConnection(self._host, self._port, timeout=self._timeout_s)
            self._local.connection = connection
        elif connection.sock is not None and (time.monotonic() - self._local.used > IDLE_MAX_S or _readable(connection.sock)):
            connection.close()
        return connection


def _readable(sock: socket.socket) -> bool:
    """On an idle connection this means that the other side closed it."""
    with selectors.DefaultSelector() as selector:
        selector.register(sock, selectors.EVENT_READ)
        return bool(selector.select(0))


def _split(field: str, url: str) -> tuple[str, str, int | None, str]:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.fragment:
        raise InvalidInput(field, parts.scheme, "must be an http or https URL without user and fragment")
    path = parts.path or "/"
    return parts.scheme, parts.hostname, parts.port, f"{path}?{parts.query}" if parts.query else path
