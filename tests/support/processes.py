"""Processes that tests watch and end: by pid, awaited, never by name. Linux and macOS."""

from __future__ import annotations

import os
import select
import subprocess
import time
from typing import Final

POLL_SECONDS: Final = 0.02


def children(pid: int) -> list[int]:
    """The pids of a process's children, oldest first."""
    listed = subprocess.run(
        ["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True, check=True
    )
    pairs = [tuple(map(int, line.split())) for line in listed.stdout.splitlines()]
    return sorted(child for child, parent in pairs if parent == pid)


def resident_bytes(pid: int) -> int:
    """What a process holds in memory; 0 if it has ended."""
    listed = subprocess.run(["ps", "-o", "rss=", "-p", str(pid)], capture_output=True, text=True)
    return int(listed.stdout.strip() or 0) * 1024


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
