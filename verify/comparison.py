"""Points as the source makes them, beside points as the target has them. Pure.

`Comparer.suspects` looks at a batch quickly and tells which are not the same; `Comparer.differences` says
of one point what differs, field by field. Which fields count is the mapping's: a table without vectors owns
its mapped fields only, and everything else of its points is somebody else's.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np

from bridge.collection_spec import VectorSpec
from bridge.mapping import TableMapping
from bridge.payload_fields import owns_whole_points
from bridge.plan import Buffer, Multi, Point, Sparse, Vector
from bridge.point_ids import PointId
from bridge.values import PayloadValue
from verify.payloads import ABSENT, differing, same, same_fields
from verify.projections import differing_scores
from verify.stored_vectors import differing_rows, same_vector

Kind = Literal["missing", "stale", "altered"]
Path = tuple[str, ...]
Scored = tuple[str, Sequence[tuple[bytes, Mapping[PointId, float]]]]
"""A vector's name; random vectors, and the scores against each."""

_SHOWN_COMPONENTS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One field of a point that is not as it should be; `ABSENT` where one side has none.

    `field`: `payload price`, `vector embedding`. `what` tells it without the values.
    """

    field: str
    path: Path
    what: str
    wanted: Any
    found: Any


class Comparer:
    """Compares points whose vectors these are, whatever source they come from.

    `stale`: paths of columns whose schema was changed. `owned`: of a source that owns nothing but these
    payload fields of its points.
    """

    def __init__(
        self,
        specs: Iterable[VectorSpec],
        *,
        stale: Iterable[Path] = (),
        owned: Sequence[Path] | None = None,
    ) -> None:
        self._specs = {spec.name: spec for spec in specs}
        self._dense = {n: s for n, s in self._specs.items() if s.shape == "dense"}
        self._stale = frozenset(stale)
        self._owned = owned

    @classmethod
    def of(cls, mapping: TableMapping, stale: Iterable[Path] = ()) -> Self:
        """The one for a table."""
        owned = None if owns_whole_points(mapping) else owned_paths(mapping)
        return cls((vector.spec for vector in mapping.vectors), stale=stale, owned=owned)

    # --- quickly -------------------------------------------------------------------------------

    def suspects(
        self,
        wanted: Sequence[Point],
        found: Mapping[PointId, Point],
        scored: Sequence[Scored] = (),
    ) -> list[int]:
        """Which of the wanted points are not there, or not the same.

        With `scored`, vectors were not read: they are told by their scores.
        """
        suspects: set[int] = set()
        pairs: list[tuple[int, Point, Point]] = []
        for number, point in enumerate(wanted):
            stored = found.get(point.id)
            if stored is None or not self._same_payload(point, stored):
                suspects.add(number)
            elif self._owned is None:
                pairs.append((number, point, stored))
        if self._owned is None and scored:
            for one in scored:
                suspects |= self._score_suspects(pairs, one)
        elif self._owned is None:
            suspects |= self._vector_suspects(pairs)
        return sorted(suspects)

    def _score_suspects(
        self, pairs: Sequence[tuple[int, Point, Point]], scored: Scored
    ) -> set[int]:
        name, lists = scored
        has = set[PointId]().union(*(scores for _query, scores in lists))
        chosen: list[tuple[int, PointId, Buffer]] = []
        suspects: set[int] = set()
        for number, point, _stored in pairs:
            vector = point.vectors.get(name)
            if vector is None:
                if point.id in has:
                    suspects.add(number)
            elif not isinstance(vector, Sparse | Multi):
                chosen.append((number, point.id, vector))
        if chosen:
            wanted = [(identity, vector) for _number, identity, vector in chosen]
            rows = differing_scores(self._specs[name], wanted, lists)
            suspects.update(chosen[row][0] for row in rows)
        return suspects

    def _same_payload(self, wanted: Point, found: Point) -> bool:
        if self._owned is None:
            return same_fields(wanted.payload, found.payload)
        return not any(self._owned_differences(wanted, found))

    def _vector_suspects(self, pairs: Sequence[tuple[int, Point, Point]]) -> set[int]:
        suspects = {
            number for number, one, other in pairs if one.vectors.keys() != other.vectors.keys()
        }
        for name, spec in self._specs.items():
            chosen = [
                (number, one.vectors[name], other.vectors[name])
                for number, one, other in pairs
                if number not in suspects and name in one.vectors
            ]
            if name not in self._dense:
                suspects |= {n for n, one, other in chosen if not same_vector(spec, one, other)}
                continue
            plain = [
                (number, one, other)
                for number, one, other in chosen
                if not isinstance(one, Sparse | Multi) and not isinstance(other, Sparse | Multi)
            ]
            if len(plain) < len(chosen):
                suspects |= {n for n, _one, _other in chosen} - {n for n, _one, _other in plain}
            rows = differing_rows(
                spec, [one for _n, one, _o in plain], [o for _n, _one, o in plain]
            )
            suspects |= {plain[row][0] for row in rows}
        return suspects

    # --- in full -------------------------------------------------------------------------------

    def differences(self, wanted: Point, found: Point) -> list[Difference]:
        """Every field that differs; empty if none does."""
        if self._owned is not None:
            return list(self._owned_differences(wanted, found))
        lines = [
            _payload_difference(path, left, right)
            for path, left, right in differing(wanted.payload, found.payload)
        ]
        for name in sorted(wanted.vectors.keys() | found.vectors.keys()):
            line = self._vector_difference(name, wanted.vectors, found.vectors)
            if line is not None:
                lines.append(line)
        return lines

    def kind(self, differences: Sequence[Difference]) -> Kind:
        """Stale, if nothing differs but columns of a recorded schema change; else altered."""
        for one in differences:
            steps = range(1, len(one.path) + 1)
            if not any(one.path[:length] in self._stale for length in steps):
                return "altered"
        return "stale"

    def _owned_differences(self, wanted: Point, found: Point) -> Iterable[Difference]:
        for path in self._owned or ():
            left, right = _at(wanted.payload, path), _at(found.payload, path)
            # NULL deletes the field, so null and absent are one here.
            left, right = (None if value is ABSENT else value for value in (left, right))
            if not same(left, right):
                yield _payload_difference(
                    path,
                    ABSENT if left is None else left,
                    ABSENT if right is None else right,
                )

    def _vector_difference(
        self, name: str, wanted: Mapping[str, Vector], found: Mapping[str, Vector]
    ) -> Difference | None:
        left, right = wanted.get(name, ABSENT), found.get(name, ABSENT)
        if left is ABSENT or right is ABSENT:
            what = "is not there" if right is ABSENT else "should not be there"
        elif name in self._specs and same_vector(self._specs[name], left, right):
            return None
        else:
            what = _how_vectors_differ(left, right)
        field = f"vector {name}" if name else "the unnamed vector"
        return Difference(
            field=field, path=("", name), what=what, wanted=shown(left), found=shown(right)
        )


def owned_paths(mapping: TableMapping) -> list[Path]:
    """The fields that a table without vectors keeps up to date."""
    paths: list[Path] = [item.path for item in mapping.payload]
    rule = mapping.id_rule
    if rule.id_field is not None:
        paths.append((rule.id_field,))
        if rule.namespace is not None:
            paths.append(("namespace",))
    return paths


def _at(payload: Mapping[str, PayloadValue], path: Path) -> Any:
    level: Any = payload
    for step in path:
        if not isinstance(level, dict) or step not in level:
            return ABSENT
        level = level[step]
    return level


def _payload_difference(path: Path, wanted: Any, found: Any) -> Difference:
    if found is ABSENT:
        what = f"{_type(wanted)} is not there"
    elif wanted is ABSENT:
        what = f"{_type(found)} should not be there"
    elif _type(wanted) != _type(found):
        what = f"{_type(found)} instead of {_type(wanted)}"
    else:
        what = f"another {_type(wanted)}"
    return Difference(
        field=f"payload {'.'.join(path)}", path=path, what=what, wanted=wanted, found=found
    )


def _type(value: Any) -> str:
    """A value's JSON type, integers and floats apart."""
    names = {bool: "boolean", int: "integer", float: "float", str: "string", list: "list"}
    return "null" if value is None else names.get(type(value), "object")


def _how_vectors_differ(wanted: Vector, found: Vector) -> str:
    shapes = [_shape(wanted), _shape(found)]
    if shapes[0] != shapes[1]:
        return f"{shapes[1]} instead of {shapes[0]}"
    return "other components"


def _shape(vector: Vector) -> str:
    if isinstance(vector, Sparse):
        return "a sparse vector"
    if isinstance(vector, Multi):
        rows = len(vector.data) // (4 * vector.dimension) if vector.dimension else 0
        return f"{rows} x {vector.dimension} dimensions"
    return f"{len(vector) // 4} dimensions"


def shown(value: Any) -> Any:
    """A vector as its first components, for people; everything else as it is."""
    if isinstance(value, Sparse):
        indices = np.frombuffer(value.indices, dtype="<u4")[:_SHOWN_COMPONENTS].tolist()
        values = np.frombuffer(value.values, dtype="<f4")[:_SHOWN_COMPONENTS].tolist()
        return dict(zip(map(str, indices), values, strict=True))
    if isinstance(value, Multi):
        value = value.data
    if isinstance(value, bytes | memoryview):
        return np.frombuffer(value[: 4 * _SHOWN_COMPONENTS], dtype="<f4").tolist()
    return value
