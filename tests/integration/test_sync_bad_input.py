"""Bad input to a stream: refused before anything is made, with the statement that mends it.

`run` refuses with exit 2 and leaves no slot, no publication and no record behind; `doctor` finds the
same and exits 1. Each statement that is proposed is then executed, and the check has nothing to say
any more.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bridge.postgres.embedded import EmbeddedPostgres
from tests.support.command import Outcome, Running, config_file
from tests.support.databases import BOTH_VERSIONS, SETTINGS, Database, fresh_database
from tests.support.followed import Followed
from tests.support.jobs import KILLED
from tests.support.places import ServerPlace


def followed(
    database: Database, place: ServerPlace, directory: Path, columns: str = "", **settings: Any
) -> Followed:
    given = {"columns": columns} if columns else {}
    return Followed(database, place, directory, **given, **settings)


def blockers(docs: Followed) -> dict[str, dict[str, str]]:
    """Doctor's, by check."""
    report = docs.pipeline.command("doctor", "--json").report
    return {f["check"]: f for f in report["findings"] if f["level"] == "blocker"}


def refused(docs: Followed, check: str, *told: str) -> dict[str, str]:
    """`run` and `doctor` refuse, and nothing is made; doctor's finding."""
    found = blockers(docs)
    assert list(found) == [check], found
    docs.pipeline.command("doctor").require(1)
    outcome: Outcome = docs.pipeline.command("run").require(2)
    for text in told:
        assert text in outcome.err, outcome.err
        assert text in found[check]["message"] + found[check]["remedy"]
    assert "Traceback" not in outcome.err
    nothing_made(docs)
    return found[check]


def nothing_made(docs: Followed) -> None:
    name = docs.pipeline.slot
    query = (
        "SELECT (SELECT count(*) FROM pg_replication_slots WHERE slot_name = %(name)s"
        " AND plugin = 'pgoutput' AND database = current_database()),"
        " (SELECT count(*) FROM pg_publication WHERE pubname = %(name)s"
        " AND obj_description(oid) LIKE 'made by%%')"
    )
    assert docs.database.execute(query, {"name": name}) == [(0, 0)]
    assert not docs.place.exists(docs.pipeline.name)
    assert docs.place.records(docs.pipeline.name, "stream") == {}


def mended(docs: Followed, *statements: str) -> None:
    docs.sql(*statements)
    assert blockers(docs) == {}


# --- replica identity -----------------------------------------------------------------------------


def test_replica_identity_nothing(database: Database, place: ServerPlace, tmp_path: Path) -> None:
    docs = followed(database, place, tmp_path)
    docs.sql("ALTER TABLE docs REPLICA IDENTITY NOTHING")
    finding = refused(docs, "stream.replica_identity", "REPLICA IDENTITY DEFAULT")
    mended(docs, finding["remedy"])


def test_no_primary_key_but_a_unique_index(
    database: Database, place: ServerPlace, tmp_path: Path
) -> None:
    columns = "id int NOT NULL UNIQUE, title text, v vector(3)"
    docs = followed(database, place, tmp_path, columns, key=["id"])
    finding = refused(docs, "stream.replica_identity", "USING INDEX docs_id_key")
    mended(docs, finding["remedy"])


def test_a_table_without_any_key(database: Database, place: ServerPlace, tmp_path: Path) -> None:
    docs = followed(database, place, tmp_path, "id int NOT NULL, v vector(3)", key=["id"])
    refused(docs, "stream.replica_identity", "ALTER TABLE public.docs ADD PRIMARY KEY (id);")
    mended(docs, "ALTER TABLE docs ADD PRIMARY KEY (id)")


def test_a_table_without_a_key_in_the_configuration_either(
    database: Database, place: ServerPlace, tmp_path: Path
) -> None:
    docs = followed(database, place, tmp_path, "id int, v vector(3)")
    outcome = docs.pipeline.command("run").require(2)
    assert "no primary key" in outcome.err
    nothing_made(docs)


def test_a_key_that_the_replica_identity_does_not_cover(
    database: Database, place: ServerPlace, tmp_path: Path
) -> None:
    columns = "id int PRIMARY KEY, code int NOT NULL UNIQUE, v vector(3)"
    docs = followed(database, place, tmp_path, columns, key=["code"])
    finding = refused(docs, "stream.replica_identity", "does not cover the key (code)")
    mended(docs, finding["remedy"])


def test_a_replica_identity_whose_index_is_gone(
    database: Database, place: ServerPlace, tmp_path: Path
) -> None:
    columns = "id int PRIMARY KEY, code int NOT NULL UNIQUE, v vector(3)"
    docs = followed(database, place, tmp_path, columns)
    docs.sql(
        "ALTER TABLE docs REPLICA IDENTITY USING INDEX docs_code_key",
        "ALTER TABLE docs DROP CONSTRAINT docs_code_key",
    )
    finding = refused(docs, "stream.replica_identity", "an index that is gone")
    mended(docs, finding["remedy"])


def test_a_partition_of_another_replica_identity(
    database: Database, place: ServerPlace, tmp_path: Path
) -> None:
    columns = "id int PRIMARY KEY, v vector(3)"
    database.execute("CREATE TABLE part (id int PRIMARY KEY, v vector(3))")
    docs = followed(database, place, tmp_path, columns)
    docs.sql(
        "DROP TABLE docs",
        f"CREATE TABLE docs ({columns}) PARTITION BY RANGE (id)",
        "ALTER TABLE docs ATTACH PARTITION part FOR VALUES FROM (0) TO (9)",
        "ALTER TABLE part REPLICA IDENTITY NOTHING",
    )
    finding = refused(docs, "stream.replica_identity", "public.part")
    mended(docs, finding["remedy"])


def test_replica_identity_full_needs_no_primary_key_and_is_left_as_it_is(
    database: Database, place: ServerPlace, tmp_path: Path
) -> None:
    docs = followed(database, place, tmp_path, "id int NOT NULL, v vector(3)", key=["id"])
    mended(docs, "ALTER TABLE docs REPLICA IDENTITY FULL")
    with docs.streaming():
        docs.sql("INSERT INTO docs VALUES (1, '[1,2,3]')", "UPDATE docs SET id = 2")
        docs.wait()
        docs.require_equal()
    assert database.execute("SELECT relreplident::text FROM pg_class WHERE relname = 'docs'") == [
        ("f",)
    ]


@pytest.mark.parametrize("postgres_version", BOTH_VERSIONS, indirect=True)
def test_replica_identity_full_with_a_stored_generated_column(
    database: Database, place: ServerPlace, tmp_path: Path, postgres_version: str
) -> None:
    columns = "id int PRIMARY KEY, twice int GENERATED ALWAYS AS (id * 2) STORED, v vector(3)"
    docs = followed(database, place, tmp_path, columns)
    docs.sql("ALTER TABLE docs REPLICA IDENTITY FULL")
    if postgres_version == "16":
        assert blockers(docs) == {}
    else:
        refused(docs, "stream.replica_identity", "twice", "REPLICA IDENTITY DEFAULT")
        mended(docs, "ALTER TABLE docs REPLICA IDENTITY DEFAULT")


# --- relations that have no log -------------------------------------------------------------------


def test_a_view(database: Database, place: ServerPlace, tmp_path: Path) -> None:
    docs = followed(database, place, tmp_path, key=["id"])
    docs.sql("ALTER TABLE docs RENAME TO base", "CREATE VIEW docs AS SELECT * FROM base")
    refused(docs, "stream.table", "public.docs is a view")


def test_an_unlogged_table(database: Database, place: ServerPlace, tmp_path: Path) -> None:
    docs = followed(database, place, tmp_path)
    docs.sql("ALTER TABLE docs SET UNLOGGED")
    found = blockers(docs)
    assert found["stream.unlogged"]["remedy"] == "ALTER TABLE public.docs SET LOGGED;"
    assert docs.pipeline.command("run").require(2)
    nothing_made(docs)
    mended(docs, found["stream.unlogged"]["remedy"])


def test_inheriting_tables(database: Database, place: ServerPlace, tmp_path: Path) -> None:
    docs = followed(database, place, tmp_path)
    docs.sql("CREATE TABLE child () INHERITS (docs)")
    finding = refused(docs, "stream.inheritance", "public.child")
    mended(docs, finding["remedy"].partition(": ")[2])


# --- publications ---------------------------------------------------------------------------------


def publish(docs: Followed, what: str) -> None:
    docs.sql(f"CREATE PUBLICATION {docs.pipeline.slot} {what}")


def test_a_publication_that_omits_operations(
    database: Database, place: ServerPlace, tmp_path: Path
) -> None:
    docs = followed(database, place, tmp_path)
    publish(docs, "FOR TABLE docs WITH (publish = 'insert, update')")
    finding = refused(docs, "stream.publication", "delete, truncate", "ALTER PUBLICATION")
    mended(docs, finding["remedy"])


def test_a_publication_that_lacks_the_table(
    database: Database, place: ServerPlace, tmp_path: Path
) -> None:
    docs = followed(database, place, tmp_path)
    docs.sql("CREATE TABLE other (id int PRIMARY KEY)")
    publish(docs, "FOR TABLE other")
    finding = refused(docs, "stream.publication", "lacks public.docs")
    mended(docs, finding["remedy"])


def test_a_publication_of_another_pipeline(
    database: Database, place: ServerPlace, tmp_path: Path
) -> None:
    docs = followed(database, place, tmp_path)
    publish(docs, "FOR TABLE docs")
    docs.sql(
        f"COMMENT ON PUBLICATION {docs.pipeline.slot} IS"
        " 'made by qdrant-bridge for pipeline theirs'"
    )
    found = blockers(docs)
    assert "theirs" in found["stream.publication"]["message"]
    outcome = docs.pipeline.command("run").require(2)
    assert "sync.publication" in outcome.err
    assert not docs.place.exists(docs.pipeline.name)


def test_a_column_list_without_a_mapped_column(
    database: Database, place: ServerPlace, tmp_path: Path
) -> None:
    docs = followed(database, place, tmp_path)
    publish(docs, "FOR TABLE docs (id, v)")
    finding = refused(docs, "stream.columns", "title, price", "ALTER PUBLICATION")
    mended(docs, finding["remedy"].partition(" with its other tables")[0])


def test_a_row_filter_is_a_warning(database: Database, place: ServerPlace, tmp_path: Path) -> None:
    docs = followed(database, place, tmp_path)
    publish(docs, "FOR TABLE docs WHERE (id > 5)")
    assert blockers(docs) == {}
    report = docs.pipeline.command("doctor", "--json").require(0).report
    (warning,) = [f for f in report["findings"] if f["check"] == "stream.row_filter"]
    assert warning["level"] == "warning"


# --- the server -----------------------------------------------------------------------------------


def test_a_slot_that_the_pipeline_did_not_make(
    database: Database, place: ServerPlace, tmp_path: Path
) -> None:
    docs = followed(database, place, tmp_path)
    database.execute(
        "SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", (docs.pipeline.slot,)
    )
    found = blockers(docs)
    assert f"pg_drop_replication_slot('{docs.pipeline.slot}')" in found["stream.slot"]["remedy"]
    assert "error SLOT_EXISTS" in docs.pipeline.command("run").require(2).err
    assert not docs.place.exists(docs.pipeline.name)


def test_a_stream_of_what_is_not_copied(
    database: Database, place: ServerPlace, tmp_path: Path
) -> None:
    docs = followed(database, place, tmp_path)
    outcome = docs.pipeline.command("sync", "postgres").require(2)
    assert "error NOT_PREPARED: not copied yet: public.docs" in outcome.err
    nothing_made(docs)


def test_a_slot_of_another_plugin(database: Database, place: ServerPlace, tmp_path: Path) -> None:
    docs = followed(database, place, tmp_path)
    database.execute("SELECT pg_create_physical_replication_slot(%s)", (docs.pipeline.slot,))
    try:
        refused(docs, "stream.slot", "plugin none (physical)", "sync.slot")
    finally:
        database.execute("SELECT pg_drop_replication_slot(%s)", (docs.pipeline.slot,))


def test_a_role_that_may_not_replicate(
    database: Database, place: ServerPlace, tmp_path: Path
) -> None:
    docs = followed(database, place, tmp_path)
    role = f"reader_{database.name}"
    docs.sql(
        f"CREATE ROLE {role} LOGIN", f"GRANT USAGE ON SCHEMA public TO {role}",
        f"GRANT SELECT ON docs TO {role}",
    )  # fmt: skip
    try:
        settings = json.loads(Path(docs.pipeline.config).read_text())
        settings["postgres"]["url"] = database.server.url(database.name, role)
        config_file(Path(docs.pipeline.config).parent, settings)
        found = blockers(docs)
        assert f"ALTER ROLE {role} REPLICATION;" in found["stream.privilege"]["remedy"]
        assert "CREATE PUBLICATION" in found["stream.publication"]["remedy"]
        assert "FOR TABLE public.docs" in found["stream.publication"]["remedy"]
        outcome = docs.pipeline.command("run").require(2)
        assert f"ALTER ROLE {role} REPLICATION;" in outcome.err
        nothing_made(docs)
        docs.sql(found["stream.privilege"]["remedy"])
        docs.sql(found["stream.publication"]["remedy"].partition(": ")[2])
        left = {check for check in blockers(docs) if check.startswith("stream.")}
        assert left <= {"stream.privilege"}  # pg_control_system, where it is not PUBLIC's
    finally:
        docs.sql(f"DROP OWNED BY {role}", f"DROP ROLE {role}")


@pytest.mark.parametrize(
    ("settings", "check", "told"),
    [
        ({"wal_level": "replica"}, "stream.wal_level", "ALTER SYSTEM SET wal_level = logical"),
        ({"max_replication_slots": "0"}, "stream.slots", "max_replication_slots = 1"),
        ({"max_wal_senders": "0"}, "stream.senders", "max_wal_senders = 1"),
    ],
    ids=["wal_level", "slots", "senders"],
)
def test_a_server_that_cannot_stream(
    place: ServerPlace, tmp_path: Path, settings: dict[str, str], check: str, told: str
) -> None:
    with (
        EmbeddedPostgres.temporary("18", {**SETTINGS, **settings}) as server,
        fresh_database(server) as database,
    ):
        refused(followed(database, place, tmp_path), check, told)


# --- what is no obstacle --------------------------------------------------------------------------


def test_a_type_without_a_binary_decoder_is_a_note(
    database: Database, place: ServerPlace, tmp_path: Path
) -> None:
    columns = "id int PRIMARY KEY, cost money, v vector(3)"
    docs = followed(database, place, tmp_path, columns)
    report = docs.pipeline.command("doctor", "--json").require(0).report
    (note,) = [f for f in report["findings"] if f["check"] == "stream.format"]
    assert (note["level"], "cost" in note["message"]) == ("ok", True)
    docs.sql("INSERT INTO docs VALUES (1, 2.5, '[1,2,3]')")
    with docs.streaming():
        docs.sql("INSERT INTO docs VALUES (2, 3.5, '[4,5,6]')", "UPDATE docs SET cost = 9")
        docs.wait()
        docs.require_equal()


def test_without_sync_a_stream_is_not_asked_for(
    database: Database, place: ServerPlace, tmp_path: Path
) -> None:
    docs = followed(database, place, tmp_path)
    docs.sql("ALTER TABLE docs REPLICA IDENTITY NOTHING")
    settings = json.loads(Path(docs.pipeline.config).read_text())
    del settings["sync"]
    config_file(Path(docs.pipeline.config).parent, settings)
    docs.pipeline.command("doctor").require(0)


def test_values_that_no_payload_holds_are_set_aside_and_the_stream_goes_on(
    database: Database, place: ServerPlace, tmp_path: Path
) -> None:
    columns = "id int PRIMARY KEY, doc json, amount numeric, v vector(3)"
    docs = followed(database, place, tmp_path, columns, numeric="integer")
    with docs.streaming():
        docs.sql(
            r"""INSERT INTO docs VALUES (1, '"\u0000"', 1, '[1,2,3]'),
            (2, '{}', 1.5, '[1,2,3]'), (3, '{}', 4, '[1,2,3]')"""
        )
        docs.wait()
        assert set(docs.points()) == {3}
        letters = docs.place.records(docs.pipeline.name, "dead_letter")
        assert set(letters) == {"public.docs/1", "public.docs/2"}
        docs.sql("UPDATE docs SET doc = '1', amount = 2", "DELETE FROM docs WHERE id = 2")
        docs.wait()
        assert set(docs.points()) == {1, 3}
        assert docs.place.records(docs.pipeline.name, "dead_letter") == {}


def test_a_truncate_while_the_table_is_copied(
    database: Database, place: ServerPlace, tmp_path: Path
) -> None:
    docs = followed(database, place, tmp_path)
    docs.sql("INSERT INTO docs SELECT i, 'x', i, vec(i) FROM generate_series(1, 50) i")
    failpoints = "backfill.after_plan:kill@1"
    with Running("run", "--config", docs.pipeline.config, failpoints=failpoints) as running:
        assert running.finish().code == KILLED
    docs.sql("TRUNCATE docs", "INSERT INTO docs VALUES (7, 'after', 1, vec(7))")
    with docs.streaming():
        docs.wait()
        docs.require_equal()
