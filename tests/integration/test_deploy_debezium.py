"""The compose file's profile `debezium`, run for real where Kafka's and Debezium's images are there."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.support.docker import (
    CONNECT_IMAGE,
    KAFKA_IMAGE,
    POSTGRES_IMAGES,
    Compose,
    build_bridge,
    image,
    missing_engine,
    qdrant_or_stand_in,
)

pytestmark = [
    # Kafka, Connect and the rest of the tests share the machine's cores.
    pytest.mark.timeout(1500),
    pytest.mark.skipif(bool(missing_engine()), reason=missing_engine() or "it is here"),
]

CONFIG = "/etc/qdrant-bridge/bridge.yaml"


@pytest.fixture
def debezium() -> Iterator[Compose]:
    tag, postgres = build_bridge(), image(*POSTGRES_IMAGES)
    if not (tag and postgres and image(KAFKA_IMAGE) and image(CONNECT_IMAGE)):
        pytest.skip("not all images are here, and no registry can be reached")
    images = {
        "BRIDGE_IMAGE": tag,
        "POSTGRES_IMAGE": postgres,
        "QDRANT_IMAGE": qdrant_or_stand_in(tag),
        "KAFKA_IMAGE": KAFKA_IMAGE,
        "CONNECT_IMAGE": CONNECT_IMAGE,
    }
    compose = Compose("qdrant-bridge-debezium-under-test", "debezium", images)
    compose.down()
    try:
        yield compose
    finally:
        compose.down()


def require_equal(compose: Compose) -> int:
    """Wait for this moment, compare everything; the number of rows."""
    prefix = ("exec", "-T", "sync-debezium", "qdrant-bridge")
    compose(*prefix, "status", "--wait", "now", "--timeout", "120", "--config", CONFIG)
    report = json.loads(compose(*prefix, "verify", "--json", "--config", CONFIG))
    assert report["equal"] is True
    rows: int = report["tables"]["public.packages"]["source"]
    assert rows == int(compose.psql("SELECT count(*) FROM packages"))
    return rows


def test_it_comes_up_in_sync_and_stays_equal_over_changes_and_kills(debezium: Compose) -> None:
    debezium("up", "--detach", "--wait", "--no-build", timeout_seconds=400)
    assert require_equal(debezium) == 3000
    debezium.psql(
        "UPDATE packages SET summary = summary || '!' WHERE id % 3 = 0",
        "DELETE FROM packages WHERE id % 10 = 1",
        "UPDATE packages SET id = id + 500000 WHERE id % 10 = 2",
    )
    before = require_equal(debezium)
    assert before < 3000
    debezium("kill", "connect", "sync-debezium", "qdrant")
    debezium.psql("DELETE FROM packages WHERE id % 10 = 3")
    debezium("up", "--detach", "--wait", "--no-build", timeout_seconds=400)
    assert require_equal(debezium) < before
