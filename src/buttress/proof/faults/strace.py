"""What strace wrote of a subject: how many calls of a kind it made, and whether one of them was its last."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

SYNC_CALLS = "fsync,fdatasync"
WRITE_CALLS = "write,pwrite64,pwritev,writev"


def most_calls(folder: Path, names: Sequence[str]) -> int:
    """The highest count of those system calls in any one thread: strace counts ``when=`` by thread."""
    counts: dict[tuple[str, str], int] = {}
    for file in folder.glob("strace.*"):
        for line in file.read_text(errors="replace").splitlines():
            pid, _, rest = line.partition(" ")
            name = rest.strip().split("(", 1)[0]
            if name in names:
                counts[pid, name] = counts.get((pid, name), 0) + 1
    by_thread: dict[str, int] = {}
    for (pid, _), number in counts.items():
        by_thread[pid] = max(by_thread.get(pid, 0), number)
    return max(by_thread.values(), default=0)


def was_struck(folder: Path) -> bool:
    """strace's own word: a call of the traced kinds was entered, did not return, and the signal killed."""
    calls = (*SYNC_CALLS.split(","), *WRITE_CALLS.split(","))
    for file in folder.glob("strace.*"):
        lines = file.read_text(errors="replace").splitlines()
        cut = any(("= ?" in line or "<unfinished" in line) and any(f" {call}(" in line or f"{call} resumed" in line for call in calls) for line in lines)
        if cut and any("killed by SIGKILL" in line for line in lines):
            return True
    return False
