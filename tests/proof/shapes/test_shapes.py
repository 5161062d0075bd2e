"""Seven shapes of proof. Ours passes, the case's bad one fails, and each cheat is caught by the rule that is named for it.

A cheat's rule is not taken on trust: its run is judged again with that one rule deleted, and the verdict must be another.
"""

from __future__ import annotations

import re
import sys

import pytest

from buttress.proof import Subject, run, verdict
from buttress.proof.host import load_factory
from buttress.proof.process import UsageError
from buttress.proof.templates import port_text

from .. import rules
from . import batch, document
from .cheat import python
from .roster import SHAPES


def runs_with_cheats():
    """Cheats that one run tells of come together."""
    for name, shape in SHAPES.items():
        runs = {}
        for cheat in shape.cheats:
            runs.setdefault((cheat.factory, id(cheat.proof), cheat.probe), []).append(cheat)
        for cheats in runs.values():
            label = f"{name}: {' / '.join(cheat.name for cheat in cheats)}"
            yield pytest.param(shape, cheats, id=label)


each_shape = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)


@each_shape
def test_ours_passes_and_the_bad_one_fails(shape, prove):
    outcome = prove(shape.proof)
    assert outcome.errors == []
    assert outcome.verdict == "pass", [(c.claim.name, c.verdict, c.why) for c in outcome.claims]
    assert all(state.awake for state in outcome.controls)
    assert {name: f["armed"] for name, f in outcome.faults.items()} == {name: f["hit"] for name, f in outcome.faults.items()}
    bad = {judged.claim.name: judged.verdict for judged in outcome.others[shape.bad]}
    assert bad[shape.fails] == "fail"


@pytest.mark.parametrize(("shape", "cheats"), list(runs_with_cheats()))
def test_a_cheat_is_caught_by_its_rule(shape, cheats, prove, tool, request):
    first = cheats[0]
    if first.tool:
        tool(first.tool)
    if first.slow:
        request.getfixturevalue("small_timeouts")
    proof = first.proof or shape.proof
    factory = request.getfixturevalue("served") if first.factory == "served" else first.factory or None
    outcome = prove(proof, factory, probe=first.probe)
    for cheat in cheats:
        caught(cheat, outcome, lambda by: prove(proof, factory, by=by))


def caught(cheat, outcome, again):
    judged = next(judged for judged in outcome.claims if judged.claim.name == cheat.claim)
    assert (judged.verdict, bool(re.search(cheat.why, judged.why))) == (cheat.verdict, True), (judged.verdict, judged.why, outcome.errors)
    if cheat.rule != "deferred":
        assert outcome.verdict in ("fail", "unknown")
    if cheat.rule in rules.rules(verdict):
        without = rules.rejudge(rules.without_rule(cheat.rule), outcome)[cheat.claim]
        assert (without.verdict, without.why) != (judged.verdict, judged.why), f"it is judged the same without the rule {cheat.rule!r}"
    elif cheat.rule in rules.rules(run):
        with pytest.raises(TypeError if "TypeError" in cheat.why else ValueError):
            again(rules.without_rule(cheat.rule, run).run)
    else:
        assert cheat.rule in ("nothing was tried", "not measured")


@pytest.mark.parametrize(("shape", "stranger"), [
    pytest.param(shape, stranger, id=f"{name}: {stranger.name}") for name, shape in SHAPES.items() for stranger in shape.strangers])
def test_a_good_stranger_passes(shape, stranger, prove, tool):
    if stranger.tool:
        tool(stranger.tool)
    outcome = prove(shape.proof, stranger.factory)
    assert outcome.errors == []
    assert (outcome.judged, outcome.verdict) == ("yours", "pass"), [(c.claim.name, c.verdict, c.why) for c in outcome.claims]


@each_shape
def test_one_that_lacks_a_method_is_a_usage_error_that_prints_the_port(shape, prove):
    with pytest.raises(UsageError) as refused:
        prove(shape.proof, shape.lacks)
    assert refused.value.message == f"yours lacks {shape.without}"
    assert f"class {shape.proof.port.__name__}(Protocol)" in refused.value.fix
    assert f"def {shape.without}(self" in refused.value.fix


@each_shape
def test_a_perfect_subject_can_pass_each_claim_at_each_scale(shape):
    for claim in shape.proof.claims:
        for scale, size in shape.proof.sizes.items():
            if claim.perfect is not None and (claim.scale, scale) != ("full", "quick"):
                assert verdict.judge(claim.perfect(size), claim.bar) == ("pass", ""), (claim.name, scale)


@each_shape
def test_the_port_is_printed_with_templates_that_name_every_method(shape):
    text = port_text(shape.proof)
    assert f"class {shape.proof.port.__name__}(Protocol)" in text
    assert text.count(f"def {shape.without}(self") == 2  # the Protocol, and the template in Python
    assert f'"call":"{shape.without}"' in text


@each_shape
def test_a_factory_that_is_not_there_is_a_usage_error(shape, prove):
    with pytest.raises(UsageError, match=r"could not be imported: .*AttributeError: .* has no attribute 'nobody'"):
        prove(shape.proof, shape.lacks.rpartition(":")[0] + ":nobody")


def test_every_rule_of_the_verdict_catches_somebody():
    caught = {cheat.rule for shape in SHAPES.values() for cheat in shape.cheats}
    assert {*rules.rules(verdict), *rules.rules(run)} <= caught


def test_every_shape_has_its_cheats():
    for name, shape in SHAPES.items():
        assert len(shape.cheats) >= 4, name
        assert isinstance(shape.proof.subjects[0], Subject)
        assert shape.proof.subjects[0].name == shape.bad


def test_what_it_remembers_of_another_run_is_wrong_in_this_one(prove):
    """The answer by the document's name: right in the run that it comes from, wrong with another seed."""
    remembering = python("document.py", "Remembering")
    assert prove(document.PROOF, remembering, seed=7).verdict == "pass"
    outcome = prove(document.PROOF, remembering, seed=8)
    assert {c.claim.name: (c.verdict, "against == 0" in c.why) for c in outcome.claims} == {"missed": ("fail", True), "invented": ("fail", True)}


def test_what_a_module_remembers_of_another_trial_is_gone_in_a_process_and_wrong_in_this_one(prove, monkeypatch):
    """A factory by its name has a process for each trial, forked after the import. A callable keeps its memory through all of them."""
    keeping = python("batch.py", "Keeping")
    assert prove(batch.PROOF, keeping).verdict == "pass"
    monkeypatch.setattr(sys, "path", list(sys.path))
    outcome = prove(batch.PROOF, Subject("yours", load_factory(keeping), "yours"))
    assert (outcome.claims[0].claim.name, outcome.claims[0].verdict) == ("wrong rows", "fail")
