"""Specs of collections as JSON: what is kept beside a shard, and what a socket tells of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from bridge.collection_spec import CollectionSpec, HnswSpec, QuantizationSpec, VectorSpec


def dump(spec: CollectionSpec) -> str:
    """The spec as text."""
    return json.dumps(asdict(spec), indent=1)


def load(text: str) -> CollectionSpec:
    """The inverse of `dump`."""
    data = json.loads(text)
    return CollectionSpec(
        name=data["name"],
        vectors=tuple(vector_spec(vector) for vector in data["vectors"]),
        payload_indexes=data["payload_indexes"],
    )


def vector_spec(data: Mapping[str, Any]) -> VectorSpec:
    """The inverse of `asdict`."""
    hnsw, quantization = data["hnsw"], data["quantization"]
    return VectorSpec(
        **{
            **data,
            "hnsw": None if hnsw is None else HnswSpec(**hnsw),
            "quantization": None if quantization is None else QuantizationSpec(**quantization),
        }
    )
