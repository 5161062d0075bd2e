"""The two outsiders pass the proof of webhooks by the commands that README.md prints."""

from __future__ import annotations

import shutil

import pytest

from .conftest import EXAMPLES, prove_words


@pytest.mark.parametrize(("name", "tool"), [("receiver.py", ""), ("receiver.js", "node")])
def test_an_outsider_passes(name, tool, buttress):
    if tool and shutil.which(tool) is None:
        pytest.skip(f"needs {tool}: apt-get install nodejs")
    ran = buttress(*prove_words(f"webhooks/{name}"), "--json")
    assert set(ran.verdicts().values()) == {"pass"}, ran.result["claims"]
    assert (ran.code, ran.result["judged"], ran.result["verdict"]) == (0, "yours", "pass")
    assert all(control["awake"] for control in ran.result["controls"])
    assert all(armed == hit > 0 for fault in ran.result["faults"].values() for armed, hit in [fault["by"].get("yours", (1, 1))])


@pytest.mark.parametrize("name", ["receiver.py", "receiver.js"])
def test_an_outsider_knows_nothing_of_buttress(name):
    code = (EXAMPLES / name).read_text(encoding="utf-8").lower()
    assert "import buttress" not in code
    assert "from buttress" not in code
