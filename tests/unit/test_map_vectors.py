"""Vector columns become vector specs: distance, dimension, parameters, or a refusal with a remedy."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from bridge.collection_spec import HnswSpec, QuantizationSpec
from bridge.map_vectors import undimensioned_columns, vector_kind
from bridge.schema import Index
from tests.support.source_tables import columns, index, pg_type
from tests.support.table_mappings import docs, mapped, refusal, settings, vector

# --- distances ------------------------------------------------------------------------------------

OPCLASSES = [
    ("vector", "vector_l2_ops", "euclid"),
    ("vector", "vector_ip_ops", "dot"),
    ("vector", "vector_cosine_ops", "cosine"),
    ("vector", "vector_l1_ops", "manhattan"),
    ("halfvec", "halfvec_l2_ops", "euclid"),
    ("halfvec", "halfvec_ip_ops", "dot"),
    ("halfvec", "halfvec_cosine_ops", "cosine"),
    ("halfvec", "halfvec_l1_ops", "manhattan"),
    ("sparsevec", "sparsevec_ip_ops", "dot"),
    ("sparsevec", "sparsevec_cosine_ops", "cosine"),
    ("bit", "bit_hamming_ops", "manhattan"),
]


@pytest.mark.parametrize(("kind", "opclass", "distance"), OPCLASSES)
@pytest.mark.parametrize("method", ["hnsw", "ivfflat"])
def test_the_distance_comes_from_the_operator_class(
    kind: str, opclass: str, distance: str, method: str
) -> None:
    mapping = mapped(docs(index("v", opclass, method), v=(kind, 3)))
    assert vector(mapping).distance == distance
    assert not any("assumed" in warning for warning in mapping.warnings)


def test_without_an_index_cosine_is_assumed_and_said() -> None:
    mapping = mapped(docs())
    assert vector(mapping).distance == "cosine"
    assert any("v: no index" in w and "cosine is assumed" in w for w in mapping.warnings)


@pytest.mark.parametrize(
    "odd",
    [
        index("v", "vector_l2_ops", partial=True),
        index("v", "vector_l2_ops", valid=False),
        index("", "vector_l2_ops"),
        index("other", "vector_l2_ops"),
        index(("v", "id"), ("vector_l2_ops", "int8_ops")),
        index("v", "vector_ops", "btree"),
    ],
)
def test_other_indexes_do_not_count(odd: Index) -> None:
    mapping = mapped(docs(odd, other=("vector", 3)))
    assert vector(mapping).distance == "cosine"


def test_a_plain_index_counts_beside_others() -> None:
    mapping = mapped(docs(index("v", "vector_ip_ops", partial=True), index("v", "vector_l2_ops")))
    assert vector(mapping).distance == "euclid"


def test_indexes_that_disagree_stop_and_name_the_flag() -> None:
    error = refusal(docs(index("v", "vector_l2_ops"), index("v", "vector_cosine_ops", "ivfflat")))
    assert "cosine and euclid" in error.message
    assert "--qdrant.distance-metric" in error.hint
    assert error.table == "public.docs"


def test_indexes_that_agree_do_not_stop() -> None:
    mapping = mapped(docs(index("v", "vector_l2_ops"), index("v", "vector_l2_ops", "ivfflat")))
    assert vector(mapping).distance == "euclid"


def test_a_configured_distance_decides_between_indexes_and_is_told() -> None:
    source = docs(index("v", "vector_l2_ops"), index("v", "vector_cosine_ops", "ivfflat"))
    mapping = mapped(source, vectors={"v": {"distance": "dot"}})
    assert vector(mapping).distance == "dot"
    assert any("as configured" in warning for warning in mapping.warnings)


def test_a_configured_distance_that_the_index_has_too_warns_of_nothing() -> None:
    mapping = mapped(docs(index("v", "vector_l2_ops")), vectors={"v": {"distance": "euclid"}})
    assert mapping.warnings == ()


@pytest.mark.parametrize("opclass", ["sparsevec_l2_ops", "sparsevec_l1_ops"])
def test_a_sparse_vector_has_no_other_distance_than_dot(opclass: str) -> None:
    error = refusal(docs(index("v", opclass), v=("sparsevec", 3)))
    assert "dot product only" in error.message
    assert "v=cosine" in error.hint
    assert "v=dot" in error.hint


def test_a_sparse_distance_may_be_configured_away() -> None:
    source = docs(index("v", "sparsevec_l2_ops"), v=("sparsevec", 3))
    assert vector(mapped(source, vectors={"v": {"distance": "dot"}})).distance == "dot"
    assert refusal(source, vectors={"v": {"distance": "euclid"}})


def test_sparse_cosine_is_told_to_be_stored_as_unit_vectors() -> None:
    mapping = mapped(docs(index("v", "sparsevec_cosine_ops"), v=("sparsevec", 3)))
    assert any("unit vectors" in warning for warning in mapping.warnings)


def test_jaccard_stops_and_names_the_way_out() -> None:
    error = refusal(docs(index("v", "bit_jaccard_ops"), v=("bit", 8)))
    assert "Jaccard" in error.message
    assert "v=manhattan" in error.hint


def test_jaccard_may_be_replaced_by_hamming() -> None:
    source = docs(index("v", "bit_jaccard_ops"), v=("bit", 8))
    assert vector(mapped(source, vectors={"v": {"distance": "manhattan"}})).distance == "manhattan"


@pytest.mark.parametrize("distance", ["cosine", "dot", "euclid"])
def test_bits_are_compared_by_manhattan_only(distance: str) -> None:
    error = refusal(docs(v=("bit", 8)), vectors={"v": {"distance": distance}})
    assert "manhattan" in error.message


def test_bits_need_no_index() -> None:
    mapping = mapped(docs(v=("bit", 8)))
    assert (vector(mapping).distance, mapping.warnings) == ("manhattan", ())


# --- kinds, datatypes, dimensions -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "shape", "datatype"),
    [
        ("vector", "dense", "float32"),
        ("halfvec", "dense", "float16"),
        ("bit", "dense", "uint8"),
        ("sparsevec", "sparse", "float32"),
        ("vector[]", "multi", "float32"),
        ("halfvec[]", "multi", "float16"),
    ],
)
def test_every_vector_type_has_its_form(kind: str, shape: str, datatype: str) -> None:
    spec = vector(mapped(docs(v=(kind, 5))))
    assert (spec.shape, spec.datatype, spec.dimension) == (shape, datatype, 5)


@pytest.mark.parametrize("kind", ["varbit", "bit[]", "sparsevec[]", "float4[]", "bytea", "vector!"])
def test_other_types_are_payload(kind: str) -> None:
    (column,) = columns(v=kind)
    assert vector_kind(column) is None


def test_a_vector_of_vectors_takes_the_elements_dimension() -> None:
    element = pg_type("vector", 7)
    array = dataclasses.replace(pg_type("vector[]"), element=element)
    assert vector(mapped(docs(v=array))).dimension == 7


def test_an_undimensioned_vector_takes_what_the_data_told() -> None:
    source = docs(v="vector")
    assert [c.name for c in undimensioned_columns(source, settings())] == ["v"]
    assert vector(mapped(source, {"v": 42})).dimension == 42


def test_an_undimensioned_vector_without_rows_stops() -> None:
    error = refusal(docs(v="vector"))
    assert "no declared dimension" in error.message
    assert "ALTER TABLE public.docs" in error.hint


def test_an_undimensioned_sparse_vector_needs_none() -> None:
    source = docs(v="sparsevec")
    assert undimensioned_columns(source, settings()) == []
    assert vector(mapped(source)).dimension is None


def test_more_dimensions_than_qdrant_takes_stop() -> None:
    assert vector(mapped(docs(v=("bit", 65_536)))).dimension == 65_536
    error = refusal(docs(v=("bit", 65_537)))
    assert "65537" in error.message
    assert "--pg.columns" in error.hint


def test_a_datatype_may_be_chosen_but_not_for_bits() -> None:
    assert vector(mapped(docs(), vectors={"v": {"datatype": "float16"}})).datatype == "float16"
    assert "uint8" in refusal(docs(v=("bit", 8)), vectors={"v": {"datatype": "float32"}}).message


# --- parameters -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"m": "24", "ef_construction": "200"}, HnswSpec(m=24, ef_construct=200)),
        ({"m": "24"}, HnswSpec(m=24)),
        ({"ef_construction": "200"}, HnswSpec(ef_construct=200)),
        ({}, None),
    ],
)
def test_hnsw_parameters_are_carried_over(
    options: dict[str, str], expected: HnswSpec | None
) -> None:
    mapping = mapped(docs(index("v", "vector_l2_ops", options=options)))
    assert vector(mapping).hnsw == expected


def test_parameters_of_ivfflat_are_not() -> None:
    source = docs(index("v", "vector_l2_ops", "ivfflat", {"lists": "100"}))
    assert vector(mapped(source)).hnsw is None


def test_hnsw_parameters_that_disagree_stop_unless_configured() -> None:
    source = docs(
        index("v", "vector_l2_ops", options={"m": "8"}),
        index("v", "vector_l2_ops", options={"m": "32"}),
    )
    assert "different parameters" in refusal(source).message
    mapping = mapped(source, vectors={"v": {"hnsw": {"m": 8, "on_disk": True}}})
    assert vector(mapping).hnsw == HnswSpec(m=8, on_disk=True)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("none", None),
        ("scalar", QuantizationSpec(kind="scalar")),
        ("binary", QuantizationSpec(kind="binary")),
        (
            {"kind": "product", "compression": "x8", "always_ram": True},
            QuantizationSpec(kind="product", compression="x8", always_ram=True),
        ),
        ({"kind": "scalar", "quantile": 0.9}, QuantizationSpec(kind="scalar", quantile=0.9)),
    ],
)
def test_quantization_is_carried(given: Any, expected: QuantizationSpec | None) -> None:
    mapping = mapped(docs(), vectors={"v": {"quantization": given, "on_disk": True}})
    assert vector(mapping).quantization == expected
    assert vector(mapping).on_disk is True


def test_a_sparse_vector_cannot_be_quantized_or_unnamed() -> None:
    source = docs(v=("sparsevec", 3))
    assert "quantized" in refusal(source, vectors={"v": {"quantization": "scalar"}}).message
    assert "unnamed" in refusal(source, vectors={"v": {"name": ""}}).message
