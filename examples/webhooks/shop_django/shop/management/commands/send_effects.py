"""Sends what the web processes committed. Any number of these may run; one that is killed is taken over after its lease."""

import signal
import threading
from typing import Any

from django.core.management.base import BaseCommand

from shop.inbox import inbox

POLL_S = 0.2  # the web processes cannot wake this one: it looks


class Command(BaseCommand):
    help = __doc__

    def handle(self, *args: Any, **options: Any) -> None:
        stop = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):  # finishes what it holds, and ends
            signal.signal(number, lambda *_: stop.set())
        inbox().run_effects(stop, poll_s=POLL_S)
