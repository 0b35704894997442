"""A comparison while the table is written to and a daemon follows: nothing under way is reported, and what is
wrong is found all the same."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from qdrant_client import models

from tests.support.command import bridge
from tests.support.databases import Database
from tests.support.followed import Followed
from tests.support.places import ServerPlace, open_server
from tests.support.writers import Statement, Writers
from verify.report import COUNTS

COLUMNS = "id int PRIMARY KEY, title text, price int, v vector(8)"
BUSY = 2_000
"""Keys below are written to all the time; those from 5,001 on never."""
QUIET = 500
ROWS_A_STATEMENT = 10
WRITES_A_SECOND = 2_000
ROW = (
    "i, 'row ' || i || %(n)s, %(n)s, (SELECT array_agg(sin(i + j + %(n)s))::real[]::vector"
    " FROM generate_series(1, 8) j)"
)


@pytest.fixture
def docs(database: Database, tmp_path: Path) -> Iterator[Followed]:
    with open_server(tmp_path) as place:
        followed = Followed(database, place, tmp_path, columns=COLUMNS)
        for first, last in ((1, BUSY), (5_001, 5_000 + QUIET)):
            database.execute(
                f"INSERT INTO docs SELECT {ROW} FROM generate_series({first}, {last}) i", {"n": 1}
            )
        yield followed


def write(numbers: random.Random, connection: int) -> Statement:
    """Ten rows updated, or removed and made again, or given other keys and their old ones back."""
    # Each connection has its keys: what one waits for, the other holds.
    first = numbers.randrange(connection, BUSY // ROWS_A_STATEMENT, CONNECTIONS) * ROWS_A_STATEMENT
    last, value = first + ROWS_A_STATEMENT, numbers.randrange(1_000_000)
    bounds = {"first": first + 1, "last": last, "n": value}
    kind = numbers.random()
    if kind < 0.5:
        return (
            "UPDATE docs SET title = 'other ' || %(n)s, price = %(n)s"
            " WHERE id BETWEEN %(first)s AND %(last)s",
            bounds,
        )  # type: ignore[return-value]
    if kind < 0.65:
        return "DELETE FROM docs WHERE id BETWEEN %(first)s AND %(last)s", bounds  # type: ignore[return-value]
    return (
        f"INSERT INTO docs SELECT {ROW} FROM generate_series(%(first)s::int, %(last)s::int) i"
        " ON CONFLICT (id) DO UPDATE SET title = excluded.title, v = excluded.v",
        bounds,
    )  # type: ignore[return-value]


CONNECTIONS = 3


class Rate:
    """How much is written: `choose` waits until another statement is due."""

    def __init__(self) -> None:
        self.rows = 0
        self.began = time.monotonic()

    def choose(self, numbers: random.Random, connection: int) -> Statement:
        self.rows += ROWS_A_STATEMENT
        return write(numbers, connection)

    @property
    def a_second(self) -> float:
        return self.rows / (time.monotonic() - self.began)


def compare(docs: Followed) -> dict[str, Any]:
    """What a comparison says of the table."""
    outcome = bridge("verify", "--config", docs.pipeline.config, "--json")
    assert outcome.code in (0, 1), outcome.err
    assert outcome.report["equal"] is (outcome.code == 0)
    return outcome.table


def alter(place: ServerPlace, name: str, key: int, price: int) -> None:
    place.client.set_payload(name, {"price": price}, points=[key], wait=True)


def runs_with_writers(docs: Followed, runs: int) -> None:
    nothing = dict.fromkeys(COUNTS, 0)
    with docs.streaming():
        rate = Rate()
        with Writers(docs.database, rate.choose, seed=runs, connections=CONNECTIONS) as writers:
            for run in range(runs):
                writers.await_written(30)
                key = 5_001 + run
                alter(docs.place, docs.pipeline.name, key, -1 - run)
                found = compare(docs)
                assert {name: found[name] for name in COUNTS} == {**nothing, "altered": 1}, found
                assert [example["key"] for example in found["examples"]] == [str(key)]
                alter(docs.place, docs.pipeline.name, key, 1)
            print(f"{rate.a_second:,.0f} rows written a second")
            written = rate.a_second
        docs.wait()
        assert {name: compare(docs)[name] for name in COUNTS} == nothing
    assert written > WRITES_A_SECOND / 4, (
        "this machine did not write enough for the test to say much"
    )


def test_what_is_under_way_is_not_reported_and_an_altered_point_is(docs: Followed) -> None:
    runs_with_writers(docs, 2)


@pytest.mark.long
def test_no_false_alarm_in_twenty_comparisons_at_2000_writes_a_second(docs: Followed) -> None:
    runs_with_writers(docs, 20)


def test_a_lost_and_an_added_point_are_found_while_others_come_and_go(docs: Followed) -> None:
    with (
        docs.streaming(),
        Writers(docs.database, write, seed=3, connections=CONNECTIONS) as writers,
    ):
        writers.await_written(30)
        client, name = docs.place.client, docs.pipeline.name
        client.delete(name, models.PointIdsList(points=[5_003]), wait=True)
        point = client.retrieve(name, [5_004], with_vectors=True)[0]
        made: list[Any] = [
            models.PointStruct(id=identity, vector=point.vector, payload=point.payload)
            for identity in (9_999, "7f6c1f4e-9a3b-4d1c-8e7f-2a1b3c4d5e6f")
        ]
        client.upsert(name, made, wait=True)
        found = compare(docs)
    assert {kind: found[kind] for kind in COUNTS if found[kind]} == {"missing": 1, "extra": 2}
