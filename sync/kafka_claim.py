"""A partition in the hands of a process: its name is put on the record, and the record advances.

The name is compared and written in one step, against the owner that was read: of two processes that
both believe that the partition is theirs, one claims it, and the other leaves the group and joins again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from bridge.kafka_state import PartitionState
from bridge.qdrant.state import QdrantState
from sync.kafka import NotOwner


@dataclass(slots=True)
class Owned:
    """A partition of ours. Everything before `offset` is durable."""

    state: PartitionState
    catch_up_to: int
    saved_at: float
    dirty: bool = True

    def advance(self, offset: int, changed_at_ms: int) -> None:
        """A window that ends there is durable."""
        self.state = replace(self.state, offset=offset, changed_at_ms=changed_at_ms)
        if self.state.phase == "catching_up" and offset >= self.catch_up_to:
            self.state = replace(self.state, phase="streaming")
        self.dirty = True


def claim(store: QdrantState, state: PartitionState, recorded: PartitionState | None) -> None:
    """Store the record under our name; `recorded` is what was read. NotOwner if it is another by now."""
    stored: Mapping[str, Any] | None
    if recorded is None:
        stored = store.put_new("stream", state.name, state.to_record())
    else:
        stored = store.put_if(
            "stream", state.name, state.to_record(), matching={"owner": recorded.owner}
        )
    if stored is None or stored["owner"] != state.owner:
        raise NotOwner(f"{state.topic}[{state.partition}] was taken by another process meanwhile")
