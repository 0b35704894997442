"""How Qdrant addresses a payload field: its JSON paths."""

from __future__ import annotations

import re

_PLAIN_STEP = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")


def json_path(path: tuple[str, ...]) -> str:
    """Qdrant's JSON path of a payload field; a name that is no plain word is quoted.

    ValueError for a name with a quote or backslash: the grammar has no escape for them (tried on
    1.18.3).
    """
    if any('"' in step or "\\" in step for step in path):
        raise ValueError(f"no JSON path leads to {path!r}")
    return ".".join(step if _PLAIN_STEP.fullmatch(step) else f'"{step}"' for step in path)
