"""Tables that a running stream did not have, and a stream that must begin again.

`extend_stream` notices tables of the configuration that the pipeline does not follow yet, or not in this
incarnation (dropped and made again): they join the publication, and a request to copy them into the
running stream is left for the daemon (design.md section 5.5). `begin_again` is what remains when changes
are lost for good: another slot, and such a request for every table.

What a crash leaves: requests that lie in the state before the record is changed, so that no table ever
counts as followed without one. Both may be repeated at any point.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from backfill.pgvector import now
from backfill.preflight import Inspection, check_target, inspect, require_fit
from backfill.resume import fingerprint_of
from bridge import recorded_schema, requests
from bridge.config_tables import TableSettings
from bridge.failpoints import failpoint
from bridge.ownership import claim, owner_record, require_claimable
from bridge.postgres import catalog, publications, slots
from bridge.postgres.connection import Connection, connect
from bridge.postgres.publications import Publication
from bridge.postgres.slots import Blocker
from bridge.postgres.timelines import require_same_cluster
from bridge.qdrant.state import QdrantState
from bridge.qdrant.target import Target
from bridge.recorded_schema import RecordedSchema
from bridge.requests import Request
from bridge.schema import Table
from bridge.state import Source, TablePlan
from bridge.stream_state import RECORD_NAME, StreamState
from bridge.table_names import parse_table_name

OnWait = Callable[[Sequence[Blocker]], None]


def extend_stream(
    postgres_url: str,
    tables: Mapping[str, TableSettings],
    state: StreamState,
    *,
    target: Target,
    store: QdrantState,
    create_collection: bool = True,
    allow_plaintext: bool = False,
    on_wait: OnWait = lambda blockers: None,
) -> StreamState:
    """The state with all of these tables followed. For the holder of the pipeline.

    During the first copy nothing is requested: the new table is copied like the others, after every
    transaction has ended that may have changed it before it was published.

    UsageError if a table cannot be followed as it is, with the statement that mends it; StopError
    `PUBLICATION_CHANGED` if the publication is not what it was.
    """
    with connect(postgres_url, allow_plaintext=allow_plaintext, read_only=False) as connection:
        cluster = catalog.server_facts(connection).system_identifier
        if cluster is not None:
            # First of all: another cluster has other tables, none of them new.
            require_same_cluster(str(cluster), str(state.facts["system_id"]))
        copied = recorded_schema.load(store)
        found = {name: _find(connection, name, copied) for name in tables}
        known = state.facts["tables"]
        new = {name: table for name, table in found.items() if known.get(table.label) != table.oid}
        if not new:
            return state
        inspections = _inspect(connection, {name: tables[name] for name in new}, target)
        publication = _publish(connection, state, list(found.values()), list(new.values()), store)
        failpoint("extension.after_publication")
        if state.phase == "backfill":
            snapshot = slots.current_snapshot(connection)
            slots.wait_for_transactions(connection, snapshot, on_wait=on_wait)
        else:
            for inspection in inspections:
                _own(inspection, target, store, create_collection)
                _plan(connection, inspection, state, target, store)
            _request_all(store, inspections, reason="added")
    added = {*state.facts.get("added", ()), *(table.label for table in new.values())}
    facts = {
        **state.facts,
        "publication": publication.to_record(),
        "tables": {**known, **{table.label: table.oid for table in new.values()}},
        "added": sorted(added) if state.phase != "backfill" else [],
    }
    extended = replace(state, facts=facts)
    for inspection in inspections:
        recorded_schema.save(store, RecordedSchema.of(inspection.mapping))
    failpoint("extension.before_record")
    store.put("stream", RECORD_NAME, extended.to_record())
    return extended


def begin_again(
    postgres_url: str,
    tables: Mapping[str, TableSettings],
    state: StreamState,
    *,
    publication: str,
    target: Target,
    store: QdrantState,
    create_collection: bool = True,
    allow_plaintext: bool = False,
    waited_for: bool = False,
    on_wait: OnWait = lambda blockers: None,
) -> tuple[StreamState, list[Request]]:
    """Another slot, a publication that fits, and a request for every table. For the holder.

    What is left of the old slot is dropped; the publication is kept if it fits or is not ours.
    """
    with connect(postgres_url, allow_plaintext=allow_plaintext, read_only=False) as connection:
        inspections = _inspect(connection, tables, target)
        for inspection in inspections:
            _own(inspection, target, store, create_collection)
        asked = _request_all(store, inspections, reason="again", waited_for=waited_for)
        slot = str(state.facts["slot"])
        found = publications.inspect_publication(connection, publication)
        theirs = found is not None and found.pipeline != store.pipeline
        slots.drop(
            connection,
            slot=slot,
            publication="" if theirs else publication,
            pipeline=store.pipeline,
        )
        failpoint("extension.after_drop")
        facts = slots.prepare(
            connection,
            slot=slot,
            publication=publication,
            tables=[inspection.table for inspection in inspections],
            pipeline=store.pipeline,
            on_wait=on_wait,
        )
    failpoint("extension.before_record")
    for inspection in inspections:
        recorded_schema.save(store, RecordedSchema.of(inspection.mapping))
    begun = StreamState(
        facts={**facts.to_record(), "added": [i.table.label for i in inspections]},
        checkpoint=facts.start_lsn,
        phase="catching_up",
        tables=state.tables,
    )
    store.put("stream", RECORD_NAME, begun.to_record())
    return begun, asked


def _find(connection: Connection, name: str, copied: Mapping[int, RecordedSchema]) -> Table:
    """The table that the configuration means: the one that was copied, if it was renamed since."""
    parsed = parse_table_name(name)
    known = next((one for one in copied.values() if one.is_called(*parsed)), None)
    table = None if known is None else catalog.read_table_by_oid(connection, known.oid)
    if known is None or table is None:
        if known is not None and not catalog.has_table(connection, known.schema, known.name):
            raise recorded_schema.dropped(known, made_again=False)
        return catalog.read_table(connection, *parsed)
    return replace(table, schema=known.schema, name=known.name)


def _inspect(
    connection: Connection, tables: Mapping[str, TableSettings], target: Target
) -> list[Inspection]:
    found = [inspect(connection, name, settings) for name, settings in tables.items()]
    for inspection in found:
        inspection.require_sound()
        require_fit(check_target(target, inspection.mapping.collection, create=True)[1])
    return found


def _publish(
    connection: Connection,
    state: StreamState,
    tables: Sequence[Table],
    new: Sequence[Table],
    store: QdrantState,
) -> Publication:
    """The publication with the new tables in it. What it was for the others must not have changed."""
    recorded = Publication.from_record(state.facts["publication"])
    found = publications.inspect_publication(connection, recorded.name)
    fresh = {table.oid for table in new}
    others = [table.oid for table in tables if table.oid not in fresh]
    publications.require_unchanged(recorded, found, others)
    assert found is not None  # noqa: S101 - or it would have changed
    missing = [table for table in new if found.member(table.oid) is None]
    if missing and found.pipeline == store.pipeline:
        publications.add_tables(connection, recorded.name, missing)
        again = publications.inspect_publication(connection, recorded.name)
        found = found if again is None else again
    publications.require_fitting(found, tables, pipeline=store.pipeline)
    return found


def _own(
    inspection: Inspection, target: Target, store: QdrantState, create_collection: bool
) -> None:
    """The collection, and whose it is."""
    spec, label = inspection.mapping.collection, inspection.table.label
    found, finding = check_target(target, spec, create=create_collection)
    require_fit(finding)
    points = 0 if found is None else target.count(spec.name)
    require_claimable(store.pipeline, label, spec.name, claim(store, spec.name, label, points))
    if found is None:
        # Whatever was in it before, nothing of other origin is now.
        store.put("owner", spec.name, owner_record(store.pipeline, label, points))
    target.create_collection(spec)


def _plan(
    connection: Connection,
    inspection: Inspection,
    state: StreamState,
    target: Target,
    store: QdrantState,
) -> None:
    """A plan of one chunk, which is done when the request is: for `status`, and for later starts."""
    label, collection = inspection.table.label, inspection.mapping.collection.name
    plan = TablePlan(
        source=Source(
            system_id=str(state.facts["system_id"]),
            database=connection.info.dbname,
            table=label,
            table_oid=inspection.table.oid,
        ),
        collection=collection,
        key=inspection.mapping.key_columns,
        bounds=(),
        fingerprint=fingerprint_of(inspection),
        points_before=target.count(collection),
        rows_before=None,
        created_at=now(),
    )
    old = [name for name, _record in store.records("chunk") if name.startswith(f"{label}/")]
    store.remove("chunk", old)
    store.put("plan", label, plan.to_record())


def _request_all(
    store: QdrantState,
    inspections: Sequence[Inspection],
    *,
    reason: str,
    waited_for: bool = False,
) -> list[Request]:
    """One request a table, under a name that a repetition replaces."""
    made = [
        replace(
            requests.make("resync", inspection.table.label, waited_for=waited_for),
            name=f"{reason}/{inspection.table.label}",
        )
        for inspection in inspections
    ]
    for request in made:
        requests.ask(store, request)
    return made
