"""Settings from environment variables: `QDRANT_BRIDGE_POSTGRES__URL` is `postgres.url`.

Every setting outside `tables` has one. An empty variable counts as not set, since that is what
compose files and shells make of an absent one. An unknown name is refused, except the variables
that Kubernetes puts into every container beside a service called `qdrant-bridge`
(external specification: Kubernetes, "Discovering services", environment variables).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from difflib import get_close_matches

import yaml

from bridge.config_errors import annotation_at, section_paths, takes_collection, takes_text_only
from bridge.config_file import KeyPath, parse_scalar
from bridge.config_models import Settings
from bridge.errors import UsageError

PREFIX = "QDRANT_BRIDGE_"
CONFIG_VARIABLE = f"{PREFIX}CONFIG"
"""The configuration file's path, where no flag names one."""

_SERVICE_LINK = re.compile(
    r"SERVICE_(?:HOST|PORT(?:_[A-Z0-9_]+)?)|PORT(?:_\d+_(?:TCP|UDP|SCTP)(?:_(?:PROTO|PORT|ADDR))?)?"
)


def variable_of(place: KeyPath) -> str:
    """The variable of a setting: ("qdrant", "api_key") -> QDRANT_BRIDGE_QDRANT__API_KEY."""
    return PREFIX + "__".join(place).upper()


def environment_values(environ: Mapping[str, str]) -> Iterator[tuple[KeyPath, object, str]]:
    """(place, value, variable) of every setting that the environment has."""
    known = {variable_of(place): place for place in section_paths(Settings) if place[0] != "tables"}
    for variable in sorted(environ):
        text = environ[variable]
        name = variable.removeprefix(PREFIX)
        if name == variable or variable == CONFIG_VARIABLE or _SERVICE_LINK.fullmatch(name):
            continue
        if variable not in known:
            raise _unknown(variable, list(known))
        if text.strip():
            yield known[variable], _value(known[variable], text, variable), variable


def _unknown(variable: str, known: list[str]) -> UsageError:
    if variable.startswith(f"{PREFIX}TABLES"):
        return UsageError(
            f"environment {variable}: tables are described in the configuration file only",
            hint="put it under tables: in bridge.yaml",
        )
    near = get_close_matches(variable, known, n=1, cutoff=0.6)
    suggestion = f"; did you mean {near[0]}?" if near else ""
    return UsageError(
        f"environment {variable}: no such setting{suggestion}",
        hint=f"a variable is {PREFIX}, the section, two underscores and the key, in capitals",
    )


def _value(place: KeyPath, text: str, variable: str) -> object:
    """Text for a setting that is text; else what the text would mean in the file."""
    annotation = annotation_at(place, Settings)
    collection = takes_collection(annotation) and text.strip()[0] in "[{"
    if takes_text_only(annotation) and not collection:
        return text
    try:
        return parse_scalar(text.strip())
    except yaml.YAMLError:
        raise UsageError(
            f"environment {variable}: it cannot be read",
            hint="write it as in the file, on one line: [a, b] or {key: value}",
        ) from None  # PyYAML's error quotes the value
