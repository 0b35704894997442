"""Pages of the documentation's site that are not written by hand; a hook of mkdocs.

    commands.md     every command with its flags, from Typer
    settings.md     every setting, from the configuration's JSON schema
    readme.md, changelog.md, contributing.md, security.md, benchmarks.md: the documents outside of docs/

External specification: MkDocs, "Developer guide: plugins", events on_files and on_page_markdown.
Links are written for people who read the files; those that leave docs/ are turned to these pages.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
OUTSIDE = {
    "README.md": "readme.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "benchmarks/README.md": "benchmarks.md",
    "deploy/debezium/README.md": "debezium-files.md",
}
_LINK = re.compile(r"\[([^][]*)\]\(([^)\s#]+)(#[^)\s]*)?\)")
sys.path.insert(0, str(ROOT))


# --- mkdocs' events -------------------------------------------------------------------------------


def on_files(files: Any, config: Any) -> Any:
    """Add the pages."""
    from mkdocs.structure.files import File

    made = {"commands.md": commands_page(), "settings.md": settings_page()}
    made |= {page: (ROOT / path).read_text("utf-8") for path, page in OUTSIDE.items()}
    for page, text in made.items():
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Turn links that leave docs/ to where their target is on the site, else to code."""
    written_at = {made: path for path, made in OUTSIDE.items()}.get(
        page.file.src_uri, f"docs/{page.file.src_uri}"
    )
    return _LINK.sub(lambda match: _link(match, written_at), markdown)


def _link(match: re.Match[str], written_at: str) -> str:
    text, target, anchor = match[1], match[2], match[3] or ""
    if "://" in target or target.startswith("mailto:"):
        return match[0]
    path = (ROOT / written_at).parent.joinpath(target).resolve()
    inside = str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else target
    if inside in OUTSIDE:
        return f"[{text}]({OUTSIDE[inside]}{anchor})"
    if inside.startswith("docs/"):
        return f"[{text}]({inside.removeprefix('docs/')}{anchor})"
    if not path.exists():
        raise ValueError(f"{written_at}: there is no {target}")
    return text if text.strip("`") == inside else f"{text} (`{inside}`)"


# --- commands -------------------------------------------------------------------------------------


def commands_page() -> str:
    """Every command that is not hidden, with its parameters."""
    import typer

    from cli.main import app

    lines = [
        "# Commands",
        "",
        "Made from the program; `qdrant-bridge COMMAND --help` shows the same. Booleans also take `=true`",
        "and `=false`. Exit codes: [operations.md](operations.md#exit-codes).",
    ]
    for name, command in _commands(typer.main.get_command(app), "qdrant-bridge"):
        lines += ["", f"## {name}", "", _sentence(command.help), ""]
        rows = [_row(parameter) for parameter in command.params if not parameter.hidden]
        if rows:
            lines += ["| parameter | value | default | |", "|---|---|---|---|", *rows]
    return "\n".join(lines) + "\n"


def _commands(command: Any, name: str) -> Iterator[tuple[str, Any]]:
    below = getattr(command, "commands", None)
    if below is None:
        yield name, command
        return
    for part in sorted(below):
        if not below[part].hidden:
            yield from _commands(below[part], f"{name} {part}")


def _row(parameter: Any) -> str:
    flags = sorted([*parameter.opts, *parameter.secondary_opts], key=lambda flag: -len(flag))
    if not flags[0].startswith("-"):
        flags = [parameter.display_name_raw]
    value = parameter.metavar or parameter.display_name_raw.upper()
    if getattr(parameter, "is_flag", False):
        value = ""
    default = parameter.default
    shown = "" if default is None or default is False or callable(default) else f"`{default}`"
    told = getattr(parameter, "help", None) or ""
    cells = (
        " ".join(f"`{flag}`" for flag in flags),
        value and f"`{value}`",
        shown,
        _sentence(told),
    )
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _sentence(text: str | None) -> str:
    plain = re.sub(r"\[/?[a-z ]+\]", "", text or "")  # Rich's markup
    return " ".join(plain.split())


# --- settings -------------------------------------------------------------------------------------


def settings_page() -> str:
    """Every setting of bridge.yaml with its type, default, meaning and variable."""
    from bridge.config import json_schema

    schema = json_schema()
    lines = [
        "# Every setting",
        "",
        "Made from the program; what the settings are for is in [configuration.md](configuration.md).",
        "`qdrant-bridge config --schema` prints the same as JSON schema. `*` stands for a name of yours.",
        "",
        "| setting | type | default | meaning |",
        "|---|---|---|---|",
    ]
    for path, one in _settings(schema, schema, ()):
        default = one.get("default")
        shown = "" if default is None else f"`{_yaml(default)}`"
        cells = (f"`{'.'.join(path)}`", _type(one), shown, _sentence(one.get("description")))
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def _settings(
    schema: Mapping[str, Any], node: Mapping[str, Any], above: tuple[str, ...]
) -> Iterator[tuple[tuple[str, ...], Mapping[str, Any]]]:
    for name, one in node["properties"].items():
        sections = list(_sections(schema, one))
        if not sections:
            yield (*above, name), one
        for step, section in sections:
            yield from _settings(schema, section, (*above, name, *step))


def _sections(
    schema: Mapping[str, Any], one: Mapping[str, Any]
) -> Iterator[tuple[tuple[str, ...], Mapping[str, Any]]]:
    for part in one.get("anyOf") or one.get("oneOf") or [one]:
        if "$ref" in part:
            yield (), schema["$defs"][part["$ref"].rpartition("/")[2]]
        named = part.get("additionalProperties")
        for other in (named.get("anyOf") or [named]) if isinstance(named, dict) else ():
            if "$ref" in other:
                yield ("*",), schema["$defs"][other["$ref"].rpartition("/")[2]]


_TYPES = {
    "string": "text",
    "boolean": "true or false",
    "integer": "integer",
    "number": "number",
    "array": "list",
    "object": "mapping",
}


def _type(one: Mapping[str, Any]) -> str:
    told: list[str] = []
    for part in one.get("anyOf") or one.get("oneOf") or [one]:
        if "enum" in part:
            told.append(", ".join(f"`{word}`" for word in part["enum"]))
        elif "const" in part:
            told.append(f"`{part['const']}`")
        elif part.get("type") != "null":
            told.append(_TYPES.get(part.get("type", ""), "mapping"))
    return " or ".join(dict.fromkeys(told))


def _yaml(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
