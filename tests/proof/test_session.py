"""Several systems in one go: exit codes, stdout that is ours alone, budgets, and what may be accepted."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from buttress import index
from buttress.__main__ import main
from buttress.kernel.errors import MissingExtra
from buttress.proof import session
from buttress.proof.contract import Subject
from buttress.proof.faults import capability
from buttress.proof.junit import write_junit
from buttress.proof.process import UsageError
from buttress.proof.run import Options
from buttress.proof.session import Job, max_exit, own_stdout, prove_all, prove_some

from .shapes import detector, document
from .shapes.cheat import python


def judge(jobs, **how):
    given = {"scale": "quick", "seed": 7, "subject": None, "claims": (), "peers": None, "races": True, "label": "", "accept": False, "world_port": None,
             "as_json": True, "junit": None, "command": "", "probe": capability}
    return prove_some([Job(proof, Path(session.__file__).parent, "experimental") for proof in jobs], **{**given, **how})


# -- exit codes


@pytest.mark.parametrize(("verdicts", "code"), [
    ([], 0), (["pass"], 0), (["pass", "pass"], 0), (["pass", "unknown"], 2), (["unknown", "fail", "pass"], 1), (["fail"], 1), (["unknown"], 2)])
def test_the_worst_verdict_is_the_code(verdicts, code):
    assert max_exit(verdicts) == code


@pytest.mark.parametrize(("cheat", "code"), [(None, 0), ("Suspicious", 1), ("Malformed", 2)])
def test_the_code_is_that_of_the_judged_subject(capfd, cheat, code):
    subject = Subject("yours", python("document.py", cheat), "yours") if cheat else None
    assert judge([document.PROOF], subject=subject) == code
    assert capfd.readouterr().out.count("\n") == 1


def test_one_that_lacks_a_method_ends_the_session_and_gives_stdout_back(capfd):
    with pytest.raises(UsageError):
        judge([document.PROOF], subject=Subject("yours", python("document.py", "Blank"), "yours"))
    print("stdout is there again")
    line, rest = capfd.readouterr().out.splitlines()
    assert rest == "stdout is there again"
    told = json.loads(line)
    assert (told["system"], told["verdict"], told["claims"], told["error"]["code"]) == ("document", "unknown", [], "usage")
    assert "lacks findings" in told["error"]["message"]


def test_several_systems_are_several_lines(capfd):
    assert judge([document.PROOF, detector.PROOF]) == 0
    assert [re.search(r'"system":"(\w+)"', line)[1] for line in capfd.readouterr().out.splitlines()] == ["document", "detector"]


# -- stdout


def test_stdout_is_ours_alone_whoever_prints(capfd):
    with own_stdout() as out:
        print("a subject")
        os.write(1, b"its descriptor\n")
        subprocess.run([sys.executable, "-c", "print('its child')"], check=True)
        sys.__stdout__.write("its old stdout\n")
        sys.__stdout__.flush()
        out.write("ours\n")
        out.flush()
    print("afterwards")
    seen = capfd.readouterr()
    assert seen.out == "ours\nafterwards\n"
    assert {"a subject", "its descriptor", "its child", "its old stdout"} <= set(seen.err.splitlines())


def test_stdout_comes_back_when_something_raises(capfd):
    with pytest.raises(OSError), own_stdout():
        raise OSError
    print("there")
    assert capfd.readouterr().out == "there\n"


# -- all


def test_all_of_no_systems_is_no_failure(capfd, monkeypatch, tmp_path):
    assert prove_all([], scale="quick", seed=7, budget_s=None, as_json=False, junit=tmp_path / "out.xml") == 0
    assert "no system was run" in capfd.readouterr().out
    assert list(ElementTree.parse(tmp_path / "out.xml").getroot()) == []
    monkeypatch.setattr(index, "ROOT", tmp_path / "no systems here")
    with pytest.raises(SystemExit) as ended:
        main(["prove", "--all"])
    assert ended.value.code == 0


def found(name, *verdicts, why="3 against == 0"):
    claims = [{"name": f"c{n}", "verdict": v, "why": "" if v == "pass" else why, "value": None, "unit": "x", "bar": "== 0", "subject": "ours", "interval": None, "n": None,
               "over": None, "measure": "m"} for n, v in enumerate(verdicts)]
    worst = "fail" if "fail" in verdicts else "unknown" if "unknown" in verdicts else "pass"
    return {"system": name, "verdict": worst, "claims": claims, "finding": "", "subjects": {"ours": {"role": "buttress", "measures": {}, "verdicts": {}, "absent": ""}},
            "judged": "ours", "faults": {}, "controls": [], "scale": "quick", "seed": 7, "trials": 1, "wall_s": 1.0, "environment": {}, "deferred": []}


@pytest.fixture
def children(monkeypatch):
    """Results for the child processes of ``--all``, by system; None where one breaks."""
    results = {}
    ran = []

    def child(name, scale, seed):
        ran.append(name)
        return results[name]

    monkeypatch.setattr(session, "_child", child)
    results["ran"] = ran
    return results


def everything(results, **how):
    plan = [(name, 1.0, "experimental") for name in results if name != "ran"]
    return prove_all(plan, **{"scale": "quick", "seed": 7, "budget_s": None, "as_json": True, "junit": None, **how})


@pytest.mark.parametrize(("verdicts", "why", "code"), [
    (("pass",), "", 0), (("fail",), "", 1), (("unknown",), "more samples", 2),
    (("unknown",), "needs redis: no server here; apt-get install redis", 0), (("unknown",), "powertools did not run: needs redis: none", 0),
    (("unknown",), "the control 'x' is asleep: powertools did not run: needs redis: none", 0), (("unknown",), "it needs more samples", 2),
    pytest.param(("unknown",), "needs crash: no case of it could be armed", 2),
    (("pass", "deferred"), "", 0),
])
def test_all_forgives_what_this_machine_lacks_and_nothing_else(children, capfd, verdicts, why, code):
    children["a"] = found("a", *verdicts, why=why)
    assert everything(children) == code


def test_all_with_one_that_broke_is_70_and_the_others_are_told(children, capfd):
    children["a"], children["b"] = None, found("b", "fail")
    assert everything(children) == 70
    out = capfd.readouterr().out
    assert "a: the harness broke" in out
    assert '"system":"b"' in out


def test_all_with_one_that_never_ends_is_70_and_the_others_are_told(monkeypatch, capfd):
    def child(argv, **_):
        if "endless" in argv:
            raise subprocess.TimeoutExpired(argv, 7200)
        return subprocess.CompletedProcess(argv, 1, json.dumps(found(argv[4], "fail")), "")

    monkeypatch.setattr(session.subprocess, "run", child)
    assert everything({"endless": None, "b": None}) == 70
    out = capfd.readouterr().out
    assert "endless: the harness broke" in out
    assert '"system":"b"' in out


def test_all_is_cheapest_first_and_what_does_not_fit_is_not_run(children, capfd, tmp_path):
    for name in ("slow", "quick", "huge"):
        children[name] = found(name, "pass")
    plan = [("slow", 50.0, "experimental"), ("quick", 1.0, "experimental"), ("huge", 5000.0, "experimental")]
    assert prove_all(plan, scale="quick", seed=7, budget_s=100, as_json=False, junit=None) == 0
    assert sorted(children["ran"]) == ["quick", "slow"]
    assert children["ran"][0] == "quick"
    out = capfd.readouterr().out
    assert "not run  huge  buttress prove huge --scale quick" in out
    assert "2 pass, 1 not run" in out


def test_all_without_a_budget_left_runs_nothing_and_fails_nothing(children, capfd):
    children["a"] = found("a", "fail")
    assert everything(children, budget_s=0) == 0
    assert children["ran"] == []


def test_all_names_the_report_of_each(children, capfd, tmp_path):
    children["a"] = found("a", "pass")
    everything(children, as_json=False)
    assert "report report.html" not in capfd.readouterr().out


# -- accepting


@pytest.mark.parametrize(("scale", "subject", "text"), [
    ("quick", None, "--accept goes with --scale full"), ("full", Subject("yours", "x:y", "yours"), "nothing of yours is committed")])
def test_only_ours_at_full_may_be_accepted(scale, subject, text):
    with pytest.raises(UsageError, match=text):
        session.check_acceptable(scale, Path("/a/b/c/d/e"), subject)


def test_only_a_clean_checkout_accepts(tmp_path):
    folder = tmp_path / "src" / "buttress" / "data" / "feeds"
    folder.mkdir(parents=True)
    with pytest.raises(UsageError, match="needs a checkout"):
        session.check_acceptable("full", folder, None)
    (tmp_path / "pyproject.toml").write_text("")
    with pytest.raises(UsageError, match="needs a clean tree"):  # no repository at all
        session.check_acceptable("full", folder, None)
    for words in (["init", "-q"], ["add", "."], ["-c", "user.name=x", "-c", "user.email=x@example.test", "commit", "-qm", "x"]):
        subprocess.run(["git", "-C", str(tmp_path), *words], check=True, capture_output=True)
    session.check_acceptable("full", folder, None)
    assert session.accept_result({"system": "feeds", "schema": 1, "claims": []}, folder) == "proofs/feeds.json"
    assert (tmp_path / "proofs" / "feeds.json").is_file()
    with pytest.raises(UsageError, match="needs a clean tree"):
        session.check_acceptable("full", folder, None)


# -- JUnit


def test_junit_says_failure_error_or_skipped(tmp_path):
    write_junit([found("a", "pass", "fail", "unknown", "deferred", "not run"), found("b", "pass")], tmp_path / "out.xml")
    first, second = ElementTree.parse(tmp_path / "out.xml").getroot()
    assert [[child.tag for child in case] for case in first.findall("testcase")] == [[], ["failure"], ["error"], ["skipped"], ["skipped"]]
    assert {k: first.get(k) for k in ("tests", "failures", "errors", "skipped")} == {"tests": "5", "failures": "1", "errors": "1", "skipped": "2"}
    assert first.findall("testcase")[3][0].get("message") == "buttress prove a --scale full"
    assert second.get("failures") == second.get("errors") == "0"


def test_junit_is_well_formed_whatever_a_why_holds(tmp_path):
    result = found("a", "fail", why='<&"\'> ä \u2028')
    write_junit([result], tmp_path / "out.xml")
    assert '<&"\'> ä' in ElementTree.parse(tmp_path / "out.xml").getroot().find("testsuite/testcase/failure").get("message")


def test_junit_is_well_formed_with_the_bytes_of_a_subject(tmp_path):
    write_junit([found("a", "fail", why="yours ended by itself (exit 1): \x1b[31mred\x00")], tmp_path / "out.xml")
    ElementTree.parse(tmp_path / "out.xml")


def test_junit_says_what_was_judged(tmp_path):
    write_junit([found("a", "pass") | {"as": "sha256:9f8e", "seed": 9}], tmp_path / "out.xml")
    properties = {p.get("name"): p.get("value") for p in ElementTree.parse(tmp_path / "out.xml").iter("property")}
    assert properties == {"as": "sha256:9f8e", "judged": "ours", "scale": "quick", "seed": "9"}


# -- the rest of main


@pytest.mark.parametrize(("error", "code"), [
    (UsageError("no"), 64), (MissingExtra("numpy", "columns"), 64), (KeyboardInterrupt(), 130), (BrokenPipeError(), 0), (RuntimeError("no"), 70), (MemoryError(), 70)])
def test_what_escapes_becomes_a_code(monkeypatch, error, code):
    def raising(*_, **__):
        raise error

    monkeypatch.setattr(session, "prove_all", raising)
    monkeypatch.setattr(index, "systems", lambda **_: [])
    with pytest.raises(SystemExit) as ended:
        main(["prove", "--all"])
    assert ended.value.code == code


def test_options_have_the_defaults_that_the_design_names():
    assert (Options().scale, Options().races, Options().claims, Options().subject) == ("quick", True, (), None)
