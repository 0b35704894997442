"""What the documents name is there: modules, functions, codes, checks, figures, links."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
import typer

import bridge.errors
from backfill import messages, pgvector
from backfill.pgvector import Options
from bridge import retry, state, workers, writer
from bridge.qdrant import edge_space, server
from cli.main import app
from tests.docs.markdown import DOCUMENTS, ROOT, Document, bare, read

_NAMED = re.compile(r"((?:bridge|backfill|cli|tests)/[\w/]*(?:\.py)?)(?:::([\w.]+))?")
_CODE = re.compile(r'\bcode="([A-Z_]+)"')
_CHECK = re.compile(
    r'(?:check=|_error\(\s*|_ok\(\s*|_blocked\(\s*|_blocker\(\s*)"([a-z_]+\.[a-z_]+)"'
)
PATHS = [*DOCUMENTS, "CHANGELOG.md"]


# --- modules and functions ------------------------------------------------------------------------


def _named_places() -> Iterator[tuple[str, str, str]]:
    for path in DOCUMENTS:
        for code in read(path).code:
            match = _NAMED.fullmatch(code)
            if match is not None:
                yield path, match[1], match[2] or ""


@pytest.mark.parametrize(("document", "module", "name"), sorted(set(_named_places())))
def test_a_named_module_or_function_is_there(document: str, module: str, name: str) -> None:
    place = ROOT / module
    assert place.exists(), f"{document} names {module}"
    if name:
        assert name in set(_definitions(place)), f"{document} names {module}::{name}"


def _definitions(path: Path) -> Iterator[str]:
    """Functions, classes, their methods and the constants of a module."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name
        if isinstance(node, ast.ClassDef):
            yield from (
                f"{node.name}.{i.name}" for i in node.body if isinstance(i, ast.FunctionDef)
            )
        if isinstance(node, ast.Assign):
            yield from (target.id for target in node.targets if isinstance(target, ast.Name))
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            yield node.target.id


def test_the_architecture_answers_seven_questions() -> None:
    assert len(re.findall(r"^### \d\. .*\?$", read("docs/architecture.md").text, re.MULTILINE)) == 7


def test_the_records_are_all_kinds_that_there_are() -> None:
    rows = read("docs/architecture.md").table("records")
    assert {bare(row[0]) for row in rows} <= set(get_args(state.Kind))


# --- codes and checks -----------------------------------------------------------------------------


_PAGES = ("docs/operations.md", "docs/sync.md", "docs/debezium.md")


@pytest.fixture(scope="module")
def sources() -> str:
    """The text of every module of the product."""
    packages = ("bridge", "backfill", "sync", "cli")
    files = [path for name in packages for path in sorted((ROOT / name).rglob("*.py"))]
    return "\n".join(path.read_text(encoding="utf-8") for path in files)


def test_every_code_that_can_be_printed_is_explained(sources: str) -> None:
    explained = {
        code
        for page in _PAGES
        for row in read(page).table("codes")
        for code in re.findall(r"`([A-Z_]+)`", row[0])
    }
    assert explained == set(_CODE.findall(sources))


def test_every_check_of_doctor_is_explained(sources: str) -> None:
    explained = {
        name
        for page in _PAGES
        for row in read(page).table("findings")
        for name in re.findall(r"`(.+?)`", row[0])
    }
    not_by_doctor = {"table.partition"}  # of a check that no command runs
    assert explained == set(_CHECK.findall(sources)) - not_by_doctor


@pytest.mark.parametrize("path", ["README.md", "docs/operations.md"])
def test_every_exit_code_is_explained(path: str) -> None:
    classes: list[type[bridge.errors.BridgeError]] = [
        bridge.errors.BridgeError,
        *bridge.errors.BridgeError.__subclasses__(),
    ]
    codes = {0, 130, 143} | {one.exit_code for one in classes}
    assert {int(row[0]) for row in read(path).table("exit codes")} == codes


# --- figures --------------------------------------------------------------------------------------

FIGURES: list[tuple[str, str, Any]] = [
    ("README.md", "outages waited out for {} s", f"{messages.PATIENCE_SECONDS:.0f}"),
    ("README.md", "above\n{} in one run", f"{Options(postgres_url='').dead_letter_limit:,}"),
    ("docs/operations.md", "for {} s counted", f"{messages.PATIENCE_SECONDS:.0f}"),
    ("docs/operations.md", "{} s to", retry.FIRST_CEILING_SECONDS),
    ("docs/operations.md", "s to {} s", f"{retry.LAST_CEILING_SECONDS:.0f}"),
    ("docs/operations.md", "about {} MiB and", pgvector._CHUNK_BYTES >> 20),
    ("docs/operations.md", "and {} to", pgvector._CHUNK_ROWS[0]),
    ("docs/operations.md", "to {} rows", f"{pgvector._CHUNK_ROWS[1]:,}"),
    ("docs/operations.md", "at most {} requests in flight", writer.REQUESTS_IN_FLIGHT),
    (
        "docs/operations.md",
        "ends at {} rows",
        messages.Task.__dataclass_fields__["batch_rows"].default,
    ),
    ("docs/operations.md", "or {} MiB, whichever", messages.BATCH_BYTES >> 20),
    ("docs/operations.md", "that {} MiB are free", edge_space.RESERVE_BYTES >> 20),
    ("docs/operations.md", "takes {} workers with it", workers._DEATHS_ALLOWED),
    (
        "docs/operations.md",
        "Above {} in one run",
        f"{Options(postgres_url='').dead_letter_limit:,}",
    ),
    ("docs/configuration.md", "{} MiB of rows", messages.BATCH_BYTES >> 20),
    ("README.md", "Qdrant {}, or newer", ".".join(map(str, server.MINIMUM_VERSION[:2]))),
]


@pytest.mark.parametrize(("path", "phrase", "figure"), FIGURES)
def test_a_figure_is_the_one_in_the_code(path: str, phrase: str, figure: Any) -> None:
    wanted = " ".join(phrase.format(figure).split())
    assert wanted in " ".join(read(path).text.split())


# --- links, commands, manners ---------------------------------------------------------------------


@pytest.mark.parametrize("path", DOCUMENTS)
def test_links_lead_somewhere(path: str) -> None:
    document = read(path)
    for link in document.links:
        if "://" in link:
            continue
        file, _, anchor = link.partition("#")
        there = (ROOT / path).parent / file if file else ROOT / path
        assert there.is_file(), f"{path}: {link}"
        if anchor:
            text = there.read_text(encoding="utf-8")
            assert anchor in Document(path=file, text=text).anchors, f"{path}: {link}"


def _parsers() -> Iterator[Any]:
    """Every command and group, the outermost one first."""
    waiting: list[Any] = [typer.main.get_command(app)]
    while waiting:
        parser = waiting.pop()
        yield parser
        waiting += getattr(parser, "commands", {}).values()


PARSERS = list(_parsers())
COMMANDS = set(PARSERS[0].commands)
# Of docker, kubectl, helm, pip, systemd and this project's scripts.
_OTHERS = {
    "--build-arg",
    "--enable",
    "--from-file",
    "--long",
    "--namespace",
    "--no-deps",
    "--now",
    "--previous",
    "--profile",
    "--quiet",
    "--read-only",
    "--require-hashes",
    "--rm",
    "--user",
    "--values",
    "--volumes",
    "--wait",
}
FLAGS = {"--help"} | {
    name for parser in PARSERS for option in parser.params for name in option.opts
}


@pytest.mark.parametrize("path", PATHS)
def test_the_commands_that_are_named_exist(path: str) -> None:
    document = read(path)
    for text in [*document.code, *(block.text for block in document.blocks)]:
        assert set(re.findall(r"qdrant-bridge ([a-z][a-z-]*)", text)) <= COMMANDS


@pytest.mark.parametrize("path", PATHS)
def test_the_flags_that_are_named_exist(path: str) -> None:
    assert set(re.findall(r"(?<![\w-])--[a-z]+(?:[.-][a-z]+)*", read(path).text)) - _OTHERS <= FLAGS


@pytest.mark.parametrize("path", PATHS)
def test_nothing_of_one_machine_is_named(path: str) -> None:
    text = read(path).text
    assert not re.search(r"/(?:work|root|home|tmp)/", text)
    assert not re.search(r"pypi\.|registry\.|artifactory|127\.0\.0\.1:\d{5}", text)


def test_the_glossary_has_one_line_a_word_in_order() -> None:
    words = re.findall(r"^\| \*\*(.+?)\*\* \| .+ \|$", read("docs/glossary.md").text, re.MULTILINE)
    assert len(words) > 20
    assert words == sorted(words, key=str.lower)


def test_the_first_screen_has_the_two_commands_and_a_real_use() -> None:
    first = "\n".join(read("README.md").text.splitlines()[:24])
    for text in ("script/demo", "script/test", "qdrant-bridge backfill pgvector --pg.url"):
        assert text in first
