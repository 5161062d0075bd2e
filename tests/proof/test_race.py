"""Races: laps interleaved A B C, C B A; ratios between neighbours of a round; the machine held by one race alone."""

from __future__ import annotations

import fcntl
import os
import select
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from typing import Protocol

from buttress.proof import race as races
from buttress.proof.contract import Claim, Control, Estimate, Proof, Race, Subject, Unmeasured
from buttress.proof.history import History
from buttress.proof.run import Options, machine
from buttress.proof.verdict import Evidence

from . import lab


class Port(Protocol):
    def echo(self, value: object = None) -> object: ...


class Plain:
    def __init__(self, env):
        self.env = env

    def echo(self, value=None):
        return value


def proof(lap, subjects="ABC", *, warm=1, claims=(), better: Mapping = {}, **race):
    roles = {"A": "baseline", "B": "peer", "C": "buttress"}
    return Proof("race", Port, tuple(Subject(name, Plain, roles[name]) for name in subjects), (), (), claims, (), {"quick": None},
                 races=(Race("r", lap, warm, better=better, **race),))


def test_laps_are_interleaved_there_and_back(prove):
    order = []

    def lap(trial, port):
        order.append(trial.subject.name)
        return {}

    outcome = prove(proof(lap), laps=4)
    assert "".join(order) == "ABC" + "ABC" + "CBA" + "ABC" + "CBA"  # the first three are to get warm
    assert {name: len(rounds) for name, rounds in outcome.laps["r"].items()} == {"A": 4, "B": 4, "C": 4}


def test_warm_laps_are_not_measured(prove):
    seen = []

    def lap(trial, port):
        seen.append(trial.subject.name)
        return {"laps": float(len(seen))}

    outcome = prove(proof(lap, "C", warm=3), laps=6)
    assert [lap["laps"] for lap in outcome.laps["r"]["C"]] == [4, 5, 6, 7, 8, 9]


def test_a_lap_is_measured_in_wall_and_cpu_time_beside_its_own_measures(prove, tmp_path):
    def lap(trial, port):
        sum(range(200_000))
        return {"pages": 3.0, "r.wall_s": 42.0}

    outcome = prove(proof(lap, "C"), laps=6)
    for measures in outcome.laps["r"]["C"]:
        assert set(measures) == {"pages", "r.wall_s", "r.cpu_s"}
        assert measures["r.wall_s"] == 42.0  # a lap that measures the time itself knows better
        assert 0 < measures["r.cpu_s"] < 5
    known = outcome.evidence["C"]
    assert known.race_measures == {"pages", "r.wall_s", "r.cpu_s"}
    assert known.measures["pages"] == Estimate(3.0, 3.0, 3.0, 6)
    laps = list(History(tmp_path / "run-0" / "history.jsonl.gz").where(kind="lap"))
    assert [(lap["race"], lap["round"], lap["subject"]) for lap in laps] == [("r", n, "C") for n in range(6)]


def test_ratios_are_taken_between_neighbours_of_a_round():
    """The machine is ten times slower in every other round: the medians overlap, the ratios do not."""
    slow = [1.0 if n % 2 else 10.0 for n in range(16)]
    ours, theirs = [{"s": 2 * x} for x in slow], [{"s": x} for x in slow]
    assert races.ratios(ours, theirs, "naive") == {"s over naive": Estimate(2.0, 2.0, 2.0, 16)}
    both = {"ours": Evidence(), "naive": Evidence()}
    races.measure({"r": {"ours": ours, "naive": theirs}}, both, "ours")
    spread = both["ours"].measures["s"]
    assert (spread.low, spread.high) == (2.0, 20.0)
    assert both["ours"].measures["s over naive"] == Estimate(2.0, 2.0, 2.0, 16)
    assert both["naive"].measures["s over ours"] == Estimate(0.5, 0.5, 0.5, 16)
    assert both["ours"].race_measures == {"s", "s over naive"}


def test_a_round_in_which_the_other_took_no_time_has_no_ratio():
    ours, theirs = [{"s": 1.0}] * 8, [{"s": 0.0}] * 3 + [{"s": 2.0}] * 5
    assert races.ratios(ours, theirs, "naive") == {"s over naive": Unmeasured("5 samples give no interval")}
    assert races.ratios([{"a": 1.0}], [{"b": 1.0}], "naive") == {}


def test_five_laps_are_no_measure(prove):
    outcome = prove(proof(lambda trial, port: {"n": 1.0}, "AC", claims=(Claim("fast", "n", "<= 2", "×", over="A"),)), laps=5)
    assert (outcome.claims[0].verdict, outcome.claims[0].why) == ("unknown", "5 samples give no interval")


def test_one_that_breaks_leaves_the_race_and_the_others_go_on(prove):
    laps = {"A": 0, "B": 0, "C": 0}

    def lap(trial, port):
        laps[trial.subject.name] += 1
        if trial.subject.name == "B" and laps["B"] == 3:
            raise OSError("out of fuel")
        return {"n": 1.0}

    claims = (Claim("beside A", "n", "<= 2", "×", over="A"), Claim("beside B", "n", "<= 2", "×", over="B"))
    outcome = prove(proof(lap, claims=claims), laps=6, only_races=True)
    assert laps == {"A": 7, "B": 3, "C": 7}
    assert outcome.errors == ["race r · B: OSError: out of fuel"]
    assert set(outcome.laps["r"]) == {"A", "C"}
    assert outcome.evidence["C"].measures["n over A"] == Estimate(1, 1, 1, 6)
    assert {c.claim.name: c.why for c in outcome.claims}["beside B"] == "it was not measured"


def test_one_that_does_not_start_never_enters(prove):
    def unready(env):
        raise RuntimeError("no disk")

    subjects = (Subject("A", Plain, "baseline"), Subject("C", unready, "buttress"))
    outcome = prove(Proof("race", Port, subjects, (), (), (), (), {"quick": None}, races=(Race("r", lambda trial, port: {"n": 1.0}),)), laps=6)
    assert set(outcome.laps["r"]) == {"A"}
    assert outcome.errors == ["race r · C: FactoryFailed: C did not start: RuntimeError: no disk"]


def test_a_measure_that_a_lap_leaves_out_breaks_nothing(prove):
    def lap(trial, port):
        trial.turn = getattr(trial, "turn", 0) + 1
        return {"n": 1.0} if trial.turn % 2 else {"n": 1.0, "sometimes": 2.0}

    outcome = prove(proof(lap, "AC", warm=1), laps=6)
    assert outcome.evidence["C"].measures["n over A"] == Estimate(1, 1, 1, 6)


def test_a_race_may_choose_its_subjects_and_its_scale(prove):
    outcome = prove(proof(lambda trial, port: {"n": 1.0}, subjects="ABC"), laps=6)
    assert set(outcome.laps["r"]) == set("ABC")
    chosen = proof(lambda trial, port: {"n": 1.0})
    two = replace(chosen, races=(replace(chosen.races[0], subjects=("A", "C")), Race("big", lambda trial, port: {}, scale="full")))
    assert {name: set(rounds) for name, rounds in prove(two, laps=6).laps.items()} == {"r": {"A", "C"}}
    yours = prove(two, Subject("yours", Plain, "yours"), laps=6)
    assert set(yours.laps["r"]) == {"A", "C", "yours"}


def test_beside_a_stranger_all_are_hosted_in_processes(prove):
    """Speed is compared between subjects hosted alike: the line protocol costs every one of them the same."""
    subjects = (Subject("A", lab.factory("Echo"), "baseline"), Subject("C", lab.factory("Echo"), "buttress"))
    echo = "import json, sys\nfor l in sys.stdin: r = json.loads(l); print(json.dumps(dict(ok=['echo'] if r['call'] == 'hello' else r['args'].get('value'), id=r.get('id'))), flush=True)"
    fair = Proof("race", Port, subjects, (), (), (Claim("alike", "pid", "== 1", "×", over="A"),), (), {"quick": None},
                 races=(Race("r", lambda trial, port: {"pid": float(port.echo(value=1))}),))
    assert {e.hosted for e in prove(fair, laps=6).evidence.values()} == {"in-process"}
    for stranger in (f'cmd:{sys.executable} -c "{echo}"', lab.factory("Echo")):
        outcome = prove(fair, stranger, laps=6)
        assert {name: e.hosted for name, e in outcome.evidence.items()} == {"A": "line", "C": "line", "yours": "line"}
        assert outcome.errors == []


def test_races_alone_run_no_scenario_and_no_checker(prove):
    def never(_):
        raise AssertionError("not in a race")

    alone = Proof("race", Port, (Subject("C", Plain, "buttress"),), (), (never,), (), (Control("c", "C", "m", "> 0"),), {"quick": None},
                  races=(Race("r", lambda trial, port: {"n": 1.0}),))
    outcome = prove(alone, only_races=True, laps=6)
    assert outcome.errors == []
    assert outcome.laps["r"]["C"][0]["n"] == 1.0
    assert Options().laps is None


# -- the machine


def test_sharers_share_and_a_race_waits_for_them():
    waits = []
    with machine(exclusive=False), machine(exclusive=False, waiting=lambda: waits.append("shared")):
        assert waits == []
        assert not _free()
    assert _free()
    with machine(exclusive=True, waiting=lambda: waits.append("exclusive")):
        assert waits == []
        assert not _free(fcntl.LOCK_SH)
    assert _free()


def _free(kind: int = fcntl.LOCK_EX) -> bool:
    fd = os.open(os.path.join(tempfile.gettempdir(), "buttress-machine.lock"), os.O_RDONLY)
    try:
        fcntl.flock(fd, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    else:
        return True
    finally:
        os.close(fd)


SHARER = """
import sys
from buttress.proof.run import machine
from select import select
print("ready", flush=True)
while not select([sys.stdin], [], [], 0)[0]:
    with machine(exclusive=False):
        select([sys.stdin], [], [], 0.15)
"""
EXCLUSIVE = """
from buttress.proof.run import machine
print("ready", flush=True); input()
with machine(exclusive=True):
    print("alone", flush=True); input()
"""


def test_a_race_does_not_starve_behind_sharers_that_come_and_go():
    """Three processes that share the machine, each again and again: without a turnstile one waited as long as they ran."""
    def start(code):
        return subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    sharers, exclusive = [start(SHARER) for _ in range(3)], start(EXCLUSIVE)
    try:
        for process in [*sharers, exclusive]:
            assert process.stdout.readline() == "ready\n"
        exclusive.stdin.write("go\n")
        exclusive.stdin.flush()
        assert select.select([exclusive.stdout], [], [], 10)[0], "starved for ten seconds"
        assert exclusive.stdout.readline() == "alone\n"
        assert not _free(fcntl.LOCK_SH), "it holds the machine alone"
        for process in [exclusive, *sharers]:
            process.communicate("end\n", timeout=30)
    finally:
        for process in [exclusive, *sharers]:
            process.kill()
            process.wait()
    assert [p.returncode for p in [*sharers, exclusive]] == [0, 0, 0, 0]
