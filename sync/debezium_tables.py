"""The tables behind the topics: how their messages are read, as the catalog has them now.

Nothing in a topic tells of a schema change, so the catalog is looked at every second. A column that was
dropped and made again under its name, or that changed its type, has values in older messages that are
not its own: these are not taken (`TableRows.untrusted`), the rows are read again. Key and vector columns
must stay as they were at the copy (`SCHEMA_CHANGED`).

Without a Postgres url the catalog is what was recorded when there was one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from bridge import recorded_schema, recorded_table
from bridge.config_tables import TableSettings
from bridge.errors import StopError, Unreachable, UsageError
from bridge.map_table import map_table
from bridge.map_vectors import undimensioned_columns
from bridge.mapping import TableMapping
from bridge.postgres import catalog, identities
from bridge.postgres.connection import Connection, connect
from bridge.qdrant.state import QdrantState
from bridge.qdrant.target import Target
from bridge.recorded_schema import RecordedSchema
from bridge.schema import Column, Table
from sync.checks import SourceChecks
from sync.debezium import Happened
from sync.debezium_cluster import Cluster
from sync.debezium_modes import Modes
from sync.debezium_rows import TableRows

LOOK_SECONDS = 1.0

Columns = Mapping[str, tuple[int, int]]
"""By name: attnum and type OID, which tell one column from another of its name."""


@dataclass(slots=True, kw_only=True)
class _Followed:
    name: str
    rows: TableRows
    columns: Columns
    full: bool
    ignored: dict[str, int] = field(default_factory=dict)
    """Fields without a column, and up to which position in the log that is known."""
    places: set[tuple[str | None, str | None]] = field(default_factory=set)


class TopicTables:
    """What each topic's messages are about; `topics` names tables of `tables`."""

    def __init__(
        self,
        tables: Mapping[str, TableSettings],
        topics: Mapping[str, str],
        modes: Modes,
        *,
        postgres_url: str | None,
        allow_plaintext: bool,
        target: Target,
        store: QdrantState,
        tell: Callable[..., None] = lambda event, **fields: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = tables
        self._topics = dict(topics)
        self._modes = modes
        self._url = postgres_url
        self._allow_plaintext = allow_plaintext
        self._target = target
        self._store = store
        self._tell = tell
        self._clock = clock
        self._connection: Connection | None = None
        self._checks: SourceChecks | None = None
        self._followed: dict[str, _Followed] = {}
        self._looked_at = clock()
        self.cluster = Cluster(store)

    def open(self) -> None:
        """Read the catalog; the tables are then as they are now."""
        copied = recorded_schema.load(self._store)
        if self._url is None:
            for name in self._tables_read():
                self._followed[name] = self._recorded(name, copied)
            return
        self.close()
        self._connection = connect(self._url, allow_plaintext=self._allow_plaintext)
        self.cluster.require(self._connection)
        # It owns its connection.
        self._checks = SourceChecks(
            connect(self._url, allow_plaintext=self._allow_plaintext),
            {name: self._settings[name] for name in self._tables_read()},
            self._target,
            copied,
        )
        for name in self._tables_read():
            self._followed[name] = self._read(name, copied)

    def close(self) -> None:
        """Close the connections, if there are any."""
        if self._checks is not None:
            self._checks.close()
        if self._connection is not None:
            self._connection.close()
        self._checks = self._connection = None

    def _tables_read(self) -> list[str]:
        return list(dict.fromkeys(self._topics.values()))

    # --- what a message is about ---------------------------------------------------------------

    def rows(self, topic: str, told: Happened) -> TableRows:
        """How to read this message's row. StopError if it is another table's."""
        followed = self._followed[self._topics[topic]]
        if told.table_name is not None:
            self._require_table(topic, followed, told)
        unknown = followed.rows.unknown_fields(told)
        if unknown and not all(_is_ignored(followed, name, told) for name in unknown):
            followed = self._learn(followed, unknown)
        return followed.rows

    def table(self, topic: str) -> TableRows:
        """The topic's table."""
        return self._followed[self._topics[topic]].rows

    def mapping(self, label: str) -> TableMapping:
        """A table's mapping, by its label."""
        for followed in self._followed.values():
            if followed.rows.table.relation.label == label:
                return followed.rows.table.mapping
        raise KeyError(label)

    def settings(self, label: str) -> TableSettings:
        """A table's settings, by its label."""
        for name, followed in self._followed.items():
            if followed.rows.table.relation.label == label:
                return self._settings[name]
        raise KeyError(label)

    def _require_table(self, topic: str, followed: _Followed, told: Happened) -> None:
        found = (told.schema_name, told.table_name)
        if found in followed.places:
            return
        table = followed.rows.table.mapping.table
        leaves = {(schema, name) for _oid, schema, name in table.partitions}
        places = {(table.schema, table.name), *leaves}
        # A flattened row may tell its table's name only.
        nameless = told.schema_name is None and found[1] in {name for _schema, name in places}
        if found in places or nameless or self._was_renamed(table, told):
            followed.places.add(found)
            return
        raise StopError(
            f"the topic {topic} has changes of {told.schema_name}.{told.table_name} as well as of "
            f"{table.label}",
            code="TOPIC_SHARED",
            table=table.label,
            hint="each table needs a topic of its own: names that differ only in characters that topics "
            "do not have are told apart by a transform of the connector",
        )

    def _was_renamed(self, table: Table, told: Happened) -> bool:
        """Whether the message's name is the one that the table has now."""
        if self._connection is None:
            return False
        now = catalog.read_table_by_oid(self._connection, table.oid)
        return now is not None and (now.schema, now.name) == (told.schema_name, told.table_name)

    def _learn(self, followed: _Followed, unknown: set[str]) -> _Followed:
        """Fields that the table does not have: it may have changed this moment, or since."""
        if self._url is not None and self._connection is None:
            raise Unreachable("Postgres cannot be asked what the table has become")
        if self._connection is None:
            raise StopError(
                f"{followed.rows.table.relation.label}: the topic has columns that were not recorded "
                f"({', '.join(sorted(unknown))}), and there is no Postgres url to ask for their types",
                code="SCHEMA_CHANGED",
                table=followed.rows.table.relation.label,
                hint="start once with postgres.url, or leave them out with column.exclude.list",
            )
        # Before the catalog is read: a column that is made afterwards lies behind it in the log.
        position = identities.insert_position(self._connection).value
        now = self._refresh(followed)
        left = unknown - now.rows.names
        fresh = left - now.ignored.keys()
        now.ignored.update(dict.fromkeys(left, position))
        if fresh:
            # Dropped or renamed since the message was written.
            self._tell(
                "columns_passed_over",
                table=now.rows.table.relation.label,
                columns=", ".join(sorted(fresh)),
            )
        return now

    # --- the catalog ---------------------------------------------------------------------------

    def look(self) -> None:
        """Once a second: take note of schema changes. An outage of Postgres is passed over: what it
        changes meanwhile is seen at the next look, and rows are not read again without it."""
        if self._url is None or self._clock() - self._looked_at < LOOK_SECONDS:
            return
        self._looked_at = self._clock()
        try:
            if self._connection is None:
                self.open()
            for followed in list(self._followed.values()):
                self._refresh(followed)
        except Unreachable as error:
            self._tell("source_unseen", reason=error.message)
            self.close()

    def _refresh(self, followed: _Followed) -> _Followed:
        assert self._connection is not None  # noqa: S101 - callers look first
        table = followed.rows.table.mapping.table
        now = _identities(catalog.read_columns(self._connection, table.oid))
        full = identities.replica_identity(self._connection, table.oid) == "f"
        if now == followed.columns and full == followed.full:
            return followed
        fresh = self._again(followed.name, now, full, followed)
        self._followed[followed.name] = fresh
        self._tell("schema_changed", table=table.label)
        return fresh

    def _again(self, name: str, now: Columns, full: bool, before: _Followed) -> _Followed:
        assert self._connection is not None and self._checks is not None  # noqa: S101
        position = identities.insert_position(self._connection).value
        found = self._checks.look_again(name)
        if found is None:
            raise UsageError(f"the table {name} is not configured any more")
        changed = {column for column in now if now[column] != before.columns.get(column)}
        untrusted = {**before.rows.untrusted, **dict.fromkeys(changed, position)}
        return self._make(name, found[0], now, full, untrusted)

    def _read(self, name: str, copied: Mapping[int, RecordedSchema]) -> _Followed:
        assert self._connection is not None and self._checks is not None  # noqa: S101
        found = self._checks.look_again(name)
        if found is None:
            raise UsageError(f"the table {name} is not configured any more")
        mapping, oid = found[0], found[0].table.oid
        now = _identities(catalog.read_columns(self._connection, oid))
        full = identities.replica_identity(self._connection, oid) == "f"
        untrusted: dict[str, int] = {}
        known = copied.get(oid)
        if known is not None:
            position = identities.insert_position(self._connection).value
            then = {n: (c.number, c.type_oid) for n, c in known.columns.items()}
            untrusted = {column: position for column in now if now[column] != then.get(column)}
        record = recorded_table.to_record(mapping.table, full=full)
        self._store.put("stream", f"{recorded_table.PREFIX}{name}", record)
        return self._make(name, mapping, now, full, untrusted)

    def _make(
        self,
        name: str,
        mapping: TableMapping,
        columns: Columns,
        full: bool,
        untrusted: Mapping[str, int],
    ) -> _Followed:
        rows = TableRows.of(mapping, self._modes, full=full, untrusted=untrusted)
        return _Followed(name=name, rows=rows, columns=columns, full=full)

    def _recorded(self, name: str, copied: Mapping[int, RecordedSchema]) -> _Followed:
        """The table as it was recorded."""
        record = self._store.get("stream", f"{recorded_table.PREFIX}{name}")
        if record is None:
            raise UsageError(
                f"the columns of {name} are not known",
                hint="start once with postgres.url: the catalog tells the types",
            )
        table, full = recorded_table.from_record(record)
        settings = self._settings[name]
        known = copied.get(table.oid)
        if known is not None:
            settings = known.settings_for(table, settings)
        mapping = map_table(table, settings, self._dimensions(table, settings))
        return self._make(name, mapping, _identities(table.columns), full, {})

    def _dimensions(self, table: Table, settings: TableSettings) -> dict[str, int]:
        """Of columns that declare none: what the collection has."""
        state = self._target.collection(settings.collection or table.name)
        found = {} if state is None else {v.name: v.dimension for v in state.vectors}
        chosen = {} if settings.vectors == "none" else settings.vectors
        dimensions: dict[str, int] = {}
        for column in undimensioned_columns(table, settings):
            own = chosen.get(column.name)
            named = column.name if own is None or own.name is None else own.name
            dimension = found.get(named)
            if dimension is not None:
                dimensions[column.name] = dimension
        return dimensions


def _is_ignored(followed: _Followed, name: str, told: Happened) -> bool:
    """Whether the field is known to have no column; one of that name may have been made since."""
    upto = followed.ignored.get(name)
    return upto is not None and (told.lsn is None or told.lsn < upto)


def _identities(columns: tuple[Column, ...]) -> dict[str, tuple[int, int]]:
    return {column.name: (column.number, column.type.oid) for column in columns}
