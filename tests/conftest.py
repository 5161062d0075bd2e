"""What all tests share: one Postgres for a whole worker, started when the first test wants it, and processes that are forked off."""

from __future__ import annotations

import json
import os
import select
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator

import pytest

from buttress import servers

WAIT_S = 20.0


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[servers.Postgres]:
    """A real server; skips with the command that provides one. Not durable: no test here judges its disk."""
    try:
        with servers.postgres(durable=False) as server:
            yield server
    except servers.NotThere as missing:
        pytest.skip(f"{missing.message}; {missing.fix}")


@pytest.fixture(scope="session")
def postgres_url(postgres_server: servers.Postgres) -> Iterator[str]:
    """A database of our own on it."""
    with postgres_server.database() as url:
        yield url


# -- processes


class Child:
    """A process forked off a test. It tells what it has to say as JSON lines; every wait has a timeout."""

    def __init__(self, pid, said):
        self.pid = pid
        self._said = said
        self._buffer = b""
        self.status = None

    def says(self, timeout_s=WAIT_S):
        """The next line, decoded; None when the child ended without another one."""
        deadline = time.monotonic() + timeout_s
        while b"\n" not in self._buffer:
            ready, _, _ = select.select([self._said], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                self.kill()
                raise AssertionError(f"the child said nothing for {timeout_s} s")
            chunk = os.read(self._said, 65_536)
            if not chunk:
                return None
            self._buffer += chunk
        line, self._buffer = self._buffer.split(b"\n", 1)
        said = json.loads(line)
        if isinstance(said, dict) and "traceback" in said:
            raise AssertionError(f"the child failed:\n{said['traceback']}")
        return said

    def ends(self, timeout_s=WAIT_S):
        """Its exit status: 0 and above as it left, below 0 the signal that ended it."""
        if self.status is None:
            self.status = os.waitstatus_to_exitcode(self._wait(0, timeout_s))
        return self.status

    def stops(self, timeout_s=WAIT_S):
        """Waits until a SIGSTOP took hold."""
        status = self._wait(os.WUNTRACED, timeout_s)
        assert os.WIFSTOPPED(status), f"the child ended ({os.waitstatus_to_exitcode(status)}) instead of stopping"

    def alive(self):
        """True until it ended. Does not wait."""
        if self.status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.status = os.waitstatus_to_exitcode(status)
        return self.status is None

    def resume(self):
        os.kill(self.pid, signal.SIGCONT)

    def kill(self):
        if self.status is None:
            os.kill(self.pid, signal.SIGKILL)
            self.ends()

    def _wait(self, options, timeout_s):
        late = threading.Timer(timeout_s, os.kill, (self.pid, signal.SIGKILL))
        late.start()
        try:
            return os.waitpid(self.pid, options)[1]
        finally:
            late.cancel()
            late.join()

    def close(self):
        self.kill()
        os.close(self._said)


@pytest.fixture
def fork() -> Iterator[Callable[..., Child]]:
    """``fork(work)`` runs ``work(tell, fd)`` in a child: ``tell(value)`` sends a line, ``fd`` takes a failpoint's mark."""
    children = []

    def run(work) -> Child:
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                os.close(reader)
                signal.signal(signal.SIGALRM, signal.SIG_DFL)  # the test runner's own handler has no business here

                def tell(value):
                    os.write(writer, json.dumps(value).encode() + b"\n")

                try:
                    work(tell, writer)
                    code = 0
                except BaseException:
                    tell({"traceback": traceback.format_exc()[-3000:]})
            finally:
                os._exit(code)
        os.close(writer)
        child = Child(pid, reader)
        children.append(child)
        return child

    yield run
    for child in children:
        child.close()
