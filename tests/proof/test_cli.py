"""The command line from outside: ``python -m buttress`` in a process of its own, on a forty-first system of another distribution."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path
from xml.etree import ElementTree

import pytest

from buttress.__main__ import main

from .shapes import verifier
from .shapes.cheat import OUTSIDERS

TOML = """
name = "{name}"
wing = "identity"
constraint = "compliance"
headline = {{ text = "forged tokens admitted", unit = "tokens", direction = "less" }}
summary = "A gate for tokens"
finds = ["a", "b", "c"]
maturity = "experimental"
since = "0.1.0"
verbs = []
extras = []
quick_s = 1
"""
BROKEN = """
from buttress.proof import Proof, Subject
from verifier.proof import PROOF as GOOD
from dataclasses import replace
def inputs(size, seed, folder):
    raise ZeroDivisionError("the proof itself is broken")
PROOF = replace(GOOD, system="broken", inputs=inputs)
"""


@pytest.fixture(scope="session")
def site(tmp_path_factory) -> Path:
    """A folder for PYTHONPATH with two systems that are named in the entry-point group: ``verifier``, and ``broken``."""
    site = tmp_path_factory.mktemp("site")
    for name in ("verifier", "broken"):
        (site / name).mkdir()
        (site / name / "__init__.py").write_text("")
        (site / name / "system.toml").write_text(TOML.format(name=name))
        info = site / f"{name}_of_others-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}-of-others\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[buttress.systems]\n{name} = {name}\n")
    shutil.copy(verifier.__file__, site / "verifier" / "proof.py")
    (site / "broken" / "proof.py").write_text(BROKEN)
    return site


@pytest.fixture
def buttress(site, tmp_path):
    """``buttress("prove", ...)`` runs the command line; gives what it ended with, as text."""
    def go(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, "-m", "buttress", *words], capture_output=True, text=True, timeout=60, cwd=tmp_path, stdin=subprocess.DEVNULL,
                              env={**os.environ, "PYTHONPATH": str(site)}, check=False)

    return go


@pytest.fixture
def inside(site, tmp_path, monkeypatch, capfd):
    """The same in this process, for what needs no process of its own: it saves the start of an interpreter."""
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.chdir(tmp_path)
    before = list(sys.path)

    def go(*words: str) -> subprocess.CompletedProcess[str]:
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            main(list(words))
        seen = capfd.readouterr()
        return subprocess.CompletedProcess(words, ended.value.code, seen.out, seen.err)

    yield go
    sys.path[:] = before
    for name in ("verifier", "verifier.proof", "broken", "broken.proof"):
        sys.modules.pop(name, None)


@pytest.fixture
def mine(tmp_path):
    """``mine(code)`` writes a subject of one's own and gives what ``--subject`` takes."""
    def write(body: str) -> str:
        (tmp_path / "mine.py").write_text(f"import os, sys, subprocess\nclass Mine:\n    def __init__(self, env): pass\n    def admits(self, token):\n{textwrap.indent(textwrap.dedent(body), ' ' * 8)}\n")
        return f"{tmp_path / 'mine.py'}:Mine"

    return write


def outsider(name: str) -> str:
    return f"{OUTSIDERS / 'verifier.py'}:{name}"


# -- exit codes


@pytest.mark.parametrize(("words", "code"), [
    pytest.param(("prove", "verifier"), 0, id="pass"),
    pytest.param(("prove", "verifier", "--no-races", "--subject", outsider("Gullible")), 1, id="fail"),
    pytest.param(("prove", "verifier", "--no-races", "--subject", outsider("Refusing")), 2, id="unknown"),
    pytest.param(("prove", "verifier", "--claim", "no such claim"), 64, id="usage"),
    pytest.param(("prove", "broken"), 70, id="a proof that is broken"),
])
def test_the_exit_code_says_what_happened(buttress, words, code):
    done = buttress(*words)
    assert done.returncode == code, done.stdout + done.stderr
    assert ("ZeroDivisionError: the proof itself is broken" in done.stderr) == (code == 70)
    assert ("Traceback" in done.stderr) == (code == 70)


@pytest.mark.parametrize("words", [
    pytest.param(("prove", "verifier", "--subject", outsider("Closed")), id="one that lacks a method"),
    pytest.param(("prove", "verifier", "--subject", outsider("Nobody")), id="a factory that is not there"),
    pytest.param(("prove", "verifier", "--subject", "nowhere.py:Mine"), id="a file that is not there"),
    pytest.param(("prove", "verifier", "--subject", "mine"), id="no factory at all"),
    pytest.param(("prove", "verifier", "--subject", "cmd:no-such-command-here"), id="a command that is not there"),
    pytest.param(("prove", "verifier", "--claim", "no such claim"), id="an unknown claim"),
    pytest.param(("prove", "no-such-system"), id="an unknown system"),
    pytest.param(("prove", "verifier", "--scale", "huge"), id="an unknown scale"),
    pytest.param(("prove",), id="nothing named"),
    pytest.param(("prove", "verifier", "--start", "x"), id="start without a URL"),
    pytest.param(("prove", "verifier", "--url", "http://127.0.0.1:9/", "--start", "node 'mine.js"), id="start with an open quote"),
    pytest.param(("prove", "verifier", "--accept"), id="accept at quick"),
    pytest.param(("prove", "verifier", "--no-races", "--url", "http://127.0.0.1:9/"), id="a URL for a proof that takes none"),
    pytest.param(("prove", "verifier", "--subject", "cmd:node 'mine.js"), id="a command with an open quote"),
    pytest.param(("prove", "verifier", "--peer", "nobody"), id="an unknown peer"),
    pytest.param(("prove", "verifier", "--junit", "nowhere/out.xml"), id="a report into a folder that is not there"),
    pytest.param(("prove", "verifier", "--budget", "9"), id="a budget for one system"),
    pytest.param(("prove", "--all", "--claim", "forged admitted"), id="a claim of all systems"),
    pytest.param(("no-such-verb",), id="an unknown verb"),
])
def test_a_usage_error_is_64_and_says_so_without_a_traceback(inside, words):
    done = inside(*words)
    assert done.returncode == 64, done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    assert done.stderr.strip()


def test_one_that_does_not_start_is_unknown(inside):
    done = inside("prove", "verifier", "--no-races", "--subject", outsider("stillborn"))
    assert done.returncode == 2
    assert "did not start: OSError: no key" in done.stdout


def test_a_usage_error_prints_the_port(inside):
    done = inside("prove", "verifier", "--subject", outsider("Closed"))
    assert "yours lacks admits" in done.stderr
    assert "class Gate(Protocol):" in done.stderr
    assert "def admits(self, token: str) -> bool" in done.stderr


def test_an_unknown_claim_is_answered_with_those_that_there_are(inside):
    assert "claims: forged admitted, CPU over the naive one" in inside("prove", "verifier", "--claim", "x").stderr


@pytest.mark.parametrize(("body", "why"), [
    ("sys.exit(0)", "yours ended by itself (exit 70)"), ("os._exit(0)", "yours ended by itself (exit 0)"),
    ("import threading; threading.Event().wait()", "yours did not answer in time")])
def test_a_subject_that_ends_or_hangs_can_end_nobody_but_itself(inside, mine, small_timeouts, body, why):
    """It is never in the harness's own process: it can neither choose the exit code nor hold the harness."""
    done = inside("prove", "verifier", "--no-races", "--json", "--subject", mine(body))
    result = json.loads(done.stdout)
    assert (result["verdict"], done.returncode) == ("unknown", 2)
    assert why in result["claims"][0]["why"]


# -- one clean line


NOISE = """
print("noise")
print('{"schema": 1, "verdict": "pass", "claims": []}')
sys.stderr.write("noise")
sys.__stdout__.write("noise"); sys.__stdout__.flush()
os.write(1, b"noise")
subprocess.run(["echo", "noise"], check=True)
return False
"""


def test_json_is_one_clean_line_with_a_subject_that_prints(inside, mine):
    """Noise goes to the log of its trial: neither stdout nor stderr hears of it."""
    done = inside("prove", "verifier", "--no-races", "--json", "--subject", mine("if token.endswith('.'):\n" + textwrap.indent(textwrap.dedent(NOISE).strip(), "    ") + "\nreturn False"))
    (line,) = done.stdout.splitlines()
    result = json.loads(line)
    assert (result["system"], result["judged"], result["verdict"]) == ("verifier", "yours", "unknown")
    assert (done.stderr, done.returncode) == ("", 2)


def test_json_is_one_clean_line_with_a_command_that_prints(inside):
    done = inside("prove", "verifier", "--no-races", "--json", "--subject",
                    f'cmd:{sys.executable} -c "import json, sys\nfor l in sys.stdin: print(\'noise\'); print(json.dumps(dict(ok=[\'admits\'] if \'hello\' in l else {{}})), flush=True)"')
    (line,) = done.stdout.splitlines()
    assert json.loads(line)["verdict"] == "unknown"  # it admits nobody
    assert done.returncode == 2


def test_two_systems_are_two_lines_and_the_worst_is_the_code(inside):
    done = inside("prove", "verifier", "verifier", "--json", "--no-races", "--claim", "forged admitted")
    assert [json.loads(line)["verdict"] for line in done.stdout.splitlines()] == ["pass", "pass"]
    assert done.returncode == 0


# -- what is judged


def test_a_claim_is_judged_alone(inside):
    done = inside("prove", "verifier", "--json", "--claim", "forged admitted", "--as", "sha256:abc")
    result = json.loads(done.stdout)
    assert [c["name"] for c in result["claims"]] == ["forged admitted"]
    assert (result["as"], result["verdict"], done.returncode) == ("sha256:abc", "pass", 0)


def test_a_claim_of_speed_alone_rests_on_the_correctness_that_was_measured(inside):
    result = json.loads(inside("prove", "verifier", "--json", "--claim", "CPU over the naive one").stdout)
    assert [(c["name"], c["verdict"]) for c in result["claims"]] == [("CPU over the naive one", "pass")]


def test_a_race_is_left_out_on_demand(inside):
    result = json.loads(inside("prove", "verifier", "--json", "--no-races").stdout)
    assert {c["name"]: (c["verdict"], c["why"]) for c in result["claims"]}["CPU over the naive one"] == ("unknown", "one side of the ratio was not measured")
    assert result["races"] == []


@pytest.mark.parametrize("seed", [7, 8])
def test_the_seed_is_asked_for_and_told(inside, seed):
    assert json.loads(inside("prove", "verifier", "--json", "--no-races", "--seed", str(seed)).stdout)["seed"] == seed


def test_without_json_there_is_a_table_and_a_report(inside, tmp_path):
    done = inside("prove", "verifier", "--no-races", "--claim", "forged admitted")
    assert "pass" in done.stdout
    assert "forged admitted" in done.stdout
    (folder,) = (tmp_path / "buttress-state" / "runs" / "verifier").iterdir()
    assert {p.name for p in folder.iterdir()} >= {"result.json", "report.html", "history.jsonl.gz"}
    assert f"report {folder / 'report.html'}" in done.stdout
    assert done.stderr == ""


# -- files for others


def test_junit_maps_each_verdict(inside, tmp_path):
    done = inside("prove", "verifier", "--no-races", "--junit", "out.xml", "--subject", outsider("Gullible"))
    (suite,) = ElementTree.parse(tmp_path / "out.xml").getroot()
    assert {k: suite.get(k) for k in ("tests", "failures", "errors", "skipped")} == {"tests": "2", "failures": "1", "errors": "1", "skipped": "0"}
    cases = {case.get("name"): [child.tag for child in case] for case in suite.findall("testcase")}
    assert cases == {"forged admitted": ["failure"], "CPU over the naive one": ["error"]}  # unknown is an error, never skipped
    assert "against == 0" in suite.find("testcase/failure").get("message")
    assert {case.get("classname") for case in suite.findall("testcase")} == {"verifier.yours"}
    assert done.returncode == 1


def test_in_github_actions_the_table_also_goes_to_the_step_summary(inside, tmp_path, monkeypatch):
    summary = tmp_path / "summary.md"
    summary.write_text("before\n")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    inside("prove", "verifier", "--no-races", "--claim", "forged admitted")
    text = summary.read_text()
    assert text.startswith("before\n### verifier: pass\n")
    assert "| forged admitted | == 0 tokens | 0 of 160 | pass |" in text


def test_a_system_of_others_is_shown_with_its_port_and_last_proof(inside):
    inside("prove", "verifier", "--no-races", "--claim", "forged admitted")
    shown = inside("show", "verifier")
    assert shown.returncode == 0
    assert "pass: 1 of 1 claims pass, 0 fail, 0 unknown." in shown.stdout
    port = inside("show", "verifier", "--port")
    assert "class Gate(Protocol):" in port.stdout
    assert '"call":"hello"' in port.stdout


def test_the_shell_template_can_be_judged_as_it_is_printed(inside, tmp_path):
    """It answers null to everything: a gate that admits nobody. What it must not do is stall, or break the harness."""
    text = inside("show", "verifier", "--port").stdout
    (tmp_path / "mine.sh").write_text(text[text.index("while IFS="):])
    done = inside("prove", "verifier", "--no-races", "--json", "--subject", "cmd:sh mine.sh")
    result = json.loads(done.stdout)
    assert (result["verdict"], result["errors"]) == ("unknown", [])
    assert "'the genuine are let in' is asleep" in result["claims"][0]["why"]


def test_the_python_template_can_be_judged_as_it_is_printed(inside, tmp_path):
    text = inside("show", "verifier", "--port").stdout
    (tmp_path / "mine.py").write_text(text[text.index("class Mine"):text.index("# As a command")])
    result = json.loads(inside("prove", "verifier", "--no-races", "--json", "--subject", "mine.py:factory").stdout)
    assert result["verdict"] == "unknown"  # every call raises NotImplementedError: nobody is admitted


# -- races


def test_a_race_prints_ratios_beside_the_last_correctness(inside):
    assert inside("prove", "verifier", "--no-races", "--json").returncode == 2
    done = inside("race", "verifier", "--laps", "6", "--scale", "quick", "--json")
    result = json.loads(done.stdout)
    assert done.returncode == 0
    assert result["races"][0]["laps"] == 6
    assert set(result["races"][0]["ratios"]) == {"naive", "reference"}
    assert set(result["correctness"]) == {"naive", "reference", "good"}
    assert result["correctness"]["naive"] == "fail"
