"""Hosts a subject behind the line protocol. Standard library only: it runs as a file in any Python, also a peer's own.

    python host.py --factory FACTORY --calls deliver,work         one subject, on stdin and stdout
    python host.py --factory FACTORY --calls deliver,work --fork FD   imports once, then forks a subject for each request

FACTORY is ``module:attribute`` or ``path/to/file.py:attribute`` and takes an Env. The protocol is a JSON object a line:

    {"call": "deliver", "args": {"body": "..."}}     ->  {"ok": 200}   or   {"err": "why"}
    {"call": "hello", "args": {"calls": [...]}}      ->  {"ok": ["deliver", "work"]}     first of all: which calls are there
    {"call": ..., "args": ..., "id": 7}              ->  {"ok": ..., "id": 7}            calls that overlap

BUTTRESS_DIR, _SEED, _WORLD (a JSON object), _CLOCK (a file of 8 bytes: little-endian float64, seconds since the epoch;
empty: the machine's time) and _WORKER say what a subject may know. A line holds at most 1 MiB.
"""

from __future__ import annotations

import argparse
import array
import contextlib
import importlib
import importlib.util
import inspect
import json
import mmap
import os
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

LINE_MAX_BYTES = 1 << 20


class Clock(Protocol):
    def now(self) -> float: ...


class MappedClock:
    """Reads the eight bytes that the harness writes."""

    def __init__(self, path: str) -> None:
        with open(path, "rb") as file:
            self._view = memoryview(mmap.mmap(file.fileno(), 8, access=mmap.ACCESS_READ)).cast("d")

    def now(self) -> float:
        return float(self._view[0])


class MachineClock:
    def now(self) -> float:
        return time.time()


@dataclass
class Env:
    """All that a subject may know. ``dir`` survives kill -9 and restart; ``world`` names the simulators of the outside."""

    dir: str
    seed: int
    world: Mapping[str, str]
    clock: Clock
    worker: int = 0


def env_from(variables: Mapping[str, str]) -> Env:
    clock = variables.get("BUTTRESS_CLOCK", "")
    return Env(
        dir=variables["BUTTRESS_DIR"],
        seed=int(variables.get("BUTTRESS_SEED", "0")),
        world=json.loads(variables.get("BUTTRESS_WORLD", "{}")),
        clock=MappedClock(clock) if clock else MachineClock(),
        worker=int(variables.get("BUTTRESS_WORKER", "0")),
    )


def load_factory(spec: str) -> Callable[[Env], Any]:
    place, _, attribute = spec.rpartition(":")
    if not place:
        raise SystemExit(f"factory {spec!r}: must be module:attribute or file.py:attribute")
    if place.endswith(".py"):
        name = "buttress_subject_" + os.path.basename(place)[:-3].replace("-", "_")
        module_spec = importlib.util.spec_from_file_location(name, place)
        if module_spec is None or module_spec.loader is None:
            raise SystemExit(f"factory {spec!r}: no such file")
        module = importlib.util.module_from_spec(module_spec)
        sys.modules[name] = module
        folder = os.path.dirname(os.path.abspath(place))
        if folder not in sys.path:
            sys.path.append(folder)  # behind all else: its neighbours are found, and shadow nothing
        module_spec.loader.exec_module(module)
    else:
        module = importlib.import_module(place)
    factory: Any = module
    for part in attribute.split("."):
        factory = getattr(factory, part)
    return factory  # type: ignore[no-any-return]


def arm(control_fd: int | None) -> bool:
    """Reads the plan from the inherited descriptor and arms the failpoints, if this Python has them."""
    if control_fd is None:
        return False
    plan = json.loads(_read_line(control_fd) or "null")
    if plan is None:
        return False
    try:
        failpoint = importlib.import_module("buttress.kernel.failpoint")
    except ImportError:
        return False
    failpoint.arm({name: (at, action) for name, (at, action) in plan.items()}, mark_fd=control_fd)
    return True


def _read_line(fd: int) -> str:
    line = b""
    while not line.endswith(b"\n"):
        byte = os.read(fd, 1)
        if not byte:
            break
        line += byte
    return line.decode()


def serve(factory: Callable[[Env], Any], calls: list[str], fd_in: int, fd_out: int, control_fd: int | None) -> None:
    """Answers calls until the input ends. What the subject prints goes to its log, never into the protocol."""
    armed = arm(control_fd)
    lock = threading.Lock()

    def answer(message: dict[str, Any]) -> None:
        line = json.dumps(message, separators=(",", ":"), default=str).encode() + b"\n"
        if len(line) > LINE_MAX_BYTES:
            line = json.dumps({"err": f"the answer has {len(line)} bytes, more than {LINE_MAX_BYTES}",
                               **({"id": message["id"]} if "id" in message else {})}).encode() + b"\n"
        with lock:
            view = memoryview(line)
            while view:
                view = view[os.write(fd_out, view):]

    def run(request: dict[str, Any]) -> None:
        tag = {"id": request["id"]} if "id" in request else {}
        try:
            value = getattr(port, request["call"])(**request.get("args", {}))
        except Exception as error:
            answer({"err": f"{type(error).__name__}: {error}", **tag})
        else:
            answer({"ok": value, **tag})

    port: Any = None
    with os.fdopen(fd_in, "rb", closefd=False) as lines:
        for raw in lines:
            request = json.loads(raw)
            if request["call"] == "hello":
                try:
                    port = factory(env_from(os.environ))
                except Exception as error:
                    answer({"err": f"{type(error).__name__}: {error}", "factory": True})
                    continue
                answer(_there(port, calls, request.get("args", {}).get("parameters", {})))
            elif request["call"] == "_hits":
                answer({"ok": dict(sys.modules["buttress.kernel.failpoint"].hits) if armed else {}})
            elif "id" in request:
                threading.Thread(target=run, args=(request,), daemon=True).start()
            else:
                run(request)
    close = getattr(port, "close", None)
    if callable(close):
        close()


def _there(port: Any, calls: list[str], parameters: Mapping[str, list[str]]) -> dict[str, Any]:
    """Which calls are there; one that does not take the port's parameters by name cannot be judged."""
    found = [name for name in calls if callable(getattr(port, name, None))]
    for name in found if parameters else ():
        with contextlib.suppress(ValueError):  # a builtin without a signature
            try:
                inspect.signature(getattr(port, name)).bind(**dict.fromkeys(parameters.get(name, ())))
            except TypeError as error:
                return {"err": f"{name} does not take {', '.join(parameters.get(name, ())) or 'no arguments'}: {error}", "usage": True}
    return {"ok": found}


def die_with_parent() -> None:
    """A child must not outlive the harness (prctl PR_SET_PDEATHSIG; Linux only, elsewhere the closed stdin ends it)."""
    with contextlib.suppress(Exception):
        import ctypes

        ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def adopt_orphans() -> None:
    """What a subject leaves behind becomes a child of its fork server, where it is found (prctl PR_SET_CHILD_SUBREAPER; Linux)."""
    with contextlib.suppress(Exception):
        import ctypes

        ctypes.CDLL(None).prctl(36, 1)


def shared_by(before: set[str]) -> str:
    """What an import opened that all forked children would have in common: memory mapped as shared and writable, descriptors."""
    with contextlib.suppress(OSError):
        with open("/proc/self/maps", encoding="utf-8", errors="replace") as maps:
            shared = [line for line in maps if line.split()[1][1:4:2] == "ws"]
        if shared:
            return "shared memory"
        if descriptors_open() - before:
            return "open descriptors"
    return ""


def descriptors_open() -> set[str]:
    with contextlib.suppress(OSError):
        return {fd for fd in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{fd}")}  # without that of the listing itself
    return set()


def private_stdout() -> int:
    """Moves the protocol off descriptor 1, so that print() cannot reach it."""
    fd = os.dup(1)
    os.dup2(2, 1)
    return fd


def fork_server(spec: str, calls: list[str], fd: int) -> None:
    """Forks a subject for each request on the socket, and reports each child's exit status.

    A request is {"env": {...}, "control": bool} with stdin, stdout, stderr and, if so, the control descriptor attached. With
    "argv" (and "cwd") the child executes that command instead; a server for commands only has no factory.
    """
    adopt_orphans()
    before = descriptors_open()
    factory = load_factory(spec) if spec else None
    shares = shared_by(before)
    sock = socket.socket(fileno=fd)
    wake_r, wake_w = os.pipe()
    os.set_blocking(wake_w, False)
    signal.set_wakeup_fd(wake_w, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    sock.sendall(json.dumps({"ready": True, "shares": shares}).encode() + b"\n")
    while True:
        try:
            ready, _, _ = select.select([sock.fileno(), wake_r], [], [])
        except InterruptedError:
            continue
        if wake_r in ready:
            os.read(wake_r, 4096)
            while True:
                try:
                    pid, status = os.waitpid(-1, os.WNOHANG)
                except ChildProcessError:
                    break
                if pid == 0:
                    break
                sock.sendall(json.dumps({"exit": pid, "status": status}).encode() + b"\n")
        if sock.fileno() in ready:
            descriptors = array.array("i")
            data, ancillary, _, _ = sock.recvmsg(LINE_MAX_BYTES, socket.CMSG_SPACE(4 * descriptors.itemsize))
            if not data:
                return
            for level, kind, payload in ancillary:
                if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                    descriptors.frombytes(payload[: len(payload) - len(payload) % descriptors.itemsize])
            pid = os.fork()
            if pid == 0:
                _become(factory, calls, json.loads(data), list(descriptors), [sock.fileno(), wake_r, wake_w])
            for descriptor in descriptors:
                os.close(descriptor)
            sock.sendall(json.dumps({"pid": pid}).encode() + b"\n")


def _become(factory: Callable[[Env], Any] | None, calls: list[str], request: dict[str, Any], fds: list[int], close: list[int]) -> None:
    """The forked child: a process group of its own, its own descriptors, then the subject. Never returns."""
    code = 70
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.setsid()
        die_with_parent()
        for descriptor in close:
            os.close(descriptor)
        if "argv" in request:
            code = 126
            _execute(request["argv"], request["env"], request.get("cwd"), fds)
        os.dup2(fds[2], 2)
        os.dup2(fds[2], 1)
        os.environ.update(request["env"])
        assert factory is not None
        serve(factory, calls, fds[0], fds[1], fds[3] if request["control"] else None)
        code = 0
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def _execute(argv: list[str], env: dict[str, str], cwd: str | None, fds: list[int]) -> None:
    """The command in place of this process: stdin, stdout, stderr, and as descriptor 3 the control if there is one. Returns never."""
    if cwd is not None:
        os.chdir(cwd)
    high = [os.dup2(descriptor, 100 + number, inheritable=False) for number, descriptor in enumerate(fds)]
    for number, descriptor in enumerate(high):
        os.dup2(descriptor, number, inheritable=True)
    for descriptor in {*fds} - {*range(len(fds))}:
        os.close(descriptor)
    os.execvpe(argv[0], argv, env)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--factory", required=True)
    parser.add_argument("--calls", required=True)
    parser.add_argument("--control", type=int)
    parser.add_argument("--fork", type=int)
    options = parser.parse_args()
    calls = options.calls.split(",")
    die_with_parent()
    if options.fork is not None:
        fork_server(options.factory, calls, options.fork)
        return
    fd_out = private_stdout()
    factory = load_factory(options.factory)
    serve(factory, calls, 0, fd_out, options.control)


if __name__ == "__main__":
    # run as a file, this folder is first on sys.path and would shadow modules of the subject
    here = os.path.dirname(os.path.abspath(__file__))
    sys.path[:] = [p for p in sys.path if os.path.abspath(p or ".") != here]
    main()
