"""Processes and what they started, as /proc shows it: their time, their groups, their descendants."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path


def cpu_s(pid: int) -> float:
    """CPU seconds of a process and its living descendants. The clock of a process by its pid: clock_getcpuclockid(3)."""
    total = 0.0
    for member in family(pid):
        with contextlib.suppress(OSError):
            total += time.clock_gettime((~member << 3) | 2)
        with contextlib.suppress(OSError, ValueError, IndexError):
            fields = stat(member)
            total += (int(fields[13]) + int(fields[14])) / os.sysconf("SC_CLK_TCK")  # children that ended
    return total


def stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat, from the state on."""
    text = Path(f"/proc/{pid}/stat").read_text()
    return text[text.rindex(")") + 2 :].split()


def end_all(pids: Sequence[int]) -> None:
    """kill -9 of what a subject left behind."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)


def group(number: int) -> list[int]:
    """The living members of a process group, also when its leader was reaped."""
    members = []
    for entry in os.listdir("/proc") if os.path.isdir("/proc") else []:
        with contextlib.suppress(OSError, ValueError, IndexError):
            if entry.isdigit() and int(stat(int(entry))[2]) == number:
                members.append(int(entry))
    return members


def children_of(pid: int) -> list[int]:
    """Those that are its children now."""
    members: list[int] = []
    with contextlib.suppress(OSError):
        for task in os.listdir(f"/proc/{pid}/task"):
            members += [int(child) for child in Path(f"/proc/{pid}/task/{task}/children").read_text().split()]
    return members


def family(pid: int) -> list[int]:
    """It and all its living descendants, itself first."""
    members, at = [pid], 0
    while at < len(members):
        members += children_of(members[at])
        at += 1
    return members
