"""`plan` and `init` for a Pinecone index: what it is, what becomes of it, what needs a decision."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from bridge.config import load
from tests.support.command import bridge
from tests.support.pinecone_index import Index
from tests.support.pinecone_runs import differences, fill, standing
from tests.support.pinecone_server import KEY
from tests.support.places import ServerPlace, open_server


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerPlace]:
    with open_server(tmp_path_factory.mktemp("qdrant")) as opened:
        yield opened


def _index() -> Index:
    index = Index(metric="dotproduct")
    fill(index, 60)
    fill(index, 20, namespace="b")
    index.put("odd", [1.0] * 8, metadata={"n": "a text for once", "tags": ["x"]})
    return index


def test_plan_shows_everything_and_changes_nothing(place: ServerPlace) -> None:
    with standing(_index(), place) as job:
        asked = (
            "--pinecone.index-name", "products", "--pinecone.service-host", job.server.url,
            "--pinecone.api-key", KEY, "--qdrant.url", place.url, "--qdrant.collection", job.name,
        )  # fmt: skip
        report = bridge("plan", *asked, "--json").require().report
        people = bridge("plan", *asked).require()
        split = bridge("plan", *asked, "--namespaces", "split", "--json").require().report
    assert not place.exists(job.name)
    index = report["indexes"]["pinecone:products"]
    assert report["tables"] == {}
    assert index["namespaces"] == {
        "": {"records": 61, "collection": job.name}, "b": {"records": 20, "collection": job.name},
    }  # fmt: skip
    dense, sparse = index["vectors"]
    assert (dense["name"], dense["dimension"], dense["distance"]) == ("", 8, "dot")
    assert (sparse["name"], sparse["shape"]) == ("sparse_vector", "sparse")
    assert index["payload_indexes"] == {
        "namespace": "tenant", "title": "keyword", "price": "float", "ok": "bool", "tags": "keyword",
    }  # fmt: skip
    fields = {one["field"]: one for one in index["fields"]}
    assert fields["n"]["kinds"] == ["integer", "text"]
    assert fields["n"]["conversion"] == "integer or text"
    assert index["findings"][0]["message"] == f"{job.name} will be created"
    assert any("--namespaces split" in warning for warning in index["warnings"])
    assert any("get no index: n" in warning for warning in index["warnings"])
    names = {
        one["collection"] for one in split["indexes"]["pinecone:products"]["namespaces"].values()
    }
    assert names == {job.name, f"{job.name}-b"}
    for text in ("__default__", "payload __id__", "sparse, dot", "namespace (tenant)"):
        assert text in people.out
    assert KEY not in people.out + people.err


def test_plan_is_of_use_before_qdrant_runs(place: ServerPlace) -> None:
    with standing(_index(), place) as job:
        report = bridge(
            "plan", "--pinecone.index-name", "products", "--pinecone.service-host", job.server.url,
            "--pinecone.api-key", KEY, "--qdrant.url", "http://127.0.0.1:9", "--json",
        ).require().report  # fmt: skip
    (finding,) = report["indexes"]["pinecone:products"]["findings"]
    assert finding["level"] == "warning"


def test_plan_says_that_a_collection_does_not_fit(place: ServerPlace) -> None:
    from qdrant_client import models

    with standing(_index(), place) as job:
        place.client.create_collection(
            job.name, vectors_config=models.VectorParams(size=9, distance=models.Distance.DOT)
        )
        report = bridge(
            "plan", "--pinecone.index-name", "products", "--pinecone.service-host", job.server.url,
            "--pinecone.api-key", KEY, "--qdrant.url", place.url, "--qdrant.collection", job.name,
            "--json",
        ).require().report  # fmt: skip
    (finding,) = report["indexes"]["pinecone:products"]["findings"]
    assert finding["level"] == "blocker"
    assert "9" in finding["message"] and "8" in finding["message"]


def test_init_writes_a_file_that_copies_the_index(
    place: ServerPlace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QDRANT_BRIDGE_PINECONE__API_KEY", KEY)
    index = _index()
    path = tmp_path / "bridge.yaml"
    with standing(index, place) as job:
        outcome = bridge(
            "init", str(path), "--pinecone.index-name", "products", "--pipeline", "moving",
            "--pinecone.service-host", job.server.url, "--qdrant.url", place.url,
        ).require()  # fmt: skip
        text = path.read_text()
        assert KEY not in text + outcome.err + outcome.out
        assert "81 records" in text
        assert "__default__: 61 records" in text
        written = yaml.safe_load(text)
        assert written["pinecone"]["namespaces"] == "all"
        assert load(path, {}, {}).settings.pipeline == "moving"
        bridge("backfill", "pinecone", "--config", str(path)).require()
        found = differences(index, place.points("products"), float_fields=["price"])
        assert found == []
        assert "exists already" in bridge(
            "init", str(path), "--pinecone.index-name", "products",
            "--pinecone.service-host", job.server.url,
        ).require(2).err  # fmt: skip


def test_init_takes_the_decision_about_namespaces(place: ServerPlace) -> None:
    with standing(_index(), place) as job:
        for asked, wanted in (("split", "split"), ("b", ["b"])):
            outcome = bridge(
                "init", "-", "--pinecone.index-name", "products", "--namespaces", asked,
                "--pinecone.service-host", job.server.url, "--pinecone.api-key", KEY,
            ).require()  # fmt: skip
            assert yaml.safe_load(outcome.out)["pinecone"]["namespaces"] == wanted
