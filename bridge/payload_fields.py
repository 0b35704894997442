"""Points of which only some payload fields are ours: tables without vectors (design.md section 10).

Such a table keeps the payload of points up to date whose vectors came from elsewhere. What its columns
map to is set, NULL deletes it, and everything else of the point stays. Pure.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

from bridge.mapping import TableMapping
from bridge.plan import Fields, Point
from bridge.values import PayloadValue

Path = tuple[str, ...]


def owns_whole_points(mapping: TableMapping) -> bool:
    """Whether the table's points are its own; else only their mapped fields are."""
    return bool(mapping.vectors)


def fields_rule(mapping: TableMapping) -> Callable[[Point], Fields]:
    """From a point that the mapping made to what is set of it."""
    paths: list[Path] = [item.path for item in mapping.payload]
    if mapping.id_rule.id_field is not None:
        paths.append((mapping.id_rule.id_field,))
        if mapping.id_rule.namespace is not None:
            paths.append(("namespace",))

    def rule(point: Point) -> Fields:
        groups: dict[Path, dict[str, PayloadValue]] = {}
        for path in paths:
            groups.setdefault(path[:-1], {})[path[-1]] = _at(point, path)
        return Fields(point.id, groups)

    return rule


def _at(point: Point, path: Path) -> PayloadValue:
    """The value there; None if it was left out (`nulls: omit`), which deletes it all the same."""
    level = point.payload
    for step in path[:-1]:
        level = cast("dict[str, PayloadValue]", level.get(step) or {})
    return level.get(path[-1])


def new_point(fields: Fields) -> Point:
    """The point that is made where there is none: these fields, and no vector."""
    payload: dict[str, PayloadValue] = {}
    for parent, values in fields.groups.items():
        level = payload
        for step in parent if any(value is not None for value in values.values()) else ():
            level = cast("dict[str, PayloadValue]", level.setdefault(step, {}))
        level.update({name: value for name, value in values.items() if value is not None})
    return Point(fields.id, {}, payload)
