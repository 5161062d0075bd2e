"""One subject x scenario x fault case, as a driver sees it.

The driver calls the port; a recording proxy turns each call into an op of the history: ``ok`` (answered), ``fail``
(answered with an error: SubjectError) or ``info`` (nobody knows: the subject was killed or paused in the middle).
"""

from __future__ import annotations

import contextlib
import inspect
import json
import random
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urljoin

from buttress.kernel.clock import Clock, SharedClock, SystemClock
from buttress.kernel.errors import ButtressError, InvalidInput
from buttress.proof import host
from buttress.proof.contract import Case, Env, Proof, Scenario, Subject, calls_of, parameters_of
from buttress.proof.family import cpu_s
from buttress.proof.faults import disk
from buttress.proof.faults.strace import SYNC_CALLS, WRITE_CALLS, most_calls, was_struck
from buttress.proof.history import HistoryWriter
from buttress.proof.parts import python_of
from buttress.proof.process import (
    FactoryFailed,
    ForkServer,
    SubjectBroken,
    SubjectDied,
    SubjectError,
    SubjectPaused,
    SubjectProcess,
    UsageError,
    split_command,
)
from buttress.proof.service import ServiceProcess, answers

EPOCH = 1_800_000_000.0  # where virtual time starts: 2027-01-15 08:00:00 UTC
ARG_SHOWN = 240
LIST_SHOWN = 50
T = TypeVar("T")


class VirtualClock(SharedClock):
    """The shared clock as the driver turns it. ``now`` is the driver's own time; what a subject reads may be skewed from it."""

    def __init__(self, path: str, *, writable: bool = False, start: float | None = None) -> None:
        super().__init__(path, writable=writable, start=start)
        self._true = super().now()
        self.skew: Callable[[float], float] = lambda true: true

    def now(self) -> float:
        return self._true

    def shown(self) -> float:
        """What a subject reads."""
        return super().now()

    def set(self, now: float) -> None:
        self._true = now
        super().set(self.skew(now))

    def to(self, now: float) -> None:
        """Forward only: a schedule that is late stays late."""
        self.set(max(self.now(), now))


class ShownClock:
    """What a subject in this process reads of a virtual clock."""

    def __init__(self, clock: VirtualClock) -> None:
        self._clock = clock

    def now(self) -> float:
        return self._clock.shown()


@dataclass
class Warm:
    """What outlives a trial: fork servers by factory. Closed at the end of the run."""

    log: Path
    servers: dict[str, ForkServer] = field(default_factory=dict)

    def fork_server(self, factory: str, calls: Sequence[str], python: str) -> ForkServer:
        key = f"{python} {factory} {','.join(calls)}"
        if key not in self.servers:
            self.servers[key] = ForkServer(factory, calls, self.log, python)
        return self.servers[key]

    def command_server(self) -> ForkServer:
        """What executes the commands and services of strangers."""
        if "" not in self.servers:
            self.servers[""] = ForkServer.of_commands(self.log)
        return self.servers[""]

    def close(self) -> None:
        for server in self.servers.values():
            server.close()
        self.servers.clear()


@dataclass(frozen=True)
class Meter:
    """What a stretch of work cost. CPU is that of the subject and of all servers that work for it."""

    wall_s: float
    cpu_s: float


class Trial:
    """See the module. A driver uses ``open``, ``restart``, ``resume``, ``together``, ``record``, ``fault`` and ``meter``."""

    def __init__(self, proof: Proof, subject: Subject, scenario: Scenario, case: Case, *, number: int, size: Any, seed: int,
                 folder: Path, writer: HistoryWriter, warm: Warm, inputs: Mapping[str, str], in_process: bool, trace: str = "") -> None:
        self.proof, self.subject, self.scenario, self.case = proof, subject, scenario, case
        self.number, self.size, self.seed = number, size, seed
        self.rng = random.Random(f"{seed}/{scenario.name}")  # the same workload for every subject and case
        self.dir = str(folder)
        self.inputs = inputs
        self.world: dict[str, str] = {}
        self.clock: VirtualClock | SystemClock
        self._folder = folder
        self._writer = writer
        self._warm = warm
        self._in_process = in_process
        self._trace = trace
        self._power = case.power
        self._before: dict[str, bytes] = {}
        self._cut = False
        self._calls = calls_of(proof.port)
        self._hosts: dict[int, SubjectProcess | ServiceProcess | _InProcess] = {}
        self._opened: dict[int, Any] = {}
        self._counted: dict[str, list[int]] = {}  # hits of each failpoint, by the processes that passed it
        self._replies: dict[str, int] = {}
        self._crew = 0
        self._tags: dict[str, int] = {}
        self.hit = not case.failpoints and case.during is None  # ``during`` sets it when its fault took effect
        self.hits: dict[str, int] = {}
        self.outside: Any = None  # what the proof's world hands to its driver
        self.made: dict[str, int] = {}  # faults that the workload made itself
        self._charged: list[int] = []
        folder.mkdir(parents=True)
        (folder / "state").mkdir()
        if scenario.virtual:
            self.clock = VirtualClock(str(folder / "clock"), writable=True, start=EPOCH)
        else:
            self.clock = SystemClock()
        self._write("trial", subject=subject.name, scenario=scenario.name, case=case.label, seed=seed)

    # -- the driver's side

    def open(self, worker: int = 0) -> Any:
        """Starts the subject; returns its port, each call recorded."""
        if worker in self._hosts:
            raise ButtressError(f"worker {worker} is open already")
        self._hosts[worker] = self._start(worker)
        self._opened[worker] = port = _Recorder(self, worker)
        return port

    def surely(self, call: Callable[[Any], T], worker: int = 0) -> T:
        """``call(port)`` until it is answered: after a kill the subject is restarted and asked again."""
        while True:
            try:
                return call(self._opened[worker])
            except SubjectDied:
                self.restart(worker)

    def restart(self, worker: int = 0) -> Any:
        """After its death (or to force it): starts it again on the same folder."""
        before = self._hosts.pop(worker, None)
        if before is not None:
            self._absorb(before)
            before.close()
            self._cut_power()
        return self.open(worker)

    def _cut_power(self) -> None:
        """After the kill of a power cut: the folder becomes what a disk may hold. Once; what happens afterwards has power."""
        if not self._power or not self._cut:
            return
        tear, self._power = self._power, ""
        left = disk.cut(Path(self.state), self._before, sorted(self._folder.glob("strace.*")), tear, random.Random(f"{self.seed}/{self.number}"))  # type: ignore[arg-type]
        self._write("fault", name="power cut", armed=1, hit=1, at=self.clock.now(), tear=tear, unsynced=left)

    def down(self, worker: int = 0) -> bool:
        """Whether a service was killed after its last call: nobody has noticed, so nobody has started it again."""
        running = self._hosts.get(worker)
        return isinstance(running, ServiceProcess) and running.killed

    def kill(self, worker: int = 0) -> None:
        """kill -9 by the driver itself."""
        running = self._hosts[worker]
        if isinstance(running, _InProcess):
            raise ButtressError("a subject in this process cannot be killed", fix="set processes=True on the scenario")
        running.kill()

    def resume(self, worker: int = 0) -> Any:
        """Wakes a paused subject and waits for the answer of the call that was interrupted."""
        running = self._hosts[worker]
        assert isinstance(running, SubjectProcess)
        running.resume()
        return self._recorded(worker, "resumed", {}, running.finish_paused)

    def together(self, *calls: tuple[Callable[..., Any], Mapping[str, Any]]) -> list[Any]:
        """Several calls in flight at once. Returns values, or the exception where one was raised."""
        def one(call: tuple[Callable[..., Any], Mapping[str, Any]]) -> Any:
            try:
                return call[0](**call[1])
            except ButtressError as error:
                return error

        groups: dict[int, list[int]] = {}
        for index, (method, _) in enumerate(calls):
            groups.setdefault(getattr(method, "worker", -1), []).append(index)
        process = [w for w in groups if isinstance(self._hosts.get(w), SubjectProcess)]
        if len(process) == len(groups) == 1:
            return self._overlap(process[0], [(m.name, m.bound(args)) for m, args in calls])  # type: ignore[attr-defined]
        with ThreadPoolExecutor(max_workers=len(calls)) as pool:
            return list(pool.map(one, calls))

    def record(self, kind: str, **fields: Any) -> None:
        """op | fact (seen by the world) | tally (many trials folded) | gauge | lap."""
        taken = {"trial", "subject", "scenario", "case"} & set(fields)
        if taken:
            raise InvalidInput("fields", sorted(taken), "are the trial's own")
        self._write(kind, **fields)

    def fault(self, name: str, **fields: Any) -> None:
        """A fault that the workload makes itself; counted like the others, armed and hit."""
        self.record("fault", name=name, armed=1, hit=1, **fields)
        self.made[name] = self.made.get(name, 0) + 1

    @contextlib.contextmanager
    def meter(self) -> Iterator[Callable[[], Meter]]:
        """``with trial.meter() as read: ...; cost = read()``."""
        cpu, wall = self.cpu_s(), time.perf_counter()
        end: list[Meter] = []
        yield lambda: end[0] if end else Meter(time.perf_counter() - wall, self.cpu_s() - cpu)
        end.append(Meter(time.perf_counter() - wall, self.cpu_s() - cpu))

    def cpu_s(self) -> float:
        """CPU seconds so far of the subject and its servers."""
        return sum(running.cpu_s() for running in self._hosts.values()) + sum(cpu_s(pid) for pid in self._charged)

    def charge(self, pid: int) -> None:
        """A server that works for the subject: its CPU counts as the subject's."""
        self._charged.append(pid)

    def rss_peak_bytes(self, worker: int = 0) -> int:
        return self._hosts[worker].rss_peak_bytes()

    @property
    def state(self) -> str:
        """The subject's durable folder."""
        return str(self._folder / "state")

    @property
    def url(self) -> str:
        """Where a subject that is a service answers; empty for the others."""
        served = bool(self.subject.start) or str(self.subject.factory).startswith(("http://", "https://"))
        return str(self.subject.factory) if served else ""

    # -- the harness's side

    def finish(self) -> None:
        """Takes in the hits and closes all; called on every exit path."""
        for running in list(self._hosts.values()):
            with contextlib.suppress(ButtressError):
                self._absorb(running, ask=True)
            running.close()
            if self._trace == "inject" and was_struck(self._folder):  # while it closed: nobody was there to see it die
                self.hit = True
        self._hosts.clear()
        for name, counts in self._counted.items():  # several workers share the work by chance: what one of them surely reaches
            self.hits[name] = -(-sum(counts) // max(1, self._crew))
        self.hits["@reply"] = sum(self._replies.values())
        for name, count in self._replies.items():
            self.hits[f"@reply:{name}"] = count
        for name, at in (("@sync", SYNC_CALLS), ("@write", WRITE_CALLS)):
            if self._trace:
                self.hits[name] = most_calls(self._folder, at.split(","))
        if isinstance(self.clock, VirtualClock):
            self.clock.close()

    def keep(self, place: Path) -> None:
        """Moves a void trial's folder to where it can be looked at."""
        if place != self._folder:
            shutil.copytree(self._folder, place, dirs_exist_ok=True, ignore_dangling_symlinks=True)
            self.discard()

    def discard(self) -> None:
        """Removes the trial's folder; a void one is kept to be looked at."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _absorb(self, running: Any, *, ask: bool = False) -> None:
        """Evidence of hits: marks of failpoints, and counts where the subject still answers."""
        if not isinstance(running, SubjectProcess):
            return
        if any(mark["hit"] in self.case.failpoints for mark in running.marks):
            self.hit = True
        if self._trace == "inject" and was_struck(self._folder):
            self.hit = True
        self._crew = max(self._crew, len(self._hosts))
        if ask and not self.case.failpoints:
            for name, number in running.hits().items():
                self._counted.setdefault(name, []).append(number)

    def _start(self, worker: int) -> SubjectProcess | ServiceProcess | _InProcess:
        subject = self.subject
        if subject.start or (isinstance(subject.factory, str) and subject.factory.startswith(("http://", "https://"))):
            return self._start_service(worker)
        if self._in_process:
            return _InProcess(self._load(worker), self._calls)
        assert isinstance(subject.factory, str)
        plan = {name: value for name, value in self.case.failpoints.items() if not name.startswith("@")}
        log, env = self._folder / "subject.log", self._variables(worker)
        if subject.factory.startswith("cmd:"):
            argv = self._traced(split_command(subject.factory))
            process = SubjectProcess.spawn(self._warm.command_server(), argv, env, log, name=subject.name)
        elif self._trace or self._server().shares:  # traced, or of a module whose memory a fork would carry over a kill: a fresh interpreter
            argv = [self._python(), host.__file__, "--factory", subject.factory, "--calls", ",".join(self._calls)]
            process = SubjectProcess.spawn(self._warm.command_server(), self._traced(argv), env, log, plan=plan, control=True, name=subject.name)
        else:
            process = SubjectProcess.fork(self._server(), env, log, plan=plan, name=subject.name)
        if self._trace == "inject":
            process.evidence = lambda: was_struck(self._folder)
        self._hosts[worker] = process  # so that it is closed when hello fails
        try:
            process.hello(self._calls, lambda: inspect.getsource(self.proof.port), parameters_of(self.proof.port))
        except SubjectDied:  # killed inside its factory, as planned: once more, without the plan
            self._hit_from(process)
            process.close()
            self._cut = True
            self._cut_power()
            return self._start(worker)
        self._hosts.pop(worker)
        return process

    def _server(self) -> ForkServer:
        try:
            return self._warm.fork_server(str(self.subject.factory), self._calls, self._python())
        except FactoryFailed as error:
            if self.subject.role == "yours":
                raise UsageError(error.message, fix="is the factory's name right?") from error
            raise

    def _python(self) -> str:
        """A peer with parts of its own is hosted in its own environment."""
        own = python_of(self.subject.name) if any(part.startswith("pip:") for part in self.subject.parts) else None
        return str(own) if own is not None else sys.executable

    def _hit_from(self, process: SubjectProcess) -> None:
        self._absorb(process)
        self.case = Case(self.case.label)  # a failpoint strikes once
        self._trace = ""

    def _load(self, worker: int) -> Any:
        factory = self.subject.factory
        if isinstance(factory, str):
            try:
                factory = host.load_factory(factory)
            except (ImportError, AttributeError, OSError, SyntaxError) as error:
                raise FactoryFailed(f"{self.subject.factory}: {type(error).__name__}: {error}") from error
        clock: Clock = ShownClock(self.clock) if isinstance(self.clock, VirtualClock) else self.clock
        try:
            port = factory(Env(self.state, self.seed, self.world, clock, worker))
        except Exception as error:
            raise FactoryFailed(f"{self.subject.name} did not start: {type(error).__name__}: {error}") from error
        missing = [name for name in self._calls if not callable(getattr(port, name, None))]
        if missing:
            raise UsageError(f"{self.subject.name} lacks {', '.join(missing)}", fix=f"the port is:\n{inspect.getsource(self.proof.port)}")
        return port

    def _start_service(self, worker: int) -> ServiceProcess | _InProcess:
        url = str(self.subject.factory)
        if self.proof.from_url is None:
            raise UsageError(f"{self.proof.system} cannot be judged by its URL", fix="use --subject")
        try:
            port = self.proof.from_url(url, Env(self.state, self.seed, self.world, self.clock, worker))
        except Exception as error:
            raise FactoryFailed(f"{self.subject.name} did not start: {type(error).__name__}: {error}") from error
        if not self.subject.start:
            return _InProcess(port, self._calls)
        words = {**self.world, "dir": self.state}
        argv = [re.sub(r"\{(\w+)\}", lambda m: words.get(m[1], m[0]), part) for part in self.subject.start]
        env = {**self._variables(worker), **{f"BUTTRESS_WORLD_{name.upper()}": value for name, value in self.world.items()}}
        ready = urljoin(url, self.subject.ready)
        if answers(ready):
            raise UsageError(f"something answers at {ready} already", fix="end it, or leave out --start")
        service = ServiceProcess(argv, env, self._folder / "subject.log", self._warm.command_server())
        try:
            service.await_answer(ready)
        except BaseException:
            service.close()
            raise
        service.port = port
        return service

    def _variables(self, worker: int) -> dict[str, str]:
        return {
            "BUTTRESS_DIR": self.state, "BUTTRESS_SEED": str(self.seed), "BUTTRESS_WORLD": json.dumps(self.world),
            "BUTTRESS_CLOCK": self.clock.path if isinstance(self.clock, VirtualClock) else "", "BUTTRESS_WORKER": str(worker),
        }

    def _traced(self, argv: list[str]) -> list[str]:
        if not self._trace:
            return argv
        file = str(self._folder / f"strace.{len(list(self._folder.glob('strace.*')))}")
        base = ["strace", "-f", *(["--seccomp-bpf"] if self._trace == "count" else []), "-qq", "-o", file]  # with it nothing is injected (6.1)
        if self._power:
            self._before = disk.folder_files(Path(self.state))
            base += ["-y", "-xx", "-s", str(disk.WRITE_MAX_BYTES), "-e", f"trace={disk.TRACED}"]
        else:
            base += ["-e", f"trace={SYNC_CALLS},{WRITE_CALLS}"]
        for name, calls in (("@sync", SYNC_CALLS), ("@write", WRITE_CALLS)):
            if name in self.case.failpoints:
                base += ["-e", f"inject={calls}:signal=SIGKILL:when={self.case.failpoints[name][0]}"]
        return [*base, "--", *argv]

    def _recorded(self, worker: int, name: str, args: Mapping[str, Any], run: Callable[[], Any]) -> Any:
        running = self._hosts[worker]
        begun = self.clock.now()
        fields: dict[str, Any] = {"worker": worker, "call": name, "args": _shown(args)}
        try:
            value = run()
        except SubjectError as error:
            self._write("op", at=begun, status="fail", error=error.message[:ARG_SHOWN], **fields)
            self._count_reply(running, name)
            raise
        except (SubjectDied, SubjectPaused) as error:
            self._write("op", at=begun, status="info", error=error.message[:ARG_SHOWN], **fields)
            self._struck(running)
            raise
        except (Exception, SystemExit) as error:
            status = "fail" if isinstance(running, _InProcess) else "info"
            self._write("op", at=begun, status=status, error=f"{type(error).__name__}: {error}"[:ARG_SHOWN], **fields)
            if isinstance(running, ServiceProcess) and running.killed:
                raise SubjectDied(f"{self.subject.name} was killed") from error
            if isinstance(running, ServiceProcess) and running.ended(0.5):
                raise SubjectBroken(f"{self.subject.name} ended by itself") from error
            if isinstance(running, SubjectProcess) or isinstance(error, ButtressError):
                raise
            raise SubjectError(f"{type(error).__name__}: {error}") from error
        self._write("op", at=begun, status="ok", value=_shown(value), **fields)
        self._count_reply(running, name)
        return value

    def _struck(self, running: Any) -> None:
        if isinstance(running, SubjectProcess):
            before = self.hit
            self._absorb(running)
            if self.hit and not before:
                self._write("fault", name=self.case.label, armed=1, hit=1, at=self.clock.now())
                self._cut = True
            self.case = Case(self.case.label)
            self._trace = ""

    def _count_reply(self, running: Any, name: str) -> None:
        self._replies[name] = count = self._replies.get(name, 0) + 1
        here, anywhere = self.case.failpoints.get(f"@reply:{name}"), self.case.failpoints.get("@reply")
        due = (here is not None and here[0] == count) or (anywhere is not None and anywhere[0] == sum(self._replies.values()))
        if due and not isinstance(running, _InProcess):
            self.hit = running.kill()
            self._write("fault", name=self.case.label, armed=1, hit=int(self.hit), at=self.clock.now())
            self.case = Case(self.case.label)

    def _overlap(self, worker: int, calls: list[tuple[str, Mapping[str, Any]]]) -> list[Any]:
        process = self._hosts[worker]
        assert isinstance(process, SubjectProcess)
        begun = self.clock.now()
        try:
            answers = process.together(calls)
        except (SubjectDied, SubjectPaused) as error:
            for name, args in calls:
                self._write("op", at=begun, status="info", worker=worker, call=name, args=_shown(args), error=error.message)
            self._struck(process)
            return [error for _ in calls]
        results: list[Any] = []
        for (name, args), answer in zip(calls, answers, strict=True):
            fields = {"at": begun, "worker": worker, "call": name, "args": _shown(args)}
            if "err" in answer:
                self._write("op", status="fail", error=str(answer["err"])[:ARG_SHOWN], **fields)
                results.append(SubjectError(str(answer["err"])))
            else:
                self._write("op", status="ok", value=_shown(answer["ok"]), **fields)
                results.append(answer["ok"])
            self._count_reply(process, name)
        return results

    def _call(self, worker: int, name: str, args: Mapping[str, Any]) -> Any:
        running = self._hosts[worker]
        if isinstance(running, SubjectProcess):
            return self._recorded(worker, name, args, lambda: running.call(name, args))
        port = running.port
        return self._recorded(worker, name, args, lambda: getattr(port, name)(**args))

    def raw_port(self, worker: int = 0) -> Any:
        """The port without recording, for laps of a race."""
        running = self._hosts[worker]
        return _Unrecorded(self, running) if isinstance(running, SubjectProcess) else running.port

    def _write(self, kind: str, **fields: Any) -> None:
        self._writer.write({"trial": self.number, "kind": kind, **fields})


class _InProcess:
    """A port in this very process. It has no process to kill; its CPU is ours."""

    def __init__(self, port: Any, calls: Sequence[str]) -> None:
        self.port = port
        self.calls = calls

    def cpu_s(self) -> float:
        return time.process_time()

    def rss_peak_bytes(self) -> int:
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

    def close(self) -> None:
        close = getattr(self.port, "close", None)
        if callable(close):
            close()


class _Recorder:
    """The port as the driver calls it: ``port.deliver(...)`` becomes an op."""

    def __init__(self, trial: Trial, worker: int) -> None:
        for name in trial._calls:
            setattr(self, name, _Method(trial, worker, name, inspect.signature(getattr(trial.proof.port, name))))


class _Method:
    def __init__(self, trial: Trial, worker: int, name: str, signature: inspect.Signature) -> None:
        self.trial, self.worker, self.name, self.signature = trial, worker, name, signature

    def bound(self, kwargs: Mapping[str, Any]) -> dict[str, Any]:
        arguments = dict(self.signature.bind(None, **kwargs).arguments)
        arguments.pop("self", None)
        return arguments

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        arguments = dict(self.signature.bind(None, *args, **kwargs).arguments)
        arguments.pop("self", None)
        return self.trial._call(self.worker, self.name, arguments)


class _Unrecorded:
    def __init__(self, trial: Trial, process: SubjectProcess) -> None:
        self._port, self._process = trial.proof.port, process

    def __getattr__(self, name: str) -> Callable[..., Any]:
        signature = inspect.signature(getattr(self._port, name))

        def call(*args: Any, **kwargs: Any) -> Any:
            arguments = dict(signature.bind(None, *args, **kwargs).arguments)
            arguments.pop("self", None)
            return self._process.call(name, arguments)

        return call


def _shown(value: Any) -> Any:
    """Arguments and values as the history keeps them: long text is cut."""
    if isinstance(value, str):
        return value if len(value) <= ARG_SHOWN else value[:ARG_SHOWN] + "…"
    if isinstance(value, Mapping):
        return {key: _shown(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        shown = [_shown(item) for item in value[:LIST_SHOWN]]
        return shown if len(value) <= LIST_SHOWN else [*shown, f"… {len(value) - LIST_SHOWN} more"]
    return value


__all__ = ["Meter", "SubjectBroken", "SubjectDied", "SubjectError", "SubjectPaused", "Trial", "UsageError", "VirtualClock", "Warm"]
