"""What a Postgres snapshot shows: pg_snapshot's text, and 32-bit transaction ids widened to it. Pure.

`pg_current_snapshot()` prints `xmin:xmax:xip,xip,...` in 64-bit ids (PostgreSQL documentation, section
9.27, "Transaction ID and Snapshot Information Functions"): ids below xmin have ended, those from xmax
on have not begun, and of those between, the listed ones are in progress. The stream's Begin carries the
lower 32 bits of an id only.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_TEXT = re.compile(r"(\d+):(\d+):((?:\d+(?:,\d+)*)?)")
_EPOCH = 2**32


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One snapshot; ids are 64 bits wide."""

    xmin: int
    xmax: int
    in_progress: frozenset[int]

    @classmethod
    def parse(cls, text: str) -> Snapshot:
        """`10:20:10,14` -> Snapshot. ValueError if it is written otherwise."""
        match = _TEXT.fullmatch(text)
        if match is None:
            raise ValueError(f"not a snapshot: {text!r}")
        listed = frozenset(int(xid) for xid in match[3].split(",") if xid)
        return cls(int(match[1]), int(match[2]), listed)

    def __str__(self) -> str:
        """As Postgres writes it."""
        return f"{self.xmin}:{self.xmax}:{','.join(map(str, sorted(self.in_progress)))}"

    def shows(self, xid: int) -> bool:
        """Whether a transaction had ended when the snapshot was taken. One that is known to have
        committed is then visible."""
        return xid < self.xmin or (xid < self.xmax and xid not in self.in_progress)

    def widen(self, xid: int) -> int:
        """The 64-bit id with these lower 32 bits that lies nearest to xmin."""
        base = self.xmin - self.xmin % _EPOCH + xid
        return min((base - _EPOCH, base, base + _EPOCH), key=lambda wide: abs(wide - self.xmin))
