"""A power cut: what a disk may hold, that a recording is the folder itself, and that each way to be not durable is found."""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Protocol

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from buttress.kernel.errors import ButtressError, InvalidInput
from buttress.proof.contract import Claim, Proof, Scenario, Subject
from buttress.proof.faults import PowerCut
from buttress.proof.faults.disk import TEARS, TRACED, Disk, Recording, folder_files
from buttress.proof.process import SubjectDied
from buttress.proof.verdict import count

LEDGERS = Path(__file__).with_name("ledgers.py")
RNG = random.Random(7)


def cuts(disk: Disk, n: int = 40) -> list[dict[str, bytes]]:
    return [disk.after_cut(tear, random.Random(seed)) for tear in TEARS for seed in range(n)]


# -- the model


def test_what_was_synced_is_there_and_what_was_not_may_be():
    disk = Disk.of({"log": b""})
    disk.append("log", b"a" * 600)
    disk.sync("log")
    disk.append("log", b"b" * 600)
    found = {after["log"] for after in cuts(disk)}
    assert all(data.startswith(b"a" * 600) for data in found)
    assert {b"a" * 600, b"a" * 600 + b"b" * 600} < found, "nothing, all, and something between"
    assert disk.read("log") == b"a" * 600 + b"b" * 600


def test_sectors_are_whole_or_not_there():
    disk = Disk.of({"data": bytes(2048)})
    disk.write("data", 100, b"x" * 1500)
    for after in cuts(disk):
        assert len(after["data"]) == 2048
        for start, end in ((100, 512), (512, 1024), (1024, 1536), (1536, 1600)):
            assert after["data"][start:end] in (bytes(end - start), b"x" * (end - start))
    assert len({after["data"] for after in cuts(disk)}) > 8


def test_later_writes_may_survive_earlier_ones():
    disk = Disk.of({"data": bytes(1024)})
    disk.write("data", 0, b"1" * 512)
    disk.write("data", 512, b"2" * 512)
    assert bytes(512) + b"2" * 512 in {after["data"] for after in cuts(disk)}


def test_a_name_is_durable_only_with_its_directory():
    disk = Disk.of({})
    disk.create("deep/new")
    disk.append("deep/new", b"bytes")
    disk.sync("deep/new")
    assert {"deep/new" in after for after in cuts(disk)} == {True, False}
    disk.sync("")
    assert {"deep/new" in after for after in cuts(disk)} == {True, False}, "another directory does not help"
    disk.sync("deep")
    assert all(after == {"deep/new": b"bytes"} for after in cuts(disk))


def test_a_rename_leaves_the_old_or_the_new_and_never_none():
    disk = Disk.of({"book": b"old", "book.new": b"new"})
    disk.rename("book.new", "book")
    found = [after["book"] for after in cuts(disk)]
    assert set(found) == {b"old", b"new"}
    assert all(after.get("book.new", b"new") == b"new" for after in cuts(disk))


def test_a_deleted_file_may_come_back():
    disk = Disk.of({"gone": b"x"})
    disk.unlink("gone")
    assert {"gone" in after for after in cuts(disk)} == {True, False}
    disk.sync("")
    assert not any("gone" in after for after in cuts(disk))


def test_a_sync_covers_what_came_before_it_began():
    disk = Disk.of({"log": b""})
    disk.append("log", b"before")
    mark = disk.mark()
    disk.append("log", b"during")
    disk.sync("log", mark)
    assert disk.unsynced == 1
    assert {after["log"] for after in cuts(disk)} == {b"before", b"beforeduring"}


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["write", "append", "truncate", "sync"]), st.integers(0, 1500), st.binary(max_size=700)), max_size=12))
def test_no_cut_loses_what_a_sync_covered_and_full_power_keeps_all(steps):
    """Beside a plain bytearray: what the program reads, and what was last synced where nothing came after it."""
    disk, plain, synced, clean = Disk.of({"f": b""}), bytearray(), b"", True
    for what, at, data in steps:
        if what == "write" and data:
            disk.write("f", at, data)
            plain.extend(bytes(max(0, at - len(plain))))
            plain[at : at + len(data)] = data
        elif what == "append" and data:
            disk.append("f", data)
            plain += data
        elif what == "truncate":
            disk.truncate("f", at)
            plain = bytearray(bytes(plain[:at]).ljust(at, b"\0"))
        elif what == "sync":
            disk.sync("f")
            synced = bytes(plain)
        clean = what == "sync" or (clean and not data and what != "truncate")
    assert disk.read("f") == plain
    assert disk.size("f") == len(plain)
    assert disk.after_cut("nothing", RNG) == {"f": synced}
    assert disk.after_cut("everything", RNG) == {"f": bytes(plain)}
    if clean:
        assert all(after == {"f": synced} for after in cuts(disk, 3))


@pytest.mark.parametrize("size", [0, 1024, 513])
def test_a_sector_has_one_of_two_sizes(size):
    with pytest.raises(InvalidInput):
        Disk(size)


# -- recordings


def strace() -> str:
    found = shutil.which("strace")
    if found is None:
        pytest.skip("needs strace: apt-get install strace")
    return found


PROGRAMS = {
    "appends": "f = open('d/log', 'ab'); [f.write(b'line %d' % n) and f.flush() for n in range(5)]",
    "positions": "f = open('d/f', 'w+b', 0); f.write(b'abcdef'); f.seek(2); f.write(b'X'); f.seek(0, 2); f.write(b'end'); f.truncate(4); os.pwrite(f.fileno(), b'PP', 9)",
    "names": "open('d/a', 'w').write('1'); os.rename('d/a', 'd/b'); open('d/c', 'w').write('2'); os.unlink('d/c'); os.mkdir('d/e'); open('d/e/f', 'w').write('3')",
    "replaces": "open('d/old', 'w').write('new'); os.replace('d/old', 'd/kept')",
    "vectors": "fd = os.open('d/v', os.O_CREAT | os.O_WRONLY); os.writev(fd, [b'one', b'two']); os.pwritev(fd, [b'3', b'4'], 10)",
    "directory descriptors": "dd = os.open('d', os.O_RDONLY); fd = os.open('x', os.O_CREAT | os.O_WRONLY, dir_fd=dd); os.write(fd, b'x'); os.rename('x', 'y', src_dir_fd=dd, dst_dir_fd=dd)",
    "threads": "import threading\nf = open('d/t', 'ab', 0)\nts = [threading.Thread(target=lambda: [(f.write(b'x' * 100), os.fsync(f.fileno())) for _ in range(20)]) for _ in range(3)]\n"
               "[t.start() for t in ts]; [t.join() for t in ts]",
    "children": "f = open('d/p', 'ab', 0)\nif os.fork() == 0: f.write(b'child'); os._exit(0)\nos.wait(); f.write(b'parent')",
    "odd names": "open('d/é \"x\\n', 'w').write('odd')",
    "sqlite": "import sqlite3\nc = sqlite3.connect('d/s.db', isolation_level=None); c.execute('PRAGMA journal_mode=DELETE'); c.execute('CREATE TABLE t (x)')\n"
              "[c.execute('INSERT INTO t VALUES (?)', ('y' * 3000,)) for _ in range(9)]; c.execute('DELETE FROM t'); c.execute('VACUUM')",
}


def recorded(tmp_path: Path, code: str, before: dict[str, str] | None = None) -> tuple[Recording, Path]:
    folder = tmp_path / "d"
    folder.mkdir()
    for name, text in (before or {}).items():
        (folder / name).write_text(text)
    held = folder_files(folder)
    log = tmp_path / "log"
    subprocess.run([strace(), "-f", "-qq", "-y", "-xx", "-s", "1000000", "-o", str(log), "-e", f"trace={TRACED}", sys.executable, "-c", f"import os\n{code}"],
                   cwd=tmp_path, check=True, timeout=60)
    return Recording(str(folder), held, cwd=str(tmp_path)).replay(log), folder


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_recording_is_the_folder_itself(tmp_path, program):
    recording, folder = recorded(tmp_path, PROGRAMS[program], {"kept": "before"})
    assert recording.disk.files() == folder_files(folder)


def test_what_cannot_be_seen_is_said(tmp_path):
    with pytest.raises(ButtressError, match="copy_file_range"):
        recorded(tmp_path, "a = open('d/a', 'w+b', 0); a.write(b'x'); b = open('d/b', 'wb', 0); os.copy_file_range(a.fileno(), b.fileno(), 1, 0)")


# -- as a fault


class Book(Protocol):
    def put(self, entry: str) -> bool: ...
    def entries(self) -> list[str]: ...


def drive(trial):
    """Five entries, one after the other; after a death the restarted ledger is asked at once, and goes on."""
    trial.open()
    acknowledged = []
    for number in range(5):
        try:
            trial._opened[0].put(entry=f"e{number}")
            acknowledged.append(f"e{number}")
        except SubjectDied:
            trial.restart()
            trial.record("fact", at=number, lost=[e for e in acknowledged if e not in trial.surely(lambda port: port.entries())])
    found = trial.surely(lambda port: port.entries())
    trial.record("fact", at=5, lost=[e for e in acknowledged if e not in found])


def lost(history):
    facts = list(history.where(kind="fact"))
    return {"lost": count(sum(len(fact["lost"]) for fact in facts), 5 * len(facts))}


def judged(prove, name, at_most, tears=TEARS):
    strace()
    fault = PowerCut(at_most=at_most, tears=tears)
    return prove(Proof(system="ledgers", port=Book, subjects=(Subject("ours", f"{LEDGERS}:{name}", "buttress"),),
                       scenarios=(Scenario("five entries", drive, (fault,), processes=True),), checkers=(lost,), controls=(),
                       claims=(Claim("acknowledged entries lost", "lost", "== 0", "entries"),), sizes={"quick": None, "full": None}))


@pytest.mark.parametrize("name", ["Ledger", "Appends", "Sqlite", "SqliteDelete"])
def test_a_durable_ledger_loses_nothing(prove, name):
    outcome = judged(prove, name, at_most=4)
    assert outcome.errors == []
    assert outcome.faults["power cut"]["armed"] == outcome.faults["power cut"]["hit"] >= 28
    assert outcome.claims[0].verdict == "pass"


@pytest.mark.parametrize("name", ["NoSync", "NoDirectory", "NoFile", "RenamesFirst", "AcknowledgesFirst", "SqliteNormal", "SqliteOff",
                                  "SqliteDeleteFull"])
def test_each_way_to_be_not_durable_is_found(prove, name):
    outcome = judged(prove, name, 8, ("nothing",) if name != "RenamesFirst" else ("everything", "random", "last torn"))
    assert outcome.claims[0].verdict == "fail", (outcome.claims[0].why, outcome.errors[:2])


def test_without_a_cut_even_those_pass(prove):
    """The control: a kill alone loses nothing of what was written, synced or not."""
    from buttress.proof.faults import CrashAtCall

    strace()
    outcome = prove(Proof(system="ledgers", port=Book, subjects=(Subject("ours", f"{LEDGERS}:NoSync", "buttress"),),
                          scenarios=(Scenario("five entries", drive, (CrashAtCall("write", 6),), processes=True),), checkers=(lost,), controls=(),
                          claims=(Claim("acknowledged entries lost", "lost", "== 0", "entries"),), sizes={"quick": None, "full": None}))
    assert outcome.claims[0].verdict == "pass"
