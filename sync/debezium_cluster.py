"""Whether the Postgres that rows are read again from is the one that the topics tell of.

Nothing in a topic names its cluster. The first one that a pipeline reads from is recorded, and every
connection is compared with it. Where the role may not ask which cluster it is, nothing can be compared.
"""

from __future__ import annotations

from dataclasses import replace

from bridge.errors import StopError
from bridge.kafka_state import RECORD_NAME, read_kafka
from bridge.postgres import catalog
from bridge.postgres.connection import Connection
from bridge.qdrant.state import QdrantState


class Cluster:
    """The one of a pipeline."""

    def __init__(self, store: QdrantState) -> None:
        self._store = store
        self._known: str | None = None

    def require(self, connection: Connection) -> None:
        """StopError `SOURCE_CHANGED` if it is another one."""
        found = catalog.server_facts(connection).system_identifier
        if found is not None:
            self.require_id(str(found))

    def require_id(self, found: str) -> None:
        """The same, of a cluster's identifier."""
        if self._known is None:
            self._known = self._recorded(found)
        if found != self._known:
            raise StopError(
                f"this is another cluster ({found}, not {self._known})",
                code="SOURCE_CHANGED",
                hint="check postgres.url; if this server is right, copy the tables again under another "
                "pipeline name",
            )

    def _recorded(self, found: str) -> str:
        state = read_kafka(self._store)
        if state is None:
            return found
        if state.system_id is not None:
            return state.system_id
        self._store.put("stream", RECORD_NAME, replace(state, system_id=found).to_record())
        return found
