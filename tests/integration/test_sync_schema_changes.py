"""DDL while a daemon follows a table: what is followed, and what stops it (design.md section 6)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.databases import BOTH_VERSIONS, Database
from tests.support.followed import DIMENSION, Followed
from tests.support.places import open_server

pytestmark = pytest.mark.parametrize("postgres_version", BOTH_VERSIONS, indirect=True)


@pytest.fixture
def docs(database: Database, tmp_path: Path) -> Iterator[Followed]:
    with open_server(tmp_path) as place:
        followed = Followed(database, place, tmp_path)
        followed.sql(
            "INSERT INTO docs SELECT i, long('row ' || i), i, vec(i) FROM generate_series(1, 9) i"
        )
        yield followed


def test_columns_come_go_and_change_their_names(docs: Followed) -> None:
    with docs.streaming():
        docs.sql("ALTER TABLE docs ADD COLUMN extra text", "UPDATE docs SET extra = 'x' || id")
        docs.wait()
        docs.require_equal()
        docs.sql("ALTER TABLE docs RENAME COLUMN title TO headline", "UPDATE docs SET price = 7")
        docs.wait()
        docs.require_equal()  # headline was not sent: it is read again
        docs.sql("ALTER TABLE docs DROP COLUMN extra", "UPDATE docs SET price = 8")
        docs.wait()
        docs.require_equal()
        docs.sql(
            "ALTER TABLE docs ALTER COLUMN price TYPE numeric(9, 2)", "UPDATE docs SET price = 1.25"
        )
        docs.wait()
        docs.require_equal()


def test_columns_change_within_one_transaction(docs: Followed) -> None:
    with docs.streaming():
        docs.sql_at_once(
            "UPDATE docs SET price = 100 WHERE id = 1",
            "ALTER TABLE docs ADD COLUMN extra text DEFAULT 'new'",
            "UPDATE docs SET price = 200",
            "ALTER TABLE docs DROP COLUMN extra",
            "UPDATE docs SET price = 300",
        )
        docs.wait()
        docs.require_equal()


def test_the_table_is_renamed(docs: Followed) -> None:
    with docs.streaming():
        docs.sql(
            "ALTER TABLE docs RENAME TO papers",
            "UPDATE papers SET price = 5",
            "UPDATE papers SET id = 100 WHERE id = 1",
            "DELETE FROM papers WHERE id = 2",
        )
        docs.wait()
        docs.require_equal("papers")
    with docs.streaming():  # the configuration still has the old name
        docs.sql("UPDATE papers SET price = 6", "UPDATE papers SET id = 101 WHERE id = 3")
        docs.wait()
        docs.require_equal("papers")


def test_a_column_dropped_and_made_again_never_brings_the_old_value_back(docs: Followed) -> None:
    """The volatile default rewrites the table, so the new column is TOASTed and not sent again."""
    docs.prepare()
    docs.sql(
        "UPDATE docs SET title = long('the old column' || id)",
        "ALTER TABLE docs DROP COLUMN title",
        "ALTER TABLE docs ADD COLUMN title text DEFAULT long('the new column' || random())",
        "UPDATE docs SET price = price + 1",
    )
    with docs.streaming():
        docs.wait()
        docs.require_equal()


def test_a_stream_behind_the_catalog_is_read_as_it_was(docs: Followed) -> None:
    """The daemon is away during changes and DDL, and meets the rows of each shape afterwards."""
    docs.prepare()
    docs.sql(
        "UPDATE docs SET price = 10",  # title is not sent, and has another name by now
        "ALTER TABLE docs RENAME COLUMN title TO headline",
        "UPDATE docs SET price = 20 WHERE id > 3",
        "ALTER TABLE docs ADD COLUMN extra inet DEFAULT '10.0.0.1'",
        "UPDATE docs SET id = id + 100 WHERE id > 6",
        "ALTER TABLE docs DROP COLUMN extra",
        "UPDATE docs SET price = 30",
    )
    with docs.streaming():
        docs.wait()
        docs.require_equal()


def test_a_type_without_a_binary_decoder_turns_the_stream_to_text(docs: Followed) -> None:
    with docs.streaming() as running:
        docs.sql("ALTER TABLE docs ADD COLUMN cost money", "UPDATE docs SET cost = id")
        running.wait_line("goes on as text")
        docs.wait()
        docs.require_equal()
        docs.sql("UPDATE docs SET price = 3", "UPDATE docs SET id = 50 WHERE id = 5")
        docs.wait()
        docs.require_equal()


def test_the_vectors_index_may_be_dropped(docs: Followed, tmp_path: Path) -> None:
    """Distances came from it; whoever searches in Qdrant does not need it any more."""
    docs.sql("CREATE INDEX ON docs USING hnsw (v vector_l2_ops)")
    with docs.streaming():
        docs.sql("DROP INDEX docs_v_idx", "ALTER TABLE docs ADD COLUMN extra int")
        docs.sql("UPDATE docs SET extra = 1")
        docs.wait()
        docs.require_equal()
    with docs.streaming():
        docs.wait()
        docs.require_equal()


def test_a_new_vector_column_has_no_place_and_is_left_out(docs: Followed) -> None:
    with docs.streaming():
        docs.sql(
            "ALTER TABLE docs ADD COLUMN v2 vector(2)", "UPDATE docs SET v2 = '[1,2]', price = 9"
        )
        docs.wait()
        docs.require_equal(columns=["id", "title", "price", "v"])


def test_what_changed_without_events_is_told_and_kept(docs: Followed) -> None:
    with docs.streaming():
        pass
    docs.sql("ALTER TABLE docs ADD COLUMN extra int DEFAULT 5, ALTER COLUMN price TYPE bigint")
    with docs.streaming() as running:
        line = json.loads(running.wait_line('"schema_changed"'))
    assert (line["table"], line["columns"]) == ("public.docs", "extra, price")
    assert docs.place.records(docs.pipeline.name, "stream")["changed/public.docs"] == {
        "columns": ["extra", "price"]
    }


# --- what stops -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ddl", "told"),
    [
        ("ALTER TABLE docs ALTER COLUMN v TYPE vector(3) USING subvector(v, 1, 3)", "vector(3)"),
        (f"ALTER TABLE docs ALTER COLUMN v TYPE halfvec({DIMENSION})", "halfvec"),
        ("ALTER TABLE docs RENAME COLUMN v TO w", "v was dropped or renamed"),
        ("ALTER TABLE docs DROP COLUMN v", "v was dropped or renamed"),
        (
            f"ALTER TABLE docs DROP COLUMN v, ADD COLUMN v vector({DIMENSION}) DEFAULT vec(random())",
            "v was dropped and made again",
        ),
        ("ALTER TABLE docs ALTER COLUMN id TYPE bigint", "id is bigint now"),
        ("ALTER TABLE docs RENAME COLUMN id TO number", "id was dropped or renamed"),
    ],
)
def test_a_changed_vector_or_key_column_stops_before_the_first_such_row(
    docs: Followed, ddl: str, told: str
) -> None:
    with docs.streaming() as running:
        before = docs.points()
        docs.sql_at_once(ddl, "UPDATE docs SET price = 1000")
        outcome = docs.stopped(running, "SCHEMA_CHANGED")
    assert told in outcome.err
    assert docs.points().keys() == before.keys()
    assert {point.payload["price"] for point in docs.points().values()} == set(range(1, 10))
    # The slot stays, and a new start stops the same way.
    slots = docs.database.execute(
        "SELECT count(*) FROM pg_replication_slots WHERE slot_name = %s", (docs.pipeline.slot,)
    )
    assert slots == [(1,)]
    with docs.pipeline.run() as running:
        docs.stopped(running, "SCHEMA_CHANGED")


def test_a_replica_identity_that_no_longer_covers_the_key_stops(docs: Followed) -> None:
    with docs.streaming() as running:
        docs.sql("ALTER TABLE docs REPLICA IDENTITY NOTHING", "INSERT INTO docs VALUES (77)")
        docs.stopped(running, "REPLICA_IDENTITY")
    assert 77 not in docs.points()
