"""Sends what the web processes committed. Any number of these may run; one that is killed is taken over after its lease."""

import time
from typing import Any

from django.core.management.base import BaseCommand

from buttress.kernel.errors import ButtressError
from shop.inbox import inbox

PAUSE_S = 0.2


class Command(BaseCommand):
    help = __doc__

    def handle(self, *args: Any, **options: Any) -> None:
        box = inbox()
        while True:
            try:
                busy = box.work_effects() > 0
            except ButtressError as error:  # the database, mostly: it is asked again
                self.stderr.write(f"effects wait: {error}")
                busy = False
            if not busy:
                time.sleep(PAUSE_S)
