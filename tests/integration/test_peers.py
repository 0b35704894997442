"""What goes wrong with qdrant/migration 0.6.5 on a pgvector table, each fault a test that passes here.

Its faults were found by running it. Those about Pinecone are tested with the Pinecone backfill.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from tests.conftest import Database
from tests.support.command import Outcome, bridge
from tests.support.comparison import Expectation, StoredPoint, differences
from tests.support.jobs import KILLED, Job
from tests.support.places import EdgePlace, ServerPlace, open_server
from tests.support.proxy import TcpProxy
from tests.support.qdrant_server import QdrantServer, delay, lost_response, unavailable


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerPlace]:
    with open_server(tmp_path) as opened:
        yield opened


@pytest.fixture
def edge(tmp_path: Path) -> EdgePlace:
    return EdgePlace(tmp_path / "edge")


def faulty(place: ServerPlace) -> QdrantServer:
    assert place.server is not None
    return place.server


def backfill(database: Database, place: EdgePlace | ServerPlace, table: str, *more: str) -> Outcome:
    return bridge(
        "backfill", "pg", "--pg.url", database.url, "--pg.table", table,
        "--qdrant.url", place.url, "--json", *more,
    )  # fmt: skip


# --- rows lost, exit 0 --------------------------------------------------------------------------


@pytest.mark.parametrize("tries", [1, pytest.param(16, marks=pytest.mark.long)])
def test_resume_with_several_workers_loses_no_row(
    database: Database, server: ServerPlace, tries: int
) -> None:
    """It draws the bounds of its ranges anew, and applies the old progress to them."""
    for number in range(tries):
        database.execute("DROP TABLE IF EXISTS docs")
        job = Job.make(database, server, 4000, workers=2)
        with job.start(failpoints=f"backfill.after_checkpoint:kill@{1 + number % 5}") as running:
            assert running.finish().code == KILLED
        more_workers = ("--migration.num-workers", str(1 + number % 4))
        assert job.run(*more_workers).require().table["source_count"] == 4000
        job.require_equal()


def test_a_delete_behind_the_cursor_skips_no_row(database: Database, server: ServerPlace) -> None:
    """It pages with OFFSET: what is deleted in front moves the rest under the cursor."""
    job = Job.make(database, server, 1500, workers=1, more=("--migration.batch-size", "50"))
    release = threading.Event()
    rule = faulty(server).faults.add(
        method="Upsert", collection=job.name, action=delay(release), nth=4
    )
    running = job.background()
    faulty(server).faults.wait_fired(rule)
    database.execute("DELETE FROM docs WHERE id <= 100")
    release.set()
    running.finish().require()
    left = server.points(job.name)
    assert set(range(101, 1501)) <= left.keys()


SPELLINGS: Final = [
    "6f6c1f4e-9a3b-4d1c-8e7f-2a1b3c4d5e6f",
    "6F6C1F4E-9A3B-4D1C-8E7F-2A1B3C4D5E6F",
    "6f6c1f4e9a3b4d1c8e7f2a1b3c4d5e6f",
    "{6f6c1f4e-9a3b-4d1c-8e7f-2a1b3c4d5e6f}",
    "urn:uuid:6f6c1f4e-9a3b-4d1c-8e7f-2a1b3c4d5e6f",
]


def test_spellings_of_one_uuid_are_as_many_points(database: Database, edge: EdgePlace) -> None:
    database.execute("CREATE TABLE docs (id text PRIMARY KEY, v vector(1))")
    for spelling in SPELLINGS:
        database.execute("INSERT INTO docs VALUES (%s, '[1]')", [spelling])
    assert backfill(database, edge, "docs").require().table["target_count"] == len(SPELLINGS)
    stored = edge.points("docs")
    assert {point.payload["id"] for point in stored.values()} == set(SPELLINGS)
    assert stored[SPELLINGS[0]].payload["id"] == SPELLINGS[0]


# --- rows written several times -----------------------------------------------------------------


@pytest.mark.parametrize("workers", [3, 16])
def test_every_row_is_sent_once_however_many_workers_there_are(
    database: Database, server: ServerPlace, workers: int
) -> None:
    """It sorts samples of integer keys as text, so that its ranges overlap."""
    sent: Counter[int] = Counter()

    def record(method: str, request: Any) -> None:
        if method == "Points.Upsert" and request.collection_name == job.name:
            sent.update(point.id.num for point in request.points)

    job = Job.make(database, server, 2500, workers=workers)
    faulty(server).requests.recorder = record
    job.run().require()
    assert sent == Counter(range(1, 2501))


# --- values damaged -----------------------------------------------------------------------------

VALUES: Final[dict[str, tuple[str, str, Any]]] = {
    "numeric": ("numeric(7,2)", "123.45", 123.45),
    "smallint": ("smallint", "12", 12),
    "time": ("time", "'12:34:56.789'", "12:34:56.789000"),
    "interval": ("interval", "'1 day 02:00:00'", "P1DT2H"),
    "range": ("int4range", "'[1,5)'", "[1,5)"),
    "point": ("point", "'(1,2)'", "(1,2)"),
    "an integer in JSON": ("jsonb", "'{\"n\": 42, \"list\": [1]}'", {"n": 42, "list": [1]}),
    "microseconds": ("timestamptz", "'2024-01-02 03:04:05.678901Z'", "2024-01-02T03:04:05.678901Z"),
    "timestamp without a zone": ("timestamp", "'2024-01-02 03:04:05'", "2024-01-02T03:04:05.000000"),
    "date": ("date", "'2024-01-02'", "2024-01-02"),
    "nested array": ("int[]", "'{{1,2},{3,4}}'", [[1, 2], [3, 4]]),
    "bytea of 16 bytes": ("bytea", "decode(repeat('0f', 16), 'hex')", "Dw8PDw8PDw8PDw8PDw8PDw=="),
}  # fmt: skip


@pytest.fixture(scope="module")
def _values_row() -> list[StoredPoint]:
    """The one point, once it has been copied: shared by the tests of its fields."""
    return []


@pytest.mark.parametrize("what", VALUES)
def test_a_value_arrives_as_it_is(
    database: Database, edge: EdgePlace, _values_row: list[StoredPoint], what: str
) -> None:
    if not _values_row:
        columns = {f"c{number}": case for number, case in enumerate(VALUES.values())}
        types = ", ".join(f"{name} {type_}" for name, (type_, _value, _wanted) in columns.items())
        cells = ", ".join(value for _type, value, _wanted in columns.values())
        database.execute(f"CREATE TABLE docs (id int PRIMARY KEY, {types}, v vector(1))")
        database.execute(f"INSERT INTO docs VALUES (1, {cells}, '[1]')")
        backfill(database, edge, "docs").require()
        _values_row.append(edge.points("docs")[1])
    value = _values_row[0].payload[f"c{list(VALUES).index(what)}"]
    wanted = VALUES[what][2]
    assert value == wanted and type(value) is type(wanted)
    assert repr(value) == repr(wanted) or isinstance(wanted, dict)


def test_halfvec_sparsevec_bit_and_vector_arrays_become_vectors(
    database: Database, edge: EdgePlace
) -> None:
    """There they become strings in the payload."""
    database.execute(
        "CREATE TABLE docs (id int PRIMARY KEY, h halfvec(2), s sparsevec(5), b bit(3), m vector(2)[])"
    )
    database.execute(
        "INSERT INTO docs VALUES (1, '[1,2]', '{1:1,5:2}/5', B'101', ARRAY['[1,2]','[3,4]']::vector[])"
    )
    backfill(database, edge, "docs").require()
    stored = edge.points("docs")
    assert stored[1].vectors.keys() == {"h", "s", "b", "m"}
    assert stored[1].payload == {"id": 1}
    assert differences(database, "docs", stored) == []


def test_a_null_vector_is_no_vector_and_no_payload_field(
    database: Database, edge: EdgePlace
) -> None:
    database.execute("CREATE TABLE docs (id int PRIMARY KEY, v vector(2), w vector(1))")
    database.execute("INSERT INTO docs VALUES (1, NULL, '[1]'), (2, NULL, NULL)")
    backfill(database, edge, "docs").require()
    stored = edge.points("docs")
    assert stored[1].vectors.keys() == {"w"} and stored[1].payload == {"id": 1}
    assert stored[2].vectors == {} and stored[2].payload == {"id": 2}


# --- refused there ------------------------------------------------------------------------------


def test_composite_keys_schemas_and_undimensioned_vectors_are_taken(
    database: Database, edge: EdgePlace
) -> None:
    database.execute("CREATE SCHEMA app")
    database.execute("CREATE TABLE app.docs (a int, b text, v vector, PRIMARY KEY (b, a))")
    database.execute(
        "INSERT INTO app.docs SELECT i % 3, i::text, '[1,2]' FROM generate_series(1, 9) i"
    )
    assert backfill(database, edge, "app.docs").require().table["target_count"] == 9
    expected = Expectation(key=["b", "a"])
    assert differences(database, "app.docs", edge.points("docs"), expected) == []


def test_a_schema_in_the_urls_search_path_is_taken_as_well(
    database: Database, edge: EdgePlace
) -> None:
    """The way round there; who knows it must not stumble here."""
    database.execute("CREATE SCHEMA app")
    database.execute("CREATE TABLE app.docs (id int PRIMARY KEY, v vector(1))")
    database.execute("INSERT INTO app.docs VALUES (1, '[1]')")
    url = f"{database.url}?search_path=app,public"
    outcome = bridge(
        "backfill", "pg", "--pg.url", url, "--pg.table", "docs", "--qdrant.url", edge.url
    )
    outcome.require()
    assert differences(database, "app.docs", edge.points("docs")) == []


@pytest.mark.parametrize(
    ("declared", "value"),
    [
        ("numeric", "i / 3.0"),
        ("date", "'2000-01-01'::date + i"),
        ("timestamptz", "'2000-01-01'::timestamptz + i * '1s'::interval"),
        ("bytea", "decode(md5(i::text), 'hex')"),
    ],
)
def test_keys_of_any_type_are_read_in_parallel(
    database: Database, edge: EdgePlace, declared: str, value: str
) -> None:
    database.execute(f"CREATE TABLE docs (id {declared} PRIMARY KEY, v vector(1))")
    database.execute(f"INSERT INTO docs SELECT {value}, '[1]' FROM generate_series(1, 1300) i")
    database.execute("ANALYZE docs")
    table = backfill(database, edge, "docs", "--migration.num-workers=2").require().table
    assert table["chunks"] > 2
    assert differences(database, "docs", edge.points("docs")) == []


# --- ids, existing collections, proof -----------------------------------------------------------


def test_integer_ids_stay_integers(database: Database, edge: EdgePlace) -> None:
    database.execute("CREATE TABLE docs (id bigint PRIMARY KEY, v vector(1))")
    database.execute("INSERT INTO docs VALUES (1, '[1]'), (9223372036854775807, '[1]')")
    backfill(database, edge, "docs").require()
    assert edge.points("docs").keys() == {1, 9223372036854775807}


def test_an_existing_collection_of_another_schema_is_refused_before_anything_is_written(
    database: Database, server: ServerPlace
) -> None:
    database.execute("CREATE TABLE docs (id int PRIMARY KEY, v vector(3))")
    database.execute("INSERT INTO docs VALUES (1, '[1,2,3]')")
    backfill(database, server, "docs", "--qdrant.collection", "other").require()
    database.execute("CREATE TABLE wider (id int PRIMARY KEY, v vector(4))")
    writes = faulty(server).requests.count("Upsert")
    refused = backfill(database, server, "wider", "--qdrant.collection", "other").require(3)
    assert "TARGET_MISMATCH" in refused.err
    assert "4 x float32" in refused.err and "3 x float32" in refused.err
    assert faulty(server).requests.count("Upsert") == writes


def test_the_copy_is_counted_on_both_sides(database: Database, server: ServerPlace) -> None:
    """There a run ends with "finished successfully" whatever has arrived."""
    job = Job.make(database, server, 700)
    table = job.run().require().table
    assert table["source_count"] == table["target_count"] == server.count(job.name) == 700
    server.client.delete(job.name, points_selector=[5])
    assert job.run().require(1).table["target_count"] == 699


# --- errors that pass ---------------------------------------------------------------------------


def test_cut_connections_reads_and_progress_records_are_tried_again(
    database: Database, server: ServerPlace
) -> None:
    """Any of them ends a run there: exit 1."""
    job = Job.make(database, server, 2500, more=("--migration.batch-size", "50"))
    faults = faulty(server).faults
    faults.add(method="Upsert", collection=job.name, action=lost_response(), nth=5)
    faults.add(method="Upsert", collection="_qdrant_bridge", action=unavailable(), nth=4, times=2)
    faults.add(method="Upsert", collection="_qdrant_bridge", action=lost_response(), nth=8)
    with TcpProxy(database.server.port) as proxy:
        cut = threading.Event()

        def cut_once(request: Any, proceed: Any, stopping: threading.Event) -> Any:
            if not cut.is_set():
                cut.set()
                proxy.cut()
            return proceed()

        faults.add(method="Upsert", collection=job.name, action=cut_once, nth=10)
        url = job.database.url.replace(f":{database.server.port}/", f":{proxy.port}/")
        arguments = job.arguments
        arguments[arguments.index(database.url)] = url
        bridge(*arguments).require()
    assert cut.is_set()
    job.require_equal()
