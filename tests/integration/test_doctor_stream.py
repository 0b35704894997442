"""What doctor says of a stream: the one that would be made, and the one that is there already.

Doctor looks and changes nothing, so one that found something leaves the slot and the records as they
were; what it finds is what the daemon would stop with.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bridge.ownership import owner_record
from bridge.postgres.embedded import EmbeddedPostgres
from bridge.qdrant.channel import endpoint
from bridge.qdrant.server import ServerTarget
from bridge.qdrant.state import QdrantState
from tests.support.command import Outcome, bridge, config_file
from tests.support.databases import SETTINGS, Database, fresh_database
from tests.support.followed import Followed
from tests.support.places import ServerPlace


@pytest.fixture
def docs(database: Database, place: ServerPlace, tmp_path: Path) -> Followed:
    made = Followed(database, place, tmp_path, columns="id int PRIMARY KEY, v vector(3)")
    made.sql("INSERT INTO docs VALUES (1, '[1,2,3]'), (2, '[4,5,6]')")
    return made


def changed(docs: Followed, **settings: Any) -> None:
    """The configuration with other sections; None takes one out."""
    path = Path(docs.pipeline.config)
    given = {**json.loads(path.read_text()), **settings}
    config_file(path.parent, {k: v for k, v in given.items() if v is not None})


def findings(outcome: Outcome, level: str) -> dict[str, dict[str, str]]:
    """By check, those of one level."""
    return {f["check"]: f for f in outcome.report["findings"] if f["level"] == level}


def test_a_slot_is_not_called_foreign_while_qdrant_does_not_answer(docs: Followed) -> None:
    docs.prepare()
    changed(docs, qdrant={"url": "http://127.0.0.1:1"})
    outcome = docs.pipeline.command("doctor", "--json").require(1)
    assert set(findings(outcome, "blocker")) == {"target.reachable"}
    warning = findings(outcome, "warning")["stream.slot"]
    assert "not checked" in warning["message"]
    assert "pg_drop_replication_slot" not in json.dumps(outcome.report)


def test_a_stream_that_is_there_passes_and_nothing_is_changed(docs: Followed) -> None:
    with docs.streaming():
        docs.wait()
        docs.pipeline.command("doctor").require(0)
    docs.sql("CREATE TABLE later (id int PRIMARY KEY, v vector(3))")
    tables = json.loads(Path(docs.pipeline.config).read_text())["tables"]
    changed(docs, tables={**tables, "public.later": {"collection": f"{docs.pipeline.name}_l"}})
    before = docs.place.records(docs.pipeline.name, "stream")
    docs.pipeline.command("doctor").require(0)
    assert docs.place.records(docs.pipeline.name, "stream") == before
    assert not docs.place.exists(f"{docs.pipeline.name}_l")


def test_what_the_daemon_would_stop_with_is_found_before(docs: Followed) -> None:
    docs.prepare()
    slot = docs.pipeline.slot
    docs.pipeline.command("doctor").require(0)

    def found() -> dict[str, dict[str, str]]:
        return findings(docs.pipeline.command("doctor", "--json").require(1), "blocker")

    docs.sql(f"ALTER PUBLICATION {slot} SET (publish = 'insert')")
    assert "publishes insert" in found()["stream.publication"]["message"]
    docs.sql(f"ALTER PUBLICATION {slot} SET (publish = 'insert, update, delete, truncate')")
    docs.pipeline.command("doctor").require(0)

    docs.place.client.delete_collection(docs.pipeline.name)
    assert "is gone" in found()["target.collection"]["message"]

    docs.sql("SELECT pg_drop_replication_slot('" + slot + "')")
    lost = found()["stream.slot"]
    assert "gone" in lost["message"] and "resync --all" in lost["remedy"]

    docs.sql("ALTER TABLE docs ALTER COLUMN v TYPE vector(2) USING '[1,2]'::vector(2)")
    assert "vector(2) now" in found()["stream.table"]["message"]


def test_the_slot_that_was_made_counts_not_the_one_that_is_named_now(docs: Followed) -> None:
    docs.prepare()
    changed(docs, sync={"source": "postgres", "slot": "quite_another"})
    docs.pipeline.command("doctor").require(0)


def test_a_table_that_was_made_again_is_taken_in_at_the_start(docs: Followed) -> None:
    docs.prepare()
    docs.sql("DROP TABLE docs", "CREATE TABLE docs (id int PRIMARY KEY, v vector(3))")
    docs.pipeline.command("doctor").require(0)
    with docs.streaming():
        docs.wait()
        docs.require_equal()


def test_another_cluster_is_named_and_nothing_else(docs: Followed) -> None:
    docs.prepare()
    with (
        EmbeddedPostgres.temporary("18", SETTINGS) as server,
        fresh_database(server) as elsewhere,
    ):
        elsewhere.execute("CREATE TABLE docs (id int PRIMARY KEY, v vector(3))")
        changed(docs, postgres={"url": elsewhere.url})
        blocking = findings(docs.pipeline.command("doctor", "--json").require(1), "blocker")
    assert set(blocking) == {"stream.source"}
    assert "another cluster" in blocking["stream.source"]["message"]


def test_another_pipelines_collection_blocks(docs: Followed) -> None:
    name = docs.pipeline.name
    target = ServerTarget(endpoint(docs.place.url, api_key=None))
    try:
        store = QdrantState(target, "somebody")
        store.prepare()
        store.put("owner", name, owner_record("somebody", "public.others", 0))
    finally:
        target.close()
    outcome = docs.pipeline.command("doctor", "--json").require(1)
    finding = findings(outcome, "blocker")["target.collection"]
    assert "somebody" in finding["message"] and finding["remedy"]
    assert "target.collection" not in findings(outcome, "ok")


def test_without_sync_what_a_stream_lacks_is_a_warning(place: ServerPlace, tmp_path: Path) -> None:
    with (
        EmbeddedPostgres.temporary("18", {**SETTINGS, "wal_level": "replica"}) as server,
        fresh_database(server) as database,
    ):
        docs = Followed(database, place, tmp_path, columns="id int PRIMARY KEY, v vector(3)")
        assert "stream.wal_level" in findings(docs.pipeline.command("doctor", "--json"), "blocker")
        changed(docs, sync=None)
        outcome = docs.pipeline.command("doctor", "--json").require(0)
        warning = findings(outcome, "warning")["stream.wal_level"]
        assert "run and sync" in warning["message"] and "wal_level" in warning["remedy"]
        flags = (f"--pg.url={database.url}", "--pg.table=docs", f"--qdrant.url={place.url}")
        by_flags = bridge("doctor", *flags, "--json").require(0)
        assert "stream.wal_level" in findings(by_flags, "warning")
        refused = docs.pipeline.command("run").require(2)
        assert "error WAL_LEVEL" in refused.err
        backfilled = docs.pipeline.command("backfill", "pgvector")
        backfilled.require(0)


def test_run_needs_no_sync_section(docs: Followed) -> None:
    changed(docs, sync=None)
    with docs.streaming():
        docs.sql("INSERT INTO docs VALUES (3, '[7,8,9]')")
        docs.wait()
        docs.require_equal()


def test_a_new_table_that_the_role_may_not_publish_blocks(docs: Followed) -> None:
    docs.prepare()
    role = f"reader_{docs.database.name}"
    docs.sql(
        "CREATE TABLE later (id int PRIMARY KEY, v vector(3))",
        f"CREATE ROLE {role} LOGIN REPLICATION",
        f"GRANT SELECT ON docs, later TO {role}",
    )
    try:
        tables = json.loads(Path(docs.pipeline.config).read_text())["tables"]
        changed(
            docs,
            postgres={"url": docs.database.server.url(docs.database.name, role)},
            tables={**tables, "public.later": {"collection": f"{docs.pipeline.name}_l"}},
        )
        blocking = findings(docs.pipeline.command("doctor", "--json").require(1), "blocker")
        assert set(blocking) <= {"stream.publication", "stream.privilege"}
        remedy = blocking["stream.publication"]["remedy"]
        docs.sql(remedy.partition(": ")[2])
        left = findings(docs.pipeline.command("doctor", "--json"), "blocker")
        assert "stream.publication" not in left
    finally:
        docs.sql(f"DROP OWNED BY {role}", f"DROP ROLE {role}")


def test_what_may_not_be_read_is_found_under_one_name(docs: Followed) -> None:
    """Also where the dimension has to be read from the rows, which stops at the same privilege."""
    role = f"reader_{docs.database.name}"
    docs.sql("CREATE TABLE open (id int PRIMARY KEY, v vector)", f"CREATE ROLE {role} LOGIN")
    try:
        changed(
            docs,
            postgres={"url": docs.database.server.url(docs.database.name, role)},
            tables={"public.docs": {}, "public.open": {}, "public.nowhere": {}},
            sync=None,
        )
        report = docs.pipeline.command("doctor", "--json").require(1).report
        blocking = [f for f in report["findings"] if f["level"] == "blocker"]
        assert [f["check"] for f in blocking] == [
            "table.privilege",
            "table.privilege",
            "table.mapping",
        ]
        assert "nowhere" in blocking[2]["message"]
    finally:
        docs.sql(f"DROP ROLE {role}")
