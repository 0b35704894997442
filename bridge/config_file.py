"""Reads `bridge.yaml`: text -> plain values, and the line of each.

External specification: YAML 1.2, section 10.3 (core schema) for what an unquoted word means. YAML
1.1, PyYAML's own reading, makes `no` false, `2024-01-01` a date and `12:30` the number 750; in
`where: {country: [de, no]}` that would silently keep other rows. Boolean settings take yes and no
all the same.

A key that stands twice in one mapping is refused, and so is one that is not text. No message
quotes a value: it may be a secret. PyYAML's own errors quote the line, and are therefore not
chained: a traceback would show it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from bridge.errors import UsageError

KeyPath = tuple[str, ...]
"""A setting's place: ("qdrant", "url"), ("tables", "public.docs", "key")."""

_INT = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(
    r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)"
)
# PyYAML's text for these quotes a part of the document, which may be a secret left unquoted.
_QUOTING_PROBLEM = re.compile(r"alias|anchor|tag|directive")


class _CoreLoader(yaml.SafeLoader):
    """PyYAML's safe loader with the resolution of YAML 1.2's core schema."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        """`010` is ten: the core schema knows 0o for octal."""
        text = str(self.construct_scalar(node))
        for prefix, base in (("0o", 8), ("0x", 16)):
            if text.startswith(prefix):
                return int(text[2:], base)
        return int(text)


for _tag, _pattern, _first in (
    ("bool", re.compile(r"true|True|TRUE|false|False|FALSE"), "tTfF"),
    ("int", _INT, "-+0123456789"),
    ("float", _FLOAT, "-+.0123456789"),
    ("null", re.compile(r"~|null|Null|NULL|"), ["~", "n", "N", ""]),
    ("merge", re.compile(r"<<"), "<"),
):
    _CoreLoader.add_implicit_resolver(
        f"tag:yaml.org,2002:{_tag}", re.compile(rf"^(?:{_pattern.pattern})$"), list(_first)
    )
_CoreLoader.add_constructor("tag:yaml.org,2002:int", _CoreLoader.construct_yaml_int)


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigFile:
    """A file's settings; `lines` counts from 1, and has every key and every item's mapping."""

    path: Path
    values: dict[str, Any]
    lines: dict[KeyPath, int]


def read_config_file(path: Path) -> ConfigFile:
    """The settings of a file; an empty file has none. UsageError if it cannot be read."""
    node = _compose(path, read_text(path, what="configuration"))
    if node is None:
        return ConfigFile(path=path, values={}, lines={})
    if not isinstance(node, yaml.MappingNode):
        raise UsageError(
            f"{path}: settings are wanted (key: value), found {_kind(node)}",
            hint="qdrant-bridge init writes a file to begin with",
        )
    lines: dict[KeyPath, int] = {}
    for place, line in _lines(path, node, ()):
        lines[place] = line
    loader = _CoreLoader("")
    try:
        values = loader.construct_document(node)
    except yaml.MarkedYAMLError as error:
        raise _syntax_error(path, error) from None
    finally:
        loader.dispose()
    return ConfigFile(path=path, values=values, lines=lines)


def read_text(path: Path, *, what: str) -> str:
    """A file's text, UTF-8. UsageError with the reason if it cannot be read."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UsageError(
            f"{what} file {path}: {error.strerror or type(error).__name__}",
            hint="the path must exist and be readable by this user",
        ) from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{what} file {path}: not UTF-8 text") from error


def parse_scalar(text: str) -> Any:
    """A value given as text in the environment, read as the file would read it."""
    loader = _CoreLoader(text)
    try:
        return loader.get_single_data()
    finally:
        loader.dispose()


def _compose(path: Path, text: str) -> yaml.Node | None:
    try:
        return yaml.compose(text, Loader=_CoreLoader)
    except yaml.MarkedYAMLError as error:
        raise _syntax_error(path, error) from None
    except yaml.YAMLError:
        # A reader's error: a character that no YAML text may hold.
        raise UsageError(f"{path}: a character that YAML does not allow") from None


def _syntax_error(path: Path, error: yaml.MarkedYAMLError) -> UsageError:
    mark = error.problem_mark or error.context_mark
    place = f" line {mark.line + 1}, column {mark.column + 1}" if mark else ""
    problem = ", ".join(part for part in (error.context, error.problem) if part) or "not YAML"
    if _QUOTING_PROBLEM.search(problem):
        problem = "text that begins with *, &, ! or % must be quoted"
    return UsageError(f"{path}{place}: {problem}", hint="the line must be valid YAML")


def _lines(path: Path, node: yaml.MappingNode, above: KeyPath) -> Iterator[tuple[KeyPath, int]]:
    """Every key's place and line, from the top; refuses keys that are not text or stand twice."""
    seen: dict[str, int] = {}
    for key, value in node.value:
        line = key.start_mark.line + 1
        if key.tag == "tag:yaml.org,2002:merge":
            continue
        if not isinstance(key, yaml.ScalarNode) or key.tag != "tag:yaml.org,2002:str":
            raise UsageError(
                f"{path} line {line}: a key must be text, found {_kind(key)}",
                hint="put the key in quotes",
            )
        if key.value in seen:
            place = ".".join((*above, key.value))
            raise UsageError(
                f"{path} line {line}: {place} is there already, in line {seen[key.value]}",
                hint="keep one of the two",
            )
        seen[key.value] = line
        here = (*above, key.value)
        yield here, line
        if isinstance(value, yaml.MappingNode):
            yield from _lines(path, value, here)


def _kind(node: yaml.Node) -> str:
    if isinstance(node, yaml.SequenceNode):
        return "a list"
    if isinstance(node, yaml.MappingNode):
        return "a mapping"
    names = {"bool": "true or false", "int": "a number", "float": "a number", "null": "nothing"}
    return names.get(node.tag.rpartition(":")[2], "text")
