"""What must hold while a stream is read: looked at on connecting and every minute.

Each check that fails raises a `StopError` with a stable code and the remedy; nothing is mended in
silence. The mappings of the stream's tables live here too, since a change of a table's columns is one
more thing that may or may not be followed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from bridge import recorded_schema, silent_changes
from bridge.config_tables import TableSettings
from bridge.errors import StopError, Unreachable, UsageError
from bridge.events import Relation
from bridge.map_table import map_table
from bridge.map_vectors import undimensioned_columns, vector_kind
from bridge.mapping import TableMapping
from bridge.postgres import catalog, publications, slots
from bridge.postgres.beneath import look
from bridge.postgres.connection import Connection
from bridge.postgres.decode import binary_loader
from bridge.postgres.timelines import (
    TimelineSwitch,
    lies_on_history,
    require_same_cluster,
    source_changed,
)
from bridge.postgres.walsender import SystemIdentity
from bridge.qdrant.collections import compare
from bridge.qdrant.target import Target
from bridge.recorded_schema import RecordedSchema, Records
from bridge.schema import Column, Table
from bridge.silent_changes import Beneath
from bridge.stream_state import StreamState
from bridge.table_names import parse_table_name
from bridge.values import ValuePolicy


@dataclass(frozen=True, slots=True, kw_only=True)
class _Followed:
    """A table of the stream, as it maps now; `copied` is what it was when its copy began."""

    name: str
    settings: TableSettings
    mapping: TableMapping
    copied: RecordedSchema


@dataclass(frozen=True, slots=True, kw_only=True)
class Copied:
    """A table as it was when it was read: what later changes of it are measured against."""

    schema: RecordedSchema
    beneath: Beneath


@dataclass(frozen=True, slots=True, kw_only=True)
class SilentChange:
    """Of one table, what changed without telling of the rows that it concerns; `unplaced` are vector
    columns that came and that its collection cannot take."""

    columns: list[str]
    attached: list[str]
    detached: list[str]
    unplaced: list[str]


class SourceChecks:
    """The checks of one session, over a connection that it owns.

    `copied`: the tables as they were when they were copied, by OID. One that is not in it is taken as
    it is now, by its name.
    """

    def __init__(
        self,
        connection: Connection,
        tables: Mapping[str, TableSettings],
        target: Target,
        copied: Mapping[int, RecordedSchema] | None = None,
    ) -> None:
        self._connection = connection
        self._target = target
        self._tables: dict[int, _Followed] = {}
        try:
            for name, settings in tables.items():
                followed = self._follow(name, settings, copied or {})
                self._tables[followed.copied.oid] = followed
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

    # --- schema --------------------------------------------------------------------------------

    def mapping_of(self, relation: Relation) -> TableMapping | None:
        """The mapping for a relation that was just announced; None if it is not one of ours.

        Columns that came, went, were renamed or changed their type are followed. A key or vector
        column that changed is not: StopError `SCHEMA_CHANGED`, before the first row of the new shape.
        The stream may lag behind the catalog, so the shape is the relation's; the catalog tells the
        columns' numbers, and so which of them are still the same.
        """
        followed = self._tables.get(relation.oid)
        if followed is None:
            return None
        was_binary = self.binary
        now = catalog.read_columns(self._connection, relation.oid)
        announced = self._announced(relation, now, followed.mapping.table)
        self._require_essence(followed.copied, announced, numbered=False)
        if now:
            self._require_essence(followed.copied, now, numbered=True)
        table = replace(followed.mapping.table, columns=announced)
        try:
            mapping = self._map(followed.copied, table, followed.settings)
        except UsageError as error:
            raise _schema_changed(followed.copied, error.message) from error
        if _essence(mapping) != _essence(followed.mapping):
            raise _schema_changed(followed.copied, "its key or its vectors are others now")
        self._tables[relation.oid] = replace(followed, mapping=mapping)
        if was_binary and not self.binary:
            raise Unreachable(
                f"{followed.copied.label} has a column now whose type has no binary form here; the "
                "stream goes on as text"
            )
        return mapping

    def _announced(
        self, relation: Relation, now: Sequence[Column], before: Table
    ) -> tuple[Column, ...]:
        """The relation's columns, with the numbers that are known of them."""
        told = list(zip(relation.columns, relation.type_oids, relation.type_modifiers, strict=True))
        current = {column.name: column for column in now}
        earlier = {column.name: column for column in before.columns}
        columns: list[Column] = []
        for column in catalog.announced_columns(self._connection, told):
            if column is None:
                # Of a type that was dropped since, or that is not to be seen yet.
                continue
            alike = [
                known
                for known in (current.get(column.name), earlier.get(column.name))
                if known is not None and known.type == column.type
            ]
            if alike:
                columns.append(alike[0])
            elif column.name in current or _has_binary_form(column):
                columns.append(column)
            # Else it was dropped since, and rows of it cannot be had in this stream's form.
        return tuple(columns)

    def _require_essence(
        self, copied: RecordedSchema, columns: Iterable[Column], *, numbered: bool
    ) -> None:
        change = copied.essential_change(columns, numbered=numbered)
        if change is not None:
            raise _schema_changed(copied, change)

    def _follow(
        self, name: str, settings: TableSettings, copied: Mapping[int, RecordedSchema]
    ) -> _Followed:
        """The table as the catalog has it, mapped as it was when it was copied."""
        parsed = parse_table_name(name)
        known = next((one for one in copied.values() if one.is_called(*parsed)), None)
        if known is None:
            table = catalog.read_table(self._connection, *parsed)
            mapping = map_table(table, settings, self._dimensions(table, settings))
            known = RecordedSchema.of(mapping)
            return _Followed(name=name, settings=settings, mapping=mapping, copied=known)
        found = catalog.read_table_by_oid(self._connection, known.oid)
        if found is None:
            raise self._dropped(known)
        self._require_essence(known, found.columns, numbered=True)
        if not settings.key and found.primary_key not in ((), known.key):
            raise _schema_changed(known, f"the key is ({', '.join(found.primary_key)}) now")
        # It keeps its name: dead letters and counts are kept by it.
        table = replace(found, schema=known.schema, name=known.name)
        mapping = self._map(known, table, settings)
        return _Followed(name=name, settings=settings, mapping=mapping, copied=known)

    def _dropped(self, copied: RecordedSchema) -> StopError:
        again = catalog.has_table(self._connection, copied.schema, copied.name)
        return recorded_schema.dropped(copied, made_again=again)

    def _map(self, copied: RecordedSchema, table: Table, settings: TableSettings) -> TableMapping:
        for name in copied.unplaced_vectors(table, settings):
            if settings.vectors != "none" and name in settings.vectors:
                raise UsageError(
                    f"vectors.{name}: {recorded_schema.unplaced([name])}",
                    hint=recorded_schema.UNPLACED_HINT,
                    table=copied.label,
                )
        table = copied.table_for(table)
        for name in settings.where:
            if name in copied.columns and name not in {c.name for c in table.columns}:
                raise _schema_changed(
                    copied, f"the column {name} of `where` was dropped or renamed"
                )
        chosen = copied.settings_for(table, settings)
        return map_table(table, chosen, self._dimensions(table, chosen))

    def look_again(self, label: str) -> tuple[TableMapping, TableSettings] | None:
        """The table as the catalog has it now, for whoever reads its rows; None if it is not ours.

        StopError `SCHEMA_CHANGED` if its rows would not fit any more. The stream is not affected.
        """
        for oid, followed in list(self._tables.items()):
            if label in (followed.name, followed.mapping.table.label):
                now = catalog.read_table_by_oid(self._connection, oid)
                if now is None:
                    raise self._dropped(followed.copied)
                self._require_essence(followed.copied, now.columns, numbered=True)
                mapping = self._map(followed.copied, now, followed.settings)
                return mapping, followed.settings
        return None

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

    def silent_changes(self, store: Records) -> dict[str, SilentChange]:
        """By table, what is other than when it was copied: columns that came, went, changed or have
        labels renamed; partitions that came or went.

        Rows that have not changed since keep what they had of them: DDL brings no events. What is not
        kept of a table yet is kept from now on.
        """
        before = silent_changes.load(store)
        found: dict[str, SilentChange] = {}
        for oid, followed in list(self._tables.items()):
            label = followed.copied.label
            table = catalog.read_table_by_oid(self._connection, oid)
            if table is None:
                continue
            now = table.columns
            beneath = look(self._connection, oid)
            then = before.get(label)
            if then is None:
                then = beneath
                silent_changes.save(store, label, beneath)
            columns = {*followed.copied.changed_columns(now), *then.renamed(beneath)}
            change = SilentChange(
                columns=sorted(columns),
                attached=then.attached(beneath),
                detached=then.detached(beneath),
                unplaced=followed.copied.unplaced_vectors(table, followed.settings),
            )
            if change.columns or change.attached or change.detached or change.unplaced:
                found[label] = change
        return found

    def as_copied(self, mapping: TableMapping) -> Copied:
        """The table as it is now, under the name that it has here."""
        copied = self._tables[mapping.table.oid].copied
        now = replace(RecordedSchema.of(mapping), schema=copied.schema, name=copied.name)
        return Copied(schema=now, beneath=look(self._connection, mapping.table.oid))

    def save_copied(self, store: Records, copied: Copied) -> None:
        """All rows were read since the table was so: later changes are measured against it."""
        schema = copied.schema
        recorded_schema.save(store, schema)
        silent_changes.save(store, schema.label, copied.beneath)
        self._tables[schema.oid] = replace(self._tables[schema.oid], copied=schema)

    # --- everything else -----------------------------------------------------------------------

    def require_sound(self, now: Callable[[], StreamState], *, timeline: int | None = None) -> None:
        """Slot, publication and collections are as this pipeline left them.

        `now`: the stream's state at the time of asking. It is asked after the slot was looked at: the
        stream goes on meanwhile, a slot never stands beyond the checkpoint of its time, and so not
        beyond a later one.

        `timeline`: the server's; on another one than the slot was made on, a missing slot is no loss
        of the server's, it was left behind.
        """
        slot = str(now().facts["slot"])
        found = slots.inspect_slot(self._connection, slot)
        state = now()
        if found is None and timeline not in (None, int(state.facts["timeline"])):
            raise source_changed(
                f"timeline {timeline} was begun without the replication slot {slot}: the server that "
                "was promoted did not keep it"
            )
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
        for oid, followed in list(self._tables.items()):
            # Before the publication, which has lost it too and cannot tell why.
            if not catalog.read_columns(self._connection, oid):
                raise self._dropped(followed.copied)
        recorded = publications.Publication.from_record(state.facts["publication"])
        publications.require_unchanged(
            recorded,
            publications.inspect_publication(self._connection, recorded.name),
            list(self._tables),
        )
        for followed in self._tables.values():
            self._require_collection(followed)

    def require_collection(self, label: str) -> None:
        """A table's collection is what it was: a point that it refuses has itself to blame then."""
        for followed in self._tables.values():
            if followed.mapping.table.label == label:
                self._require_collection(followed)

    def _require_collection(self, followed: _Followed) -> None:
        spec, before = followed.mapping.collection, followed.copied.collection
        state = self._target.collection(spec.name)
        if state is None and before != spec.name:
            raise recorded_schema.moved(followed.copied, spec.name)
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


def require_same_history(
    identity: SystemIdentity,
    history: tuple[TimelineSwitch, ...],
    state: StreamState,
) -> None:
    """The server is the cluster that Qdrant was filled from, and has not gone back behind that."""
    require_same_cluster(identity.system_id, str(state.facts["system_id"]))
    timeline = int(state.facts["timeline"])
    if not lies_on_history(state.reached, timeline, current=identity.timeline, history=history):
        raise source_changed(
            f"timeline {identity.timeline} left timeline {timeline} before {state.reached}, up to "
            "which changes may have been written"
        )
    if identity.flush_lsn < state.reached:
        raise source_changed(
            f"the server's log ends at {identity.flush_lsn}, before {state.reached}, up to which "
            "changes may have been written: was it restored to an earlier time?"
        )


def _essence(mapping: TableMapping) -> tuple[object, ...]:
    """What may not change of a mapping while its collection stays."""
    vectors = {
        vector.column: (vector.kind, vector.spec.name, vector.spec.shape, vector.spec.dimension)
        for vector in mapping.vectors
    }
    return mapping.key_columns, vectors


def _has_binary_form(column: Column) -> bool:
    return vector_kind(column) is not None or (
        binary_loader(column.type, ValuePolicy()) is not None
    )


def _schema_changed(copied: RecordedSchema, what: str) -> StopError:
    return StopError(
        f"{copied.label}: {what}",
        code="SCHEMA_CHANGED",
        table=copied.label,
        hint="change it back, or give the table another `collection` and copy everything again with "
        "qdrant-bridge resync --all",
    )
