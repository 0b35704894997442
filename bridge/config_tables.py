"""What `bridge.yaml` says of one table (design.md section 10). Values only, checked in themselves.

Whether a column exists, and whether a setting fits its type, is known when the table has been
looked at: `map_table.py` checks that.
"""

from __future__ import annotations

import string
from collections import Counter
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    field_validator,
    model_validator,
)

from bridge.collection_spec import Datatype, Distance, IndexKind

NumericForm = Literal["float", "string", "integer"]
WhereLiteral = bool | int | str
WhereValue = WhereLiteral | tuple[WhereLiteral, ...] | None

NOT_NULL = "not null"
"""In `where`: the column is not NULL. In a list of values it is the text itself."""

# Tags of unions; they stand in pydantic's error paths, from which they are taken out again.
WORD, MAPPING, SEQUENCE = "<word>", "<mapping>", "<sequence>"
UNION_TAGS = frozenset({WORD, MAPPING, SEQUENCE})

_INT64 = range(-(2**63), 2**63)


class Section(BaseModel):
    """A part of the configuration: frozen, no unknown keys, no value in pydantic's own messages."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        hide_input_in_errors=True,
        use_attribute_docstrings=True,
        validate_default=False,
    )


def _word_or_mapping(value: object) -> str:
    return WORD if isinstance(value, str) else MAPPING


WordOrMapping = Discriminator(_word_or_mapping)


class HnswSettings(Section):
    """HNSW parameters of a vector; what is left out comes from pgvector's index, or from Qdrant."""

    m: int | None = Field(strict=True, default=None, ge=0, le=2048)
    """Edges a node. Default: the pgvector index's m."""
    ef_construct: int | None = Field(strict=True, default=None, ge=4, le=100_000)
    """Candidates while building. Default: the pgvector index's ef_construction."""
    full_scan_threshold: int | None = Field(strict=True, default=None, ge=0)
    """Kilobytes of vectors below which a full scan is preferred."""
    on_disk: bool | None = None
    """Keep the graph on disk."""


class QuantizationSettings(Section):
    """Quantization of a vector. A word alone (`scalar`) is short for `{kind: scalar}`."""

    kind: Literal["scalar", "binary", "product"]
    """The method."""
    always_ram: bool | None = None
    """Keep the quantized vectors in RAM."""
    quantile: float | None = Field(default=None, ge=0.5, le=1.0)
    """Scalar only: the share of values inside the range."""
    compression: Literal["x4", "x8", "x16", "x32", "x64"] | None = None
    """Product only: the ratio."""

    @model_validator(mode="after")
    def _options_fit_kind(self) -> QuantizationSettings:
        if self.quantile is not None and self.kind != "scalar":
            raise ValueError("quantile belongs to kind: scalar")
        if self.compression is not None and self.kind != "product":
            raise ValueError("compression belongs to kind: product")
        return self


def _quantization(value: object) -> object:
    if value == "none":
        return None
    if isinstance(value, str):
        if value not in ("scalar", "binary", "product"):
            raise ValueError("allowed: none, scalar, binary, product, or a mapping with kind")
        return {"kind": value}
    return value


Quantization = Annotated[
    QuantizationSettings | None,
    BeforeValidator(
        _quantization,
        json_schema_input_type=Literal["none", "scalar", "binary", "product"]
        | QuantizationSettings
        | None,
    ),
]


class VectorSettings(Section):
    """How one vector column is stored."""

    name: str | None = None
    """The vector's name in Qdrant; "" is the unnamed default vector. Default: the column's name."""
    distance: Distance | None = None
    """Default: from the operator class of the column's index, else cosine."""
    on_disk: bool | None = None
    """Keep the vectors on disk."""
    hnsw: HnswSettings | None = None
    """HNSW parameters."""
    quantization: Quantization = None
    """none, scalar, binary, product, or a mapping with its options."""
    datatype: Datatype | None = None
    """Default: float32; float16 for halfvec; uint8 for bit."""


class IdSettings(Section):
    """How a row's point id is made (design.md section 3). Default: from the key's text."""

    template: str | None = None
    """The text that the id is made of, naming every key column: `doc-{id}`."""
    scheme: Literal["bridge", "qdrant-migration"] = "bridge"
    """qdrant-migration: the ids that the tool of that name makes."""
    namespace: str | None = None
    """With a template: the Pinecone namespace that the rows belong to."""
    field: str = Field(default="__id__", min_length=1)
    """With a template: the payload field that keeps the Pinecone id."""

    @field_validator("namespace")
    @classmethod
    def _default_namespace_is_empty(cls, namespace: str | None) -> str | None:
        # Pinecone shows the default namespace so, and takes it as the empty name.
        return "" if namespace == "__default__" else namespace

    @field_validator("template")
    @classmethod
    def _template_names_columns(cls, template: str | None) -> str | None:
        if template is not None and not template_columns(template):
            raise ValueError("it names no column; a column stands in braces: doc-{id}")
        return template

    @model_validator(mode="after")
    def _parts_fit(self) -> IdSettings:
        if self.scheme != "bridge" and (self.template or self.namespace is not None):
            raise ValueError(f"scheme: {self.scheme} takes neither template nor namespace")
        if self.namespace is not None and self.template is None:
            raise ValueError('namespace needs a template, such as "{id}"')
        return self


def template_columns(template: str) -> tuple[str, ...]:
    """The columns that an id template names, in order. ValueError if it is malformed."""
    columns: list[str] = []
    for _, name, format_spec, conversion in string.Formatter().parse(template):
        if name is None:
            continue
        if not name or format_spec or conversion or set(name) & set(".[]"):
            raise ValueError("braces hold a column's name and nothing else; {{ is a brace")
        columns.append(name)
    return tuple(columns)


def _where_value(value: object) -> object:
    """A literal, a list of them, or None; lists become tuples."""
    if value is None:
        return None
    if isinstance(value, list | tuple):
        if not value:
            raise ValueError("an empty list matches no row")
        return tuple(_where_literal(item) for item in value)
    return _where_literal(value)


def _where_literal(value: object) -> WhereLiteral:
    if isinstance(value, bool | str):
        return value
    if isinstance(value, int):
        if value in _INT64:
            return value
        raise ValueError("an integer beyond 64 bits")
    if value is None:
        raise ValueError("null stands alone, not in a list")
    kind = "a fraction" if isinstance(value, float) else "this kind of value"
    raise ValueError(
        f"{kind} cannot be compared exactly; allowed: true, false, an integer, text "
        "(also for uuid and enum), a list of these, null, or not null"
    )


# pydantic would turn 1 into True, or "1" into 1, on its way through the union.
Where = Annotated[
    Any,
    BeforeValidator(
        _where_value,
        json_schema_input_type=bool | int | str | list[bool | int | str] | None,
    ),
]


class TableSettings(Section):
    """One table, view or partitioned table, and the collection that it fills."""

    collection: str | None = Field(default=None, min_length=1)
    """Default: the table's name."""
    key: tuple[str, ...] | None = Field(default=None, min_length=1)
    """Default: the primary key. A view needs it."""
    columns: tuple[str, ...] | None = Field(default=None, min_length=1)
    """The columns to take. Default: all."""
    id: IdSettings | None = None
    """How point ids are made. Default: from the key's text."""
    nulls: Literal["explicit", "omit"] = "explicit"
    """NULL in the payload: null, or the field left out."""
    numeric: Annotated[
        Annotated[NumericForm, Tag(WORD)] | Annotated[dict[str, NumericForm], Tag(MAPPING)],
        WordOrMapping,
    ] = "float"
    """What numeric becomes, for all columns or by column."""
    geo: tuple[str, ...] = ()
    """Columns of type point or PostGIS point that become {lon, lat}."""
    vectors: Annotated[
        Annotated[Literal["none"], Tag(WORD)] | Annotated[dict[str, VectorSettings], Tag(MAPPING)],
        WordOrMapping,
    ] = {}
    """By column; none: the points' vectors come from elsewhere, and only payload is kept up."""
    payload_indexes: Annotated[
        Annotated[Literal["auto", "none"], Tag(WORD)]
        | Annotated[dict[str, IndexKind], Tag(MAPPING)],
        WordOrMapping,
    ] = "auto"
    """auto: key columns, and those with a btree or GIN index; none; or by payload field."""
    payload: dict[str, str | Literal[True]] | None = None
    """Payload field -> column, dots nest; "*": true keeps the other columns. Default: all."""
    where: dict[str, Where] = Field(default_factory=dict)
    """The rows that count: column -> a value, a list of values, null, or not null."""
    owns_collection: bool = False
    """Nothing else fills the collection, so TRUNCATE and extras may remove points."""

    @field_validator("key", "columns", "geo")
    @classmethod
    def _columns_once(cls, columns: tuple[str, ...] | None) -> tuple[str, ...] | None:
        for column, times in Counter(columns or ()).items():
            if not column:
                raise ValueError("an empty column name")
            if times > 1:
                raise ValueError(f"column {column!r} is named twice")
        return columns

    @field_validator("payload", mode="before")
    @classmethod
    def _payload_fields(cls, payload: object) -> object:
        if isinstance(payload, Mapping):
            _check_payload(payload)
        return payload

    @model_validator(mode="after")
    def _template_fits_key(self) -> TableSettings:
        if self.id is not None and self.id.template is not None and self.key is not None:
            self._check_template(self.id.template, self.key)
        return self

    @staticmethod
    def _check_template(template: str, key: tuple[str, ...]) -> None:
        named = template_columns(template)
        for column in key:
            if column not in named:
                raise ValueError(f"id.template must name key column {column!r}")
        for column in named:
            if column not in key:
                raise ValueError(f"id.template names {column!r}, which is no key column")

    def numeric_form(self, column: str) -> NumericForm:
        """What that column's numeric values become."""
        if isinstance(self.numeric, str):
            return self.numeric
        return self.numeric.get(column, "float")


def _check_payload(payload: Mapping[Any, object]) -> None:
    """Each field from one column, no field inside another; `"*"` is true or absent."""
    paths: dict[tuple[str, ...], str] = {}
    for name, source in payload.items():
        if name == "*":
            if source is not True:
                raise ValueError('"*" takes true and nothing else')
            continue
        if not isinstance(source, str) or not source:
            raise ValueError(f"field {name!r} needs the name of a column")
        path = tuple(str(name).split("."))
        if not all(path):
            raise ValueError(f"field {name!r} has an empty part")
        paths[path] = str(name)
    for path, name in paths.items():
        for length in range(1, len(path)):
            if outer := paths.get(path[:length]):
                raise ValueError(f"field {name!r} lies inside field {outer!r}")
