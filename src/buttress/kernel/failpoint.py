"""Named points at which a proof may kill, stop or fail a process. In production a call costs one compare.

Nothing in the environment arms a failpoint: only ``arm``, called by the proof's host with a plan that it read from a
descriptor inherited from the harness. ``arm({})`` counts hits and harms nobody.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Mapping
from typing import Literal

from buttress.kernel.errors import ButtressError

Action = Literal["kill", "stop", "error"]

hits: dict[str, int] = {}
_plan: Mapping[str, tuple[int, Action]] | None = None
_mark_fd: int | None = None
_lock = threading.Lock()


class FailpointError(ButtressError):
    """The error that an armed failpoint raises."""

    code = "failpoint"


def failpoint(name: str) -> None:
    """Marks a durable step. Does nothing unless a proof armed it."""
    if _plan is not None:
        _reach(name)


def arm(plan: Mapping[str, tuple[int, Action]] | None, *, mark_fd: int | None = None) -> None:
    """Arms ``{name: (hit, action)}``: at the hit-th time (from 1). ``None`` disarms. ``mark_fd`` takes the evidence."""
    global _plan, _mark_fd
    with _lock:
        _plan, _mark_fd = plan, mark_fd
        hits.clear()


def _reach(name: str) -> None:
    with _lock:
        plan = _plan
        if plan is None:
            return
        hits[name] = count = hits.get(name, 0) + 1
        at, action = plan.get(name, (0, "error"))
        if count != at:
            return
        if _mark_fd is not None:  # written before the blow: a kill without this mark is no hit
            os.write(_mark_fd, f'{{"hit": "{name}", "n": {count}, "action": "{action}"}}\n'.encode())
    if action == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
        signal.pause()
    elif action == "stop":
        os.kill(os.getpid(), signal.SIGSTOP)
    else:
        raise FailpointError(f"failpoint {name} was told to fail")
