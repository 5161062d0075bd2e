"""A power cut at writes and syncs of the inbox: what was acknowledged is on the disk. The same without its sync is found out."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from buttress.backend.webhooks.proof import PROOF, checkers
from buttress.backend.webhooks.proof.scenarios import crash_points
from buttress.proof import Scenario, Subject
from buttress.proof.faults import PowerCut
from buttress.proof.run import Options, run

UNSYNCED = """
from buttress.backend.webhooks.proof.subjects import Ours
from buttress.kernel.store.sqlite import SqliteStore


class Unsynced(SqliteStore):
    def _connection(self):
        connection = super()._connection()
        if not connection.in_transaction:
            connection.execute("PRAGMA synchronous=OFF")
        return connection


def factory(env):
    return Ours(env, Unsynced(env.dir + "/inbox.db", clock=env.clock))
"""


def cut(tmp_path: Path, subject: Subject, tears: tuple[str, ...], at_most: int):
    if shutil.which("strace") is None:
        pytest.skip("needs strace: apt-get install strace")
    proof = replace(PROOF, subjects=(subject,), controls=(), races=(), figures=(), claims=tuple(c for c in PROOF.claims if c.measure == "wrong_under_faults" and not c.about),
                    scenarios=lambda size: (Scenario(checkers.CRASH, crash_points, (PowerCut(at_most=at_most, tears=tears),), processes=True),))
    outcome = run(proof, tmp_path / "run", Options(seed=7))
    assert outcome.errors == []
    assert outcome.faults["power cut"]["armed"] == outcome.faults["power cut"]["hit"] > 0
    (claim,) = outcome.claims
    return claim.verdict


def test_what_was_acknowledged_survives_a_power_cut(tmp_path):
    ours = next(subject for subject in PROOF.subjects if subject.name == "buttress")
    assert cut(tmp_path, ours, ("nothing", "random"), 2) == "pass"


def test_without_the_sync_it_does_not(tmp_path):
    (tmp_path / "unsynced.py").write_text(UNSYNCED)
    assert cut(tmp_path, Subject("unsynced", f"{tmp_path / 'unsynced.py'}:factory", "buttress"), ("nothing",), 3) == "fail"
