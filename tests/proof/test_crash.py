"""Kills: each case that is armed must hit, with evidence, at failpoints, after replies, and at system calls by strace."""

from __future__ import annotations

import contextlib
import os
import stat
from operator import methodcaller
from typing import Protocol

import pytest

from buttress.proof import trial as trial_module
from buttress.proof.contract import Case, Claim, Proof, Scenario, Subject
from buttress.proof.faults import Crash, CrashAtCall, Pause, capability
from buttress.proof.faults.crash import spread
from buttress.proof.history import History
from buttress.proof.process import SubjectBroken, SubjectDied, SubjectError, SubjectPaused
from buttress.proof.verdict import count

from . import lab

strace = pytest.mark.skipif(not capability("strace").there, reason=f"needs strace: {capability('strace').reason}")


class Book(Protocol):
    def append(self, line: str) -> str: ...
    def lines(self) -> list[str]: ...


def drive(trial):
    """Three lines, each asked again until it is answered; then what is there."""
    trial.open()
    for number in range(3):
        try:
            trial.surely(methodcaller("append", line=str(number)))
        except SubjectPaused:
            trial.resume()
    trial.record("fact", lost=len({"0", "1", "2"} - set(trial.surely(methodcaller("lines")))))


def lost(history):
    facts = list(history.where(kind="fact"))
    return {"lost": count(sum(f["lost"] for f in facts), 3 * len(facts))}


def proof(*faults, subject="Journal", drive=drive, needs=("crash",)):
    return Proof("crash", Book, (Subject("ours", lab.factory(subject), "buttress"),), (Scenario("crash", drive, faults, processes=True),), (lost,),
                 (Claim("nothing lost", "lost", "== 0", "lines", needs=needs),), (), {"quick": None})


def only(outcome):
    (judged,) = outcome.claims
    return judged.verdict, judged.why


# -- which cases


def test_cases_are_spread_evenly_over_the_hits():
    assert list(spread(5, 0)) == [1, 2, 3, 4, 5]
    assert list(spread(5, 9)) == [1, 2, 3, 4, 5]
    assert list(spread(10, 1)) == [6]
    assert list(spread(100, 4)) == [13, 38, 63, 88]
    assert list(spread(0, 3)) == []
    for total in range(1, 40):
        for at_most in range(1, 12):
            found = list(spread(total, at_most))
            assert len(found) == len(set(found)) == min(total, at_most)
            assert found == sorted(found)
            assert found[0] >= 1 and found[-1] <= total


def test_a_crash_case_for_each_failpoint_and_reply_that_a_clean_trial_saw():
    """Replies are counted by call: those that store nothing must not take the place of those that do."""
    cases = list(Crash(each=2, replies=2).cases({"b": 3, "a": 1, "@reply": 5, "@reply:put": 4, "@reply:get": 1, "@sync": 7, "@write": 9}))
    assert [(c.label, dict(c.failpoints)) for c in cases] == [
        ("kill -9 at a #1", {"a": (1, "kill")}), ("kill -9 at b #1", {"b": (1, "kill")}), ("kill -9 at b #3", {"b": (3, "kill")}),
        ("kill -9 after reply 1 to get", {"@reply:get": (1, "kill")}),
        ("kill -9 after reply 2 to put", {"@reply:put": (2, "kill")}), ("kill -9 after reply 4 to put", {"@reply:put": (4, "kill")})]
    assert [dict(c.failpoints) for c in CrashAtCall("write", 2).cases({"a": 1, "@reply:put": 4, "@write": 4})] == [{"@write": (2, "kill")}, {"@write": (4, "kill")}]
    assert [dict(c.failpoints) for c in Pause(inside=("c",)).cases({"a": 2, "c": 1, "@reply": 3, "@reply:put": 3})] == [{"a": (2, "stop")}]


def test_of_workers_that_share_the_steps_what_one_of_them_surely_reaches_is_armed(trial_of):
    """Five steps of three workers: whoever takes them, one of them takes two or more."""
    class Own(Protocol):
        def step(self, name: str) -> list: ...

    trial = trial_of(Own, lab.factory("Echo"))
    workers = [trial.open(number) for number in range(3)]
    for at in (0, 0, 0, 0, 1):
        workers[at].step(name="shared")
    trial.finish()
    assert (trial.hits["shared"], trial.hits["@reply:step"]) == (2, 5)


# -- at failpoints and replies


def test_each_case_that_is_armed_hits(prove):
    outcome = prove(proof(Crash(each=0), Pause()))
    assert outcome.errors == []
    assert only(outcome) == ("pass", "")
    crash, pause = outcome.faults["kill -9"], outcome.faults["paused beyond its lease"]
    assert (crash["armed"], crash["hit"]) == (10, 10)  # two failpoints, three times each, and four replies
    assert set(crash["cases"]) == {f"kill -9 at {p} #{n}" for p in ("before", "after") for n in (1, 2, 3)} | {
        f"kill -9 after reply {reply}" for reply in ("1 to append", "2 to append", "3 to append", "1 to lines")}
    assert (pause["armed"], pause["hit"]) == (2, 2)
    assert outcome.trials == 1 + 10 + 2


def test_one_that_only_says_that_it_stored_is_found_without_a_failpoint_in_it(prove):
    outcome = prove(proof(Crash(replies=1), subject="Lazy"))
    assert only(outcome)[0] == "fail"


def test_a_case_that_is_never_reached_makes_the_claim_unknown(prove):
    """Cases listed on a big clean run and executed on a small one: half of them never hit."""
    def big_then_small(trial):
        if trial.case.label == "clean":
            for number in range(20):
                trial.open().append(line=f"more-{number}") if number == 0 else None
            drive_rest(trial)
        else:
            drive(trial)

    def drive_rest(trial):
        book = trial.restart()
        for number in range(9):
            book.append(line=str(number))
        trial.record("fact", lost=0)

    outcome = prove(proof(Crash(each=0), drive=big_then_small))
    verdict, why = only(outcome)
    assert verdict == "unknown"
    assert "armed cases did not hit: crash: kill -9 at after #" in why
    tally = outcome.faults["kill -9"]
    assert tally["armed"] > tally["hit"] > 0


def test_a_fault_that_this_machine_cannot_make_is_named_and_its_claim_unknown(prove):
    def without_crash(name):
        found = capability(name)
        return found if name != "crash" else type(found)(name, False, "no signals here")

    outcome = prove(proof(Crash()), probe=without_crash)
    assert only(outcome) == ("unknown", "needs crash: no signals here")
    assert outcome.faults["kill -9"] == {"armed": 0, "hit": 0, "not armed": {"ours": "crash: no signals here"}}


@strace
def test_a_subject_in_which_nothing_can_be_armed_does_not_pass_what_needs_a_crash(prove):
    outcome = prove(proof(CrashAtCall("sync"), subject="Lazy", drive=lambda trial: (trial.open().append(line="0"), trial.record("fact", lost=0))))
    assert outcome.faults["kill -9 at a system call"]["armed"] == 0
    assert outcome.evidence["ours"].armed == {"crash": 0, "strace": 0}
    assert only(outcome) == ("unknown", "needs crash: no case of it could be armed")


def test_a_fault_of_the_workload_is_counted_like_the_others(prove):
    def drive_with_fault(trial):
        drive(trial)
        trial.fault("truncated feed", at=3)

    outcome = prove(proof(drive=drive_with_fault))
    assert {k: outcome.faults["truncated feed"][k] for k in ("armed", "hit")} == {"armed": 1, "hit": 1}


# -- asked again


def test_surely_asks_again_until_it_is_answered(trial_of):
    trial = trial_of(Book, lab.factory("Journal"), Case("kill -9 at after #2", {"after": (2, "kill")}))
    trial.open()
    assert [trial.surely(methodcaller("append", line=str(number))) for number in range(3)] == ["stored"] * 3
    assert trial.hit
    assert trial.surely(methodcaller("lines")) == ["0", "1", "1", "2"], "killed when it had stored, it is asked again"
    trial.finish()
    trial_of.writer.close()
    ops = [o["status"] for o in History(trial_of.history).where(kind="op")]
    assert ops == ["ok", "info", "ok", "ok", "ok"]


def test_surely_asks_the_worker_that_is_named_and_leaves_an_error_to_the_driver(trial_of):
    class Own(Protocol):
        def about(self) -> dict: ...
        def fail(self, text: str) -> None: ...

    trial = trial_of(Own, lab.factory("Echo"))
    trial.open(0), trial.open(1)
    trial.kill(1)
    assert [trial.surely(methodcaller("about"), worker)["worker"] for worker in (0, 1)] == [0, 1]
    with pytest.raises(SubjectError):
        trial.surely(methodcaller("fail", text="no"))


# -- evidence


def test_after_the_last_reply_a_kill_hits_too(prove):
    def drive_and_end(trial):
        with contextlib.suppress(SubjectDied):
            trial.open().append(line="0")
        trial.record("fact", lost=0)

    outcome = prove(proof(Crash(), drive=drive_and_end))
    assert (outcome.faults["kill -9"]["armed"], outcome.faults["kill -9"]["hit"]) == (3, 3)
    assert only(outcome) == ("pass", "")


def test_one_that_left_before_it_could_be_killed_was_not_killed(trial_of, monkeypatch):
    trial = trial_of(Book, lab.factory("QuitsAfterItsReply"), Case("kill -9 after reply 3", {"@reply": (3, "kill")}))
    book = trial.open()
    for number in range(2):
        book.append(line=str(number))
    kill = trial_module.SubjectProcess.kill

    def too_late(process):
        assert lab.ends(process.pid)  # it ends by itself after its third answer: the harness comes after that
        return kill(process)

    monkeypatch.setattr(trial_module.SubjectProcess, "kill", too_late)
    book.append(line="2")
    assert not trial.hit
    with pytest.raises(SubjectBroken):
        book.append(line="3")


def test_one_that_does_not_come_up_again_after_a_crash_is_void_and_never_a_pass(prove):
    outcome = prove(proof(Crash(replies=1), subject="Fragile"))
    verdict, why = only(outcome)
    assert verdict == "unknown"
    assert "the journal is locked" in why


# -- at system calls


@strace
def test_at_each_sync_and_each_write_it_is_killed_in_any_language(prove):
    outcome = prove(proof(CrashAtCall("sync", 2), CrashAtCall("write", 3)))
    assert outcome.errors == []
    assert only(outcome) == ("pass", "")
    tally = outcome.faults["kill -9 at a system call"]
    assert (tally["armed"], tally["hit"]) == (5, 5)
    assert {label.partition(" at ")[2].split()[0] for label in tally["cases"]} == {"sync", "write"}


@strace
@pytest.mark.parametrize(("call", "at"), [("@sync", 1), ("@write", 2)])  # the first write is its answer to hello
def test_a_kill_at_a_system_call_has_straces_own_word(trial_of, call, at):
    trial = trial_of(Book, lab.factory("Journal"), Case("killed", {call: (at, "kill")}), trace="inject")
    book = trial.open()
    with pytest.raises(SubjectDied):
        book.append(line="0")
    assert trial.hit
    assert trial.restart().append(line="0") == "stored"  # it struck once, and does not again


@strace
def test_a_call_that_is_not_reached_is_no_hit(trial_of):
    trial = trial_of(Book, lab.factory("Journal"), Case("killed", {"@sync": (9, "kill")}), trace="inject")
    assert trial.open().append(line="0") == "stored"
    trial.finish()
    assert not trial.hit


@strace
def test_a_death_of_its_own_making_under_strace_is_no_hit(trial_of):
    """The signal is in strace's log all the same; that a traced call was cut off by it is not."""
    class Own(Protocol):
        def signal(self, number: int) -> None: ...

    trial = trial_of(Own, lab.factory("Echo"), Case("killed", {"@sync": (9, "kill")}), trace="inject")
    port = trial.open()
    with pytest.raises(SubjectBroken, match="signal 9"):
        port.signal(number=9)
    trial.finish()
    assert not trial.hit


@strace
def test_system_calls_are_counted_by_the_busiest_thread(trial_of):
    trial = trial_of(Book, lab.factory("Journal"), trace="count")
    book = trial.open()
    for number in range(4):
        book.append(line=str(number))
    trial.finish()
    assert trial.hits["@sync"] == 4
    assert trial.hits["@write"] >= 8  # a line of the journal and an answer each
    assert trial.hits["before"] == trial.hits["after"] == 4


@pytest.mark.parametrize("script", [
    "echo \"strace: invalid -e inject argument\" >&2; exit 1",
    "kill -9 $$",
    # it runs the subject, but cannot trace, and writes a log of its own invention
    "while [ \"$1\" != -- ]; do [ \"$1\" = -o ] && echo '1 fsync(3) = 0' > \"$2\"; shift; done; shift; exec \"$@\"",
])
def test_an_strace_that_cannot_do_its_work_hits_nothing(trial_of, tmp_path, monkeypatch, script):
    """A hit was once inferred from a restart: an strace that refused its own argument counted as a crash that had hit."""
    fake = tmp_path / "bin" / "strace"
    fake.parent.mkdir()
    fake.write_text(f"#!/bin/sh\n{script}\n")
    fake.chmod(fake.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{fake.parent}{os.pathsep}{os.environ['PATH']}")
    trial = trial_of(Book, lab.factory("Journal"), Case("killed", {"@sync": (1, "kill")}), trace="inject")
    raised = []
    try:
        trial.open().append(line="0")
    except Exception as error:
        raised.append(error)
    assert not any(isinstance(error, SubjectDied) for error in raised), "this death was nobody's plan"
    trial.finish()
    assert not trial.hit


def test_a_run_under_such_an_strace_is_no_pass(prove, tmp_path, monkeypatch):
    fake = tmp_path / "bin" / "strace"
    fake.parent.mkdir()
    fake.write_text("#!/bin/sh\nexit 1\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{fake.parent}{os.pathsep}{os.environ['PATH']}")
    assert capability("strace").there is False
    outcome = prove(proof(CrashAtCall("sync"), needs=("strace",)))
    assert only(outcome)[0] == "unknown"
    assert "strace" in only(outcome)[1]
    sure = prove(proof(CrashAtCall("sync"), needs=()), probe=lambda name: type(capability("crash"))(name, True, "somebody says so"))
    assert only(sure)[0] == "unknown"


def test_a_case_whose_fault_did_not_strike_can_say_so(prove):
    """``during`` has no failpoint to leave a mark: it hits when it says so itself, and not without a word."""
    class Outage:
        name, needs = "outage", ()

        def __init__(self, struck):
            self.struck = struck

        def cases(self, clean_hits):
            @contextlib.contextmanager
            def during(trial):
                yield
                trial.hit = trial.hit or self.struck

            return [Case("outage · till", during=during)]

    outcome = prove(proof(Outage(False)))
    assert only(outcome) == ("unknown", "1 armed cases did not hit: crash: outage · till")
    struck = prove(proof(Outage(True), needs=()))
    assert only(struck) == ("pass", "")
    assert {k: struck.faults["outage"][k] for k in ("armed", "hit")} == {"armed": 1, "hit": 1}
