"""What `doctor` says of a connector, its topics and the tables behind them. Pure.

A blocker loses data, or kills the connector for good; a warning costs (rows are read again) or keeps
something from coming. Each says which setting of which side mends it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from bridge.findings import Finding, Level
from bridge.map_vectors import vector_kind
from bridge.mapping import TableMapping
from bridge.schema import Column, Table
from sync.connect import Connector
from sync.debezium_modes import Modes, depends_on_modes

TOAST_BYTES = 2000
"""About where a row's longest values leave it (TOAST_TUPLE_THRESHOLD)."""
SHORT_RETENTION_MS = 24 * 3600 * 1000
_JSON = "org.apache.kafka.connect.json.JsonConverter"
_FLATTENED = ("ExtractNewRecordState",)
_NOT_IN_TOPICS = re.compile(r"[^a-zA-Z0-9._-]")
_COMPONENT_BYTES = {"vector": 4, "halfvec": 2}


@dataclass(frozen=True, slots=True, kw_only=True)
class Followed:
    """A table behind a topic. `full`: its replica identity is FULL."""

    mapping: TableMapping
    full: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicFacts:
    """A topic as Kafka has it. `settings`: its configuration, as far as it is known."""

    name: str
    partitions: int
    begin: tuple[int, ...]
    settings: Mapping[str, str]


def check_tables(
    tables: Sequence[Followed], others: Iterable[tuple[str, str]], *, postgres: bool
) -> list[Finding]:
    """The tables, whatever the connector. `others`: schema and name of every table of the database."""
    findings = [one for followed in tables for one in _toast(followed)]
    findings += [one for f in tables for one in _arrays(f.mapping, postgres)]
    findings += _shared([f.mapping.table for f in tables], list(others))
    return findings


def _toast(followed: Followed) -> list[Finding]:
    """A NOT NULL vector that an update leaves untouched arrives as a null, which is not allowed."""
    label = followed.mapping.table.label
    return [
        _blocker(
            "kafka.toast",
            f"{label}.{column.name} is NOT NULL and may be TOASTed: the first update that leaves it alone "
            "ends the connector's task for good",
            f"ALTER TABLE {label} REPLICA IDENTITY FULL, before the connector reads a change; or ALTER "
            f"TABLE {label} ALTER COLUMN {column.name} DROP NOT NULL",
        )
        for column in followed.mapping.table.columns
        if column.not_null and not followed.full and _may_be_long(column)
    ]


def _may_be_long(column: Column) -> bool:
    kind = vector_kind(column)
    if kind is None:
        return False
    if column.type.name not in _COMPONENT_BYTES:
        return column.type.name != "bit"  # sparse vectors and arrays have no bound
    dimension = column.type.modifier
    return dimension <= 0 or _COMPONENT_BYTES[column.type.name] * dimension >= TOAST_BYTES


def _arrays(mapping: TableMapping, postgres: bool) -> list[Finding]:
    """Debezium destroys arrays of more than one dimension; nobody can tell which columns have them."""
    names = sorted(item.column for item in mapping.payload if item.type.kind == "array")
    if not names or postgres:
        return []
    return [
        _blocker(
            "kafka.arrays",
            f"{mapping.table.label}: {', '.join(names)} may hold nested arrays, which Debezium destroys",
            "postgres.url, so that such rows are read again; or leave the columns out",
        )
    ]


def _shared(tables: Sequence[Table], others: Sequence[tuple[str, str]]) -> list[Finding]:
    """Tables whose names are one topic's."""
    findings: list[Finding] = []
    for table in tables:
        mine = topic_name(table.schema, table.name)
        alike = sorted(
            f"{schema}.{name}"
            for schema, name in others
            if topic_name(schema, name) == mine and (schema, name) != (table.schema, table.name)
        )
        if alike:
            findings.append(
                _blocker(
                    "kafka.shared_topic",
                    f"{table.label} and {', '.join(alike)} are one topic to Debezium",
                    "leave the others out of the connector (table.include.list), or rename one",
                )
            )
    return findings


def topic_name(schema: str, name: str) -> str:
    """A table's topic, behind the prefix: characters that topics do not have become underscores."""
    return _NOT_IN_TOPICS.sub("_", f"{schema}.{name}")


# --- the connector ---------------------------------------------------------------------------------


def check_connector(
    connector: Connector, tables: Sequence[Followed], *, copied: bool, never_truncated: bool
) -> list[Finding]:
    """The connector's state and settings."""
    config, modes = connector.config, Modes.of_connector(connector.config)
    findings = [_state(connector), *_converters(config), *_snapshot(config, copied)]
    findings += _truncates(config, never_truncated)
    if any(
        key.endswith("delete.tombstone.handling.mode") and value == "drop"
        for key, value in config.items()
    ):
        findings.append(
            _blocker(
                "kafka.tombstones",
                "delete.tombstone.handling.mode=drop: deletes never come, nor old keys",
                "delete.tombstone.handling.mode=rewrite or tombstone",
            )
        )
    if config.get("tombstones.on.delete", "true").lower() == "false" and _flattened(config):
        findings.append(
            _blocker(
                "kafka.tombstones",
                "tombstones.on.delete=false with flattened rows: deletes never come",
                "tombstones.on.delete=true",
            )
        )
    for followed in tables:
        findings += _modes(followed.mapping, modes)
    return findings


def _state(connector: Connector) -> Finding:
    if connector.failed:
        return _blocker(
            "kafka.connector",
            f"the connector {connector.name} has failed: {connector.trace}",
            "mend the reason, then restart its task",
        )
    if "RUNNING" not in connector.states:
        states = ", ".join(connector.states) or "without a task"
        return _warning(
            "kafka.connector", f"the connector {connector.name} is {states}", "resume it"
        )
    return _ok("kafka.connector", f"the connector {connector.name} is running")


def _converters(config: Mapping[str, str]) -> list[Finding]:
    return [
        _blocker(
            "kafka.converters", f"{key}={config[key]}: only JSON is read here", f"{key}={_JSON}"
        )
        for key in ("key.converter", "value.converter")
        if config.get(key, _JSON) != _JSON
    ]


def _snapshot(config: Mapping[str, str], copied: bool) -> list[Finding]:
    mode = config.get("snapshot.mode", "initial")
    without_rows = mode in ("no_data", "never", "schema_only")
    if copied and not without_rows:
        return [
            _blocker(
                "kafka.snapshot_mode",
                f"snapshot.mode={mode} sends every row through Kafka, and the bridge copies them as well",
                "snapshot.mode=no_data, or kafka.existing_rows: snapshot",
            )
        ]
    if not copied and without_rows:
        return [
            _blocker(
                "kafka.snapshot_mode",
                f"snapshot.mode={mode}: rows that are there would never come",
                "snapshot.mode=initial, or kafka.existing_rows: copied",
            )
        ]
    return []


def _truncates(config: Mapping[str, str], never_truncated: bool) -> list[Finding]:
    skipped = {part.strip() for part in config.get("skipped.operations", "t").split(",")}
    if never_truncated:
        return []
    if _flattened(config):
        return [
            _blocker(
                "kafka.truncates",
                "ExtractNewRecordState drops truncates: the points of truncated rows would stay",
                "leave the transform out; or kafka.never_truncated: true if no table ever is",
            )
        ]
    if "t" in skipped:
        return [
            _blocker(
                "kafka.truncates",
                "skipped.operations has t, as by default: the points of truncated rows would stay",
                "skipped.operations=none; or kafka.never_truncated: true if no table ever is",
            )
        ]
    return []


def _flattened(config: Mapping[str, str]) -> bool:
    return any(
        key.startswith("transforms.") and key.endswith(".type") and value.endswith(_FLATTENED)
        for key, value in config.items()
    )


def _modes(mapping: TableMapping, modes: Modes) -> list[Finding]:
    """Modes under which rows of this table have to be read again, or keys cannot be read."""
    label, findings = mapping.table.label, list[Finding]()
    types = {item.column: item.type.name for item in mapping.payload}
    keys = {column.column: column.type.name for column in mapping.key}

    def named(*names: str) -> str:
        return ", ".join(sorted(column for column, name in types.items() if name in names))

    if modes.decimal == "double" and "numeric" in keys.values():
        findings.append(
            _blocker(
                "kafka.modes",
                f"{label}: decimal.handling.mode=double rounds the key",
                "decimal.handling.mode=string",
            )
        )
    for wrong, columns, setting, better in (
        (modes.decimal == "precise", named("numeric"), "decimal.handling.mode=precise", "string"),
        (modes.interval == "numeric", named("interval"), "interval.handling.mode=numeric", "string"),
        (modes.time == "connect", named("timestamp", "time"), "time.precision.mode=connect", "adaptive"),
        (modes.time == "isostring", named("time"), "time.precision.mode=isostring", "adaptive"),
        (modes.time == "nanoseconds", named("timestamp"), "time.precision.mode=nanoseconds", "adaptive"),
        (not modes.unknown_types, named("name"), "include.unknown.datatypes=false", "true"),
    ):  # fmt: skip
        if wrong and columns:
            name = setting.partition("=")[0]
            findings.append(
                _warning(
                    "kafka.modes",
                    f"{label}: under {setting} some values of {columns} are not told, and their rows are "
                    "read again",
                    f"{name}={better}",
                )
            )
    return findings


def check_untold_modes(tables: Sequence[Followed]) -> list[Finding]:
    """Nobody says what the connector's modes are."""
    return [
        _warning(
            "kafka.modes",
            f"{followed.mapping.table.label}: messages without schemas cannot be understood without the "
            "connector's modes",
            "kafka.connect_url and kafka.connector, or kafka.modes",
        )
        for followed in tables
        if any(depends_on_modes(item.type) for item in followed.mapping.payload)
    ]


# --- topics ----------------------------------------------------------------------------------------


def check_topic(
    topic: TopicFacts, *, copied: bool, postgres: bool, never_truncated: bool
) -> list[Finding]:
    """A topic's partitions and what it keeps."""
    findings = [_ok("kafka.topics", f"{topic.name} has {topic.partitions} partitions")]
    if topic.partitions > 1 and not postgres and not never_truncated:
        findings.append(
            _blocker(
                "kafka.topics",
                f"{topic.name} has {topic.partitions} partitions: a truncate cannot be followed without "
                "Postgres",
                "postgres.url; or kafka.never_truncated: true",
            )
        )
    if not copied and any(topic.begin):
        findings.append(
            _blocker(
                "kafka.retention",
                f"{topic.name} has lost its first messages, and with them rows of the snapshot",
                "kafka.existing_rows: copied",
            )
        )
    retention = topic.settings.get("retention.ms")
    deletes = "delete" in topic.settings.get("cleanup.policy", "delete")
    if deletes and retention is not None and 0 <= int(retention) < SHORT_RETENTION_MS:
        findings.append(
            _warning(
                "kafka.retention",
                f"{topic.name} keeps messages for {int(retention) / 3_600_000:.1f} h: an outage that lasts "
                "longer loses changes (GAP)",
                "retention.ms=604800000, or cleanup.policy=compact",
            )
        )
    return findings


def _finding(level: Level, check: str, message: str, remedy: str) -> Finding:
    return Finding(level=level, check=check, message=message, remedy=remedy)


def _ok(check: str, message: str) -> Finding:
    return _finding("ok", check, message, "")


def _warning(check: str, message: str, remedy: str) -> Finding:
    return _finding("warning", check, message, remedy)


def _blocker(check: str, message: str, remedy: str) -> Finding:
    return _finding("blocker", check, message, remedy)
