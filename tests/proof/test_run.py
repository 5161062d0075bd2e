"""A run: which trials there are, what is fresh in each, who takes part, and that one that breaks takes nobody along."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import threading
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import pytest

from buttress.kernel.errors import ButtressError
from buttress.proof import trial as trial_module
from buttress.proof.contract import Case, Claim, Control, Proof, Race, Scenario, Subject
from buttress.proof.faults import capability
from buttress.proof.history import History
from buttress.proof.process import SubjectError, UsageError
from buttress.proof.run import hosted
from buttress.proof.trial import Warm
from buttress.proof.verdict import count

from . import lab
from .shapes import page, service, verifier
from .shapes.cheat import python


class Port(Protocol):
    def note(self, what: object) -> list: ...


class Notes:
    """Remembers in its folder what it was told."""

    closed: list = []

    def __init__(self, env):
        self.env = env
        self.path = Path(env.dir, "notes")

    def note(self, what):
        with self.path.open("a") as notes:
            notes.write(f"{what}\n")
        return self.path.read_text().split()

    def close(self):
        type(self).closed.append(self.env.dir)


@dataclass(frozen=True)
class Size:
    n: int = 1


def proof(drive, *, subjects=None, faults=(), claims=(), controls=(), scenarios=None, checkers=None, **more):
    return Proof("run", Port, subjects or (Subject("naive", Notes, "baseline"), Subject("ours", Notes, "buttress")),
                 scenarios or (Scenario("steady", drive, tuple(faults)),), checkers or (tried,), claims, controls, {"quick": Size(), "full": Size(2)}, **more)


def tried(history):
    facts = list(history.where(kind="fact"))
    return {"trials": float(len(facts)), "wrong": count(sum(f.get("wrong", 0) for f in facts), len(facts))}


class Cases:
    """A fault with these cases, and what happens during each."""

    needs: tuple = ()

    def __init__(self, *labels, name="cases", during=None):
        self.labels, self.name, self.during = labels, name, during

    def cases(self, clean_hits):
        return [Case(label, during=self.during) for label in self.labels]


# -- trials


def test_each_scenario_subject_and_case_is_a_trial_of_its_own(prove):
    seen = []

    def drive(trial):
        seen.append((trial.scenario.name, trial.subject.name, trial.case.label))
        assert trial.open().note(what="x") == ["x"], "its folder is empty"
        trial.record("fact")

    outcome = prove(proof(drive, scenarios=(Scenario("steady", drive, (Cases("one", "two"),)), Scenario("again", drive))))
    assert seen == [("steady", s, c) for s in ("naive", "ours") for c in ("clean", "one", "two")] + [("again", s, "clean") for s in ("naive", "ours")]
    assert outcome.trials == 8
    assert outcome.errors == []
    assert outcome.evidence["ours"].measures["trials"] == 4.0


def test_inputs_are_made_once_a_run_and_the_world_is_fresh_in_each_trial(prove):
    made, worlds = [], []

    def inputs(size, seed, folder):
        made.append((size, seed))
        (folder / "feed").write_text("rows")
        return {"feed": str(folder / "feed")}

    @contextlib.contextmanager
    def world(trial):
        worlds.append(f"up {trial.number}")
        try:
            yield {"till": f"at {trial.number}"}
        finally:
            worlds.append(f"down {trial.number}")

    def drive(trial):
        assert Path(trial.inputs["feed"]).read_text() == "rows"
        assert trial.world == {"till": f"at {trial.number}"}
        trial.open()
        assert trial._hosts[0].port.env.world == trial.world
        if trial.case.label == "bad":
            raise OSError("in the middle")

    prove(proof(drive, faults=(Cases("bad", "good"),), inputs=inputs, world=world), seed=11)
    assert made == [(Size(), 11)]
    assert worlds == [f"{what} {n}" for n in range(1, 7) for what in ("up", "down")], "closed also where the driver raised"


def test_a_fault_may_change_the_world_before_the_subject_starts(prove):
    @contextlib.contextmanager
    def world(trial):
        yield {"till": "the true one"}

    @contextlib.contextmanager
    def during(trial):
        trial.world["till"] = f"a proxy before {trial.world['till']}"
        yield

    told = []

    def drive(trial):
        trial.open()
        told.append(trial._hosts[0].port.env.world["till"])

    prove(proof(drive, subjects=(Subject("ours", Notes, "buttress"),), faults=(Cases("proxy", during=during),), world=world))
    assert told == ["the true one", "a proxy before the true one"]


def test_a_trial_that_raised_is_void_and_the_others_count(prove, tmp_path):
    def drive(trial):
        trial.open().note(what="x")
        trial.record("fact", wrong=1 if trial.case.label == "two" else 0)
        if trial.case.label == "two":
            raise OSError("the disk is gone")

    outcome = prove(proof(drive, faults=(Cases("one", "two", "three"),), claims=(Claim("c", "wrong", "== 0", "x"),)))
    assert outcome.evidence["ours"].measures == {"trials": 3.0, "wrong": count(0, 3)}
    assert (outcome.claims[0].verdict, outcome.claims[0].why) == ("unknown", "1 trials were void: steady · two: OSError: the disk is gone")
    assert outcome.errors == [f"{s} · steady · two: OSError: the disk is gone" for s in ("naive", "ours")]
    kept = sorted(p.parent.parent.name for p in (tmp_path / "run-0").glob("trial-*/state/notes"))
    assert kept == ["trial-3", "trial-7"], "void ones are kept to be looked at, the others are not"


def test_what_raises_at_the_end_of_a_trial_voids_it_and_closes_the_rest(prove):
    class Stubborn(Notes):
        def close(self):
            raise OSError("will not close")

    def drive(trial):
        trial.open()
        trial.record("fact")

    outcome = prove(proof(drive, subjects=(Subject("ours", Stubborn, "buttress"),), claims=(Claim("c", "wrong", "== 0", "x"),)))
    assert outcome.claims[0].verdict == "unknown"
    assert outcome.errors == ["ours · steady · clean: OSError: will not close"]


def test_every_subject_is_closed_also_where_the_driver_raised(prove):
    Notes.closed.clear()

    def drive(trial):
        trial.open(0)
        trial.open(1)
        if trial.subject.name == "naive":
            raise OSError("in the middle")

    prove(proof(drive))
    assert len(Notes.closed) == 4


# -- who takes part


def test_subjects_of_another_scale_or_role_or_without_their_needs_stay_out(prove):
    def drive(trial):
        trial.record("fact")

    subjects = (Subject("naive", Notes, "baseline"), Subject("slow", Notes, "peer", scale="full"), Subject("needy", Notes, "peer", needs=("tardis",)),
                Subject("fetched", Notes, "peer", parts=("pip:nothing==1",)), Subject("ours", Notes, "buttress"))
    only = proof(drive, subjects=subjects, scenarios=(Scenario("all", drive), Scenario("some", drive, roles=("buttress",))))
    outcome = prove(only)
    assert {name: e.measures.get("trials", 0) for name, e in outcome.evidence.items()} == {"naive": 1, "needy": 0, "fetched": 0, "ours": 2}
    assert outcome.evidence["needy"].absent == "needs tardis: no probe of this name"
    assert outcome.evidence["fetched"].absent.startswith("needs its own parts: buttress doctor --fetch")
    assert outcome.verdict == "unknown"  # no claims
    assert "slow" in prove(only, scale="full").evidence
    assert set(prove(only, peers=()).evidence) == {"naive", "ours"}
    assert set(prove(only, peers=("needy",)).evidence) == {"naive", "needy", "ours"}


def test_the_size_is_that_of_the_scale(prove):
    sizes = []
    for scale in ("quick", "full"):
        prove(proof(lambda trial: sizes.append(trial.size)), scale=scale)
    assert sizes == [Size(1)] * 2 + [Size(2)] * 2


def test_scenarios_may_depend_on_the_size(prove):
    seen = []

    def scenarios(size):
        return tuple(Scenario(f"round {n}", lambda trial: seen.append(trial.scenario.name)) for n in range(size.n))

    prove(proof(None, subjects=(Subject("ours", Notes, "buttress"),), scenarios=scenarios), scale="full")
    assert seen == ["round 0", "round 1"]


@pytest.mark.parametrize(("options", "text"), [({"scale": "huge"}, "no scale is called 'huge'"), ({"claims": ("nobody",)}, "no claim is called 'nobody'")])
def test_names_that_are_not_there_are_refused_before_anything_is_written(prove, tmp_path, options, text):
    with pytest.raises(UsageError, match=text):
        prove(proof(lambda trial: None), **options)
    assert not (tmp_path / "run-0").exists()


def test_a_proof_without_a_subject_of_ours_says_so(prove):
    with pytest.raises(ButtressError, match="the proof of run has no subject of role buttress"):
        prove(proof(lambda trial: None, subjects=(Subject("naive", Notes, "baseline"),)))


def test_a_callable_cannot_be_hosted_in_a_process(prove):
    with pytest.raises(UsageError, match="a callable cannot be hosted in a process of its own") as refused:
        prove(proof(None, scenarios=(Scenario("crash", lambda trial: trial.open(), processes=True),)))
    assert refused.value.fix == "name it as module:attribute"


@pytest.mark.parametrize(("factory", "start", "how"), [
    ("package.module:factory", (), "in-process"), ("mine.py:factory", (), "in-process"), (Notes, (), "in-process"), ("cmd:node receiver.js", (), "line"),
    ("http://127.0.0.1:8080/", (), "url"), ("https://example.test", (), "url"), ("http://127.0.0.1:8080/", ("node", "server.js"), "service"),
])
def test_how_a_subject_is_hosted_follows_from_its_factory(factory, start, how):
    assert hosted(Subject("x", factory, "yours", start=start)) == how


def test_what_a_way_of_hosting_cannot_show_is_unknown_and_says_so(prove, served):
    scenario = replace(page.PROOF.scenarios[0], faults=())
    needy = replace(page.PROOF, scenarios=(scenario,), claims=(Claim("time", "stale", "== 0", "pages", needs=("virtual",)), Claim("stale", "stale", "== 0", "pages")), controls=(), races=())
    virtual = replace(needy, scenarios=(replace(scenario, virtual=True),))
    claims = {c.claim.name: (c.verdict, c.why) for c in prove(virtual, served).claims}
    assert claims == {"time": ("unknown", "needs virtual: a service that runs already cannot be killed, paused or given another time"),
                      "stale": ("unknown", "nothing was tried")}
    assert {c.claim.name: c.verdict for c in prove(needy, served).claims} == {"time": "unknown", "stale": "pass"}


def test_a_missing_method_is_found_at_the_start(prove):
    said = []
    with pytest.raises(UsageError):
        prove(service.PROOF, python("service.py", "Deaf"), progress=said.append)
    assert said == [], "trials ran before"


@pytest.mark.parametrize(("factory", "host", "trials"), [(lab.factory("Echo"), "SubjectProcess", 4), (Notes, "_InProcess", 3)], ids=["by its name", "a callable"])
def test_yours_is_a_stranger_in_a_process_unless_it_is_a_callable(prove, factory, host, trials):
    """By its name it is started once before all trials; no checker sees that."""
    seen = []

    def drive(trial):
        trial.open().note(what="x")
        seen.append((trial.subject.name, type(trial._hosts[0]).__name__))

    def scenarios_of(history):
        return {"scenarios": float(len({record["scenario"] for record in history}))}

    outcome = prove(proof(drive, checkers=(scenarios_of,)), Subject("yours", factory, "yours"))
    assert outcome.errors == []
    assert seen == [("naive", "_InProcess"), ("ours", "_InProcess"), ("yours", host)]
    assert outcome.evidence["yours"].measures == {"scenarios": 1.0}
    assert outcome.trials == trials


@pytest.mark.parametrize(("factory", "how"), [
    pytest.param(lab.factory("Echo"), "line", id="by its name"),
    pytest.param(Notes, "in-process", id="a callable"),
])
def test_how_yours_is_hosted_is_told_as_it_is(prove, factory, how):
    assert prove(proof(lambda trial: trial.open()), Subject("yours", factory, "yours")).evidence["yours"].hosted == how


@pytest.mark.parametrize("processes", [
    True, False])
def test_a_peer_that_cannot_be_imported_is_absent_and_the_others_go_on(prove, processes):
    subjects = (Subject("peer", "nowhere_at_all:make", "peer"), Subject("ours", lab.factory("Echo"), "buttress"))
    outcome = prove(proof(None, subjects=subjects, scenarios=(Scenario("steady", lambda trial: (trial.open(), trial.record("fact")), processes=processes),)))
    assert "No module named 'nowhere_at_all'" in outcome.evidence["peer"].absent
    assert outcome.evidence["ours"].measures["trials"] == 1.0


def test_a_url_that_the_proof_cannot_take_is_a_subject_that_did_not_start(prove):
    def from_url(url, env):
        raise ValueError("no host in it")

    outcome = prove(replace(page.PROOF, from_url=from_url), "http://", races=False)
    assert {(c.verdict, c.why) for c in outcome.claims} == {("unknown", "yours did not start: ValueError: no host in it")}


def test_a_warm_interpreter_is_kept_for_each_python(monkeypatch, tmp_path):
    monkeypatch.setattr(trial_module, "ForkServer", lambda *args: args)
    warm = Warm(tmp_path / "log")
    assert warm.fork_server("peer:make", ("call",), "/old/python") != warm.fork_server("peer:make", ("call",), "/new/python")


# -- the port as a driver sees it


def test_arguments_are_bound_to_the_ports_own_names(trial_of):
    trial = trial_of(Port, Notes, in_process=True)
    port = trial.open()
    assert port.note("a") == ["a"]
    assert port.note(what="b") == ["a", "b"]
    with pytest.raises(TypeError):
        port.note()
    with pytest.raises(TypeError):
        port.note("c", nobody=1)
    with pytest.raises(AttributeError):
        port.close()


def test_a_restart_is_another_instance_on_the_same_folder(trial_of):
    trial = trial_of(Port, Notes, in_process=True)
    first = trial.open()
    first.note("a")
    before = trial._hosts[0].port
    second = trial.restart()
    assert second.note("b") == ["a", "b"]
    assert trial._hosts[0].port is not before
    with pytest.raises(ButtressError, match="open already"):
        trial.open()
    with pytest.raises(ButtressError, match="cannot be killed"):
        trial.kill()


def test_workers_share_the_folder_and_know_their_number(trial_of):
    class About(Protocol):
        def about(self) -> dict: ...

    trial = trial_of(About, lab.factory("Echo"))
    about = [trial.open(worker).about() for worker in range(3)]
    assert [a["worker"] for a in about] == [0, 1, 2]
    assert {a["dir"] for a in about} == {trial.state}
    assert len({a["pid"] for a in about}) == 3


class Meeting(Protocol):
    def meet(self, parties: int) -> int: ...
    def fail(self, text: str) -> None: ...
    def echo(self, value: object = None) -> object: ...


@pytest.mark.parametrize("in_process", [True, False], ids=["in-process", "line"])
def test_calls_together_are_in_flight_at_once_and_errors_are_values(trial_of, in_process):
    from .subjects import Echo

    trial = trial_of(Meeting, Echo if in_process else lab.factory("Echo"), in_process=in_process)
    port = trial.open()
    assert sorted(trial.together(*[(port.meet, {"parties": 4})] * 4)) == [0, 1, 2, 3]
    error, value = trial.together((port.fail, {"text": "no"}), (port.echo, {"value": 1}))
    assert isinstance(error, SubjectError)
    assert "ValueError: no" in str(error)
    assert value == 1


def test_calls_together_go_to_several_workers(trial_of):
    trial = trial_of(Meeting, lab.factory("Echo"))
    ports = [trial.open(worker) for worker in range(3)]
    assert trial.together(*[(p.echo, {"value": n}) for n, p in enumerate(ports)]) == [0, 1, 2]


def test_the_unrecorded_port_takes_what_the_recorded_one_takes(trial_of):
    trial = trial_of(Meeting, lab.factory("Echo"))
    trial.open()
    assert trial.raw_port().echo(value=1) == 1


def test_the_unrecorded_port_takes_positional_arguments_too(trial_of):
    trial = trial_of(Meeting, lab.factory("Echo"))
    trial.open()
    assert trial.raw_port().echo(1) == 1


# -- one seed


def test_one_seed_gives_one_history_through_all_crashes(prove, tmp_path):
    """In lock-step: each call waits for its answer, and each kill comes at a place that is counted."""
    def ops(run):
        history = History(tmp_path / run / "history.jsonl.gz")
        return [(o["subject"], o["case"], o["at"], o["call"], o["args"], o["status"], o.get("value")) for o in history.where(kind="op")], \
            [(f["subject"], f["case"], f["hit"]) for f in history.where(kind="fault")]

    for _ in range(2):
        prove(service.PROOF)
    first, second = ops("run-0"), ops("run-1")
    assert first == second
    assert {status for *_, status, _ in first[0]} == {"ok", "info"}
    assert len(first[1]) > 5


# -- judging several


def test_what_the_judged_subject_does_wrong_is_not_held_against_the_others(prove):
    outcome = prove(verifier.PROOF, python("verifier.py", "Refusing"), races=False)
    assert outcome.claims[0].verdict == "unknown"
    assert outcome.others["good"][0].verdict == "pass"


def test_a_control_may_look_at_one_that_is_not_there(prove):
    asleep = proof(lambda trial: trial.record("fact"), subjects=(Subject("ours", Notes, "buttress"),), claims=(Claim("c", "wrong", "== 0", "x"),),
                   controls=(Control("the naive one fails", "naive", "wrong", "> 0"),))
    outcome = prove(asleep)
    assert (outcome.claims[0].verdict, outcome.claims[0].why) == ("unknown", "the control 'the naive one fails' is asleep: naive did not run: it is not among the subjects")


def test_a_later_checker_adds_to_what_an_earlier_one_measured(prove):
    def broken(history):
        raise RuntimeError("no")

    several = proof(lambda trial: trial.record("fact"), checkers=(tried, broken, lambda history: {"late": 1.0}),
                    claims=(Claim("early", "trials", "== 1", "x"), Claim("late", "late", "== 1", "x"), Claim("nobody's", "nothing", "== 1", "x")))
    assert {c.claim.name: (c.verdict, c.why) for c in prove(several).claims} == {
        "early": ("pass", ""), "late": ("pass", ""), "nobody's": ("unknown", "the checker broken threw RuntimeError: no")}


def test_progress_is_told(prove):
    said = []
    with_race = proof(lambda trial: None, subjects=(Subject("ours", Notes, "buttress"),), races=(Race("r", lambda trial, port: {}),), inputs=lambda *_: {})
    prove(with_race, progress=said.append, laps=2)
    assert said == ["inputs", "steady · ours · clean", "race r · lap 1 of 2 · ours", "race r · lap 2 of 2 · ours", "checking · ours"]


def test_a_capability_is_probed_once(prove):
    asked = []

    def probe(name):
        asked.append(name)
        return capability(name)

    needy = proof(lambda trial: None, faults=(Cases("one"),), claims=tuple(Claim(str(n), "wrong", "== 0", "x", needs=("crash",)) for n in range(3)))
    prove(needy, probe=probe)
    assert asked == ["crash"]


# -- in-process subjects


def test_what_a_subject_prints_or_leaves_running_does_no_harm(prove, capfd):
    def noisy(env):
        print("noise")
        threading.Thread(target=threading.Event().wait, daemon=True).start()
        return Notes(env)

    outcome = prove(proof(lambda trial: trial.open().note(what="x"), subjects=(Subject("ours", noisy, "buttress"),)))
    assert outcome.errors == []
    assert "noise" in capfd.readouterr().out




@pytest.mark.skipif(not os.access("/dev/shm", os.W_OK), reason="needs a folder in memory: /dev/shm")
def test_what_a_killed_run_left_in_memory_is_swept_and_nothing_else(prove):
    gone = subprocess.Popen(["true"])
    gone.wait()
    left, alive, other = (Path("/dev/shm", name) for name in (f"buttress-{gone.pid}-left", f"buttress-{os.getpid()}-alive", f"somebody-{gone.pid}-left"))
    try:
        for folder in (left, alive, other):
            (folder / "trial-1").mkdir(parents=True)
        during = []
        prove(proof(lambda trial: during.append(trial.dir), subjects=(Subject("ours", Notes, "buttress"),)))
        assert [folder.exists() for folder in (left, alive, other)] == [False, True, True]
        assert not Path(during[0]).exists()
        if during[0].startswith("/dev/shm"):  # where there is room enough
            assert not Path(during[0]).parent.exists(), "the run's own folder in memory is gone with it"
    finally:
        for folder in (left, alive, other):
            shutil.rmtree(folder, ignore_errors=True)
