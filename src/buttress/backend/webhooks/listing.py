"""A provider's own list of events, page by page: how what was never delivered is found.

Source: Stripe API, "List all events" (``GET /v1/events``: newest first, ``created[gte]``, ``starting_after``, ``has_more``; it
reaches back 30 days). Others that answer in this shape can be read, too.
"""

from __future__ import annotations

import http.client
import ssl
from collections.abc import Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import urlencode, urlsplit

import msgspec

from buttress.backend.webhooks.event import Event, to_epoch
from buttress.kernel.errors import InvalidInput, Unavailable

PAGE_EVENTS = 100
PAGE_MAX_BYTES = 64 << 20
PAGES_MAX = 100_000


class _Named(msgspec.Struct):
    id: str


class _Page(msgspec.Struct):
    data: list[msgspec.Raw]
    has_more: bool = False


def stripe_list(url: str, key: str, since: float, *, timeout_s: float = 30.0) -> Iterator[bytes]:
    """The events of an API list since then (seconds since the epoch), newest first, as raw JSON. Raises Unavailable.

    ``key`` goes to that host only: redirects are not followed.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query:
        raise InvalidInput("url", parts.scheme, "must be an http or https URL without a query")
    secure = {"context": ssl.create_default_context()} if parts.scheme == "https" else {}
    kind: Any = http.client.HTTPSConnection if secure else http.client.HTTPConnection
    connection = kind(parts.hostname, parts.port, timeout=timeout_s, **secure)
    after: dict[str, str] = {}
    try:
        for _ in range(PAGES_MAX):
            query = urlencode({"limit": PAGE_EVENTS, "created[gte]": int(since), **after})
            page = _page(connection, f"{parts.path or '/'}?{query}", key)
            yield from map(bytes, page.data)
            if not page.has_more or not page.data:
                return
            after = {"starting_after": msgspec.json.decode(page.data[-1], type=_Named).id}
    finally:
        connection.close()
    raise Unavailable(f"the list has more than {PAGES_MAX} pages", fix="ask for a shorter time")


def _page(connection: http.client.HTTPConnection, path: str, key: str) -> _Page:
    try:
        connection.request("GET", path, headers={"Authorization": f"Bearer {key}", "Accept": "application/json"})
        answer = connection.getresponse()
        body = answer.read(PAGE_MAX_BYTES)
    except (OSError, http.client.HTTPException) as error:
        raise Unavailable(f"the provider's list gives no answer: {type(error).__name__}", fix="run it again: what is stored stays stored") from error
    if answer.status != 200:
        raise Unavailable(f"the provider's list answers HTTP {answer.status}",
                          fix="check the key and its rights" if answer.status in (401, 403) else "run it again")
    try:
        return msgspec.json.decode(body, type=_Page)
    except msgspec.DecodeError as error:
        raise Unavailable("the provider's list is not of the shape of Stripe's", fix="hand its events over as JSON lines") from error


def json_lines(lines: Iterable[str]) -> Iterator[Event | bytes]:
    """Events from a file: each line an event of Stripe's API, or ``{"id", "type", "body"}`` with the body as text, for other providers.

    ``occurred`` (seconds or ISO 8601), ``account`` and ``livemode`` may stand beside ``body``.
    """
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            item = msgspec.json.decode(line)
        except msgspec.DecodeError:
            raise InvalidInput(f"line {number}", "…", "must be one JSON object") from None
        if not isinstance(item, Mapping):
            raise InvalidInput(f"line {number}", type(item).__name__, "must be one JSON object")
        if not isinstance(item.get("body"), str):
            yield line.encode()
            continue
        if not (isinstance(item.get("id"), str) and isinstance(item.get("type"), str)):
            raise InvalidInput(f"line {number}", "…", "must hold id and type as text beside body")
        yield Event(item["id"], item["type"], item["body"].encode(), to_epoch(item.get("occurred")), account=item.get("account"), livemode=item.get("livemode"))
