"""What a provider told us: one event, as it was signed.

``data`` is the body as JSON, parsed when it is first asked for; ``fingerprint`` is the SHA-256 of the raw body.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cached_property
from typing import Any

import msgspec

NAME = re.compile(r"[\x21-\x7e]{1,255}")
UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


@dataclass(frozen=True)
class Event:
    """One event. Times are seconds since the epoch.

    ``occurred``: when it happened, by the provider. ``sent``: when this attempt was signed (None: the scheme signs no
    time). ``account`` and ``livemode`` keep apart what must never be deduplicated against each other; None where the
    provider has no such thing. ``problem`` says why a signed body cannot be handled (``not_json``, ``no_id``); empty: fine.
    """

    id: str
    type: str
    body: bytes
    occurred: float | None = None
    sent: float | None = None
    account: str | None = None
    livemode: bool | None = None
    problem: str = ""

    @cached_property
    def fingerprint(self) -> bytes:
        """SHA-256 of the raw body, 32 bytes."""
        return hashlib.sha256(self.body).digest()

    @cached_property
    def data(self) -> Any:
        """The body as JSON; None when it is not JSON."""
        try:
            return msgspec.json.decode(self.body)
        except UNREADABLE:
            return None

    def with_data(self, data: Any) -> Event:
        """The same event, with the state that was read again in place of the body's."""
        event = replace(self)
        event.__dict__["data"] = data  # fills the cache: the class is frozen, its cached properties are not
        return event

    @property
    def mode(self) -> str:
        """``live``, ``test`` or empty."""
        return mode_name(self.livemode)


def mode_name(livemode: bool | None) -> str:
    """``live``, ``test`` or empty, as it stands in a key."""
    return "" if livemode is None else ("live" if livemode else "test")


def is_name(value: object) -> bool:
    """Ids, types and accounts: 1 to 255 printable ASCII characters without a space, so that every store and log can hold them."""
    return isinstance(value, str) and NAME.fullmatch(value) is not None


def to_epoch(value: object) -> float | None:
    """Seconds from a number or from ISO 8601 text with an offset; None for anything else."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int | float):
        return float(value) if 0 <= value < 1e12 else None
    if isinstance(value, str) and len(value) <= 40:
        try:
            moment = datetime.fromisoformat(value)
            return moment.timestamp() if moment.tzinfo else None
        except (ValueError, OverflowError):
            return None
    return None


def canonical_json(body: bytes, volatile: frozenset[str]) -> bytes:
    """What a body says, whatever its order of keys and its spaces: equal bytes, equal JSON. A body that is no JSON is itself.

    Strict in types: ``1``, ``1.0``, ``true`` and ``"1"`` differ. ``volatile``: top-level fields that are left out, because
    the provider changes them between attempts.
    """
    try:
        data = msgspec.json.decode(body)
        if isinstance(data, Mapping):
            data = {key: value for key, value in data.items() if key not in volatile}
        return msgspec.json.encode(data, order="deterministic")
    except UNREADABLE:
        return body
