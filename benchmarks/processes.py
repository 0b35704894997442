"""CPU of other processes, from /proc (proc(5)): who takes how much of a machine that is shared.

Linux only; elsewhere, and for a server on another machine, nothing is found and nothing is reported.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
_LISTEN = "0A"


def cpu_seconds(root: int | None) -> float | None:
    """CPU of a process, of those it started, and of those of them that have ended; None if unknown."""
    fields = None if root is None else _fields(root)
    if root is None or fields is None:
        return None
    ended = sum(map(int, fields[13:15]))
    ticks = ended + sum(sum(map(int, found[11:13])) for found in _tree(root))
    return ticks / _TICKS_PER_SECOND


def idle_seconds() -> float | None:
    """So long the machine's cores have had nothing to do since it was started, all added up."""
    try:
        first, _, _ = Path("/proc/stat").read_text().partition("\n")
    except OSError:
        return None
    return int(first.split()[4]) / _TICKS_PER_SECOND


def listener(port: int) -> int | None:
    """The process of this machine that listens on a TCP port, if this user may see it."""
    sockets = {f"socket:[{inode}]" for inode in _listening(port)}
    if not sockets:
        return None
    for pid in _pids():
        try:
            links = [os.readlink(entry) for entry in Path(f"/proc/{pid}/fd").iterdir()]
        except OSError:
            continue  # it has ended, or is somebody else's
        if not sockets.isdisjoint(links):
            return pid
    return None


def _listening(port: int) -> Iterator[str]:
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            lines = Path(table).read_text().splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            fields = line.split()
            if fields[3] == _LISTEN and int(fields[1].rpartition(":")[2], 16) == port:
                yield fields[9]


def _tree(root: int) -> list[list[str]]:
    """The stat fields, from the state on, of a process and of all below it."""
    children: dict[int, list[tuple[int, list[str]]]] = {}
    for pid in _pids():
        fields = _fields(pid)
        if fields is not None:
            children.setdefault(int(fields[1]), []).append((pid, fields))
    found: list[list[str]] = []
    own = _fields(root)
    todo = [] if own is None else [(root, own)]
    while todo:
        pid, fields = todo.pop()
        found.append(fields)
        todo += children.get(pid, [])
    return found


def _pids() -> list[int]:
    try:
        return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    except OSError:
        return []


def _fields(pid: int) -> list[str] | None:
    """What stands behind the command's name, which may hold anything, in /proc/PID/stat."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    return text.rpartition(")")[2].split()


class Watch:
    """The CPU of some processes, and the idle time of the machine, from now on."""

    def __init__(self, **roots: int | None) -> None:
        self._roots = roots
        self._before = {name: cpu_seconds(root) for name, root in roots.items()}
        self._idle = idle_seconds()

    def us_per_row(self, rows: int) -> dict[str, float]:
        """Microseconds a row of each, and `idle`; without those of which nothing is known."""
        after = {name: cpu_seconds(root) for name, root in self._roots.items()}
        pairs = {name: (self._before[name], after[name]) for name in after}
        pairs["idle"] = (self._idle, idle_seconds())
        return {
            name: round((now - then) / rows * 1e6, 1)
            for name, (then, now) in pairs.items()
            if then is not None and now is not None
        }
