"""Subjects that live in a process: spawned, forked from a warm server, or started as a service.

A kill counts only with evidence: SIGKILL in the exit status, and for a failpoint the mark that it wrote before the blow.
Every other death is an error of the run.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from buttress.kernel.errors import ButtressError
from buttress.proof import host
from buttress.proof.family import children_of, cpu_s, end_all, family, group, stat
from buttress.proof.host import LINE_MAX_BYTES

END_TIMEOUT_S = 5.0
CALL_TIMEOUT_S = 30.0
START_TIMEOUT_S = 30.0


class SubjectError(ButtressError):
    """The subject answered ``err``: an answer, not a breakdown."""

    code = "subject_error"


class SubjectDied(ButtressError):
    """The subject was killed by a fault, as planned. A driver catches this and restarts it."""

    code = "subject_died"


class SubjectPaused(ButtressError):
    """A failpoint stopped the subject; the call is still open. A driver goes on with another worker and resumes it later."""

    code = "subject_paused"


class SubjectBroken(ButtressError):
    """The subject died unasked, hangs or breaks the protocol: the trial is void."""

    code = "subject_broken"


class UsageError(ButtressError):
    """The subject cannot be judged at all, e.g. because it lacks a method of the port."""

    code = "usage"


class FactoryFailed(ButtressError):
    """The subject's factory raised: it never ran."""

    code = "factory_failed"


class Forked:
    """A child of a fork server."""

    def __init__(self, server: ForkServer, pid: int) -> None:
        self.server = server
        self.pid = pid

    def status(self) -> int | None:
        return self.server.status(self.pid)


class ForkServer:
    """One warm interpreter for a factory: it has imported the subject and forks a child for each trial in milliseconds."""

    def __init__(self, factory: str, calls: Sequence[str], log: Path, python: str = sys.executable) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        self._sock = ours
        self._buffer = b""
        self._children: set[int] = set()
        self._exits: dict[int, int] = {}
        self._lock = threading.Lock()
        with open(log, "ab") as errors:
            self._process = subprocess.Popen(
                [python, host.__file__, "--factory", factory, "--calls", ",".join(calls), "--fork", str(theirs.fileno())],
                stdin=subprocess.DEVNULL, stdout=errors, stderr=errors, pass_fds=[theirs.fileno()], start_new_session=True,
            )
        theirs.close()
        ready = self._read(START_TIMEOUT_S)
        if not ready or not ready.get("ready"):
            self.close()
            raise FactoryFailed(f"{factory} could not be imported: {tail(log)}")
        self.shares = str(ready.get("shares", ""))  # what its children would hold in common with it, and with each other, beyond every kill

    @classmethod
    def of_commands(cls, log: Path) -> ForkServer:
        """One that executes commands: it takes in what they leave behind, however far that went from its parents."""
        return cls("", (), log)

    def fork(self, env: Mapping[str, str], stdin: int, stdout: int, stderr: int, control: int | None, argv: Sequence[str] = (),
             cwd: str | None = None) -> Forked:
        """A child with these descriptors; with ``argv`` it is that command, and the control is its descriptor 3."""
        fds = [stdin, stdout, stderr] + ([] if control is None else [control])
        asked: dict[str, Any] = {"env": dict(env), "control": control is not None}
        if argv:
            if shutil.which(argv[0], path=env.get("PATH")) is None:
                raise UsageError(f"{argv[0]}: no such command", fix="is the command right, and on the PATH?")
            asked |= {"argv": list(argv), "cwd": cwd or os.getcwd()}
        request = json.dumps(asked).encode()
        with self._lock:
            socket.send_fds(self._sock, [request], fds)
            while True:
                message = self._read(START_TIMEOUT_S)
                if message is None:
                    raise SubjectBroken("the fork server ended")
                if "pid" in message:
                    self._exits.pop(message["pid"], None)  # of a child long gone that had this number
                    self._children.add(message["pid"])
                    return Forked(self, message["pid"])

    def status(self, pid: int) -> int | None:
        with self._lock:
            while pid not in self._exits:
                if self._read(0) is None:
                    if self._process.poll() is not None:
                        raise SubjectBroken("the fork server ended")
                    return None
            return self._exits[pid]

    def orphans(self) -> list[int]:
        """What the children of this server left behind: it takes in their orphans, and these are none of its own."""
        with self._lock:
            return [pid for pid in children_of(self._process.pid) if pid not in self._children]

    def end_orphans(self) -> None:
        """kill -9 of all of them and what they started, until none is left: killing one makes orphans of its children."""
        deadline = time.monotonic() + END_TIMEOUT_S
        while (left := self.orphans()) and time.monotonic() < deadline:
            for orphan in left:
                end_all(family(orphan))
            time.sleep(0.001)

    def _read(self, timeout_s: float) -> dict[str, Any] | None:
        deadline = time.monotonic() + timeout_s
        while b"\n" not in self._buffer:
            ready, _, _ = select.select([self._sock], [], [], max(0.0, deadline - time.monotonic()))
            chunk = self._sock.recv(65536) if ready else b""
            if not chunk:
                return None
            self._buffer += chunk
        line, self._buffer = self._buffer.split(b"\n", 1)
        message: dict[str, Any] = json.loads(line)
        if "exit" in message:
            self._exits[message["exit"]] = message["status"]
            self._children.discard(message["exit"])
        return message

    def close(self) -> None:
        self._sock.close()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(timeout=10)


class SubjectProcess:
    """A subject behind the line protocol, and the control of its process."""

    def __init__(self, ending: Forked, fd_in: int, fd_out: int, control: int | None, log: Path, name: str) -> None:
        self.pid = ending.pid
        self.name = name
        self._ending = ending
        self._in, self._out, self._control = fd_in, fd_out, control
        self._ours = control is not None  # hosted by our host, which knows calls that are not of the port
        os.set_blocking(fd_in, False)
        self._log = log
        self._buffer = b""
        self._control_buffer = b""
        self._killed = False
        self._early: dict[int, dict[str, Any]] = {}
        self._next_id = 0
        self._unanswered: list[int | None] = []
        self.marks: list[dict[str, Any]] = []
        self.evidence: Callable[[], bool] = lambda: False  # of a kill from outside, e.g. strace's own log
        self._dead: int | None = None

    # -- starting

    @classmethod
    def spawn(cls, server: ForkServer, argv: Sequence[str], env: Mapping[str, str], log: Path, *, plan: Mapping[str, Any] | None = None,
              control: bool = False, cwd: str | None = None, name: str = "") -> SubjectProcess:
        """A command, with these variables beside our own."""
        stdin_r, stdin_w = os.pipe()
        stdout_r, stdout_w = os.pipe()
        ours, theirs = socket.socketpair() if control else (None, None)
        full = list(argv) + ([] if theirs is None else ["--control", "3"])
        try:
            with open(log, "ab") as errors:
                child = server.fork({**os.environ, **env}, stdin_r, stdout_w, errors.fileno(), None if theirs is None else theirs.fileno(), full, cwd)
        except BaseException:
            for fd in (stdin_w, stdout_r):
                os.close(fd)
            if ours is not None:
                ours.close()
            raise
        finally:
            os.close(stdin_r)
            os.close(stdout_w)
            if theirs is not None:
                theirs.close()
        return cls(child, stdin_w, stdout_r, cls._plan(ours, plan), log, name)

    @classmethod
    def fork(cls, server: ForkServer, env: Mapping[str, str], log: Path, *, plan: Mapping[str, Any] | None, name: str = "") -> SubjectProcess:
        stdin_r, stdin_w = os.pipe()
        stdout_r, stdout_w = os.pipe()
        ours, theirs = socket.socketpair()
        with open(log, "ab") as errors:
            child = server.fork(env, stdin_r, stdout_w, errors.fileno(), theirs.fileno())
        os.close(stdin_r)
        os.close(stdout_w)
        theirs.close()
        return cls(child, stdin_w, stdout_r, cls._plan(ours, plan), log, name)

    @staticmethod
    def _plan(ours: socket.socket | None, plan: Mapping[str, Any] | None) -> int | None:
        if ours is None:
            return None
        ours.sendall(json.dumps(plan).encode() + b"\n")
        return ours.detach()

    # -- calling

    def hello(self, calls: Sequence[str], port: Callable[[], str], parameters: Mapping[str, Sequence[str]] | None = None) -> None:
        """Starts the factory. Raises UsageError when a method of the port is missing, FactoryFailed when it raised."""
        try:
            answer = self._answer(self._send("hello", {"calls": list(calls), "parameters": dict(parameters or {})}, tag=False), START_TIMEOUT_S)
        except SubjectDied:
            raise
        except SubjectBroken as error:
            raise FactoryFailed(f"{self.name} did not start: {error.message}") from error
        if answer.get("usage"):
            raise UsageError(f"{self.name}: {_text(answer.get('err'))}", fix=f"the port is:\n{port()}")
        if "err" in answer:
            raise FactoryFailed(f"{self.name} did not start: {_text(answer['err'])}")
        there = answer.get("ok")
        missing = [name for name in calls if name not in there] if isinstance(there, list) else list(calls)
        if missing:
            raise UsageError(f"{self.name} lacks {', '.join(missing)}", fix=f"the port is:\n{port()}")

    def call(self, name: str, args: Mapping[str, Any], timeout_s: float | None = None) -> Any:
        return self._value(self._answer(self._send(name, args, tag=False, timeout_s=timeout_s), timeout_s))

    def together(self, calls: Sequence[tuple[str, Mapping[str, Any]]], timeout_s: float | None = None) -> list[dict[str, Any]]:
        """All in flight at once; the raw answers in the order of the calls."""
        ids = [self._send(name, args, tag=True, timeout_s=timeout_s) for name, args in calls]
        return [self._answer(number, timeout_s) for number in ids]

    def finish_paused(self, timeout_s: float | None = None) -> Any:
        """After ``resume``: waits for all calls that the pause interrupted; the answer of the last one."""
        answers = [self._answer(number, timeout_s) for number in list(self._unanswered)]
        return self._value(answers[-1]) if answers else None

    def hits(self) -> dict[str, int]:
        """How often each failpoint was passed; nothing where the subject is not hosted by us."""
        if not self._ours or self._unanswered:
            return {}
        found = self._answer(self._send("_hits", {}, tag=False), None).get("ok")
        return {name: n for name, n in found.items() if isinstance(n, int)} if isinstance(found, dict) else {}

    def _value(self, answer: Mapping[str, Any]) -> Any:
        if "err" in answer:
            raise SubjectError(_text(answer["err"]))
        return answer["ok"]

    def _send(self, name: str, args: Mapping[str, Any], *, tag: bool, timeout_s: float | None = None) -> int | None:
        request: dict[str, Any] = {"call": name, "args": args}
        number = None
        if tag:
            self._next_id += 1
            request["id"] = number = self._next_id
        line = json.dumps(request, separators=(",", ":")).encode() + b"\n"
        if len(line) > LINE_MAX_BYTES:
            raise SubjectBroken(f"the call {name} has {len(line)} bytes, more than {LINE_MAX_BYTES}")
        self._unanswered.append(number)
        view = memoryview(line)
        deadline = time.monotonic() + (CALL_TIMEOUT_S if timeout_s is None else timeout_s)
        try:
            while view:
                _, ready, _ = select.select([], [self._in], [], 0)
                if ready:
                    view = view[os.write(self._in, view):]
                else:
                    self._wait_for_room(deadline)
        except BrokenPipeError:
            self._ended()
        return number

    def _wait_for_room(self, deadline: float) -> None:
        """Until its stdin takes more; what it writes meanwhile is taken in, so that neither side waits for the other."""
        readable, writable, _ = select.select([self._out], [self._in], [], max(0.0, deadline - time.monotonic()))
        if readable:
            self._take_in()
        elif not writable:
            raise SubjectBroken(f"{self.name} does not read its calls")

    def _answer(self, number: int | None, timeout_s: float | None) -> dict[str, Any]:
        answer = self._await(number, CALL_TIMEOUT_S if timeout_s is None else timeout_s)
        self._unanswered.remove(number)
        return answer

    def _await(self, number: int | None, timeout_s: float) -> dict[str, Any]:
        if number is not None and number in self._early:
            return self._early.pop(number)
        deadline = time.monotonic() + timeout_s
        while True:
            line = self._line(deadline)
            try:
                message = json.loads(line)
            except ValueError:
                continue  # a subject that prints: noise, kept out of the protocol
            if not isinstance(message, dict) or ("ok" not in message and "err" not in message):
                continue
            if message.get("id") == number:
                return message
            if message.get("id") is not None:
                self._early[message["id"]] = message

    def _line(self, deadline: float) -> bytes:
        watched = [self._out] + ([] if self._control is None else [self._control])
        while b"\n" not in self._buffer:
            left = deadline - time.monotonic()
            ready, _, _ = select.select(watched, [], [], max(0.0, left))
            if not ready:
                raise SubjectBroken(f"{self.name} did not answer in time")
            if self._control in ready and self._read_marks() and self.marks[-1]["action"] == "stop":
                self._await_stop()  # the mark is written before the blow: waking it earlier would lose the wake-up
                raise SubjectPaused(f"{self.name} was stopped at {self.marks[-1]['hit']}")
            if self._out in ready:
                self._take_in()
            watched = [self._out] + ([] if self._control is None else [self._control])
        line, self._buffer = self._buffer.split(b"\n", 1)
        if len(line) > LINE_MAX_BYTES:
            raise SubjectBroken(f"{self.name} wrote a line of more than {LINE_MAX_BYTES} bytes")
        return line

    def _take_in(self) -> None:
        chunk = os.read(self._out, 1 << 16)
        if not chunk:
            self._ended()
        self._buffer += chunk
        if len(self._buffer) > LINE_MAX_BYTES and b"\n" not in self._buffer:
            raise SubjectBroken(f"{self.name} wrote a line of more than {LINE_MAX_BYTES} bytes")

    def _read_marks(self) -> bool:
        """Takes in what failpoints wrote before they struck. True if there was something."""
        if self._control is None:
            return False
        chunk = os.read(self._control, 1 << 16)
        if not chunk:
            os.close(self._control)
            self._control = None
            return False
        self._control_buffer += chunk
        *lines, self._control_buffer = self._control_buffer.split(b"\n")
        self.marks += [json.loads(line) for line in lines]
        return bool(lines)

    def _ended(self) -> NoReturn:
        """The pipe closed. Planned and proven: SubjectDied. Anything else: SubjectBroken."""
        status = self.wait()
        while self._control is not None and self._read_marks():
            pass
        struck = any(mark["action"] == "kill" for mark in self.marks)
        if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL and (self._killed or struck or self.evidence()):
            raise SubjectDied(f"{self.name} was killed")
        how = f"signal {os.WTERMSIG(status)}" if os.WIFSIGNALED(status) else f"exit {os.waitstatus_to_exitcode(status)}"
        raise SubjectBroken(f"{self.name} ended by itself ({how}): {tail(self._log)}")

    # -- process control, for faults

    def kill(self) -> bool:
        """kill -9 of the process, its group and its descendants, and wait. True: it was this that ended it."""
        if self._dead is not None:
            return False
        self._killed = True
        members = family(self.pid)[1:]  # also those that went into a session of their own
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(self.pid, signal.SIGKILL)
        status = self.wait()
        self._end_others(members)
        return os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL

    def _end_others(self, members: Sequence[int]) -> None:
        """All that it started, also what has outlived its parent or left the group: none of it may remember across a kill."""
        end_all([*members, *group(self.pid)])
        self._ending.server.end_orphans()

    def pause(self) -> None:
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def stopped(self) -> bool:
        return stat(self.pid)[0] in "Tt"

    def _await_stop(self) -> None:
        deadline = time.monotonic() + 5
        while not self.stopped():
            if time.monotonic() > deadline:
                raise SubjectBroken(f"{self.name} was told to stop and runs on")
            time.sleep(0.0005)

    def rss_peak_bytes(self) -> int:
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) * 1024
        return 0

    def cpu_s(self) -> float:
        return cpu_s(self.pid)

    def wait(self, timeout_s: float = 10.0) -> int:
        """The raw wait status."""
        deadline = time.monotonic() + timeout_s
        while self._dead is None:
            self._dead = self._ending.status()
            if self._dead is None:
                if time.monotonic() > deadline:
                    raise SubjectBroken(f"{self.name} does not end")
                time.sleep(0.001)
        return self._dead

    def close(self) -> None:
        """Closes its input, lets it finish, then ends the group. Safe at any time, also when it is stopped or dead."""
        if self._in >= 0:
            os.close(self._in)
            self._in = -1
            members = family(self.pid)[1:] if self._dead is None else []
            if self._dead is None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(self.pid, signal.SIGCONT)
                with contextlib.suppress(SubjectBroken):
                    self.wait(2.0)
                with contextlib.suppress(SubjectBroken):
                    self.kill()
            self._end_others(members)
            os.close(self._out)
            if self._control is not None:
                os.close(self._control)
                self._control = None


def split_command(spec: str) -> list[str]:
    """``cmd:ARGV`` to argv, split as a shell would, without one."""
    try:
        argv = shlex.split(spec.removeprefix("cmd:"))
    except ValueError as error:
        raise UsageError(f"cmd: {error}") from error
    if not argv:
        raise UsageError("cmd: names no command")
    return argv


def _text(error: Any) -> str:
    return error if isinstance(error, str) else json.dumps(error)


def tail(log: Path, lines: int = 2) -> str:
    with contextlib.suppress(OSError):
        return " / ".join(log.read_text(errors="replace").strip().splitlines()[-lines:])[-300:] or "nothing in its log"
    return "no log"
