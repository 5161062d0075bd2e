"""The result as JSON: read back as it was written, refused when it is cut or of another schema, thinned aloud, dated by a digest."""

from __future__ import annotations

import contextlib
import json
import random
import shutil
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from buttress.proof import result as module
from buttress.proof.contract import Case, Claim, Control, Estimate, Figure, Proof, Scenario, Subject, Unmeasured
from buttress.proof.result import (
    FIGURES_MAX_BYTES,
    SCHEMA,
    Unreadable,
    build,
    digest,
    environment,
    finding,
    latest,
    numbers,
    read,
    run_folder,
    write,
)
from buttress.proof.run import Options
from buttress.proof.state import state_folder
from buttress.proof.verdict import count, share

from .shapes import detector, document, verifier

CLAIM_KEYS = {"name", "measure", "value", "unit", "bar", "over", "verdict", "subject", "interval", "n", "why"}
RESULT_KEYS = {"schema", "system", "scale", "seed", "verdict", "claims", "finding", "figures", "subjects", "controls", "faults", "deferred", "environment", "wall_s"}


def built(proof, outcome, **how):
    options = Options()
    return build(proof, outcome, options, command="buttress prove it", **how)


# -- the object of the design


def test_it_has_what_the_design_names_and_is_json(prove):
    result = built(verifier.PROOF, prove(verifier.PROOF), label="sha256:abc")
    assert set(result) >= RESULT_KEYS
    assert all(set(claim) >= CLAIM_KEYS for claim in result["claims"])
    assert json.loads(json.dumps(result)) == msgspec.json.decode(msgspec.json.encode(result)) == result
    assert (result["schema"], result["system"], result["scale"], result["seed"], result["verdict"]) == (SCHEMA, "verifier", "quick", 7, "pass")
    assert (result["as"], result["judged"]) == ("sha256:abc", "good")
    assert result["environment"]["command"] == "buttress prove it"
    forged = result["claims"][0]
    assert (forged["name"], forged["value"], forged["interval"], forged["n"], forged["subject"]) == ("forged admitted", 0.0, None, 160, "good")
    speed = result["claims"][1]
    assert (speed["over"], speed["n"]) == ("naive", 7)
    assert speed["interval"][0] <= speed["value"] <= speed["interval"][1]
    assert result["subjects"]["naive"]["verdicts"] == {"forged admitted": "fail"}
    assert {c["name"]: (c["kind"], c["awake"]) for c in result["controls"]}["the genuine are let in"] == ("positive", True)
    assert result["races"][0]["subjects"].keys() == {"naive", "reference", "good"}


def test_nothing_in_it_names_a_person_or_a_place(prove, tmp_path):
    text = json.dumps(built(document.PROOF, prove(document.PROOF), began=environment(Path(module.__file__).parent)))
    assert str(tmp_path) not in text
    assert str(Path.home()) not in text


def test_what_is_deferred_comes_with_its_command(prove):
    result = built(detector.PROOF, prove(detector.PROOF))
    assert result["deferred"] == [{"name": "false alarms in the long run", "command": "buttress prove detector --scale full"}]
    claim = next(c for c in result["claims"] if c["verdict"] == "deferred")
    assert (claim["value"], claim["interval"], claim["n"]) == (None, None, None)


def test_what_was_not_measured_is_null():
    nothing = {"value": None, "interval": None, "n": None}
    assert numbers(None) == numbers(Unmeasured("why")) == nothing
    assert numbers(float("nan")) == nothing
    assert numbers(float("inf"))["value"] is None
    assert numbers(3) == {"value": 3.0, "interval": None, "n": None}
    assert numbers(Estimate(0.5, 0.25, float("inf"), 9)) == {"value": 0.5, "interval": [0.25, None], "n": 9}
    assert numbers(count(2, 9)) == {"value": 2.0, "interval": None, "n": 9}
    assert numbers(share(0, 0)) == nothing


def test_one_that_did_not_run_says_so(prove):
    result = built(document.PROOF, prove(document.PROOF, Subject("yours", "x:y", "yours", needs=("no such thing",))))
    assert result["verdict"] == "unknown"
    assert result["subjects"]["yours"]["absent"] == "needs no such thing: no probe of this name"
    assert result["subjects"]["yours"]["measures"] == {}
    assert [c["why"] for c in result["claims"]] == ["needs no such thing: no probe of this name"] * 2


def test_the_finding_is_chosen_by_the_verdict_and_filled_with_measures(prove):
    spoken = replace(document.PROOF, findings={"pass": "It missed {missed} of its flaws.", "fail": "It missed {missed}, and {nobody} knows."})
    assert finding(spoken, prove(spoken)) == "It missed 0 of its flaws."
    blind = prove(spoken, f"{document.__file__}:naive")
    assert blind.verdict == "fail"
    assert finding(spoken, blind) == "1 of 2 claims pass, 1 fail, 0 unknown."  # a word that nobody measured: said plainly
    assert finding(replace(spoken, findings={}), blind) == "1 of 2 claims pass, 1 fail, 0 unknown."


# -- on disk


@given(st.dictionaries(st.text(max_size=8), st.none() | st.booleans() | st.integers(-10**12, 10**12) | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=20), max_size=6))
def test_what_was_written_is_read(tmp_path_factory, values):
    path = tmp_path_factory.mktemp("result") / "result.json"
    result = {**values, "schema": SCHEMA, "claims": []}
    write(result, path)
    assert read(path) == result
    assert [p.name for p in path.parent.iterdir()] == ["result.json"]


@pytest.mark.parametrize("cut", [0, 1, 10, 0.5, -2, -3])
def test_a_truncated_one_is_unreadable(tmp_path, cut):
    path = tmp_path / "result.json"
    write({"schema": SCHEMA, "claims": [{"name": "a"}], "system": "x"}, path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * cut) if isinstance(cut, float) else cut])
    with pytest.raises(Unreadable, match=r"result\.json is truncated or no JSON") as refused:
        read(path)
    assert refused.value.code == "unreadable_result"
    assert refused.value.fix == "run the proof again"


@pytest.mark.parametrize("other", [{"schema": 2, "claims": []}, {"schema": None, "claims": []}, {"claims": []}, {"schema": SCHEMA}, {"schema": SCHEMA, "claims": {}}, [], 7, None])
def test_one_of_another_schema_is_unreadable(tmp_path, other):
    path = tmp_path / "result.json"
    path.write_text(json.dumps(other))
    with pytest.raises(Unreadable, match=f"does not match schema {SCHEMA}"):
        read(path)


def test_a_write_that_fails_leaves_the_old_one(tmp_path):
    path = tmp_path / "result.json"
    write({"schema": SCHEMA, "claims": [], "wall_s": 1}, path)
    with pytest.raises(TypeError):
        write({"schema": SCHEMA, "claims": [], "wall_s": object()}, path)
    assert read(path)["wall_s"] == 1


def test_the_newest_readable_one_is_the_latest(tmp_path, monkeypatch):
    assert latest("nothing") is None
    runs = state_folder() / "runs" / "toy"
    for stamp, text in (("20260101T000000-9", '{"schema": 1, "claims": [], "wall_s": 1}'), ("20260102T000000-8", '{"schema": 1, "claims": [], "wall_s": 2}'),
                        ("20260103T000000-7", '{"schema": 1, "cla')):
        (runs / stamp).mkdir(parents=True)
        (runs / stamp / "result.json").write_text(text)
    (runs / "20260104T000000-6").mkdir()  # a run that is still going on
    assert latest("toy")["wall_s"] == 2


def test_two_runs_within_a_second_have_two_folders():
    assert run_folder("toy") != run_folder("toy")


def test_the_state_folder_is_the_one_that_is_named_else_xdg_else_temporary(tmp_path, monkeypatch):
    assert state_folder() == tmp_path / "buttress-state"
    monkeypatch.delenv("BUTTRESS_STATE")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "xdg"))
    assert state_folder() == tmp_path / "xdg" / "buttress"
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("BUTTRESS_STATE", str(tmp_path / "file" / "below"))
    folder = state_folder()
    assert folder.parent == tmp_path / "machine"
    assert folder.stat().st_mode & 0o077 == 0


# -- figures


def figured(points, **more):
    return Proof("figured", document.Auditor, document.PROOF.subjects, document.PROOF.scenarios, document.PROOF.checkers, document.PROOF.claims, (), document.PROOF.sizes,
                 inputs=document.inputs, figures=(Figure("strip", "strip", "Effects", "over time", points, **more),))


def test_small_figures_travel_as_they_are(prove):
    points = {"good": [[n, n * n] for n in range(100)], "bars": {"a": 1}}
    proof = figured(lambda histories: points)
    result = built(proof, prove(proof))
    assert result["figures_thinned"] is False
    assert result["figures"][0]["points"] == points


def test_large_figures_are_thinned_to_64_kib_and_say_so(prove):
    points = {"good": [[n, n * n] for n in range(50_000)], "few": [1, 2, 3], "name": "x"}
    proof = figured(lambda histories: points)
    result = built(proof, prove(proof))
    assert result["figures_thinned"] is True
    kept = result["figures"][0]["points"]
    assert len(msgspec.json.encode(result["figures"])) <= FIGURES_MAX_BYTES
    assert len(kept["good"]) > 1_000, "no more is dropped than must be"
    assert kept["few"] == [1, 2, 3]
    assert all(point == [point[0], point[0] ** 2] for point in kept["good"])
    steps = {b[0] - a[0] for a, b in zip(kept["good"], kept["good"][1:], strict=False)}
    assert len(steps) == 1, "evenly"


@pytest.mark.parametrize("points", [{f"series {n}": [n] * 60 for n in range(2_000)}, {"text": "x" * 100_000}], ids=["many short lists", "a long text"])
def test_any_figures_fit_into_64_kib(points):
    figures, thinned = module._thin([{"name": "f", "points": points}])
    assert thinned
    assert len(msgspec.json.encode(figures)) <= FIGURES_MAX_BYTES


def test_a_figure_that_throws_is_an_error_and_no_more(prove):
    def broken(histories):
        raise KeyError("no such subject")

    outcome = prove(figured(broken))
    assert outcome.verdict == "pass"
    assert outcome.errors == ["figure strip: KeyError: 'no such subject'"]


# -- stale or not


@pytest.fixture
def house(tmp_path, monkeypatch):
    """A small house: a system that imports one kernel module, which imports a second; a third that nobody imports."""
    root = tmp_path / "buttress"
    for path, text in {
        "kernel/__init__.py": "", "kernel/stats.py": "from buttress.kernel.errors import X\n", "kernel/errors.py": "X = 1\n", "kernel/outbox.py": "Y = 2\n",
        "kernel/store/__init__.py": "", "kernel/store/sqlite.py": "Z = 3\n",
        "data/feeds/__init__.py": "", "data/feeds/engine.py": "from buttress.kernel import stats\nfrom buttress.kernel.store.sqlite import Z\n",
        "data/feeds/schema.sql": "CREATE TABLE t (x)\n", "data/feeds/README.md": "words\n", "data/other/engine.py": "import buttress.kernel.outbox\n", "proof/result.py": "",
    }.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    monkeypatch.setattr(module, "__file__", str(root / "proof" / "result.py"))
    return root


@pytest.mark.parametrize(("path", "stale"), [
    ("data/feeds/engine.py", True), ("data/feeds/schema.sql", True), ("kernel/stats.py", True), ("kernel/errors.py", True), ("kernel/store/sqlite.py", True),
    ("kernel/outbox.py", False), ("data/feeds/README.md", False), ("data/other/engine.py", False), ("proof/result.py", False),
])
def test_a_result_is_stale_when_what_it_rests_on_changes_and_only_then(house, path, stale):
    before = digest(house / "data" / "feeds")
    assert before == digest(house / "data" / "feeds")
    with (house / path).open("a") as changed:
        changed.write("# changed\n" if path.endswith(".py") else "-- changed\n")
    assert (digest(house / "data" / "feeds") != before) is stale


def test_the_digest_knows_names_and_not_only_contents(house):
    before = digest(house / "data" / "feeds")
    (house / "data" / "feeds" / "engine.py").rename(house / "data" / "feeds" / "motor.py")
    assert digest(house / "data" / "feeds") != before


def test_the_digest_is_the_same_wherever_the_house_stands(house, tmp_path, monkeypatch):
    before = digest(house / "data" / "feeds")
    shutil.copytree(house, tmp_path / "elsewhere" / "buttress")
    monkeypatch.setattr(module, "__file__", str(tmp_path / "elsewhere" / "buttress" / "proof" / "result.py"))
    assert digest(tmp_path / "elsewhere" / "buttress" / "data" / "feeds") == before


def test_caches_do_not_make_a_result_stale(house):
    before = digest(house / "data" / "feeds")
    (house / "data" / "feeds" / "__pycache__").mkdir()
    (house / "data" / "feeds" / "__pycache__" / "engine.cpython-311.py").write_text("x")
    assert digest(house / "data" / "feeds") == before


# -- what a run says of itself


def test_faults_are_listed_with_what_was_armed_and_what_hit(prove):
    class Lights:
        name, needs = "lights out", ()

        def cases(self, clean_hits):
            @contextlib.contextmanager
            def during(trial):
                trial.hit = False
                yield
                trial.hit = trial.case.label == "first"

            return [Case("first", during=during), Case("second", during=during)]

    proof = replace(document.PROOF, scenarios=(Scenario("once", document.drive, (Lights(),)),),
                    checkers=(lambda history: {"missed": 0, "invented": 0},), controls=())
    result = built(proof, prove(proof))
    tally = result["faults"]["lights out"]
    assert (tally["armed"], tally["hit"]) == (4, 2)  # two subjects, two cases each
    assert tally["by"] == {"naive": [2, 1], "good": [2, 1]}
    assert result["verdict"] == "unknown"
    assert result["claims"][0]["why"] == "1 armed cases did not hit: once: second"


def test_errors_are_cut_to_a_hundred(prove):
    def drive(trial):
        raise OSError(random.random())

    class Many:
        name, needs = "many", ()

        def cases(self, clean_hits):
            return [Case(str(n)) for n in range(150)]

    def clean_only(trial):
        if trial.case.label != "clean":
            drive(trial)

    proof = Proof("many", document.Auditor, (document.PROOF.subjects[1],), (Scenario("s", clean_only, (Many(),)),), (lambda history: {"m": 0},),
                  (Claim("c", "m", "== 0", "x"),), (Control("c", "good", "m", "== 0", "positive"),), {"quick": None})
    result = built(proof, prove(proof))
    assert len(result["errors"]) == 100
    assert result["subjects"]["good"]["voids"] == 150
    assert result["claims"][0]["why"].startswith("150 trials were void: s · 0: OSError: ")
