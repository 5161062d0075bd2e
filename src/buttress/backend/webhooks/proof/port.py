"""The port: what any receiver must be able to do to be judged."""

from __future__ import annotations

from typing import Protocol


class Receiver(Protocol):
    """A receiver of webhooks. ``env.world`` holds ``secret`` (Standard Webhooks, base64) and the callees' URLs:
    ``orders`` and ``emails`` honour Idempotency-Key for 24 hours, ``credits`` answers GET <url>/<reference> (200 or 404).
    An effect is POST <url> with JSON {"reference": "<callee>:<payment>"}; an order.updated event sets a state by
    {"reference", "object", "status"} at ``orders``."""

    def deliver(self, headers: dict[str, str], body: str) -> int:
        """One delivery as it arrives; the HTTP status that the provider would see. 2xx says: I have it."""
        ...

    def work(self) -> float | None:
        """Does what is due. When it next wants to be called (seconds since the epoch), or None: nothing waits."""
        ...


class Served(Protocol):
    """For the race: the same receiver behind a real socket."""

    def serve(self) -> str:
        """Starts to listen on 127.0.0.1; the URL that takes POSTs."""
        ...

    def done(self) -> int:
        """How many distinct events are stored."""
        ...
