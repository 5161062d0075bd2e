"""The shops and the receiver in Go, started, killed and started again as they ship, by the commands that README.md prints."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from xml.etree import ElementTree

import pytest

from buttress.servers.process import free_port

from .conftest import ALONE, EXAMPLES, ROOT, SHORT, prove_words

SHOWN = ("effects doubled or lost when nothing breaks", "effects doubled or lost under one fault each",
         "orders in a wrong final state", "forged or stale deliveries acted on")
DAYS = "effects doubled or lost over 72 hours and day 10"


@pytest.mark.xdist_group("examples-postgres")
@pytest.mark.parametrize(("shop", "needs"), [("webhooks/shop_fastapi", ("fastapi", "sqlalchemy", "uvicorn")), ("webhooks/shop_django", ("django", "uvicorn"))])
def test_a_shop_passes_what_a_service_can_show(shop, needs, buttress, postgres, monkeypatch):
    for module in needs:
        pytest.importorskip(module, reason=f"needs {module}: pip install {module}")
    with postgres.database() as url:
        monkeypatch.setenv("DATABASE_URL", url)
        ran = buttress(*prove_words(shop, **{"8000": str(free_port())}), "--json", proof=ALONE)
    assert ran.verdicts() == {DAYS: "unknown", **dict.fromkeys(SHOWN, "pass")}, ran.result["claims"]
    assert ran.claim(DAYS)["why"] == "needs virtual: a service keeps the machine's time"
    assert ran.code == 2  # without --claim: what could not be shown counts
    kills = ran.result["faults"]["kill -9"]["by"]["yours"]
    assert kills == [4, 4]  # evenly spread over the deliveries: at quick a service is not killed after every one


@pytest.fixture(scope="module")
def go_receiver(tmp_path_factory):
    """Built as README.md builds it."""
    if shutil.which("go") is None:
        pytest.skip("needs go: apt-get install golang-go")
    binary = tmp_path_factory.mktemp("go") / "receiver"
    done = subprocess.run(["go", "build", "-o", str(binary), "."], cwd=EXAMPLES / "go", capture_output=True, text=True, timeout=170, check=False,
                          env={**os.environ, "GOTOOLCHAIN": "local", "GOFLAGS": "-mod=mod", "GOPROXY": "off"})
    assert done.returncode == 0, done.stderr
    return binary


def test_a_pipeline_gates_the_receiver_in_go(buttress, go_receiver, tmp_path):
    """A claim is a testcase of the JUnit file; the gate is what the claims named in the recipe say."""
    words = prove_words("webhooks/go", **{"8000": str(free_port()), "examples/webhooks/go/receiver": str(go_receiver),
                                          "webhooks.xml": str(tmp_path / "webhooks.xml"), "$(git rev-parse --short HEAD)": "of this commit"})
    ran = buttress(*words, "--json", proof=ALONE)
    assert ran.verdicts() == dict.fromkeys(SHOWN, "pass"), ran.result["claims"]
    assert (ran.code, ran.result["as"]) == (0, "of this commit")
    (suite,) = ElementTree.parse(tmp_path / "webhooks.xml").getroot()
    assert {key: suite.get(key) for key in ("tests", "failures", "errors", "skipped")} == {"tests": "4", "failures": "0", "errors": "0", "skipped": "0"}
    cases = suite.findall("testcase")
    assert {case.get("name") for case in cases} == set(SHOWN)
    assert all(len(case) == 0 for case in cases)


def test_a_pipeline_stops_a_service_that_does_things_twice(buttress, tmp_path):
    """The same gate, and a receiver that acts in the request and remembers nothing."""
    port, junit = free_port(), tmp_path / "webhooks.xml"
    start = f"{sys.executable} {ROOT}/tests/examples/cheats/acts_in_the_request.py {port} {{orders}} {{emails}} {{credits}}"
    ran = buttress("prove", "webhooks", "--start", start, "--url", f"http://127.0.0.1:{port}/webhooks", *(w for c in SHOWN for w in ("--claim", c)),
                   "--junit", str(junit), "--json", proof=SHORT)
    assert (ran.code, ran.claim(SHOWN[0])["verdict"]) == (1, "fail"), ran.result["claims"]
    (suite,) = ElementTree.parse(junit).getroot()
    failed = {case.get("name"): case.find("failure") for case in suite.findall("testcase")}
    assert failed[SHOWN[0]] is not None and "against == 0" in failed[SHOWN[0]].get("message", "")


def test_a_service_that_does_not_start_is_unknown_and_shows_its_log(buttress, tmp_path):
    ran = buttress("prove", "webhooks", "--start", f"{sys.executable} -m no_such_shop", "--url", f"http://127.0.0.1:{free_port()}/webhooks",
                   "--claim", SHOWN[0], "--junit", str(tmp_path / "webhooks.xml"), "--json", proof=SHORT)
    assert (ran.code, ran.verdicts()) == (2, {SHOWN[0]: "unknown"})
    assert "No module named no_such_shop" in ran.claim(SHOWN[0])["why"]
    (suite,) = ElementTree.parse(tmp_path / "webhooks.xml").getroot()
    assert suite.get("errors") == "1"
