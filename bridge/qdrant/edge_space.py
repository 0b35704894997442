"""Room on the disk for Qdrant Edge, looked at before each write.

The engine grows its logs and storages through mapped files. Where the disk has no page for one, the
kernel ends the whole process with SIGBUS (tried on 0.9.0 on a full file system), and no exception
tells the user why. Whoever writes therefore asks first, and keeps a reserve.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from bridge.errors import StopError

RESERVE_BYTES = 256 << 20
"""The engine maps files of 32 MiB, of which several may be under way for one write."""


def require_space(directory: Path, label: str, more_bytes: int = 0) -> None:
    """StopError unless the disk has the reserve and `more_bytes`."""
    if free_bytes(directory) < RESERVE_BYTES + more_bytes:
        raise disk_full(label)


def disk_full(label: str) -> StopError:
    """What a full disk is told as."""
    return StopError(
        f"the disk of {label} is full, or nearly so",
        code="DISK_FULL",
        hint=f"free some space ({RESERVE_BYTES >> 20} MiB must remain) and run the same command "
        "again; finished chunks are kept",
    )


def free_bytes(directory: Path) -> int:
    """What this user may still write."""
    return shutil.disk_usage(directory).free


def used_bytes(path: Path) -> int:
    """What a shard takes on the disk: its files are sparse, so their length says little."""
    files = (os.path.join(root, name) for root, _, names in os.walk(path) for name in names)
    return sum(os.stat(file).st_blocks * 512 for file in files)
