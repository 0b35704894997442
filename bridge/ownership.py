"""Whose the points of a collection are: one record a collection, asked across pipelines.

A table and an index claim the collection that they fill, once, with the number of points that were
there before. Nobody else may fill it then, with one exception: what came from Pinecone is continued
from Postgres (design.md section 3). The table that does so takes the record over, and the points that
Pinecone made count as found: TRUNCATE and extras leave them alone.
"""

from __future__ import annotations

from typing import Any, Protocol

from bridge.errors import StopError
from bridge.state import Kind, Record

PINECONE = "pinecone:"
"""What the owner of a collection that Pinecone filled begins with; no table's name does."""


class OwnerStore(Protocol):
    """What claiming needs of `state.StateStore`."""

    @property
    def pipeline(self) -> str:
        """The pipeline."""

    def get(self, kind: Kind, name: str) -> Record | None:
        """The record, or None."""

    def put(self, kind: Kind, name: str, record: Record) -> None:
        """Store or replace it."""

    def put_new(self, kind: Kind, name: str, record: Record) -> Record:
        """Store it unless there is one; the record that is stored afterwards."""


def owner_record(pipeline: str, source: str, found_points: int) -> dict[str, Any]:
    """As it is stored. `source`: a table's label, or an index's."""
    return {"pipeline": pipeline, "table": source, "found_points": found_points}


def claim(store: OwnerStore, collection: str, source: str, found_points: int) -> Record:
    """The record that is stored afterwards: ours, or that of whoever was first."""
    owner = owner_record(store.pipeline, source, found_points)
    stored = store.get("owner", collection)
    if stored is not None and _is_continued(stored, source):
        owner["found_points"] = max(1, found_points)
        store.put("owner", collection, owner)
        return owner
    return store.put_new("owner", collection, owner)


def require_claimable(pipeline: str, source: str, collection: str, owner: Record | None) -> None:
    """StopError `COLLECTION_TAKEN` if the points are somebody else's."""
    if owner is None or (owner["pipeline"], owner["table"]) == (pipeline, source):
        return
    if _is_continued(owner, source):
        return
    raise StopError(
        f"collection {collection} holds the points of {owner['table']} "
        f"(pipeline {owner['pipeline']})",
        code="COLLECTION_TAKEN",
        hint="choose another collection with --qdrant.collection; or, if that pipeline is "
        f"given up, run qdrant-bridge teardown for {owner['pipeline']}",
        table=source,
    )


def _is_continued(owner: Record, source: str) -> bool:
    return owner["table"].startswith(PINECONE) and not source.startswith(PINECONE)
