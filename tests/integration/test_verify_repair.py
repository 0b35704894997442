"""`verify --repair`: what differs is mended by whoever holds the pipeline, and the report names it all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import qdrant_edge as edge
from qdrant_client import models

from tests.support.command import Outcome, bridge, config_file
from tests.support.comparison import Expectation, differences
from tests.support.databases import Database
from tests.support.followed import Followed
from tests.support.places import EDGE, EdgePlace, ServerPlace, open_place
from verify.report import COUNTS

COLUMNS = "id int PRIMARY KEY, title text, price int, v vector(3)"
FILL = (
    "INSERT INTO docs SELECT i, 'row ' || i, i, ARRAY[i, 1, 2]::real[]::vector"
    " FROM generate_series(1, 40) i"
)
EXTRAS: list[int | str] = [900, "7f6c1f4e-9a3b-4d1c-8e7f-2a1b3c4d5e6f"]


@pytest.fixture
def docs(database: Database, place: ServerPlace, tmp_path: Path) -> Followed:
    followed = Followed(database, place, tmp_path, columns=COLUMNS)
    followed.sql(FILL)
    return followed


def damage(place: ServerPlace, name: str) -> None:
    """One point lost, two altered, two too many."""
    client = place.client
    other = client.retrieve(name, [8], with_vectors=True)[0]
    points = [
        models.PointStruct(id=identity, vector=other.vector, payload=other.payload)
        for identity in [*EXTRAS, 9]
    ]
    client.upsert(name, points, wait=True)
    client.set_payload(name, {"price": "11"}, points=[11], wait=True)
    client.delete(name, models.PointIdsList(points=[7]), wait=True)


def require_mended(outcome: Outcome) -> dict[str, Any]:
    table = outcome.require(0).table
    assert {name: table[name] for name in COUNTS} == dict.fromkeys(COUNTS, 0)
    done: dict[str, Any] = table["repair"]
    assert sorted(done["written"], key=int) == ["7", "9", "11"]
    assert sorted(done["removed"], key=str) == sorted(EXTRAS, key=str)
    assert (done["found"]["missing"], done["found"]["altered"], done["found"]["extra"]) == (1, 2, 2)
    return done


def test_a_running_daemon_mends_what_differs_inside_its_stream(docs: Followed) -> None:
    with docs.streaming():
        damage(docs.place, docs.pipeline.name)
        docs.sql("UPDATE docs SET title = 'meanwhile' WHERE id = 7")  # missing: written anew by it
        require = docs.pipeline.command("verify", "--repair", "--json")
        table = require.require(0).table
        assert {name: table[name] for name in COUNTS} == dict.fromkeys(COUNTS, 0)
        assert {"9", "11"} <= set(table["repair"]["written"]) <= {"7", "9", "11"}
        assert sorted(table["repair"]["removed"], key=str) == sorted(EXTRAS, key=str)
        docs.sql("UPDATE docs SET title = 'after' WHERE id = 9", "DELETE FROM docs WHERE id = 11")
        docs.wait()
        docs.require_equal()
        docs.pipeline.command("verify", "--json").require(0)


def test_without_a_daemon_the_command_is_the_holder_for_so_long(docs: Followed) -> None:
    docs.prepare()
    damage(docs.place, docs.pipeline.name)
    docs.sql("INSERT INTO docs VALUES (50, 'not followed yet', 1, '[1,2,3]')")
    outcome = docs.pipeline.command("verify", "--repair", "--json").require(0)
    assert {"7", "9", "11", "50"} == set(outcome.table["repair"]["written"])
    docs.require_equal()


def test_rows_from_before_a_schema_change_are_stale_until_they_are_written_anew(
    docs: Followed,
) -> None:
    docs.prepare()
    docs.sql(
        "ALTER TABLE docs ADD COLUMN lang text DEFAULT 'en'",
        "ALTER TABLE docs DROP COLUMN price",
        "UPDATE docs SET title = 'changed' WHERE id = 3",
    )
    found = docs.pipeline.command("verify", "--json").require(1)
    # Row 3 differs in a column that no schema change touched.
    counts = {name: found.table[name] for name in COUNTS if found.table[name]}
    assert counts == {"stale": 39, "altered": 1}
    fields = {field["field"] for one in found.table["examples"] for field in one["fields"]}
    assert fields == {"payload lang", "payload price", "payload title"}
    docs.pipeline.command("verify", "--repair", "--json").require(0)
    docs.require_equal()


def one_shot(database: Database, url: str, name: str, directory: Path, **settings: Any) -> str:
    """The configuration of a pipeline that has copied the table and has no stream."""
    database.execute(f"CREATE TABLE docs ({COLUMNS})")
    database.execute(FILL)
    config = config_file(
        directory,
        {
            "pipeline": name,
            "postgres": {"url": database.url},
            "qdrant": {"url": url},
            "tables": {
                "public.docs": {
                    "collection": name, "vectors": {"v": {"distance": "euclid"}}, **settings,
                }
            },
        },
    )  # fmt: skip
    return config


def require_equal(database: Database, place: Any, name: str) -> None:
    expected = Expectation(distances={"v": "euclid"})
    assert differences(database, "docs", place.points(name), expected) == []


def test_without_a_stream_the_command_writes_and_removes(
    database: Database, place: ServerPlace, tmp_path: Path
) -> None:
    name = place.name("v").lower()
    config = one_shot(database, place.url, name, tmp_path)
    bridge("backfill", "pgvector", "--config", config).require()
    damage(place, name)
    require_mended(bridge("verify", "--repair", "--config", config, "--json"))
    require_equal(database, place, name)
    told = bridge("verify", "--config", config).require(0)
    assert "equal: 40 rows compared" in told.out


def test_an_edge_directory_is_mended(database: Database, tmp_path: Path) -> None:
    with open_place(EDGE, tmp_path) as place:
        assert isinstance(place, EdgePlace)
        config = one_shot(database, place.url, "docs", tmp_path)
        bridge("backfill", "pgvector", "--config", config).require()
        shard = place._open("docs")
        other = shard.retrieve([8], True, True)[0]
        assert other.vector is not None
        points = [edge.Point(one, other.vector, other.payload) for one in [*EXTRAS, 9, 11]]
        shard.update(edge.UpdateOperation.upsert_points(points))
        shard.update(edge.UpdateOperation.delete_points([7]))
        shard.flush()
        shard.close()
        require_mended(bridge("verify", "--repair", "--config", config, "--json"))
        require_equal(database, place, "docs")


def test_a_dry_run_lists_what_it_would_do_and_does_nothing(
    database: Database, place: ServerPlace, tmp_path: Path
) -> None:
    name = place.name("v").lower()
    config = one_shot(database, place.url, name, tmp_path)
    bridge("backfill", "pgvector", "--config", config).require()
    damage(place, name)
    before = place.points(name)
    outcome = bridge("verify", "--repair", "--dry-run", "--config", config).require(1)
    for key in ("7", "9", "11"):
        assert f"would be written: key {key}\n" in outcome.out
    for identity in EXTRAS:
        assert f"would be removed: point {identity}\n" in outcome.out
    after = place.points(name)
    assert {i: p.payload for i, p in before.items()} == {i: p.payload for i, p in after.items()}
    bridge("verify", "--dry-run", "--config", config).require(2)


def test_points_of_other_origin_are_reported_and_kept(
    database: Database, place: ServerPlace, tmp_path: Path
) -> None:
    name = place.name("v").lower()
    config = one_shot(database, place.url, name, tmp_path)
    params = models.VectorParams(size=3, distance=models.Distance.EUCLID)
    place.client.create_collection(name, {"v": params})
    point = models.PointStruct(id=900, vector={"v": [1.0, 2.0, 3.0]}, payload={"of": "others"})
    place.client.upsert(name, [point], wait=True)
    bridge("backfill", "pgvector", "--config", config).require()
    outcome = bridge("verify", "--repair", "--config", config, "--json").require(1)
    assert (outcome.table["extra"], outcome.table["repair"]["extras_kept"]) == (1, True)
    assert 900 in place.points(name)
    owned = json.loads(Path(config).read_text())
    owned["tables"]["public.docs"]["owns_collection"] = True
    Path(config).write_text(json.dumps(owned))
    bridge("verify", "--repair", "--config", config, "--json").require(0)
    assert 900 not in place.points(name)


def test_a_repair_needs_a_pipeline_that_has_begun(
    database: Database, place: ServerPlace, tmp_path: Path
) -> None:
    name = place.name("v").lower()
    config = one_shot(database, place.url, name, tmp_path)
    outcome = bridge("verify", "--config", config, "--json").require(1)
    assert outcome.table["schema"] == [f"the collection {name} does not exist"]
    assert outcome.report["equal"] is False
    assert "backfill pgvector --migration.restart makes the collection" in outcome.err
    assert "verify --repair" not in outcome.err
