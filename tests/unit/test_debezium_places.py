"""Kafka as the configuration has it: who is spoken to how, and what is refused."""

from __future__ import annotations

import ssl
from typing import Any

import pytest

from bridge.config import Settings
from bridge.config_tables import TableSettings
from bridge.errors import StopError, UsageError
from cli.debezium_command import require_snapshot_mode
from cli.debezium_places import kafka_place, kafka_settings, modes_of
from sync.connect import Connector
from tests.support.tls import AUTHORITY


def settings(**kafka: Any) -> Settings:
    return Settings.model_validate(
        {
            "pipeline": "shop",
            "tables": {"public.docs": {}},
            "sync": {"source": "debezium"},
            "kafka": {
                "bootstrap_servers": "localhost:9092",
                "topics": {"shop.public.docs": "public.docs"},
                **kafka,
            },
        }
    )


def test_a_loopback_broker_may_be_spoken_to_in_the_clear() -> None:
    found = kafka_place(settings()).client_settings()
    assert found == {"bootstrap_servers": ["localhost:9092"], "security_protocol": "PLAINTEXT"}


def test_another_broker_needs_tls() -> None:
    with pytest.raises(UsageError) as caught:
        kafka_place(settings(bootstrap_servers="localhost:9092, kafka.internal:9092"))
    assert "kafka.internal" in caught.value.message
    assert "tls" in caught.value.hint


def test_tls_with_a_password() -> None:
    place = kafka_place(
        settings(
            bootstrap_servers=["kafka.internal:9093"],
            security="tls",
            sasl="scram-sha-512",
            username="bridge",
            password="hidden",
            ca_file=str(AUTHORITY),
        )
    )
    found = place.client_settings()
    context = found.pop("ssl_context")
    assert context.check_hostname
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.cert_store_stats()["x509_ca"] == 1
    assert found == {
        "bootstrap_servers": ["kafka.internal:9093"],
        "security_protocol": "SASL_SSL",
        "sasl_mechanism": "SCRAM-SHA-512",
        "sasl_plain_username": "bridge",
        "sasl_plain_password": "hidden",
    }
    assert "hidden" not in repr(place)


@pytest.mark.parametrize(
    ("files", "setting"),
    [
        ({"ca_file": "/nowhere.pem"}, "kafka.ca_file"),
        ({"ca_file": __file__}, "kafka.ca_file"),
        ({"certificate_file": str(AUTHORITY), "key_file": "/nowhere.key"}, "kafka.key_file"),
        ({"certificate_file": str(AUTHORITY), "key_file": __file__}, "kafka.key_file"),
    ],
)
def test_certificates_that_cannot_be_read_are_named(files: dict[str, str], setting: str) -> None:
    with pytest.raises(UsageError) as caught:
        kafka_place(settings(security="tls", **files)).client_settings()
    assert setting in caught.value.hint


def test_sasl_needs_a_user_and_a_password() -> None:
    with pytest.raises(UsageError):
        kafka_place(settings(sasl="plain", username="bridge"))


def test_another_source_reads_no_kafka() -> None:
    with pytest.raises(UsageError):
        kafka_settings(Settings.model_validate({"sync": {"source": "postgres"}}))
    with pytest.raises(UsageError):
        kafka_settings(Settings.model_validate({"sync": {"source": "debezium"}}))


def test_a_table_without_a_topic_is_not_copied_in_vain() -> None:
    found = settings()
    more = found.model_copy(update={"tables": {**found.tables, "public.more": TableSettings()}})
    with pytest.raises(UsageError) as caught:
        kafka_settings(more)
    assert "public.more has no topic" in caught.value.message


def connector(**config: str) -> Connector:
    named = {name.replace("_", "."): value for name, value in config.items()}
    return Connector(name="shop", config=named, states=("RUNNING", "RUNNING"))


def test_the_connector_knows_its_modes_best() -> None:
    told = settings(modes={"decimal": "string"})
    assert modes_of(told, None).decimal == "string"
    assert modes_of(told, connector(decimal_handling_mode="double")).decimal == "double"
    assert not modes_of(settings(), None).told


@pytest.mark.parametrize(
    ("mode", "copied", "fits"),
    [
        ("no_data", True, True),
        ("initial", True, False),
        ("initial", False, True),
        ("never", False, False),
    ],
)
def test_rows_come_once_and_only_once(mode: str, copied: bool, fits: bool) -> None:
    found = connector(snapshot_mode=mode)
    if fits:
        require_snapshot_mode(found, copied=copied)
        return
    with pytest.raises(UsageError):
        require_snapshot_mode(found, copied=copied)


def test_a_failed_connector_is_not_waited_for() -> None:
    failed = Connector(name="shop", config={}, states=("RUNNING", "FAILED"), trace="DataException")
    with pytest.raises(StopError) as caught:
        require_snapshot_mode(failed, copied=True)
    assert caught.value.code == "CONNECTOR_FAILED"
