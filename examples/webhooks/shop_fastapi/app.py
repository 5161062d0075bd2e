"""A shop on FastAPI and SQLAlchemy: a webhook is handled in the request's own transaction, once.

    uvicorn shop_fastapi.app:app

The shop's rows, the fact that the event was handled and what is to be sent because of it commit together or not at all. The
answer leaves after the commit; a thread sends what is due. Configured by DATABASE_URL, WEBHOOK_SECRET, ORDERS_URL,
EMAILS_URL, CREDITS_URL, and EFFECT_LEASE_S: after so many seconds another process takes over what a killed one was sending.
"""

import os
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import Depends, FastAPI, Request, Response
from sqlalchemy import create_engine, make_url, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, sessionmaker

from buttress.backend.webhooks import Delivery, HttpCallee, Inbox, InboxConfig, Verifier, keyed, lookup
from buttress.kernel.store.postgres import PostgresStore

DATABASE_URL = os.environ["DATABASE_URL"]
PAYMENTS = ("invoice.paid", "checkout.session.completed", "payment_intent.succeeded")

engine = create_engine(make_url(DATABASE_URL).set(drivername="postgresql+psycopg"))
sessions = sessionmaker(engine)
stopping, wake = threading.Event(), threading.Event()


class Base(DeclarativeBase):
    pass


class Payment(Base):
    __tablename__ = "payment"
    name: Mapped[str] = mapped_column(primary_key=True)
    amount_minor: Mapped[int]
    currency: Mapped[str]


class Order(Base):
    __tablename__ = "shop_order"
    name: Mapped[str] = mapped_column(primary_key=True)
    version: Mapped[int]
    status: Mapped[str]


def open_inbox() -> Inbox:
    # create=True makes the inbox's tables; with Alembic, put what `buttress webhooks schema` prints into a migration instead
    store = PostgresStore(DATABASE_URL, create=True)
    lease_s = float(os.environ.get("EFFECT_LEASE_S", "60"))
    timeout_s = min(10.0, lease_s / 2)
    inbox = Inbox(store, Verifier.standard(os.environ["WEBHOOK_SECRET"]), config=InboxConfig(lease_s=lease_s))
    for name in ("orders", "emails"):
        inbox.callee(name, keyed(HttpCallee(os.environ[f"{name.upper()}_URL"], timeout_s=timeout_s), timeout_s=timeout_s))
    url = os.environ["CREDITS_URL"]
    credits = HttpCallee(url, key_header=None, reference_field="key", find_url=url + "/{reference}", timeout_s=timeout_s)
    inbox.callee("credits", lookup(credits, credits.find, timeout_s=timeout_s))
    return inbox


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    Base.metadata.create_all(engine)
    app.state.inbox = open_inbox()
    sender = threading.Thread(target=app.state.inbox.run_effects, args=(stopping, wake))
    sender.start()
    yield
    stopping.set()
    wake.set()
    sender.join()


app = FastAPI(lifespan=lifespan)


async def raw_body(request: Request) -> bytes:
    """The bytes that were signed: never parsed and written again."""
    return await request.body()


@app.post("/webhooks")
def webhooks(request: Request, body: Annotated[bytes, Depends(raw_body)]) -> Response:
    inbox: Inbox = request.app.state.inbox
    with sessions.begin() as session:  # commits at the end of the block: a session from Depends would commit after the answer
        connection = session.connection().connection.driver_connection
        with inbox.inline(connection, request.headers, body) as delivery:
            if delivery.event is not None:
                act(session, delivery)
    wake.set()
    return Response(status_code=delivery.answer.status)


def act(session: Session, delivery: Delivery) -> None:
    """Rows of our own, and what others shall do: all of it commits with the fact that this event was handled."""
    event = delivery.event
    assert event is not None
    data = event.data["data"]
    if event.type in PAYMENTS:
        name = data["payment"]
        session.execute(insert(Payment).values(name=name, amount_minor=data["amount_minor"], currency=data["currency"]).on_conflict_do_nothing())
        for callee in ("orders", "emails", "credits"):  # under the payment's name: two events about one payment are one effect
            delivery.effect(callee, key=name, payload={"reference": f"{callee}:{name}"})
    elif event.type == "order.updated":
        row = insert(Order).values(name=data["order"], version=data["version"], status=data["status"])
        newer = row.on_conflict_do_update(index_elements=[Order.name], set_={"version": row.excluded.version, "status": row.excluded.status},
                                          where=Order.version < row.excluded.version).returning(Order.name)
        if session.scalar(newer) is not None:  # events come in any order: an older version changes nothing
            delivery.effect("orders", key=f"{data['order']}:{data['version']}", in_order=data["order"],
                            payload={"reference": f"status:{event.id}", "object": data["order"], "status": data["status"]})


@app.get("/healthz")
def healthz() -> Response:
    with engine.connect() as connection:
        connection.execute(text("SELECT 1"))
    return Response()
