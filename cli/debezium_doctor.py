"""What `doctor` looks at where the changes come through Kafka."""

from __future__ import annotations

from collections.abc import Sequence

from bridge.config import Settings
from bridge.errors import BridgeError
from bridge.findings import Finding
from bridge.mapping import TableMapping
from bridge.postgres import identities
from bridge.postgres.connection import Connection
from cli.debezium_places import connector_of, kafka_place, kafka_settings, offsets_of
from sync.connect import Connector
from sync.debezium_checks import (
    Followed,
    TopicFacts,
    check_connector,
    check_tables,
    check_topic,
    check_untold_modes,
)
from sync.kafka import Consumer, topic_settings


def examine_debezium(
    settings: Settings, connection: Connection, mappings: Sequence[TableMapping]
) -> list[Finding]:
    """Tables, connector, topics; what does not answer is a finding too."""
    kafka = kafka_settings(settings)
    tables = [
        Followed(
            mapping=mapping,
            full=identities.replica_identity(connection, mapping.table.oid) == "f",
        )
        for mapping in mappings
    ]
    postgres = settings.postgres.url is not None
    findings = check_tables(tables, identities.table_names(connection), postgres=postgres)
    copied = kafka.existing_rows == "copied"
    try:
        connector: Connector | None = connector_of(settings)
    except BridgeError as error:
        connector = None
        findings.append(_blocker("kafka.connector", error))
    if connector is not None:
        findings += check_connector(
            connector, tables, copied=copied, never_truncated=kafka.never_truncated
        )
    elif kafka.modes is None:
        findings += check_untold_modes(tables)
    return findings + _examine_topics(settings, copied=copied, postgres=postgres)


def _examine_topics(settings: Settings, *, copied: bool, postgres: bool) -> list[Finding]:
    kafka = kafka_settings(settings)
    findings: list[Finding] = []
    try:
        place = kafka_place(settings)
        consumer = Consumer(place)
    except BridgeError as error:
        return [_blocker("kafka.reachable", error)]
    try:
        for name in kafka.topics:
            try:
                begin, _end = offsets_of(consumer, name)
            except BridgeError as error:
                findings.append(_blocker("kafka.topics", error))
                continue
            facts = TopicFacts(
                name=name,
                partitions=len(begin),
                begin=begin,
                settings=topic_settings(place, name),
            )
            findings += check_topic(
                facts, copied=copied, postgres=postgres, never_truncated=kafka.never_truncated
            )
    finally:
        consumer.close()
    return findings


def _blocker(check: str, error: BridgeError) -> Finding:
    return Finding(level="blocker", check=check, message=error.message, remedy=error.hint)
