"""`qdrant-bridge backfill pgvector` from end to end: what is copied, what is said, what is gone on with."""

from __future__ import annotations

import itertools
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import grpc
import pytest
from qdrant_client import models

from backfill.preflight import Inspection, inspect
from tests.conftest import BOTH_VERSIONS, Database
from tests.support.command import Background, Outcome, Running, bridge, config_file
from tests.support.comparison import Expectation, differences
from tests.support.places import (
    PLACES,
    SERVERS,
    EdgePlace,
    Place,
    ServerPlace,
    open_place,
    open_server,
)
from tests.support.qdrant_server import delay, fail

ONE_WORKER: Final = ("--migration.num-workers", "1")


@pytest.fixture(params=PLACES)
def any_place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    with open_place(request.param, tmp_path) as opened:
        yield opened


@pytest.fixture(params=SERVERS)
def any_server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ServerPlace]:
    with open_place(request.param, tmp_path) as opened:
        assert isinstance(opened, ServerPlace)
        yield opened


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerPlace]:
    with open_server(tmp_path) as opened:
        yield opened


@pytest.fixture
def edge(tmp_path: Path) -> EdgePlace:
    return EdgePlace(tmp_path / "edge")


def arguments(database: Database, place: Place, table: str, *more: str) -> list[str]:
    return [
        "backfill", "pgvector", "--pg.url", database.url, "--pg.table", table,
        "--qdrant.url", place.url, *more,
    ]  # fmt: skip


def run_copy(database: Database, place: Place, table: str, *more: str) -> Outcome:
    return bridge(*arguments(database, place, table, "--json", *ONE_WORKER, *more))


def make_docs(database: Database, rows: int, table: str = "docs") -> None:
    """A table of three columns, analysed: chunks of 500 rows for one worker below 2,000 rows."""
    database.execute(f"CREATE TABLE {table} (id int PRIMARY KEY, body text, v vector(4))")
    add_docs(database, 1, rows, table)
    database.execute(f"ANALYZE {table}")


def add_docs(database: Database, first: int, last: int, table: str = "docs") -> None:
    database.execute(
        f"INSERT INTO {table} SELECT i, 'row ' || i, ARRAY[i, 1, -i, 0.5]::real[]::vector"
        f" FROM generate_series({first}, {last}) i"
    )


# --- shapes of tables ---------------------------------------------------------------------------


@pytest.mark.parametrize("postgres_version", BOTH_VERSIONS, indirect=True)
def test_partitions_are_copied_through_the_root_and_counted_each(
    database: Database, edge: EdgePlace
) -> None:
    for statement in (
        "CREATE SCHEMA app",
        "CREATE TABLE app.events (id int, region text, at date, v vector(4),"
        " PRIMARY KEY (region, at, id)) PARTITION BY LIST (region)",
        "CREATE TABLE app.events_eu PARTITION OF app.events FOR VALUES IN ('de', 'fr')"
        " PARTITION BY RANGE (at)",
        "CREATE TABLE app.events_eu_2023 PARTITION OF app.events_eu"
        " FOR VALUES FROM ('2023-01-01') TO ('2024-01-01')",
        "CREATE TABLE app.events_eu_2024 PARTITION OF app.events_eu"
        " FOR VALUES FROM ('2024-01-01') TO ('2025-01-01')",
        "CREATE TABLE app.events_rest PARTITION OF app.events DEFAULT",
        "CREATE TABLE app.\"Empty\" PARTITION OF app.events FOR VALUES IN ('aq')",
        "INSERT INTO app.events SELECT i, (ARRAY['de', 'us', 'fr'])[i % 3 + 1],"
        " '2023-06-01'::date + i % 400, ARRAY[i, 1, 2, 3]::real[]::vector"
        " FROM generate_series(1, 1700) i",
        "ANALYZE app.events",
    ):
        database.execute(statement)
    table = run_copy(database, edge, "app.events").require().table
    counts = database.execute(
        "SELECT tableoid::regclass::text, count(*) FROM app.events GROUP BY 1"
    )
    assert table["partitions"] == {**dict(counts), 'app."Empty"': 0}
    assert table["source_count"] == table["target_count"] == 1700
    assert table["chunks"] > 1
    expected = Expectation(key=["region", "at", "id"])
    assert differences(database, "app.events", edge.points("events"), expected) == []


@pytest.mark.parametrize("kind", ["VIEW", "MATERIALIZED VIEW"])
def test_a_view_is_copied_by_the_key_that_is_given(
    database: Database, edge: EdgePlace, kind: str
) -> None:
    make_docs(database, 1200)
    database.execute(f"CREATE {kind} shown AS SELECT id, body, v FROM docs WHERE id % 2 = 0")
    refused = run_copy(database, edge, "shown").require(2)
    assert "no primary key" in refused.err and "--pg.key-column" in refused.err
    table = run_copy(database, edge, "shown", "--pg.key-column", "id").require().table
    assert table["rows_read"] == 600
    assert differences(database, "shown", edge.points("shown")) == []


def test_several_key_columns_and_the_columns_to_take_can_be_given(
    database: Database, edge: EdgePlace
) -> None:
    database.execute("CREATE TABLE pairs (a text, b int, c text, v vector(1), w vector(1))")
    database.execute(
        "INSERT INTO pairs SELECT i % 3, i / 3, 'c', '[1]', '[2]' FROM generate_series(1, 9) i"
    )
    given = ("--pg.key-column", "a,b", "--pg.columns", "a,b", "--pg.columns", "v")
    run_copy(database, edge, "pairs", *given).require()
    expected = Expectation(key=["a", "b"], columns=["a", "b", "v"])
    assert differences(database, "pairs", edge.points("pairs"), expected) == []


@pytest.mark.parametrize("rows", [0, 1])
def test_an_empty_table_and_a_single_row_are_copied(
    database: Database, any_place: Place, rows: int
) -> None:
    make_docs(database, rows)
    collection = any_place.name()
    table = run_copy(database, any_place, "docs", "--qdrant.collection", collection).require().table
    assert (table["rows_read"], table["target_count"], table["chunks"]) == (rows, rows, 1)
    assert differences(database, "docs", any_place.points(collection)) == []


def test_a_column_without_a_dimension_takes_that_of_its_rows(
    database: Database, edge: EdgePlace
) -> None:
    database.execute("CREATE TABLE free (id int PRIMARY KEY, v vector)")
    refused = run_copy(database, edge, "free").require(2)
    assert "no declared dimension" in refused.err
    assert not edge.exists("free")
    database.execute("INSERT INTO free VALUES (1, '[1,2]'), (2, NULL), (3, '[3,4]')")
    run_copy(database, edge, "free").require()
    assert differences(database, "free", edge.points("free")) == []


def test_a_row_larger_than_a_request_is_copied(database: Database, any_place: Place) -> None:
    database.execute("CREATE TABLE wide (id int PRIMARY KEY, body text, v vector(2))")
    database.execute(
        "INSERT INTO wide SELECT i, repeat('wide ', 1200000), '[1,2]' FROM generate_series(1, 3) i"
    )
    collection = any_place.name("wide")
    run_copy(database, any_place, "wide", "--qdrant.collection", collection).require()
    assert differences(database, "wide", any_place.points(collection)) == []


# --- configuration ------------------------------------------------------------------------------


def test_payload_is_renamed_and_rows_are_chosen_by_the_configuration(
    database: Database, edge: EdgePlace, tmp_path: Path
) -> None:
    database.execute(
        "CREATE TABLE items (id int PRIMARY KEY, document text, lang text, deleted_at timestamptz,"
        " meta jsonb, secret text, v vector(2))"
    )
    database.execute(
        "INSERT INTO items SELECT i, 'd' || i, (ARRAY['en', 'de', 'fr', NULL])[i % 4 + 1],"
        " CASE WHEN i % 5 = 0 THEN now() END, jsonb_build_object('n', i), 'x', ARRAY[i, 1]::real[]"
        " FROM generate_series(1, 700) i"
    )
    database.execute("ANALYZE items")
    fields = {"page_content": "document", "metadata.source.lang": "lang", "metadata.raw": "meta"}
    settings = {
        "collection": "chosen",
        "payload": fields,
        "where": {"deleted_at": None, "lang": ["en", "de"]},
        "nulls": "omit",
        "vectors": {"v": {"name": "", "distance": "dot"}},
    }
    config = config_file(
        tmp_path,
        {
            "pipeline": "shop",
            "postgres": {"url": database.url},
            "qdrant": {"url": edge.url},
            "tables": {"public.items": settings},
        },
    )
    table = bridge("backfill", "pgvector", "--config", config, "--json").require().table
    where = "deleted_at IS NULL AND lang IN ('en', 'de')"
    ((rows,),) = database.execute(f"SELECT count(*) FROM items WHERE {where}")
    assert table["rows_read"] == table["source_count"] == table["target_count"] == rows
    expected = Expectation(
        payload=fields, distances={"v": "dot"}, names={"v": ""}, omit_nulls=True, where=where
    )
    assert differences(database, "items", edge.points("chosen"), expected) == []


def test_several_tables_are_copied_from_one_configuration(
    database: Database, any_place: Place, tmp_path: Path
) -> None:
    names = {table: any_place.name(table) for table in ("first", "second", "third")}
    for number, table in enumerate(names):
        make_docs(database, 10 + number, table)
    config = config_file(
        tmp_path,
        {
            "pipeline": any_place.name("pipe"),
            "postgres": {"url": database.url},
            "qdrant": {"url": any_place.url},
            "tables": {table: {"collection": name} for table, name in names.items()},
        },
    )
    report = bridge("backfill", "pgvector", "--config", config, "--json").require().report
    counts = {table: item["target_count"] for table, item in report["tables"].items()}
    assert counts == {"public.first": 10, "public.second": 11, "public.third": 12}
    for table, name in names.items():
        assert differences(database, table, any_place.points(name)) == []


def test_nothing_is_copied_before_every_table_was_looked_at(
    database: Database, server: ServerPlace, tmp_path: Path
) -> None:
    make_docs(database, 10, "first")
    database.execute("CREATE TABLE keyless (id int, v vector(3))")
    config = config_file(
        tmp_path,
        {
            "pipeline": server.name("pipe"),
            "postgres": {"url": database.url},
            "qdrant": {"url": server.url},
            "tables": {"first": {"collection": "first"}, "keyless": {"collection": "keyless"}},
        },
    )
    outcome = bridge("backfill", "pgvector", "--config", config).require(2)
    assert "public.keyless has no primary key" in outcome.err
    assert not server.exists("first")


def test_what_was_looked_at_before_is_not_looked_at_again(
    database: Database, edge: EdgePlace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[str] = []

    def counting(connection: Any, name: str, settings: Any) -> Inspection:
        looked.append(name)
        return inspect(connection, name, settings)

    monkeypatch.setattr("backfill.pgvector.inspect", counting)
    for table in ("first", "second"):
        make_docs(database, 10, table)
    settings = {
        "pipeline": edge.name("pipe"),
        "postgres": {"url": database.url},
        "qdrant": {"url": edge.url},
        "tables": {table: {"collection": table} for table in ("first", "second")},
    }
    bridge("backfill", "pgvector", "--config", config_file(tmp_path, settings)).require()
    assert looked == ["first", "second"]


# --- what is said -------------------------------------------------------------------------------


def test_both_sides_counts_are_printed_and_reported(
    database: Database, server: ServerPlace
) -> None:
    make_docs(database, 1234)
    printed = bridge(*arguments(database, server, "docs")).require()
    (line,) = (line for line in printed.err.splitlines() if line.startswith("public.docs  "))
    assert line.split()[1:5] == ["docs", "1,234", "1,234", "0"]
    assert printed.out == ""
    report = run_copy(database, server, "docs").require().report
    assert (report["version"], report["ok"], report["pipeline"]) == (1, True, "docs")
    table = report["tables"]["public.docs"]
    assert table["complete"] and table["source_count"] == table["target_count"] == 1234


def test_the_progress_is_plain_lines_without_a_terminal(
    database: Database, edge: EdgePlace
) -> None:
    make_docs(database, 600)
    outcome = bridge(*arguments(database, edge, "docs", *ONE_WORKER)).require()
    assert "public.docs -> docs: 2 of 2 chunks to copy, 1 worker" in outcome.err
    assert "\x1b" not in outcome.err


def test_a_count_that_differs_fails_the_command(database: Database, server: ServerPlace) -> None:
    make_docs(database, 100)
    run_copy(database, server, "docs").require()
    server.client.delete("docs", points_selector=[1, 2, 3])
    outcome = run_copy(database, server, "docs").require(1)
    assert "COUNTS_DIFFER" in outcome.err
    # Copying again would not mend it if there were too many.
    assert "verify" in outcome.err and "--migration.restart" not in outcome.err
    assert outcome.report["ok"] is False
    assert outcome.table["problems"] == ["100 points were written, but the collection holds 97"]


def test_json_is_the_only_thing_on_standard_output(database: Database, edge: EdgePlace) -> None:
    make_docs(database, 5)
    with Running(*arguments(database, edge, "docs", "--json")) as running:
        outcome = running.finish().require()
    assert json.loads(outcome.out)["ok"] is True
    assert outcome.err == ""


# --- going on, and beginning again --------------------------------------------------------------


def test_a_complete_backfill_is_not_copied_again(database: Database, any_place: Place) -> None:
    make_docs(database, 1100)
    name = any_place.name()
    first = run_copy(database, any_place, "docs", "--qdrant.collection", name).require().table
    assert first["copied_now"] == 1100
    chunks = any_place.records(name, "chunk")
    assert len(chunks) == first["chunks"] == first["chunks_done"]
    again = run_copy(database, any_place, "docs", "--qdrant.collection", name).require().table
    assert (again["copied_now"], again["rows_read"], again["target_count"]) == (0, 1100, 1100)
    assert any_place.records(name, "chunk") == chunks


def test_a_restart_copies_everything_again(database: Database, any_place: Place) -> None:
    make_docs(database, 1100)
    name = any_place.name()
    run_copy(database, any_place, "docs", "--qdrant.collection", name).require()
    database.execute("UPDATE docs SET body = body || ' changed'")
    add_docs(database, 1101, 1150)
    more = ("--qdrant.collection", name, "--migration.restart=true")
    table = run_copy(database, any_place, "docs", *more).require().table
    assert (table["copied_now"], table["target_count"]) == (1150, 1150)
    assert differences(database, "docs", any_place.points(name)) == []


def test_a_changed_mapping_is_refused_until_it_restarts(
    database: Database, edge: EdgePlace
) -> None:
    make_docs(database, 20)
    run_copy(database, edge, "docs").require()
    before = edge.points("docs")
    refused = run_copy(database, edge, "docs", "--pg.columns", "id,v").require(2)
    assert "another mapping" in refused.err and "--migration.restart" in refused.err
    assert edge.points("docs").keys() == before.keys()
    more = ("--pg.columns", "id,v", "--migration.restart")
    run_copy(database, edge, "docs", *more).require()
    expected = Expectation(columns=["id", "v"])
    assert differences(database, "docs", edge.points("docs"), expected) == []


def test_a_table_made_anew_is_not_gone_on_with(database: Database, edge: EdgePlace) -> None:
    make_docs(database, 20)
    run_copy(database, edge, "docs").require()
    database.execute("DROP TABLE docs")
    make_docs(database, 20)
    refused = run_copy(database, edge, "docs").require(3)
    assert "SOURCE_CHANGED" in refused.err and "--migration.restart" in refused.err
    run_copy(database, edge, "docs", "--migration.restart").require()


def test_a_backfill_into_points_that_were_there_says_so(
    database: Database, server: ServerPlace
) -> None:
    make_docs(database, 30)
    run_copy(database, server, "docs").require()
    database.execute("CREATE TABLE other (LIKE docs INCLUDING ALL)")
    add_docs(database, 1001, 1010, "other")
    server.client.delete("_qdrant_bridge", points_selector=list(server.points("_qdrant_bridge")))
    table = run_copy(database, server, "other", "--qdrant.collection", "docs").require().table
    assert table["target_count"] == 40
    assert any("held 30 points before" in note for note in table["notes"])


# --- shards -------------------------------------------------------------------------------------


def test_the_shards_together_are_the_table_and_none_reads_anothers_chunk(
    database: Database, any_place: Place
) -> None:
    make_docs(database, 3100)
    name = any_place.name()
    reports = []
    records: list[dict[str, object]] = []
    for index in range(3):
        more = ("--qdrant.collection", name, "--shard", f"{index}/3")
        reports.append(run_copy(database, any_place, "docs", *more).require().table)
        records.append(any_place.records(name, "chunk"))
    assert [report["complete"] for report in reports] == [False, False, True]
    assert [report["target_count"] for report in reports] == [None, None, 3100]
    assert sum(report["copied_now"] for report in reports) == 3100
    for earlier, later in itertools.pairwise(records):
        assert earlier.items() <= later.items() and earlier.keys() < later.keys()
    numbers = [{int(key.rpartition("/")[2]) % 3 for key in record} for record in records]
    assert numbers == [{0}, {0, 1}, {0, 1, 2}]
    assert differences(database, "docs", any_place.points(name)) == []


def test_shards_at_the_same_time_agree_on_one_plan(
    database: Database, any_server: ServerPlace
) -> None:
    make_docs(database, 3100)
    name = any_server.name()
    more = ("--qdrant.collection", name, "--json", *ONE_WORKER, "--shard", "/3")
    running = [
        Running(
            *arguments(database, any_server, "docs", *more),
            environment={"JOB_COMPLETION_INDEX": str(index)},
        )
        for index in range(3)
    ]
    tables = []
    for shard in running:
        with shard:
            tables.append(shard.finish().require().table)
    assert sum(table["copied_now"] for table in tables) == 3100
    assert any(table["complete"] for table in tables)
    assert len(any_server.records(name, "plan")) == 1
    assert differences(database, "docs", any_server.points(name)) == []
    assert any_server.threshold(name) != 0


# --- indexing -----------------------------------------------------------------------------------


def test_indexing_is_off_while_it_copies_and_as_before_afterwards(
    database: Database, server: ServerPlace
) -> None:
    make_docs(database, 600)
    run_copy(database, server, "docs", "--pg.columns", "id,v").require()
    threshold = models.OptimizersConfigDiff(indexing_threshold=4321)
    server.client.update_collection("docs", optimizers_config=threshold)
    assert server.server is not None
    release = threading.Event()
    rule = server.server.faults.add(method="Upsert", collection="docs", action=delay(release))
    more = ("--pg.columns", "id,v", "--migration.restart", *ONE_WORKER)
    running = Background(*arguments(database, server, "docs", *more))
    server.server.faults.wait_fired(rule)
    meanwhile = server.threshold("docs")
    release.set()
    running.finish().require()
    assert meanwhile == 0
    assert server.threshold("docs") == 4321


def test_indexing_is_restored_at_the_end(database: Database, any_server: ServerPlace) -> None:
    make_docs(database, 600)
    name = any_server.name()
    table = run_copy(database, any_server, "docs", "--qdrant.collection", name).require().table
    assert table["index_seconds"] is not None
    assert any_server.threshold(name) not in (None, 0)
    assert any_server.records("", "indexing").get(name) is None


def test_indexing_is_restored_after_a_failure(database: Database, server: ServerPlace) -> None:
    make_docs(database, 600)
    assert server.server is not None
    server.server.faults.add(
        method="Upsert",
        collection="docs",
        action=fail(grpc.StatusCode.PERMISSION_DENIED, "this key only reads"),
        times=None,
    )
    refused = run_copy(database, server, "docs").require(2)
    assert "API key" in refused.err
    assert server.threshold("docs") not in (None, 0)
    server.server.faults.clear()
    run_copy(database, server, "docs").require()
    assert differences(database, "docs", server.points("docs")) == []


def test_indexing_that_the_operator_switched_off_stays_off(
    database: Database, any_server: ServerPlace
) -> None:
    make_docs(database, 10)
    name = any_server.name()
    run_copy(database, any_server, "docs", "--qdrant.collection", name).require()
    off = models.OptimizersConfigDiff(indexing_threshold=0)
    any_server.client.update_collection(name, optimizers_config=off)
    more = ("--qdrant.collection", name, "--migration.restart")
    run_copy(database, any_server, "docs", *more).require()
    assert any_server.threshold(name) == 0
