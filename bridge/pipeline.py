"""plan -> write -> checkpoint -> acknowledge: the order, in one place.

Nothing else saves a checkpoint. For a backfill a checkpoint is the record of a finished chunk (for
Pinecone: of the place that a namespace has been read up to), and the order is:

    1. the chunk's points are written (`Writer.drain` has returned)
    2. the target is flushed: what was written survives the machine
    3. the chunk's dead letters are stored
    4. the chunk's record is stored: from here on it is never read again

A crash before 4 repeats the chunk. Its points are written again, which changes nothing, and its dead
letters replace themselves, since their records are named by table and key.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Protocol

from bridge.failpoints import failpoint
from bridge.plan import DeadLetter
from bridge.state import ChunkDone, Kind, Record, StateStore, letter_name


def checkpoint_chunk(
    store: StateStore,
    flush: Callable[[], None],
    done: ChunkDone,
    letters: Sequence[DeadLetter],
    *,
    now: str,
) -> None:
    """Steps 2 to 4 for a chunk whose points are written. `now`: RFC 3339, for the dead letters."""
    failpoint("backfill.before_checkpoint")
    flush()
    for letter in letters:
        store.put("dead_letter", letter_name(letter), {**asdict(letter), "at": now})
    store.put("chunk", done.name, asdict(done))
    failpoint("backfill.after_checkpoint")


class NamespaceStore(Protocol):
    """What the checkpoint of namespaces needs of a store: many records at once."""

    def put_all(self, kind: Kind, records: Mapping[str, Record]) -> None:
        """Store or replace many, by name; durable on return."""


def checkpoint_namespaces(
    store: NamespaceStore,
    flush: Callable[[], None],
    progress: Mapping[str, Record],
    letters: Sequence[DeadLetter],
    *,
    now: str,
) -> None:
    """Steps 2 to 4 for namespaces of Pinecone whose points, up to these cursors, are written."""
    failpoint("backfill.before_checkpoint")
    flush()
    if letters:
        named = {letter_name(letter): {**asdict(letter), "at": now} for letter in letters}
        store.put_all("dead_letter", named)
    store.put_all("namespace", progress)
    failpoint("backfill.after_checkpoint")
