"""From the copy to the stream without a gap: publication and slot are there before the first row is read.

What a crash leaves: an intent without a record, if it came between the two; the next start then takes
over the slot that was made, which can only be older than needed. The record, once stored, wins.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from backfill.preflight import check_target, inspect, require_fit
from bridge import recorded_schema, silent_changes
from bridge.config_tables import TableSettings
from bridge.failpoints import failpoint
from bridge.mapping import TableMapping
from bridge.postgres import catalog, slots, stream_checks
from bridge.postgres.beneath import look
from bridge.postgres.connection import Connection, connect
from bridge.postgres.slots import Blocker
from bridge.postgres.stream_checks import StreamNames
from bridge.qdrant.state import QdrantState
from bridge.qdrant.target import Target
from bridge.recorded_schema import RecordedSchema
from bridge.stream_state import RECORD_NAME, StreamState
from bridge.table_names import parse_table_name

_INTENT = "intent"


def prepare_stream(
    postgres_url: str,
    tables: Mapping[str, TableSettings],
    *,
    slot: str,
    publication: str,
    target: Target,
    store: QdrantState,
    create_collection: bool = True,
    allow_plaintext: bool = False,
    on_wait: Callable[[Sequence[Blocker]], None] = lambda blockers: None,
) -> StreamState:
    """The pipeline's stream record: as it is stored, or made now with publication and slot.

    All tables are checked first, so that nothing is made for a copy that cannot begin. Returns once
    every transaction that was open when the slot was made has ended: its rows might be in neither
    the copy nor the stream.
    """
    if store.exists():
        record = store.get("stream", RECORD_NAME)
        if record is not None:
            return StreamState.from_record(record)
    with connect(postgres_url, allow_plaintext=allow_plaintext) as connection:
        intent = {"slot": slot, "publication": publication}
        adopt = store.exists() and store.get("stream", _INTENT) == intent
        names = StreamNames(slot=slot, publication=publication, pipeline=store.pipeline, made=adopt)
        mappings = [
            _checked(connection, name, settings, target, create_collection)
            for name, settings in tables.items()
        ]
        facts_now = catalog.server_facts(connection)
        stream_checks.require_sound(
            stream_checks.check_stream(connection, facts_now, names, mappings)
        )
    store.prepare()
    store.put("stream", _INTENT, intent)
    failpoint("backfill.before_slot")
    with connect(postgres_url, allow_plaintext=allow_plaintext, read_only=False) as connection:
        read = [catalog.read_table(connection, *parse_table_name(name)) for name in tables]
        facts = slots.prepare(
            connection,
            slot=slot,
            publication=publication,
            tables=read,
            pipeline=store.pipeline,
            adopt=adopt,
            on_wait=on_wait,
        )
        failpoint("backfill.after_slot")
        slots.wait_for_transactions(connection, facts.snapshot, on_wait=on_wait)
        beneath = {m.table.label: look(connection, m.table.oid) for m in mappings}
    for mapping in mappings:
        recorded_schema.save(store, RecordedSchema.of(mapping))
        silent_changes.save(store, mapping.table.label, beneath[mapping.table.label])
    state = StreamState(facts=facts.to_record(), checkpoint=facts.start_lsn, phase="backfill")
    return StreamState.from_record(store.put_new("stream", RECORD_NAME, state.to_record()))


def _checked(
    connection: Connection,
    name: str,
    settings: TableSettings,
    target: Target,
    create_collection: bool,
) -> TableMapping:
    """The table's mapping; UsageError or StopError if it cannot be copied as it is."""
    inspection = inspect(connection, name, settings)
    inspection.require_sound()
    spec = inspection.mapping.collection
    require_fit(check_target(target, spec, create=create_collection)[1])
    return inspection.mapping
