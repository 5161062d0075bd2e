"""The loop around an inbox's work: steps that take what is due, again and again, until somebody says stop.

It sleeps only when nothing was taken, and is woken by what arrives; what another process committed is found by the poll. A step
that raises (the store, mostly) is logged and tried again after a pause: one bad minute of a database must not end a worker.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from threading import Event

from buttress.kernel.errors import InvalidInput

Step = tuple[str, Callable[[], int]]  # the endpoint, for the log, and what is done: it returns how many it took
RETIRE_EVERY_S = 3600.0
log = logging.getLogger("buttress.webhooks")


def drive(steps: Sequence[Step], stop: Event, wake: Event, *, poll_s: float, retire: Callable[[], object] | None = None) -> None:
    """Runs the steps in this thread until ``stop`` is set; set ``wake`` after it to end at once.

    ``retire`` is called once an hour. Raises InvalidInput for a ``poll_s`` that is none.
    """
    if not 0 < poll_s <= 3600:
        raise InvalidInput("poll_s", poll_s, "must be above 0 and at most 3600 seconds")
    retired = time.monotonic()
    while not stop.is_set():
        wake.clear()
        if stop.is_set():  # it came between the two: its wake was cleared
            return
        busy = False
        for endpoint, step in steps:
            try:
                busy = step() > 0 or busy
                if retire is not None and time.monotonic() - retired > RETIRE_EVERY_S:
                    retired = time.monotonic()
                    retire()
            except (Exception, SystemExit) as error:
                log.error("work was interrupted", extra={"endpoint": endpoint, "reason": type(error).__name__})
        if not busy:
            wake.wait(poll_s)
