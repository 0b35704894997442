"""Whether two payload values are the same: equal in value and in JSON type. Pure.

1, 1.0 and True are three values; null and absent are two. Doubles may lie 4 units in the last place
apart: Qdrant's own JSON parser does not keep their last bits (facts of the server, seen in 11 % of random
ones), and writing such a value again would change nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from enum import Enum
from typing import Any, Final

from bridge.values import PayloadValue

ULPS: Final = 4


class _Absent(Enum):
    ABSENT = "absent"


ABSENT: Final = _Absent.ABSENT
"""There is no such field: another thing than null."""


def same(wanted: Any, found: Any) -> bool:
    """Whether the two are one value."""
    if type(wanted) is not type(found):
        return False
    if type(wanted) is float:
        return same_double(wanted, found)
    if type(wanted) is dict:
        return same_fields(wanted, found)
    if type(wanted) is list:
        return len(wanted) == len(found) and all(map(same, wanted, found))
    return bool(wanted == found)


def same_fields(wanted: Mapping[str, PayloadValue], found: Mapping[str, PayloadValue]) -> bool:
    """The same for objects. Every payload comes by here, so plain values are compared in place."""
    if len(wanted) != len(found):
        return False
    for key, value in wanted.items():
        other = found.get(key, ABSENT)
        kind = type(value)
        if kind is not type(other):
            return False
        if value != other or kind is dict or kind is list:
            # Equal containers may still hold an integer where the other has a float.
            if not same(value, other):
                return False
        elif kind is float and value == 0.0 and not same_double(value, other):  # type: ignore[arg-type]
            return False
    return True


def same_double(wanted: float, found: float) -> bool:
    """Within `ULPS` of each other, and of one sign."""
    return abs(wanted - found) <= ULPS * math.ulp(wanted) and math.copysign(
        1.0, wanted
    ) == math.copysign(1.0, found)


def differing(
    wanted: Mapping[str, PayloadValue], found: Mapping[str, PayloadValue]
) -> Iterator[tuple[tuple[str, ...], Any, Any]]:
    """(path, wanted, found) of every field that is not the same; `ABSENT` where there is none.

    Objects on both sides are gone into, so that the path names the value that differs.
    """
    for key in [*wanted, *(key for key in found if key not in wanted)]:
        left, right = wanted.get(key, ABSENT), found.get(key, ABSENT)
        if isinstance(left, dict) and isinstance(right, dict):
            for path, inner_left, inner_right in differing(left, right):
                yield (key, *path), inner_left, inner_right
        elif not same(left, right):
            yield (key,), left, right
