"""Until when a lease counts, told to the holder's children: they write without asking whether it does.

Eight bytes of a nameless file, whose descriptor a child inherits. The holder writes them whenever it has
renewed (`lease.Lease.share`); a child looks before each request (`require`). If the holder is frozen or cut
off nobody writes them any more, and the child waits, until it is told to go on or ends with its parent.
"""

from __future__ import annotations

import os
import struct
import tempfile
import time
from collections.abc import Callable

_MOMENT = struct.Struct("d")
_LOOK_SECONDS = 0.1


class HeldUntil:
    """The holder's side. `close` at the end."""

    def __init__(self, moment: float) -> None:
        self._file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 - closed by `close`
        self.set(moment)

    @property
    def descriptor(self) -> int:
        """For the children to inherit."""
        return self._file.fileno()

    def set(self, moment: float) -> None:
        """The lease counts until then, by `lease.boottime`."""
        os.pwrite(self.descriptor, _MOMENT.pack(moment), 0)

    def close(self) -> None:
        """Forget it; children that still look see the last moment."""
        self._file.close()


def require(
    descriptor: int, clock: Callable[[], float], *, sleep: Callable[[float], None] = time.sleep
) -> None:
    """Return as soon as the parent's lease counts. `clock` is the one that it is measured by."""
    while clock() >= _MOMENT.unpack(os.pread(descriptor, _MOMENT.size, 0))[0]:
        sleep(_LOOK_SECONDS)
