"""Events arrive in any order: a guard per object lets a handler see only what is newer than what it saw.

A tie (an equal version from another event, such as two within one second) cannot be decided from the event: the handler
is told (``tied``), or the current state is read again. ``deleted`` leaves a tombstone: what is not newer stays out, also a
``created`` that arrives after its ``deleted``.
"""

from __future__ import annotations

import json
from typing import Any, Literal, NamedTuple

from buttress.backend.webhooks.event import Event
from buttress.kernel.errors import InvalidInput
from buttress.kernel.store import Tx

Version = int | float | str
Standing = Literal["newer", "tied", "superseded"]
OBJECT_MAX_CHARS = 255
_HERE = "endpoint = ? AND account = ? AND mode = ? AND guard = ? AND object = ?"


class Place(NamedTuple):
    """Where an event stands in the life of its object."""

    object: str
    version: Version
    deleted: bool = False


def to_place(answer: object) -> Place | None:
    """What ``order_by`` returned: None (no order), (object, version) or (object, version, deleted). Raises InvalidInput."""
    if answer is None:
        return None
    if not isinstance(answer, tuple) or len(answer) not in (2, 3):
        raise InvalidInput("order_by", type(answer).__name__, "must return (object, version) or (object, version, deleted)")
    subject, version, deleted = (*answer, False)[:3]
    if not isinstance(subject, str) or not 0 < len(subject) <= OBJECT_MAX_CHARS or "\0" in subject:
        raise InvalidInput("order_by", type(subject).__name__, f"the object must be text of 1 to {OBJECT_MAX_CHARS} characters")
    if isinstance(version, bool) or not isinstance(version, int | float | str) or version != version:
        raise InvalidInput("order_by", type(version).__name__, "the version must be a number or text")
    return Place(subject, version, bool(deleted))


class Guard:
    """The newest version that each handler saw of each object, in one endpoint."""

    def __init__(self, endpoint: str) -> None:
        self._endpoint = endpoint

    def _key(self, event: Event, guard: str, place: Place) -> tuple[str, ...]:
        return (self._endpoint, event.account or "", event.mode, guard, place.object)

    def look(self, tx: Tx, event: Event, guard: str, place: Place) -> Standing:
        """Where the event would stand now. Changes and locks nothing."""
        row = tx.one(f"SELECT version, event, deleted FROM buttress_webhooks_order WHERE {_HERE}", self._key(event, guard, place))
        return "newer" if row is None else _compare(place, event, *row)

    def advance(self, tx: Tx, event: Event, guard: str, place: Place) -> Standing:
        """Takes the event's version in, unless it is superseded. Serialises the events of one object until the commit."""
        key = self._key(event, guard, place)
        fresh = tx.execute("INSERT INTO buttress_webhooks_order (endpoint, account, mode, guard, object, version, event, deleted) "
                           "VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (endpoint, account, mode, guard, object) DO NOTHING",
                           (*key, json.dumps(place.version), event.id, int(place.deleted)))
        if fresh:
            return "newer"
        lock = " FOR UPDATE" if tx.dialect == "postgres" else ""
        row = tx.one(f"SELECT version, event, deleted FROM buttress_webhooks_order WHERE {_HERE}{lock}", key)
        assert row is not None, "guards are never deleted"
        standing = _compare(place, event, *row)
        if standing != "superseded":
            tx.execute(f"UPDATE buttress_webhooks_order SET version = ?, event = ?, deleted = ? WHERE {_HERE}",
                       (json.dumps(place.version), event.id, int(place.deleted), *key))
        return standing


def _compare(place: Place, event: Event, version: str, ident: str, deleted: Any) -> Standing:
    seen: Version = json.loads(version)
    if isinstance(seen, str) != isinstance(place.version, str):
        raise InvalidInput("order_by", type(place.version).__name__, "the version must stay of one kind for an object: numbers, or text")
    if seen != place.version:
        return "newer" if seen < place.version else "superseded"  # type: ignore[operator]  # one kind: checked above
    if ident == event.id:
        return "newer"  # the same event again: a replay
    if deleted:
        return "superseded"
    return "newer" if place.deleted else "tied"
