from __future__ import annotations

import importlib.util
import os
import signal
import threading

import pytest

from buttress.kernel import failpoint as module
from buttress.kernel.errors import ButtressError
from buttress.kernel.failpoint import FailpointError, arm, failpoint, hits


def test_disarmed_it_does_nothing_and_counts_nothing():
    arm(None)
    for _ in range(3):
        failpoint("step")
    assert hits == {}


def test_an_empty_plan_counts_and_harms_nobody():
    arm({})
    for name in ("one", "two", "one"):
        failpoint(name)
    assert hits == {"one": 2, "two": 1}


def test_arming_starts_the_count_again():
    arm({})
    failpoint("step")
    arm({})
    assert hits == {}
    failpoint("step")
    assert hits == {"step": 1}
    arm(None)
    failpoint("step")
    assert hits == {}


def test_error_comes_at_its_hit_and_no_other():
    arm({"step": (2, "error")})
    failpoint("step")
    failpoint("other")
    with pytest.raises(FailpointError, match="step") as seen:
        failpoint("step")
    assert isinstance(seen.value, ButtressError)
    assert seen.value.code == "failpoint"
    failpoint("step")
    assert hits == {"step": 3, "other": 1}


def test_hits_are_counted_over_all_threads():
    arm({})
    start = threading.Barrier(4)

    def run():
        start.wait(10)
        for _ in range(500):
            failpoint("step")

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert hits == {"step": 2_000}


def test_kill_leaves_its_mark_and_then_the_process_is_gone(fork):
    def work(tell, fd):
        arm({"effect": (2, "kill")}, mark_fd=fd)
        failpoint("effect")
        tell("after the first")
        failpoint("effect")
        tell("after the second")

    child = fork(work)
    assert child.says() == "after the first"
    assert child.says() == {"hit": "effect", "n": 2, "action": "kill"}
    assert child.says() is None
    assert child.ends() == -signal.SIGKILL


def test_a_failpoint_that_was_not_reached_leaves_no_mark(fork):
    def work(tell, fd):
        arm({"effect": (3, "kill")}, mark_fd=fd)
        failpoint("effect")
        failpoint("effect")

    child = fork(work)
    assert child.says() is None
    assert child.ends() == 0


def test_stop_leaves_its_mark_and_waits_to_be_resumed(fork):
    def work(tell, fd):
        arm({"effect": (1, "stop")}, mark_fd=fd)
        failpoint("effect")
        tell("resumed")

    child = fork(work)
    assert child.says() == {"hit": "effect", "n": 1, "action": "stop"}
    child.stops()
    child.resume()
    assert child.says() == "resumed"
    assert child.ends() == 0


def test_kill_cannot_be_caught(fork):
    def work(tell, fd):
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
        arm({"effect": (1, "kill")}, mark_fd=fd)
        try:
            failpoint("effect")
        except BaseException:
            tell("caught")
        finally:
            tell("cleaned up")

    child = fork(work)
    assert child.says()["hit"] == "effect"
    assert child.says() is None
    assert child.ends() == -signal.SIGKILL


def test_nothing_in_the_environment_arms_anything(monkeypatch):
    """The module is loaded anew with an environment that reports whoever looks into it."""

    class Trap(dict):
        def __getitem__(self, name):
            raise AssertionError(f"failpoint read the environment: {name}")

        get = __contains__ = __iter__ = keys = items = values = __getitem__

    spec = importlib.util.spec_from_file_location("failpoint_again", module.__file__)
    again = importlib.util.module_from_spec(spec)
    trap = Trap()
    with pytest.raises(AssertionError, match="read the environment"):
        trap.get("BUTTRESS_FAILPOINT")
    with monkeypatch.context() as patch:
        for name in ("environ", "environb"):
            patch.setattr(os, name, trap)
        spec.loader.exec_module(again)
        again.failpoint("effect")
    assert again.hits == {}
    assert again._plan is None
