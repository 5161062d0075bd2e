"""Receivers that look right are judged wrong, each by the claim that is about its flaw; stdout stays one line of JSON."""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from buttress.proof import Proof

from .conftest import ALONE, SHORT

CHEATS = Path(__file__).with_name("cheats")
CLEAN = "effects doubled or lost when nothing breaks"
DAYS = "effects doubled or lost over 72 hours and day 10"
FAULT = "effects doubled or lost under one fault each"
STATES = "orders in a wrong final state"
FORGED = "forged or stale deliveries acted on"


@dataclass(frozen=True)
class Cheat:
    """``fails``: the claims that see through it. ``holds``: those that must still pass, so that nothing else gave it away."""

    subject: str
    fails: tuple[str, ...]
    holds: tuple[str, ...] = ()
    proof: Proof = SHORT


def python(name: str) -> str:
    return f"{CHEATS}/cheats.py:{name}"


CAUGHT = {
    "acks and does nothing": Cheat(f"cmd:sh {CHEATS}/acks.sh", (CLEAN, DAYS, FAULT, STATES, FORGED)),
    "acks before it stores": Cheat(python("AcksBeforeStoring"), (FAULT,), (CLEAN, DAYS, FORGED), ALONE),
    "says 200 before it refuses": Cheat(f"cmd:python {CHEATS}/answers_ahead.py", (CLEAN, DAYS, STATES)),
    "admits everybody": Cheat(python("AdmitsEverybody"), (FORGED,), (CLEAN, DAYS, FAULT, STATES)),
    "answers 200 to the forged": Cheat(python("AnswersEverybody"), (FORGED,), (CLEAN, DAYS, FAULT, STATES)),
    "remembers an earlier trial": Cheat(python("RemembersElsewhere"), (CLEAN, FAULT, STATES)),
    "checks, then acts": Cheat(python("ChecksThenActs"), (CLEAN, DAYS), (FORGED,)),
    "forgets after 47 hours": Cheat(python("ForgetsAfter47Hours"), (DAYS,), (FAULT, STATES, FORGED)),
    "takes orders as they come": Cheat(python("TakesOrdersAsTheyCome"), (STATES,), (CLEAN, DAYS, FAULT, FORGED)),
    "names effects after events": Cheat(python("NamesEffectsAfterEvents"), (CLEAN, DAYS), (STATES, FORGED)),
    "sends again in doubt": Cheat(python("SendsAgainInDoubt"), (FAULT,), (CLEAN, DAYS, STATES, FORGED)),
}


@pytest.mark.parametrize("cheat", CAUGHT.values(), ids=CAUGHT)
def test_a_cheat_is_caught_by_the_claim_that_is_about_it(cheat, buttress):
    ran = buttress("prove", "webhooks", "--subject", cheat.subject, "--json", proof=cheat.proof)
    found = {c["name"]: (c["verdict"], c["why"]) for c in ran.result["claims"]}
    assert {name: found[name][0] for name in (*cheat.fails, *cheat.holds)} == {
        **dict.fromkeys(cheat.fails, "fail"), **dict.fromkeys(cheat.holds, "pass")}, found
    assert all(re.fullmatch(r"[1-9]\d* against == 0", found[name][1]) for name in cheat.fails), found
    assert (ran.code, ran.result["verdict"]) == (1, "fail")


def test_one_that_dies_in_its_factory_is_unknown_and_says_why(buttress):
    ran = buttress("prove", "webhooks", "--subject", python("dies"), "--json", proof=SHORT)
    assert set(ran.verdicts().values()) == {"unknown"}
    assert all("did not start: OSError: no room for a receiver" in c["why"] for c in ran.result["claims"] if c["verdict"] != "deferred")
    assert (ran.code, ran.result["verdict"]) == (2, "unknown")


def test_one_that_lacks_a_method_is_a_usage_error_that_prints_the_port(buttress):
    ran = buttress("prove", "webhooks", "--subject", python("LacksWork"), "--json", proof=SHORT)
    assert (ran.code, ran.result["verdict"], ran.result["claims"]) == (64, "unknown", [])
    assert ran.result["error"]["message"] == "yours lacks work"
    assert "yours lacks work" in ran.err
    assert "class Receiver(Protocol)" in ran.err and "def work(self)" in ran.err


def test_noise_on_stdout_is_neither_an_answer_nor_in_the_result(buttress):
    if shutil.which("node") is None:
        pytest.skip("needs node: apt-get install nodejs")
    ran = buttress("prove", "webhooks", "--subject", f"cmd:node {CHEATS}/prints_garbage.js", "--json", proof=SHORT)
    assert set(ran.verdicts().values()) == {"pass"}, ran.result["claims"]
    assert ran.code == 0
