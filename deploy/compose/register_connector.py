"""Makes the topic, registers the connector, and returns once its slot exists and its task runs.

Run by the service `register`. The settings are those of deploy/debezium/connector.json, with what this
compose file has in the place of a real network; they name the file of the password, not the password.
"""

from __future__ import annotations

import json
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from kafka.admin import KafkaAdminClient, NewTopic
from kafka.errors import TopicAlreadyExistsError

from bridge.postgres.connection import connect

TOPIC = "sample.public.packages"
PARTITIONS = 4
CONNECT = "http://connect:8083/connectors/sample"
SETTINGS = {
    "database.hostname": "postgres",
    "database.user": "bridge",
    "database.password": "${file:/run/secrets/connect.properties:postgres.password}",
    "database.sslmode": "verify-full",
    "database.sslrootcert": "/run/secrets/ca.pem",
    "topic.prefix": "sample",
    "table.include.list": "public.packages",
    "slot.name": "debezium_sample",
    "publication.name": "bridge_sample",
    "publication.autocreate.mode": "disabled",
    "topic.creation.default.partitions": str(PARTITIONS),
    "topic.creation.default.replication.factor": "1",
}
PATIENCE_SECONDS = 180.0


def main() -> int:
    """Register it, wait for it."""
    make_topic()
    settings = json.loads(Path("/etc/connector.json").read_text(encoding="utf-8"))
    ask("PUT", "/config", {**settings, **SETTINGS})
    deadline = time.monotonic() + PATIENCE_SECONDS
    while (state := task_state()) != "RUNNING" or not slot_exists():
        if state == "FAILED" or time.monotonic() > deadline:
            print(json.dumps(ask("GET", "/status")), file=sys.stderr)
            return 1
        time.sleep(1)
    print("register: the connector runs, its slot is there")
    return 0


def make_topic() -> None:
    """The table's topic, whose partitions are never changed afterwards; the connector would make it with
    the first change, and the bridge wants to know its number before."""
    admin = KafkaAdminClient(
        bootstrap_servers="kafka:9093", security_protocol="SSL", ssl_cafile="/run/secrets/ca.pem"
    )
    try:
        admin.create_topics([NewTopic(TOPIC, PARTITIONS, 1)])
    except TopicAlreadyExistsError:
        print(f"register: {TOPIC} is there already")
    finally:
        admin.close()


def ask(method: str, path: str, body: Any = None) -> Any:
    """Kafka Connect's answer. It refuses while it rebalances, and is asked again."""
    for _ in range(60):
        request = urllib.request.Request(  # noqa: S310 - the url stands above
            CONNECT + path,
            None if body is None else json.dumps(body).encode(),
            {"Content-Type": "application/json"},
            method=method,
        )
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310
                return json.load(answer)
        except urllib.error.HTTPError as error:
            if error.code not in (404, 409, 500, 503):
                sys.exit(f"register: {error.code}: {error.read().decode()}")
        except urllib.error.URLError as error:
            print(f"register: {error.reason}", file=sys.stderr)
        time.sleep(1)
    sys.exit("register: Kafka Connect does not answer")


def task_state() -> str:
    """That of the connector's task; empty while it has none."""
    tasks = ask("GET", "/status").get("tasks") or [{}]
    return str(tasks[0].get("state", ""))


def slot_exists() -> bool:
    """Whether changes are kept from now on."""
    url = Path("/run/secrets/postgres_url").read_text(encoding="utf-8").strip()
    with connect(url) as connection:
        row = connection.execute(
            "SELECT 1 FROM pg_replication_slots WHERE slot_name = 'debezium_sample' AND active"
        ).fetchone()
    return row is not None


if __name__ == "__main__":
    sys.exit(main())
