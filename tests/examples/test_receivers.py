"""The two outsiders pass the proof of webhooks by the commands that README.md prints."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import pytest

from .conftest import ROOT, prove_words


def test_the_receiver_in_python_passes(buttress):
    ran = buttress(*prove_words("webhooks/receiver.py"), "--json")
    assert set(ran.verdicts().values()) == {"pass"}, ran.result["claims"]
    assert ran.code == 0
    assert all(control["awake"] for control in ran.result["controls"])
    assert all(fault["armed"] == fault["hit"] > 0 for fault in ran.result["faults"].values())


def test_the_receiver_in_node_passes_as_anybody_would_run_it():
    """The whole proof in a process of its own, ours and the baselines beside."""
    if shutil.which("node") is None:
        pytest.skip("needs node: apt-get install nodejs")
    words = prove_words("webhooks/receiver.js")
    done = subprocess.run([sys.executable, "-m", "buttress", *words, "--json"], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (line,) = done.stdout.splitlines()
    result = json.loads(line)
    assert (result["judged"], result["verdict"]) == ("yours", "pass")
    assert result["subjects"]["yours"]["measures"]


@pytest.mark.parametrize("name", ["receiver.py", "receiver.js"])
def test_a_receiver_knows_nothing_of_buttress(name):
    code = (ROOT / "examples" / "webhooks" / name).read_text(encoding="utf-8").lower()
    assert "import buttress" not in code
    assert "from buttress" not in code
