from __future__ import annotations

import itertools
import os
import time

import pytest

from buttress.kernel.clock import ManualClock, SharedClock, SystemClock
from buttress.testing import check_clock

START = 1_800_000_000.0


@pytest.fixture
def shared(tmp_path):
    """Makes shared clocks, closed at the end."""
    made, number = [], itertools.count()

    def make():
        made.append(SharedClock(str(tmp_path / f"clock-{next(number)}"), writable=True, start=START))
        return made[-1]

    def reader(clock):
        made.append(SharedClock(clock.path))
        return made[-1]

    make.reader = reader
    yield make
    for clock in made:
        clock.close()


def test_system_clock():
    check_clock(SystemClock)
    before = time.time()
    assert before <= SystemClock().now() <= time.time()


def test_manual_clock():
    check_clock(ManualClock, advance=ManualClock.advance)
    clock = ManualClock(5.0)
    assert clock.now() == 5.0
    clock.set(2.5)
    assert clock.now() == 2.5


def test_shared_clock(shared):
    check_clock(shared, advance=SharedClock.advance, twin=shared.reader)


def test_database_clock(postgres_stores):
    check_clock(lambda: postgres_stores.fresh().clock, twin=lambda clock: postgres_stores.fresh().clock)


def test_the_file_is_a_little_endian_float64(shared):
    clock = shared()
    clock.set(1.5)
    with open(clock.path, "rb") as file:
        assert file.read() == bytes.fromhex("000000000000f83f")
    with open(clock.path, "r+b") as file:  # any language may be the harness
        file.write(bytes.fromhex("0000000000000440"))
    assert clock.now() == 2.5


def test_a_reader_cannot_write(shared):
    clock = shared()
    with pytest.raises(TypeError):
        shared.reader(clock).set(0.0)
    assert clock.now() == START


def test_a_reader_in_another_process_sees_each_turn(shared, fork):
    clock = shared()
    ask, answer = os.pipe()

    def read(tell, _):
        reader = SharedClock(clock.path)
        while os.read(ask, 1):
            tell(reader.now())

    child = fork(read)
    try:
        for expected in (START, START + 0.25, START + 10 * 86_400, 7.0):
            clock.set(expected)
            os.write(answer, b"?")
            assert child.says() == expected
    finally:
        os.close(ask)
        os.close(answer)


def test_a_reader_never_sees_half_a_time(shared, fork):
    clock = shared()
    one, other = START, START + 123_456.789
    clock.set(one)

    def read(tell, _):
        reader = SharedClock(clock.path)
        tell("ready")
        seen = set()
        deadline = time.monotonic() + 5
        changes, last = 0, one
        while changes < 2_000 and len(seen | {one, other}) == 2 and time.monotonic() < deadline:
            now = reader.now()
            seen.add(now)
            changes += now != last
            last = now
        tell([sorted(seen - {one, other}), changes])

    child = fork(read)
    assert child.says() == "ready"
    while child.alive():
        for _ in range(1_000):
            clock.set(other)
            clock.set(one)
    strange, changes = child.says()
    assert strange == [], f"times that nobody set, after {changes} changes"
    assert changes > 0, "the reader never saw the clock move: nothing was tried"
