"""Who has an edge directory open: at most one process, by a lock (flock) on the file LOCK in it.

The kernel lets go of the lock when its holder ends, however that happens; the file stays, and means
nothing by itself. It holds the holder's PID, for messages.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from bridge.errors import UsageError

DIRECTORY_HINT = "name a directory that this user may write to: --qdrant.url edge:///directory"
_LOCK = "LOCK"


class DirectoryInUse(UsageError):
    """Another process has the directory open."""


def claim(directory: Path) -> int:
    """Hold the directory for this process: a descriptor, closed to let go of it.

    DirectoryInUse naming the holder if there is one; UsageError if the directory cannot be written to.
    """
    try:
        handle = os.open(directory / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise UsageError(
            f"cannot write in {directory}: {error.strerror}", hint=DIRECTORY_HINT
        ) from None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        holder = os.read(handle, 32).decode(errors="replace").strip() or "unknown"
        os.close(handle)
        raise DirectoryInUse(
            f"edge://{directory} is in use by process {holder}",
            hint="one process can open it; wait for that one, or stop it",
        ) from None
    os.ftruncate(handle, 0)
    os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)
    return handle
