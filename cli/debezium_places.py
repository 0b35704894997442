"""Kafka, the connector and the daemon as the configuration has them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar
from urllib.parse import urlsplit

from bridge.config import Effective, Settings
from bridge.config_models import KafkaSettings
from bridge.errors import UsageError
from bridge.qdrant.state import QdrantState
from cli.places import Place
from sync.connect import Connector, read_connector
from sync.debezium_daemon import KafkaDaemon
from sync.debezium_modes import Modes
from sync.debezium_options import KafkaOptions
from sync.kafka import Consumer, Membership
from sync.kafka_partition import Partition
from sync.kafka_place import KafkaPlace
from sync.windows import Limits

T = TypeVar("T")

_LOOPBACK = ("localhost", "127.0.0.1", "::1", "[::1]")


def kafka_settings(settings: Settings) -> KafkaSettings:
    """The section. UsageError if there is none, or the source is another."""
    if not settings.reads_kafka:
        raise UsageError(
            "the configuration has no sync: section for Debezium",
            hint="add sync: {source: debezium} and kafka: to bridge.yaml",
        )
    if settings.kafka is None:
        raise UsageError(
            "sync.source is debezium, and there is no kafka: section",
            hint="kafka: {bootstrap_servers: kafka:9092, topics: {shop.public.docs: public.docs}}",
        )
    without = sorted(settings.tables.keys() - set(settings.kafka.topics.values()))
    if without:
        raise UsageError(
            f"{', '.join(without)} has no topic: it would be copied, and never followed",
            hint="name its topic in kafka.topics, or leave the table out",
        )
    return settings.kafka


def kafka_place(settings: Settings) -> KafkaPlace:
    """The brokers. UsageError if a password, or anything else, would cross a network in the clear."""
    kafka = kafka_settings(settings)
    if kafka.security == "plaintext" and not settings.allow_plaintext:
        for server in kafka.bootstrap_servers:
            host = urlsplit(f"//{server}").hostname or server
            if host not in _LOOPBACK and not host.startswith("127."):
                raise UsageError(
                    f"Kafka at {host} would be spoken to without TLS",
                    hint="kafka.security: tls; or --allow-plaintext if the network may be trusted",
                )
    if kafka.sasl != "none" and (kafka.username is None or kafka.password is None):
        raise UsageError(
            f"kafka.sasl is {kafka.sasl}, and there is no user or no password",
            hint="kafka.username and kafka.password_file",
        )
    return KafkaPlace(
        bootstrap_servers=kafka.bootstrap_servers,
        security=kafka.security,
        sasl=kafka.sasl,
        username=kafka.username,
        password=None if kafka.password is None else kafka.password.get_secret_value(),
        ca_file=kafka.ca_file,
        certificate_file=kafka.certificate_file,
        key_file=kafka.key_file,
    )


def look_at_kafka(settings: Settings, look: Callable[[Consumer], T]) -> T:
    """What a look says, over a connection that belongs to no group."""
    consumer = Consumer(kafka_place(settings))
    try:
        return look(consumer)
    finally:
        consumer.close()


def offsets_of(consumer: Consumer, topic: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Where the partitions of a topic begin and end. UsageError if there is no such topic."""
    count = consumer.partitions_of(topic)
    if not count:
        raise UsageError(
            f"the topic {topic} is not there",
            hint="create it with the number of partitions that it is to keep, or let the connector "
            "bring a first change; kafka.topics has the names as the connector writes them",
        )
    partitions = [Partition(topic, number) for number in range(count)]
    begin, end = consumer.begin(partitions), consumer.end(partitions)
    return tuple(begin[p] for p in partitions), tuple(end[p] for p in partitions)


def connector_of(settings: Settings) -> Connector | None:
    """The connector, if the configuration says where to ask for it."""
    kafka = kafka_settings(settings)
    if kafka.connect_url is None or kafka.connector is None:
        return None
    return read_connector(kafka.connect_url, kafka.connector)


def modes_of(settings: Settings, connector: Connector | None) -> Modes:
    """What values look like: the connector knows, else the configuration does."""
    if connector is not None:
        return Modes.of_connector(connector.config)
    told = kafka_settings(settings).modes
    if told is None:
        return Modes()
    return Modes(
        decimal=told.decimal,
        time=told.time,
        interval=told.interval,
        binary=told.binary,
        unknown_types=told.unknown_types,
        placeholder=told.placeholder,
        told=True,
    )


def make_kafka_daemon(
    effective: Effective,
    place: Place,
    *,
    store: QdrantState,
    modes: Modes,
    tell: Callable[..., None],
    observe: Callable[[str, float], None],
) -> KafkaDaemon:
    """The process of the consumer group."""
    settings = effective.settings
    kafka, sync = kafka_settings(settings), settings.sync
    assert sync is not None  # noqa: S101 - kafka_settings has looked
    url = settings.postgres.url
    return KafkaDaemon(
        settings.tables,
        target=place.target,
        store=store,
        options=KafkaOptions(
            place=kafka_place(settings),
            membership=Membership(
                group=settings.consumer_group,
                session_timeout_seconds=kafka.session_timeout_seconds,
                fetch_bytes=sync.window.bytes,
            ),
            topics=kafka.topics,
            modes=modes,
            postgres_url=None if url is None else url.get_secret_value(),
            allow_plaintext=settings.allow_plaintext,
            limits=Limits(
                operations=sync.window.operations,
                size_bytes=sync.window.bytes,
                seconds=sync.window.milliseconds / 1000,
            ),
            without_postgres=kafka.without_postgres,
            write_ordering=settings.qdrant.write_ordering,
        ),
        log=tell,
        observe=observe,
    )
