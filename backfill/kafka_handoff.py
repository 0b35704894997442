"""Before topics are read: what is in them, what the tables are, and that the copy cannot miss anything.

The connector has its slot already, so every change from then on comes to the topics. Where the rows that
were there are copied directly:

    1. the ends of the topics are noted: what lies before them has been committed
    2. every transaction that is in progress now ends
    3. the copy begins; it sees what lies before those ends
    4. the topics are read from their beginning, and change nothing for the worse

What a crash leaves: the record with the phase `backfill`; the next start copies what is left. The ends
in the record stay: retention may take what lies before them, nothing behind.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from backfill.preflight import Inspection, check_target, inspect, require_fit
from bridge import recorded_schema
from bridge.config_tables import TableSettings
from bridge.errors import StopError, UsageError
from bridge.kafka_state import RECORD_NAME, KafkaState, TopicState, read_kafka
from bridge.ownership import claim, require_claimable
from bridge.postgres import slots
from bridge.postgres.connection import connect
from bridge.postgres.slots import Blocker
from bridge.qdrant.state import QdrantState
from bridge.qdrant.target import Target
from bridge.recorded_schema import RecordedSchema

Offsets = tuple[tuple[int, ...], tuple[int, ...]]
"""Where the partitions of a topic begin and end."""


def prepare_topics(
    tables: Mapping[str, TableSettings],
    topics: Mapping[str, str],
    *,
    group: str,
    copied: bool,
    look: Callable[[str], Offsets],
    postgres_url: str | None,
    target: Target,
    store: QdrantState,
    create_collection: bool = True,
    allow_plaintext: bool = False,
    on_wait: Callable[[Sequence[Blocker]], None] = lambda blockers: None,
) -> KafkaState:
    """The pipeline's record: as it is stored, or made now. UsageError if the configuration is another
    one by now, if a topic is missing, or if there is no Postgres to tell what the tables are."""
    known = read_kafka(store) if store.exists() else None
    if known is not None:
        _require_same(known, topics, group, copied)
        return known
    if postgres_url is None:
        raise UsageError(
            "the first start needs a Postgres url",
            hint="postgres.url: the catalog tells the columns' types, which are kept from then on",
        )
    found = {topic: look(topic) for topic in topics}
    if not copied:
        _require_whole(found)
    store.prepare()
    with connect(postgres_url, allow_plaintext=allow_plaintext) as connection:
        inspections = []
        for name in dict.fromkeys(topics.values()):
            inspection = inspect(connection, name, tables[name])
            inspection.require_sound()
            spec = inspection.mapping.collection
            require_fit(check_target(target, spec, create=create_collection)[1])
            inspections.append(inspection)
        slots.wait_for_transactions(connection, on_wait=on_wait)
    for inspection in inspections:
        recorded_schema.save(store, RecordedSchema.of(inspection.mapping))
        if not copied:
            _own(inspection, target, store)
    state = KafkaState(
        group=group,
        topics={
            topic: TopicState(table=topics[topic], begin=begin, end=end)
            for topic, (begin, end) in found.items()
        },
        copied=copied,
        phase="backfill" if copied else "reading",
    )
    return KafkaState.from_record(store.put_new("stream", RECORD_NAME, state.to_record()))


def copy_done(store: QdrantState, state: KafkaState) -> KafkaState:
    """The rows that were there are copied: the topics may be read."""
    reading = replace(state, phase="reading")
    store.put("stream", RECORD_NAME, reading.to_record())
    return reading


def _require_same(known: KafkaState, topics: Mapping[str, str], group: str, copied: bool) -> None:
    if known.group != group:
        raise UsageError(
            f"the pipeline's consumer group is {known.group}, not {group}",
            hint="its offsets belong to that group: set kafka.group back",
        )
    if {name: topic.table for name, topic in known.topics.items()} != dict(topics):
        raise UsageError(
            "kafka.topics is not what it was when the pipeline began",
            hint="another set of topics needs another pipeline name",
        )
    if known.copied != copied:
        raise UsageError(
            "kafka.existing_rows is not what it was when the pipeline began",
            hint=f"it was {'copied' if known.copied else 'snapshot'}",
        )


def _require_whole(found: Mapping[str, Offsets]) -> None:
    """A snapshot that comes through Kafka is all there is: nothing of it may be gone."""
    for topic, (begin, _end) in found.items():
        if any(begin):
            raise StopError(
                f"the topic {topic} has lost its first messages, and with them rows of the snapshot",
                code="GAP",
                hint="kafka.existing_rows: copied takes the rows directly from Postgres instead",
            )


def _own(inspection: Inspection, target: Target, store: QdrantState) -> None:
    """Claim the collection, and make it."""
    spec, label = inspection.mapping.collection, inspection.table.label
    require_claimable(store.pipeline, label, spec.name, store.get("owner", spec.name))
    points = 0 if target.collection(spec.name) is None else target.count(spec.name)
    claim(store, spec.name, label, points)
    target.create_collection(spec)
