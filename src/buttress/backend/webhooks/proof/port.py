"""The port: what any receiver must be able to do to be judged."""

from __future__ import annotations

from typing import Protocol


class Receiver(Protocol):
    """A receiver of webhooks. ``env.world`` holds ``secret`` (Standard Webhooks, base64) and the callees' URLs.

    Let in what Standard Webhooks 1.0 signs by ``v1``: any one of several signatures in the header will do, and the signed
    time may be 300 seconds off, either way. Answer the rest 4xx; over HTTP also a body above 1 MiB. What is signed, but is no
    JSON, asks for nothing: keep it or refuse it. An id that came before acts no second time, whatever its body says by now:
    take it or refuse it. Types that are not named here ask for nothing, and are let in.

    ``invoice.paid``, ``checkout.session.completed`` and ``payment_intent.succeeded`` ask for three effects, once for each
    ``data.payment``, however many events tell of it: POST with JSON {"reference": "<callee>:<payment>"} to each of
    ``orders``, ``emails`` and ``credits``.

    ``order.updated`` sets a state at ``orders``: POST {"reference": "status:<event id>", "object": data.order, "status":
    data.status}. The highest ``data.version`` is the truth in the end, whatever arrives last; ``data.created`` may be the
    same second for all. The status ``deleted`` is one of them: it may arrive first, and the order stays deleted.

    A callee answers 200 when it is done, 503 when it did nothing. No answer, or 500, says nothing about what it did.
    ``orders`` and ``emails`` honour an Idempotency-Key for 24 hours. ``credits`` honours none; GET <url>/<reference> there
    is 200 for what is done, 404 for what is not, and anything else says nothing; with a "key" in its JSON an effect is found
    under that instead.

    An effect that comes more than 24 hours after the last delivery of its events counts as lost, and so does one that comes after
    ``work`` had answered None, if nothing was delivered since and nothing broke.

    Calls may overlap: they come in threads; on the line a call then carries an id, which its answer repeats. kill -9 may come at any
    time, and the next start gets the same ``env.dir``. Header names are in lower case."""

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
