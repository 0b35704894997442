"""Lays the sources of the configuration on top of each other, and remembers whose each value is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from bridge.config_errors import annotation_at, is_section
from bridge.config_file import KeyPath
from bridge.config_models import Settings
from bridge.errors import UsageError
from bridge.table_names import format_table_name, parse_table_name

DEFAULT, FILE, FLAG = "default", "file", "flag"


@dataclass(frozen=True, slots=True, kw_only=True)
class TableChoice:
    """What flags say of one table (`--pg.table`, `--pg.key-column`, `--qdrant.collection`, ...).

    None, or empty, leaves what the file says. Without a name the only table of the file is meant.
    `distances`: column -> distance.
    """

    name: str | None = None
    key: tuple[str, ...] | None = None
    columns: tuple[str, ...] | None = None
    collection: str | None = None
    distances: Mapping[str, str] = field(default_factory=dict)

    @property
    def says_something(self) -> bool:
        """Whether any flag was given."""
        return self != TableChoice()


class Layers:
    """Raw values, not checked yet, and the origin of each leaf. Later layers go on top.

    `counterparts`: two places of which one is enough (a secret and its file): setting one in a
    higher layer takes the other away.
    """

    def __init__(self, *, counterparts: Mapping[KeyPath, KeyPath]) -> None:
        self.values: dict[str, Any] = {}
        self._origins: dict[KeyPath, str] = {}
        self._counterparts = counterparts

    def take_file(self, values: Mapping[str, Any], origin: str) -> None:
        """The lowest layer. An empty section or table (null in YAML) stands for its defaults."""
        self.values = {key: _without_null_sections((key,), item) for key, item in values.items()}
        for place in _leaf_places(self.values, ()):
            self._origins[place] = origin

    def override(self, place: KeyPath, value: object, origin: str) -> None:
        """Sets one value on top of what is there."""
        other = self._counterparts.get(place)
        if other is not None and _kind(self._origins.get(other, origin)) != _kind(origin):
            self._remove(other)
        self.replace(place, value, origin)

    def replace(self, place: KeyPath, value: object, origin: str) -> None:
        """Puts a value at a place. UsageError if the file has no mapping around it."""
        here = self.values
        for depth, step in enumerate(place[:-1], 1):
            here = here.setdefault(step, {})
            if not isinstance(here, dict):
                path = ".".join(place[:depth])
                raise UsageError(f"{path} ({self.origin(place[:depth])}): a mapping is wanted")
        here[place[-1]] = value
        for known in [known for known in self._origins if known[: len(place)] == place]:
            del self._origins[known]
        leaves = _leaf_places(value, place) if isinstance(value, dict) and value else (place,)
        for leaf in leaves:
            self._origins[leaf] = origin

    def get(self, place: KeyPath) -> object:
        """The value at a place; None if there is none."""
        here: object = self.values
        for step in place:
            if not isinstance(here, dict):
                return None
            here = here.get(step)
        return here

    def origin(self, place: KeyPath) -> str:
        """Whose the value at the place is: its own, or that of what it lies in."""
        for length in range(len(place), 0, -1):
            if place[:length] in self._origins:
                return self._origins[place[:length]]
        return DEFAULT

    def named_origins(self) -> dict[str, str]:
        """Origins by dotted path, tables in their one spelling. Once the values are checked."""
        named: dict[str, str] = {}
        for place, origin in self._origins.items():
            if place[0] == "tables" and len(place) > 1:
                place = ("tables", _canonical(place[1]), *place[2:])
            named[".".join(place)] = origin
        return named

    def choose_table(self, choice: TableChoice) -> None:
        """Leaves one table, with what the flags say of it on top. Nothing said: all stay."""
        if not choice.says_something:
            return
        tables = self.values.get("tables", {})
        if not isinstance(tables, dict):
            return
        name = _spelling(choice, list(tables))
        for other in [other for other in tables if other != name]:
            self._remove(("tables", other))
        # Its topics may belong to the tables just left out.
        self._remove(("kafka",))
        if name not in tables:
            self.replace(("tables", name), {}, FLAG)
        for setting, value in (
            ("key", choice.key),
            ("columns", choice.columns),
            ("collection", choice.collection),
        ):
            if value is not None:
                self.replace(("tables", name, setting), value, FLAG)
        for column, distance in choice.distances.items():
            place = ("tables", name, "vectors", column, "distance")
            self.replace(place, distance.lower(), FLAG)

    def _remove(self, place: KeyPath) -> None:
        above = self.get(place[:-1]) if len(place) > 1 else self.values
        if isinstance(above, dict):
            above.pop(place[-1], None)
        for known in [known for known in self._origins if known[: len(place)] == place]:
            del self._origins[known]


def _spelling(choice: TableChoice, tables: list[str]) -> str:
    """The chosen table's key in the file, or its name if the file has none such."""
    if choice.name is None:
        if len(tables) == 1:
            return tables[0]
        raise UsageError(
            f"flags speak of one table, and the configuration has {len(tables)}",
            hint="say which one with --pg.table",
        )
    wanted = format_table_name(*parse_table_name(choice.name))
    return next((table for table in tables if _canonical(table) == wanted), wanted)


def _canonical(text: str) -> str:
    """A table's name in its one spelling; a malformed one stays, to be refused with its place."""
    try:
        return format_table_name(*parse_table_name(text))
    except UsageError:
        return text


def _kind(origin: str) -> str:
    return origin.partition(" ")[0]


def _without_null_sections(place: KeyPath, value: Any) -> Any:
    """Null where a section or a table belongs -> {}; other nulls stay."""
    if value is None:
        empty = is_section(annotation_at(place, Settings)) or place == ("tables",)
        return {} if empty else None
    if isinstance(value, dict):
        return {key: _without_null_sections((*place, key), item) for key, item in value.items()}
    return value


def _leaf_places(value: Mapping[str, Any], above: KeyPath) -> Iterator[KeyPath]:
    for key, item in value.items():
        if isinstance(item, dict) and item:
            yield from _leaf_places(item, (*above, key))
        else:
            yield (*above, key)
