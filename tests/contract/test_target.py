"""The suite that every target must pass: edge, the test server, and a real server at `QDRANT_URL`.

Collections have names of their own and are deleted afterwards, so a real server may be one that is
in use. A new target needs an entry in `place` and nothing else.
"""

from __future__ import annotations

import dataclasses
import math
import os
import random
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
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
from bridge.errors import Rejected, StopError
from bridge.map_table import json_path
from bridge.plan import Multi, Point, Sparse, Vector
from bridge.point_ids import PointId
from bridge.qdrant import state as state_module
from bridge.qdrant.channel import endpoint
from bridge.qdrant.collections import compare
from bridge.qdrant.edge import EdgeTarget
from bridge.qdrant.server import ServerTarget
from bridge.qdrant.state import QdrantState
from bridge.qdrant.target import Target
from bridge.qdrant.wire import encode_upsert
from tests.support.qdrant_server import QdrantServer

# --- the targets ----------------------------------------------------------------------------------


@dataclass(slots=True)
class Place:
    """A target under test. `reopen` ends it and opens it again, as another process would."""

    target: Target
    open: Callable[[], Target]
    restart: Callable[[], None] = lambda: None
    names: list[str] = field(default_factory=list)

    def name(self, text: str = "docs") -> str:
        """A collection name that nobody else has; deleted at the end."""
        self.names.append(f"{text}_{uuid.uuid4().hex[:12]}")
        return self.names[-1]

    def create(self, *vectors: VectorSpec, name: str | None = None, **indexes: IndexKind) -> str:
        """A new collection of these vectors and payload indexes; its name."""
        spec = CollectionSpec(
            name=name or self.name(), vectors=vectors, payload_indexes=dict(indexes)
        )
        self.target.create_collection(spec)
        return spec.name

    def reopen(self) -> Target:
        self.target.close()
        self.restart()
        self.target = self.open()
        return self.target


def _server(url: str) -> Target:
    return ServerTarget(endpoint(url, api_key=os.environ.get("QDRANT_API_KEY")))


@contextmanager
def edge_place(directory: Path) -> Iterator[Place]:
    def opened() -> Target:
        return EdgeTarget(directory / "edge")

    yield Place(opened(), opened)


@contextmanager
def fake_server_place(server: QdrantServer) -> Iterator[Place]:
    def restart() -> None:
        server.stop()
        server.start()

    yield Place(_server(server.url), lambda: _server(server.url), restart)


@contextmanager
def real_server_place(url: str) -> Iterator[Place]:
    yield Place(_server(url), lambda: _server(url))


QDRANT_URL = os.environ.get("QDRANT_URL", "")
SERVERS = ["test-server", "qdrant"] if QDRANT_URL else ["test-server"]
PLACES = ["edge", *SERVERS]

servers_only = pytest.mark.parametrize("place", SERVERS, indirect=True)


@pytest.fixture(scope="module")
def fake_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[QdrantServer]:
    """One test server for all: the tests' collections keep them apart, as on a real one."""
    with QdrantServer(tmp_path_factory.mktemp("server")) as server:
        yield server


@pytest.fixture(params=PLACES)
def place(
    request: pytest.FixtureRequest, tmp_path: Path, fake_server: QdrantServer
) -> Iterator[Place]:
    with ExitStack() as stack:
        places = {
            "edge": lambda: edge_place(tmp_path),
            "test-server": lambda: fake_server_place(fake_server),
            "qdrant": lambda: real_server_place(QDRANT_URL),
        }
        opened: Place = stack.enter_context(places[request.param]())
        try:
            yield opened
        finally:
            for name in opened.names:
                opened.target.delete_collection(name)
            opened.target.close()


@pytest.fixture
def target(place: Place) -> Target:
    return place.target


# --- values ---------------------------------------------------------------------------------------


def buffer(*numbers: float) -> bytes:
    return np.array(numbers, dtype="<f4").tobytes()


def numbers(vector: Vector) -> list[float]:
    assert isinstance(vector, bytes | memoryview)
    found: list[float] = np.frombuffer(vector, dtype="<f4").tolist()
    return found


def dense(
    name: str = "v",
    *,
    dimension: int = 3,
    distance: Distance = "dot",
    datatype: Datatype = "float32",
    **more: Any,
) -> VectorSpec:
    return VectorSpec(
        name=name,
        shape="dense",
        distance=distance,
        dimension=dimension,
        datatype=datatype,
        **more,
    )


def sparse(name: str = "s") -> VectorSpec:
    return VectorSpec(name=name, shape="sparse", distance="dot")


def multi(name: str = "m", *, dimension: int = 2, distance: Distance = "dot") -> VectorSpec:
    return VectorSpec(name=name, shape="multi", distance=distance, dimension=dimension)


def fetch(target: Target, collection: str, identity: PointId) -> Point:
    """The point with its vectors; fails if it is not there."""
    (point,) = target.retrieve(collection, [identity], with_vectors=True)
    return point


def ids(points: list[Point]) -> list[PointId]:
    return [point.id for point in points]


def scroll_all(target: Target, collection: str, **options: Any) -> list[Point]:
    points: list[Point] = []
    following: PointId | None = None
    while True:
        page, following = target.scroll(collection, after=following, **options)
        points += page
        if following is None:
            return points


# --- collections ----------------------------------------------------------------------------------

DISTANCES: list[Distance] = ["cosine", "dot", "euclid", "manhattan"]
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


# --- writing --------------------------------------------------------------------------------------


def test_upsert_replaces_the_whole_point(place: Place) -> None:
    name = place.create(dense("a"), dense("b"), sparse("s"))
    entries = Sparse(np.array([1], "<u4").tobytes(), buffer(1))
    place.target.upsert(
        name,
        [Point(1, {"a": buffer(1, 2, 3), "b": buffer(4, 5, 6), "s": entries}, {"x": 1, "y": 2})],
    )
    place.target.upsert(name, [Point(1, {"a": buffer(7, 8, 9)}, {"y": 3})])
    point = fetch(place.target, name, 1)
    assert list(point.vectors) == ["a"]
    assert numbers(point.vectors["a"]) == [7, 8, 9]
    assert point.payload == {"y": 3}
    assert place.target.count(name) == 1


def test_upsert_of_a_point_without_vectors_and_payload_empties_it(place: Place) -> None:
    name = place.create(dense("a"))
    place.target.upsert(name, [Point(1, {"a": buffer(1, 2, 3)}, {"x": 1})])
    place.target.upsert(name, [Point(1, {}, {})])
    assert fetch(place.target, name, 1) == Point(1, {}, {})


def test_insert_only_leaves_points_that_exist_as_they_are(place: Place) -> None:
    name = place.create(dense("a"))
    place.target.upsert(name, [Point(1, {"a": buffer(1, 2, 3)}, {"x": 1})])
    place.target.upsert(
        name,
        [Point(1, {"a": buffer(9, 9, 9)}, {"x": 9}), Point(2, {"a": buffer(2, 2, 2)}, {"x": 2})],
        mode="insert_only",
    )
    first, second = fetch(place.target, name, 1), fetch(place.target, name, 2)
    assert (numbers(first.vectors["a"]), first.payload) == ([1, 2, 3], {"x": 1})
    assert (numbers(second.vectors["a"]), second.payload) == ([2, 2, 2], {"x": 2})


def test_the_same_request_twice_changes_nothing(place: Place) -> None:
    name = place.create(dense("a"))
    points = [Point(number, {"a": buffer(number, 0, 0)}, {"n": number}) for number in range(5)]
    for _ in range(2):
        place.target.upsert(name, points)
    assert place.target.count(name) == 5
    assert [point.payload["n"] for point in scroll_all(place.target, name)] == [0, 1, 2, 3, 4]


def test_more_points_than_one_operation_takes(place: Place) -> None:
    name = place.create(dense("a"))
    points = [Point(number, {"a": buffer(number, 0, 0)}, {}) for number in range(2345)]
    place.target.upsert(name, points)
    assert place.target.count(name) == 2345
    assert numbers(fetch(place.target, name, 2344).vectors["a"]) == [2344, 0, 0]


def test_nothing_to_write_is_no_error(place: Place) -> None:
    name = place.create(dense("a"))
    place.target.upsert(name, [Point(1, {}, {})])
    place.target.upsert(name, [])
    place.target.delete(name, [])
    assert place.target.count(name) == 1


def test_several_requests_in_flight(place: Place) -> None:
    name = place.create(dense("a"))
    pending = [
        place.target.send(
            encode_upsert(
                name,
                [
                    Point(number, {"a": buffer(number, 1, 2)}, {"n": number})
                    for number in range(start, start + 50)
                ],
            )
        )
        for start in range(0, 400, 50)
    ]
    for request in pending:
        request.result()
    assert place.target.count(name) == 400
    assert [point.payload["n"] for point in scroll_all(place.target, name)] == list(range(400))


def test_a_request_of_bytes_may_be_insert_only(place: Place) -> None:
    name = place.create(dense("a"))
    for number in (1, 2):
        point = Point(1, {"a": buffer(number, 0, 0)}, {"n": number})
        place.target.send(encode_upsert(name, [point], mode="insert_only")).result()
    assert fetch(place.target, name, 1).payload == {"n": 1}


@pytest.mark.parametrize(
    "vectors",
    [
        {"a": buffer(1, 2)},
        {"a": buffer(1, 2, 3, 4)},
        {"unknown": buffer(1, 2, 3)},
        {"m": Multi(3, buffer(1, 2, 3))},
    ],
)
def test_a_vector_that_does_not_fit_is_rejected_and_the_others_can_go(
    place: Place, vectors: dict[str, Vector]
) -> None:
    name = place.create(dense("a"), multi("m", dimension=2))
    good = Point(1, {"a": buffer(1, 2, 3)}, {})
    with pytest.raises(Rejected) as caught:
        place.target.upsert(name, [good, Point(2, vectors, {})])
    assert caught.value.message
    pending = place.target.send(encode_upsert(name, [Point(2, vectors, {})]))
    with pytest.raises(Rejected):
        pending.result()
    place.target.upsert(name, [good])
    assert numbers(fetch(place.target, name, 1).vectors["a"]) == [1, 2, 3]
    assert place.target.retrieve(name, [2]) == []


def test_deleting_points_that_are_not_there_is_no_error(place: Place) -> None:
    name = place.create(dense("a"))
    uid = str(uuid.uuid4())
    place.target.upsert(name, [Point(1, {}, {}), Point(uid, {}, {}), Point(2, {}, {})])
    place.target.delete(name, [1, 99, uid, str(uuid.uuid4())])
    assert ids(scroll_all(place.target, name)) == [2]
    assert place.target.count(name) == 1


# --- payload --------------------------------------------------------------------------------------

PAYLOADS: dict[str, Any] = {
    "null": None,
    "booleans": [True, False],
    "integers": [0, 1, -1, 127, 128, 2**31, 2**53 + 1, 2**63 - 1, -(2**63)],
    "whole floats": [0.0, 1.0, -1.0, 42.0, 1e6, 2.0**53],
    "exact floats": [0.5, -0.25, 1.5, 1e-5, 1e20, 0.1],
    "texts": [
        "",
        "plain",
        "Grüße ☕ 漢字 😀",
        "tab\tnewline\nquote\"'\\",
        "\u0001\u007f\u2028\ufeff",
    ],
    "long text": "x" * 100_000,
    "empty object": {},
    "empty list": [],
    "empty key": {"": 1},
    "nested": {"a": [{"b": [1, 2.5, None, "x", [True, {}]]}], "c": {"d": {"e": None}}},
    "mixed": [None, True, 1, 1.0, "1", [], {}],
    "dots.in.names": {"a.b": 1},
    'a "quoted" name': 1,
}


@pytest.mark.parametrize("key", PAYLOADS)
def test_payload_comes_back_as_it_went(place: Place, key: str) -> None:
    name = place.create(dense("a"))
    sent = {key: PAYLOADS[key]}
    place.target.upsert(name, [Point(1, {}, sent)])
    place.target.send(encode_upsert(name, [Point(2, {}, sent)])).result()
    for identity in (1, 2):
        stored = fetch(place.target, name, identity).payload
        assert stored == sent
        # 1 == 1.0 == True in Python, not in JSON.
        assert repr(_in_order(stored)) == repr(_in_order(sent))


def _in_order(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _in_order(value[key]) for key in sorted(value)}
    if isinstance(value, list):
        return [_in_order(item) for item in value]
    return value


@pytest.mark.parametrize("levels", [1, 16, 32])
def test_nested_objects_as_deep_as_they_can_be_sent_come_back(place: Place, levels: int) -> None:
    name = place.create(dense("a"))
    value: Any = "deep"
    for _ in range(levels):
        value = {"x": value}
    place.target.send(encode_upsert(name, [Point(1, {}, {"top": value})])).result()
    assert fetch(place.target, name, 1).payload == {"top": value}
    assert scroll_all(place.target, name)[0].payload == {"top": value}


def test_doubles_come_back_within_four_units_in_the_last_place(place: Place) -> None:
    name = place.create(dense("a"))
    randomness = random.Random(20260102)
    doubles: list[Any] = [
        randomness.uniform(-1, 1) * 10.0 ** randomness.randint(-300, 300) for _ in range(500)
    ]
    doubles += [5e-324, 2.2250738585072014e-308, 1.7976931348623157e308, -1.7976931348623157e308]
    place.target.upsert(name, [Point(1, {}, {"x": doubles})])
    stored = fetch(place.target, name, 1).payload["x"]
    assert isinstance(stored, list)
    for sent, found in zip(doubles, stored, strict=True):
        assert isinstance(found, float)
        assert abs(found - sent) <= 4 * math.ulp(sent)


def test_explicit_nulls_are_kept_apart_from_absent_fields(place: Place) -> None:
    name = place.create(dense("a"))
    place.target.upsert(name, [Point(1, {}, {"null": None}), Point(2, {}, {})])
    assert fetch(place.target, name, 1).payload == {"null": None}
    assert fetch(place.target, name, 2).payload == {}


# --- vectors --------------------------------------------------------------------------------------


@pytest.mark.parametrize("distance", ["dot", "euclid", "manhattan"])
def test_vectors_are_kept_bit_for_bit_unless_cosine(place: Place, distance: Distance) -> None:
    name = place.create(dense("a", dimension=6, distance=distance))
    vector = buffer(0.1, -3.4e38, 1e-38, 0.0, 1 / 3, 7)
    place.target.upsert(name, [Point(1, {"a": vector}, {})])
    assert fetch(place.target, name, 1).vectors["a"] == vector


def test_cosine_stores_unit_vectors(place: Place) -> None:
    name = place.create(dense("a", dimension=2, distance="cosine"))
    place.target.upsert(name, [Point(1, {"a": buffer(3, 4)}, {})])
    stored = numbers(fetch(place.target, name, 1).vectors["a"])
    assert stored == pytest.approx([0.6, 0.8], abs=1e-6)


@pytest.mark.parametrize("distance", DISTANCES)
def test_a_zero_vector_is_kept_under_every_distance(place: Place, distance: Distance) -> None:
    name = place.create(dense("a", distance=distance))
    place.target.upsert(name, [Point(1, {"a": buffer(0, 0, 0)}, {})])
    assert numbers(fetch(place.target, name, 1).vectors["a"]) == [0, 0, 0]


def test_float16_keeps_what_a_halfvec_can_hold(place: Place) -> None:
    name = place.create(dense("a", dimension=5, datatype="float16", distance="euclid"))
    halves = [0.5, -1.25, 65504.0, 6e-8, float(np.float16(0.1))]
    exact = np.array(halves, dtype="<f2").astype("<f4").tolist()
    place.target.upsert(name, [Point(1, {"a": buffer(*exact)}, {})])
    assert numbers(fetch(place.target, name, 1).vectors["a"]) == exact


def test_uint8_keeps_bits(place: Place) -> None:
    name = place.create(dense("a", dimension=9, datatype="uint8", distance="manhattan"))
    bits = [1, 0, 1, 1, 0, 0, 0, 1, 1]
    place.target.upsert(name, [Point(1, {"a": buffer(*bits)}, {})])
    assert numbers(fetch(place.target, name, 1).vectors["a"]) == bits


def test_sparse_vectors_are_kept(place: Place) -> None:
    name = place.create(sparse("s"))
    entries = Sparse(
        np.array([0, 7, 999_999_999, 2**32 - 1], "<u4").tobytes(), buffer(1, -2, 0.1, 4)
    )
    place.target.upsert(name, [Point(1, {"s": entries}, {})])
    place.target.send(encode_upsert(name, [Point(2, {"s": entries}, {})])).result()
    assert fetch(place.target, name, 1).vectors == {"s": entries}
    assert fetch(place.target, name, 2).vectors == {"s": entries}


def test_multivectors_are_kept(place: Place) -> None:
    name = place.create(multi("m", dimension=2))
    one, many = Multi(2, buffer(1, 2)), Multi(2, buffer(1, 2, 3, 4, 5, 6))
    place.target.upsert(name, [Point(1, {"m": one}, {}), Point(2, {"m": many}, {})])
    place.target.send(encode_upsert(name, [Point(3, {"m": many}, {})])).result()
    assert fetch(place.target, name, 1).vectors == {"m": one}
    assert fetch(place.target, name, 2).vectors == {"m": many}
    assert fetch(place.target, name, 3).vectors == {"m": many}


@pytest.mark.parametrize("others", [(), (sparse(),), (dense("other"),)])
def test_the_unnamed_vector_beside_others(place: Place, others: tuple[VectorSpec, ...]) -> None:
    name = place.create(dense(""), *others)
    vectors: dict[str, Vector] = {"": buffer(1, 2, 3)}
    if others:
        entries = Sparse(np.array([5], "<u4").tobytes(), buffer(1))
        vectors[others[0].name] = entries if others[0].shape == "sparse" else buffer(4, 5, 6)
    place.target.upsert(name, [Point(1, vectors, {})])
    place.target.send(encode_upsert(name, [Point(2, vectors, {})])).result()
    for identity in (1, 2):
        assert fetch(place.target, name, identity).vectors == vectors
    assert place.target.search(name, "", buffer(1, 2, 3))[0].score == pytest.approx(14.0)


def test_a_point_may_lack_any_of_the_vectors(place: Place) -> None:
    name = place.create(dense("a"), dense("b"), multi("m"), sparse("s"))
    place.target.upsert(name, [Point(1, {}, {}), Point(2, {"b": buffer(1, 2, 3)}, {})])
    assert fetch(place.target, name, 1).vectors == {}
    assert fetch(place.target, name, 2).vectors == {"b": buffer(1, 2, 3)}


def test_a_point_may_lack_the_unnamed_vector(place: Place) -> None:
    name = place.create(dense(""))
    place.target.upsert(name, [Point(1, {}, {"x": 1}), Point(2, {"": buffer(1, 2, 3)}, {})])
    assert fetch(place.target, name, 1) == Point(1, {}, {"x": 1})
    assert [hit.id for hit in place.target.search(name, "", buffer(1, 1, 1))] == [2]


# --- reading --------------------------------------------------------------------------------------

UUIDS = [str(uuid.UUID(int=number)) for number in (1, 2**64, 2**100, 2**127, 2**128 - 1)]
ORDERED: list[PointId] = [0, 1, 2, 41, 2**32, 2**63, 2**64 - 1, *UUIDS]


def test_ids_of_every_size_are_kept_and_scrolled_in_order(place: Place) -> None:
    name = place.create(dense("a"))
    shuffled = list(ORDERED)
    random.Random(7).shuffle(shuffled)
    place.target.upsert(name, [Point(identity, {}, {}) for identity in shuffled])
    assert ids(scroll_all(place.target, name)) == ORDERED
    assert place.target.count(name) == len(ORDERED)


@pytest.mark.parametrize("limit", [1, 3, 11, 12, 13])
def test_pages_follow_each_other_without_gap_or_overlap(place: Place, limit: int) -> None:
    name = place.create(dense("a"))
    place.target.upsert(name, [Point(identity, {}, {}) for identity in ORDERED])
    page, following = place.target.scroll(name, limit=limit)
    assert ids(page) == ORDERED[:limit]
    assert following == (ORDERED[limit] if limit < len(ORDERED) else None)
    assert ids(scroll_all(place.target, name, limit=limit)) == ORDERED


def test_an_empty_collection_has_one_empty_page(place: Place) -> None:
    assert place.target.scroll(place.create(dense("a"))) == ([], None)


def test_scroll_gives_what_is_asked_for(place: Place) -> None:
    name = place.create(dense("a"))
    place.target.upsert(name, [Point(1, {"a": buffer(1, 2, 3)}, {"x": 1})])

    def only(**options: Any) -> Point:
        (point,), _ = place.target.scroll(name, **options)
        return point

    assert only() == Point(1, {}, {"x": 1})
    assert only(with_payload=False) == Point(1, {}, {})
    assert only(with_vectors=True) == Point(1, {"a": buffer(1, 2, 3)}, {"x": 1})


def test_scroll_of_matching_points(place: Place) -> None:
    name = place.create(dense("a"), lang="keyword")
    points = [
        Point(number, {}, {"lang": ("en", "de", "")[number % 3], "kind": "ab"[number % 2]})
        for number in range(30)
    ]
    place.target.upsert(name, points)
    german = scroll_all(place.target, name, matching={"lang": "de"}, limit=4)
    assert ids(german) == list(range(1, 30, 3))
    both = scroll_all(place.target, name, matching={"lang": "en", "kind": "b"})
    assert ids(both) == [number for number in range(30) if number % 3 == 0 and number % 2]
    assert ids(scroll_all(place.target, name, matching={"lang": ""})) == list(range(2, 30, 3))
    assert scroll_all(place.target, name, matching={"lang": "fr"}) == []


def test_retrieve_gives_those_that_exist(place: Place) -> None:
    name = place.create(dense("a"))
    place.target.upsert(
        name, [Point(1, {"a": buffer(1, 2, 3)}, {"x": 1}), Point(UUIDS[2], {}, {"x": 2})]
    )
    found = place.target.retrieve(name, [1, 2, UUIDS[2], UUIDS[3]])
    assert {point.id: dict(point.payload) for point in found} == {1: {"x": 1}, UUIDS[2]: {"x": 2}}
    assert all(point.vectors == {} for point in found)
    assert place.target.retrieve(name, []) == []


NEAREST: dict[Distance, tuple[bytes, list[int]]] = {
    "cosine": (buffer(1, 0), [3, 2, 1]),
    "dot": (buffer(1, 0), [2, 3, 1]),
    "euclid": (buffer(2, 0), [3, 1, 2]),
    "manhattan": (buffer(2, 0), [3, 1, 2]),
}


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("optimized", [False, True])
def test_search_gives_the_nearest_first(place: Place, distance: Distance, optimized: bool) -> None:
    name = place.create(dense("a", dimension=2, distance=distance))
    vectors = {1: buffer(0, 1), 2: buffer(9, 9), 3: buffer(2, 0)}
    place.target.upsert(
        name, [Point(number, {"a": vector}, {"n": number}) for number, vector in vectors.items()]
    )
    if optimized:
        place.target.optimize(name)
    query, expected = NEAREST[distance]
    hits = place.target.search(name, "a", query, limit=3)
    assert [hit.id for hit in hits] == expected
    assert [hit.payload["n"] for hit in hits] == expected
    assert [hit.id for hit in place.target.search(name, "a", query, limit=1)] == expected[:1]


def test_a_search_takes_a_dense_vector_only(place: Place) -> None:
    name = place.create(sparse("s"))
    with pytest.raises(TypeError):
        place.target.search(name, "s", Sparse(b"", b""))


# --- indexing, durability -------------------------------------------------------------------------


@servers_only
def test_the_indexing_threshold_is_set_and_read_back(place: Place) -> None:
    name = place.create(dense("a"))
    for kilobytes in (0, 20_000, 0, 7):
        place.target.set_indexing_threshold(name, kilobytes)
        state = place.target.collection(name)
        assert state is not None
        assert state.indexing_threshold == kilobytes


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


def test_optimize_keeps_every_point(place: Place) -> None:
    name = place.create(dense("a", dimension=16))
    randomness = np.random.default_rng(3)
    matrix = randomness.standard_normal((1500, 16)).astype("<f4")
    place.target.upsert(
        name, [Point(number, {"a": row.tobytes()}, {}) for number, row in enumerate(matrix)]
    )
    place.target.optimize(name)
    assert place.target.count(name) == 1500
    assert fetch(place.target, name, 1499).vectors["a"] == matrix[1499].tobytes()


def test_what_was_flushed_is_there_after_a_restart(place: Place) -> None:
    name = place.create(dense("a"), sparse("s"), word="keyword")
    entries = Sparse(np.array([3], "<u4").tobytes(), buffer(1))
    points = [
        Point(number, {"a": buffer(number, 1, 2), "s": entries}, {"word": "x", "n": number})
        for number in range(200)
    ]
    place.target.upsert(name, points)
    place.target.delete(name, [7])
    place.target.flush()
    before = place.target.collection(name)
    target = place.reopen()
    assert target.count(name) == 199
    assert scroll_all(target, name, with_vectors=True) == [p for p in points if p.id != 7]
    after = target.collection(name)
    assert before is not None
    assert after is not None
    assert (after.vectors, dict(after.payload_indexes)) == (
        before.vectors,
        dict(before.payload_indexes),
    )


# --- the state's records --------------------------------------------------------------------------


@pytest.fixture
def records_name(place: Place, monkeypatch: pytest.MonkeyPatch) -> str:
    """A reserved collection of our own: the real one may be in use."""
    name = place.name("_qdrant_bridge")
    monkeypatch.setattr(state_module, "STATE_COLLECTION", name)
    monkeypatch.setattr(state_module, "_SPEC", dataclasses.replace(state_module._SPEC, name=name))
    return name


@pytest.fixture
def store(place: Place, records_name: str) -> QdrantState:
    state = QdrantState(place.target, "shop")
    state.prepare()
    return state


def test_the_reserved_collection_is_made_once(place: Place, records_name: str) -> None:
    state = QdrantState(place.target, "shop")
    assert not state.exists()
    state.prepare()
    state.put("chunk", "a", {"n": 1})
    state.prepare()
    assert state.exists()
    assert state.get("chunk", "a") == {"n": 1}


def test_a_record_comes_back_whole(store: QdrantState) -> None:
    record = {
        "text": "Grüße",
        "numbers": (1, 2.5, -(2**63)),
        "null": None,
        "nested": {"bounds": [("a", "1"), ("b", "2")], "empty": {}, "list": []},
    }
    store.put("plan", "public.docs", record)
    assert store.get("plan", "public.docs") == {
        "text": "Grüße",
        "numbers": [1, 2.5, -(2**63)],
        "null": None,
        "nested": {"bounds": [["a", "1"], ["b", "2"]], "empty": {}, "list": []},
    }


def test_put_replaces_the_whole_record(store: QdrantState) -> None:
    store.put("chunk", "a", {"x": 1, "y": 2})
    store.put("chunk", "a", {"y": 3})
    assert store.get("chunk", "a") == {"y": 3}


def test_a_record_that_is_not_there_is_none(store: QdrantState) -> None:
    store.put("chunk", "a", {"n": 1})
    assert store.get("chunk", "b") is None
    assert store.get("plan", "a") is None


def test_of_new_records_the_first_wins(place: Place, store: QdrantState) -> None:
    assert store.put_new("plan", "a", {"by": "first"}) == {"by": "first"}
    other = QdrantState(place.target, "shop")
    assert other.put_new("plan", "a", {"by": "second"}) == {"by": "first"}
    assert store.get("plan", "a") == {"by": "first"}


def test_records_of_one_kind_over_several_pages(store: QdrantState) -> None:
    for number in range(7):
        store.put("plan", f"p{number}", {"n": number})
    many = {f"public.docs/{number}": {"n": number} for number in range(520)}
    for name, record in many.items():
        store.put("chunk", name, record)
    assert dict(store.records("chunk")) == many
    assert len(list(store.records("plan"))) == 7
    assert list(store.records("dead_letter")) == []


def test_records_are_removed_and_missing_ones_are_no_error(store: QdrantState) -> None:
    for name in "abc":
        store.put("chunk", name, {})
    store.put("plan", "a", {})
    store.remove("chunk", ["a", "c", "never there"])
    store.remove("chunk", [])
    assert [name for name, _ in store.records("chunk")] == ["b"]
    assert store.get("plan", "a") == {}


def test_two_pipelines_do_not_see_each_other(place: Place, store: QdrantState) -> None:
    other = QdrantState(place.target, "library")
    store.put("chunk", "a", {"of": "shop"})
    other.put("chunk", "a", {"of": "library"})
    assert store.get("chunk", "a") == {"of": "shop"}
    assert dict(other.records("chunk")) == {"a": {"of": "library"}}
    store.remove("chunk", ["a"])
    assert other.get("chunk", "a") == {"of": "library"}


@pytest.mark.parametrize("kind", ["owner", "indexing"])
def test_what_concerns_a_collection_is_seen_by_every_pipeline(
    place: Place, store: QdrantState, kind: Any
) -> None:
    other = QdrantState(place.target, "library")
    assert store.put_new(kind, "docs", {"pipeline": "shop"}) == {"pipeline": "shop"}
    assert other.put_new(kind, "docs", {"pipeline": "library"}) == {"pipeline": "shop"}
    assert dict(other.records(kind)) == {"docs": {"pipeline": "shop"}}
    assert list(other.records("chunk")) == []


def test_records_outlive_the_process(place: Place, store: QdrantState) -> None:
    store.put("plan", "a", {"n": 1})
    again = QdrantState(place.reopen(), "shop")
    assert again.get("plan", "a") == {"n": 1}
    assert dict(again.records("plan")) == {"a": {"n": 1}}


def test_a_reserved_collection_that_was_deleted_stops(
    place: Place, store: QdrantState, records_name: str
) -> None:
    place.target.delete_collection(records_name)
    with pytest.raises(StopError) as caught:
        store.put("chunk", "a", {})
    assert caught.value.code == "TARGET_CHANGED"
