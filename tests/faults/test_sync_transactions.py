"""Transactions that a stream has to bear (faults.md): huge ones, aborted ones and parts of ones, truncates,
keys that change places, vectors that are never sent again; values that few payloads hold; names that have
to be quoted.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pytest

from tests.support.command import Running, config_file
from tests.support.comparison import Expectation, differences
from tests.support.daemons import Pipeline, wait_streaming
from tests.support.databases import Database
from tests.support.followed import Followed
from tests.support.places import ServerPlace
from tests.support.processes import resident_bytes

both_versions = pytest.mark.parametrize(
    "postgres_version", [pytest.param("16", marks=pytest.mark.long), "18"], indirect=True
)


@pytest.fixture
def docs(database: Database, place: ServerPlace, tmp_path: Path) -> Followed:
    followed = Followed(database, place, tmp_path)
    followed.sql("INSERT INTO docs SELECT i, 'r' || i, i, vec(i) FROM generate_series(1, 9) i")
    return followed


# --- huge ones --------------------------------------------------------------------------------------


@contextmanager
def most_resident(pid: int) -> Iterator[list[int]]:
    """The most that a process holds in memory while the body runs: bytes, in a list of one."""
    most, ended = [resident_bytes(pid)], threading.Event()

    def look() -> None:
        while not ended.wait(0.02):
            most[0] = max(most[0], resident_bytes(pid))

    watcher = threading.Thread(target=look, daemon=True)
    watcher.start()
    try:
        yield most
    finally:
        ended.set()
        watcher.join(10)


@pytest.mark.parametrize("rows", [50_000, pytest.param(1_000_000, marks=pytest.mark.long)])
def test_a_huge_transaction_takes_bounded_memory_and_feedback_goes_on(
    database: Database, place: ServerPlace, tmp_path: Path, rows: int
) -> None:
    """150 MB in its short form; walsenders would end a stream that is silent for two seconds."""
    docs = Followed(database, place, tmp_path, columns="id int PRIMARY KEY, body text, v vector(3)")
    docs.sql(f"ALTER DATABASE {database.name} SET wal_sender_timeout = '2s'")
    with docs.streaming() as running, most_resident(running.pid) as most:
        before = resident_bytes(running.pid)
        docs.sql(
            "INSERT INTO docs SELECT i, repeat(md5(i::text), 90), ARRAY[i, 1, 2]::real[]::vector"
            f" FROM generate_series(1, {rows}) i"
        )
        wait = ("status", "--wait", "now", f"--timeout={max(60, rows // 500)}")
        docs.pipeline.command(*wait).require()
        assert docs.place.count(docs.pipeline.name) == rows
        assert most[0] - before < 150_000_000
        running.process.terminate()
        outcome = running.finish(30).require()
        assert '"waiting"' not in outcome.err, "the connection did not last"


@pytest.mark.parametrize("rows", [4000, pytest.param(100_000, marks=pytest.mark.long)])
def test_every_vector_is_kept_over_updates_that_do_not_send_it(docs: Followed, rows: int) -> None:
    """One transaction of all rows, and a thousand small ones."""
    docs.sql(f"INSERT INTO docs SELECT i, 'x', i, vec(i) FROM generate_series(10, {rows}) i")
    seconds = f"--timeout={max(60, rows // 100)}"
    with docs.streaming():
        docs.sql("UPDATE docs SET price = price + 1")
        with docs.database.connect() as connection:
            for number in range(0, rows, max(1, rows // 1000)):
                connection.execute(
                    "UPDATE docs SET price = -price, title = 'n' || id WHERE id = %s", (number,)
                )
        docs.pipeline.command("status", "--wait", "now", seconds).require()
        assert docs.pipeline.status()["tables"]["public.docs"]["patches"] > rows
        docs.require_equal()


# --- what never was ---------------------------------------------------------------------------------


def test_what_was_rolled_back_is_never_seen(docs: Followed) -> None:
    seen: set[Any] = set()
    ended = threading.Event()

    def watch() -> None:
        while not ended.is_set():
            seen.update(docs.points())

    with docs.streaming():
        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        with docs.database.connect(autocommit=False) as connection:
            for number in range(5):
                connection.execute(
                    "INSERT INTO docs SELECT i, 'x', 1, vec(1) FROM generate_series(100, 3000) i"
                )
                connection.execute("UPDATE docs SET price = 666")
                connection.rollback()
                connection.execute(f"INSERT INTO docs VALUES ({50 + number}, 'y', 1, vec(1))")
                connection.execute("SAVEPOINT a")
                connection.execute("DELETE FROM docs")
                connection.execute("SAVEPOINT b")
                connection.execute("TRUNCATE docs")
                connection.execute(f"INSERT INTO docs VALUES ({200 + number}, 'z', 1, vec(1))")
                connection.execute("ROLLBACK TO a")
                connection.commit()
        docs.sql(
            "BEGIN; INSERT INTO docs VALUES (70, 'two', 1, vec(1)); PREPARE TRANSACTION 'yes'",
            "BEGIN; INSERT INTO docs VALUES (300, 'two', 1, vec(1)); PREPARE TRANSACTION 'no'",
            "COMMIT PREPARED 'yes'",
            "ROLLBACK PREPARED 'no'",
        )
        docs.wait()
        ended.set()
        watcher.join(30)
        docs.require_equal()
    assert seen <= {*range(1, 10), *range(50, 55), 70}


# --- truncate ---------------------------------------------------------------------------------------


def several(database: Database, place: ServerPlace, directory: Path) -> Pipeline:
    """Tables `a`, `b` (refers to `a`), `c`; `d`, which refers to `a` as well, is nobody's."""
    database.execute("CREATE TABLE a (id int PRIMARY KEY, v vector(2))")
    for table in "bcd":
        refers = "" if table == "c" else " REFERENCES a"
        database.execute(f"CREATE TABLE {table} (id int PRIMARY KEY, a int{refers}, v vector(2))")
    name = place.name("t").lower()
    tables = {f"public.{t}": {"collection": f"{name}_{t}"} for t in "abc"}
    config = config_file(
        directory,
        {
            "pipeline": name,
            "postgres": {"url": database.url},
            "qdrant": {"url": place.url},
            "tables": tables,
            "sync": {"source": "postgres"},
        },
    )
    return Pipeline(database=database, place=place, name=name, rows=0, config=config)


@both_versions
def test_a_truncate_empties_exactly_its_tables(
    database: Database, place: ServerPlace, tmp_path: Path
) -> None:
    pipeline = several(database, place, tmp_path)

    def fill() -> None:
        with database.connect(autocommit=False) as connection:
            connection.execute("INSERT INTO a SELECT i, '[1,2]' FROM generate_series(1, 9) i")
            for table in "bcd":
                connection.execute(
                    f"INSERT INTO {table} SELECT i, i, '[3,4]' FROM generate_series(1, 9) i"
                )

    def counts() -> list[int]:
        pipeline.wait_now()
        for table in "abc":
            points = place.points(f"{pipeline.name}_{table}")
            assert differences(database, table, points, Expectation()) == []
        return [place.count(f"{pipeline.name}_{table}") for table in "abc"]

    fill()
    with pipeline.run() as running:
        wait_streaming(running)
        assert counts() == [9, 9, 9]
        database.execute("TRUNCATE b, c")
        assert counts() == [9, 0, 0]
        database.execute("TRUNCATE d")
        assert counts() == [9, 0, 0]
        database.execute("TRUNCATE a CASCADE")
        assert counts() == [0, 0, 0]
        fill()
        # Within one transaction, with rows before and after it, and a part that never was.
        with database.connect(autocommit=False) as connection:
            connection.execute("INSERT INTO c VALUES (50, 1, '[1,2]')")
            connection.execute("TRUNCATE a CASCADE")
            connection.execute("INSERT INTO a VALUES (1, '[5,6]')")
            connection.execute("INSERT INTO b VALUES (70, 1, '[5,6]')")
            connection.execute("SAVEPOINT s")
            connection.execute("TRUNCATE c")
            connection.execute("ROLLBACK TO s")
        assert counts() == [1, 1, 10]


# --- keys -------------------------------------------------------------------------------------------


def test_keys_that_change_places_take_their_vectors_with_them(docs: Followed) -> None:
    """The vectors are not in the log; in the end each is where its row is."""
    swap = (
        "UPDATE docs SET id = -1 WHERE id = 1",
        "UPDATE docs SET id = 1 WHERE id = 2",
        "UPDATE docs SET id = 2 WHERE id = -1",
    )
    with docs.streaming():
        docs.sql_at_once(*swap)
        docs.wait()
        docs.require_equal()
        docs.sql(*swap)  # one window or several, and states in between
        docs.sql_at_once("UPDATE docs SET id = id + 100", "UPDATE docs SET id = id - 99")
        docs.wait()
        docs.require_equal()
        docs.sql(
            "UPDATE docs SET id = 500 WHERE id = 3", "DELETE FROM docs WHERE id = 500",
            "INSERT INTO docs VALUES (500, 'another', 1, vec(99))",
            "UPDATE docs SET id = 3 WHERE id = 500", "UPDATE docs SET price = 7 WHERE id = 3",
        )  # fmt: skip
        docs.wait()
        docs.require_equal()


# --- values -----------------------------------------------------------------------------------------

VALUES: Final = (
    "id int PRIMARY KEY, f float8, r real, n numeric, t timestamptz, s timestamp, d date, i interval,"
    " j jsonb, body text, b bytea, a int[], v vector(3)"
)
ROWS: Final = {
    "NaN": "1, 'NaN', 'NaN', 'NaN', now(), now(), now(), '1s', '1', '', '', '{}', '[1,2,3]'",
    "infinities": "2, 'Infinity', '-Infinity', 'Infinity', 'infinity', '-infinity', 'infinity', '1s',"
    " 'null', 'x', '\\x00ff', '{1,NULL}', '[1,2,3]'",
    "before Christ": "3, -0.0, 1e-45, 1e30, '0044-03-15 BC', '4713-01-01 BC', '0001-01-01 BC',"
    " '-178000000 years', '[1e400]', E'\\u00e9\\U0001F600', '', '{{1,2},{3,4}}', '[1,2,3]'",
    "far years": "4, 1.7976931348623157e308, 3.4e38, -1e-300, '294276-12-31', '294276-12-31',"
    " '5874897-12-31', '1 mon -1 day 00:00:00.000001', '{\"a\": 12345678901234567890}', 'x',"
    " '', NULL, '[1,2,3]'",
    "a zero vector": "5, 0, 0, 0, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, '[0,0,0]'",
    "long text": "6, 0, 0, 0, NULL, NULL, NULL, NULL, NULL, repeat('long ', 300000), NULL, NULL,"
    " '[1,2,3]'",
}


@pytest.mark.parametrize("form", ["binary", "text"])
@both_versions
def test_extreme_values_come_as_a_copy_brings_them(
    database: Database, place: ServerPlace, tmp_path: Path, form: str
) -> None:
    columns = VALUES if form == "binary" else VALUES + ", m money"
    docs = Followed(
        database, place, tmp_path, columns=columns, vectors={"v": {"distance": "cosine"}}
    )
    docs.expected = Expectation()
    with docs.streaming() as running:
        with docs.database.connect() as connection:
            connection.execute("SET IntervalStyle = 'postgres'")
            for values in ROWS.values():
                connection.execute(f"INSERT INTO docs SELECT {values}")
        docs.wait()
        docs.require_equal()
        docs.sql("UPDATE docs SET id = id + 10, r = r")
        docs.wait()
        docs.require_equal()
        # A norm that no float32 holds, and a number that no double holds: set aside, nothing else.
        docs.sql(
            "UPDATE docs SET v = '[3e38,3e38,3e38]' WHERE id = 11",
            "UPDATE docs SET n = repeat('9', 400)::numeric WHERE id = 12",
            "UPDATE docs SET r = 2",
        )
        docs.wait()
        letters = docs.place.records(docs.pipeline.name, "dead_letter")
        assert set(letters) == {"public.docs/11", "public.docs/12"}
        docs.sql("UPDATE docs SET v = '[1,1,1]', n = 1")
        docs.wait()
        assert docs.place.records(docs.pipeline.name, "dead_letter") == {}
        docs.require_equal()
        assert "Traceback" not in "".join(running._lines)


# --- names ------------------------------------------------------------------------------------------

NAMES: Final = {
    "quotes and semicolons": "we\"ird;--'",
    "percent and backslash": "100%s \\ %(x)s %%",
    "dots and brackets": "a.b[0].c",
    "unicode": "Größe 漢字",
    "63 bytes": "é" * 31 + "x",
    "a keyword": "select",
}


def quoted(name: str) -> str:
    """As SQL writes it."""
    return '"' + name.replace('"', '""') + '"'


@both_versions
def test_names_are_quoted_everywhere_in_a_stream(
    database: Database, place: ServerPlace, tmp_path: Path
) -> None:
    """Schema, table, key, text and vector column, and the publication; TOASTed, so that rows are read
    again by those names."""
    pipeline_name = place.name("n").lower()
    tables: dict[str, Any] = {}
    for number, name in enumerate(NAMES.values()):
        label = f"{quoted(name)}.{quoted(name)}"
        key, body = (quoted(name[:-1] + letter) for letter in "kb")
        database.execute(f"CREATE SCHEMA {quoted(name)}")
        database.execute(f"CREATE TABLE {label} ({key} int, {body} text, {quoted(name)} vector(600),"
            f" PRIMARY KEY ({key}))")  # fmt: skip
        tables[label] = {
            "collection": f"{pipeline_name}_{number}",
            "vectors": {name: {"name": "v", "distance": "euclid"}},
        }
    config = config_file(
        tmp_path,
        {
            "pipeline": pipeline_name,
            "postgres": {"url": database.url},
            "qdrant": {"url": place.url},
            "tables": tables,
            "sync": {
                "source": "postgres",
                "slot": "s" * 63,
                "publication": "p\"'%s\\;é",
            },
        },
    )
    vector = "(SELECT array_agg(i + k)::real[]::vector FROM generate_series(1, 600) k)"
    with Running("run", "--config", config) as running:
        wait_streaming(running)
        for name in NAMES.values():
            label, own = f"{quoted(name)}.{quoted(name)}", quoted(name)
            key, body = (quoted(name[:-1] + letter) for letter in "kb")
            for statement in (
                f"INSERT INTO {label} SELECT i, 'b' || i, {vector} FROM generate_series(1, 5) i",
                f"UPDATE {label} SET {body} = repeat(md5({key}::text), 200)",
                f"UPDATE {label} SET {key} = {key} + 10 WHERE {key} < 3",
                f"UPDATE {label} SET {own} = NULL WHERE {key} = 4",
                f"DELETE FROM {label} WHERE {key} = 5",
            ):
                database.execute(statement)
        Pipeline(
            database=database, place=place, name=pipeline_name, rows=0, config=config
        ).wait_now()
        for number, name in enumerate(NAMES.values()):
            expected = Expectation(
                key=[name[:-1] + "k"], names={name: "v"}, distances={name: "euclid"}
            )
            points = place.points(f"{pipeline_name}_{number}")
            label = f"{quoted(name)}.{quoted(name)}"
            assert differences(database, label, points, expected) == []
        running.process.terminate()
        running.finish(30).require()
    assert json.loads(Path(config).read_text())["sync"]["slot"] == "s" * 63
