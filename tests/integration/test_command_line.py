"""The command line as a user meets it: flags, output, help; on real databases."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import typer

from cli.main import app
from tests.support.command import ROOT
from tests.support.databases import Database
from tests.support.shell import DOCS, command, ok, report

PASSWORD: Final = "kanarienvogel-7f3a"


def _every_command() -> Iterator[tuple[str, ...]]:
    todo: list[tuple[tuple[str, ...], Any]] = [((), typer.main.get_command(app))]
    while todo:
        words, command_ = todo.pop()
        yield words
        todo += [((*words, name), one) for name, one in getattr(command_, "commands", {}).items()]


COMMANDS: Final = tuple(_every_command())


@pytest.fixture
def edge(tmp_path: Path) -> str:
    """The url of an embedded target that is not there yet."""
    return f"edge://{tmp_path}/edge"


# --- flags ---------------------------------------------------------------------------------------


def test_flags_with_and_without_an_equals_sign_mean_the_same(database: Database, edge: str) -> None:
    database.execute(DOCS)
    pairs = {
        "--pg.url": database.url,
        "--pg.table": "docs",
        "--pg.key-column": "id",
        "--pg.columns": "id,title,embedding",
        "--qdrant.url": edge,
        "--qdrant.collection": "other",
        "--qdrant.distance-metric": "embedding=dot",
    }
    joined = report("plan", *(f"{flag}={value}" for flag, value in pairs.items()))
    apart = report("plan", *(word for pair in pairs.items() for word in pair))
    assert joined == apart
    columns = joined["tables"]["public.docs"]["columns"]
    copied = [row["column"] for row in columns if row["destination"] != "not copied"]
    assert copied == ["id", "title", "embedding"]


def test_lists_and_maps_may_be_repeated(database: Database, edge: str) -> None:
    database.execute(DOCS)
    here = (f"--pg.url={database.url}", "--pg.table=docs", f"--qdrant.url={edge}")
    together = report(
        "plan", *here, "--pg.columns=id,embedding,half",
        "--qdrant.distance-metric=embedding=dot;half=euclid",
    )  # fmt: skip
    repeated = report(
        "plan", *here, "--pg.columns=id", "--pg.columns", "embedding,half",
        "--qdrant.distance-metric", "embedding=dot", "--qdrant.distance-metric=half=euclid",
    )  # fmt: skip
    assert together == repeated
    vectors = together["tables"]["public.docs"]["collection"]["vectors"]
    assert {v["name"]: v["distance"] for v in vectors} == {"embedding": "dot", "half": "euclid"}


@pytest.mark.parametrize("alias", ["pgvector", "pg"])
@pytest.mark.parametrize("flag", ["--migration.create-collection=false", "-c=false"])
def test_booleans_take_a_value(database: Database, edge: str, flag: str, alias: str) -> None:
    database.execute(DOCS)
    here = (f"--pg.url={database.url}", "--pg.table=docs", f"--qdrant.url={edge}")
    outcome = command("backfill", alias, *here, flag).require(2)
    assert "collection docs does not exist" in outcome.err


def test_restart_is_a_boolean_too(database: Database, edge: str) -> None:
    database.execute("CREATE TABLE docs (id int PRIMARY KEY, v vector(3))")
    database.execute("INSERT INTO docs VALUES (1, '[1,2,3]')")
    flags = backfill(database, edge)
    ok(*flags, "-c")
    assert "was copied before" in ok(*flags, "--migration.restart=false").err
    for restart in ("--migration.restart=true", "--migration.restart"):
        assert "was copied before" not in ok(*flags, restart).err


@pytest.mark.parametrize(
    ("flag", "traced"),
    [
        ("--debug", True),
        ("--trace", True),
        ("--debug=true", True),
        ("--trace=true", True),
        ("--debug=false", False),
        ("--trace=false", False),
    ],
)
def test_debug_and_trace_are_one(flag: str, traced: bool) -> None:
    outcome = command("plan", "--pg.table=docs", flag).require(2)
    assert ("Traceback" in outcome.err) == traced
    assert "error: no Postgres url" in outcome.err


def test_the_environment_overrides_the_file_and_a_flag_the_environment(tmp_path: Path) -> None:
    path = tmp_path / "bridge.yaml"
    path.write_text("qdrant: {url: 'edge:///file'}\n")

    def url(*flags: str, **environ: str) -> str:
        told = report("config", f"--config={path}", *flags, environ=environ)
        return str(told["settings"]["qdrant"]["url"])

    assert url() == "edge:///file"
    assert url(QDRANT_BRIDGE_QDRANT__URL="edge:///variable") == "edge:///variable"
    flag = "--qdrant.url=edge:///flag"
    assert url(flag, QDRANT_BRIDGE_QDRANT__URL="edge:///variable") == "edge:///flag"


def backfill(database: Database, edge: str) -> tuple[str, ...]:
    """The words that copy `docs`."""
    source, target = f"--pg.url={database.url}", f"--qdrant.url={edge}"
    return ("backfill", "pg", source, "--pg.table=docs", target)


# --- output --------------------------------------------------------------------------------------


def test_progress_is_plain_lines_where_there_is_no_terminal(database: Database, edge: str) -> None:
    database.execute(DOCS)
    flags = backfill(database, edge)
    outcome = ok(*flags)
    assert outcome.out == ""
    first, *_, heading, row = outcome.err.splitlines()
    assert re.fullmatch(r"public\.docs -> docs: (\d) of \1 chunks to copy, \d workers?", first)
    assert heading.split("  ")[0] == "table"
    assert row.split()[:5] == ["public.docs", "docs", "1", "1", "0"]
    assert "\x1b" not in outcome.err


def test_json_is_one_object_and_nothing_else(database: Database, edge: str) -> None:
    database.execute(DOCS)
    flags = backfill(database, edge)
    copied = report(*flags)
    assert set(copied) == {"version", "pipeline", "ok", "tables"}
    table = copied["tables"]["public.docs"]
    for name, value in {
        "collection": "docs",
        "complete": True,
        "rows_read": 1,
        "rows_written": 1,
        "dead_letters": 0,
        "source_count": 1,
        "target_count": 1,
        "problems": [],
    }.items():
        assert table[name] == value, name


def test_a_terminal_gets_a_bar(database: Database, edge: str) -> None:
    database.execute("CREATE TABLE docs (id int PRIMARY KEY, v vector(3))")
    database.execute("INSERT INTO docs SELECT i, '[1,2,3]' FROM generate_series(1, 500) i")
    shown = _in_a_terminal(*backfill(database, edge))
    assert re.search(r"public\.docs -> docs: (\d) of \1 chunks to copy", shown)
    assert "━" in shown
    assert re.search(r"500 of ~500 rows, [\d,]+ rows/s, [\d.]+ MB/s, .*0 failed", shown)


def _in_a_terminal(*arguments: str) -> str:
    """What a command shows on a terminal of 160 columns."""
    parent, child = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "cli.main", *arguments],
        cwd=ROOT,
        env={**os.environ, "COLUMNS": "160", "TERM": "xterm-256color"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=child,
    )
    os.close(child)
    shown = bytearray()
    # At the end of the last writer Linux raises, others return nothing.
    with contextlib.suppress(OSError):
        while piece := os.read(parent, 65536):
            shown += piece
    os.close(parent)
    assert process.wait() == 0
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode())


# --- help ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", COMMANDS, ids=lambda words: " ".join(words) or "qdrant-bridge")
def test_help_can_be_read_at_80_columns(words: tuple[str, ...]) -> None:
    outcome = ok(*words, "--help", environ={"COLUMNS": "80"})
    assert outcome.err == ""
    assert ok(*words, "-h", environ={"COLUMNS": "80"}).out == outcome.out
    assert all(len(line) <= 80 for line in outcome.out.splitlines())
    assert "…" not in outcome.out  # no name of a flag is cut off
    assert "Usage: qdrant-bridge" in outcome.out
    assert "─ General ─" in outcome.out
    assert "xample" in outcome.out or "Begin with" in outcome.out
    assert "Traceback" not in outcome.out


def test_help_of_the_backfill_has_the_flags_that_users_of_qdrant_migration_know() -> None:
    text = ok("backfill", "pgvector", "--help", environ={"COLUMNS": "80"}).out
    for panel in ("Postgres", "Qdrant", "Migration", "General"):
        assert f"─ {panel} ─" in text
    for flag in (
        "--pg.url", "--pg.table", "--pg.key-column", "--pg.columns", "--qdrant.url",
        "--qdrant.api-key", "--qdrant.collection", "--qdrant.distance-metric",
        "--migration.num-workers", "--migration.batch-size", "-b", "--migration.batch-delay",
        "--migration.restart", "--migration.create-collection", "-c",
        "--migration.offsets-collection", "--skip-tls-verification", "--debug", "--trace", "--version",
    ):  # fmt: skip
        assert re.search(rf"(?<![\w-]){re.escape(flag)}(?![\w.-])", text), flag


def test_commands_come_in_the_order_of_their_use() -> None:
    text = ok("--help", environ={"COLUMNS": "80"}).out
    found = re.findall(r"^│ ([a-z-]+) ", text.partition("Commands")[2], flags=re.MULTILINE)
    order = ["demo", "init", "plan", "doctor", "backfill", "status", "dead-letters", "config"]
    assert [name for name in found if name in order] == order
    assert found[-1] == "config"


@pytest.mark.parametrize("words", [(), ("backfill",), ("dead-letters",)])
def test_a_group_alone_prints_its_help_and_is_wrong_usage(words: tuple[str, ...]) -> None:
    outcome = command(*words).require(2)
    assert "Usage: qdrant-bridge" in outcome.out
    assert outcome.err == ""


@pytest.mark.parametrize("words", [("--version",), ("backfill", "pgvector", "--version")])
def test_the_version(words: tuple[str, ...]) -> None:
    assert re.fullmatch(r"qdrant-bridge \d+\.\d+\.\d+\n", ok(*words).out)


@pytest.mark.parametrize(
    ("shell", "words"),
    [("bash", "complete -o default"), ("zsh", "#compdef"), ("fish", "complete --command")],
)
def test_a_completion_script_for_a_shell(shell: str, words: str) -> None:
    script = ok("--show-completion", shell).out
    assert words in script and "_QDRANT_BRIDGE_COMPLETE" in script


def test_an_unknown_shell_is_wrong_usage() -> None:
    assert "perl" in command("--show-completion", "perl").require(2).err
    assert "perl" in command("--install-completion", "perl").require(2).err


def test_completion_is_installed_for_the_shell_that_is_named(tmp_path: Path) -> None:
    told = ok("--install-completion", "fish", environ={"HOME": str(tmp_path)}).err
    made = tmp_path / ".config" / "fish" / "completions" / "qdrant-bridge.fish"
    assert str(made) in told and "complete --command" in made.read_text()
    assert [path.name for path in tmp_path.iterdir()] == [".config"]


def test_the_help_says_what_the_demo_needs() -> None:
    assert "pip install 'qdrant-bridge[demo]'" in ok("--help").out


@pytest.mark.parametrize(
    ("typed", "offered"),
    [("qdrant-bridge ba", "backfill"), ("qdrant-bridge plan --pg.t", "--pg.table")],
)
def test_the_shell_is_offered_what_fits(typed: str, offered: str) -> None:
    environment = {
        "_QDRANT_BRIDGE_COMPLETE": "complete_bash",
        "COMP_WORDS": typed,
        "COMP_CWORD": str(len(typed.split()) - 1),
    }
    assert offered in ok(environ=environment).out.split()


# --- config --------------------------------------------------------------------------------------


def test_config_tells_every_value_and_where_it_came_from(tmp_path: Path) -> None:
    path = tmp_path / "bridge.yaml"
    path.write_text(
        "pipeline: shop\nqdrant:\n  url: https://file:6334\n  write_ordering: strong\n"
        f"  api_key: {PASSWORD}\n  timeout_seconds: 7\ntables:\n  docs: {{key: [a, b]}}\n"
    )
    environ = {
        "QDRANT_BRIDGE_POSTGRES__URL": f"postgresql://me:{PASSWORD}@db/app",
        "QDRANT_BRIDGE_QDRANT__URL": "https://environment:6334",
        "QDRANT_BRIDGE_QDRANT__TIMEOUT_SECONDS": "8",
    }
    flags = ("config", f"--config={path}", "--qdrant.url=https://flag:6334")
    told = report(*flags, environ=environ)
    assert set(told) == {"version", "file", "settings", "origins"}
    assert told["version"] == 1 and told["file"] == str(path)
    settings, origins = told["settings"], told["origins"]
    assert settings["qdrant"]["url"] == "https://flag:6334"
    assert origins["qdrant.url"] == "flag"
    assert settings["qdrant"]["timeout_seconds"] == 8
    assert origins["qdrant.timeout_seconds"] == "environment QDRANT_BRIDGE_QDRANT__TIMEOUT_SECONDS"
    assert settings["qdrant"]["write_ordering"] == "strong"
    assert origins["qdrant.write_ordering"] == f"file {path}"
    assert settings["migration"]["batch_size"] == 256
    assert "migration.batch_size" not in origins
    assert settings["postgres"]["url"] == "postgresql://me:***@db/app"
    assert settings["qdrant"]["api_key"] == "***"

    lines = ok(*flags, environ=environ).out.splitlines()
    assert 'qdrant.url: "https://flag:6334"  # flag' in lines
    assert f'tables.docs.key: ["a", "b"]  # file {path}' in lines
    assert "migration.batch_size: 256  # default" in lines
    for outcome in (ok(*flags, environ=environ), ok(*flags, "--json", environ=environ)):
        assert PASSWORD not in outcome.out + outcome.err


def test_config_prints_a_schema_whose_every_reference_leads_somewhere() -> None:
    schema = json.loads(ok("config", "--schema").out)
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    sections = {"pipeline", "postgres", "pinecone", "qdrant", "tables", "sync", "kafka", "http"}
    assert sections <= set(schema["properties"])
    assert schema["additionalProperties"] is False
    references = set(re.findall(r'"\$ref": "#/\$defs/(\w+)"', json.dumps(schema)))
    assert references and references <= set(schema["$defs"])
