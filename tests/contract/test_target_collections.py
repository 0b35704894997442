"""Collections on every target: made as specified, compared strictly, listed, deleted, gone."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest

from bridge.collection_spec import (
    CollectionSpec,
    Datatype,
    Distance,
    HnswSpec,
    IndexKind,
    QuantizationSpec,
    VectorSpec,
)
from bridge.errors import StopError
from bridge.json_paths import json_path
from bridge.plan import Multi, Point, Vector
from bridge.qdrant.collections import compare
from bridge.qdrant.server import ServerTarget
from bridge.qdrant.target import Target
from bridge.qdrant.wire import encode_upsert
from tests.contract.places import (
    DISTANCES,
    Place,
    buffer,
    dense,
    fetch,
    ids,
    multi,
    numbers,
    scroll_all,
    servers_only,
    sparse,
)

# --- collections ----------------------------------------------------------------------------------

DATATYPES: list[Datatype] = ["float32", "float16", "uint8"]
QUANTIZATIONS = [
    QuantizationSpec(kind="scalar"),
    QuantizationSpec(kind="scalar", always_ram=True, quantile=0.99),
    QuantizationSpec(kind="binary", always_ram=False),
    QuantizationSpec(kind="product", compression="x32"),
]


def test_check_tells_a_version(target: Target) -> None:
    assert target.check()


def test_a_missing_collection_is_none(place: Place) -> None:
    assert place.target.collection(place.name()) is None


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("datatype", DATATYPES)
def test_a_dense_vector_is_created_as_specified(
    place: Place, distance: Distance, datatype: Datatype
) -> None:
    spec = dense(distance=distance, datatype=datatype)
    state = place.target.collection(place.create(spec))
    assert state is not None
    (found,) = state.vectors
    assert (found.name, found.shape) == ("v", "dense")
    assert (found.dimension, found.distance, found.datatype) == (3, distance, datatype)


def test_every_kind_of_vector_in_one_collection(place: Place) -> None:
    spec = CollectionSpec(
        name=place.name(),
        vectors=(
            dense("a", dimension=1536, distance="cosine", hnsw=HnswSpec(m=24, ef_construct=200)),
            dense("b", dimension=4, datatype="float16", on_disk=True),
            dense("bits", dimension=64, distance="manhattan", datatype="uint8"),
            multi("m", dimension=128, distance="cosine"),
            sparse("s"),
        ),
    )
    place.target.create_collection(spec)
    state = place.target.collection(spec.name)
    assert state is not None
    assert compare(spec, state) == []
    assert [vector.name for vector in state.vectors] == ["a", "b", "bits", "m", "s"]


@pytest.mark.parametrize(
    "vectors",
    [
        (dense(""),),
        (multi(""),),
        (dense(""), sparse()),
        (dense(""), dense("other")),
        (sparse(),),
        (),
    ],
)
def test_unnamed_sparse_or_no_vectors(place: Place, vectors: tuple[VectorSpec, ...]) -> None:
    spec = CollectionSpec(name=place.name(), vectors=vectors)
    place.target.create_collection(spec)
    state = place.target.collection(spec.name)
    assert state is not None
    assert compare(spec, state) == []
    assert {vector.name for vector in state.vectors} == {vector.name for vector in vectors}


@pytest.mark.parametrize("quantization", QUANTIZATIONS, ids=lambda spec: spec.kind)
@pytest.mark.parametrize("shape", [dense, multi])
def test_quantized_vectors_take_points(
    place: Place, quantization: QuantizationSpec, shape: Any
) -> None:
    spec = dataclasses.replace(
        shape("v", dimension=8, distance="cosine"), quantization=quantization
    )
    name = place.create(spec)
    numbers_of_it = buffer(*range(8))
    vector: Vector = Multi(8, numbers_of_it) if spec.shape == "multi" else numbers_of_it
    place.target.upsert(name, [Point(1, {"v": vector}, {})])
    assert place.target.count(name) == 1


@pytest.mark.parametrize(
    "hnsw",
    [
        HnswSpec(m=8),
        HnswSpec(ef_construct=64),
        HnswSpec(m=0),
        HnswSpec(m=8, ef_construct=64, full_scan_threshold=100, on_disk=True),
    ],
)
def test_hnsw_parameters_are_taken(place: Place, hnsw: HnswSpec) -> None:
    name = place.create(dense(hnsw=hnsw))
    place.target.upsert(name, [Point(1, {"v": buffer(1, 2, 3)}, {})])
    assert place.target.optimize(name) in (True, False)
    assert place.target.count(name) == 1


@servers_only
def test_parameters_arrive_at_the_server(place: Place) -> None:
    assert isinstance(place.target, ServerTarget)
    name = place.create(
        dense("a", hnsw=HnswSpec(m=24, ef_construct=200, full_scan_threshold=99, on_disk=True)),
        dense("b", on_disk=True, quantization=QUANTIZATIONS[1]),
        dense("c", quantization=QUANTIZATIONS[2]),
        dense("d", quantization=QUANTIZATIONS[3]),
    )
    params = _server_params(place.target, name)
    hnsw = params["a"].hnsw_config
    assert (hnsw.m, hnsw.ef_construct, hnsw.full_scan_threshold) == (24, 200, 99)
    assert hnsw.on_disk is True
    assert params["b"].on_disk is True
    scalar = params["b"].quantization_config.scalar
    assert (scalar.always_ram, scalar.quantile) == (True, pytest.approx(0.99))
    assert params["c"].quantization_config.HasField("binary")
    assert params["d"].quantization_config.product.compression == 3  # x32
    assert not params["d"].HasField("hnsw_config")


def _server_params(target: ServerTarget, name: str) -> Any:
    from qdrant_client import grpc as q

    request = q.GetCollectionInfoRequest(collection_name=name)
    answer = target._call(target._collections.Get, request)
    return answer.result.config.params.vectors_config.params_map.map


WANTED = (
    dense("a", dimension=3, distance="cosine"),
    multi("m", dimension=2),
    sparse("s"),
)
MISMATCHES: list[tuple[str, tuple[VectorSpec, ...]]] = [
    ("dimension", (dataclasses.replace(WANTED[0], dimension=4), *WANTED[1:])),
    ("distance", (dataclasses.replace(WANTED[0], distance="dot"), *WANTED[1:])),
    ("datatype", (dataclasses.replace(WANTED[0], datatype="float16"), *WANTED[1:])),
    ("name", (dataclasses.replace(WANTED[0], name="b"), *WANTED[1:])),
    ("shape", (dataclasses.replace(WANTED[0], shape="multi"), *WANTED[1:])),
    ("multi's dimension", (WANTED[0], dataclasses.replace(WANTED[1], dimension=3), WANTED[2])),
    ("multi's distance", (WANTED[0], dataclasses.replace(WANTED[1], distance="euclid"), WANTED[2])),
    ("one more", (*WANTED, dense("z"))),
    ("one fewer", WANTED[:2]),
    ("no sparse one, a dense one of its name", (*WANTED[:2], dense("s"))),
]


@pytest.mark.parametrize(
    "differing", [case[1] for case in MISMATCHES], ids=[c[0] for c in MISMATCHES]
)
@pytest.mark.parametrize("swapped", [False, True])
def test_a_collection_that_differs_is_told_with_both_sides(
    place: Place, differing: tuple[VectorSpec, ...], swapped: bool
) -> None:
    there, wanted = (differing, WANTED) if swapped else (WANTED, differing)
    name = place.create(*there)
    state = place.target.collection(name)
    assert state is not None
    lines = compare(CollectionSpec(name=name, vectors=wanted), state)
    assert lines
    assert all("wanted" in line and "found" in line for line in lines)
    assert compare(CollectionSpec(name=name, vectors=there), state) == []


def test_the_operators_settings_are_not_compared(place: Place) -> None:
    name = place.create(dense(hnsw=HnswSpec(m=8), on_disk=True))
    state = place.target.collection(name)
    assert state is not None
    other = dense(quantization=QuantizationSpec(kind="scalar"))
    assert compare(CollectionSpec(name=name, vectors=(other,)), state) == []


def test_a_mapping_without_vectors_fits_every_collection(place: Place) -> None:
    state = place.target.collection(place.create(dense(), sparse()))
    assert state is not None
    assert compare(CollectionSpec(name=state.name, vectors=()), state) == []


def test_payload_indexes_are_reported(place: Place) -> None:
    kinds: dict[str, IndexKind] = {
        "word": "keyword",
        "whole": "integer",
        "fraction": "float",
        "flag": "bool",
        "place": "geo",
        "at": "datetime",
        "prose": "text",
        "uid": "uuid",
        "owner": "tenant",
        "nested.field": "keyword",
        '"a name with blanks"': "keyword",
    }
    spec = CollectionSpec(name=place.name(), vectors=(dense(),), payload_indexes=kinds)
    place.target.create_collection(spec)
    state = place.target.collection(spec.name)
    assert state is not None
    assert dict(state.payload_indexes) == kinds


@pytest.mark.parametrize(
    "column",
    ["plain", "with.dots", "two words", "with-hyphen", "2nd", "größe", "漢字", "a[0]", "x·y", "½", "",
     "a'b", "a/b", "$x", "tab\t", "new\nline", "-", "_"],
)  # fmt: skip
def test_a_field_of_any_name_is_indexed_by_the_path_that_the_mapping_gives(
    place: Place, column: str
) -> None:
    path = json_path((column,))
    spec = CollectionSpec(name=place.name(), vectors=(dense(),), payload_indexes={path: "keyword"})
    place.target.create_collection(spec)
    place.target.upsert(spec.name, [Point(1, {}, {column: "x"}), Point(2, {}, {"other": "x"})])
    assert ids(scroll_all(place.target, spec.name, matching={path: "x"})) == [1]


def test_a_payload_index_may_come_later_and_twice(place: Place) -> None:
    name = place.create(dense())
    place.target.upsert(name, [Point(1, {"v": buffer(1, 2, 3)}, {"word": "x"})])
    for _ in range(2):
        place.target.create_payload_index(name, "word", "keyword")
    state = place.target.collection(name)
    assert state is not None
    assert dict(state.payload_indexes) == {"word": "keyword"}


def test_creating_what_is_there_changes_nothing(place: Place) -> None:
    name = place.create(dense())
    place.target.upsert(name, [Point(1, {"v": buffer(1, 2, 3)}, {})])
    place.target.create_collection(
        CollectionSpec(name=name, vectors=(dense(dimension=5),), payload_indexes={"w": "keyword"})
    )
    state = place.target.collection(name)
    assert state is not None
    assert [vector.dimension for vector in state.vectors] == [3]
    assert place.target.count(name) == 1


def test_collections_are_listed_and_deleted(place: Place) -> None:
    first, second = place.create(dense()), place.create(dense())
    listed = place.target.collections()
    assert {first, second} <= set(listed)
    assert listed == sorted(listed)
    for _ in range(2):
        place.target.delete_collection(first)
    assert first not in place.target.collections()
    assert second in place.target.collections()
    assert place.target.collection(first) is None


def test_a_collection_made_again_is_empty(place: Place) -> None:
    name = place.create(dense(), word="keyword")
    place.target.upsert(name, [Point(1, {"v": buffer(1, 2, 3)}, {})])
    place.target.delete_collection(name)
    place.create(dense(dimension=2), name=name)
    assert place.target.count(name) == 0
    state = place.target.collection(name)
    assert state is not None
    assert [vector.dimension for vector in state.vectors] == [2]
    assert dict(state.payload_indexes) == {}


@pytest.mark.parametrize(
    "base",
    ["with.dots", "with blanks", "Übersicht☕", "percent%41", "a'b;c--", "UPPER", "製" * 62],
    ids=["dots", "blanks", "accents", "percent", "signs", "capitals", "186 bytes"],
)
def test_names_of_collections(place: Place, base: str) -> None:
    name, other = place.create(dense(), name=place.name(base)), place.create(dense())
    place.target.upsert(name, [Point(1, {"v": buffer(1, 2, 3)}, {})])
    assert name in place.target.collections()
    assert (place.target.count(name), place.target.count(other)) == (1, 0)
    place.target.delete_collection(name)
    assert name not in place.target.collections()
    assert place.target.count(other) == 0


def test_names_that_differ_behind_a_dot_are_two_collections(place: Place) -> None:
    base = place.name()
    names = [base, f"{base}.v1", f"{base}.v2", f"{base}.json"]
    place.names += names
    for size, name in enumerate(names, start=1):
        place.create(dense(dimension=size), name=name)
        place.target.upsert(name, [Point(i, {"v": buffer(*[1] * size)}, {}) for i in range(size)])
    assert [place.target.count(name) for name in names] == [1, 2, 3, 4]
    place.target.delete_collection(names[0])
    assert [place.target.count(name) for name in names[1:]] == [2, 3, 4]


@pytest.mark.parametrize("name", ["vector with blanks", "Größe☕", "a.b", "x" * 200])
def test_names_of_vectors(place: Place, name: str) -> None:
    collection = place.create(dense(name), sparse("s." + name[:190]))
    place.target.upsert(collection, [Point(1, {name: buffer(1, 2, 3)}, {})])
    assert numbers(fetch(place.target, collection, 1).vectors[name]) == [1, 2, 3]


# --- a collection that is not there ---------------------------------------------------------------

ON_A_MISSING_COLLECTION: dict[str, Callable[[Target, str], object]] = {
    "upsert": lambda target, name: target.upsert(name, [Point(1, {}, {})]),
    "insert_only": lambda target, name: target.upsert(name, [Point(1, {}, {})], mode="insert_only"),
    "send": lambda target, name: target.send(encode_upsert(name, [Point(1, {}, {})])).result(),
    "delete": lambda target, name: target.delete(name, [1]),
    "retrieve": lambda target, name: target.retrieve(name, [1]),
    "scroll": lambda target, name: target.scroll(name),
    "count": lambda target, name: target.count(name),
    "index": lambda target, name: target.create_payload_index(name, "word", "keyword"),
    "search": lambda target, name: target.search(name, "v", buffer(1, 2, 3)),
}


@pytest.mark.parametrize("method", ON_A_MISSING_COLLECTION)
@pytest.mark.parametrize("deleted", [False, True])
def test_a_collection_that_is_gone_stops(place: Place, method: str, deleted: bool) -> None:
    name = place.create(dense()) if deleted else place.name()
    if deleted:
        place.target.delete_collection(name)
    with pytest.raises(StopError) as caught:
        ON_A_MISSING_COLLECTION[method](place.target, name)
    assert caught.value.code == "TARGET_CHANGED"
    assert caught.value.hint
    assert place.target.collection(name) is None
