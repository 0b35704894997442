"""Rows that cannot be stored: set aside with a reason, the others land, and what becomes of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from bridge.errors import StopError
from tests.conftest import Database
from tests.support.api import backfill_with
from tests.support.command import Outcome, bridge
from tests.support.comparison import Expectation, differences
from tests.support.places import PLACES, EdgePlace, Place, ServerPlace, open_place, open_server
from tests.support.qdrant_server import contains_point, reject


@pytest.fixture(params=PLACES)
def any_place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    with open_place(request.param, tmp_path) as opened:
        yield opened


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerPlace]:
    with open_server(tmp_path) as opened:
        yield opened


@pytest.fixture
def edge(tmp_path: Path) -> EdgePlace:
    return EdgePlace(tmp_path / "edge")


def backfill(database: Database, place: Place, table: str, collection: str, *more: str) -> Outcome:
    return bridge(
        "backfill", "pgvector", "--pg.url", database.url, "--pg.table", table,
        "--qdrant.url", place.url, "--qdrant.collection", collection,
        "--migration.num-workers", "1", "--json", *more,
    )  # fmt: skip


def letters(place: Place, collection: str, action: str, *more: str) -> Outcome:
    """`dead-letters ACTION` for the pipeline of this collection."""
    return bridge(
        "dead-letters", action, "--qdrant.url", place.url, "--pg.table", "flawed",
        "--qdrant.collection", collection, *more,
    )  # fmt: skip


def listed(place: Place, collection: str) -> dict[str, str]:
    """Key -> reason of every dead letter."""
    report = letters(place, collection, "list", "--json").require().report
    return {letter["key"]: letter["reason"] for letter in report["dead_letters"]}


# key -> column, value, what the reason must say
FLAWED: Final = {
    "-1": ("v", "('\\x03000000' || repeat('0000c07f', 3))::bytea::vector", "NaN or infinite"),
    "-2": ("v", "('\\x03000000' || repeat('0000807f', 3))::bytea::vector", "NaN or infinite"),
    "-3": ("doc", """'{"s": "\\ud800"}'""", "lone surrogate"),
    "-4": ("doc", """'{"s": "\\u0000"}'""", "U+0000"),
    "-5": ("price", "1e400", "beyond the range of a double"),
    "-6": ("v", "'[3e38,3e38,3e38]'", "overflows"),
    "-7": ("many", "ARRAY['[1,2]', NULL]::vector[]", "NULL"),
    "-8": ("doc", "(repeat('[', 200) || repeat(']', 200))::json", "nested too deeply"),
}
SOUND: Final = 1200


def fill(database: Database) -> None:
    """Table `flawed`: sound rows above 0, and rows below it with a flaw each."""
    database.execute(
        "CREATE TABLE flawed (id int PRIMARY KEY, doc json, price numeric, v vector(3),"
        " many vector(2)[], body text DEFAULT 'kept')"
    )
    # pgvector lets no NaN in; damaged storage can hold one all the same, as through this cast.
    database.execute("CREATE CAST (bytea AS vector) WITHOUT FUNCTION")
    database.execute(
        "INSERT INTO flawed SELECT i, '{}', i, ARRAY[i, 1, 2]::real[]::vector"
        f" FROM generate_series(1, {SOUND}) i"
    )
    for key, (column, value, _reason) in FLAWED.items():
        database.execute(f"INSERT INTO flawed (id, {column}) VALUES ({key}, {value})")
    database.execute("ANALYZE flawed")


def test_flawed_rows_are_set_aside_with_their_reasons_and_the_others_land(
    database: Database, any_place: Place
) -> None:
    fill(database)
    name = any_place.name("flawed")
    outcome = backfill(database, any_place, "flawed", name).require()
    assert outcome.table["dead_letters"] == len(FLAWED)
    assert outcome.table["rows_read"] == SOUND + len(FLAWED)
    assert outcome.table["rows_written"] == outcome.table["target_count"] == SOUND
    found = listed(any_place, name)
    assert found.keys() == FLAWED.keys()
    for key, (column, _value, reason) in FLAWED.items():
        assert column in found[key] or key == "-8"
        assert reason in found[key]
    expected = Expectation(without=[(key,) for key in FLAWED])
    assert differences(database, "flawed", any_place.points(name), expected) == []


def test_a_dead_letter_is_shown_whole_and_without_the_rows_values(
    database: Database, edge: EdgePlace
) -> None:
    fill(database)
    backfill(database, edge, "flawed", "flawed").require()
    shown = letters(edge, "flawed", "show", "--", "-3").require()
    for line in ("table: public.flawed", "key: -3", "position: chunk 0", "lone surrogate"):
        assert line in shown.out
    assert "ud800" not in shown.out and "ud800" not in listed(edge, "flawed")["-3"]
    letters(edge, "flawed", "show", "--", "12345").require(2)


def test_a_mended_row_is_written_by_retry(database: Database, any_place: Place) -> None:
    fill(database)
    name = any_place.name("flawed")
    backfill(database, any_place, "flawed", name).require()
    url = ("--pg.url", database.url)
    failed = letters(any_place, name, "retry", "--all", "--json", *url).require(1)
    assert (failed.report["written"], failed.report["kept"]) == (0, len(FLAWED))
    database.execute("UPDATE flawed SET v = '[1,2,3]' WHERE id IN (-1, -2)")
    database.execute("""UPDATE flawed SET doc = '{"s": "ok"}' WHERE id = -3""")
    database.execute("DELETE FROM flawed WHERE id = -4")
    mixed = letters(any_place, name, "retry", "--table", "public.flawed", "--json", *url).require(1)
    report = mixed.report
    assert (report["written"], report["gone"], report["kept"]) == (3, 1, len(FLAWED) - 4)
    left = {key for key in FLAWED if int(key) <= -5}
    assert listed(any_place, name).keys() == left
    expected = Expectation(without=[(key,) for key in left])
    assert differences(database, "flawed", any_place.points(name), expected) == []


def test_a_run_after_a_retry_finds_nothing_wrong(database: Database, edge: EdgePlace) -> None:
    fill(database)
    backfill(database, edge, "flawed", "flawed").require()
    database.execute("UPDATE flawed SET v = '[1,2,3]' WHERE id IN (-1, -2)")
    retried = letters(edge, "flawed", "retry", "--pg.url", database.url, "--", "-1").require()
    assert "1 written" in retried.err
    again = backfill(database, edge, "flawed", "flawed").require()
    assert again.table["problems"] == []
    assert again.table["target_count"] == SOUND + 1


def test_dropped_letters_are_forgotten_and_their_rows_stay_out(
    database: Database, edge: EdgePlace
) -> None:
    fill(database)
    backfill(database, edge, "flawed", "flawed").require()
    assert "1 dropped" in letters(edge, "flawed", "drop", "--", "-1").require().err
    assert listed(edge, "flawed").keys() == FLAWED.keys() - {"-1"}
    letters(edge, "flawed", "drop", "--all").require()
    assert listed(edge, "flawed") == {}
    again = backfill(database, edge, "flawed", "flawed").require()
    assert again.table["target_count"] == SOUND
    letters(edge, "flawed", "drop").require(2)


def test_letters_of_a_composite_key_can_be_retried(database: Database, edge: EdgePlace) -> None:
    database.execute(
        "CREATE TABLE flawed (b text, a int, v vector(2), price numeric, PRIMARY KEY (a, b))"
    )
    database.execute(
        """INSERT INTO flawed VALUES ('q"[],', 1, '[1,2]', 1e400), ('x', 2, '[3,4]', 1)"""
    )
    backfill(database, edge, "flawed", "flawed").require()
    assert listed(edge, "flawed").keys() == {'["1","q\\"[],"]'}
    database.execute("UPDATE flawed SET price = 7 WHERE a = 1")
    letters(edge, "flawed", "retry", "--all", "--pg.url", database.url).require()
    expected = Expectation(key=["a", "b"])
    assert differences(database, "flawed", edge.points("flawed"), expected) == []


def test_a_restart_forgets_the_letters_of_before(database: Database, edge: EdgePlace) -> None:
    fill(database)
    backfill(database, edge, "flawed", "flawed").require()
    database.execute("DELETE FROM flawed WHERE id < 0")
    table = backfill(database, edge, "flawed", "flawed", "--migration.restart").require().table
    assert table["dead_letters"] == 0
    assert listed(edge, "flawed") == {}


def test_points_that_the_server_refuses_are_bisected_out(
    database: Database, server: ServerPlace
) -> None:
    fill(database)
    database.execute("DELETE FROM flawed WHERE id < 0")
    assert server.server is not None
    for identity in (1, 700, 701):
        server.server.faults.add(
            method="Upsert", action=reject(contains_point(identity)), times=None
        )
    outcome = backfill(database, server, "flawed", "flawed").require()
    assert outcome.table["dead_letters"] == 3
    found = listed(server, "flawed")
    assert found.keys() == {"1", "700", "701"}
    assert all("Wrong input: injected" in reason for reason in found.values())
    expected = Expectation(without=[("1",), ("700",), ("701",)])
    assert differences(database, "flawed", server.points("flawed"), expected) == []
    server.server.faults.clear()
    letters(server, "flawed", "retry", "--all", "--pg.url", database.url).require()
    assert differences(database, "flawed", server.points("flawed")) == []


def test_too_many_dead_letters_stop_the_run(database: Database, server: ServerPlace) -> None:
    fill(database)
    with pytest.raises(StopError, match="more than 3 rows had to be set aside") as stopped:
        backfill_with(database, server, "flawed", dead_letter_limit=3)
    assert stopped.value.code == "DEAD_LETTERS"
    assert listed(server, "flawed").keys() == FLAWED.keys()
