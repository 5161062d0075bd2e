"""A claim that even a perfect subject could not pass is no claim; a level of maturity above its evidence is no promise."""

from __future__ import annotations

import string

import pytest

from buttress.cli import load_proof
from buttress.proof import result as results
from buttress.proof.contract import calls_of
from buttress.proof.verdict import Bar, judge

from .checkout import ROOT

ANYWHERE = {"crash", "pause", "virtual", "failpoints"}  # what every POSIX machine can do: quick may rest on it


@pytest.fixture
def proof(system):
    return load_proof(system)


def test_the_proof_is_of_this_system(system, proof):
    assert proof.system == system.name
    assert {"quick", "full"} <= set(proof.sizes)
    assert 1 <= len(calls_of(proof.port)) <= 5, "a port has at most five methods"
    assert len({type(size) for size in proof.sizes.values()}) == 1


def test_a_perfect_subject_passes_every_claim_at_each_scale_where_it_is_judged(proof):
    hopeless = {}
    for claim in proof.claims:
        if claim.speed or claim.over is not None:
            continue  # how fast a perfect subject is depends on the machine
        if claim.perfect is None:
            hopeless[claim.name] = "has no perfect=: what would a perfect subject measure, at a given size?"
            continue
        for scale in ("quick", "full") if claim.scale == "quick" else ("full",):
            verdict, why = judge(claim.perfect(proof.sizes[scale]), claim.bar)
            if verdict != "pass":
                hopeless[f"{claim.name}, {scale}"] = f"{verdict}: {why}"
    assert hopeless == {}, "defer it to full (scale='full'), or give it a bar that can be reached"


def test_names_tell_claims_apart(proof):
    for parts in (proof.claims, proof.controls, proof.subjects, proof.races, proof.figures):
        names = [part.name for part in parts]
        assert sorted(set(names)) == sorted(names), "a name stands for one claim: --claim, JUnit and the verdicts go by it"


def test_bars_are_bars(proof):
    for part in (*proof.claims, *proof.controls):
        Bar.parse(part.bar)


def test_what_claims_and_controls_name_is_there(proof):
    subjects, claims = {subject.name for subject in proof.subjects}, {claim.name for claim in proof.claims}
    assert {control.subject for control in proof.controls} <= subjects | {"judged"}
    assert {name for control in proof.controls for name in control.guards} <= claims
    assert {claim.over for claim in proof.claims if claim.over} <= subjects
    assert {claim.about for claim in proof.claims if claim.about} <= subjects
    assert {name for race in proof.races for name in (*race.subjects, *race.factories)} <= subjects


def test_the_way_that_broke_is_among_the_subjects_and_a_control_shows_it(proof):
    roles = {subject.name: subject.role for subject in proof.subjects}
    assert "baseline" in roles.values()
    assert "buttress" in roles.values()
    assert any(control.kind == "negative" and control.scale == "quick" for control in proof.controls)


def test_quick_rests_on_nothing_that_a_fresh_machine_lacks(proof):
    """No claim or control of quick needs a server, a browser, a peer or another language."""
    subjects = {subject.name: subject for subject in proof.subjects}
    wrong = {}
    for subject in proof.subjects:
        if subject.scale == "quick" and (set(subject.needs) or subject.parts or subject.role == "peer"):
            wrong[subject.name] = f"is a subject of quick and needs {[*subject.needs, *subject.parts] or 'a peer'}"
    for claim in proof.claims:
        if claim.scale == "quick":
            used = [name for name in (claim.over, claim.about) if name]
            if set(claim.needs) - ANYWHERE or any(subjects[name].scale == "full" for name in used):
                wrong[claim.name] = f"is a claim of quick and rests on {[*claim.needs, *used]}"
    for control in proof.controls:
        if control.scale == "quick" and control.subject != "judged" and subjects[control.subject].scale == "full":
            wrong[control.name] = f"is a control of quick and rests on {control.subject}"
    assert wrong == {}


def test_each_outcome_has_a_sentence_of_its_own(proof):
    """A finding is chosen by the verdicts, never typed; its words are filled with measures."""
    assert set(proof.findings) == {"pass", "fail", "unknown"}
    assert len(set(proof.findings.values())) == 3
    for sentence in proof.findings.values():
        assert all(name != "" for _, name, _, _ in string.Formatter().parse(sentence))
        assert sentence.endswith(".")


def test_maturity_is_not_above_its_evidence(system):
    """DESIGN, Promises: beta was accepted at full, raced, and adopted from the built wheel (``test_wheel.py`` does that for all)."""
    assert system.maturity in ("experimental", "beta"), "stable needs users outside: nobody in this house can say that"
    if system.maturity == "beta":
        result = results.read(ROOT / "proofs" / f"{system.name}.json")
        assert result["scale"] == "full"
        race = results.read(ROOT / "proofs" / f"{system.name}.race.json")
        assert race["races"]
