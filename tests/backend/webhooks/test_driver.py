"""The loop that adopters run: it works until it is told to stop, is woken, and outlives what ails the store."""

from __future__ import annotations

import threading
from datetime import timedelta

import pytest

from buttress.backend.webhooks import driver, keyed
from buttress.kernel.errors import InvalidInput, Unavailable

WAIT_S = 20.0
NEVER_S = 3600.0  # a poll that no test waits for


@pytest.fixture
def inbox(sqlite_stores, make_inbox, counter):
    made = make_inbox(sqlite_stores.open())
    made.email, made.sent = counter(), threading.Event()

    def send(effect):
        answer = made.email.send(effect)
        made.sent.set()
        return answer

    made.callee("email", keyed(send))
    made.on("invoice.paid")(lambda event, ctx: ctx.effect("email"))
    return made


@pytest.fixture
def running():
    """``running(loop, **arguments)`` in a thread: (stop, wake, thread). All are stopped at the end."""
    started = []

    def run(loop, **arguments):
        stop, wake = threading.Event(), threading.Event()
        thread = threading.Thread(target=loop, args=(stop, wake), kwargs=arguments)
        started.append((stop, wake, thread))
        thread.start()
        return started[-1]

    yield run
    for stop, wake, thread in started:
        stop.set()
        wake.set()
        thread.join(WAIT_S)
        assert not thread.is_alive()


def test_run_handles_events_and_sends_effects_when_it_is_woken(inbox, sender, running):
    _, wake, _ = running(inbox.run, poll_s=NEVER_S)
    sender.send(inbox, "evt_1")
    wake.set()
    assert inbox.sent.wait(WAIT_S)
    assert inbox.email.keys == ["default/evt_1:email"]


def test_run_finds_by_its_poll_what_another_process_stored(inbox, sender, running):
    running(inbox.run, poll_s=0.01)
    sender.send(inbox, "evt_1")
    assert inbox.sent.wait(WAIT_S)


def test_run_effects_sends_and_handles_nothing(inbox, sender, running):
    sender.send(inbox, "evt_1")
    inbox.work_events()
    sender.send(inbox, "evt_2")
    running(inbox.run_effects, poll_s=0.01)
    assert inbox.sent.wait(WAIT_S)
    assert [inbox.find(ident)[0].state for ident in ("evt_1", "evt_2")] == ["done", "received"]


def test_stop_ends_it_at_once_when_it_is_woken(inbox, running):
    stop, wake, thread = running(inbox.run, poll_s=NEVER_S)
    stop.set()
    wake.set()
    thread.join(WAIT_S)
    assert not thread.is_alive()


def test_stop_before_the_start_does_nothing(inbox, sender):
    sender.send(inbox, "evt_1")
    stop = threading.Event()
    stop.set()
    inbox.run(stop)
    assert inbox.find("evt_1")[0].state == "received"


@pytest.mark.parametrize("error", [Unavailable("busy"), OSError("gone"), SystemExit(3)], ids=repr)
def test_an_error_is_logged_and_tried_again(inbox, sender, running, caplog, error):
    work, failures = inbox.work_events, [error] * 3

    def sometimes(limit):
        if failures:
            raise failures.pop()
        return work(limit)

    inbox.work_events = sometimes
    sender.send(inbox, "evt_1")
    running(inbox.run, poll_s=0.001)
    assert inbox.sent.wait(WAIT_S)
    records = [record for record in caplog.records if record.message == "work was interrupted"]
    assert [(record.endpoint, record.reason) for record in records] == [("default", type(error).__name__)] * 3


def test_events_that_fail_do_not_keep_effects_waiting(inbox, sender, running):
    sender.send(inbox, "evt_1")
    inbox.work_events()

    def broken(limit):
        raise Unavailable("busy")

    inbox.work_events = broken
    running(inbox.run, poll_s=0.001)
    assert inbox.sent.wait(WAIT_S)


def test_bodies_are_retired_in_passing(inbox, sender, clock, monkeypatch):
    monkeypatch.setattr(driver, "RETIRE_EVERY_S", -1.0)
    inbox.retention = timedelta(0)
    sender.send(inbox, "evt_1")
    inbox.work()
    clock.advance(1)
    stop, retire = threading.Event(), inbox.retire

    def once():
        stop.set()
        return retire()

    inbox.retire = once
    inbox.run(stop, poll_s=0.001)
    assert not inbox.find("evt_1")[0].kept


@pytest.mark.parametrize("arguments", [{"poll_s": 0}, {"poll_s": float("nan")}, {"poll_s": 3601}, {"limit": 0}], ids=repr)
def test_arguments_are_checked_at_once(inbox, arguments):
    with pytest.raises(InvalidInput):
        inbox.run(threading.Event(), **arguments)
