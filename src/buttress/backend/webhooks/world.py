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
    """One genuine event, the effects it makes due, and the state that it leaves its object in."""

    delivery: Delivery
    due: tuple[Due, ...]
    object: str = ""
    status: str = ""


def genuine(id: str, type: str, data: Mapping[str, object]) -> Delivery:
    body = json.dumps({"type": type, "data": data}, separators=(",", ":"))
    return Delivery(id, body, lambda now: sign(id, body, now))


def events(count: int, rng: random.Random, *, policies: bool = False) -> Iterator[Sent]:
    """``count`` events: payments, orders that change, facts that are told by two events, types that nobody handles.

    With ``policies`` payments also ask for a coupon and for points, at callees that honour nothing.
    """
    made = 0
    while made < count:
        kind = rng.random()
        if kind < 0.60:
            yield payment(made, "invoice.paid", policies)
            made += 1
        elif kind < 0.64 and made + 2 <= count:  # two event ids for one fact: the provider's types overlap
            twin = f"pay_{made}"
            yield payment(made, "checkout.session.completed", policies, twin)
            yield payment(made + 1, "payment_intent.succeeded", policies, twin, first=False)
            made += 2
        elif kind < 0.98 and made + 2 <= count:
            steps = min(rng.randint(2, 4), count - made)
            for version in range(steps):
                yield order(made + version, f"ord_{made}", version, last=version == steps - 1)
            made += steps
        else:
            yield Sent(genuine(f"evt_{made:06}", "nobody.handles.this", {"id": made}), ())
            made += 1


def payment(number: int, type: str, policies: bool, name: str = "", *, first: bool = True) -> Sent:
    """One payment: an order, a receipt by e-mail, a credit. A twin tells the same fact under another event id."""
    id, twin, name = f"evt_{number:06}", bool(name), name or f"pay_{number}"
    callees = ("orders", "emails", "credits", *(("coupons", "points") if policies else ()))
    data = {"payment": name, "email": f"{name}@example.invalid", "amount_minor": 1000 + number, "currency": "EUR"}
    return Sent(genuine(id, type, data), tuple(Due(c, f"{c}:{name}", id, twin) for c in callees) if first else ())


def order(number: int, name: str, version: int, *, last: bool) -> Sent:
    """One change of an order. The newest version is the truth, whatever arrives last."""
    id, status = f"evt_{number:06}", ORDER_STATES[version]
    delivery = genuine(id, "order.updated", {"order": name, "version": version, "status": status})
    return Sent(delivery, (), name, status if last else "")


def counterfeits(now: float, rng: random.Random) -> Iterator[tuple[str, Delivery]]:
    """Deliveries that must be refused, each with its kind. Their payment names say what they are, should one be acted on."""
    body = json.dumps({"type": "invoice.paid", "data": {"payment": f"forged_{rng.getrandbits(40)}", "email": "x@example.invalid",
                                                        "amount_minor": 1, "currency": "EUR"}}, separators=(",", ":"))
    id = f"evt_forged_{rng.getrandbits(40)}"

    def delivery(headers: dict[str, str], text: str = body) -> Delivery:
        return Delivery(id, text, lambda _: headers)

    good = sign(id, body, now)
    mac = good["webhook-signature"]  # a character in the middle: the last one holds padding bits that a lenient decoder ignores
    flipped = mac[:20] + ("A" if mac[20] != "A" else "B") + mac[21:]
    yield "unsigned", delivery({k: v for k, v in good.items() if k != "webhook-signature"})
    yield "no headers", delivery({})
    yield "wrong signature", delivery({**good, "webhook-signature": flipped})
    yield "other tenant's secret", delivery(sign(id, body, now, OTHER_SECRET))
    yield "body changed", delivery(good, body.replace('"amount_minor":1', '"amount_minor":100000'))
    yield "id changed", delivery({**good, "webhook-id": id + "x"})
    yield "an hour old", delivery(sign(id, body, now - 3600))
    yield "an hour ahead", delivery(sign(id, body, now + 3600))
    yield "unknown scheme only", delivery({**good, "webhook-signature": good["webhook-signature"].replace("v1,", "v0,")})
    yield "empty signature", delivery({**good, "webhook-signature": "v1,"})
    yield "timestamp is no number", delivery({**good, "webhook-timestamp": "now"})
