"""A lap of the race counts only if what was acknowledged is there."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

pytest.importorskip("uvicorn")
pytest.importorskip("uvloop")
pytest.importorskip("httptools")

from buttress.backend.webhooks import world
from buttress.backend.webhooks.proof import racing
from buttress.kernel.clock import SystemClock

EVENTS = 60


@pytest.fixture
def served(tmp_path):
    return racing.serve_buttress(SimpleNamespace(dir=str(tmp_path), world={"secret": world.SECRET}, clock=SystemClock(), seed=1, worker=0))


@pytest.fixture
def trial():
    return SimpleNamespace(url="", size=SimpleNamespace(lap_events=EVENTS), cpu_s=lambda: 0.0)


def test_as_many_are_stored_as_were_acknowledged(served, trial):
    assert served.done() == 0
    for lap in (1, 2):
        measures = racing.lap(trial, served)
        assert set(measures) == {"events_per_s", "ack_p99_ms", "cpu_us_per_event"}
        assert served.done() == lap * EVENTS


def test_one_that_acknowledges_what_it_does_not_keep_is_out(served, trial):
    class Forgetful:
        serve = served.serve

        def done(self):
            return served.done() // 2

    with pytest.raises(ValueError, match=f"{EVENTS} events were acknowledged, and {EVENTS // 2} are there"):
        racing.lap(trial, Forgetful())


def test_a_stranger_at_a_url_is_not_asked(served, trial):
    class Silent:
        def done(self):
            raise AssertionError("not asked")

    trial.url = served.serve()
    assert racing.lap(trial, Silent())["events_per_s"] > 0
