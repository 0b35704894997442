"""The end of a pipeline: what the bridge made for itself goes, what it copied stays.

    1. the slot, then the publication if the bridge made it: the slot is what keeps log
    2. indexing is switched on again, where an interrupted copy left it off
    3. the pipeline's records, the stream's last: until it is gone, a repeated teardown knows the slot

Safe to repeat after a crash at any point; what is gone already is no error.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, get_args

from backfill import indexing
from bridge.postgres import slots
from bridge.postgres.connection import Connection
from bridge.qdrant.state import QdrantState
from bridge.qdrant.target import Target
from bridge.state import Kind

_SHARED = ("owner", "indexing")  # of a collection, whoever's pipeline it is
_LAST: tuple[Kind, ...] = ("owner", "stream")


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """What a pipeline may have made. `slot` is None for one that never had a stream."""

    slot: str | None
    publication: str | None
    collections: tuple[str, ...]
    records: int

    @property
    def nothing(self) -> bool:
        """Whether neither source nor target can hold anything of it."""
        return self.slot is None and not self.records


def look(store: QdrantState | None, *, slot: str | None, publication: str | None) -> Made:
    """What is there, by the records; `slot` and `publication` are the configured names, for a
    pipeline whose records do not tell."""
    if store is None:
        return Made(slot=slot, publication=publication, collections=(), records=0)
    facts: dict[str, Any] = {}
    for _name, record in store.records("stream"):
        if "facts" in record:
            facts = dict(record["facts"])
    owned = tuple(
        name for name, record in store.records("owner") if record["pipeline"] == store.pipeline
    )
    counts = [sum(1 for _ in store.records(kind)) for kind in _own_kinds()]
    return Made(
        slot=facts["slot"] if facts else slot,
        publication=facts["publication"]["name"] if facts else publication,
        collections=owned,
        records=sum(counts) + len(owned),
    )


def tear_down(
    made: Made,
    *,
    pipeline: str,
    connection: Connection | None,
    target: Target | None,
    store: QdrantState | None,
    tell: Callable[[str], None] = lambda what: None,
) -> list[str]:
    """Remove it; what was removed, in words, also told one by one."""
    removed: list[str] = []

    def note(what: str) -> None:
        removed.append(what)
        tell(what)

    if connection is not None and made.slot is not None and made.publication is not None:
        for what in slots.drop(
            connection, slot=made.slot, publication=made.publication, pipeline=pipeline
        ):
            note(what)
    if store is None or target is None:
        return removed
    for collection in made.collections:
        if target.collection(collection) is not None:
            indexing.restore(target, store, collection)
        store.remove("indexing", [collection])
    for kind in [kind for kind in _own_kinds() if kind not in _LAST] + list(_LAST):
        names = (
            list(made.collections)
            if kind == "owner"
            else [name for name, _record in store.records(kind)]
        )
        store.remove(kind, names)
        if names:
            note(f"{len(names)} {kind.replace('_', ' ')} record{'s' if len(names) > 1 else ''}")
    return removed


def _own_kinds() -> list[Kind]:
    """Kinds of records that are one pipeline's alone; the lease is its holder's to give back."""
    return [kind for kind in get_args(Kind) if kind not in (*_SHARED, "lease")]
