"""Vector columns -> vector specs: which columns count, their dimension, distance and parameters. Pure.

The rules are those of design.md section 4. Distances come from the operator class of a plain, full
index (pgvector README, "Indexing"); two that disagree stop the plan, since neither is more right.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bridge.collection_spec import (
    Datatype,
    Distance,
    HnswSpec,
    QuantizationSpec,
    Shape,
    VectorSpec,
    check_name,
)
from bridge.config_tables import TableSettings, VectorSettings
from bridge.errors import UsageError
from bridge.schema import Column, Index, Table
from bridge.vectors import Kind

_OPERATOR_CLASSES: Mapping[str, str] = {
    "l2_ops": "euclid",
    "ip_ops": "dot",
    "cosine_ops": "cosine",
    "l1_ops": "manhattan",
    "hamming_ops": "hamming",
    "jaccard_ops": "jaccard",
}
_DATATYPES: Mapping[Kind, Datatype] = {
    "vector": "float32",
    "halfvec": "float16",
    "bit": "uint8",
    "sparsevec": "float32",
}
_MAX_DIMENSION = 65_536


@dataclass(frozen=True, slots=True, kw_only=True)
class MappedVector:
    """A column's vector spec, and what the plan should tell about how it came to be."""

    column: str
    kind: Kind
    spec: VectorSpec
    warnings: tuple[str, ...]


def vector_kind(column: Column) -> tuple[Kind, Shape] | None:
    """What kind of vector a column holds; None if it is an ordinary one."""
    name, kind = column.type.name, column.type.kind
    if kind == "base" and name in ("vector", "halfvec", "sparsevec", "bit"):
        return name, "sparse" if name == "sparsevec" else "dense"  # type: ignore[return-value]
    element = column.type.element
    if kind == "array" and element is not None and element.kind == "base":
        if element.name == "vector":
            return "vector", "multi"
        if element.name == "halfvec":
            return "halfvec", "multi"
    return None


def undimensioned_columns(table: Table, settings: TableSettings) -> list[Column]:
    """The vector columns whose dimension only the data can tell."""
    return [
        column
        for column in vector_columns(table, settings)
        if _declared_dimension(column) is None and column.type.name != "sparsevec"
    ]


def vector_columns(table: Table, settings: TableSettings) -> list[Column]:
    """The vector columns that are to become vectors, in the table's order."""
    if settings.vectors == "none":
        return []
    wanted = settings.columns
    return [
        column
        for column in table.columns
        if vector_kind(column) is not None
        and not column.generated
        and (wanted is None or column.name in wanted)
    ]


def map_vectors(
    table: Table, settings: TableSettings, dimensions: Mapping[str, int]
) -> list[MappedVector]:
    """The specs of a table's vectors. `dimensions`: what the data told of undimensioned columns."""
    columns = vector_columns(table, settings)
    chosen = {} if settings.vectors == "none" else dict(settings.vectors)
    names = {column.name for column in columns}
    for name in chosen:
        if name not in names:
            raise UsageError(
                f"vectors.{name}: table {table.label} has no vector column of that name",
                hint=f"its vector columns: {', '.join(sorted(names)) or 'none'}",
                table=table.label,
            )
    mapped = [
        _map_one(table, column, chosen.get(column.name, VectorSettings()), dimensions)
        for column in columns
    ]
    _refuse_equal_names(table, mapped)
    return mapped


def _map_one(
    table: Table, column: Column, settings: VectorSettings, dimensions: Mapping[str, int]
) -> MappedVector:
    found = vector_kind(column)
    assert found is not None  # noqa: S101 - vector_columns gives no other
    kind, shape = found
    name = column.name if settings.name is None else settings.name
    check_name(name, what="the vector name", hint=f"set vectors.{column.name}.name")
    distance, warnings = _distance(table, column, kind, settings)
    spec = VectorSpec(
        name=name,
        shape=shape,
        distance=distance,
        dimension=_dimension(table, column, shape, dimensions),
        datatype=settings.datatype or _DATATYPES[kind],
        on_disk=settings.on_disk,
        hnsw=None if shape == "sparse" else _hnsw(table, column, settings),
        quantization=_quantization(settings),
    )
    if kind == "bit" and spec.datatype != "uint8":
        raise UsageError(
            f"vectors.{column.name}.datatype: a bit column is always uint8",
            hint="leave the datatype out",
            table=table.label,
        )
    if shape == "sparse" and (spec.quantization or name == ""):
        what = "an unnamed vector" if name == "" else "quantized"
        raise UsageError(
            f"vectors.{column.name}: a sparse vector cannot be {what} in Qdrant",
            hint=f"leave vectors.{column.name}.{'name' if name == '' else 'quantization'} out",
            table=table.label,
        )
    return MappedVector(column=column.name, kind=kind, spec=spec, warnings=tuple(warnings))


def _declared_dimension(column: Column) -> int | None:
    element = column.type.element
    declared = max(column.type.modifier, element.modifier if element is not None else -1)
    return declared if declared > 0 else None


def _dimension(
    table: Table, column: Column, shape: Shape, dimensions: Mapping[str, int]
) -> int | None:
    dimension = _declared_dimension(column)
    if dimension is None:
        dimension = dimensions.get(column.name)
    if shape == "sparse":
        return dimension
    if dimension is None:
        raise UsageError(
            f"column {column.name} of {table.label} has no declared dimension and no row to tell it",
            hint=f"ALTER TABLE {table.label} ALTER COLUMN {column.name} TYPE {column.declared}(N), "
            "or start once the table has rows",
            table=table.label,
        )
    if dimension > _MAX_DIMENSION:
        raise UsageError(
            f"column {column.name} has {dimension} dimensions; Qdrant takes {_MAX_DIMENSION}",
            hint="leave the column out with --pg.columns (or columns: in the configuration)",
            table=table.label,
        )
    return dimension


def indexes_of(table: Table, column: str) -> list[Index]:
    """The plain, full vector indexes on a column itself; no others say anything of all rows."""
    return [
        index
        for index in table.indexes
        if index.plain and index.columns == (column,) and _index_distance(index) is not None
    ]


def _index_distance(index: Index) -> str | None:
    operator_class = index.opclasses[0] if index.opclasses else ""
    for kind in ("vector_", "halfvec_", "sparsevec_", "bit_"):
        if operator_class.startswith(kind):
            return _OPERATOR_CLASSES.get(operator_class.removeprefix(kind))
    return None


def _distance(
    table: Table, column: Column, kind: Kind, settings: VectorSettings
) -> tuple[Distance, list[str]]:
    indexes = indexes_of(table, column.name)
    found = sorted({told for index in indexes if (told := _index_distance(index))})
    if kind == "bit":
        return _bit_distance(table, column, found, settings), []
    distance: str
    warnings: list[str] = []
    if settings.distance is not None:
        distance = settings.distance
        if found and found != [distance]:
            warnings.append(
                f"{column.name}: distance {distance} as configured; its index says {' and '.join(found)}"
            )
    elif len(found) > 1:
        raise UsageError(
            f"column {column.name} of {table.label} has indexes of different distances: "
            f"{' and '.join(found)}",
            hint=f"choose one: --qdrant.distance-metric '{column.name}={found[0]}'",
            table=table.label,
        )
    elif found:
        distance = found[0]
    else:
        distance = "cosine"
        warnings = [f"{column.name}: no index tells the distance, cosine is assumed"]
    if kind == "sparsevec" and distance not in ("cosine", "dot"):
        raise UsageError(
            f"column {column.name} of {table.label}: Qdrant compares sparse vectors by dot product "
            f"only, not by {distance}",
            hint=f"choose --qdrant.distance-metric '{column.name}=cosine' (stored as unit vectors) "
            f"or '{column.name}=dot', or leave the column out with --pg.columns",
            table=table.label,
        )
    if kind == "sparsevec" and distance == "cosine":
        warnings.append(f"{column.name}: stored as unit vectors, so that dot product is cosine")
    return distance, warnings  # type: ignore[return-value]


def _bit_distance(
    table: Table, column: Column, found: Sequence[str], settings: VectorSettings
) -> Distance:
    if settings.distance not in (None, "manhattan"):
        raise UsageError(
            f"vectors.{column.name}.distance: bits are stored as uint8 and compared by manhattan, "
            "which equals their Hamming distance",
            hint="leave the distance out",
            table=table.label,
        )
    if "jaccard" in found and settings.distance is None:
        raise UsageError(
            f"column {column.name} of {table.label} is indexed for Jaccard distance, which Qdrant "
            "does not have",
            hint=f"--qdrant.distance-metric '{column.name}=manhattan' takes Hamming distance "
            "instead, or leave the column out with --pg.columns",
            table=table.label,
        )
    return "manhattan"


def _hnsw(table: Table, column: Column, settings: VectorSettings) -> HnswSpec | None:
    if settings.hnsw is not None:
        chosen = settings.hnsw
        return HnswSpec(
            m=chosen.m,
            ef_construct=chosen.ef_construct,
            full_scan_threshold=chosen.full_scan_threshold,
            on_disk=chosen.on_disk,
        )
    options = {
        (int(index.options.get("m", 16)), int(index.options.get("ef_construction", 64)))
        for index in indexes_of(table, column.name)
        if index.method == "hnsw" and index.options
    }
    if len(options) > 1:
        raise UsageError(
            f"column {column.name} of {table.label} has HNSW indexes of different parameters",
            hint=f"choose in the configuration: vectors: {{{column.name}: {{hnsw: {{m: 16}}}}}}",
            table=table.label,
        )
    if not options:
        return None  # unset in Postgres as well: each side's own defaults hold
    given = next(
        index.options
        for index in indexes_of(table, column.name)
        if index.method == "hnsw" and index.options
    )
    m, ef = given.get("m"), given.get("ef_construction")
    return HnswSpec(m=int(m) if m else None, ef_construct=int(ef) if ef else None)


def _quantization(settings: VectorSettings) -> QuantizationSpec | None:
    chosen = settings.quantization
    if chosen is None:
        return None
    if isinstance(chosen, str):
        return QuantizationSpec(kind=chosen)
    return QuantizationSpec(
        kind=chosen.kind,
        always_ram=chosen.always_ram,
        quantile=chosen.quantile,
        compression=chosen.compression or "x16",
    )


def _refuse_equal_names(table: Table, mapped: Sequence[MappedVector]) -> None:
    seen: dict[str, str] = {}
    for vector in mapped:
        other = seen.setdefault(vector.spec.name, vector.column)
        if other != vector.column:
            raise UsageError(
                f"columns {other} and {vector.column} would both be the vector "
                f"{vector.spec.name!r}",
                hint=f"set vectors.{vector.column}.name",
                table=table.label,
            )
