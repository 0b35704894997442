"""Connections of the bridge to a Qdrant server, and what the first contact fails with."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

from bridge.collection_spec import CollectionSpec, VectorSpec
from bridge.errors import (
    BridgeError,
)
from bridge.plan import Point
from bridge.qdrant.channel import endpoint
from bridge.qdrant.server import ServerTarget

SPEC = CollectionSpec(
    name="docs",
    vectors=(VectorSpec(name="v", shape="dense", distance="dot", dimension=2),),
)


def point(number: int, **payload: Any) -> Point:
    vector = np.array([number, 1], dtype="<f4").tobytes()
    return Point(number, {"v": vector}, payload)


@contextmanager
def connected(url: str, **options: Any) -> Iterator[ServerTarget]:
    target = ServerTarget(endpoint(url, **{"api_key": None, "timeout_seconds": 10.0, **options}))
    try:
        yield target
    finally:
        target.close()


def check_fails(url: str, **options: Any) -> BridgeError:
    """What the first contact with a server fails with."""
    with pytest.raises(BridgeError) as caught, connected(url, **options) as target:
        target.check()
    return caught.value
