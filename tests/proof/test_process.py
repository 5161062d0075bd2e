"""Processes under proof: a kill counts only with evidence, every other death breaks the run, and nobody is left behind."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import signal
import socket
import sys
import threading
import urllib.request
from typing import Protocol

import pytest

from buttress.proof import process as module
from buttress.proof.contract import Case, Subject
from buttress.proof.history import History
from buttress.proof.process import (
    FactoryFailed,
    SubjectBroken,
    SubjectDied,
    SubjectError,
    SubjectPaused,
    SubjectProcess,
    UsageError,
    cpu_s,
    split_command,
)
from buttress.proof.service import ServiceProcess

from . import lab
from .shapes.page import Remote, Site

CALLS = ("echo", "quit", "leave", "signal", "step", "hang", "child", "burn", "about", "now", "large", "fail")
SITE = str(lab.SUBJECTS.parent / "shapes" / "outsiders" / "page.py")


class Port(Protocol):
    def echo(self, value: object = None) -> object: ...
    def quit(self, code: int = 0) -> None: ...
    def step(self, name: str) -> list: ...
    def hang(self) -> None: ...


@pytest.fixture
def start(tmp_path):
    """``start(plan, name)`` hosts a subject in a process of its own."""
    running = []

    def go(plan=None, name="Echo", calls=CALLS):
        process = SubjectProcess.spawn(lab.commands(), lab.host_argv(name, calls), lab.variables(tmp_path), tmp_path / "subject.log", plan=plan or {}, control=True, name="echo")
        running.append(process)
        process.hello(calls, str, lab.PARAMETERS)
        return process

    yield go
    for process in running:
        process.kill()  # it need not wait for one that hangs
        process.close()


# -- evidence


@pytest.mark.parametrize(("call", "args", "how"), [
    ("quit", {"code": 0}, "exit 0"), ("quit", {"code": 137}, "exit 137"), ("leave", {}, "exit 0"),
    ("signal", {"number": signal.SIGTERM}, "signal 15"), ("signal", {"number": signal.SIGKILL}, "signal 9"), ("signal", {"number": signal.SIGSEGV}, "signal 11"),
])
def test_a_death_that_nobody_planned_breaks_the_run(start, call, args, how):
    """Also by SIGKILL: the signal alone is no evidence that it was ours."""
    with pytest.raises(SubjectBroken, match=re.escape(f"echo ended by itself ({how})")):
        start().call(call, args)


def test_its_last_words_are_in_the_error(start):
    with pytest.raises(SubjectBroken, match="these are my last words"):
        start().call("quit", {"code": 1})


def test_a_kill_of_ours_is_a_planned_death(start):
    process = start()
    assert process.kill() is True
    for _ in range(2):
        with pytest.raises(SubjectDied):
            process.call("echo", {})
    assert process.kill() is False  # it was dead already: this one ended nobody
    assert os.WTERMSIG(process.wait()) == signal.SIGKILL


def test_a_kill_that_came_too_late_is_no_evidence(start):
    """It had left by itself already: that we sent a signal into the void makes it no planned death."""
    process = start()
    pid = process.call("about", {})["pid"]
    with pytest.raises(SubjectBroken):
        process.call("quit", {"code": 0})
    assert lab.ends(pid)
    assert process.kill() is False
    with pytest.raises(SubjectBroken, match="exit 0"):
        process.call("echo", {})


def test_a_kill_at_a_failpoint_leaves_its_mark_and_is_a_planned_death(start):
    process = start({"here": (2, "kill")})
    assert process.call("step", {"name": "here"})[0] == "here"
    with pytest.raises(SubjectDied):
        process.call("step", {"name": "here"})
    assert process.marks == [{"hit": "here", "n": 2, "action": "kill"}]


def test_a_failpoint_that_is_told_to_fail_is_an_answer(start):
    process = start({"here": (1, "error")})
    with pytest.raises(SubjectError, match="FailpointError: failpoint here was told to fail"):
        process.call("step", {"name": "here"})
    assert process.call("step", {"name": "here"})[0] == "here"
    assert [mark["action"] for mark in process.marks] == ["error"]


def test_a_mark_without_a_death_is_no_kill(start):
    """The mark is written before the blow. One that is written, and then leaves otherwise, was not struck."""
    process = start()
    process.marks = [{"hit": "here", "n": 1, "action": "kill"}]
    with pytest.raises(SubjectBroken, match="exit 0"):
        process.call("quit", {})


def test_failpoints_are_counted_where_nothing_is_armed(start):
    process = start()
    for name in ("a", "b", "a"):
        process.call("step", {"name": name})
    assert process.hits() == {"a": 2, "b": 1}


def test_nothing_in_the_environment_arms_a_failpoint(tmp_path):
    env = lab.variables(tmp_path, BUTTRESS_FAILPOINTS='{"here": [1, "kill"]}', BUTTRESS_PLAN='{"here": [1, "kill"]}')
    process = SubjectProcess.spawn(lab.commands(), lab.host_argv("Echo", CALLS), env, tmp_path / "log", name="echo")  # no control: nothing inherited
    try:
        process.hello(CALLS, str, lab.PARAMETERS)
        assert process.call("step", {"name": "here"})[0] == "here"
        assert process.hits() == {}
    finally:
        process.close()


# -- pause and resume


def test_a_stop_pauses_the_call_and_resume_gives_its_answer(start):
    process = start({"here": (1, "stop")})
    with pytest.raises(SubjectPaused, match="stopped at here"):
        process.call("step", {"name": "here"})
    assert process.stopped()
    process.resume()
    assert process.finish_paused()[0] == "here"
    assert not process.stopped()
    assert process.call("echo", {"value": 1}) == 1


def test_no_wake_up_is_lost_between_mark_and_stop(tmp_path):
    """The mark is there before the process stands still: woken in between, it would sleep for ever."""
    from buttress.proof.process import ForkServer

    server = ForkServer(lab.factory("Echo"), CALLS, tmp_path / "fork-server.log")
    try:
        for number in range(40):
            process = SubjectProcess.fork(server, lab.variables(tmp_path), tmp_path / "log", plan={"here": (1, "stop")}, name="echo")
            process.hello(CALLS, str, lab.PARAMETERS)
            with pytest.raises(SubjectPaused):
                process.call("step", {"name": "here"})
            process.resume()
            assert process.finish_paused(5.0)[0] == "here", f"lost in round {number}"
            process.close()
    finally:
        server.close()


def test_calls_that_overlap_are_paused_together_and_all_finish(start):
    process = start({"here": (1, "stop")})
    with pytest.raises(SubjectPaused):
        process.together([("step", {"name": "here"}), ("step", {"name": "elsewhere"})])
    process.resume()
    process.finish_paused()
    assert process.call("echo", {"value": "in step"}) == "in step"


def test_a_process_is_paused_and_resumed_from_outside(start):
    process = start()
    process.pause()
    process._await_stop()
    assert process.stopped()
    process.resume()
    assert process.call("echo", {"value": 1}) == 1


# -- nobody is left behind


@pytest.mark.parametrize("end", ["close", "close when stopped", "close after its own end", "kill"])
def test_the_whole_group_is_gone_afterwards(start, end):
    """A grandchild that ignores the end of its input and SIGTERM goes with its family."""
    process = start()
    child = process.call("child", {})
    assert lab.alive(child)
    if end == "close when stopped":
        process.pause()
        process._await_stop()
        os.kill(child, signal.SIGSTOP)
    elif end == "close after its own end":
        with pytest.raises(SubjectBroken):
            process.call("quit", {})
    process.kill() if end == "kill" else process.close()
    assert lab.ends(child)
    assert lab.ends(process.pid)


@pytest.mark.parametrize(("orphan", "at"), [
    pytest.param(False, "", id="a child"),
    pytest.param(False, "here", id="a child, at a failpoint"),
    pytest.param(True, "", id="a daemon")])
def test_one_with_a_group_of_its_own_is_gone_too(start, orphan, at):
    """What it holds in its memory must not pass for stored."""
    process = start({at: (1, "kill")} if at else {})
    child = process.call("child", {"own_group": True, "orphan": orphan})
    if at:
        with pytest.raises(SubjectDied):
            process.call("step", {"name": at})
    process.kill()
    process.close()
    try:
        assert lab.ends(child, 1)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)


def test_the_end_of_one_is_not_the_end_of_its_successor(start, monkeypatch):
    """A kill from another thread may still be looking for what was left behind when the next one has started on the same folder."""
    first, orphans, later = start(), module.ForkServer.orphans, []
    monkeypatch.setattr(module.ForkServer, "orphans", lambda server: (later or later.append(start()), orphans(server))[1])
    first.kill()
    assert later[0].call("echo", {"value": 1}) == 1


@pytest.mark.parametrize("end", ["kill", "close", "its own end"])
def test_a_daemon_without_a_trace_is_gone_too(tmp_path, end):
    """It left its group and session, has nobody's environment and was executed anew: only its adoption tells whose it is."""
    code = """
import json, os, sys
read, write = os.pipe()
os.set_inheritable(write, True)
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.execve(sys.executable, [sys.executable, '-c', f'import os, signal; os.write({write}, str(os.getpid()).encode()); signal.pause()'], {})
    os._exit(0)
os.wait()
daemon = os.read(read, 20).decode()
for line in sys.stdin:
    print(json.dumps({'ok': ['pid'] if 'hello' in line else int(daemon)}), flush=True)
    if 'quit' in line: os._exit(3)
"""
    process = SubjectProcess.spawn(lab.commands(), [sys.executable, "-c", code], lab.variables(tmp_path), tmp_path / "log")
    process.hello(("pid",), str)
    daemon = process.call("pid", {})
    assert lab.alive(daemon)
    if end == "its own end":
        process.call("quit", {})
    process.kill() if end == "kill" else process.close()
    assert lab.ends(daemon, 5)
    process.close()


def test_closing_twice_or_after_a_death_does_no_harm(start):
    before = lab.open_files()
    process = start()
    process.kill()
    process.close()
    process.close()
    assert lab.open_files() == before


def test_close_lets_a_subject_finish_first(tmp_path):
    code = ("import json, sys\nfor line in sys.stdin: print(json.dumps({'ok': ['echo']}), flush=True)\n"
            f"open({str(tmp_path / 'finished')!r}, 'w').write('yes')\n")
    process = SubjectProcess.spawn(lab.commands(), [sys.executable, "-c", code], lab.variables(tmp_path), tmp_path / "log")
    process.hello(("echo",), str)
    process.close()
    assert (tmp_path / "finished").read_text() == "yes"
    assert os.waitstatus_to_exitcode(process.wait()) == 0


def test_no_signal_goes_to_a_pid_that_was_reaped(start, monkeypatch):
    process = start()
    process.kill()
    sent = []
    monkeypatch.setattr(module.os, "kill", lambda pid, number: sent.append(pid))
    monkeypatch.setattr(module.os, "killpg", lambda pid, number: sent.append(pid))
    process.kill()
    assert sent == []


# -- waiting


def test_one_that_hangs_is_broken_after_its_timeout(start):
    with pytest.raises(SubjectBroken, match="echo did not answer in time"):
        start().call("hang", {}, timeout_s=0.2)


def test_one_that_hangs_is_asked_nothing_more(trial_of, monkeypatch):
    monkeypatch.setattr(module, "CALL_TIMEOUT_S", 0.2)
    sent, send = [], SubjectProcess._send
    monkeypatch.setattr(SubjectProcess, "_send", lambda process, name, *args, **how: (sent.append(name), send(process, name, *args, **how))[1])
    trial = trial_of(Port, lab.factory("Echo"))
    with pytest.raises(SubjectBroken):
        trial.open().hang()
    trial._hosts[0].kill()  # it need not wait for it
    trial.finish()
    assert sent == ["hello", "hang"]


def test_one_that_hangs_among_others_breaks_them_too(start):
    with pytest.raises(SubjectBroken, match="did not answer in time"):
        start().together([("echo", {}), ("hang", {})], timeout_s=0.2)


def test_the_timeout_of_a_call_is_read_when_it_is_made(start, monkeypatch):
    monkeypatch.setattr(module, "CALL_TIMEOUT_S", 0.2)
    process = start()
    late = threading.Timer(3.0, process.kill)  # so that a failure takes three seconds, and not thirty
    late.start()
    try:
        with pytest.raises(SubjectBroken, match="did not answer in time"):
            process.call("hang", {})
    finally:
        late.cancel()


def test_one_that_does_not_read_is_broken_after_its_timeout(tmp_path):
    code = "import json, sys, threading\nsys.stdin.readline()\nprint(json.dumps({'ok': ['echo']}), flush=True)\nthreading.Event().wait()"
    process = SubjectProcess.spawn(lab.commands(), [sys.executable, "-c", code], lab.variables(tmp_path), tmp_path / "log", name="deaf")
    process.hello(("echo",), str)
    raised = []

    def call():
        try:
            process.call("echo", {"value": "x" * 500_000}, timeout_s=0.2)
        except Exception as error:
            raised.append(error)

    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    thread.join(3)
    hung = thread.is_alive()
    process.kill()
    thread.join(5)
    process.close()
    assert not hung
    assert isinstance(raised[0], SubjectBroken)


def test_many_large_calls_at_once_do_not_lock_up(tmp_path):
    """A command that serves one call after the other, as most do."""
    code = "import json, sys\nfor line in sys.stdin:\n  r = json.loads(line)\n  print(json.dumps({'ok': ['echo'] if r['call'] == 'hello' else r['args']['value'], 'id': r.get('id')}), flush=True)"
    process = SubjectProcess.spawn(lab.commands(), [sys.executable, "-c", code], lab.variables(tmp_path), tmp_path / "log", name="one by one")
    process.hello(("echo",), str)
    answers = []

    def call():
        with contextlib.suppress(SubjectDied):  # once the test gives up on it
            answers.extend(process.together([("echo", {"value": "x" * 100_000})] * 8, timeout_s=2.0))

    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    thread.join(4)
    hung = thread.is_alive()
    process.kill()
    thread.join(5)
    process.close()
    assert not hung
    assert [len(a["ok"]) for a in answers] == [100_000] * 8


# -- starting


@pytest.mark.parametrize("argv", [["/nowhere/at/all"], ["no-such-command-here"]])
def test_a_command_that_is_not_there_is_a_usage_error(tmp_path, argv):
    before = lab.open_files()
    with pytest.raises(UsageError, match="no such command") as refused:
        SubjectProcess.spawn(lab.commands(), argv, {}, tmp_path / "log")
    assert "PATH" in refused.value.fix
    assert lab.open_files() == before


def test_a_command_that_ends_at_once_did_not_start(tmp_path):
    process = SubjectProcess.spawn(lab.commands(), ["sh", "-c", "echo no license >&2; exit 4"], lab.variables(tmp_path), tmp_path / "log", name="tool")
    with pytest.raises(FactoryFailed, match=r"tool did not start: .*\(exit 4\): no license"):
        process.hello(("echo",), str)
    process.close()


def test_a_command_is_split_as_a_shell_would_without_one():
    assert split_command("cmd:node 'my receiver.js' --flag=\"a b\" $HOME ;rm") == ["node", "my receiver.js", "--flag=a b", "$HOME", ";rm"]
    with pytest.raises(UsageError):
        split_command("cmd:")


def test_a_command_with_an_open_quote_is_a_usage_error():
    with pytest.raises(UsageError):
        split_command("cmd:node 'receiver.js")


def test_killed_in_its_factory_it_is_started_again_without_the_plan(trial_of):
    trial = trial_of(Port, lab.factory("KilledAtItsStart"), Case("kill -9 at opening #1", {"opening": (1, "kill")}))
    assert trial.open().echo(value=1) == 1
    assert trial.hit


# -- what it costs


def test_cpu_of_a_subject_is_its_own_and_that_of_its_children(start):
    process = start()
    before = process.cpu_s()
    process.call("burn", {"seconds": 0.2})
    alone = process.cpu_s() - before
    assert 0.19 < alone < 1.0
    process.call("child", {"burn": 0.2})
    assert process.cpu_s() - before - alone > 0.19
    assert cpu_s(2**22 + 1) == 0.0  # nobody


def test_cpu_of_a_meter_is_that_of_the_subject_not_ours(trial_of):
    class Burns(Protocol):
        def burn(self, seconds: float) -> float: ...

    trial = trial_of(Burns, lab.factory("Echo"))
    port = trial.open()
    with trial.meter() as read:
        port.burn(seconds=0.2)
        sum(range(3_000_000))  # ours
    assert 0.19 < read().cpu_s < read().wall_s + 0.2
    assert read() == read()


def test_peak_memory_is_that_of_the_process(start):
    process = start()
    before = process.rss_peak_bytes()
    assert before > 4 << 20
    process.call("large", {"size": 900_000})
    assert process.rss_peak_bytes() >= before


# -- services


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@pytest.fixture
def site(tmp_path, trial_of):
    """``site(answers)``: a trial whose subject is a service, started by argv; it ends by itself after that many answers."""
    def make(answers=0, case=Case("clean")):
        port = free_port()
        subject = Subject("site", f"http://127.0.0.1:{port}/", "yours", start=(sys.executable, SITE, str(port), "{dir}", str(answers)))
        return trial_of(Site, subject.factory, case, virtual=False, from_url=Remote, subject=subject)

    return make


def test_a_service_is_started_killed_and_started_again_on_its_folder(site):
    trial = site(case=Case("kill -9 after reply 1 to edit", {"@reply:edit": (1, "kill")}))
    port = trial.open()
    assert port.serve() == trial.url
    port.edit(text="kept")  # the second answer: it is killed
    assert trial.hit
    with pytest.raises(SubjectDied):
        port.edit(text="nobody hears this")
    with urllib.request.urlopen(trial.restart().serve(), timeout=10) as page:
        assert "kept" in page.read().decode()


def test_addresses_of_the_world_reach_a_service_as_words_and_variables(trial_of, tmp_path):
    told = tmp_path / "told"
    port = free_port()
    script = f'echo "$0 $1 $BUTTRESS_WORLD_STRIPE $BUTTRESS_DIR" > {shlex.quote(str(told))}; exec {shlex.quote(sys.executable)} {SITE} {port} "$BUTTRESS_DIR"'
    subject = Subject("site", f"http://127.0.0.1:{port}/", "yours", start=("sh", "-c", script, "{stripe}/v1", "{nobody}"))
    trial = trial_of(Site, subject.factory, virtual=False, from_url=Remote, subject=subject)
    trial.world = {"stripe": "http://127.0.0.1:9"}
    trial.open()
    assert told.read_text().split() == ["http://127.0.0.1:9/v1", "{nobody}", "http://127.0.0.1:9", trial.state]


@pytest.mark.parametrize("end", ["close", "kill"])
def test_a_service_is_gone_with_its_group(tmp_path, end):
    """A child that ignores SIGTERM goes with it. It says by a named pipe when it is there."""
    os.mkfifo(tmp_path / "told")
    deaf = "import os, signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(os.getpid(), flush=True); signal.pause()"
    service = ServiceProcess(["sh", "-c", f"{sys.executable} -c '{deaf}' > {tmp_path}/told & exec {sys.executable} -c 'import signal; signal.pause()'"],
                             {}, tmp_path / "log", lab.commands())
    with open(tmp_path / "told") as told:
        child = int(told.readline())
    assert lab.alive(child)
    kill = service.kill() if end == "kill" else service.close()
    assert lab.ends(child)
    assert lab.ends(service.pid)
    assert kill is (True if end == "kill" else None)
    assert service.kill() is False
    service.close()


def test_a_service_that_ends_or_says_nothing_did_not_start(tmp_path):
    service = ServiceProcess(["sh", "-c", "echo no config >&2; exit 5"], {}, tmp_path / "log", lab.commands())
    with pytest.raises(FactoryFailed, match=r"the service ended \(exit 5\): no config"):
        service.await_answer(f"http://127.0.0.1:{free_port()}/", timeout_s=10)
    service.close()
    silent = ServiceProcess([sys.executable, "-c", "import signal; signal.pause()"], {}, tmp_path / "silent.log", lab.commands())
    with pytest.raises(FactoryFailed, match=r"did not answer at .* in 0.3 s"):
        silent.await_answer(f"http://127.0.0.1:{free_port()}/", timeout_s=0.3)
    silent.close()
    with pytest.raises(UsageError):
        ServiceProcess(["no-such-command-here"], {}, tmp_path / "log", lab.commands())


def test_somebody_else_at_the_address_is_not_taken_for_the_service(trial_of, served, tmp_path):
    started = tmp_path / "started"
    subject = Subject("site", served, "yours", start=("touch", str(started)), ready="/health")
    trial = trial_of(Site, served, virtual=False, from_url=Remote, subject=subject)
    with pytest.raises(UsageError, match=f"something answers at {served}health already") as refused:
        trial.open()
    assert refused.value.fix == "end it, or leave out --start"
    assert not started.exists()


def test_a_service_that_ends_by_itself_breaks_the_run(site):
    trial = site(answers=2)  # one is the question whether it is up
    port = trial.open()
    port.edit(text="last")
    assert lab.ends(trial._hosts[0].pid)
    with pytest.raises(SubjectBroken):
        port.edit(text="nobody hears this")


def test_ops_on_a_service_that_was_killed_are_known_to_nobody(site, trial_of):
    trial = site(case=Case("kill -9 after reply 1", {"@reply": (1, "kill")}))
    port = trial.open()
    port.serve()
    with pytest.raises(SubjectDied):
        port.edit(text="who knows")
    trial.finish()
    trial_of.writer.close()
    assert [(o["call"], o["status"]) for o in History(trial_of.history).where(kind="op")] == [("serve", "ok"), ("edit", "info")]
