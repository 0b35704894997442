"""Mappings of tables that no database holds, and why one is refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from bridge.collection_spec import VectorSpec
from bridge.config_tables import TableSettings
from bridge.errors import UsageError
from bridge.map_table import map_table
from bridge.mapping import TableMapping
from bridge.schema import Index, Table
from tests.support.source_tables import table


def settings(**given: Any) -> TableSettings:
    return TableSettings.model_validate(given)


def mapped(
    source: Table, dimensions: Mapping[str, int] | None = None, **given: Any
) -> TableMapping:
    return map_table(source, settings(**given), dimensions)


def refusal(source: Table, dimensions: Mapping[str, int] | None = None, **given: Any) -> UsageError:
    with pytest.raises(UsageError) as caught:
        mapped(source, dimensions, **given)
    assert caught.value.exit_code == 2
    return caught.value


def vector(mapping: TableMapping, name: str = "v") -> VectorSpec:
    (spec,) = [spec for spec in mapping.collection.vectors if spec.name == name]
    return spec


def docs(*indexes: Index, v: Any = ("vector", 3), **more: Any) -> Table:
    """A table of an id, a title and a vector `v`."""
    return table(id="int8", title="text", v=v, indexes=indexes, **more)
