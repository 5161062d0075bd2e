"""The outside of a receiver, simulated: a provider's events with their truth, its signatures, and deliveries that are not genuine.

The signer shares no code with the receiver's verifier. Source: Standard Webhooks 1.0 (headers, ``v1``).
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from buttress.proof.world.sender import Delivery

SECRET = base64.b64encode(b"the secret of this endpoint, 32 b").decode()
OTHER_SECRET = base64.b64encode(b"the secret of another tenant,32b").decode()
ORDER_STATES = ("placed", "packed", "shipped", "delivered")
CREATED = 1_800_000_000  # seconds since the epoch; what an order's changes say of when they were made
SURE = (("twins", 2), ("deleted", 2), ("order", 3), ("payment", 1), ("payment", 1), ("payment", 1))  # the first events at every seed: kind and how many
FORGED = "forged_"  # how payments begin that nobody made: an effect under such a name is a forgery that was acted on
BODY_MAX_BYTES = 1 << 20


def sign(id: str, body: str, now: float, secret: str = SECRET) -> dict[str, str]:
    """Standard Webhooks: HMAC-SHA256 over ``id.timestamp.body``."""
    stamp = str(int(now))
    mac = hmac.new(base64.b64decode(secret), f"{id}.{stamp}.{body}".encode(), hashlib.sha256).digest()
    return {"webhook-id": id, "webhook-timestamp": stamp, "webhook-signature": "v1," + base64.b64encode(mac).decode()}


@dataclass(frozen=True)
class Due:
    """An effect that must happen exactly once: at which callee, under which business reference, because of which event."""

    callee: str
    reference: str
    event: str
    twin: bool = False


@dataclass(frozen=True)
class Sent:
    """One genuine event, the effects it makes due, the object it changes, and the state that it leaves it in ("": a later one does).

    ``ahead``: it is the first of its object's events to arrive, although it happened last.
    """

    delivery: Delivery
    due: tuple[Due, ...]
    object: str = ""
    status: str = ""
    ahead: bool = False


def genuine(id: str, type: str, data: Mapping[str, object], *, rotated: bool = False) -> Delivery:
    """A delivery that must be let in. ``rotated``: signed with two secrets, of which the receiver knows the second."""
    body = json.dumps({"type": type, "data": data}, separators=(",", ":"))
    return Delivery(id, body, lambda now: sign_twice(id, body, now) if rotated else sign(id, body, now))


def sign_twice(id: str, body: str, now: float, first: str = OTHER_SECRET, second: str = SECRET) -> dict[str, str]:
    """As a provider signs while a secret is replaced: a list of two signatures with a space between."""
    one, two = sign(id, body, now, first), sign(id, body, now, second)
    return {**two, "webhook-signature": f"{one['webhook-signature']} {two['webhook-signature']}"}


def events(count: int, rng: random.Random, *, policies: bool = False) -> Iterator[Sent]:
    """``count`` events: payments, orders that change or are deleted, facts that are told by two events, types that nobody handles.

    At every seed they begin with a fact under two ids, an order that is deleted, and one that has several versions: a short run
    holds each kind. With ``policies`` payments also ask for a coupon and for points, at callees that honour nothing.
    """
    made, sure = 0, list(SURE)
    while made < count:
        kind, steps = sure.pop(0) if sure else (_kind(rng), rng.randint(2, 4))
        left = count - made
        if kind == "payment":
            yield payment(made, "invoice.paid", policies)
            made += 1
        elif kind == "twins" and left >= 2:  # two event ids for one fact: the provider's types overlap
            twin = f"pay_{made}"
            yield payment(made, "checkout.session.completed", policies, twin)
            yield payment(made + 1, "payment_intent.succeeded", policies, twin, first=False)
            made += 2
        elif kind in ("order", "deleted") and left >= 2:
            steps = min(steps, left)
            yield from order(made, steps, deleted=kind == "deleted")
            made += steps
        else:
            yield Sent(genuine(f"evt_{made:06}", "nobody.handles.this", {"id": made}), ())
            made += 1


def _kind(rng: random.Random) -> str:
    return rng.choices(("payment", "twins", "order", "deleted", "other"), (60, 4, 24, 10, 2))[0]


def payment(number: int, type: str, policies: bool, name: str = "", *, first: bool = True) -> Sent:
    """One payment: an order, a receipt by e-mail, a credit. A twin tells the same fact under another event id.

    Every third one is delivered while secrets are rotated.
    """
    id, twin, name = f"evt_{number:06}", bool(name), name or f"pay_{number}"
    callees = ("orders", "emails", "credits", *(("coupons", "points") if policies else ()))
    data = {"payment": name, "email": f"{name}@example.invalid", "amount_minor": 1000 + number, "currency": "EUR"}
    due = tuple(Due(c, f"{c}:{name}", id, twin) for c in callees) if first else ()
    return Sent(genuine(id, type, data, rotated=number % 3 == 0), due)


def order(number: int, steps: int, *, deleted: bool = False) -> Iterator[Sent]:
    """The changes of one order, all made within one second. The newest version is the truth, whatever arrives last.

    ``deleted``: its last change is its deletion, which arrives before all others.
    """
    name = f"ord_{number}"
    for version in range(steps):
        id, last = f"evt_{number + version:06}", version == steps - 1
        status = "deleted" if last and deleted else ORDER_STATES[version]
        delivery = genuine(id, "order.updated", {"order": name, "version": version, "created": CREATED + number, "status": status})
        yield Sent(delivery, (), name, status if last else "", ahead=last and deleted)


# -- what is not genuine, and what is odd


def counterfeits(now: float, rng: random.Random, *, oversized: bool = False) -> Iterator[tuple[str, Delivery]]:
    """Deliveries that must be refused, each with its kind. Their payment names say what they are, should one be acted on.

    ``oversized``: also one that is signed well and larger than a receiver takes. The line protocol cannot carry it.
    """
    id, body = f"evt_forged_{rng.getrandbits(40)}", _forged_body(rng)

    def delivery(headers: dict[str, str], text: str = body) -> Delivery:
        return Delivery(id, text, lambda _: headers)

    good = sign(id, body, now)
    mac = good["webhook-signature"]  # a character in the middle: the last one holds padding bits that a lenient decoder ignores
    flipped = mac[:20] + ("A" if mac[20] != "A" else "B") + mac[21:]
    yield "unsigned", delivery({k: v for k, v in good.items() if k != "webhook-signature"})
    yield "no headers", delivery({})
    yield "wrong signature", delivery({**good, "webhook-signature": flipped})
    yield "two signatures, none right", delivery({**sign(id, body, now, OTHER_SECRET), "webhook-signature":
                                                  f"{sign(id, body, now, OTHER_SECRET)['webhook-signature']} {flipped}"})
    yield "other tenant's secret", delivery(sign(id, body, now, OTHER_SECRET))
    yield "body changed", delivery(good, body.replace('"amount_minor":1', '"amount_minor":100000'))
    yield "id changed", delivery({**good, "webhook-id": id + "x"})
    yield "an hour old", delivery(sign(id, body, now - 3600))
    yield "an hour ahead", delivery(sign(id, body, now + 3600))
    yield "unknown scheme only", delivery({**good, "webhook-signature": good["webhook-signature"].replace("v1,", "v0,")})
    yield "empty signature", delivery({**good, "webhook-signature": "v1,"})
    yield "timestamp is no number", delivery({**good, "webhook-timestamp": "now"})
    if oversized:
        large = body[:-1] + ',"padding":"' + "x" * BODY_MAX_BYTES + '"}'
        yield "oversized", delivery(sign(id, large, now), large)


def unreadable(now: float, rng: random.Random) -> Delivery:
    """Signed well, and no JSON: it was cut in the middle. Whether it is kept or refused is the receiver's choice."""
    id, body = f"evt_forged_{rng.getrandbits(40)}", _forged_body(rng)[:40]
    return Delivery(id, body, lambda _: sign(id, body, now))


def altered(first: Delivery, now: float, rng: random.Random) -> Delivery:
    """The id of an event that came before, with another payload, signed well: whatever is answered, it must not act."""
    body = _forged_body(rng)
    return Delivery(first.id, body, lambda _: sign(first.id, body, now))


def _forged_body(rng: random.Random) -> str:
    return json.dumps({"type": "invoice.paid", "data": {"payment": f"{FORGED}{rng.getrandbits(40)}", "email": "x@example.invalid",
                                                        "amount_minor": 1, "currency": "EUR"}}, separators=(",", ":"))
