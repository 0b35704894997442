"""Processes that tests watch and end: by pid, awaited, never by name. Linux and macOS."""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
import time
from pathlib import Path
from typing import Final

POLL_SECONDS: Final = 0.02
_PROC: Final = Path("/proc")


def children(pid: int) -> list[int]:
    """The pids of a process's children, oldest first."""
    pairs = _parents_of_proc() if _PROC.exists() else _parents_of_ps()
    return sorted(child for child, parent in pairs if parent == pid)


def resident_bytes(pid: int) -> int:
    """What a process holds in memory; 0 if it has ended. Linux only."""
    try:
        pages = int((_PROC / str(pid) / "statm").read_text().split()[1])
    except OSError:
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


def _parents_of_proc() -> list[tuple[int, int]]:
    """(pid, its parent's) of every process, from Linux' /proc/PID/stat (proc(5))."""
    pairs = []
    for entry in _PROC.iterdir():
        if entry.name.isdecimal():
            with contextlib.suppress(OSError):
                # The command's name, in parentheses, may hold anything.
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                pairs.append((int(entry.name), int(fields[1])))
    return pairs


def _parents_of_ps() -> list[tuple[int, int]]:
    command = ["ps", "-A", "-o", "pid=,ppid="]
    listed = subprocess.run(command, capture_output=True, text=True, check=True)
    rows = (line.split() for line in listed.stdout.splitlines())
    return [(int(pid), int(parent)) for pid, parent in rows]


def await_exit(pid: int, timeout_seconds: float = 30.0) -> None:
    """Return once the process has ended, whoever's child it is; TimeoutError if it does not."""
    opened = _pidfd(pid)
    if opened is None:
        _poll_exit(pid, timeout_seconds)
        return
    try:
        if not select.select([opened], [], [], timeout_seconds)[0]:
            raise TimeoutError(f"process {pid} is still there after {timeout_seconds} s")
    finally:
        os.close(opened)


def _pidfd(pid: int) -> int | None:
    """A descriptor that becomes readable when the process ends; None where there are none."""
    if not hasattr(os, "pidfd_open"):
        return None
    try:
        return os.pidfd_open(pid)
    except ProcessLookupError:
        return None


def _poll_exit(pid: int, timeout_seconds: float) -> None:
    deadline = time.monotonic() + timeout_seconds
    while True:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return
        if time.monotonic() > deadline:
            raise TimeoutError(f"process {pid} is still there after {timeout_seconds} s")
        time.sleep(POLL_SECONDS)
