"""A real broker that authenticates: who comes in, and what everybody else is told.

A broker alone, without Connect: messages are written by hand, on its plain port.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import pytest

from sync.kafka_partition import Partition
from tests.support.command import Outcome, Running, bridge, config_file
from tests.support.comparison import Expectation, differences
from tests.support.databases import Database
from tests.support.debezium_messages import envelope
from tests.support.kafka_certificates import make_certificates
from tests.support.kafka_stack import Stack, Topic, stack, until
from tests.support.places import ServerPlace
from tests.support.qdrant_server import QdrantServer

WRONG: Final = "not-the-password-4c1d"


@dataclass(frozen=True, slots=True)
class Secured:
    """The broker, and the directory of its certificates and of the password."""

    stack: Stack
    directory: Path

    def file(self, name: str) -> str:
        return str(self.directory / name)

    @property
    def plain_port(self) -> int:
        return int(self.stack.kafka.rpartition(":")[2])


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    directory = make_certificates(tmp_path_factory.mktemp("certificates"))
    with stack("--no-postgres", "--no-connect", "--secure", str(directory)) as running:
        yield Secured(running, directory)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[ServerPlace]:
    with QdrantServer(tmp_path / "qdrant") as server:
        place = ServerPlace(server.url, server)
        yield place
        place.close()


@dataclass(slots=True)
class Pipeline:
    """A table with a topic, on whatever listener a test chooses."""

    broker: Secured
    database: Database
    place: ServerPlace
    directory: Path
    topic: Topic
    name: str

    def config(self, port: int, *, host: str = "127.0.0.1", **kafka: Any) -> str:
        directory = self.directory / uuid4().hex
        directory.mkdir()
        return config_file(
            directory,
            {
                "pipeline": self.name,
                "postgres": {"url": self.database.url},
                "qdrant": {"url": self.place.url},
                "tables": {"public.docs": {"collection": self.name, "vectors": "none"}},
                "sync": {"source": "debezium"},
                "kafka": {
                    "bootstrap_servers": f"{host}:{port}",
                    "topics": {self.topic.name: "public.docs"},
                    "existing_rows": "snapshot",
                    "modes": {"decimal": "string"},
                    "session_timeout_seconds": 6,
                    **kafka,
                },
                "http": {"listen": "127.0.0.1:0"},
            },
        )

    def require_refused(self, config: str, message: str, remedy: str) -> None:
        """By `doctor` as a finding, by `run` as one screen; no secret in either."""
        found = bridge("doctor", "--json", "--config", config).require(1)
        (blocker,) = [f for f in found.report["findings"] if f["check"] == "kafka.reachable"]
        assert message in blocker["message"]
        assert remedy in blocker["remedy"]
        stopped = bridge("run", "--config", config).require(2)
        assert message in _line(stopped)
        assert remedy in _line(stopped)
        assert "Traceback" not in stopped.err
        assert len(stopped.err.splitlines()) < 25, "one screen"
        secrets = (WRONG, (self.broker.directory / "password").read_text())
        for text in (found.out, found.err, stopped.out, stopped.err):
            assert not any(secret in text for secret in secrets)


def _line(outcome: Outcome) -> str:
    return " ".join(outcome.err.split())


@pytest.fixture
def pipeline(broker: Secured, database: Database, place: ServerPlace, tmp_path: Path) -> Pipeline:
    database.execute("CREATE TABLE docs (id bigint PRIMARY KEY, title text)")
    topic = Topic(servers=broker.stack.kafka).create()
    return Pipeline(broker, database, place, tmp_path, topic, place.name("s").lower())


def user(broker: Secured, mechanism: str) -> dict[str, Any]:
    return {
        "security": "tls",
        "ca_file": broker.file("authority.pem"),
        "sasl": mechanism,
        "username": "bridge",
        "password_file": broker.file("password"),
    }


MECHANISMS: Final = ("plain", "scram-sha-256", "scram-sha-512")


@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_a_user_with_the_password_comes_in(
    broker: Secured, pipeline: Pipeline, mechanism: str
) -> None:
    config = pipeline.config(broker.stack.secure["sasl"], **user(broker, mechanism))
    findings = bridge("doctor", "--json", "--config", config).report["findings"]
    assert not [f for f in findings if f["check"] == "kafka.reachable" and f["level"] != "ok"]
    wrong = {**user(broker, mechanism), "password": WRONG}
    del wrong["password_file"]
    pipeline.require_refused(
        pipeline.config(broker.stack.secure["sasl"], **wrong),
        "refuses the user or the password",
        "kafka.password_file",
    )


def test_rows_come_through_scram_over_tls(broker: Secured, pipeline: Pipeline) -> None:
    config = pipeline.config(broker.stack.secure["sasl"], **user(broker, "scram-sha-512"))
    pipeline.database.execute("INSERT INTO docs VALUES (1, 'one'), (2, 'two')")
    for identity, title in ((1, "one"), (2, "two")):
        message = envelope("c", {"id": identity, "title": title}, table="docs")
        key = json.dumps({"id": identity}).encode()
        pipeline.topic.send([(key, json.dumps(message).encode())])
    with Running("run", "--config", config) as running:
        running.wait_line('"assigned"')
        until(lambda: pipeline.place.exists(pipeline.name), "the collection")
        until(lambda: pipeline.place.count(pipeline.name) == 2, "the rows")
        report = bridge("status", "--json", "--config", config).require(0).report
        assert report["kafka"]["processes"] == 1
        running.process.terminate()
        running.finish().require(0)
    stored = pipeline.place.points(pipeline.name)
    assert not differences(pipeline.database, "docs", stored, Expectation())
    assert pipeline.topic.ends() == {Partition(pipeline.topic.name, 0): 2}
    ended = bridge("status", "--json", "--config", config).require(0).report
    assert ended["lag"]["messages"] == 0


def test_tls_and_a_certificate_of_ours_come_in(broker: Secured, pipeline: Pipeline) -> None:
    trust = {"security": "tls", "ca_file": broker.file("authority.pem")}
    ours = {
        "certificate_file": broker.file("client.pem"),
        "key_file": broker.file("client.key"),
    }
    for listener, kafka in (("tls", trust), ("mutual", trust | ours)):
        config = pipeline.config(broker.stack.secure[listener], **kafka)
        findings = bridge("doctor", "--json", "--config", config).report["findings"]
        assert not [f for f in findings if f["check"] == "kafka.reachable" and f["level"] != "ok"]
    pipeline.require_refused(
        pipeline.config(broker.stack.secure["mutual"], **trust),
        "asks for a certificate of ours",
        "kafka.certificate_file",
    )
    strange = {
        "certificate_file": broker.file("stranger.pem"),
        "key_file": broker.file("stranger.key"),
    }
    pipeline.require_refused(
        pipeline.config(broker.stack.secure["mutual"], **trust, **strange),
        "does not accept our certificate",
        "kafka.certificate_file",
    )


def test_a_broker_that_is_not_who_it_should_be_is_not_spoken_to(
    broker: Secured, pipeline: Pipeline
) -> None:
    ports = broker.stack.secure
    trust = {"security": "tls", "ca_file": broker.file("authority.pem")}
    pipeline.require_refused(
        pipeline.config(ports["tls"], security="tls", ca_file=broker.file("stranger.pem")),
        "from nobody who is trusted",
        "kafka.ca_file",
    )
    pipeline.require_refused(
        pipeline.config(ports["elsewhere"], host="127.0.0.2", **trust),
        "for another name than 127.0.0.2",
        "kafka.bootstrap_servers",
    )


def test_ports_that_speak_otherwise_are_told_apart(broker: Secured, pipeline: Pipeline) -> None:
    ports = broker.stack.secure
    trust = {"security": "tls", "ca_file": broker.file("authority.pem")}
    for config, message, remedy in (
        (pipeline.config(ports["tls"]), "expects TLS", "kafka.security: tls"),
        (pipeline.config(broker.plain_port, **trust), "speaks no TLS", "kafka.security: plaintext"),
        (pipeline.config(ports["sasl"], **trust), "asks for a user", "scram-sha-512"),
        (
            pipeline.config(ports["tls"], **user(broker, "plain")),
            "asks for no user",
            "kafka.sasl: none",
        ),
        (
            pipeline.config(ports["tls"], security="tls", ca_file="/nowhere/authority.pem"),
            "cannot be read",
            "kafka.ca_file",
        ),
    ):
        pipeline.require_refused(config, message, remedy)


def test_nothing_goes_to_another_host_in_the_clear(pipeline: Pipeline) -> None:
    pipeline.require_refused(
        pipeline.config(9092, host="kafka.example"), "without TLS", "kafka.security: tls"
    )
