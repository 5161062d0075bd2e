"""The line protocol, and the fork server: one subject behind one file of the standard library."""

from __future__ import annotations

import json
import os
import signal
import struct
import subprocess
import sys
import threading
from typing import Protocol

import pytest

from buttress.proof.host import LINE_MAX_BYTES, env_from, load_factory
from buttress.proof.process import FactoryFailed, ForkServer, SubjectBroken, SubjectError, SubjectProcess, UsageError

from . import lab

CALLS = ("echo", "about", "meet", "wait", "release", "note", "large", "odd", "fail", "say", "shadowed", "draw", "quit", "hang", "child", "now")


def port_text():
    return "class Port(Protocol): ..."


@pytest.fixture
def log(tmp_path):
    return tmp_path / "subject.log"


@pytest.fixture
def echo(tmp_path, log):
    """An Echo hosted in a process of its own, ready for calls."""
    process = SubjectProcess.spawn(lab.commands(), lab.host_argv("Echo", CALLS), lab.variables(tmp_path), log, plan={}, control=True, name="echo")
    process.hello(CALLS, port_text, lab.PARAMETERS)
    yield process
    process.close()


@pytest.fixture
def foreign(tmp_path, log):
    """``foreign(code)`` runs a program in Python as a stranger's: it reads requests from ``lines`` and prints its answers."""
    running = []

    def start(code: str) -> SubjectProcess:
        before = "import json, os, sys\nlines = iter(sys.stdin.readline, '')\ndef answer(**m): print(json.dumps(m), flush=True)\n"
        process = SubjectProcess.spawn(lab.commands(), [sys.executable, "-c", before + code], lab.variables(tmp_path), log, name="foreign")
        running.append(process)
        return process

    yield start
    for process in running:
        process.kill()  # it need not wait for one that goes on
        process.close()


# -- calls


def test_values_go_there_and_back(echo):
    for value in (None, True, 0, 1.5, "ä\n\"\u2028", [1, [2]], {"a": {"b": None}}, ""):
        assert echo.call("echo", {"value": value}) == value


def test_hello_names_the_calls_that_are_there(tmp_path, log):
    process = SubjectProcess.spawn(lab.commands(), lab.host_argv("Echo", (*CALLS, "missing", "calls")), lab.variables(tmp_path), log, plan={}, control=True, name="echo")
    try:
        with pytest.raises(UsageError) as refused:
            process.hello((*CALLS, "missing", "calls"), port_text, lab.PARAMETERS)  # calls is there, but it is a list
        assert refused.value.message == "echo lacks missing, calls"
        assert refused.value.fix == f"the port is:\n{port_text()}"
    finally:
        process.close()


@pytest.mark.parametrize(("parameters", "why"), [
    ({"fail": ["text", "status"]}, "fail does not take text, status: got an unexpected keyword argument 'status'"),
    ({"fail": []}, "fail does not take no arguments: missing a required argument: 'text'")])
def test_a_method_must_take_the_parameters_of_the_port_by_their_names(tmp_path, log, parameters, why):
    """Found at the start, not in the middle of a run."""
    process = SubjectProcess.spawn(lab.commands(), lab.host_argv("Echo", CALLS), lab.variables(tmp_path), log, plan={}, control=True, name="echo")
    try:
        with pytest.raises(UsageError) as refused:
            process.hello(CALLS, port_text, {**lab.PARAMETERS, **parameters})
        assert (refused.value.message, refused.value.fix) == (f"echo: {why}", f"the port is:\n{port_text()}")
    finally:
        process.close()


def test_of_a_method_whose_parameters_are_not_named_nothing_is_asked(tmp_path, log):
    process = SubjectProcess.spawn(lab.commands(), lab.host_argv("Echo", CALLS), lab.variables(tmp_path), log, plan={}, control=True, name="echo")
    try:
        process.hello(CALLS, port_text)
        assert process.call("echo", {"value": 1}) == 1
    finally:
        process.close()


def test_a_factory_that_raises_says_why(tmp_path, log):
    process = SubjectProcess.spawn(lab.commands(), lab.host_argv("Unready", ("echo",)), lab.variables(tmp_path), log, plan={}, control=True, name="unready")
    try:
        with pytest.raises(FactoryFailed, match="unready did not start: RuntimeError: no disk"):
            process.hello(("echo",), port_text)
    finally:
        process.close()


def test_an_exception_is_an_answer(echo):
    with pytest.raises(SubjectError, match=r"^ValueError: too small$"):
        echo.call("fail", {"text": "too small"})
    with pytest.raises(SubjectError, match=r"^TypeError: .*unexpected keyword"):
        echo.call("echo", {"nobody": 1})
    with pytest.raises(SubjectError, match=r"^AttributeError: "):
        echo.call("nobody", {})
    assert echo.call("echo", {"value": "still there"}) == "still there"


def test_what_is_no_json_is_shown_as_text(echo):
    assert echo.call("odd", {}) == "{1, 2}"


def test_what_a_subject_may_know_comes_by_its_environment(tmp_path, log):
    clock = tmp_path / "clock"
    clock.write_bytes(struct.pack("<d", 1234.5))
    env = lab.variables(tmp_path, BUTTRESS_SEED="42", BUTTRESS_WORLD='{"till": "http://127.0.0.1:1/"}', BUTTRESS_CLOCK=str(clock), BUTTRESS_WORKER="3")
    process = SubjectProcess.spawn(lab.commands(), lab.host_argv("Echo", CALLS), env, log, plan={}, control=True)
    try:
        process.hello(CALLS, port_text, lab.PARAMETERS)
        about = process.call("about", {})
        assert {key: about[key] for key in ("dir", "seed", "world", "worker", "now")} == {
            "dir": str(tmp_path / "state"), "seed": 42, "world": {"till": "http://127.0.0.1:1/"}, "worker": 3, "now": 1234.5}
        with clock.open("r+b") as shared:  # the same eight bytes: any process that may write them turns the clock
            shared.write(struct.pack("<d", 9999.25))
        assert process.call("now", {}) == 9999.25
    finally:
        process.close()


def test_an_env_has_defaults_but_a_folder_is_asked_for():
    env = env_from({"BUTTRESS_DIR": "/somewhere"})
    assert (env.dir, env.seed, dict(env.world), env.worker) == ("/somewhere", 0, {}, 0)
    assert env.clock.now() > 1.7e9
    with pytest.raises(KeyError):
        env_from({})


# -- overlap


def test_calls_that_overlap_are_in_the_subject_at_once(echo):
    """Eight calls that wait for each other: one after another they would never end."""
    answers = echo.together([("meet", {"parties": 8})] * 8)
    assert sorted(a["ok"] for a in answers) == list(range(8))
    assert len({a["id"] for a in answers}) == 8


def test_answers_come_back_in_the_order_of_the_calls(echo):
    waited, released = echo.together([("wait", {}), ("release", {})])  # the first is answered last
    assert (waited["ok"], released["ok"]) == (True, "released")
    failed, fine = echo.together([("fail", {"text": "no"}), ("echo", {"value": 1})])
    assert (failed["err"], fine["ok"]) == ("ValueError: no", 1)


def test_ids_are_never_used_twice_and_plain_calls_go_on_beside_them(echo):
    first = {a["id"] for a in echo.together([("echo", {"value": n}) for n in range(3)])}
    assert echo.call("echo", {"value": "plain"}) == "plain"
    second = {a["id"] for a in echo.together([("echo", {"value": n}) for n in range(3)])}
    assert first.isdisjoint(second)


def test_plain_calls_are_served_in_order(echo):
    for number in range(20):
        assert echo.call("note", {"what": number}) == list(range(number + 1))


def test_a_late_answer_to_an_older_id_is_no_answer_to_a_newer_one(foreign):
    process = foreign(
        "for line in lines:\n"
        "    request = json.loads(line)\n"
        "    if 'id' not in request: answer(ok=['echo'])\n"
        "    elif request['id'] == 1: first = request\n"
        "    else: answer(ok='two', id=2); answer(ok='one', id=1)\n")
    process.hello(("echo",), port_text)
    assert [a["ok"] for a in process.together([("echo", {}), ("echo", {})])] == ["one", "two"]


# -- noise


def test_what_a_hosted_subject_prints_goes_to_its_log(echo, log):
    assert echo.call("say", {"text": '{"ok": "forged"}'}) == "said"
    assert log.read_text().count('{"ok": "forged"}') == 2  # by print, and by descriptor 1


def test_noise_between_the_answers_of_a_command_is_no_answer(foreign):
    process = foreign(
        "print('starting up ...')\n"
        "for line in lines:\n"
        "    print('got', line)\n"
        "    print('{\"level\": \"info\"}'); print('[1, 2]'); print('7'); print('null'); print('\"ok\"'); print()\n"
        "    os.write(1, b'\\xff\\xfe not utf-8\\n')\n"
        "    answer(ok=['echo'] if json.loads(line)['call'] == 'hello' else 'right', more='is ignored')\n")
    process.hello(("echo",), port_text)
    assert [process.call("echo", {}) for _ in range(3)] == ["right"] * 3


def test_an_error_of_a_command_may_have_any_form(foreign):
    process = foreign("for line in lines:\n    answer(ok=['echo']) if 'hello' in line else answer(err={'status': 409})\n")
    process.hello(("echo",), port_text)
    with pytest.raises(SubjectError, match=r'\{"status": 409\}'):
        process.call("echo", {})


@pytest.mark.parametrize("hello", ["answer(ok=['ech'])", "answer(ok='echo')", "answer(ok=True)", "answer(ok={'echo': 1})"])
def test_a_command_whose_hello_does_not_name_the_calls_lacks_them(foreign, hello):
    with pytest.raises(UsageError, match="foreign lacks echo"):
        foreign(f"for line in lines: {hello}").hello(("echo",), port_text)


def test_a_command_is_asked_nothing_that_the_protocol_does_not_name(trial_of, tmp_path):
    class Port(Protocol):
        def echo(self) -> int: ...

    code = (f"import json, sys\nlog = open({str(tmp_path / 'asked')!r}, 'a', buffering=1)\nfor line in sys.stdin:\n    call = json.loads(line)['call']\n"
            "    print(call, file=log)\n    print(json.dumps({'ok': ['echo'] if call == 'hello' else {}}), flush=True)\n")
    (tmp_path / "mine.py").write_text(code)
    trial = trial_of(Port, f"cmd:{sys.executable} {tmp_path / 'mine.py'}")
    trial.open().echo()
    trial.finish()
    assert (tmp_path / "asked").read_text().split() == ["hello", "echo"]


# -- limits


def test_a_line_of_one_mebibyte_passes_and_a_longer_one_is_refused(echo):
    frame = len(json.dumps({"call": "echo", "args": {"value": ""}}, separators=(",", ":"))) + 1
    largest = "x" * (LINE_MAX_BYTES - frame)
    assert echo.call("echo", {"value": largest}) == largest
    with pytest.raises(SubjectBroken, match=f"the call echo has {LINE_MAX_BYTES + 1} bytes, more than {LINE_MAX_BYTES}"):
        echo.call("echo", {"value": largest + "x"})
    assert echo.call("echo", {"value": "not a byte of it was sent"}) == "not a byte of it was sent"


def test_a_longer_answer_is_an_error_that_says_so(echo):
    frame = len('{"ok":""}\n')
    assert len(echo.call("large", {"size": LINE_MAX_BYTES - frame})) == LINE_MAX_BYTES - frame
    with pytest.raises(SubjectError, match=f"the answer has {LINE_MAX_BYTES + 1} bytes, more than {LINE_MAX_BYTES}"):
        echo.call("large", {"size": LINE_MAX_BYTES - frame + 1})
    (tagged,) = echo.together([("large", {"size": LINE_MAX_BYTES})])
    assert "more than" in tagged["err"]


def test_a_command_that_writes_without_end_breaks_the_protocol(foreign):
    process = foreign("for line in lines:\n    answer(ok=['echo']) if 'hello' in line else [print('x' * 65536, end='') for _ in range(40)]\n")
    process.hello(("echo",), port_text)
    with pytest.raises(SubjectBroken, match="a line of more than 1048576 bytes"):
        process.call("echo", {})


def test_a_command_may_not_answer_with_a_byte_more(foreign):
    process = foreign("for line in lines:\n    answer(ok=['echo']) if 'hello' in line else os.write(1, b'{\"ok\":\"%b\"}\\n' % (b'x' * " + str(LINE_MAX_BYTES) + "))\n")
    process.hello(("echo",), port_text)
    with pytest.raises(SubjectBroken):
        process.call("echo", {})


# -- one file of the standard library


def test_the_host_runs_in_a_bare_interpreter(tmp_path, log):
    """No site-packages, no environment: as in a peer's own Python, where nothing of ours is installed."""
    process = SubjectProcess.spawn(lab.commands(), lab.host_argv("Echo", CALLS, isolated=True), lab.variables(tmp_path), log, plan={}, control=True)
    try:
        process.hello(CALLS, port_text, lab.PARAMETERS)
        assert process.call("echo", {"value": 1}) == 1
        assert process.hits() == {}
    finally:
        process.close()


def test_the_hosts_own_folder_shadows_no_module_of_the_subject(echo):
    assert echo.call("shadowed", {}) == []


def test_what_lies_beside_a_factory_can_be_imported_and_shadows_nothing(tmp_path, monkeypatch):
    """Its folder stays on the path, once and behind all else, for what is imported only when it is called."""
    for name in ("helper_of_mine", "colorsys", "click"):
        (tmp_path / f"{name}.py").write_text("VALUE = 42\n")
    (tmp_path / "mine.py").write_text("def factory(env):\n    import click, colorsys, helper_of_mine\n    return helper_of_mine.VALUE, hasattr(colorsys, 'VALUE'), hasattr(click, 'VALUE')\n")
    for name in ("helper_of_mine", "colorsys", "click"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    before = list(sys.path)
    monkeypatch.setattr(sys, "path", list(before))
    for _ in range(2):
        assert load_factory(f"{tmp_path / 'mine.py'}:factory")(None) == (42, False, False)
    assert sys.path == [*before, str(tmp_path)]
    sys.modules.pop("helper_of_mine")


def test_a_factory_is_found_by_file_or_by_module(tmp_path):
    (tmp_path / "my-receiver.py").write_text("class Box:\n    @staticmethod\n    def make(env): return 42\n")
    assert load_factory(f"{tmp_path / 'my-receiver.py'}:Box.make")(None) == 42
    assert load_factory("json:loads")("7") == 7
    with pytest.raises(SystemExit, match=r"must be module:attribute or file\.py:attribute"):
        load_factory("nothing")
    with pytest.raises(AttributeError):
        load_factory("json:nobody")


# -- the fork server


@pytest.fixture
def server(tmp_path):
    server = ForkServer(lab.factory("Echo"), CALLS, tmp_path / "fork-server.log")
    yield server
    server.close()


def forked(server, tmp_path, log, **env):
    process = SubjectProcess.fork(server, lab.variables(tmp_path, **env), log, plan={}, name="forked")
    process.hello(CALLS, port_text, lab.PARAMETERS)
    return process


def test_the_exit_status_of_a_forked_subject_is_its_own(server, tmp_path, log):
    process = forked(server, tmp_path, log)
    with pytest.raises(SubjectBroken, match=r"ended by itself \(exit 3\): these are my last words"):
        process.call("quit", {"code": 3})
    assert os.waitstatus_to_exitcode(process.wait()) == 3
    process.close()
    killed = forked(server, tmp_path, log)
    killed.kill()
    assert os.WTERMSIG(killed.wait()) == signal.SIGKILL
    killed.close()
    ended = forked(server, tmp_path, log)
    ended.close()
    assert ended.wait() == 0


def test_it_imports_once_and_forks_many_times(tmp_path, log, monkeypatch):
    monkeypatch.setenv("COUNT_IMPORTS_IN", str(tmp_path / "imports"))
    server = ForkServer(lab.factory("Echo"), CALLS, tmp_path / "fork-server.log")
    try:
        before = None
        pids = set()
        for number in range(60):
            process = forked(server, tmp_path, log)
            pids.add(process.call("about", {})["pid"])
            process.close()
            if number == 5:
                before = (lab.open_files(), len(os.listdir(f"/proc/{server._process.pid}/fd")))
        assert len(pids) == 60
        assert (lab.open_files(), len(os.listdir(f"/proc/{server._process.pid}/fd"))) == before, "descriptors leak"
        assert len((tmp_path / "imports").read_text().split()) == 1
    finally:
        server.close()


def test_what_a_forked_subject_prints_goes_to_the_log_of_its_trial(server, tmp_path, log):
    process = forked(server, tmp_path, log)
    assert process.call("say", {"text": "heard"}) == "said"
    process.close()
    assert log.read_text().count("heard") == 2


def test_forked_subjects_live_side_by_side_each_with_its_own_environment(server, tmp_path, log):
    processes = [forked(server, tmp_path, log, BUTTRESS_WORKER=str(n)) for n in range(4)]
    try:
        about = [p.call("about", {}) for p in processes]
        assert [a["worker"] for a in about] == [0, 1, 2, 3]
        assert len({a["pid"] for a in about}) == 4
        assert all(a["group"] == a["pid"] for a in about), "each has a process group of its own"
        processes[1].kill()
        assert [processes[n].call("echo", {"value": n}) for n in (0, 2, 3)] == [0, 2, 3]
    finally:
        for process in processes:
            process.close()


def test_forked_subjects_draw_other_random_numbers(server, tmp_path, log):
    """Two workers that make their own names must not make the same one."""
    drawn = []
    for _ in range(3):
        process = forked(server, tmp_path, log)
        drawn.append(process.call("draw", {}))
        process.close()
    assert len(set(drawn)) == 3


def test_deaths_are_told_apart_from_any_thread(server, tmp_path, log):
    """Workers are called from threads, and each thread may be the one that reads of a death."""
    processes = [forked(server, tmp_path, log) for _ in range(6)]
    ended = {}

    def end(number):
        try:
            processes[number].call("quit", {"code": 10 + number})
        except SubjectBroken as error:
            ended[number] = error.message

    threads = [threading.Thread(target=end, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    for process in processes:
        process.close()
    assert [f"(exit {10 + n})" in ended.get(n, "") for n in range(6)] == [True] * 6, ended


@pytest.mark.parametrize("spec", ["subjects_that_are_nowhere:Echo", lab.factory("Nobody"), "/nowhere/at_all.py:Echo"])
def test_a_factory_that_cannot_be_imported_says_why(tmp_path, spec):
    before = lab.open_files()
    with pytest.raises(FactoryFailed, match=r"could not be imported: .*Error"):
        ForkServer(spec, CALLS, tmp_path / "fork-server.log")
    assert lab.open_files() == before


def test_one_that_is_gone_is_told_at_once(server, tmp_path, log):
    process = forked(server, tmp_path, log)
    os.kill(server._process.pid, signal.SIGKILL)
    try:
        with pytest.raises(SubjectBroken, match="fork server"):
            process.wait(0.2)
    finally:
        assert lab.ends(process.pid)
        process._dead = 9
        process.close()


@pytest.mark.parametrize("end", ["kill", "close"])
def test_a_daemon_of_a_forked_subject_is_gone_with_it(server, tmp_path, log, end):
    """It was never executed, so it has the environment of the fork server: its adoption tells whose it was."""
    process, other = (SubjectProcess.fork(server, lab.variables(tmp_path), log, plan={}, name="forked") for _ in range(2))
    for one in (process, other):
        one.hello(CALLS, port_text)
    daemon = process.call("daemon", {})
    assert lab.alive(daemon)
    process.kill() if end == "kill" else process.close()
    assert lab.ends(daemon, 5)
    assert other.call("echo", {"value": 1}) == 1
    process.close()
    other.close()


@pytest.mark.parametrize(("line", "shares"), [
    ("x = 1", ""),
    ("import mmap; memory = mmap.mmap(-1, 4096)", "shared memory"),
    ("import socket; ours, theirs = socket.socketpair()", "open descriptors"),
    ("book = open('/dev/null')", "open descriptors"),
    ("open('/dev/null').close()", ""),
])
def test_what_an_import_leaves_in_common_is_told(tmp_path, line, shares):
    (tmp_path / "subject.py").write_text(f"{line}\nclass Echo:\n    def __init__(self, env): pass\n")
    server = ForkServer(f"{tmp_path / 'subject.py'}:Echo", (), tmp_path / "log")
    try:
        assert server.shares == shares
    finally:
        server.close()


def test_it_dies_with_its_owner_and_takes_its_subjects_along(tmp_path):
    code = f"""
import os, sys
from pathlib import Path
from buttress.proof.process import ForkServer, SubjectProcess
calls = ("echo", "hang")
server = ForkServer({lab.factory("Echo")!r}, calls, Path("fork-server.log"))
idle, hung = (SubjectProcess.fork(server, {{"BUTTRESS_DIR": "."}}, Path("subject.log"), plan={{}}) for _ in range(2))
for process in (idle, hung):
    process.hello(calls, str)
hung._send("hang", {{}}, tag=False)
print(server._process.pid, idle.pid, hung.pid, flush=True)
sys.stdin.read()
"""
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=tmp_path) as owner:
        pids = [int(pid) for pid in owner.stdout.readline().split()]
        assert [lab.alive(pid) for pid in pids] == [True] * 3
        owner.kill()
        assert [lab.ends(pid) for pid in pids] == [True] * 3, "the server, an idle subject, and one that hangs"
