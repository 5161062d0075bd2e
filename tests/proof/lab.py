"""Instruments for processes: what is open, whether somebody is still there, and waiting for an end without sleeping."""

from __future__ import annotations

import atexit
import functools
import inspect
import os
import select
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from buttress.proof import host
from buttress.proof.process import ForkServer

from .subjects import Echo

SUBJECTS = Path(__file__).with_name("subjects.py")
PARAMETERS = {name: [p for p in inspect.signature(method).parameters if p != "self"] for name, method in vars(Echo).items() if inspect.isfunction(method)}


@functools.cache
def commands() -> ForkServer:
    """The server that executes commands, one for all tests of this process."""
    folder = tempfile.TemporaryDirectory()
    server = ForkServer.of_commands(Path(folder.name, "log"))
    atexit.register(folder.cleanup)
    atexit.register(server.close)
    return server


def factory(name: str) -> str:
    return f"{SUBJECTS}:{name}"


def host_argv(name: str, calls: Sequence[str], *, isolated: bool = False) -> list[str]:
    return [sys.executable, *(["-I", "-S"] if isolated else []), host.__file__, "--factory", factory(name), "--calls", ",".join(calls)]


def variables(folder: Path, **more: str) -> dict[str, str]:
    (folder / "state").mkdir(exist_ok=True)
    return {"BUTTRESS_DIR": str(folder / "state"), "BUTTRESS_SEED": "7", "BUTTRESS_WORLD": "{}", "BUTTRESS_CLOCK": "", "BUTTRESS_WORKER": "0", **more}


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def ends(pid: int, timeout_s: float = 10.0) -> bool:
    """Waits for the end of any process, not only of a child: True when it is gone."""
    try:
        watched = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([watched], [], [], timeout_s)[0])
    finally:
        os.close(watched)


def alive(pid: int) -> bool:
    return not ends(pid, 0)
