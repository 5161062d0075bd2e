"""One view: the rows, the fact that the event was handled and what is to be sent commit together, inside ``atomic()``."""

from django.db import connection, transaction
from django.http import HttpRequest, HttpResponse
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_POST

from buttress.backend.webhooks import Delivery
from shop.inbox import inbox
from shop.models import Order, Payment

PAYMENTS = ("invoice.paid", "checkout.session.completed", "payment_intent.succeeded")


@csrf_exempt
@require_POST
def webhooks(request: HttpRequest) -> HttpResponse:
    with transaction.atomic():  # commits at the end of the block, before the answer leaves
        with inbox().inline(connection.connection, request.headers, request.body) as delivery:
            if delivery.event is not None:
                act(delivery)
    return HttpResponse(status=delivery.answer.status)


def act(delivery: Delivery) -> None:
    event = delivery.event
    assert event is not None
    data = event.data["data"]
    if event.type in PAYMENTS:
        Payment.objects.get_or_create(name=data["payment"], defaults={"amount_minor": data["amount_minor"], "currency": data["currency"]})
        for callee in ("orders", "emails", "credits"):  # under the payment's name: two events about one payment are one effect
            delivery.effect(callee, key=data["payment"], payload={"reference": f"{callee}:{data['payment']}"})
    elif event.type == "order.updated":
        now = {"version": data["version"], "status": data["status"]}
        order, fresh = Order.objects.select_for_update().get_or_create(name=data["order"], defaults=now)
        if not fresh and order.version >= now["version"]:
            return  # events come in any order: an older version changes nothing
        order.version, order.status = now["version"], now["status"]
        order.save()
        delivery.effect("orders", key=f"{order.name}:{order.version}", in_order=order.name,
                        payload={"reference": f"status:{event.id}", "object": order.name, "status": order.status})


def healthz(request: HttpRequest) -> HttpResponse:
    connection.ensure_connection()
    return HttpResponse()
