"""Requests: stored, found in order, gone on with, fetched, forgotten."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from bridge import requests
from bridge.requests import Request
from bridge.state import Kind, Record

NOON = datetime(2025, 5, 1, 12, tzinfo=UTC)


class Memory:
    """`RequestStore`; what is stored goes through JSON, as it does on its way to Qdrant."""

    def __init__(self) -> None:
        self.stored: dict[str, str] = {}

    def get(self, kind: Kind, name: str) -> Record | None:
        text = self.stored.get(name)
        record: Mapping[str, Any] | None = None if text is None else json.loads(text)
        return record

    def put(self, kind: Kind, name: str, record: Record) -> None:
        assert kind == "request"
        self.stored[name] = json.dumps(record)

    def records(self, kind: Kind) -> Iterator[tuple[str, Record]]:
        for name, text in list(self.stored.items()):
            yield name, json.loads(text)

    def remove(self, kind: Kind, names: Sequence[str]) -> None:
        for name in names:
            self.stored.pop(name, None)


def made(minute: int = 0, **details: Any) -> Request:
    at = NOON + timedelta(minutes=minute)
    return requests.make("resync", "public.docs", now=lambda: at, **details)


def test_a_request_is_what_was_stored() -> None:
    store = Memory()
    asked = made(first=("a", "1"), last=("b", "2"), waited_for=True)
    requests.ask(store, asked)
    requests.save(store, asked.at(stage="rows", after=("a", "7"), swept=12, rows=3))
    (found,) = requests.open_requests(store, now=lambda: NOON)
    assert found == asked.at(stage="rows", after=("a", "7"), swept=12, rows=3)


def test_they_are_done_in_the_order_in_which_they_were_made() -> None:
    store = Memory()
    for minute in (3, 1, 2):
        requests.ask(store, made(minute))
    found = requests.open_requests(store, now=lambda: NOON)
    assert found == sorted(found, key=lambda request: request.asked_at)
    assert len(found) == 3


def test_one_that_nobody_waits_for_goes_when_it_is_done() -> None:
    store = Memory()
    asked = made()
    requests.ask(store, asked)
    requests.finish(store, asked, now=lambda: NOON, stage="done")
    assert store.stored == {}


def test_an_outcome_is_kept_for_him_who_waits_and_forgotten_when_he_has_it() -> None:
    store, looks = Memory(), 0
    asked = made(waited_for=True)
    requests.ask(store, asked)

    def sleep(_seconds: float) -> None:
        nonlocal looks
        looks += 1
        if looks == 2:
            requests.finish(store, asked, now=lambda: NOON, stage="done", rows=5)

    (ended,) = requests.await_outcomes(store, [asked], sleep=sleep)
    assert (ended.progress.stage, ended.progress.rows, looks) == ("done", 5, 2)
    assert store.stored == {}


@pytest.mark.parametrize(("minutes", "kept"), [(59, True), (61, False)])
def test_an_outcome_that_nobody_fetches_is_kept_for_an_hour(minutes: int, kept: bool) -> None:
    store = Memory()
    requests.finish(store, made(waited_for=True), now=lambda: NOON, stage="failed", reason="x")
    later = NOON + timedelta(minutes=minutes)
    assert requests.open_requests(store, now=lambda: later) == []
    assert bool(store.stored) is kept


def test_one_that_is_gone_was_not_done() -> None:
    (ended,) = requests.await_outcomes(Memory(), [made()])
    assert ended.progress.stage == "failed"
