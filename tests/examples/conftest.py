"""What the examples' tests share: the command line in this process, the commands of README.md, a Postgres for the shops."""

from __future__ import annotations

import json
import os
import shlex
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from buttress import servers
from buttress.__main__ import main
from buttress.backend.webhooks.proof import PROOF
from buttress.proof import Proof

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples" / "webhooks"
README = ROOT / "examples" / "README.md"

# What judges somebody else's receiver. Ours takes no part in that, and would double the time.
OTHERS = replace(PROOF, subjects=tuple(s for s in PROOF.subjects if s.role == "baseline"))
# As it is, with no baseline beside: what is seen of a cheat needs none.
ALONE = replace(PROOF, subjects=(), controls=tuple(c for c in PROOF.controls if c.subject == "judged"))


def sized(**sizes: int) -> Proof:
    """Its quick scale, with other numbers."""
    return replace(ALONE, sizes={"quick": replace(PROOF.sizes["quick"], **sizes)})


SHORT = sized(events=120, forged=1, replies=2)


@pytest.fixture(autouse=True)
def _place_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the root of the checkout, where README.md's commands are run; state and temporary files are the test's own."""
    own = tmp_path / "tmp"
    own.mkdir()
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(tempfile, "tempdir", str(own))
    monkeypatch.setenv("TMPDIR", str(own))
    monkeypatch.setenv("BUTTRESS_STATE", str(tmp_path / "state"))
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)


@dataclass
class Ran:
    """A run of the command line: exit code, stdout, stderr."""

    code: int
    out: str
    err: str

    @property
    def result(self) -> dict[str, Any]:
        """Stdout was one line of JSON and nothing else."""
        assert self.out.endswith("\n") and self.out.count("\n") == 1, self.out + self.err
        result: dict[str, Any] = json.loads(self.out)
        return result

    def verdicts(self) -> dict[str, str]:
        """Of all claims that were judged."""
        return {c["name"]: c["verdict"] for c in self.result["claims"] if c["verdict"] != "deferred"}

    def claim(self, name: str) -> dict[str, Any]:
        return next(c for c in self.result["claims"] if c["name"] == name)


@pytest.fixture
def buttress(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., Ran]:
    """``buttress(*words, proof=...)``: the command line as it is, with the time that it takes cut down to the subject's own."""

    def run(*words: str, proof: Proof = OTHERS) -> Ran:
        monkeypatch.setattr("buttress.cli.load_proof", lambda found: proof)
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            main(list(words))
        out, err = capfd.readouterr()
        return Ran(int(ended.value.code or 0), out, err)

    return run


def commands() -> dict[str, str]:
    """README.md's shell blocks by the path that the paragraph before names."""
    found: dict[str, str] = {}
    text = README.read_text(encoding="utf-8")
    while "```sh\n" in text:
        before, _, text = text.partition("```sh\n")
        block, _, text = text.partition("```\n")
        name = before.rpartition("**`")[2].partition("`**")[0]
        assert name not in found
        found[name] = block
    return found


def prove_words(name: str, **instead: str) -> list[str]:
    """The words of a block's ``buttress prove``, without the first. ``instead`` replaces what differs on each machine."""
    block = commands()[name]
    words = shlex.split(block[block.index("buttress prove"):].replace("\\\n", ""))[1:]
    for old, new in instead.items():
        assert any(old in word for word in words), f"{name}: nothing says {old}"
        words = [word.replace(old, new) for word in words]
    return words


@pytest.fixture(scope="session")
def postgres() -> Iterator[servers.Postgres]:
    there, reason, provide = servers.server_capability("postgres") or (False, "", "")
    if not there:
        pytest.skip(f"needs postgres: {reason}; {provide}")
    with servers.postgres(durable=False) as server:
        yield server
