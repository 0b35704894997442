"""What `doctor` looks at where the changes come from Postgres: the stream to be made, or the one there is.

A stream that is there is looked at as the daemon does on connecting (`sync.checks`), and nothing is
written: what would stop the next start is a finding now. Without `sync:` in the configuration nothing of
it concerns a copy, so that nothing of it blocks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from bridge import recorded_schema
from bridge.config import Settings, TableSettings
from bridge.errors import BridgeError, StopError
from bridge.findings import Finding
from bridge.mapping import TableMapping
from bridge.ownership import require_claimable
from bridge.positions import Lsn
from bridge.postgres.catalog import ServerFacts
from bridge.postgres.connection import Connection, connect, translated
from bridge.postgres.stream_checks import StreamNames, check_stream
from bridge.postgres.walsender import SystemIdentity
from bridge.qdrant.state import QdrantState
from bridge.qdrant.target import Target
from bridge.recorded_schema import RecordedSchema
from bridge.status import read_stream
from bridge.stream_state import StreamState
from bridge.table_names import parse_table_name
from cli.places import pipeline_name, postgres_url
from sync.checks import SourceChecks, require_same_history


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """What the pipeline's records say, read once: its stream if it has one, its tables by OID."""

    target: Target
    store: QdrantState
    begun: bool
    stream: StreamState | None
    copied: Mapping[int, RecordedSchema]

    @classmethod
    def read(cls, target: Target, settings: Settings) -> Recorded:
        """BridgeError if the target does not tell."""
        store = QdrantState(target, pipeline_name(settings))
        begun = store.exists()
        stream = read_stream(store) if begun else None
        copied = recorded_schema.load(store) if begun else {}
        return cls(target=target, store=store, begun=begun, stream=stream, copied=copied)

    def label(self, mapping: TableMapping) -> str:
        """The table's name in the records, which it keeps when it is renamed."""
        known = self.copied.get(mapping.table.oid)
        return mapping.table.label if known is None else known.label

    def is_streamed(self, mapping: TableMapping) -> bool:
        """Whether the stream follows the table already, so that its collection must be there."""
        stream = self.stream
        if stream is None or stream.phase == "backfill":
            return False
        return mapping.table.oid in stream.facts["tables"].values()

    def owner_finding(self, mapping: TableMapping) -> Finding | None:
        """What blocks if somebody else's points are in the collection."""
        name = mapping.collection.name
        owner = self.store.get("owner", name) if self.begun else None
        try:
            require_claimable(self.store.pipeline, self.label(mapping), name, owner)
        except StopError as error:
            return _blocker("target.collection", error)
        return None


def examine_stream(
    connection: Connection,
    facts: ServerFacts,
    settings: Settings,
    recorded: Recorded | None,
    mappings: Sequence[TableMapping],
) -> list[Finding]:
    """Whether the changes can be followed. `recorded` is None where Qdrant does not tell."""
    stream = None if recorded is None else recorded.stream
    if recorded is not None and stream is not None:
        return _examine_made(connection, facts, settings, recorded, stream, mappings)
    names = _names(settings, made=None if recorded is None else False)
    findings = check_stream(connection, facts, names, mappings)
    if settings.sync is not None:
        return findings
    return [_for_a_stream_only(finding) for finding in findings if finding.level != "ok"]


def _names(settings: Settings, *, made: bool | None) -> StreamNames:
    pipeline = pipeline_name(settings)
    sync = settings.sync
    named_after = f"bridge_{pipeline}"
    return StreamNames(
        slot=(sync and sync.slot) or named_after,
        publication=(sync and sync.publication) or named_after,
        pipeline=pipeline,
        made=made,
    )


def _for_a_stream_only(finding: Finding) -> Finding:
    told = f"{finding.message} (only for run and sync; a copy does without)"
    return replace(finding, level="warning", message=told)


# --- a stream that is there ------------------------------------------------------------------------


def _examine_made(
    connection: Connection,
    facts: ServerFacts,
    settings: Settings,
    recorded: Recorded,
    stream: StreamState,
    mappings: Sequence[TableMapping],
) -> list[Finding]:
    try:
        _require_same_source(connection, facts, stream)
    except BridgeError as error:
        # Whatever else another cluster lacks is not its fault.
        return [_blocker("stream.source", error)]
    names = StreamNames(
        slot=str(stream.facts["slot"]),
        publication=str(stream.facts["publication"]["name"]),
        pipeline=recorded.store.pipeline,
        made=True,
    )
    findings = _as_the_daemon(facts, settings, recorded, stream, mappings)
    told = {finding.check for finding in findings}
    others = check_stream(connection, facts, names, mappings)
    return findings + [f for f in others if f.check not in told and (f.level != "ok" or not told)]


def _require_same_source(connection: Connection, facts: ServerFacts, stream: StreamState) -> None:
    recorded_timeline = int(stream.facts["timeline"])
    if facts.system_identifier is None or facts.in_recovery:
        return  # each is a finding of its own
    with translated(connection=connection):
        row = connection.execute("SELECT pg_catalog.pg_current_wal_flush_lsn()::text").fetchone()
    assert row is not None  # noqa: S101 - a SELECT without FROM returns one row
    identity = SystemIdentity(
        system_id=str(facts.system_identifier),
        # Whether a promoted standby lies on our history, only a replication connection tells.
        timeline=recorded_timeline,
        flush_lsn=Lsn.parse(row[0]),
        database=connection.info.dbname,
    )
    require_same_history(identity, (), stream)


def _as_the_daemon(
    facts: ServerFacts,
    settings: Settings,
    recorded: Recorded,
    stream: StreamState,
    mappings: Sequence[TableMapping],
) -> list[Finding]:
    """The first thing that the daemon would stop with on connecting, if there is one."""
    try:
        checks = SourceChecks(
            connect(postgres_url(settings), allow_plaintext=settings.allow_plaintext),
            _followed(settings, recorded, stream, mappings),
            recorded.target,
            recorded.copied,
        )
    except BridgeError as error:
        return [_judged(error)]
    try:
        checks.require_sound(lambda: read_stream(recorded.store) or stream, timeline=facts.timeline)
    except BridgeError as error:
        return [_judged(error)]
    finally:
        checks.close()
    return []


def _followed(
    settings: Settings,
    recorded: Recorded,
    stream: StreamState,
    mappings: Sequence[TableMapping],
) -> dict[str, TableSettings]:
    """The tables that the stream has. One that came later, or was dropped and made again, is taken in
    at the start; one that cannot be mapped is a finding already; a collection that the copy has not come
    to is not gone."""
    there = {mapping.table.oid for mapping in mappings}
    followed = {}
    for name, table in settings.tables.items():
        parsed = parse_table_name(name)
        known = next((one for one in recorded.copied.values() if one.is_called(*parsed)), None)
        if known is None or known.oid not in there:
            continue
        collection = settings.collection_of(name)
        if stream.phase != "backfill" or recorded.target.collection(collection) is not None:
            followed[name] = table
    return followed


def _judged(error: BridgeError) -> Finding:
    match error.code:
        case "SLOT_LOST" | "GAP" | "SLOT_IN_USE":
            return _blocker("stream.slot", error)
        case "PUBLICATION_CHANGED":
            return _blocker("stream.publication", error)
        case "TARGET_CHANGED":
            return _blocker("target.collection", error)
        case "SOURCE_CHANGED":
            return _blocker("stream.source", error)
        case _:
            return _blocker("stream.table", error)


def _blocker(check: str, error: BridgeError) -> Finding:
    return Finding(
        level="blocker", check=check, message=error.message, remedy=error.hint, code=error.code
    )
