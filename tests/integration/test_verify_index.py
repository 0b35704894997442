"""`verify` of a Pinecone index: each way in which a copy can be wrong is found and named, and mended."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from tests.support.command import Outcome, bridge, config_file
from tests.support.comparison import point_id
from tests.support.databases import Database
from tests.support.pinecone_damage import ADDED, FIELDS, damage
from tests.support.pinecone_faults import Fault, refuse
from tests.support.pinecone_index import Index
from tests.support.pinecone_runs import Job, fill, standing
from tests.support.pinecone_server import KEY
from tests.support.places import PLACES, Place, ServerPlace, open_place, open_server
from verify import index as comparison
from verify import index_extras, index_looks
from verify.report import COUNTS


@pytest.fixture(autouse=True)
def soon() -> Iterator[None]:
    """Pauses between looks are for a service that is consistent in the end; the stand-in is at once."""
    with (
        mock.patch.object(index_looks, "PAUSE_SECONDS", 0.0),
        mock.patch.object(index_extras, "PAUSE_SECONDS", 0.0),
        mock.patch.object(comparison, "_COUNT_SECONDS", 0.0),
    ):
        yield


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerPlace]:
    with open_server(tmp_path_factory.mktemp("qdrant")) as opened:
        yield opened


@pytest.fixture(params=PLACES)
def any_place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    with open_place(request.param, tmp_path) as opened:
        yield opened


def verify(job: Job, *more: str) -> Outcome:
    """The job's command line, for the comparison."""
    return bridge("verify", *job.arguments[2:], *more)


def found(job: Job, *more: str) -> dict[str, Any]:
    """What a comparison that does not come out equal says of the only collection."""
    outcome = verify(job, *more).require(1)
    assert outcome.report["equal"] is False
    return outcome.table


def counts(table: dict[str, Any]) -> dict[str, int]:
    return {name: table[name] for name in COUNTS if table[name]}


# --- damage ---------------------------------------------------------------------------------------


def test_a_right_copy_is_equal_and_every_damage_is_found_and_mended(any_place: Any) -> None:
    index = Index(dimension=64)
    fill(index, 700)
    with standing(index, any_place) as job:
        job.run().require()
        outcome = verify(job).require()
        assert outcome.report["equal"] is True
        assert list(outcome.report["tables"]) == ["pinecone:products"]
        table = outcome.table
        assert (table["source"], table["target"], table["compared"]) == (700, 700, 700)
        assert any("not a snapshot" in line for line in table["notes"])
        for number, kind in enumerate(FIELDS):
            other = (f"item-{number + 100}",) if kind == "vectors swapped" else ()
            damage(job, (f"item-{number}",), kind, other)
        damage(job, ("item-500",), "lost")
        damage(job, ("item-501",), "added")
        table = found(job)
        assert counts(table) == {"missing": 1, "extra": 1, "altered": len(FIELDS)}
        told = {example["key"]: example for example in table["examples"]}
        assert told["item-500"]["kind"] == "missing"
        assert (told[None]["kind"], told[None]["id"]) == ("extra", ADDED)
        for number, kind in enumerate(FIELDS):
            fields = told[f"item-{number}"]["fields"]
            assert [one["field"] for one in fields] == [FIELDS[kind]], kind
            assert fields[0].keys() == {"field", "what"}  # values only if they are asked for
        wanted = sorted(["item-500", *(f"item-{number}" for number in range(len(FIELDS)))])
        before = job.points()
        listed = found(job, "--repair", "--dry-run")["repair"]
        assert (sorted(listed["written"]), listed["removed"]) == (wanted, [ADDED])
        assert len(job.points()) == len(before)
        mended = verify(job, "--repair").require()
        assert mended.report["equal"] is True
        assert sorted(mended.table["repair"]["written"]) == wanted
        assert mended.table["repair"]["removed"] == [ADDED]
        job.require_equal(float_fields=["price"])
        assert verify(job).require().report["equal"] is True


def test_a_record_written_during_the_backfill_is_found_and_mended(place: ServerPlace) -> None:
    index = Index()
    fill(index, 300)
    with standing(index, place) as job:
        job.run().require()
        index.put("item-3", [1.0] * 8, metadata={"title": "newer"})
        index.put("late", [0.5] * 8, metadata={"title": "late"})
        index.delete("item-4")
        table = found(job)
        assert counts(table) == {"missing": 1, "extra": 1, "altered": 1}
        table = verify(job, "--repair").require().table
        assert sorted(table["repair"]["written"]) == ["item-3", "late"]
        assert table["repair"]["removed"] == [point_id(("item-4",))]
        job.require_equal(float_fields=["price"])


# --- namespaces and kinds -------------------------------------------------------------------------


def test_namespaces_in_one_collection_are_told_by_both_names(any_place: Any) -> None:
    index = Index(metric="dotproduct", short_pages=3)
    fill(index, 650)
    fill(index, 120, namespace="b", seed=2)
    with standing(index, any_place) as job:
        job.run().require()
        assert verify(job).require().table["compared"] == 770
        damage(job, ("b", "item-7"), "lost")
        damage(job, ("", "item-9"), "stale")
        fill(index, 2, namespace="later", seed=3)
        told = {one["key"]: one["kind"] for one in found(job)["examples"]}
        assert told == {
            '["b","item-7"]': "missing", '["","item-9"]': "altered",
            '["later","item-0"]': "missing", '["later","item-1"]': "missing",
        }  # fmt: skip
        assert verify(job, "--repair").require().report["equal"] is True
        job.require_equal(float_fields=["price"])


def test_a_collection_for_each_namespace_is_a_table_for_each(place: ServerPlace) -> None:
    index = Index()
    fill(index, 40)
    fill(index, 30, namespace="b", seed=2)
    with standing(index, place, "--namespaces", "split") as job:
        job.run().require()
        report = verify(job).require().report
        assert {name: one["compared"] for name, one in report["tables"].items()} == {
            "pinecone:products/__default__": 40, "pinecone:products/b": 30,
        }  # fmt: skip
        index.delete("item-1", namespace="b")
        report = verify(job).require(1).report
        assert [one["equal"] for one in report["tables"].values()] == [True, False]
        assert report["tables"]["pinecone:products/b"]["extra"] == 1


def test_a_namespace_that_has_no_place_in_the_copy_is_no_equality(place: ServerPlace) -> None:
    index = Index()
    fill(index, 10)
    with standing(index, place) as job:
        job.run().require()
        fill(index, 5, namespace="later")
        table = found(job)
    assert "namespace later" in table["schema"][0]


def test_fields_and_vectors_of_documents_are_compared(place: ServerPlace) -> None:
    index = Index(
        kind="documents",
        fields={
            "body": {"type": "dense_vector", "dimension": 8, "metric": "cosine"},
            "words": {"type": "sparse_vector", "metric": "dotproduct"},
            "title": {"type": "string", "full_text_search": {}},
        },
    )
    for number in range(20):
        document = {
            "body": [float(number + 1)] * 8, "title": f"Document {number}",
            "words": {"indices": [1, number + 5], "values": [0.5, 1.5]},
        }  # fmt: skip
        index.put_document(f"doc-{number}", document)
    with standing(index, place) as job:
        job.run().require()
        assert verify(job).require().table["compared"] == 20
        place.client.delete_payload(job.name, ["title"], points=[point_id(("doc-3",))], wait=True)
        (example,) = found(job)["examples"]
    assert (example["key"], example["fields"][0]["field"]) == ("doc-3", "payload title")


def test_numbers_go_by_the_plan_that_is_stored(place: ServerPlace) -> None:
    index = Index()
    for number in range(150):
        index.put(f"a{number:03}", [1.0] * 8, metadata={"n": number})
    with standing(index, place) as job:
        job.run().require()
        # The sample of today would make all of them floats.
        index.put("a000", [1.0] * 8, metadata={"n": 0.5})
        job.run("--pinecone.reconcile", "full").require()
        assert verify(job).require().report["equal"] is True
        assert verify(job, "--pinecone.numbers", "float").require(2).err.count("other settings")


def test_records_that_were_set_aside_are_told_as_such(place: ServerPlace) -> None:
    index = Index()
    fill(index, 150)
    index.put("item-9", [1.0] * 9, metadata={"title": "of nine dimensions"})
    with standing(index, place) as job:
        job.run().require()
        table = found(job)
        assert counts(table) == {"dead_lettered": 1}
        assert "9 dimensions, not 8" in table["examples"][0]["reason"]
        index.put("item-9", [1.0] * 8, metadata={"title": "mended"})
        assert counts(found(job)) == {"dead_lettered": 1}  # until it is written


# --- parts ----------------------------------------------------------------------------------------


def test_a_sample_is_chosen_by_the_ids_and_shards_share_the_records(place: ServerPlace) -> None:
    index = Index()
    fill(index, 1200)
    with standing(index, place) as job:
        job.run().require()
        some = [verify(job, "--sample", "25%", "--seed", s).require().table for s in "112"]
        assert some[0]["compared"] == some[1]["compared"] != some[2]["compared"]
        assert all(200 < one["compared"] < 400 and one["sampled"] for one in some)
        about = verify(job, "--sample", "100").require().table
        assert 50 < about["compared"] < 200
        damage(job, ("item-5",), "added")
        parts = [verify(job, "--shard", f"{number}/3") for number in range(3)]
    assert sum(one.table["compared"] for one in parts) == 1200
    assert sum(one.table["extra"] for one in parts) == 1
    assert sorted(one.code for one in parts) == [0, 0, 1]


# --- while it is written to, and when it cannot finish ------------------------------------------


def test_a_record_that_never_holds_still_is_unsettled(place: ServerPlace) -> None:
    index = Index()
    fill(index, 50)
    with standing(index, place) as job:
        job.run().require()
        times = iter(range(1000))

        def change() -> None:
            index.put("item-7", [1.0 + next(times)] * 7 + [1.0], metadata={"title": "again"})

        job.server.faults.add("fetch", Fault(before=change), times=100)
        assert counts(found(job)) == {"unsettled": 1}


def test_what_is_mended_between_two_looks_is_not_reported(place: ServerPlace) -> None:
    index = Index()
    fill(index, 50)
    with standing(index, place) as job:
        job.run().require()
        kept = index.namespaces[""].records["item-7"]
        index.put("item-7", [9.0] * 8, metadata={"title": "for a moment"})
        back = Fault(before=lambda: index.put_raw("item-7", kept))
        fired = job.server.faults.add("fetch", back, nth=2)
        assert verify(job).require().report["equal"] is True
        assert fired.is_set()


def test_limits_and_outages_are_waited_for(place: ServerPlace) -> None:
    index = Index()
    fill(index, 600)
    with standing(index, place) as job:
        job.run().require()
        limited = job.server.faults.add("fetch", refuse(429, retry_after=0.05), nth=2, times=2)
        away = job.server.faults.add("list", refuse(503), nth=2)
        assert verify(job).require().table["compared"] == 600
        assert limited.is_set() and away.is_set()


def test_a_listing_that_begins_again_counts_no_record_twice(place: ServerPlace) -> None:
    index = Index()
    fill(index, 900)
    with standing(index, place) as job:
        job.run().require()
        damage(job, ("item-0",), "stale")
        fired = job.server.faults.add("list", Fault(before=index.expire_tokens), nth=7)
        # One fetch at a time: some batches are counted by then.
        table = found(job, "--migration.num-workers", "1")
        assert fired.is_set()
    assert (table["compared"], counts(table)) == (900, {"altered": 1})


@pytest.mark.parametrize("fault", [refuse(401), refuse(429, message="monthly read units")])
def test_what_cannot_finish_says_nothing_of_equality(place: ServerPlace, fault: Fault) -> None:
    index = Index()
    fill(index, 600)
    with standing(index, place) as job:
        job.run().require()
        job.server.faults.add("fetch", fault, nth=3, times=1000)
        outcome = verify(job).require(2)
    assert "equal" not in outcome.out


def test_a_listing_that_leaves_records_out_is_no_equality(place: ServerPlace) -> None:
    index = Index()
    fill(index, 100)
    with standing(index, place) as job:
        job.run().require()
        index.count_error = 3
        table = found(job)
    assert table["schema"] == ["100 records were listed, and Pinecone counts 103"]


def test_an_index_that_was_not_copied_here_is_refused(place: ServerPlace) -> None:
    index = Index()
    fill(index, 10)
    with standing(index, place) as job:
        assert "was not copied" in verify(job).require(2).err
    assert not place.exists(job.name)


# --- beside tables ------------------------------------------------------------------------------


def test_an_index_is_compared_beside_tables_until_they_go_on_with_it(
    place: ServerPlace, database: Database, tmp_path: Path
) -> None:
    index = Index()
    fill(index, 20)
    database.execute("CREATE TABLE docs (id int PRIMARY KEY, title text, v vector(3))")
    database.execute("INSERT INTO docs SELECT i, 'doc', '[1,2,3]' FROM generate_series(1, 5) i")
    with standing(index, place) as job:
        settings = {
            "pipeline": job.name,
            "postgres": {"url": database.url},
            "pinecone": {
                "index": "products", "service_host": job.server.url, "api_key": KEY,
                "collection": job.name,
            },
            "qdrant": {"url": place.url},
            "tables": {"public.docs": {"collection": place.name("docs")}},
        }  # fmt: skip
        both = ("--config", config_file(tmp_path, settings))
        bridge("backfill", "pinecone", *both).require()
        bridge("backfill", "pgvector", *both).require()
        report = bridge("verify", *both, "--json").require().report
        assert {name: one["compared"] for name, one in report["tables"].items()} == {
            "public.docs": 5, "pinecone:products": 20,
        }  # fmt: skip
        report = bridge("verify", "pinecone:products", *both, "--json").require().report
        assert list(report["tables"]) == ["pinecone:products"]
        report = bridge("verify", "public.docs", *both, "--json").require().report
        assert list(report["tables"]) == ["public.docs"]
        owner_changed(job, place, lambda owner: owner.update(table="public.docs"))
        report = bridge("verify", *both, "--json").require().report
        assert list(report["tables"]) == ["public.docs"]


# --- what is not removed, and not written -------------------------------------------------------


def owner_changed(job: Job, place: ServerPlace, change: Callable[[dict[str, Any]], None]) -> None:
    """The record of whose the collection is, as something else would have written it."""
    from qdrant_client import models

    condition = models.FieldCondition(key="kind", match=models.MatchValue(value="owner"))
    records, _ = place.client.scroll(
        "_qdrant_bridge", scroll_filter=models.Filter(must=[condition]), limit=1000
    )
    (record,) = [one for one in records if (one.payload or {})["name"] == job.name]
    owner = dict((record.payload or {})["record"])
    change(owner)
    place.client.set_payload("_qdrant_bridge", {"record": owner}, points=[record.id], wait=True)


def test_points_that_were_there_before_are_reported_and_kept(place: ServerPlace) -> None:
    index = Index()
    fill(index, 20)
    with standing(index, place) as job:
        job.run().require()
        owner_changed(job, place, lambda owner: owner.update(found_points=3))
        damage(job, ("item-5",), "added")
        damage(job, ("item-6",), "lost")
        table = found(job, "--repair")
        assert table["repair"]["extras_kept"] is True and table["repair"]["removed"] == []
        assert (counts(table), table["repair"]["written"]) == ({"extra": 1}, ["item-6"])


def test_nothing_is_written_where_a_table_goes_on(place: ServerPlace) -> None:
    index = Index()
    fill(index, 20)
    with standing(index, place) as job:
        job.run().require()
        owner_changed(job, place, lambda owner: owner.update(table="public.docs", found_points=20))
        damage(job, ("item-5",), "added")
        damage(job, ("item-6",), "lost")
        before = set(job.points())
        assert "COLLECTION_TAKEN" in verify(job, "--repair").require(3).err
        assert set(job.points()) == before
        assert counts(found(job)) == {"missing": 1, "extra": 1}
