"""Which cluster a pipeline's rows are read from."""

from __future__ import annotations

from typing import cast

import pytest

from bridge.errors import StopError
from bridge.kafka_state import RECORD_NAME, KafkaState, read_kafka
from bridge.qdrant.state import QdrantState
from sync.debezium_cluster import Cluster
from tests.support.kafka_fake import MemoryRecords


@pytest.fixture
def store() -> MemoryRecords:
    records = MemoryRecords()
    state = KafkaState(group="g", topics={}, copied=True, phase="reading")
    # As a version that did not know the cluster has written it.
    record = {name: value for name, value in state.to_record().items() if name != "system_id"}
    records.put("stream", RECORD_NAME, record)
    return records


def cluster(store: MemoryRecords) -> Cluster:
    return Cluster(cast(QdrantState, store))


def test_the_first_cluster_is_recorded_and_another_one_stops(store: MemoryRecords) -> None:
    first = cluster(store)
    first.require_id("7000000000000000001")
    state = read_kafka(store)
    assert state is not None
    assert state.system_id == "7000000000000000001"
    for later in (first, cluster(store)):
        later.require_id("7000000000000000001")
        with pytest.raises(StopError) as caught:
            later.require_id("7000000000000000002")
        assert caught.value.code == "SOURCE_CHANGED"
