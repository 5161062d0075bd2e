"""Where JWK sets come from: the network and the disk, and nothing else of this system that does I/O on its own."""

from __future__ import annotations

import contextlib
import http.client
import ipaddress
import os
import socket
import ssl
import threading
from collections.abc import Callable, Sequence
from urllib.parse import urlsplit

from buttress.identity.jwt_gate.refusal import KeysUnavailable
from buttress.kernel.errors import InvalidInput

Fetch = Callable[[], bytes]  # the body of a document; raises KeysUnavailable
DOCUMENT_BYTES_MAX = 65_536
_JSON = ("application/json", "application/jwk-set+json")


def is_loopback(host: str) -> bool:
    """Whether a host, by its name or number, is this machine: without asking any resolver."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class HttpsSource:
    """GET of one https URL whose host is pinned. No redirect, 64 kB at most, JSON only, one deadline for all of it."""

    def __init__(self, url: str, allowed_hosts: Sequence[str], *, timeout_s: float = 5.0, loopback_http: bool = False,
                 context: ssl.SSLContext | None = None) -> None:
        parts = urlsplit(url)
        host = (parts.hostname or "").lower()
        if parts.scheme != "https" and not (parts.scheme == "http" and loopback_http and is_loopback(host)):
            raise InvalidInput("url", url, "must be https (http only on loopback, and only where that is allowed)")
        if host not in {name.lower() for name in allowed_hosts}:
            raise InvalidInput("url", url, f"its host must be one of {', '.join(allowed_hosts) or 'none'}")
        if parts.username or parts.password or parts.fragment or any(c.isspace() for c in url):
            raise InvalidInput("url", host, "must hold neither credentials nor a fragment nor blanks")
        self._host, self._port, self._tls = host, parts.port, parts.scheme == "https"
        self._path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        self._timeout_s, self._context = timeout_s, context

    def __call__(self) -> bytes:
        connection = http.client.HTTPSConnection(self._host, self._port, timeout=self._timeout_s, context=self._context or ssl.create_default_context()) \
            if self._tls else http.client.HTTPConnection(self._host, self._port, timeout=self._timeout_s)
        late = threading.Event()
        watch: threading.Timer | None = None
        try:
            connection.connect()
            watch = threading.Timer(self._timeout_s, _cut, (connection.sock, late))  # a server that sends a letter a second keeps every timeout of a socket
            watch.daemon = True
            watch.start()
            connection.request("GET", self._path, headers={"Accept": ", ".join(_JSON), "Accept-Encoding": "identity", "Connection": "close"})
            return self._body(connection.getresponse())
        except (OSError, http.client.HTTPException, ValueError) as error:
            why = f"took more than {self._timeout_s:g} s" if late.is_set() else f"cannot be reached: {type(error).__name__}"
            raise KeysUnavailable(f"the key server {why}") from None
        finally:
            if watch is not None:
                watch.cancel()
            connection.close()

    def _body(self, response: http.client.HTTPResponse) -> bytes:
        if response.status != 200:
            raise KeysUnavailable(f"the key server answered {response.status}" + ("; redirects are not followed" if 300 <= response.status < 400 else ""))
        kind = (response.getheader("Content-Type") or "").split(";")[0].strip().lower()
        if kind not in _JSON:
            raise KeysUnavailable("the key server answered something else than JSON")
        body = response.read(DOCUMENT_BYTES_MAX + 1)
        if len(body) > DOCUMENT_BYTES_MAX:
            raise KeysUnavailable("the document is larger than 64 kB")
        if response.length:
            raise KeysUnavailable("the document was cut short")
        return body


def _cut(sock: socket.socket, late: threading.Event) -> None:
    late.set()
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)


class FileSource:
    """A document on the disk. Replace it by renaming: half a document is refused."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = path

    def __call__(self) -> bytes:
        try:
            with open(self._path, "rb") as file:
                body = file.read(DOCUMENT_BYTES_MAX + 1)
        except OSError as error:
            raise KeysUnavailable(f"the key file cannot be read: {type(error).__name__}") from None
        if len(body) > DOCUMENT_BYTES_MAX:
            raise KeysUnavailable("the document is larger than 64 kB")
        return body
