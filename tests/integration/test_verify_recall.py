"""`verify --recall`: searches on both sides, the thresholds, the page; metrics for a textfile collector."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from qdrant_client import models

from tests.support.command import bridge, config_file
from tests.support.databases import Database
from tests.support.places import EDGE, ServerPlace, open_place

DIMENSION = 16
ROWS = 300
VECTOR = (
    f"(SELECT array_agg(sin(i * 12.9898 + j * 78.233 + i * j))::real[] FROM generate_series(1,"
    f" {DIMENSION}) j)"
)
DDL = f"CREATE TABLE docs (id int PRIMARY KEY, title text, v vector({DIMENSION}), h halfvec({DIMENSION}))"
FILL = (
    f"INSERT INTO docs SELECT i, '<b>' || i, {VECTOR}::vector, {VECTOR}::halfvec"
    f" FROM generate_series(1, {ROWS}) i"
)


def copied(
    database: Database, url: str, name: str, directory: Path, *, distance: str = "cosine"
) -> str:
    database.execute(DDL)
    database.execute(FILL)
    vectors = {"v": {"distance": distance}, "h": {"distance": distance}}
    config = config_file(
        directory,
        {
            "pipeline": name,
            "postgres": {"url": database.url},
            "qdrant": {"url": url},
            "tables": {"public.docs": {"collection": name, "vectors": vectors}},
        },
    )
    bridge("backfill", "pgvector", "--config", config).require()
    return config


@pytest.mark.parametrize("distance", ["cosine", "manhattan"])
def test_searches_of_a_right_copy_find_the_same_on_both_sides(
    distance: str, database: Database, place: ServerPlace, tmp_path: Path
) -> None:
    config = copied(database, place.url, place.name("r").lower(), tmp_path, distance=distance)
    # A sample: it is the searches that are of interest here.
    asked = (
        "verify",
        "--config",
        config,
        "--json",
        "--sample",
        "10",
        "--recall",
        "--queries",
        "50",
    )
    table = bridge(*asked).require(0).table
    assert table["recall"].keys() == {"v", "h"}
    for vector in ("v", "h"):
        found = table["recall"][vector]
        assert (found["queries"], found["k"], found["distance"]) == (50, 10, distance)
        assert found["passed"] is True and found["missed"] == []
        for measured in (found["index"], found["exact"]):
            assert measured["recall_mean"] == pytest.approx(1.0, abs=0.02), (vector, measured)
            assert measured["spearman"] > 0.98 and measured["ndcg"] > 0.98


def test_searches_that_find_others_fail_and_are_shown_side_by_side(
    database: Database, place: ServerPlace, tmp_path: Path
) -> None:
    name = place.name("r").lower()
    config = copied(database, place.url, name, tmp_path)
    records, _ = place.client.scroll(name, limit=ROWS, with_vectors=True, with_payload=False)
    vectors: list[Any] = [record.vector for record in records]
    changes = [
        models.PointVectors(id=record.id, vector=vector)
        for record, vector in zip(records, vectors[::-1], strict=True)
    ]
    place.client.update_vectors(name, changes, wait=True)
    html, metrics = tmp_path / "recall.html", tmp_path / "verify.prom"
    outcome = bridge(
        "verify", "--config", config, "--sample", "20", "--recall", "5", "--queries", "50",
        "--html", str(html), "--textfile", str(metrics),
    ).require(1)  # fmt: skip
    assert "recall_mean 0" in outcome.err and "is below 0.85" in outcome.err
    assert "the vectors differ" in outcome.err and "hnsw" not in outcome.err
    text = html.read_text()
    require_self_contained(text)
    assert text.count("<svg") == 4  # two plots a vector
    assert "The queries with the lowest recall" in text and 'class="bad"' in text
    require_metrics(metrics.read_text())


def test_an_edge_directory_is_asked_as_well(database: Database, tmp_path: Path) -> None:
    with open_place(EDGE, tmp_path) as edge:
        config = copied(database, edge.url, "docs", tmp_path, distance="dot")
        outcome = bridge("verify", "--config", config, "--json", "--recall", "3").require(0)
    assert outcome.table["recall"]["v"]["queries"] == 100


def test_queries_may_come_from_a_file(
    database: Database, place: ServerPlace, tmp_path: Path
) -> None:
    config = copied(database, place.url, place.name("r").lower(), tmp_path, distance="euclid")
    file = tmp_path / "queries.jsonl"
    vectors = [[float(i == j) + i / 100 for j in range(DIMENSION)] for i in range(50)]
    lines = [
        json.dumps(vector if i % 2 else {"vector": vector}) for i, vector in enumerate(vectors)
    ]
    file.write_text("\n".join(lines))
    asked = ("verify", "--config", config, "--json", "--sample", "10", "--recall", "--queries")
    found = bridge(*asked, str(file)).require(0).table["recall"]["v"]
    assert found["queries"] == 50
    for bad in ("[1, 2]", "nonsense", '{"vector": null}', "[" + ", ".join(["NaN"] * 16) + "]"):
        file.write_text(bad)
        outcome = bridge(*asked, str(file)).require(2)
        assert "line 1" in outcome.err and bad not in outcome.err
    bridge(*asked, str(tmp_path / "nowhere")).require(2)
    bridge("verify", "--config", config, "--html", str(tmp_path / "x.html")).require(2)


class Resources(HTMLParser):
    """Everything that a page would load or run, and every tag."""

    def __init__(self) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.loads += [f"{tag} {name}" for name, _value in attrs if name in ("src", "href")]


def require_self_contained(text: str) -> None:
    page = Resources()
    page.feed(text)
    assert page.loads == [] and "url(" not in text and "@import" not in text
    assert not {"script", "link", "img", "iframe"} & set(page.tags)


def require_metrics(text: str) -> None:
    """Each line is a comment or a sample in the text format."""
    sample = re.compile(r'[a-z_]+\{([a-z_]+="(?:[^"\\]|\\.)*",?)+\} -?[0-9.e+-]+')
    lines = text.splitlines()
    assert all(line.startswith("# ") or sample.fullmatch(line) for line in lines), lines
    altered = next(line for line in lines if 'kind="altered"' in line)
    assert "_differences{" in altered and float(altered.rpartition(" ")[2]) > 5
    assert any(
        line.startswith("qdrant_bridge_verify_equal{") and line.endswith(" 0") for line in lines
    )
    assert any('measure="recall_mean"' in line for line in lines)
    assert text.endswith("\n")


def test_rows_with_one_vector_are_as_good_as_each_other(
    database: Database, place: ServerPlace, tmp_path: Path
) -> None:
    """Which of 300 equals are answered is chance, on both sides."""
    name = place.name("r").lower()
    one = "[" + ", ".join(["0.25"] * DIMENSION) + "]"
    database.execute(f"CREATE TABLE docs (id int PRIMARY KEY, v vector({DIMENSION}))")
    database.execute(f"INSERT INTO docs SELECT i, '{one}' FROM generate_series(1, {ROWS}) i")
    config = config_file(
        tmp_path,
        {
            "pipeline": name,
            "postgres": {"url": database.url},
            "qdrant": {"url": place.url},
            "tables": {"public.docs": {"collection": name}},
        },
    )
    bridge("backfill", "pgvector", "--config", config).require()
    page, metrics = tmp_path / "recall.html", tmp_path / "verify.prom"
    outcome = bridge(
        "verify", "--config", config, "--json", "--recall", "3", "--queries", "50",
        "--html", str(page), "--textfile", str(metrics),
    ).require(0)  # fmt: skip
    found = outcome.table["recall"]["v"]
    for how in ("index", "exact"):
        assert {name: value for name, value in found[how].items() if value != 1.0} == {
            "spearman": None
        }
    assert 'class="bad"' not in page.read_text()
    assert 'measure="mrr"' in metrics.read_text() and "spearman" not in metrics.read_text()
    shown = bridge("verify", "--config", config, "--recall", "3", "--queries", "50").require(0).out
    assert "public.docs, vector v: 3 nearest, 50 times asked" in shown
    (line,) = [line for line in shown.splitlines() if line.startswith("spearman")]
    assert line.split() == ["spearman", "-", "-", "0.80"]
