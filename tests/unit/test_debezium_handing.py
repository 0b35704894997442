"""Requests from the command line to a group: who gets them, and what is said if nobody is there."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any, cast

import pytest

from bridge import requests
from bridge.config import Effective, Settings
from bridge.errors import Unreachable, UsageError
from bridge.kafka_state import RECORD_NAME, KafkaState, PartitionState, Phase, TopicState
from bridge.qdrant.state import QdrantState
from bridge.qdrant.target import Target
from bridge.requests import Request
from cli import awaiting, debezium_requests
from cli.debezium_requests import execute_in_group
from tests.support.kafka_fake import TOPIC, MemoryRecords


def store(phase: Phase = "reading", *, saved_seconds_ago: float | None = None) -> MemoryRecords:
    found = MemoryRecords()
    topics = {TOPIC: TopicState(table="public.docs", begin=(0,), end=(0,))}
    state = KafkaState(group="g", topics=topics, copied=True, phase=phase)
    found.put("stream", RECORD_NAME, state.to_record())
    if saved_seconds_ago is not None:
        partition = PartitionState(
            topic=TOPIC,
            partition=0,
            offset=0,
            end=0,
            phase="streaming",
            owner="o",
            saved_at_ms=int((time.time() - saved_seconds_ago) * 1000),
        )
        found.put("stream", partition.name, partition.to_record())
    return found


def hand(found: MemoryRecords, request: Request, *, postgres: bool = True, **more: Any) -> Any:
    settings = Settings.model_validate(
        {"postgres": {"url": "postgresql://localhost/db"} if postgres else {}}
    )
    return execute_in_group(
        cast(Effective, SimpleNamespace(settings=settings)),
        cast(Target, None),
        cast(QdrantState, found),
        [request],
        lambda request: None,
        **more,
    )


def test_before_the_topics_are_read_there_is_nothing_to_do_it_beside() -> None:
    with pytest.raises(UsageError) as caught:
        hand(store("backfill"), requests.make("resync", "public.docs"))
    assert "run" in caught.value.hint


def test_a_request_needs_a_postgres_to_read_from() -> None:
    found = store(saved_seconds_ago=1)
    with pytest.raises(UsageError) as caught:
        hand(found, requests.make("resync", "public.docs"), postgres=False)
    assert "postgres.url" in caught.value.hint
    assert not dict(found.records("request"))


def test_a_request_that_nobody_waits_for_is_left() -> None:
    for seconds in (1, None):
        found = store(saved_seconds_ago=seconds)
        request = requests.make("resync", "public.docs")
        assert hand(found, request, wait=False) == [request]
        assert list(dict(found.records("request"))) == [request.name]


def test_a_group_that_ends_before_leaves_the_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(awaiting, "_LOOK_SECONDS", 0.0)
    found = store(saved_seconds_ago=1)
    looks = 0

    def is_read(_store: object) -> bool:
        nonlocal looks
        looks += 1
        return looks < 3

    monkeypatch.setattr(debezium_requests, "is_read_from_kafka", is_read)
    request = requests.make("resync", "public.docs", waited_for=True)
    with pytest.raises(Unreachable) as caught:
        hand(found, request)
    assert "kept" in caught.value.hint
    assert list(dict(found.records("request"))) == [request.name]
