"""A service in any language: started without a shell, reached at a URL, killed and started again."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from buttress.proof.family import cpu_s, end_all, family, group
from buttress.proof.process import START_TIMEOUT_S, FactoryFailed, ForkServer, SubjectBroken, tail


class ServiceProcess:
    """A service in any language, started without a shell and reached at a URL."""

    def __init__(self, argv: Sequence[str], env: Mapping[str, str], log: Path, server: ForkServer) -> None:
        self._log = log
        self.port: Any = None  # what speaks to it, in the harness
        self.killed = False
        with open(log, "ab") as errors, open(os.devnull, "rb") as nothing:
            self._ending = server.fork({**os.environ, **env}, nothing.fileno(), errors.fileno(), errors.fileno(), None, list(argv))
        self.pid = self._ending.pid

    def await_answer(self, url: str, timeout_s: float | None = None) -> None:
        """Any HTTP answer counts as up. Raises FactoryFailed when it ends or does not answer in time."""
        limit_s = START_TIMEOUT_S if timeout_s is None else timeout_s
        deadline = time.monotonic() + limit_s
        while time.monotonic() < deadline:
            if self.ended():
                raise FactoryFailed(f"the service ended (exit {os.waitstatus_to_exitcode(self._ending.status() or 0)}): {tail(self._log)}")
            if answers(url):
                return
            time.sleep(0.02)
        raise FactoryFailed(f"the service did not answer at {url} in {limit_s:g} s: {tail(self._log)}")

    def ended(self, wait_s: float = 0.0) -> bool:
        """Whether it is over. Its end is told by its server, a moment after its connections broke: ``wait_s`` allows for that."""
        deadline = time.monotonic() + wait_s
        while self._ending.status() is None:
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.002)
        return True

    def kill(self) -> bool:
        """kill -9 of the whole group and all that it left behind. True: it was this that ended it."""
        if self.ended():
            return False
        self.killed = True
        status = self._end(signal.SIGKILL)
        return os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL

    def cpu_s(self) -> float:
        return cpu_s(self.pid)

    def rss_peak_bytes(self) -> int:
        return 0

    def close(self) -> None:
        if not self.ended():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGTERM)
            with contextlib.suppress(SubjectBroken):
                self._await_end(2)
        with contextlib.suppress(SubjectBroken):
            self._end(signal.SIGKILL)

    def _end(self, number: int) -> int:
        members = family(self.pid)
        if not self.ended():
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, number)
        end_all(group(self.pid))
        status = self._await_end(10)
        end_all(members[1:])
        self._ending.server.end_orphans()
        return status

    def _await_end(self, timeout_s: float) -> int:
        deadline = time.monotonic() + timeout_s
        while (status := self._ending.status()) is None:
            if time.monotonic() > deadline:
                raise SubjectBroken("the service does not end")
            time.sleep(0.002)
        return status


def answers(url: str) -> bool:
    """Whether anything speaks HTTP there."""
    import http.client
    from urllib.parse import urlsplit

    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "127.0.0.1", parts.port or 80, timeout=2)
    try:
        connection.request("GET", parts.path or "/")
        connection.getresponse().read()
    except OSError:
        return False
    except http.client.HTTPException:
        return True
    finally:
        connection.close()
    return True
