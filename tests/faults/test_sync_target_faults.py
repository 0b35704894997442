"""Qdrant fails under a stream in every way it can (faults.md): nothing is lost, nothing acknowledged that
is not durable, and a point that it refuses does not hold the others back.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Final

import grpc
import pytest

from tests.support.command import config_file
from tests.support.daemons import wait_streaming
from tests.support.databases import Database
from tests.support.followed import Followed
from tests.support.marked import Marked
from tests.support.places import STATE, ServerPlace
from tests.support.proxy import TcpProxy
from tests.support.qdrant_faults import Action, contains_point, reject
from tests.support.qdrant_server import (
    QdrantServer,
    delay,
    fail,
    internal,
    lost_response,
    rate_limited,
    unavailable,
    wait_timeout,
)


@pytest.fixture
def docs(database: Database, place: ServerPlace, tmp_path: Path) -> Followed:
    followed = Followed(database, place, tmp_path)
    followed.sql("INSERT INTO docs SELECT i, 'r' || i, i, vec(i) FROM generate_series(1, 9) i")
    return followed


def faulty(docs: Followed) -> QdrantServer:
    """The test server behind the pipeline."""
    assert docs.place.server is not None
    return docs.place.server


# --- what passes ------------------------------------------------------------------------------------

FAULTS: Final[dict[str, tuple[Action, int]]] = {
    "429 with retry-after": (rate_limited(1), 2),
    "429 for the size of the request": (rate_limited(None), 2),
    "UNAVAILABLE": (unavailable(), 3),
    "INTERNAL": (internal(), 2),
    "ABORTED": (fail(grpc.StatusCode.ABORTED, "injected"), 2),
    "DEADLINE_EXCEEDED": (fail(grpc.StatusCode.DEADLINE_EXCEEDED, "injected"), 2),
    "a lost response": (lost_response(), 2),
    "WaitTimeout": (wait_timeout(), 2),
    "a slow answer": (delay(0.5), 1),
}


@pytest.mark.parametrize(
    ("method", "of"),
    [
        pytest.param("Upsert", "data", marks=pytest.mark.long),
        pytest.param("UpdateBatch", "data", marks=pytest.mark.long),
        pytest.param("Delete", "data", marks=pytest.mark.long),
        ("Upsert", STATE),
    ],
)
def test_every_fault_while_the_stream_writes_costs_no_change(
    docs: Followed, method: str, of: str
) -> None:
    marked = Marked(docs)
    collection = docs.pipeline.name if of == "data" else of
    with marked.run() as running:
        wait_streaming(running)
        marked.write(1)
        for number, (action, times) in enumerate(FAULTS.values(), 2):
            rule = faulty(docs).faults.add(
                method=method, collection=collection, action=action, times=times
            )
            marked.write(number)
            faulty(docs).faults.wait_fired(rule, times)
        docs.wait()
        marked.require_durable()
        docs.require_equal()
        assert docs.place.records(docs.pipeline.name, "dead_letter") == {}


def test_faults_of_every_method_at_once_cost_no_change(docs: Followed) -> None:
    """Each kind of fault at another method, while the daemon applies what has piled up."""
    marked = Marked(docs)
    docs.prepare()
    for number in range(1, 6):
        marked.write(number)
    methods = ("Upsert", "UpdateBatch", "Delete")
    rules = [
        faulty(docs).faults.add(
            method=methods[number % 3], collection=docs.pipeline.name, action=action,
            nth=1 + number // 3,
        )
        for number, (action, _times) in enumerate(FAULTS.values())
    ]  # fmt: skip
    with marked.run() as running:
        wait_streaming(running)
        docs.wait()
        assert [rule.fired for rule in rules] == [1] * len(rules)
        marked.require_durable()
        docs.require_equal()


def test_retry_after_is_honoured(docs: Followed) -> None:
    with docs.streaming():
        arrived: list[float] = []
        faulty(docs).faults.add(
            method="Upsert", collection=docs.pipeline.name, action=rate_limited(2)
        )
        faulty(docs).requests.recorder = lambda method, request: (
            arrived.append(time.monotonic())
            if method == "Points.Upsert" and request.collection_name == docs.pipeline.name
            else None
        )
        docs.sql("INSERT INTO docs VALUES (50, 'x', 1, vec(1))")
        docs.wait()
        assert arrived[1] - arrived[0] >= 2.0
        docs.require_equal()


@pytest.mark.parametrize("what", ["upserts", "patches"])
def test_a_request_larger_than_the_limiters_budget_is_split(docs: Followed, what: str) -> None:
    most = 100

    def limit(method: str) -> Action:
        refuse = rate_limited(None)

        def action(request, proceed, stopping):  # type: ignore[no-untyped-def]
            size = len(request.points) if method == "Upsert" else len(request.operations)
            return refuse(request, proceed, stopping) if size > most else proceed()

        return action

    with docs.streaming():
        docs.sql("INSERT INTO docs SELECT i, 'r' || i, i, vec(i) FROM generate_series(10, 900) i")
        docs.wait()
        for method in ("Upsert", "UpdateBatch"):
            faulty(docs).faults.add(
                method=method, collection=docs.pipeline.name, action=limit(method), times=None
            )
        change = "v = vec(id + 1)" if what == "upserts" else "price = price + 1"
        docs.sql(f"UPDATE docs SET {change}")
        docs.wait()
        docs.require_equal()


def test_a_server_that_restarts_again_and_again(docs: Followed) -> None:
    marked = Marked(docs)
    with marked.run() as running:
        wait_streaming(running)
        for number in range(1, 4):
            marked.write(number)
            faulty(docs).kill()
            marked.write(number + 10)
            assert marked.confirmed() <= marked.last
            faulty(docs).start()
        docs.wait()
        marked.require_durable()
        docs.require_equal()


def test_while_qdrant_is_away_nothing_is_acknowledged_and_nothing_is_dropped(
    docs: Followed,
) -> None:
    marked = Marked(docs)
    with marked.run() as running:
        wait_streaming(running)
        docs.wait()
        faulty(docs).stop()
        before = marked.confirmed()
        marked.write(1)
        running.wait_line('"waiting"', 60)
        docs.sql("CREATE TABLE other AS SELECT i FROM generate_series(1, 10000) i")
        assert marked.confirmed() == before
        faulty(docs).start()
        docs.wait()
        marked.require_durable()
        docs.require_equal()


def test_a_network_to_qdrant_that_swallows_everything(
    database: Database, place: ServerPlace, tmp_path: Path
) -> None:
    docs = Followed(database, place, tmp_path)
    with TcpProxy(faulty(docs).port) as proxy:
        settings = json.loads(Path(docs.pipeline.config).read_text())
        settings["qdrant"] = {"url": f"http://127.0.0.1:{proxy.port}", "timeout_seconds": 3}
        config_file(tmp_path, settings)
        with docs.pipeline.run() as running:
            wait_streaming(running)
            proxy.black_hole()
            docs.sql("INSERT INTO docs VALUES (1, 'x', 1, vec(1))")
            running.wait_line('"waiting"', 120)
            proxy.heal()
            docs.wait()
            docs.require_equal()


# --- what does not ----------------------------------------------------------------------------------


@pytest.mark.parametrize("change", ["v = vec(id + 1)", "price = price + 100"])
def test_a_point_that_qdrant_refuses_is_set_aside_and_the_others_land(
    docs: Followed, change: str
) -> None:
    with docs.streaming() as running:
        before = docs.points()[5]
        for method, holds in (("Upsert", contains_point(5)), ("UpdateBatch", _names_point(5))):
            faulty(docs).faults.add(
                method=method, collection=docs.pipeline.name, action=reject(holds), times=None
            )
        docs.sql(f"UPDATE docs SET {change}")
        docs.wait()
        running.wait_line('"dead_letter"')
        letters = docs.place.records(docs.pipeline.name, "dead_letter")
        assert set(letters) == {"public.docs/5"}
        assert "r5" not in json.dumps(letters), "a row's value is in the letter"
        points = dict(docs.points())
        assert points[5].payload == before.payload  # the last good version stays
        faulty(docs).faults.clear()
        # The row's next change supersedes the letter.
        docs.sql("UPDATE docs SET title = 'mended' WHERE id = 5")
        docs.wait()
        assert docs.place.records(docs.pipeline.name, "dead_letter") == {}
        docs.require_equal()


def _names_point(identifier: int):  # type: ignore[no-untyped-def]
    """Whether an UpdateBatch has to do with the point."""

    def predicate(request) -> bool:  # type: ignore[no-untyped-def]
        return f"num: {identifier}\n" in str(request)

    return predicate


def test_too_many_dead_letters_stop_the_daemon(docs: Followed) -> None:
    with docs.streaming() as running:
        docs.sql("ALTER TABLE docs ADD COLUMN amount numeric")
        docs.sql(
            "INSERT INTO docs (id, amount, v) SELECT i, repeat('9', 400)::numeric, vec(1)"
            " FROM generate_series(100, 1200) i"
        )
        docs.stopped(running, "DEAD_LETTERS")
