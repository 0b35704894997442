"""What must hold while a stream is read: looked at on connecting and every minute.

Each check that fails raises a `StopError` with a stable code and the remedy; nothing is mended in
silence. The mappings of the stream's tables live here too, since a change of a table's columns is one
more thing that may or may not be followed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from bridge.collection_spec import CollectionSpec
from bridge.config_tables import TableSettings
from bridge.errors import StopError
from bridge.events import Relation
from bridge.map_table import map_table
from bridge.map_vectors import undimensioned_columns
from bridge.mapping import TableMapping
from bridge.postgres import catalog, publications, slots
from bridge.postgres.connection import Connection
from bridge.postgres.predicate import RowFilter, row_filter
from bridge.postgres.timelines import TimelineSwitch, lies_on_history
from bridge.postgres.walsender import SystemIdentity
from bridge.qdrant.collections import compare
from bridge.qdrant.target import CollectionState, Target
from bridge.schema import Table
from bridge.stream_state import StreamState
from bridge.table_names import parse_table_name


@dataclass(frozen=True, slots=True, kw_only=True)
class _Followed:
    """A table of the stream, as it maps now."""

    name: str
    settings: TableSettings
    mapping: TableMapping
    row_filter: RowFilter | None


class SourceChecks:
    """The checks of one session, over a connection that it owns."""

    def __init__(
        self, connection: Connection, tables: Mapping[str, TableSettings], target: Target
    ) -> None:
        self._connection = connection
        self._target = target
        self._tables: dict[int, _Followed] = {}
        try:
            for name, settings in tables.items():
                followed = self._follow(name, settings)
                self._tables[followed.mapping.table.oid] = followed
        except BaseException:
            connection.close()
            raise

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    @property
    def binary(self) -> bool:
        """Whether every mapped column has a binary decoder, so that the stream can be binary."""
        return all(
            item.form == "binary"
            for followed in self._tables.values()
            for item in followed.mapping.selection
        )

    def mapping(self, oid: int) -> TableMapping:
        """The table's mapping as it is now."""
        return self._tables[oid].mapping

    def row_filter(self, oid: int) -> RowFilter | None:
        """The table's `where`."""
        return self._tables[oid].row_filter

    # --- schema --------------------------------------------------------------------------------

    def mapping_of(self, relation: Relation) -> TableMapping | None:
        """The mapping for a relation that was just announced; None if it is not one of ours.

        A column that came or went is followed. A key or vector column that changed is not:
        StopError `SCHEMA_CHANGED`, before the first row of the new shape.
        """
        followed = self._tables.get(relation.oid)
        if followed is None:
            return None
        before = followed.mapping
        self._require_dimensions(relation, before)
        if {column.name for column in before.table.columns} != set(relation.columns):
            followed = self._follow(followed.name, followed.settings, oid=relation.oid)
            self._require_same_essence(before, followed.mapping)
            self._tables[relation.oid] = followed
        return followed.mapping

    def _require_dimensions(self, relation: Relation, mapping: TableMapping) -> None:
        for vector in mapping.vectors:
            if vector.column not in relation.columns or vector.spec.dimension is None:
                continue
            declared = relation.type_modifiers[relation.columns.index(vector.column)]
            if declared > 0 and declared != vector.spec.dimension:
                raise _schema_changed(
                    mapping,
                    f"column {vector.column} has {declared} dimensions now; the collection "
                    f"{mapping.collection.name} has {vector.spec.dimension}",
                )

    def _require_same_essence(self, before: TableMapping, after: TableMapping) -> None:
        if before.key_columns != after.key_columns:
            raise _schema_changed(
                before,
                f"the key was ({', '.join(before.key_columns)}) and is "
                f"({', '.join(after.key_columns)})",
            )
        differences = compare(after.collection, _as_state(self._target, before.collection))
        if differences:
            raise _schema_changed(before, "; ".join(differences))

    def _follow(self, name: str, settings: TableSettings, *, oid: int | None = None) -> _Followed:
        table = catalog.read_table(self._connection, *parse_table_name(name))
        if oid is not None and table.oid != oid:
            raise StopError(
                f"the table {name} was dropped and made again",
                code="SCHEMA_CHANGED",
                table=table.label,
                hint="run qdrant-bridge resync for it",
            )
        mapping = map_table(table, settings, self._dimensions(table, settings))
        return _Followed(
            name=name,
            settings=settings,
            mapping=mapping,
            row_filter=row_filter(table, settings.where),
        )

    def _dimensions(self, table: Table, settings: TableSettings) -> dict[str, int]:
        """Of columns that declare none: what the collection has."""
        columns = undimensioned_columns(table, settings)
        if not columns:
            return {}
        state = self._target.collection(settings.collection or table.name)
        found = {} if state is None else {v.name: v.dimension for v in state.vectors}
        chosen = {} if settings.vectors == "none" else settings.vectors
        dimensions: dict[str, int] = {}
        for column in columns:
            own = chosen.get(column.name)
            name = column.name if own is None or own.name is None else own.name
            dimension = found.get(name)
            if dimension is not None:
                dimensions[column.name] = dimension
        return dimensions

    # --- everything else -----------------------------------------------------------------------

    def require_sound(self, state: StreamState) -> None:
        """Slot, publication and collections are as this pipeline left them."""
        slot = str(state.facts["slot"])
        found = slots.inspect_slot(self._connection, slot)
        if found is None or found.lost:
            raise StopError(
                f"the replication slot {slot} is "
                + (
                    "gone"
                    if found is None
                    else f"lost ({found.invalidation_reason or 'WAL removed'})"
                ),
                code="SLOT_LOST",
                hint="changes are missing for good: run qdrant-bridge resync --all",
            )
        slots.require_not_ahead(found, state.checkpoint)
        recorded = publications.Publication.from_record(state.facts["publication"])
        publications.require_unchanged(
            recorded,
            publications.inspect_publication(self._connection, recorded.name),
            list(self._tables),
        )
        for followed in self._tables.values():
            self._require_collection(followed.mapping.collection)

    def _require_collection(self, spec: CollectionSpec) -> None:
        state = self._target.collection(spec.name)
        if state is None:
            raise StopError(
                f"the collection {spec.name} is gone",
                code="TARGET_CHANGED",
                hint="it is not made again by itself: run qdrant-bridge resync --all",
            )
        differences = compare(spec, state)
        if differences:
            raise StopError(
                f"the collection {spec.name} was changed: {'; '.join(differences)}",
                code="TARGET_CHANGED",
                hint="make it fit again, or run qdrant-bridge resync --all into a new one",
            )

    def require_same_history(
        self,
        identity: SystemIdentity,
        history: tuple[TimelineSwitch, ...],
        state: StreamState,
    ) -> None:
        """The server is the cluster that the checkpoint belongs to, and has not gone back behind it."""
        if identity.system_id != state.facts["system_id"]:
            raise _source_changed(
                f"this is another cluster ({identity.system_id}, not {state.facts['system_id']})"
            )
        timeline = int(state.facts["timeline"])
        if not lies_on_history(
            state.checkpoint, timeline, current=identity.timeline, history=history
        ):
            raise _source_changed(
                f"timeline {identity.timeline} left timeline {timeline} before the checkpoint "
                f"{state.checkpoint}"
            )
        if identity.flush_lsn < state.checkpoint:
            raise _source_changed(
                f"the server's log ends at {identity.flush_lsn}, before the checkpoint "
                f"{state.checkpoint}: was it restored to an earlier time?"
            )

    def require_owned(self, mapping: TableMapping, found_points: int) -> None:
        """A TRUNCATE may empty the collection only if nothing else fills it."""
        followed = self._tables[mapping.table.oid]
        if found_points and not followed.settings.owns_collection:
            raise StopError(
                f"{mapping.table.label} was truncated, but the collection "
                f"{mapping.collection.name} also holds points of other origin",
                code="TRUNCATE_SHARED",
                table=mapping.table.label,
                hint="set owns_collection: true for the table if all of them may go",
            )


def _as_state(target: Target, spec: CollectionSpec) -> CollectionState:
    state = target.collection(spec.name)
    if state is None:
        raise StopError(
            f"the collection {spec.name} is gone",
            code="TARGET_CHANGED",
            hint="run qdrant-bridge resync --all",
        )
    return state


def _schema_changed(mapping: TableMapping, what: str) -> StopError:
    return StopError(
        f"{mapping.table.label}: {what}",
        code="SCHEMA_CHANGED",
        table=mapping.table.label,
        hint="change it back, or copy the table into a new collection and resync",
    )


def _source_changed(what: str) -> StopError:
    return StopError(
        what,
        code="SOURCE_CHANGED",
        hint="if this server is right, run qdrant-bridge resync --all",
    )
