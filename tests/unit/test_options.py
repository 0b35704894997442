"""The pure half of the command line: booleans with values, lists of names, maps of distances."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest
import typer

from bridge.errors import UsageError
from cli.arguments import normalize
from cli.main import app
from cli.options import Flags, PineconeFlags, parse_distances, split_names

ALL_BOOLEANS = (
    "--migration.restart",
    "--migration.create-collection",
    "--skip-tls-verification",
    "--allow-plaintext",
    "--debug",
    "--trace",
    "--json",
    "--keep",
)


@pytest.mark.parametrize("flag", ALL_BOOLEANS)
def test_a_boolean_may_carry_its_value(flag: str) -> None:
    for true in ("true", "TRUE", "1", "yes"):
        assert normalize([f"{flag}={true}"]) == [flag]
    for false in ("false", "False", "0", "no"):
        assert normalize([f"{flag}={false}"]) == [f"--no-{flag.removeprefix('--')}"]


def test_the_short_form_of_a_boolean_may_too() -> None:
    assert normalize(["-c=true"]) == ["--migration.create-collection"]
    assert normalize(["-c=false"]) == ["--no-migration.create-collection"]
    assert normalize(["-c"]) == ["-c"]


def test_all_other_arguments_stay_as_they_are() -> None:
    given = [
        "backfill",
        "pgvector",
        "--pg.url=postgresql://h/d?a=b",
        "--pg.table",
        "a=b",
        "-b",
        "7",
    ]
    assert normalize(given) == given


@pytest.mark.parametrize("value", ["maybe", "", "2", "true false"])
def test_a_boolean_that_is_neither_is_refused(value: str) -> None:
    with pytest.raises(UsageError) as caught:
        normalize([f"--json={value}"])
    assert "--json" in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize(
    ("given", "names"),
    [
        (None, None),
        ([], None),
        (["id"], ("id",)),
        (["a,b", "c"], ("a", "b", "c")),
        ([" a , b "], ("a", "b")),
        (['"a,b",c'], ("a,b", "c")),
        (['"say ""hi""",c'], ('say "hi"', "c")),
        (['"a b"'], ("a b",)),
        (["Mixed Case"], ("Mixed Case",)),
        (["naïve,日本"], ("naïve", "日本")),
    ],
)
def test_names_are_split_at_commas_outside_quotes(
    given: list[str] | None, names: tuple[str, ...] | None
) -> None:
    assert split_names(given, "--pg.columns") == names


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a,,b", "empty"),
        ("", "empty"),
        (",a", "empty"),
        ('"a', "not closed"),
        ('"a""', "not closed"),
        ('"a"b', "a comma is missing"),
    ],
)
def test_names_that_cannot_be_split_are_refused(text: str, words: str) -> None:
    with pytest.raises(UsageError) as caught:
        split_names([text], "--pg.columns")
    assert caught.value.message.startswith("--pg.columns: ")
    assert words in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize(
    ("given", "distances"),
    [
        ([], {}),
        (["a=dot"], {"a": "dot"}),
        (["a=dot;b=euclid"], {"a": "dot", "b": "euclid"}),
        (["a=dot", "b=euclid"], {"a": "dot", "b": "euclid"}),
        ([" a = Cosine ; ; b=DOT;"], {"a": "cosine", "b": "dot"}),
        (["x=y=dot"], {"x=y": "dot"}),
        (["a=dot", "a=cosine"], {"a": "cosine"}),
    ],
)
def test_distances_are_a_map(given: list[str], distances: dict[str, str]) -> None:
    assert parse_distances(given) == distances


@pytest.mark.parametrize("text", ["cosine", "=dot", " =dot", "a=dot;cosine"])
def test_a_distance_without_its_column_is_refused(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_distances([text])
    assert "column=distance" in caught.value.message
    assert "embedding=cosine" in caught.value.hint


def test_flags_lie_over_the_environment() -> None:
    environ = {"QDRANT_BRIDGE_QDRANT__URL": "edge:///variable", "QDRANT_BRIDGE_PIPELINE": "shop"}
    effective = Flags(
        qdrant_url="edge:///flag",
        pg_table="docs",
        pg_key=["a,b"],
        pg_columns=["a,b,v"],
        collection="other",
        distance=["v=dot"],
        workers=3,
        batch_size=4,
        batch_delay=5,
        restart=True,
        create_collection=False,
        shard="1/2",
    ).load(environ)
    settings = effective.settings
    assert settings.qdrant.url == "edge:///flag"
    assert settings.pipeline == "shop"
    table = settings.tables["docs"]
    assert (table.key, table.columns, table.collection) == (("a", "b"), ("a", "b", "v"), "other")
    assert table.vectors != "none" and table.vectors["v"].distance == "dot"
    migration = settings.migration
    assert (migration.num_workers, migration.batch_size) == (3, 4)
    assert (migration.batch_delay_milliseconds, migration.restart) == (5, True)
    assert (migration.create_collection, migration.shard_index_and_count) == (False, (1, 2))


# --- from a command's parameters to the configuration ----------------------------------------------


def test_flags_go_by_the_names_of_parameters() -> None:
    flags = Flags.of({"pg_url": "postgresql://a/b", "collection": "docs", "watch": True})
    assert flags == Flags(pg_url="postgresql://a/b", collection="docs")


@pytest.mark.parametrize(
    ("more", "of_table", "of_index"),
    [
        ({"pg_table": None, "index_name": None}, "c", None),
        ({"pg_table": None, "index_name": "products"}, None, "c"),
        ({"index_name": None}, None, "c"),
    ],
)
def test_the_collection_is_the_indexs_where_one_is_named_or_no_table_can_be(
    more: dict[str, Any], of_table: str | None, of_index: str | None
) -> None:
    flags = Flags.of({"collection": "c", "index_host": None, "pinecone_key": "k", **more})
    assert flags.pinecone is not None
    assert (flags.collection, flags.pinecone.collection) == (of_table, of_index)
    assert flags.pinecone.api_key == "k"


def test_every_flag_of_the_configuration_gets_there_from_every_command() -> None:
    """`Flags.of` takes parameters by their names: one of another name would be dropped in silence."""
    known = {one.name for one in fields(Flags)} | {one.name for one in fields(PineconeFlags)}
    known |= {"index_name", "index_host", "pinecone_key"}
    found: dict[str, set[str]] = {}
    todo = [("", typer.main.get_command(app))]
    while todo:
        path, command = todo.pop()
        todo += [(f"{path} {name}", one) for name, one in getattr(command, "commands", {}).items()]
        for parameter in command.params:
            prefixes = ("--pg.", "--qdrant.", "--pinecone.", "--migration.")
            if any(option.startswith(prefixes) for option in parameter.opts):
                found.setdefault(path, set()).add(str(parameter.name))
    assert len(found) > 10
    assert {path: names - known for path, names in found.items() if names - known} == {}
