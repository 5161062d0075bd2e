"""Webhooks in, each effect once: verified, stored before they are acknowledged, handled exactly once.

    from buttress.backend.webhooks import HttpCallee, Inbox, Verifier, keyed
    from buttress.kernel.store.sqlite import SqliteStore

    inbox = Inbox(SqliteStore("inbox.db"), Verifier.stripe("whsec_the_secret_of_this_endpoint"))
    inbox.callee("email", keyed(HttpCallee("http://127.0.0.1:8025/receipts")))

    @inbox.on("invoice.paid")
    def paid(event, ctx):
        ctx.tx.execute("UPDATE invoices SET paid = 1 WHERE id = ?", (event.data["data"]["object"]["id"],))
        ctx.effect("email", key=event.data["data"]["object"]["id"], payload={"template": "receipt"})

    answer = inbox.receive({"Stripe-Signature": "t=1,v1=forged"}, b"{}")  # 401: answer.status, answer.code
    inbox.work()
"""

from typing import TYPE_CHECKING

from buttress.kernel.lazy import attach

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "Answer": "inbox", "Context": "worker", "Delivery": "inbox", "Event": "event", "HttpCallee": "callee", "Inbox": "inbox", "InboxConfig": "inbox",
        "NotSent": "callee", "Refused": "signature", "Rejected": "callee", "Verifier": "signature",
        "at_least_once": "callee", "at_most_once": "callee", "create_app": "app", "keyed": "callee", "lookup": "callee",
    },
    extra="webhooks",
)

if TYPE_CHECKING:
    from buttress.backend.webhooks.app import create_app as create_app
    from buttress.backend.webhooks.callee import HttpCallee as HttpCallee
    from buttress.backend.webhooks.callee import NotSent as NotSent
    from buttress.backend.webhooks.callee import Rejected as Rejected
    from buttress.backend.webhooks.callee import at_least_once as at_least_once
    from buttress.backend.webhooks.callee import at_most_once as at_most_once
    from buttress.backend.webhooks.callee import keyed as keyed
    from buttress.backend.webhooks.callee import lookup as lookup
    from buttress.backend.webhooks.event import Event as Event
    from buttress.backend.webhooks.inbox import Answer as Answer
    from buttress.backend.webhooks.inbox import Delivery as Delivery
    from buttress.backend.webhooks.inbox import Inbox as Inbox
    from buttress.backend.webhooks.inbox import InboxConfig as InboxConfig
    from buttress.backend.webhooks.signature import Refused as Refused
    from buttress.backend.webhooks.signature import Verifier as Verifier
    from buttress.backend.webhooks.worker import Context as Context
