"""CPU and memory of this process and of those it started, from /proc and getrusage."""

from __future__ import annotations

import os
import platform
import resource
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """A moment: wall clock and CPU seconds of this process and of its children that have ended."""

    wall: float
    cpu: float


def usage() -> Usage:
    """Now."""
    own = resource.getrusage(resource.RUSAGE_SELF)
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime
    return Usage(wall=time.perf_counter(), cpu=cpu)


def forget_peak() -> None:
    """This process's highest resident set begins anew: what it did before is none of what comes."""
    Path("/proc/self/clear_refs").write_text("5")  # proc(5)


def resident_bytes(pids: Iterable[int]) -> int:
    """The highest resident set that each of these processes has had, summed up.

    Pages that they share count several times, so the truth is a little lower.
    """
    total = 0
    for pid in pids:
        try:
            status = Path(f"/proc/{pid}/status").read_text()
        except OSError:
            continue  # it has ended
        for line in status.splitlines():
            if line.startswith("VmHWM:"):
                total += int(line.split()[1]) * 1024
    return total


def machine() -> dict[str, object]:
    """What the figures were measured on."""
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        "unknown",
    )
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cores": len(os.sched_getaffinity(0)),
        "processor": model,
        "memory_gib": round(memory / 2**30),
        "python": platform.python_version(),
        "system": platform.system(),
    }
