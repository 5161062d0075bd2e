"""What all servers need: a free port, a folder, a user that is not root, an end that comes for sure."""

from __future__ import annotations

import contextlib
import ctypes
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from buttress.kernel.errors import ButtressError

START_TIMEOUT_S = 30.0
_BASE = Path(tempfile.gettempdir()) / f"buttress-servers-{os.getuid()}"


class NotThere(ButtressError):
    """No such server can be had on this machine. ``fix`` is the command that would provide it."""

    code = "server_not_there"


class ServerFailed(ButtressError):
    """It was started and did not become healthy. The message ends with its log."""

    code = "server_failed"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def other_user() -> str | None:
    """For root: the user that servers run as (they refuse root). None: as we are."""
    if os.getuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            pwd.getpwnam(name)
            return name
    return None


def may_run(binary: str, user: str | None) -> bool:
    """Whether that user can run the binary at all (it may lie under somebody's closed home)."""
    try:
        return subprocess.run([binary, "--version"], user=user, capture_output=True, timeout=20, check=False, cwd="/").returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def folder(name: str, user: str | None) -> Path:
    """A fresh data folder, owned by the server's user; leftovers of owners that are gone are ended and removed first."""
    _BASE.mkdir(mode=0o755, exist_ok=True)
    sweep()
    place = Path(tempfile.mkdtemp(prefix=f"{name}-{os.getpid()}-", dir=_BASE))
    place.chmod(0o700)
    if user is not None:
        shutil.chown(place, user)
    return place


def sweep() -> None:
    """Ends servers whose owner was killed, by their pid files, and removes their folders."""
    for place in _BASE.glob("*-*-*"):
        owner = place.name.split("-")[1]
        if not owner.isdigit() or _alive(int(owner)):
            continue
        with contextlib.suppress(OSError, ValueError):
            pid = int((place / "server.pid").read_text())
            if str(place) in Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " "):
                os.kill(pid, signal.SIGKILL)
        shutil.rmtree(place, ignore_errors=True)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


class Server:
    """A process that we started. ``ours`` is True: faults that flush, pause or kill are allowed."""

    ours = True

    def __init__(self, argv: Sequence[str], place: Path, user: str | None, healthy: Callable[[], bool], stop: int = signal.SIGTERM) -> None:
        self.argv, self.place, self.user = list(argv), place, user
        self._healthy, self._stop = healthy, stop
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Returns when it is healthy; raises ServerFailed with the end of its log."""
        with open(self.place / "server.log", "ab") as log:
            self._process = subprocess.Popen(self.argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, user=self.user, cwd=str(self.place),
                                             start_new_session=True, preexec_fn=_end_with_owner if sys.platform == "linux" else None)
        (self.place / "server.pid").write_text(str(self._process.pid))
        deadline = time.monotonic() + START_TIMEOUT_S
        while not self._healthy():
            if self._process.poll() is not None or time.monotonic() > deadline:
                code = self._process.poll()
                self.stop()
                raise ServerFailed(f"{Path(self.argv[0]).name} did not become healthy (exit {code}): {self.log_tail()}")
            time.sleep(0.02)

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def kill(self) -> None:
        """kill -9 of the server and its children."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        if self._process is not None:
            self._process.wait(timeout=10)

    def pause(self) -> None:
        os.killpg(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        os.killpg(self.pid, signal.SIGCONT)

    def stop(self) -> None:
        if self._process is not None and self._process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGCONT)
                os.kill(self.pid, self._stop)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout=5)
            self.kill()

    def remove(self) -> None:
        self.stop()
        shutil.rmtree(self.place, ignore_errors=True)

    def log_tail(self) -> str:
        with contextlib.suppress(OSError):
            return " / ".join((self.place / "server.log").read_text(errors="replace").strip().splitlines()[-3:])[-400:]
        return "no log"


def _end_with_owner() -> None:
    """In the child, before exec: a server must not outlive the process that started it (prctl PR_SET_PDEATHSIG)."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)
