"""Virtual time: eight bytes that only the harness writes. A paused process wakes to the present, not to its own past."""

from __future__ import annotations

import time
from typing import Protocol

import pytest

from buttress.kernel.clock import SharedClock, SystemClock
from buttress.proof.contract import Case
from buttress.proof.host import MappedClock
from buttress.proof.process import SubjectPaused
from buttress.proof.trial import EPOCH, VirtualClock

from . import lab


class Watch(Protocol):
    def now(self) -> float: ...
    def step(self, name: str) -> list: ...
    def echo(self, value: object = None) -> object: ...


def test_a_paused_process_wakes_to_the_present(trial_of):
    """Were the time carried in each message, a holder that slept beyond its lease would still believe in it."""
    trial = trial_of(Watch, lab.factory("Echo"), Case("stopped at holding #1", {"holding": (1, "stop")}))
    watch = trial.open()
    assert watch.now() == EPOCH
    with pytest.raises(SubjectPaused):
        watch.step(name="holding")
    trial.clock.advance(3600)
    assert trial.resume() == ["holding", EPOCH + 3600]
    assert watch.now() == EPOCH + 3600
    assert trial.hit


def test_all_processes_and_workers_of_a_trial_share_one_time(trial_of):
    trial = trial_of(Watch, lab.factory("Echo"))
    watches = [trial.open(worker) for worker in range(3)]
    for _ in range(5):
        trial.clock.advance(0.125)
        assert {watch.now() for watch in watches} == {trial.clock.now()}
    assert trial.restart(1).now() == trial.clock.now() == EPOCH + 0.625


def test_time_stands_still_unless_it_is_turned(trial_of):
    watch = trial_of(Watch, lab.factory("Echo")).open()
    assert {watch.now() for _ in range(20)} == {EPOCH}


def test_a_subject_in_this_process_sees_the_same_time(trial_of):
    from .subjects import Echo

    trial = trial_of(Watch, Echo, in_process=True)
    watch = trial.open()
    trial.clock.advance(7 * 24 * 3600)
    assert watch.now() == EPOCH + 7 * 24 * 3600


def test_another_trial_begins_at_the_beginning(trial_of):
    first, second = (trial_of(Watch, lab.factory("Echo")) for _ in range(2))
    first.open()
    first.clock.advance(100)
    assert second.open().now() == EPOCH


def test_a_real_scenario_runs_on_the_machines_clock(trial_of):
    trial = trial_of(Watch, lab.factory("Echo"), virtual=False)
    assert isinstance(trial.clock, SystemClock)
    before = time.time()
    assert before <= trial.open().now() <= time.time()


def test_a_subject_cannot_turn_the_clock(tmp_path):
    shared = VirtualClock(str(tmp_path / "clock"), writable=True, start=EPOCH)
    assert [name for name in dir(MappedClock) if not name.startswith("_")] == ["now"]
    assert MappedClock(str(tmp_path / "clock")).now() == EPOCH
    with pytest.raises(TypeError):
        SharedClock(str(tmp_path / "clock")).set(0.0)
    assert shared.now() == EPOCH
    shared.close()


def test_a_schedule_that_is_late_stays_late(tmp_path):
    clock = VirtualClock(str(tmp_path / "clock"), writable=True, start=EPOCH)
    clock.to(EPOCH + 10)
    clock.to(EPOCH + 5)
    assert clock.now() == EPOCH + 10
    clock.set(EPOCH)  # a step back is made on purpose only
    assert clock.now() == EPOCH
    clock.close()


def test_a_command_in_another_language_maps_the_file(trial_of, tool):
    """Eight bytes, little-endian, seconds since 1970: one line of Node."""
    tool("node")
    script = ("const fs = require('fs'); require('readline').createInterface({input: process.stdin}).on('line', (l) => {"
              "const r = JSON.parse(l); const port = {now: () => fs.readFileSync(process.env.BUTTRESS_CLOCK).readDoubleLE(0), hello: () => ['now', 'step', 'echo']};"
              "console.log(JSON.stringify(port[r.call] ? {ok: port[r.call](), id: r.id} : {err: 'no such call', id: r.id})) })")
    trial = trial_of(Watch, f'cmd:node -e "{script}"')
    watch = trial.open()
    trial.clock.advance(72 * 3600)
    assert watch.now() == EPOCH + 72 * 3600
