"""The configuration: the only reader of files and of the environment (design.md section 10).

    flag  >  environment QDRANT_BRIDGE_SECTION__KEY  >  bridge.yaml  >  default

`load` puts the layers on top of each other, reads the files that hold secrets, checks everything
and remembers where each value came from. Whatever is wrong is a UsageError that names every place
at once. Nothing else in the project looks at `os.environ` or opens a configuration file; libpq
reads its own variables (PGPASSWORD, PGSERVICEFILE) by itself.

A secret is given as a value or as a file, never as both in one layer; a higher layer's one replaces
the lower layer's other. Secrets are `SecretStr` and do not appear in any message.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import SecretStr, ValidationError

from bridge.config_environment import CONFIG_VARIABLE, environment_values
from bridge.config_errors import describe, is_section
from bridge.config_file import ConfigFile, KeyPath, read_config_file, read_text
from bridge.config_layers import DEFAULT, FILE, FLAG, Layers, TableChoice
from bridge.config_models import (
    HttpSettings,
    KafkaSettings,
    MigrationSettings,
    PineconeSettings,
    PostgresSettings,
    QdrantSettings,
    Settings,
    SyncSettings,
    WindowSettings,
)
from bridge.config_tables import (
    NOT_NULL,
    HnswSettings,
    IdSettings,
    QuantizationSettings,
    TableSettings,
    VectorSettings,
    WhereLiteral,
    WhereValue,
)
from bridge.errors import UsageError
from bridge.redaction import HIDDEN, redact_connection, redact_url
from bridge.table_names import format_table_name, parse_table_name

__all__ = [
    "NOT_NULL",
    "Effective",
    "HnswSettings",
    "HttpSettings",
    "IdSettings",
    "KafkaSettings",
    "MigrationSettings",
    "PineconeSettings",
    "PostgresSettings",
    "QdrantSettings",
    "QuantizationSettings",
    "Settings",
    "SyncSettings",
    "TableChoice",
    "TableSettings",
    "VectorSettings",
    "WhereLiteral",
    "WhereValue",
    "WindowSettings",
    "format_table_name",
    "json_schema",
    "load",
    "parse_table_name",
]

# (value, file that holds it)
_SECRETS: tuple[tuple[KeyPath, KeyPath], ...] = (
    (("postgres", "url"), ("postgres", "url_file")),
    (("pinecone", "api_key"), ("pinecone", "api_key_file")),
    (("qdrant", "api_key"), ("qdrant", "api_key_file")),
    (("kafka", "password"), ("kafka", "password_file")),
)
# Paths in a file are relative to that file, so that a command works from every directory.
_PATHS: tuple[KeyPath, ...] = (
    *(file for _, file in _SECRETS),
    ("qdrant", "ca_file"),
    ("pinecone", "ca_file"),
    ("pinecone", "ids_file"),
)
_COMPLETION_INDEX = "JOB_COMPLETION_INDEX"
_LINES_SHOWN = 9  # each may take two lines of a screen of 24


@dataclass(frozen=True, slots=True, kw_only=True)
class Effective:
    """The configuration in force. `origins` has what was set, by dotted path; the rest is default.

    `file` is the file that was read, if one was.
    """

    settings: Settings
    origins: Mapping[str, str]
    file: Path | None

    def origin(self, path: str) -> str:
        """`flag`, `environment QDRANT_BRIDGE_...`, `file bridge.yaml` or `default`.

        Of a section or a mapping: `default` if nothing in it was set, else where the first was.
        """
        if path in self.origins:
            return self.origins[path]
        below = (origin for name, origin in self.origins.items() if name.startswith(path + "."))
        return next(below, DEFAULT)

    def redacted(self) -> dict[str, Any]:
        """All settings as plain JSON values, secrets hidden."""
        shown = _plain(self.settings.model_dump())
        assert isinstance(shown, dict)  # noqa: S101 - a model's dump is one
        if self.settings.postgres.url is not None:
            shown["postgres"]["url"] = redact_connection(
                self.settings.postgres.url.get_secret_value()
            )
        shown["qdrant"]["url"] = redact_url(self.settings.qdrant.url)
        return shown

    def entries(self) -> Iterator[tuple[str, Any, str]]:
        """Every setting as (dotted path, plain value with secrets hidden, origin)."""
        for place, value in _leaves(self.redacted(), ()):
            path = ".".join(place)
            yield path, value, self.origin(path)


def load(
    path: Path | None,
    flags: Mapping[str, object],
    environ: Mapping[str, str],
    *,
    table: TableChoice | None = None,
) -> Effective:
    """The configuration from all layers. UsageError if anything in it is wrong.

    `path`: the file, else the one that QDRANT_BRIDGE_CONFIG names, else none. `flags`: dotted path
    of a setting outside `tables` -> value, None where the flag was not given. `table`: what flags
    say of one table; it alone is then left in `settings.tables`.
    """
    if path is None and environ.get(CONFIG_VARIABLE):
        path = Path(environ[CONFIG_VARIABLE])
    file = None if path is None else read_config_file(path)
    layers = _layers(file, flags, environ)
    if table is not None:
        layers.choose_table(table)
    _take_shard_index(layers, environ)
    _resolve_paths(layers, file)
    for value_place, file_place in _SECRETS:
        _read_secret(layers, value_place, file_place)
    return Effective(settings=_validated(layers, file), origins=layers.named_origins(), file=path)


def json_schema() -> dict[str, Any]:
    """The JSON schema (draft 2020-12) of `bridge.yaml`, for editors."""
    schema = Settings.model_json_schema()
    # An empty section or table is null in YAML, and means its defaults.
    nothing = {"type": "null"}
    properties = schema["properties"]
    for name, field in Settings.model_fields.items():
        if is_section(field.annotation) and "$ref" in properties[name]:
            reference = {"$ref": properties[name].pop("$ref")}
            properties[name]["anyOf"] = [reference, nothing]
    properties["tables"]["additionalProperties"] = {
        "anyOf": [properties["tables"]["additionalProperties"], nothing]
    }
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def _layers(
    file: ConfigFile | None, flags: Mapping[str, object], environ: Mapping[str, str]
) -> Layers:
    layers = Layers(counterparts=dict(_SECRETS) | {file: value for value, file in _SECRETS})
    if file is not None:
        layers.take_file(file.values, f"{FILE} {file.path}")
    for place, value, variable in environment_values(environ):
        layers.override(place, value, f"environment {variable}")
    for path, value in flags.items():
        if value is not None:
            layers.override(tuple(path.split(".")), value, FLAG)
    return layers


def _take_shard_index(layers: Layers, environ: Mapping[str, str]) -> None:
    """`/n` -> `i/n` with the number that Kubernetes gives to each pod of an indexed job."""
    place = ("migration", "shard")
    count = layers.get(place)
    if not isinstance(count, str) or not count.startswith("/"):
        return
    index = environ.get(_COMPLETION_INDEX, "")
    if not index:
        raise UsageError(
            f"migration.shard is {count!r}, but {_COMPLETION_INDEX} is not set",
            hint="give the shard's number as well, from 0: 0/4; or run as an indexed job",
        )
    origin = f"{layers.origin(place)}, environment {_COMPLETION_INDEX}"
    layers.replace(place, index + count, origin)


def _resolve_paths(layers: Layers, file: ConfigFile | None) -> None:
    for place in _PATHS:
        value = layers.get(place)
        if file and isinstance(value, str) and value and layers.origin(place).startswith(FILE):
            layers.replace(place, str(file.path.parent / value), layers.origin(place))


def _read_secret(layers: Layers, value_place: KeyPath, file_place: KeyPath) -> None:
    """Puts the text of `*_file`, less the newline at its end, where the value would stand."""
    path = layers.get(file_place)
    if not isinstance(path, str) or not path:
        return
    if layers.get(value_place) is not None:
        raise UsageError(
            f"{'.'.join(value_place)} and {'.'.join(file_place)} are both set "
            f"({layers.origin(file_place)})",
            hint="keep one of them; the file is the safer place",
        )
    text = read_text(Path(path), what=".".join(file_place)).rstrip("\r\n")
    if not text or "\n" in text or "\0" in text:
        raise UsageError(
            f"{'.'.join(file_place)} file {path}: " + ("more than one line" if text else "empty"),
            hint="the file holds the secret and nothing else",
        )
    layers.replace(value_place, text, f"file {path}")


def _validated(layers: Layers, file: ConfigFile | None) -> Settings:
    def source_of(place: KeyPath) -> str:
        origin = layers.origin(place)
        if file is not None and origin in (DEFAULT, f"{FILE} {file.path}"):
            for length in range(len(place), 0, -1):
                if line := file.lines.get(place[:length]):
                    return f"{file.path} line {line}"
        return "" if origin == DEFAULT else origin

    try:
        return Settings.model_validate(layers.values)
    except ValidationError as error:
        raise UsageError(
            _one_screen(describe(error, Settings, source_of, file.lines if file else {})),
            hint="qdrant-bridge config --schema prints every key and what it takes",
        ) from error


def _one_screen(lines: list[str]) -> str:
    if len(lines) == 1:
        return lines[0]
    more = len(lines) - _LINES_SHOWN
    shown = [*lines[:_LINES_SHOWN], *([f"and {more} more"] if more > 0 else [])]
    return f"{len(lines)} settings are wrong:" + "".join(f"\n  {line}" for line in shown)


def _plain(value: object) -> object:
    """JSON values only; secrets hidden, tuples as lists."""
    if isinstance(value, SecretStr):
        return HIDDEN
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def _leaves(value: Mapping[str, Any], above: KeyPath) -> Iterator[tuple[KeyPath, Any]]:
    for key, item in value.items():
        if isinstance(item, Mapping) and item:
            yield from _leaves(item, (*above, key))
        else:
            yield (*above, key), item
