"""The gateway under probe: which hosts may be asked, how a request is sent, and how its answer is read."""

from __future__ import annotations

import http.client
import re
import ssl
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import urlsplit

from buttress.identity.jwt_gate.source import is_loopback
from buttress.kernel.errors import InvalidInput

Reading = Literal["in", "out", "unclear"]
BODY_READ = 65_536
REFUSALS = "status:400,401,403,413,414,431"


@dataclass(frozen=True)
class Answer:
    """What came back. ``problem`` is set where nothing did."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    body: str = field(default="", repr=False)
    problem: str = ""


@dataclass(frozen=True)
class Condition:
    """``200``, ``status:401,403``, ``header:Name=text`` (``header:Name`` alone: it is there) or ``body:text``."""

    text: str

    def __post_init__(self) -> None:
        kind, _, rest = self.text.partition(":")
        codes = self.text if self.text.isdigit() else rest if kind == "status" else None
        if codes is not None:
            if not re.fullmatch(r"[1-5]\d\d(,[1-5]\d\d)*", codes):
                raise InvalidInput("condition", self.text, "statuses are three digits, parted by commas")
        elif kind not in ("header", "body") or not rest:
            raise InvalidInput("condition", self.text, "must be 200, status:401,403, header:Name=text or body:text")

    def holds(self, answer: Answer) -> bool:
        kind, _, rest = self.text.partition(":")
        if self.text.isdigit():
            return answer.status == int(self.text)
        if kind == "status":
            return str(answer.status) in rest.split(",")
        if kind == "body":
            return rest in answer.body
        name, equal, value = rest.partition("=")
        found = answer.headers.get(name.lower())
        return found is not None and (not equal or value in found)


@dataclass(frozen=True)
class Signs:
    """How let in and refused are told apart. In: all of ``expect`` and none of ``refuse``. Out: the reverse. Else unclear."""

    expect: tuple[Condition, ...] = (Condition("200"),)
    refuse: tuple[Condition, ...] = (Condition(REFUSALS),)

    def read(self, answer: Answer) -> Reading:
        if answer.problem:
            return "unclear"
        met, refused = all(c.holds(answer) for c in self.expect), any(c.holds(answer) for c in self.refuse)
        return "unclear" if met == refused else "in" if met else "out"


def check_allowed(url: str, allowed: Sequence[str], consent: bool) -> None:
    """Loopback always; another host only where it is named and the owner's consent is given. Raises InvalidInput."""
    parts = urlsplit(url)
    host = (parts.hostname or "").lower()
    if parts.scheme not in ("http", "https") or not host:
        raise InvalidInput("url", url, "must be http or https")
    if parts.username or parts.password:
        raise InvalidInput("url", host, "must hold no credentials")
    if is_loopback(host):
        return
    if host not in {name.lower() for name in allowed}:
        raise InvalidInput("url", host, "only loopback is probed unasked", fix=f"name it: --allow-host {host}, if the gateway is yours")
    if not consent:
        raise InvalidInput("url", host, "probing needs the consent of its owner", fix="--i-own-this-gateway")


class Target:
    """Sends a token as bearer (or in ``header`` with ``prefix``) to one URL. No redirect is followed. ``rate``: requests a second, 0: no limit."""

    def __init__(self, url: str, *, method: str = "GET", header: str = "Authorization", prefix: str = "Bearer ", timeout_s: float = 10.0, rate: float = 0.0,
                 sleep: Callable[[float], None] = time.sleep) -> None:
        if method not in ("GET", "HEAD", "OPTIONS"):
            raise InvalidInput("method", method, "must be one that changes nothing: GET, HEAD or OPTIONS")
        self.url, self.method, self.header, self.prefix = url, method, header, prefix
        self._parts, self._timeout_s, self._rate, self._sleep = urlsplit(url), timeout_s, rate, sleep
        self._next = 0.0
        self.requests = 0

    def send(self, token: str) -> Answer:
        """One request. Whatever goes wrong is an Answer with a ``problem``."""
        if self._rate > 0:
            wait = self._next - time.monotonic()
            if wait > 0:
                self._sleep(wait)
            self._next = time.monotonic() + 1 / self._rate
        host, port = self._parts.hostname or "", self._parts.port
        path = (self._parts.path or "/") + (f"?{self._parts.query}" if self._parts.query else "")
        connection = http.client.HTTPSConnection(host, port, timeout=self._timeout_s, context=ssl.create_default_context()) \
            if self._parts.scheme == "https" else http.client.HTTPConnection(host, port, timeout=self._timeout_s)
        self.requests += 1
        try:
            connection.putrequest(self.method, path)
            connection.putheader(self.header, f"{self.prefix}{token}".encode("latin-1"))
            connection.putheader("Connection", "close")
            connection.endheaders()
            response = connection.getresponse()
            body = response.read(BODY_READ).decode("utf-8", "replace")
            return Answer(response.status, {name.lower(): value for name, value in response.getheaders()}, body)
        except (OSError, http.client.HTTPException, ValueError) as error:
            return Answer(0, problem=type(error).__name__)
        finally:
            connection.close()
