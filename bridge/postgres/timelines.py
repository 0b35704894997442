"""Whether the server that we reached is the source: its cluster, and its history up to a position.

External specification: PostgreSQL documentation, section 26.3.6 "Timelines", and 54.4
(TIMELINE_HISTORY). A promoted standby begins a new timeline at some LSN; what the old primary wrote
behind that LSN is not part of it. The file has a line for each ancestor: its number, the LSN where
it was left, and a reason.
"""

from __future__ import annotations

from dataclasses import dataclass

from bridge.errors import StopError
from bridge.positions import Lsn


@dataclass(frozen=True, slots=True, kw_only=True)
class TimelineSwitch:
    """Timeline `timeline` was left at `switch_lsn`; the log behind it is another timeline's."""

    timeline: int
    switch_lsn: Lsn


def source_changed(what: str) -> StopError:
    """The server is not the one that Qdrant was filled from, or has lost a part of its history."""
    return StopError(
        what,
        code="SOURCE_CHANGED",
        hint="if this server is right, run qdrant-bridge resync --all",
    )


def require_same_cluster(system_id: str, recorded: str) -> None:
    """StopError `SOURCE_CHANGED` if the two identifiers differ."""
    if system_id != recorded:
        raise source_changed(f"this is another cluster ({system_id}, not {recorded})")


def parse_timeline_history(content: bytes) -> tuple[TimelineSwitch, ...]:
    """The lines of a `.history` file, oldest first. StopError if it is anything else."""
    switches: list[TimelineSwitch] = []
    for line in content.decode(errors="replace").splitlines():
        stripped = line.strip()
        if not stripped or stripped.startswith("#"):
            continue
        parts = stripped.split(None, 2)
        try:
            switch = TimelineSwitch(timeline=int(parts[0]), switch_lsn=Lsn.parse(parts[1]))
        except (ValueError, IndexError) as error:
            raise StopError("the timeline history is not understood", code="PROTOCOL") from error
        if switches and switch.timeline <= switches[-1].timeline:
            raise StopError("the timeline history is out of order", code="PROTOCOL")
        switches.append(switch)
    return tuple(switches)


def lies_on_history(
    lsn: Lsn, timeline: int, *, current: int, history: tuple[TimelineSwitch, ...]
) -> bool:
    """Whether the log up to `lsn` as `timeline` had it is also that of timeline `current`.

    `history` is `current`'s. True only if it descends from `timeline` and left it at or behind `lsn`.
    """
    if timeline == current:
        return True
    switch = next((switch for switch in history if switch.timeline == timeline), None)
    return switch is not None and lsn <= switch.switch_lsn
