"""Records as they are read, and an id as it goes into a URL. Values only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple
from urllib.parse import quote

LIST_PAGE = 100
"""Ids of one page at the most: the API's limit."""


class SparseValues(NamedTuple):
    """Indices in any order, and the value at each."""

    indices: Sequence[int]
    values: Sequence[float]


class Record(NamedTuple):
    """One record. Vectors by the index's names for them; `""` is the only one of a vector index."""

    id: str
    dense: Mapping[str, Sequence[float]]
    sparse: Mapping[str, SparseValues]
    metadata: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class IdPage:
    """Ids of one page, and the token of the next (None: this is the last)."""

    ids: tuple[str, ...]
    following: str | None
    read_units: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordPage:
    """Those of the records that there are."""

    records: Sequence[Record]
    read_units: int = 0


def encoded_length(identity: str) -> int:
    """Characters that an id takes of a URL, with the parameter's name."""
    return len("&ids=") + len(quote(identity, safe=""))
