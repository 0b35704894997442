"""Turns what pydantic refuses into lines a user can act on: place, what was found, what is allowed.

External specification: pydantic, "Validation Errors" (types of errors and their context).

A value is shown only where no secret can be: never at or below a secret's place, nor where a
section belongs, and connection strings without their passwords.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import Any, get_args, get_origin

from pydantic import BaseModel, SecretStr, ValidationError
from pydantic_core import ErrorDetails

from bridge.config_file import KeyPath
from bridge.config_tables import UNION_TAGS, TableSettings
from bridge.redaction import redact_connection

_SHOWN_LIMIT = 60

_ALLOWED = {
    "bool_parsing": "true or false",
    "bool_type": "true or false",
    "dict_type": "a mapping",
    "mapping_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
    "string_type": "text (in quotes where it looks like a number)",
    "tuple_type": "a list",
    "list_type": "a list",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "finite_number": "a finite number",
}
_BOUNDS = {
    "greater_than": ("gt", "above {}"),
    "greater_than_equal": ("ge", "at least {}"),
    "less_than": ("lt", "below {}"),
    "less_than_equal": ("le", "at most {}"),
    "string_pattern_mismatch": ("pattern", "text that matches {}"),
}


def describe(
    error: ValidationError,
    model: type[BaseModel],
    source_of: Callable[[KeyPath], str],
    file_lines: Mapping[KeyPath, int],
) -> list[str]:
    """One line for each thing refused, in the file's order. `source_of` says where it stands."""
    lines: list[str] = []
    details = [(_place(detail["loc"]), detail) for detail in error.errors(include_url=False)]
    for place, detail in sorted(details, key=lambda pair: file_lines.get(pair[0], 0)):
        source = source_of(place)
        shown = ".".join(place)
        prefix = f"{shown} ({source}): " if shown and source else f"{shown}: " if shown else ""
        line = prefix + _problem(detail, place, model)
        if line not in lines:
            lines.append(line)
    return lines


def _place(location: Sequence[int | str]) -> KeyPath:
    """pydantic's location without the tags of unions."""
    return tuple(str(step) for step in location if step not in UNION_TAGS and step != "[key]")


def _problem(detail: ErrorDetails, place: KeyPath, model: type[BaseModel]) -> str:
    kind = detail["type"]
    context = detail.get("ctx", {})
    if kind == "extra_forbidden":
        return unknown_key(place, model)
    if kind == "missing":
        return "this is needed"
    if kind == "value_error":
        return str(context["error"])
    allowed = _allowed(kind, context, annotation_at(place, model))
    return f"found {_found(detail['input'], place, model)}; allowed: {allowed}"


def _allowed(kind: str, context: Mapping[str, Any], annotation: object) -> str:
    members = _members(annotation)
    words = [member for member in members if isinstance(member, str)]
    if words:
        origins = {get_origin(member) for member in members}
        mapping = ["or a mapping"] if dict in origins else []
        sequence = ["or a list"] if tuple in origins else []
        return ", ".join(words + mapping + sequence)
    if kind in _BOUNDS:
        name, text = _BOUNDS[kind]
        return text.format(context[name])
    if kind == "string_too_short":
        return "text that is not empty"
    if kind == "too_short":
        return f"at least {context['min_length']} of them"
    return _ALLOWED.get(kind, kind.replace("_", " "))


def _found(value: object, place: KeyPath, model: type[BaseModel]) -> str:
    kinds = {dict: "a mapping", list: "a list", tuple: "a list", type(None): "nothing"}
    if type(value) in kinds:
        return kinds[type(value)]
    if _is_secret(place, model) or is_section(annotation_at(place, model)):
        return "text" if isinstance(value, str) else "something else than text"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        text = redact_connection(value) if "://" in value or "=" in value else value
        return repr(text if len(text) <= _SHOWN_LIMIT else text[:_SHOWN_LIMIT] + "...")
    if isinstance(value, int | float):
        return str(value)
    return f"a value of type {type(value).__name__}"


def unknown_key(place: KeyPath, model: type[BaseModel]) -> str:
    """Names the nearest known key: one beside it, else one of its name elsewhere."""
    *above, key = place
    parent = annotation_at(tuple(above), model)
    known = tuple(_models(parent)[0].model_fields) if _models(parent) else ()
    normal = key.lower().replace("-", "_")
    near = get_close_matches(normal, known, n=1, cutoff=0.5)
    if near:
        return f"unknown key; did you mean {near[0]!r}?"
    elsewhere = [".".join(path) for path in section_paths(model) if path[-1] == normal]
    if normal in TableSettings.model_fields:
        elsewhere.insert(0, f"tables.<name>.{normal}")
    if elsewhere:
        return f"unknown key; did you mean {' or '.join(repr(path) for path in elsewhere)}?"
    return f"unknown key; known here: {', '.join(known)}"


def annotation_at(place: KeyPath, model: type[BaseModel]) -> object:
    """The type of the setting at a place; None if there is no such setting."""
    here: object = model
    for step in place:
        models = _models(here)
        if models and step in models[0].model_fields:
            here = models[0].model_fields[step].annotation
            continue
        inner = [get_args(kind)[1] for kind in _members(here) if get_origin(kind) is dict]
        if not inner:
            return None
        here = inner[0]
    return here


def section_paths(model: type[BaseModel], above: KeyPath = ()) -> Iterator[KeyPath]:
    """The places of all settings outside tables, sections' own excluded."""
    for name, field in model.model_fields.items():
        models = _models(field.annotation)
        if models:
            yield from section_paths(models[0], (*above, name))
        else:
            yield (*above, name)


def is_section(annotation: object) -> bool:
    """Whether a setting of this type is a section with settings of its own."""
    return bool(_models(annotation))


def takes_collection(annotation: object) -> bool:
    """Whether a value of this type may be a list or a mapping."""
    return any(get_origin(kind) in (dict, tuple, list) for kind in _members(annotation))


def takes_text_only(annotation: object) -> bool:
    """Whether a value of this type is text whatever it looks like (`8080`, `true`)."""
    return not {int, float, bool} & set(_members(annotation))


def _is_secret(place: KeyPath, model: type[BaseModel]) -> bool:
    """Whether a secret belongs at the place, or at one above it."""
    return any(
        SecretStr in _members(annotation_at(place[:length], model))
        for length in range(1, len(place) + 1)
    )


def _models(annotation: object) -> list[type[BaseModel]]:
    return [
        kind
        for kind in _members(annotation)
        if isinstance(kind, type) and issubclass(kind, BaseModel)
    ]


def _members(annotation: object) -> tuple[object, ...]:
    """A union's members, `Annotated` and None taken off."""
    origin = get_origin(annotation)
    if origin is dict or origin is tuple or origin is list or origin is None:
        return () if annotation is type(None) else (annotation,)
    if hasattr(annotation, "__metadata__"):
        return _members(get_args(annotation)[0])
    return tuple(member for part in get_args(annotation) for member in _members(part))
