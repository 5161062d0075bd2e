"""Flash: what an operation does, what a cut leaves of it, and a bench that finds the ways to swap a page that break."""

from __future__ import annotations

import random

import pytest

from buttress.kernel.errors import InvalidInput
from buttress.proof.faults.flash import TEARS, Flash, FlashError, Geometry, PowerLost, every_cut

SMALL = Geometry(4 * 64, 64, 8)


def test_an_erase_sets_all_bits_and_a_write_only_clears_them():
    flash = Flash(SMALL, strict=False)
    flash.write(8, b"\x0f" * 8)
    flash.write(8, b"\xf3" * 8)
    assert flash.read(0, 24) == b"\xff" * 8 + b"\x03" * 8 + b"\xff" * 8
    flash.erase(0)
    assert flash.read(0, 64) == b"\xff" * 64
    assert flash.wear == {0: 1}
    assert flash.operations == 3


@pytest.mark.parametrize("call", [
    lambda flash: flash.write(4, b"x" * 8), lambda flash: flash.write(8, b"x" * 7), lambda flash: flash.write(0, b""), lambda flash: flash.write(256, b"x" * 8),
    lambda flash: flash.erase(8), lambda flash: flash.erase(256), lambda flash: flash.read(250, 8), lambda flash: (flash.write(0, b"x" * 8), flash.write(0, b"x" * 8))])
def test_what_the_part_refuses_changes_nothing(call):
    flash = Flash(SMALL)
    with pytest.raises(FlashError):
        call(flash)
    assert flash.data[8:] == b"\xff" * 248


def test_a_bad_sector_does_not_erase_and_says_so():
    flash = Flash(SMALL, bad_sectors=frozenset({1}))
    flash.write(64, bytes(64))
    with pytest.raises(FlashError, match="sector 1"):
        flash.erase(64)
    assert flash.data[64:128] != b"\xff" * 64
    flash.erase(0)


@pytest.mark.parametrize(("tear", "left"), [("nothing", b"\xff" * 32), ("first half", bytes(16) + b"\xff" * 16), ("all but the last word", bytes(24) + b"\xff" * 8)])
def test_a_torn_write(tear, left):
    flash = Flash(SMALL, cut_at=1, tear=tear)
    with pytest.raises(PowerLost):
        flash.write(0, bytes(32))
    assert flash.powered().read(0, 32) == left


def test_random_bits_are_neither_old_nor_new_and_read_as_either():
    flash = Flash(SMALL, cut_at=1, tear="random bits", rng=random.Random(3))
    with pytest.raises(PowerLost):
        flash.write(0, bytes(32))
    again = flash.powered()
    assert 0 < sum(byte.bit_count() for byte in again.data[:32]) < 256
    assert len({again.read(0, 32) for _ in range(50)}) > 1, "read disturb"
    again.erase(0)
    assert {again.read(0, 32) for _ in range(50)} == {b"\xff" * 32}


def test_a_torn_erase_must_be_erased_again():
    flash = Flash(SMALL)
    flash.write(0, bytes(64))
    torn = flash.powered(1, "first half")
    with pytest.raises(PowerLost):
        torn.erase(0)
    after = torn.powered()
    for at in (0, 56):  # also where it reads as erased: how well it was nobody knows
        with pytest.raises(FlashError):
            after.write(at, bytes(8))
    after.erase(0)
    after.write(56, bytes(8))


@pytest.mark.parametrize("fields", [{"size": 100}, {"size": 128, "write_bytes": 3}, {"size": 128, "sector_bytes": 12}])
def test_a_geometry_that_makes_no_sense_is_refused(fields):
    with pytest.raises(InvalidInput):
        Geometry(**{"sector_bytes": 64, **fields})


# -- a bench: two pages, of which the newer valid one counts


def crc(data: bytes) -> int:
    import zlib

    return zlib.crc32(data)


def newest(flash: Flash) -> bytes | None:
    """The value of the newest page whose check holds."""
    found = []
    for page in (0, 64):
        head, body = flash.read(page, 8), flash.read(page + 8, 8)
        if int.from_bytes(head[4:], "big") == crc(head[:4] + body):
            found.append((int.from_bytes(head[:4], "big"), body))
    return max(found)[1] if found else None


def store(flash: Flash, value: bytes, *, erase_first: bool = False, same_page: bool = False, head_first: bool = False, unchecked: bool = False) -> None:
    numbers = {}
    for page in (0, 64):
        head, body = flash.read(page, 8), flash.read(page + 8, 8)
        if int.from_bytes(head[4:], "big") == crc(head[:4] + body):
            numbers[page] = int.from_bytes(head[:4], "big")
    current = max(numbers, key=numbers.get, default=64)
    page = current if same_page else 64 - current
    number = (max(numbers.values(), default=0) + 1).to_bytes(4, "big")
    if erase_first:
        flash.erase(current)
    flash.erase(page)
    parts = [(page + 8, value), (page, number + crc(number + (bytes(8) if unchecked else value)).to_bytes(4, "big"))]
    for at, part in reversed(parts) if head_first else parts:
        flash.write(at, part)


def started() -> Flash:
    flash = Flash(SMALL, rng=random.Random(5))
    store(flash, b"value  1")
    return flash


def verdicts(**how) -> set[bytes | None]:
    def program(flash):
        store(flash, b"value  2", **how)

    def recover(flash):
        value = newest(flash)
        store(flash, b"value  2", **how)
        after = newest(flash)
        return value if after == b"value  2" else after

    return {cut.outcome for cut in every_cut(started(), program, recover)}


def test_the_right_one_survives_every_cut_twice():
    """No cut operation is ever whole, so the old value stands until the store was done again in peace."""
    assert verdicts() == {b"value  1"}


@pytest.mark.parametrize("how", [{"erase_first": True}, {"same_page": True}])
def test_each_planted_bug_is_found(how):
    assert None in verdicts(**how)


def test_each_operation_and_each_tear_is_cut_once_and_again():
    cuts = list(every_cut(started(), lambda flash: store(flash, b"value  2"), lambda flash: store(flash, b"value  2")))
    assert {(cut.first, cut.tear) for cut in cuts if not cut.second} == {(n, tear) for n in (1, 2, 3) for tear in TEARS}
    assert len([cut for cut in cuts if cut.second]) == 12 * 12
    sampled = list(every_cut(started(), lambda flash: store(flash, b"value  2"), lambda flash: store(flash, b"value  2"), keep=lambda number: number % 10 == 0))
    assert len([cut for cut in sampled if cut.second]) == 14
