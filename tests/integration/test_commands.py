"""Every command as a user meets it: its output and its JSON; on real databases."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
import yaml
from qdrant_client import QdrantClient, models

from bridge.postgres.connection import without_secrets
from tests.support.command import Running
from tests.support.databases import Database
from tests.support.qdrant_server import QdrantServer, delay
from tests.support.shell import DOCS, command, ok, report
from tests.support.stock_client import connect

PASSWORD: Final = "kanarienvogel-7f3a"


@pytest.fixture
def client(qdrant_server: QdrantServer) -> Iterator[QdrantClient]:
    stock = connect(qdrant_server.port)
    yield stock
    stock.close()


@pytest.fixture
def edge(tmp_path: Path) -> str:
    """The url of an embedded target that is not there yet."""
    return f"edge://{tmp_path}/edge"


def with_password(url: str) -> str:
    """The url with a password, which `trust` ignores."""
    return url.replace("postgres@", f"postgres:{PASSWORD}@")


# --- init ----------------------------------------------------------------------------------------


def test_what_init_writes_serves_every_other_command(
    database: Database, edge: str, tmp_path: Path
) -> None:
    database.execute(DOCS)
    path = tmp_path / "bridge.yaml"
    url = with_password(database.url)
    outcome = ok("init", str(path), f"--pg.url={url}", f"--qdrant.url={edge}", "--pipeline=shop")
    assert f"wrote {path}: 1 table" in outcome.err
    assert PASSWORD not in path.read_text()
    written = yaml.safe_load(path.read_text())
    assert written["pipeline"] == "shop"
    assert written["postgres"] == {"url": database.url}
    assert written["tables"]["public.docs"]["key"] == ["id"]
    assert written["tables"]["public.docs"]["vectors"]["embedding"] == {"distance": "euclid"}

    file = f"--config={path}"
    assert 'pipeline: "shop"' in ok("config", file).out
    ok("plan", file)
    ok("doctor", file)
    copied = report("backfill", "pgvector", file)
    assert copied["ok"] and copied["tables"]["public.docs"]["target_count"] == 1
    assert report("status", file)["complete"]


def test_init_does_not_overwrite(database: Database, tmp_path: Path) -> None:
    database.execute(DOCS)
    path = tmp_path / "bridge.yaml"
    path.write_text("mine")
    outcome = command("init", str(path), f"--pg.url={database.url}").require(2)
    assert f"{path} exists already" in outcome.err
    assert path.read_text() == "mine"


def test_init_prints_to_standard_output(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    database.execute(DOCS)
    outcome = ok("init", "-", f"--pg.url={database.url}")
    assert outcome.err == ""
    assert "--config -" not in outcome.out
    assert list(yaml.safe_load(outcome.out)["tables"]) == ["public.docs"]
    assert list(tmp_path.iterdir()) == []


def test_init_proposes_what_it_can_and_says_what_is_to_be_decided(
    database: Database, edge: str, tmp_path: Path
) -> None:
    database.execute(
        """
        CREATE TABLE keyless (a int, embedding vector(3));
        CREATE TABLE "we|ird: T" (id int PRIMARY KEY, "e:m" vector(3), "Ünï" halfvec(2));
        CREATE SCHEMA other;
        CREATE TABLE same (id int PRIMARY KEY, v vector(3));
        CREATE TABLE other.same (id int PRIMARY KEY, v sparsevec(30));
        CREATE TABLE told (id int PRIMARY KEY, embedding vector);
        INSERT INTO told VALUES (1, '[1,2,3]');
        CREATE TABLE mixed (id int PRIMARY KEY, embedding vector);
        INSERT INTO mixed VALUES (1, '[1,2,3]'), (2, '[1,2]');
        CREATE TABLE jaccard (id int PRIMARY KEY, bits bit(8));
        CREATE INDEX ON jaccard USING hnsw (bits bit_jaccard_ops);
        CREATE TABLE years (y int, id int, v vector(3), PRIMARY KEY (id, y)) PARTITION BY RANGE (y);
        CREATE TABLE years_0 PARTITION OF years FOR VALUES FROM (0) TO (10);
        CREATE TABLE no_vectors (id int PRIMARY KEY);
        """
    )
    path = tmp_path / "bridge.yaml"
    ok("init", str(path), f"--pg.url={database.url}", f"--qdrant.url={edge}")
    text = path.read_text()
    tables = yaml.safe_load(text)["tables"]
    weird = 'public."we|ird: T"'
    assert {name: table["collection"] for name, table in tables.items()} == {
        "public.jaccard": "jaccard",
        "public.keyless": "keyless",
        "public.mixed": "mixed",
        "public.same": "public_same",
        "other.same": "other_same",
        "public.told": "told",
        "public.years": "years",
        weird: "we_ird__T",
    }
    assert "no primary key" in text and "key" not in tables["public.keyless"]
    assert tables["public.years"]["key"] == ["id", "y"]
    assert tables[weird]["vectors"]["e:m"] == {"name": "e_m", "distance": "cosine"}
    assert re.search(r"to be decided: .*Jaccard", text)
    assert re.search(r"to be decided: .*several dimensions \(2, 3\)", text)
    for name in tables.keys() - {"public.jaccard", "public.keyless", "public.mixed"}:
        ok("plan", f"--config={path}", f"--pg.table={name}")


def test_init_without_anything_to_copy(database: Database, tmp_path: Path) -> None:
    path = tmp_path / "bridge.yaml"
    outcome = command("init", str(path), f"--pg.url={database.url}").require(2)
    assert "no table with a vector column" in outcome.err
    assert not path.exists()


def test_init_refuses_a_name_that_no_pipeline_can_have(database: Database) -> None:
    outcome = command("init", "-", f"--pg.url={database.url}", "--pipeline=My Shop").require(2)
    assert "'My Shop'" in outcome.err


@pytest.mark.parametrize(
    ("url", "kept"),
    [
        ("postgresql://me@db:5/app", "postgresql://me@db:5/app"),
        (
            "postgresql://me:s3cret@db:5/app?sslmode=verify-full",
            "postgresql://me@db:5/app?sslmode=verify-full",
        ),
        ("postgresql+psycopg://me:s3cret@db/app", "postgresql+psycopg://me@db/app"),
        ("postgresql://me@db/app?password=s3cret", "user=me dbname=app host=db"),
        ("host=db user=me password=s3cret dbname=app", "user=me dbname=app host=db"),
        ("host=db user=me", "host=db user=me"),
        ("postgresql://me:s3%40cret@db/app", "postgresql://me@db/app"),
        ("service=shop sslpassword=s3cret", "service=shop"),
    ],
)
def test_a_url_in_a_file_keeps_all_but_its_password(url: str, kept: str) -> None:
    assert without_secrets(url) == kept


# --- doctor --------------------------------------------------------------------------------------


def test_doctor_finds_nothing_that_blocks(
    database: Database, qdrant_server: QdrantServer, client: QdrantClient
) -> None:
    database.execute(DOCS)
    found = report(
        "doctor", f"--pg.url={database.url}", "--pg.table=docs", f"--qdrant.url={qdrant_server.url}"
    )
    assert found["version"] == 1 and found["ok"]
    checks = {finding["check"]: finding["level"] for finding in found["findings"]}
    for check in ("target.reachable", "server.version", "server.pgvector", "table.privilege",
                  "table.row_security", "table.key", "target.collection"):  # fmt: skip
        assert checks[check] == "ok", check
    assert all(
        set(finding) == {"level", "check", "message", "remedy"} for finding in found["findings"]
    )
    assert client.get_collections().collections == []


def test_doctor_shows_every_blocker_with_its_remedy(
    database: Database, qdrant_server: QdrantServer, client: QdrantClient, tmp_path: Path
) -> None:
    database.execute(
        """
        CREATE TABLE keyless (a int, v vector(3));
        CREATE TABLE fine (id int PRIMARY KEY, v vector(3));
        CREATE VIEW twice AS SELECT 1 AS id, v FROM (VALUES ('[1,2,3]'::vector(3)), ('[1,2,4]')) x(v);
        """
    )
    client.create_collection(
        "fine", vectors_config={"v": models.VectorParams(size=4, distance=models.Distance.COSINE)}
    )
    path = tmp_path / "bridge.yaml"
    path.write_text(
        f"pipeline: shop\npostgres: {{url: '{database.url}'}}\nqdrant: {{url: '{qdrant_server.url}'}}\n"
        "tables: {keyless: {}, fine: {}, twice: {key: [id]}, nowhere: {}}\n"
    )
    outcome = command("doctor", f"--config={path}", "--json").require(1)
    blocking = [f for f in outcome.report["findings"] if f["level"] == "blocker"]
    assert not outcome.report["ok"]
    assert len(blocking) == 4
    assert all(finding["remedy"] for finding in blocking)
    messages = "\n".join(finding["message"] for finding in blocking)
    for words in (
        "keyless has no primary key",
        "3 x float32",
        "4 x float32",
        "several rows",
        "nowhere",
    ):
        assert words in messages
    assert "4 findings block a run" in outcome.err
    shown = command("doctor", f"--config={path}").require(1)
    assert shown.out.count("✗") == 4
    assert "--pg.key-column" in shown.out


@pytest.mark.parametrize("side", ["postgres", "qdrant", "both"])
def test_a_side_that_is_away_is_a_finding_and_the_other_is_examined(
    side: str, database: Database, qdrant_server: QdrantServer
) -> None:
    database.execute(DOCS)
    nobody = "127.0.0.1:1"
    postgres = database.url if side == "qdrant" else f"postgresql://u@{nobody}/d"
    qdrant = qdrant_server.url if side == "postgres" else f"http://{nobody}"
    outcome = command(
        "doctor", f"--pg.url={postgres}", "--pg.table=docs", f"--qdrant.url={qdrant}", "--json"
    ).require(1)
    levels = {finding["check"]: finding["level"] for finding in outcome.report["findings"]}
    assert levels["target.reachable"] == ("ok" if side == "postgres" else "blocker")
    assert levels.get("source.reachable") == (None if side == "qdrant" else "blocker")
    assert ("table.key" in levels) == (side == "qdrant")


# --- plan ----------------------------------------------------------------------------------------


def test_plan_says_what_becomes_of_every_column(
    database: Database, qdrant_server: QdrantServer, client: QdrantClient
) -> None:
    database.execute(DOCS)
    flags = (f"--pg.url={database.url}", "--pg.table=docs", f"--qdrant.url={qdrant_server.url}")
    plan = report("plan", *flags)
    assert set(plan) == {"version", "pipeline", "tables"}
    assert (plan["version"], plan["pipeline"]) == (1, "docs")
    (table,) = plan["tables"].values()
    assert set(table) == {"collection", "key", "id", "columns", "warnings", "findings"}
    rows = {
        row["column"]: (row["type"], row["destination"], row["conversion"])
        for row in table["columns"]
    }
    assert rows == {
        "id": ("bigint", "payload id", "integer"),
        "title": ("text", "payload title", "text"),
        "price": ("numeric", "payload price", "float"),
        "rating": ("numeric(4,2)", "payload rating", "float"),
        "seen": ("timestamp with time zone", "payload seen", "RFC 3339 text, UTC"),
        "tags": ("text[]", "payload tags", "list of text"),
        "shape": ("point", "payload shape", "Postgres' text"),
        "twice": ("integer", "not copied", "generated: logical replication does not carry it"),
        "embedding": ("vector(3)", "vector 'embedding'", "3 x float32, euclid"),
        "half": ("halfvec(2)", "vector 'half'", "2 x float16, cosine"),
        "terms": ("sparsevec(9)", "vector 'terms'", "sparse, cosine"),
        "bits": ("bit(8)", "vector 'bits'", "8 x uint8, manhattan"),
        "many": ("vector(3)[]", "vector 'many'", "3 x float32, cosine, multivector"),
    }
    warned = {row["column"] for row in table["columns"] if row["warning"]}
    assert warned == {"price", "half", "terms", "many"}
    assert [row["column"] for row in table["columns"] if row["key"]] == table["key"] == ["id"]
    collection = table["collection"]
    assert (collection["name"], collection["exists"], collection["fits"]) == ("docs", False, True)
    assert collection["payload_indexes"] == {"id": "integer", "title": "keyword"}
    (hnsw,) = [v["hnsw"] for v in collection["vectors"] if v["name"] == "embedding"]
    assert (hnsw["m"], hnsw["ef_construct"]) == (8, 40)
    shown = ok("plan", *flags, environ={"COLUMNS": "200"})
    for _type, destination, conversion in rows.values():
        assert destination in shown.out and conversion in shown.out
    assert "m=8 ef_construct=40" in shown.out
    assert "cosine is assumed" in shown.err
    assert client.get_collections().collections == []


def test_plan_leaves_no_trace_where_an_embedded_target_will_be(
    database: Database, edge: str, tmp_path: Path
) -> None:
    database.execute(DOCS)
    flags = (f"--pg.url={database.url}", "--pg.table=docs", f"--qdrant.url={edge}")
    assert "docs will be created" in ok("plan", *flags).out
    assert report("plan", *flags)["tables"]["public.docs"]["collection"]["exists"] is False
    assert list(tmp_path.iterdir()) == []


def test_plan_is_of_use_before_qdrant_runs(database: Database) -> None:
    database.execute(DOCS)
    flags = (f"--pg.url={database.url}", "--pg.table=docs", "--qdrant.url=http://127.0.0.1:1")
    collection = report("plan", *flags)["tables"]["public.docs"]["collection"]
    assert (collection["exists"], collection["fits"]) == (None, None)
    assert "does not answer" in ok("plan", *flags).out


def test_plan_compares_with_the_collection_that_is_there(
    database: Database, qdrant_server: QdrantServer, client: QdrantClient
) -> None:
    database.execute("CREATE TABLE docs (id int PRIMARY KEY, v vector(3))")
    flags = (f"--pg.url={database.url}", "--pg.table=docs", f"--qdrant.url={qdrant_server.url}")
    client.create_collection(
        "docs", vectors_config={"v": models.VectorParams(size=4, distance=models.Distance.COSINE)}
    )
    collection = report("plan", *flags)["tables"]["public.docs"]["collection"]
    assert (collection["exists"], collection["fits"]) == (True, False)
    assert "found a vector of 4 x float32" in ok("plan", *flags).out.replace("\n", " ")


# --- status and dead letters ---------------------------------------------------------------------


def test_status_before_during_and_after_a_backfill(
    database: Database, qdrant_server: QdrantServer, client: QdrantClient
) -> None:
    database.execute("CREATE TABLE docs (id int PRIMARY KEY, v vector(3))")
    database.execute("INSERT INTO docs SELECT i, '[1,2,3]' FROM generate_series(1, 1600) i")
    database.execute("ANALYZE docs")
    here = (f"--qdrant.url={qdrant_server.url}", "--pg.table=docs")
    before = command("status", *here).require(2)
    assert "pipeline docs has not begun" in before.err
    assert client.get_collections().collections == []

    released = threading.Event()
    # One worker writes chunk after chunk, two requests each; the third chunk is held.
    qdrant_server.faults.add(
        method="Upsert", action=delay(released), nth=5, times=None, collection="docs"
    )
    backfill = ("backfill", "pgvector", f"--pg.url={database.url}", *here)
    with Running(*backfill, "--migration.num-workers=1") as running:
        _wait_for_chunks(here, at_least=1)
        during = report("status", *here)
        assert not during["complete"]
        assert "under way or interrupted" in ok("status", *here).out
        released.set()
        running.finish().require()

    after = report("status", *here)
    assert after == {
        "version": 1,
        "pipeline": "docs",
        "phase": "backfill",
        "complete": True,
        "checkpoint_lsn": None,
        "source_lsn": None,
        "lag": None,
        "slot": None,
        "tables": {
            "public.docs": {
                "collection": "docs",
                "rows_read": 1600,
                "upserts": 1600,
                "patches": 0,
                "deletes": 0,
                "chunks": after["tables"]["public.docs"]["chunks"],
                "chunks_done": after["tables"]["public.docs"]["chunks"],
            }
        },
        "dead_letters": 0,
        "requests": [],
        "stop": None,
    }
    assert "backfill complete" in ok("status", *here).out


def _wait_for_chunks(here: tuple[str, ...], *, at_least: int) -> None:
    """`status` is what tells; it is asked again until it does, or the test's timeout comes."""
    while True:
        outcome = command("status", *here, "--json")
        if outcome.code == 0 and outcome.report["tables"]["public.docs"]["chunks_done"] >= at_least:
            return


def test_status_and_dead_letters_of_an_embedded_target_make_no_directory(
    edge: str, tmp_path: Path
) -> None:
    for arguments in (("status",), ("dead-letters", "list")):
        outcome = command(*arguments, f"--qdrant.url={edge}", "--pg.table=docs").require(2)
        assert "pipeline docs has not begun" in outcome.err
    assert list(tmp_path.iterdir()) == []


def test_dead_letters_are_listed_shown_retried_and_dropped(
    database: Database, edge: str, tmp_path: Path
) -> None:
    database.execute("CREATE TABLE docs (id int PRIMARY KEY, data jsonb, v vector(3))")
    # No payload holds a lone surrogate, which Postgres' json keeps; nor a number beyond doubles.
    database.execute("ALTER TABLE docs ALTER data TYPE json")
    lone = json.dumps({"a": "\ud800"})
    for number in (1, 2, 3):
        database.execute("INSERT INTO docs VALUES (%s, %s, '[1,2,3]')", (number, lone))
    database.execute("INSERT INTO docs VALUES (4, '{}', '[1,2,3]')")
    here = (f"--qdrant.url={edge}", "--pg.table=docs")
    copied = command("backfill", "pgvector", f"--pg.url={database.url}", *here).require()
    assert "3 rows were set aside" in copied.err

    letters = report("dead-letters", "list", *here)
    assert letters["version"] == 1
    assert [letter["key"] for letter in letters["dead_letters"]] == ["1", "2", "3"]
    assert {letter["table"] for letter in letters["dead_letters"]} == {"public.docs"}
    assert all("column data" in letter["reason"] for letter in letters["dead_letters"])
    assert report("status", *here)["dead_letters"] == 3
    listed = ok("dead-letters", "list", *here)
    assert listed.out.count("public.docs") == 3
    assert report("dead-letters", "list", "--table=public.other", *here)["dead_letters"] == []
    shown = ok("dead-letters", "show", "2", *here)
    assert "column data" in shown.out and "key: 2" in shown.out

    postgres = f"--pg.url={database.url}"
    still = command("dead-letters", "retry", "1", postgres, *here).require(1)
    assert "1 row still cannot be written" in still.err
    database.execute("UPDATE docs SET data = '{}' WHERE id = 1")
    database.execute("DELETE FROM docs WHERE id = 2")
    retried = command("dead-letters", "retry", "--all", "--json", postgres, *here).require(1)
    assert {k: retried.report[k] for k in ("written", "gone", "kept")} == {
        "written": 1,
        "gone": 1,
        "kept": 1,
    }
    assert "1 dropped" in ok("dead-letters", "drop", "3", *here).err
    assert "no dead letters" in ok("dead-letters", "list", *here).out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("show",), "name the key"),
        (("show", "7"), "no such dead letter"),
        (("retry",), "which rows is not said"),
        (("retry", "--all"), "no such dead letter"),
        (("drop",), "which rows is not said"),
        (("drop", "7", "--table=public.docs"), "no such dead letter"),
    ],
)
def test_dead_letters_that_are_not_named_or_not_there(
    arguments: tuple[str, ...], words: str, qdrant_server: QdrantServer, client: QdrantClient
) -> None:
    client.create_collection("_qdrant_bridge", vectors_config={})
    here = (f"--qdrant.url={qdrant_server.url}", "--pg.table=docs")
    outcome = command("dead-letters", *arguments, *here).require(2)
    assert words in outcome.err
    assert "remedy: " in outcome.err
