"""A join is waited for, however short the polls: the client forgets one that ends between two of them."""

from __future__ import annotations

from typing import Any

import pytest

from sync.kafka import Consumer, Membership, Rebalance
from sync.kafka_partition import Partition
from sync.kafka_place import KafkaPlace

PLACE = KafkaPlace(bootstrap_servers=("localhost:9092",))
MEMBER = Membership(group="shop", session_timeout_seconds=45, fetch_bytes=1 << 20)


class Coordinator:
    """As kafka-python's: a join needs 300 ms, and is begun anew if it ends while nobody waits; or, if
    nothing asks for it any more, left halfway."""

    def __init__(self, group: str | None) -> None:
        self.group_id = group
        self.asked = True
        self.rejoining = False
        self.waited: list[int] = []

    @property
    def joined(self) -> bool:
        return not self.asked and not self.rejoining

    def need_rejoin(self) -> bool:
        return self.asked

    def request_rejoin(self) -> None:
        self.asked = True

    def poll(self, timeout_ms: int) -> bool:
        self.waited.append(timeout_ms)
        if self.asked:
            self.rejoining = timeout_ms < 300
            self.asked = self.asked and self.rejoining
        return self.joined


class Client:
    """The parts of `KafkaConsumer` that a poll uses."""

    def __init__(self, **settings: Any) -> None:
        self._coordinator = Coordinator(settings["group_id"])
        self._fetcher = self
        self.polls: list[int] = []

    def subscribe(self, topics: list[str], listener: Any) -> None:
        """Nothing yet: joining is done by polls."""

    def send_fetches(self) -> None:
        """Nothing is fetched."""

    def poll(self, timeout_ms: int, max_records: int) -> dict[Any, Any]:
        if self._coordinator.group_id is not None and self._coordinator.need_rejoin():
            self._coordinator.poll(timeout_ms)
        self.polls.append(timeout_ms)
        return {}

    def close(self, autocommit: bool, timeout_ms: int) -> None:
        """Leave."""


class Silent(Rebalance):
    """Hears of nothing."""

    def assigned(self, partitions: list[Partition]) -> None:
        raise AssertionError

    def revoked(self, partitions: list[Partition]) -> None:
        raise AssertionError

    def lost(self, partitions: list[Partition]) -> None:
        raise AssertionError


@pytest.fixture
def clients(monkeypatch: pytest.MonkeyPatch) -> list[Client]:
    made: list[Client] = []

    def make(**settings: Any) -> Client:
        made.append(Client(**settings))
        return made[-1]

    monkeypatch.setattr("kafka.KafkaConsumer", make)
    return made


def test_short_polls_join_all_the_same_and_wait_once(clients: list[Client]) -> None:
    consumer = Consumer(PLACE, MEMBER)
    consumer.subscribe(["docs"], Silent())
    consumer.poll(0.001)
    consumer.poll(0.001)
    (client,) = clients
    assert client._coordinator.joined
    assert len(client._coordinator.waited) == 1
    assert client.polls == [1, 1]
    client._coordinator.asked = True  # somebody else has come
    consumer.poll(0.0)
    assert client._coordinator.joined
    consumer.close()


def test_a_join_that_was_left_halfway_is_done_again(clients: list[Client]) -> None:
    """Seen on a real broker: begun inside a poll that had no time, its reason gone when it ended."""
    consumer = Consumer(PLACE, MEMBER)
    consumer.subscribe(["docs"], Silent())
    consumer.poll(0.001)
    coordinator = clients[0]._coordinator
    coordinator.asked, coordinator.rejoining = False, True
    assert not coordinator.need_rejoin() and not coordinator.joined
    consumer.poll(0.001)
    assert coordinator.joined
    consumer.close()


def test_who_is_in_no_group_waits_for_none(clients: list[Client]) -> None:
    consumer = Consumer(PLACE)
    consumer.subscribe(["docs"], Silent())
    consumer.poll(0.001)
    (client,) = clients
    assert client._coordinator.waited == []
    consumer.close()
