"""What the proof's tests share: a machine of their own, runs of a proof, single trials, and timeouts that are short."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from buttress.proof import process
from buttress.proof.contract import Case, Proof, Scenario, Subject
from buttress.proof.history import HistoryWriter
from buttress.proof.run import Options, Outcome, run
from buttress.proof.trial import Trial, Warm

settings.register_profile("proof", deadline=None)  # the machine is shared: a slow example is no finding
settings.load_profile("proof")


@pytest.fixture(autouse=True)
def _machine_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Locks, state and temporary files of a test are its own: tests in parallel neither wait for each other nor meet."""
    own = tmp_path / "machine"
    own.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(own))
    monkeypatch.setenv("TMPDIR", str(own))
    monkeypatch.setenv("BUTTRESS_STATE", str(tmp_path / "buttress-state"))
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)
    before = signal.getsignal(signal.SIGTERM)  # the command line takes it for itself
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.fixture
def prove(tmp_path: Path) -> Callable[..., Outcome]:
    """``prove(proof, factory_or_subject)`` runs it into a folder of its own. A factory becomes the subject ``yours``."""
    count = iter(range(1000))

    def go(proof: Proof, yours: str | Subject | None = None, *, by: Callable[..., Outcome] = run, **options: Any) -> Outcome:
        subject = Subject("yours", yours, "yours") if isinstance(yours, str) else yours
        return by(proof, tmp_path / f"run-{next(count)}", replace(Options(subject=subject), **options))

    return go


@pytest.fixture
def small_timeouts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A subject has a second and a half to answer."""
    monkeypatch.setattr(process, "CALL_TIMEOUT_S", 1.5)
    monkeypatch.setattr(process, "START_TIMEOUT_S", 5.0)


@pytest.fixture
def served(tmp_path: Path) -> Iterator[str]:
    """The URL of a site that runs already: the page from outside, started by nobody but this test."""
    document = tmp_path / "site"
    document.mkdir()
    argv = [sys.executable, str(Path(__file__).parent / "shapes" / "outsiders" / "page.py"), "0", str(document)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as service:
        try:
            assert service.stdout is not None
            yield service.stdout.readline().strip()
        finally:
            service.kill()


@pytest.fixture
def trial_of(tmp_path: Path) -> Iterator[Callable[..., Trial]]:
    """``trial_of(port, factory)`` gives a single Trial, finished with the test; its records are in ``trial.records()``."""
    folder = tmp_path / "trials"
    folder.mkdir()
    writer, warm, made = HistoryWriter(folder / "history.jsonl.gz"), Warm(folder / "fork-server.log"), []

    def make(port: type, factory: Any, case: Case = Case("clean"), *, in_process: bool = False, trace: str = "",
             size: Any = None, seed: int = 7, virtual: bool = True, from_url: Any = None, subject: Subject | None = None) -> Trial:
        subject = subject or Subject("subject", factory, "buttress")
        proof = Proof("fixture", port, (subject,), (), (), (), (), {}, from_url=from_url)
        scenario = Scenario("scenario", lambda _: None, virtual=virtual, processes=not in_process)
        trial = Trial(proof, subject, scenario, case, number=len(made) + 1, size=size, seed=seed, folder=folder / f"trial-{len(made) + 1}",
                      writer=writer, warm=warm, inputs={}, in_process=in_process, trace=trace)
        made.append(trial)
        return trial

    make.history = folder / "history.jsonl.gz"  # type: ignore[attr-defined]
    make.writer = writer  # type: ignore[attr-defined]
    yield make
    for trial in made:
        trial.finish()
    warm.close()
    writer.close()


@pytest.fixture
def tool() -> Callable[[str], str]:
    """The path of a tool that must be there, else the test is skipped with its name."""
    def find(name: str) -> str:
        path = shutil.which(name)
        if path is None:
            pytest.skip(f"needs {name} on the PATH")
        return path

    return find
