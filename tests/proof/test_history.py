"""The history on disk: each record knows its trial, void trials are out of sight, and it is read again from the start."""

from __future__ import annotations

import gzip
import json
import sys
import threading
from typing import Protocol

import pytest

from buttress.kernel.errors import InvalidInput
from buttress.proof.contract import Case, Claim, Proof, Scenario, Subject
from buttress.proof.history import History, HistoryWriter
from buttress.proof.process import SubjectError
from buttress.proof.verdict import count

from . import lab


def write(path, *records):
    writer = HistoryWriter(path)
    for record in records:
        writer.write(record)
    writer.close()
    return History(path)


def head(number, subject="good", scenario="steady", case="clean"):
    return {"trial": number, "kind": "trial", "subject": subject, "scenario": scenario, "case": case, "seed": 7}


def fact(number, **fields):
    return {"trial": number, "kind": "fact", **fields}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "history.jsonl.gz"


def test_a_record_shows_subject_scenario_and_case_of_its_trial(path):
    history = write(path, head(1), head(2, "naive", "crash", "kill -9 at x #1"), fact(1, what="a"), fact(2, what="b"), fact(1, what="c"))
    assert [(f["what"], f["subject"], f["scenario"], f["case"]) for f in history.where(kind="fact")] == [
        ("a", "good", "steady", "clean"), ("b", "naive", "crash", "kill -9 at x #1"), ("c", "good", "steady", "clean")]
    assert [f["what"] for f in history.where(kind="fact", subject="good")] == ["a", "c"]
    assert [f["what"] for f in history.where(scenario="crash").where(kind="fact")] == ["b"]
    assert list(history.where(kind="fact", what="a", scenario="crash")) == []
    assert list(history.where(nobody="has this")) == []


def test_two_clean_trials_are_never_merged(path):
    """Without a trial id the records of two good trials looked like twenty duplicates."""
    history = write(path, head(1), *(fact(1, id=n) for n in range(3)), head(2, scenario="again"), *(fact(2, id=n) for n in range(3)))
    assert [[f["id"] for f in trial if f["kind"] == "fact"] for trial in history.trials()] == [[0, 1, 2], [0, 1, 2]]
    assert {f["trial"] for f in history} == {1, 2}


def test_void_trials_are_left_out_of_every_view(path):
    history = write(path, head(1), fact(1, id=1), head(2), fact(2, id=2), head(3), fact(3, id=3)).without(frozenset({2}))
    for view in (history, history.where(subject="good"), history.where(kind="fact"), history.without(frozenset())):
        assert {f["trial"] for f in view} == {1, 3}
    assert [t[0]["trial"] for t in history.trials()] == [1, 3]
    assert {f["trial"] for f in history.without(frozenset({3})).where(kind="fact")} == {1}


def test_it_is_read_again_from_the_start_as_often_as_one_likes(path):
    history = write(path, head(1), fact(1, id=1), fact(1, id=2)).where(kind="fact")
    one, other = iter(history), iter(history)
    assert next(one)["id"] == next(other)["id"] == 1
    assert next(one)["id"] == next(other)["id"] == 2
    assert [len(list(history)) for _ in range(3)] == [2, 2, 2]
    assert history.__class__ is History


def test_it_is_read_lazily(path):
    """A checker that needs the first record reads no further: what comes after may even be cut off."""
    write(path, head(1), *(fact(1, id=n, filler="x" * 100) for n in range(20_000)))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert next(iter(History(path).where(kind="fact")))["id"] == 0
    with pytest.raises(EOFError):
        list(History(path))


def test_what_one_reader_does_to_a_record_no_other_sees(path):
    history = write(path, head(1), fact(1, id=1)).where(kind="fact")
    next(iter(history))["id"] = "spoilt"
    assert next(iter(history))["id"] == 1


def test_many_threads_write_whole_lines(path):
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    writer = HistoryWriter(path)
    begin = threading.Barrier(8)

    def write_some(number):
        begin.wait(10)
        writer.write(head(number))
        for at in range(300):
            writer.write(fact(number, at=at, text="ä\n\"" * 4000 if at % 10 == 0 else "x"))

    threads = [threading.Thread(target=write_some, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    sys.setswitchinterval(before)
    writer.close()
    assert writer.records == 8 * 301
    lines = gzip.decompress(path.read_bytes()).splitlines()
    assert len(lines) == writer.records
    assert all(json.loads(line)["trial"] in range(8) for line in lines)
    for number in range(8):
        assert [f["at"] for f in History(path) if f["kind"] == "fact" and f["trial"] == number] == list(range(300))


def test_a_late_writer_is_ignored_after_the_end(path):
    """A thread of a subject may outlive its trial: what it still has to say is no record."""
    writer = HistoryWriter(path)
    writer.write(head(1))
    writer.close()
    writer.write(fact(1, id=1))
    writer.close()
    assert writer.records == 1
    assert len(list(History(path))) == 1


class Port:
    def answer(self, x: int) -> int: ...


class Answers:
    def __init__(self, env):
        pass

    def answer(self, x):
        if x < 0:
            raise ValueError("x is below zero")
        return x + 1


def proof(drive, *checkers):
    return Proof("fixture", Port, (Subject("good", Answers, "buttress"),), (Scenario("steady", drive),), checkers,
                 (Claim("facts", "facts", "== 1", "facts"),), (), {"quick": None})


def test_ops_say_what_was_called_with_what_and_how_it_ended(trial_of):
    trial = trial_of(Port, Answers, in_process=True)
    port = trial.open()
    assert port.answer(1) == 2
    with pytest.raises(Exception, match="below zero"):
        port.answer(x=-1)
    trial.finish()
    trial_of.writer.close()
    ops = list(History(trial_of.history).where(kind="op"))
    assert [(o["status"], o["call"], o["args"], o.get("value"), o["worker"]) for o in ops[:1]] == [("ok", "answer", {"x": 1}, 2, 0)]
    assert (ops[1]["status"], ops[1]["error"]) == ("fail", "ValueError: x is below zero")


class Failing(Protocol):
    def fail(self, text: str) -> None: ...


@pytest.mark.parametrize("in_process", [True, False], ids=["in-process", "line"])
def test_an_error_that_the_subject_answers_is_a_fail_however_it_is_hosted(trial_of, in_process):
    trial = trial_of(Failing, lab.factory("Echo"), in_process=in_process)
    with pytest.raises(SubjectError, match=r"^ValueError: no$"):
        trial.open().fail("no")
    trial.finish()
    trial_of.writer.close()
    assert [(o["status"], o["error"]) for o in History(trial_of.history).where(kind="op")] == [("fail", "ValueError: no")]


def test_long_arguments_are_cut_and_marked(trial_of):
    trial = trial_of(Port, lambda env: type("Echo", (), {"answer": lambda self, x: x})(), in_process=True)
    assert trial.open().answer(x="y" * 1000) == "y" * 1000
    trial.finish()
    trial_of.writer.close()
    (op,) = History(trial_of.history).where(kind="op")
    assert op["args"]["x"].endswith("…")
    assert len(op["args"]["x"]) < 300


def test_a_long_list_is_cut_with_a_mark(trial_of):
    trial = trial_of(Port, lambda env: type("Echo", (), {"answer": lambda self, x: x})(), in_process=True)
    trial.open().answer(x=list(range(100)))
    trial.finish()
    trial_of.writer.close()
    (op,) = History(trial_of.history).where(kind="op")
    assert op["args"]["x"] == op["value"] == [*range(50), "… 50 more"]


@pytest.mark.parametrize("field", ["trial", "subject", "scenario", "case"])
def test_a_record_with_a_reserved_field_is_refused(trial_of, field):
    trial = trial_of(Port, Answers, in_process=True)
    with pytest.raises(InvalidInput, match=f"'{field}'.* are the trial's own"):
        trial.record("fact", **{field: "order 7"})


def test_a_fault_of_the_workload_with_a_reserved_field_is_refused(trial_of):
    trial = trial_of(Port, Answers, in_process=True)
    for field in ("trial", "subject", "scenario", "case"):
        with pytest.raises(InvalidInput):
            trial.fault("truncated feed", **{field: "order 7"})


def test_a_trial_that_raised_is_out_of_sight_of_the_checkers(prove):
    seen = []

    def drive(trial):
        trial.record("fact", what="before the end")
        raise OSError("the disk is gone")

    def facts(history):
        seen.extend(history)
        return {"facts": count(sum(1 for _ in history.where(kind="fact")), 1)}

    outcome = prove(proof(drive, facts))
    assert [r for r in seen if r["kind"] == "fact"] == []
    assert outcome.claims[0].verdict in ("unknown", "fail")
    assert outcome.errors == ["good · steady · clean: OSError: the disk is gone"]


def test_the_same_seed_gives_the_same_ops_and_another_seed_others(prove, tmp_path):
    def drive(trial):
        port = trial.open()
        for _ in range(50):
            port.answer(x=trial.rng.randrange(10**6))
            trial.clock.advance(trial.rng.random())

    def ops_of(run):
        return [(o["at"], o["call"], o["args"], o["value"], o["status"]) for o in History(tmp_path / run / "history.jsonl.gz").where(kind="op")]

    fixed = proof(drive, lambda history: {"facts": 1})
    for seed in (7, 7, 8):
        prove(fixed, seed=seed)
    assert ops_of("run-0") == ops_of("run-1")
    assert len(ops_of("run-0")) == 50
    assert ops_of("run-0") != ops_of("run-2")


def test_every_subject_and_every_case_gets_the_same_workload(prove, tmp_path):
    class Same:
        name, needs = "same", ()

        def cases(self, clean_hits):
            return [Case("one"), Case("two")]

    def drive(trial):
        trial.open().answer(x=trial.rng.randrange(10**6))

    two = Proof("fixture", Port, (Subject("naive", Answers, "baseline"), Subject("good", Answers, "buttress")),
                (Scenario("steady", drive, (Same(),)), Scenario("other", drive)), (), (), (), {"quick": None})
    prove(two)
    drawn = {}
    for op in History(tmp_path / "run-0" / "history.jsonl.gz").where(kind="op"):
        drawn.setdefault(op["scenario"], []).append(op["args"]["x"])
    assert len(drawn["steady"]) == 6
    assert len(set(drawn["steady"])) == 1
    assert len(set(drawn["other"])) == 1
    assert drawn["steady"][0] != drawn["other"][0]
