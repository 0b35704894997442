"""`backfill pinecone` against the stand-in, through the official SDK: what arrives, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.command import bridge, config_file
from tests.support.comparison import SparseVector, point_id
from tests.support.pinecone_faults import refuse
from tests.support.pinecone_index import Index
from tests.support.pinecone_runs import differences, fill, standing
from tests.support.pinecone_server import KEY, PineconeServer
from tests.support.places import PLACES, Place, ServerPlace, open_place, open_server
from tests.support.tls import AUTHORITY, DIRECTORY


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerPlace]:
    with open_server(tmp_path_factory.mktemp("qdrant")) as opened:
        yield opened


@pytest.fixture(params=PLACES)
def any_place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    with open_place(request.param, tmp_path) as opened:
        yield opened


# --- namespaces -----------------------------------------------------------------------------------


def test_all_namespaces_arrive_in_one_collection(any_place: Any) -> None:
    index = Index(metric="dotproduct")
    fill(index, 250)
    fill(index, 120, namespace="b", seed=2)
    fill(index, 1, namespace="naïve".encode("ascii", "ignore").decode(), seed=3)
    with standing(index, any_place) as job:
        report = job.run().require().report
        job.require_equal(float_fields=["price"])
    assert report["totals"] == {
        "records": 371, "written": 371, "dead_letters": 0, "missing": 0, "source_count": 371,
        "read_units": report["totals"]["read_units"],
    }  # fmt: skip
    assert report["collections"] == {job.name: 371}


def test_the_namespace_has_a_tenant_index(place: ServerPlace) -> None:
    index = Index()
    fill(index, 3)
    fill(index, 3, namespace="b")
    with standing(index, place) as job:
        job.run().require()
    schema = place.client.get_collection(job.name).payload_schema
    params: Any = schema["namespace"].params
    assert params.is_tenant is True
    assert {name: kind.data_type.value for name, kind in schema.items()} == {
        "namespace": "keyword", "title": "keyword", "n": "integer", "price": "float", "ok": "bool",
    }  # fmt: skip


def test_one_namespace_keeps_its_ids_as_they_are(place: ServerPlace) -> None:
    index = Index()
    fill(index, 5, namespace="a")
    fill(index, 7, namespace="b")
    with standing(index, place, "--pinecone.namespace", "b") as job:
        report = job.run().require().report
        job.require_equal(namespaces=["b"], float_fields=["price"])
    assert report["layout"] == "single"
    assert "namespace" not in job.points()[point_id(("item-1",))].payload


def test_the_default_namespace_has_an_empty_name_or_that_of_stats(place: ServerPlace) -> None:
    for number, (called, asked) in enumerate((("__default__", ""), ("", "__default__"))):
        index = Index(default_name=called)
        fill(index, 4)
        fill(index, 2, namespace="b")
        with standing(index, place, "--pinecone.namespace", asked) as job:
            assert job.run().require().report["totals"]["written"] == 4, number
            job.require_equal(namespaces=[""], float_fields=["price"])


def test_split_makes_a_collection_of_each(place: ServerPlace) -> None:
    index = Index()
    names = ["", "b", "a/b", "a:b", "x" * 300, "a_b"]
    for number, name in enumerate(names):
        fill(index, 3 + number, namespace=name, seed=number)
    with standing(index, place, "--namespaces", "split") as job:
        report = job.run().require().report
        collections = {name: one["collection"] for name, one in report["namespaces"].items()}
        assert len(set(collections.values())) == len(names)
        assert collections[""] == job.name
        assert collections["b"] == f"{job.name}-b"
        for name in names:
            found = differences(
                index, job.points(collections[name]), namespaces=[name], joint=False,
                float_fields=["price"],
            )  # fmt: skip
            assert found == []


def test_named_namespaces_are_those_and_no_others(place: ServerPlace) -> None:
    index = Index()
    for name in ("a", "b", "c"):
        fill(index, 3, namespace=name)
    with standing(index, place, "--namespaces", "a,c") as job:
        job.run().require()
        job.require_equal(namespaces=["a", "c"], float_fields=["price"])
        outcome = job.run("--namespaces", "a,nowhere").require(2)
    assert "no namespace nowhere" in outcome.err
    assert "a, b, c" in outcome.err


def test_empty_and_short_pages_end_nothing(place: ServerPlace) -> None:
    """A page without ids and with a token ends a run of qdrant-migration."""
    index = Index(short_pages=11)
    fill(index, 700)
    with standing(index, place) as job:
        job.run().require()
        job.require_equal(float_fields=["price"])
        pages = job.server.requests.of("list")
    assert any(not page.ids for page in pages[:-1])


def test_an_empty_index_is_copied_too(place: ServerPlace) -> None:
    with standing(Index(), place) as job:
        assert job.run().require().report["totals"]["records"] == 0
        assert place.count(job.name) == 0


# --- ids and values -------------------------------------------------------------------------------

IDS = [
    "7", "007", "18446744073709551615", "18446744073709551616", "-1", "0",
    "6f6c1f4e-9a3b-4d1c-8e7f-2a1b3c4d5e6f", "6F6C1F4E-9A3B-4D1C-8E7F-2A1B3C4D5E6F",
    "6f6c1f4e9a3b4d1c8e7f2a1b3c4d5e6f", "{6f6c1f4e-9a3b-4d1c-8e7f-2a1b3c4d5e6f}",
    "x" * 512, "%" * 512, "a b&c=d#e/f?g", "~!@$^*()_+", "[\"a\",\"b\"]", "\x01\x7f", " ",
]  # fmt: skip


@pytest.mark.parametrize("several", [False, True])
def test_ids_of_every_kind_stay_apart(place: ServerPlace, several: bool) -> None:
    index = Index()
    for number, identity in enumerate(IDS):
        index.put(identity, [number + 1.0] * 8, metadata={"number": number})
        if several:
            index.put(identity, [number + 2.0] * 8, namespace="other", metadata={"number": number})
    with standing(index, place) as job:
        job.run().require()
        job.require_equal()
    assert len(job.points()) == len(IDS) * (1 + several)


def test_metadata_of_every_kind_survives(any_place: Any) -> None:
    index = Index()
    kinds: list[dict[str, Any] | None] = [
        None,
        {},
        {
            "": "empty key",
            "a.b": "dotted",
            "größe": "unicode",
            "id": "user's",
            "namespace": "user's",
        },
        {"whole": 3, "negative": -7, "zero": 0, "big": 2**53, "bigger": 2.0**53 + 2, "huge": 1e300},
        {"fraction": 0.1, "mixed": 1.5},
        {"fraction": 2.0, "mixed": 3.0},
        {"yes": True, "no": False, "tags": ["a", "b", ""], "none": []},
        {"text": "x" * 40_000},
        {"text": 'emoji 🎉, quote " and \\ and\nnewline'},
    ]
    for number, metadata in enumerate(kinds):
        index.put(f"r{number}", [1.0 + number] * 8, metadata=metadata)
    with standing(index, any_place) as job:
        job.run().require()
        job.require_equal(float_fields=["fraction", "mixed", "bigger", "huge"])


def test_numbers_can_stay_floats(place: ServerPlace) -> None:
    index = Index()
    fill(index, 30)
    with standing(index, place, "--pinecone.numbers", "float") as job:
        job.run().require()
        job.require_equal(keep_floats=True)
    schema = place.client.get_collection(job.name).payload_schema
    assert schema["n"].data_type.value == "float"


def test_a_fraction_that_the_sample_did_not_have_stays_one(place: ServerPlace) -> None:
    index = Index()
    for number in range(300):
        value = 7.25 if number == 299 else float(number)
        index.put(f"r{number:03}", [1.0 + number] * 8, metadata={"late": value})
    with standing(index, place) as job:
        report = job.run().require().report
        job.require_equal()
    assert any("late" in note and "fractions" in note for note in report["notes"])


def test_large_integers_beyond_a_float_are_not_invented(place: ServerPlace) -> None:
    index = Index()
    index.put("a", [1.0] * 8, metadata={"n": 9007199254740993})
    with standing(index, place) as job:
        job.run().require()
    # Pinecone itself has kept ...992; what it keeps is what arrives.
    assert job.points()[point_id(("a",))].payload["n"] == 9007199254740992


@pytest.mark.parametrize(("flag", "key"), [("--qdrant.id-field", "__id__"),
                                           ("--pinecone.namespace-field", "namespace")])  # fmt: skip
def test_a_users_own_key_stops_before_anything_is_written(
    place: ServerPlace, flag: str, key: str
) -> None:
    index = Index()
    fill(index, 3)
    index.put("mine", [1.0] * 8, namespace="b", metadata={key: "the user's"})
    with standing(index, place) as job:
        outcome = job.run().require(2)
        assert key in outcome.err
        assert flag in outcome.err
        assert not place.exists(job.name)
        job.run(flag, "other").require()
    payload = job.points()[point_id(("b", "mine"))].payload
    assert payload[key] == "the user's"
    assert payload["other"] in ("mine", "b")


def test_a_users_own_key_that_comes_late_is_set_aside(place: ServerPlace) -> None:
    index = Index()
    for number in range(250):
        metadata = {"__id__": "mine"} if number == 249 else {}
        index.put(f"r{number:03}", [1.0 + number] * 8, metadata=metadata)
    with standing(index, place) as job:
        report = job.run().require().report
        job.require_equal(without=["r249"])
    assert report["totals"]["dead_letters"] == 1
    letters = place.records(job.name, "dead_letter")
    assert [letter["key"] for letter in letters.values()] == ["r249"]
    assert all("mine" not in json.dumps(letter) for letter in letters.values())


@pytest.mark.parametrize("metric", ["cosine", "euclidean", "dotproduct"])
def test_every_metric_has_its_distance(place: ServerPlace, metric: str) -> None:
    index = Index(metric=metric)
    fill(index, 20)
    index.put("zero", [0.0] * 8)
    index.put("tiny", [1e-30] * 8)
    with standing(index, place) as job:
        job.run().require()
        job.require_equal(float_fields=["price"])
    vectors: Any = place.client.get_collection(job.name).config.params.vectors
    wanted = {"cosine": "Cosine", "euclidean": "Euclid", "dotproduct": "Dot"}
    assert vectors.distance.value == wanted[metric]


# --- kinds of index -------------------------------------------------------------------------------


def test_a_hybrid_index_brings_its_sparse_values(any_place: Any) -> None:
    """describe does not tell of them."""
    index = Index(metric="dotproduct")
    for number in range(150):
        sparse = {number + 5: 0.5, number: 0.25, 4_294_967_295: 1.5} if number % 3 else None
        index.put(f"r{number}", [number + 1.0] * 8, sparse=sparse)
    index.put("empty", [1.0] * 8, sparse={})
    with standing(index, any_place) as job:
        job.run("--qdrant.sparse-vector", "words").require()
        job.require_equal(sparse_name="words")


def test_room_for_sparse_values_is_made_before_they_are_seen(place: ServerPlace) -> None:
    index = Index(metric="dotproduct")
    for number in range(300):
        index.put(f"r{number:03}", [number + 1.0] * 8, sparse={1: 2.0} if number == 299 else None)
    with standing(index, place) as job:
        job.run().require()
        job.require_equal()


def test_a_collection_without_a_sparse_vector_takes_dense_ones(place: ServerPlace) -> None:
    from qdrant_client import models

    index = Index(metric="dotproduct")
    for number in range(300):
        index.put(f"r{number:03}", [number + 1.0] * 8, sparse={1: 2.0} if number == 299 else None)
    with standing(index, place) as job:
        place.client.create_collection(
            job.name, vectors_config=models.VectorParams(size=8, distance=models.Distance.DOT)
        )
        report = job.run().require().report
        job.require_equal(without=["r299"])
    assert report["totals"]["dead_letters"] == 1


def test_a_sparse_index_has_no_dense_vector(any_place: Any) -> None:
    index = Index(kind="sparse")
    for number in range(120):
        index.put(f"r{number}", sparse={number: 1.0, 7_000 - number: 0.125})
    with standing(index, any_place) as job:
        job.run().require()
        job.require_equal()
    assert isinstance(job.points()[point_id(("r5",))].vectors["sparse_vector"], SparseVector)


def test_an_integrated_index_tells_its_dimension_by_its_stats(place: ServerPlace) -> None:
    index = Index(kind="integrated", dimension=6)
    for number in range(20):
        index.put(f"r{number}", [number + 1.0] * 6, metadata={"chunk_text": f"text {number}"})
    with standing(index, place) as job:
        job.run().require()
        job.require_equal()


def test_a_document_index_keeps_the_names_of_its_vectors(place: ServerPlace) -> None:
    fields = {
        "title_vector": {"type": "dense_vector", "dimension": 4, "metric": "dotproduct"},
        "body_vector": {"type": "dense_vector", "dimension": 3, "metric": "euclidean"},
        "words": {"type": "sparse_vector"},
        "title": {"type": "string", "full_text_search": {}},
    }
    index = Index(kind="documents", fields=fields)
    for number in range(130):
        index.put_document(
            f"d{number}",
            {"title_vector": [number, 1, 2, 3], "body_vector": [number, 5, 6],
             "words": {"indices": [9, 3], "values": [0.5, 1.5]}, "title": f"T {number}", "n": number},
        )  # fmt: skip
    index.put_document("bare", {"title": "no vector at all"})
    with standing(index, place) as job:
        job.run().require()
    points = job.points()
    assert len(points) == 131
    one = points[point_id(("d7",))]
    assert one.payload == {"title": "T 7", "n": 7, "__id__": "d7"}
    assert np.array_equal(one.vectors["title_vector"], [7, 1, 2, 3])  # type: ignore[arg-type]
    assert np.array_equal(one.vectors["body_vector"], [7, 5, 6])  # type: ignore[arg-type]
    words = one.vectors["words"]
    assert isinstance(words, SparseVector)
    assert words.values == {3: 1.5, 9: 0.5}
    assert points[point_id(("bare",))].vectors == {}


def test_documents_whose_vectors_pinecone_keeps_are_refused(place: ServerPlace) -> None:
    fields = {"body": {"type": "string", "embed": {"model": "multilingual-e5-large"}}}
    with standing(Index(kind="documents", fields=fields), place) as job:
        outcome = job.run().require(2)
    assert "body" in outcome.err
    assert "does not give them out" in outcome.err


def test_a_pod_based_index_is_refused_without_a_file_of_ids(
    place: ServerPlace, tmp_path: Path
) -> None:
    index = Index(kind="pod")
    fill(index, 230)
    fill(index, 15, namespace="b")
    ids = tmp_path / "ids.txt"
    lines = [f"item-{n}" for n in range(230)] + [json.dumps(["b", f"item-{n}"]) for n in range(15)]
    ids.write_text("\n".join(lines))
    with standing(index, place) as job:
        outcome = job.run().require(2)
        assert "--pinecone.ids-file" in outcome.err
        job.run("--pinecone.ids-file", str(ids)).require()
        job.require_equal(float_fields=["price"])


def test_a_file_of_ids_that_misses_some_fails_at_the_end(
    place: ServerPlace, tmp_path: Path
) -> None:
    index = Index(kind="pod")
    fill(index, 20)
    ids = tmp_path / "ids.txt"
    ids.write_text("".join(f"item-{n}\n" for n in range(19)))
    with standing(index, place, "--pinecone.ids-file", str(ids)) as job:
        outcome = job.run().require(1)
    assert "19 records were read, Pinecone counts 20" in outcome.err


# --- reaching it ----------------------------------------------------------------------------------


def _refused(server: PineconeServer, place: ServerPlace, *arguments: str) -> str:
    outcome = bridge(
        "backfill",
        "pinecone",
        "--qdrant.url",
        place.url,
        "--qdrant.collection",
        "never",
        *arguments,
    ).require(2)
    assert not place.exists("never")
    assert KEY not in outcome.err + outcome.out
    return outcome.err


def test_a_wrong_key_a_missing_index_and_a_foreign_host_are_told_apart(place: ServerPlace) -> None:
    index, other = Index("products"), Index("orders")
    with PineconeServer(index, other) as server:
        control = ("--pinecone.service-host", server.url, "--pinecone.index-name", "products")
        key = ("--pinecone.api-key", KEY)
        assert "refuses the API key" in _refused(
            server, place, *control, "--pinecone.api-key", "pcsk_wrong"
        )
        missing = _refused(server, place, *control[:3], "nothing", *key)
        assert "has no index nothing" in missing
        foreign = _refused(
            server, place, *control, *key, "--pinecone.index-host", server.host_of("orders")
        )
        assert "is not the host of index products" in foreign
        assert server.host_of("products").split("//")[1] in foreign
        nobody = _refused(server, place, *key, "--pinecone.index-host", server.url)
        assert "index's own host" in nobody


def test_the_host_alone_is_enough(place: ServerPlace) -> None:
    index = Index(metric="dotproduct")
    fill(index, 40)
    with PineconeServer(index) as server:
        name = place.name("pc")
        bridge(
            "backfill", "pinecone", "--pinecone.index-host", server.host_of("products"),
            "--pinecone.api-key", KEY, "--qdrant.url", place.url, "--qdrant.collection", name,
        ).require()  # fmt: skip
        assert differences(index, place.points(name), float_fields=["price"]) == []


def test_a_private_host_is_the_indexs_too(place: ServerPlace) -> None:
    index = Index()
    fill(index, 4)
    with standing(index, place) as job:
        host = job.server.host_of("products")
        job.server.private_hosts["products"] = host.replace("127.0.0.1", "localhost")
        job.run("--pinecone.index-host", host.replace("127.0.0.1", "localhost")).require()


def test_both_planes_are_spoken_to_over_tls(place: ServerPlace, tmp_path: Path) -> None:
    index = Index()
    fill(index, 30)
    pair = (str(DIRECTORY / "server.key"), str(DIRECTORY / "server.pem"))
    with standing(index, place, tls=pair) as job:
        assert job.server.url.startswith("https://")
        outcome = job.run().require(2)
        assert "is not trusted" in outcome.err
        config = config_file(
            tmp_path,
            {
                "pipeline": job.name,
                "pinecone": {
                    "index": "products", "service_host": job.server.url, "api_key": KEY,
                    "ca_file": str(AUTHORITY), "collection": job.name,
                },
                "qdrant": {"url": place.url},
            },
        )  # fmt: skip
        bridge("backfill", "pinecone", "--config", config).require()
        job.require_equal(float_fields=["price"])


def test_no_traceback_has_the_key(place: ServerPlace) -> None:
    index = Index()
    fill(index, 3)
    with standing(index, place) as job:
        for endpoint in ("describe", "stats", "list", "fetch"):
            job.server.faults.add(endpoint, refuse(403))
            outcome = job.run("--debug").require(2)
            assert "Traceback" in outcome.err
            assert KEY not in outcome.err + outcome.out
        job.run().require()
        assert KEY not in str(place.points("_qdrant_bridge"))


def test_plaintext_to_another_machine_is_refused(place: ServerPlace) -> None:
    with PineconeServer(Index()) as server:
        told = _refused(
            server, place, "--pinecone.index-host", "http://index.example.com",
            "--pinecone.api-key", KEY,
        )  # fmt: skip
    assert "plaintext" in told
    assert "--allow-plaintext" in told


def test_no_key_and_no_index_are_said(place: ServerPlace) -> None:
    with PineconeServer(Index()) as server:
        assert "API key" in _refused(server, place, "--pinecone.index-name", "products")
        assert "no Pinecone index" in _refused(server, place, "--pinecone.api-key", KEY)
        blank = _refused(
            server, place, "--pinecone.index-name", "products", "--pinecone.api-key", "pcsk x\n"
        )
        assert "no valid header" in blank


def test_the_key_may_be_in_a_file_or_in_the_environment(
    place: ServerPlace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = Index()
    fill(index, 3)
    (tmp_path / "key").write_text(KEY + "\n")
    with standing(index, place) as job:
        section = {"index": "products", "service_host": job.server.url, "collection": job.name}
        config = config_file(
            tmp_path,
            {"pipeline": job.name, "pinecone": {**section, "api_key_file": "key"},
             "qdrant": {"url": place.url}},
        )  # fmt: skip
        outcome = bridge("backfill", "pinecone", "--config", config).require()
        shown = bridge("config", "--config", config).require()
        assert KEY not in outcome.out + outcome.err + shown.out
        monkeypatch.setenv("QDRANT_BRIDGE_PINECONE__API_KEY", KEY)
        bridge("backfill", "pinecone", "--config", config).require()


# --- the target -----------------------------------------------------------------------------------


def test_a_collection_that_does_not_fit_stops_the_run(place: ServerPlace) -> None:
    from qdrant_client import models

    index = Index()
    fill(index, 3)
    with standing(index, place) as job:
        place.client.create_collection(
            job.name, vectors_config=models.VectorParams(size=9, distance=models.Distance.COSINE)
        )
        outcome = job.run().require(3)
        assert "TARGET_MISMATCH" in outcome.err
        assert place.count(job.name) == 0


def test_a_missing_collection_is_not_made_if_that_is_not_wanted(place: ServerPlace) -> None:
    index = Index()
    fill(index, 3)
    with standing(index, place) as job:
        job.run("--migration.create-collection=false").require(2)
        assert not place.exists(job.name)


def test_another_pipelines_collection_is_left_alone(place: ServerPlace, tmp_path: Path) -> None:
    first, second = Index("products"), Index("orders")
    fill(first, 3)
    fill(second, 3)
    with standing(first, place) as job:
        job.run().require()
        with PineconeServer(second) as server:
            outcome = bridge(
                "backfill", "pinecone", "--pinecone.index-name", "orders", "--pinecone.api-key", KEY,
                "--pinecone.service-host", server.url, "--qdrant.url", place.url,
                "--qdrant.collection", job.name,
            ).require(3)  # fmt: skip
    assert "COLLECTION_TAKEN" in outcome.err


def test_other_settings_do_not_go_on_with_a_plan(place: ServerPlace) -> None:
    index = Index()
    fill(index, 3)
    fill(index, 3, namespace="b")
    with standing(index, place) as job:
        job.run().require()
        outcome = job.run("--pinecone.numbers", "float").require(2)
        assert "other settings" in outcome.err
        job.run("--pinecone.numbers", "float", "--migration.restart").require()
        job.require_equal(keep_floats=True)


def test_status_and_dead_letters_know_the_index(place: ServerPlace, tmp_path: Path) -> None:
    index = Index()
    fill(index, 3)
    for number in range(120):
        metadata = {"__id__": "x"} if number == 119 else {}
        index.put(f"z{number:03}", [1.0] * 8, metadata=metadata)
    with standing(index, place) as job:
        section = {
            "index": "products", "service_host": job.server.url, "collection": job.name,
            "api_key": KEY,
        }  # fmt: skip
        config = config_file(
            tmp_path, {"pipeline": job.name, "pinecone": section, "qdrant": {"url": place.url}}
        )
        bridge("backfill", "pinecone", "--config", config).require()
        status = bridge("status", "--config", config, "--json").require().report
        listed = bridge("dead-letters", "list", "--config", config, "--json").require().report
        kept = bridge("dead-letters", "retry", "--all", "--config", config).require(1)
        index.put("z119", [2.0] * 8, metadata={"mended": True})
        retried = bridge("dead-letters", "retry", "--all", "--config", config).require()
        assert job.points()[point_id(("z119",))].payload == {"mended": True, "__id__": "z119"}
        bridge("backfill", "pinecone", "--config", config).require()
        removed = bridge("teardown", "--config", config, "--yes", "--json").require().report
        assert {"1 index record", "1 namespace record"} <= set(removed["removed"])
        assert len(job.points()) == 123
        assert bridge("status", "--config", config).code == 2
    table = status["tables"]["pinecone:products"]
    assert table == {
        "collection": job.name, "rows_read": 123, "upserts": 122, "patches": 0, "deletes": 0,
        "chunks": 1, "chunks_done": 1,
    }  # fmt: skip
    assert status["complete"] is True
    assert [letter["key"] for letter in listed["dead_letters"]] == ["z119"]
    assert "0 written, 0 gone" in kept.err
    assert "1 written, 0 gone" in retried.err


def test_the_summary_is_for_people(place: ServerPlace) -> None:
    index = Index()
    fill(index, 30)
    fill(index, 5, namespace="b")
    with standing(index, place) as job:
        people = [one for one in job.arguments if one != "--json"]
        outcome = bridge(*people).require()
    assert "no snapshot" in outcome.err
    assert "__default__" in outcome.err
    assert "2 of 2 namespaces to copy" in outcome.err
    assert "namespace b: 5 of 5 records" in outcome.err
