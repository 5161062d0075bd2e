"""The inbox on the shop's own database. Its tables come with a migration; its effects are sent by ``manage.py send_effects``."""

from functools import cache

from django.conf import settings

from buttress.backend.webhooks import HttpCallee, Inbox, InboxConfig, Verifier, keyed, lookup
from buttress.kernel.store.postgres import PostgresStore


@cache
def inbox() -> Inbox:
    lease_s = settings.EFFECT_LEASE_S  # after so many seconds another process takes over what a killed one was sending
    timeout_s = min(10.0, lease_s / 2)
    box = Inbox(PostgresStore(settings.DATABASE_URL), Verifier.standard(settings.WEBHOOK_SECRET), config=InboxConfig(lease_s=lease_s))
    for name in ("orders", "emails"):
        box.callee(name, keyed(HttpCallee(settings.CALLEES[name], timeout_s=timeout_s), timeout_s=timeout_s))
    url = settings.CALLEES["credits"]
    credits = HttpCallee(url, key_header=None, reference_field="key", find_url=url + "/{reference}", timeout_s=timeout_s)
    box.callee("credits", lookup(credits, credits.find, timeout_s=timeout_s))
    return box
