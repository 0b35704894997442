"""The Pinecone half of `dead-letters retry`."""

from __future__ import annotations

from collections.abc import Sequence

from backfill.pinecone_letters import retry_index_letters
from backfill.pinecone_reader import Reader
from backfill.retry_letters import Outcome
from bridge.config import Settings
from bridge.lease import held
from bridge.ownership import PINECONE
from bridge.qdrant.guarded import GuardedTarget
from bridge.qdrant.state import QdrantState
from bridge.qdrant.target import Target
from bridge.state import Record
from cli.pinecone_places import copy_options, open_index, pinecone_settings


def of_index(record: Record) -> bool:
    """Whether a dead letter is an index's and not a table's."""
    return str(record["table"]).startswith(PINECONE)


def retry_of_index(
    settings: Settings, records: Sequence[Record], target: Target, store: QdrantState
) -> Outcome:
    """Read these records again and write them, as the one process that writes."""
    if not records:
        return Outcome()
    found = pinecone_settings(settings)
    with open_index(settings) as index, held(store) as lease:
        described = index.describe()
        if described is not None:
            index.use(described)
        reader = Reader(index, copy_options(settings, found), lambda event: None)
        try:
            return retry_index_letters(
                reader,
                records,
                target=GuardedTarget(target, before=lease.require),
                store=store,
            )
        finally:
            reader.close()
