"""What doctor refuses and names: settings of a connector, topics, tables behind them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bridge.findings import Finding, blockers
from sync.connect import Connector
from sync.debezium_checks import (
    Followed,
    TopicFacts,
    check_connector,
    check_tables,
    check_topic,
    check_untold_modes,
    topic_name,
)
from tests.support.debezium_messages import mapping

DEPLOY = Path(__file__).resolve().parent.parent.parent / "deploy" / "debezium"
SOUND = {
    "snapshot.mode": "no_data",
    "skipped.operations": "none",
    "decimal.handling.mode": "string",
    "interval.handling.mode": "string",
}


def followed(*, full: bool = False, not_null: bool = False, **columns: Any) -> Followed:
    made = mapping(**columns)
    if not_null:
        table = replace(
            made.table, columns=tuple(replace(c, not_null=True) for c in made.table.columns)
        )
        made = replace(made, table=table)
    return Followed(mapping=made, full=full)


def names(findings: list[Finding]) -> set[str]:
    return {finding.check for finding in blockers(findings)}


def connector(**settings: str) -> Connector:
    config = {**SOUND, **{name.replace("__", "."): value for name, value in settings.items()}}
    return Connector(name="shop", config=config, states=("RUNNING", "RUNNING"))


def about(found: Connector, *tables: Followed, **choices: bool) -> list[Finding]:
    return check_connector(found, tables, **{"copied": True, "never_truncated": False, **choices})


def test_sound_settings_have_nothing_against_them() -> None:
    assert names(about(connector(), followed())) == set()


@pytest.mark.parametrize(
    ("settings", "check"),
    [
        ({"snapshot__mode": "initial"}, "kafka.snapshot_mode"),
        ({"skipped__operations": "t"}, "kafka.truncates"),
        (
            {"transforms__flat__type": "io.debezium.transforms.ExtractNewRecordState"},
            "kafka.truncates",
        ),
        ({"transforms__flat__delete__tombstone__handling__mode": "drop"}, "kafka.tombstones"),
        ({"value__converter": "io.confluent.connect.avro.AvroConverter"}, "kafka.converters"),
    ],
)
def test_what_loses_data_is_refused(settings: dict[str, str], check: str) -> None:
    found = about(connector(**settings), followed())
    assert names(found) == {check}
    assert all(finding.remedy for finding in blockers(found))


def test_truncates_that_never_happen_need_not_come() -> None:
    found = about(connector(skipped__operations="t"), followed(), never_truncated=True)
    assert names(found) == set()


def test_a_snapshot_that_is_counted_on_must_be_made() -> None:
    assert names(about(connector(), followed(), copied=False)) == {"kafka.snapshot_mode"}


def test_a_failed_task_is_found_though_its_connector_runs() -> None:
    failed = replace(connector(), states=("RUNNING", "FAILED"), trace="DataException")
    (finding,) = blockers(about(failed, followed()))
    assert "DataException" in finding.message


def test_modes_that_make_rows_be_read_again_are_named() -> None:
    table = followed(id="int8", price="numeric", span="interval", at="timestamp")
    found = about(
        connector(
            decimal__handling__mode="precise",
            interval__handling__mode="numeric",
            time__precision__mode="connect",
        ),
        table,
    )
    assert [f.level for f in found if f.check == "kafka.modes"] == ["warning"] * 3


def test_a_rounded_key_is_refused() -> None:
    table = followed(id="numeric", title="text")
    assert names(about(connector(decimal__handling__mode="double"), table)) == {"kafka.modes"}


@pytest.mark.parametrize(
    ("columns", "full", "kills"),
    [
        ({"id": "int8", "v": ("vector", 768)}, False, True),
        ({"id": "int8", "v": ("vector", 768)}, True, False),
        ({"id": "int8", "v": ("vector", 3)}, False, False),
        ({"id": "int8", "v": ("halfvec", 1000)}, False, True),
    ],
)
def test_a_long_vector_that_may_not_be_null_kills_the_connector(
    columns: dict[str, Any], full: bool, kills: bool
) -> None:
    found = check_tables([followed(full=full, not_null=True, **columns)], [], postgres=True)
    assert names(found) == ({"kafka.toast"} if kills else set())


def test_nested_arrays_need_postgres() -> None:
    table = followed(id="int8", tags="text[]")
    assert names(check_tables([table], [], postgres=False)) == {"kafka.arrays"}
    assert names(check_tables([table], [], postgres=True)) == set()


def test_two_tables_of_one_topic_are_refused() -> None:
    assert topic_name("Odd", "Table Name") == topic_name("Odd", "Table_Name") == "Odd.Table_Name"
    table = followed()
    label = table.mapping.table
    alike = replace(label, name="do cs")
    renamed = Followed(mapping=replace(table.mapping, table=alike), full=False)
    found = check_tables([renamed], [("public", "do cs"), ("public", "do_cs")], postgres=True)
    assert names(found) == {"kafka.shared_topic"}


def facts(**changes: Any) -> TopicFacts:
    return replace(TopicFacts(name="t", partitions=1, begin=(0,), settings={}), **changes)


def test_several_partitions_need_postgres_for_truncates() -> None:
    several = facts(partitions=3, begin=(0, 0, 0))
    arguments = {"copied": True, "never_truncated": False}
    assert names(check_topic(several, postgres=False, **arguments)) == {"kafka.topics"}
    assert names(check_topic(several, postgres=True, **arguments)) == set()


def test_a_snapshot_that_is_not_whole_any_more_is_refused() -> None:
    lost = facts(begin=(5,))
    arguments = {"postgres": True, "never_truncated": False}
    assert names(check_topic(lost, copied=False, **arguments)) == {"kafka.retention"}
    assert names(check_topic(lost, copied=True, **arguments)) == set()


@pytest.mark.parametrize(
    ("settings", "warned"),
    [
        ({"retention.ms": "3600000"}, True),
        ({"retention.ms": "604800000"}, False),
        ({"retention.ms": "-1"}, False),
        ({"retention.ms": "3600000", "cleanup.policy": "compact"}, False),
    ],
)
def test_a_short_retention_is_named(settings: dict[str, str], warned: bool) -> None:
    found = check_topic(facts(settings=settings), copied=True, postgres=True, never_truncated=False)
    assert ("kafka.retention" in {f.check for f in found}) is warned


def test_untold_modes_are_named() -> None:
    table = followed(id="int8", price="numeric")
    assert [finding.level for finding in check_untold_modes([table])] == ["warning"]
    assert check_untold_modes([followed()]) == []


@pytest.mark.parametrize("name", ["connector.json", "connector-reselect.json"])
def test_the_connector_files_have_nothing_against_them(name: str) -> None:
    config = json.loads((DEPLOY / name).read_text())
    found = Connector(name="shop", config=config, states=("RUNNING", "RUNNING"))
    table = followed(
        id="int8", price="numeric", span="interval", at="timestamp", v=("vector", 1536)
    )
    findings = about(found, table)
    assert [finding for finding in findings if finding.level != "ok"] == []


def test_the_connector_files_say_why_each_setting() -> None:
    config = json.loads((DEPLOY / "connector-reselect.json").read_text())
    page = (DEPLOY / "README.md").read_text()
    plain: tuple[str, ...] = (
        "connector.class",
        "plugin.name",
        "database.",
        "topic.prefix",
        "table.include.list",
    )
    plain += ("slot.name", "publication.name", "key.converter", "value.converter")
    untold = [
        setting
        for setting in config
        if not setting.startswith(plain) and not any(part in page for part in _spellings(setting))
    ]
    assert untold == []


def _spellings(setting: str) -> list[str]:
    # One row explains all defaults of new topics that go without saying.
    return [setting, *(["topic.creation.default"] if setting.startswith("topic.creation") else [])]
