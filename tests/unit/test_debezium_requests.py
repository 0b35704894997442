"""Requests in a process that reads Kafka: what others write meanwhile is never lost by it."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from bridge import requests
from bridge.errors import StopError, Unreachable, UsageError
from bridge.plan import Point
from bridge.point_ids import PointId
from bridge.requests import Request
from sync.kafka_partition import Partition
from tests.support.debezium_setting import LABEL, Setting


def ask(setting: Setting, request: Request) -> Request:
    requests.ask(setting.store, request)
    setting.now += 1.0
    return request


def resync(
    setting: Setting, first: tuple[str, ...] | None = None, last: tuple[str, ...] | None = None
) -> Request:
    request = requests.make("resync", LABEL, waited_for=True, first=first, last=last)
    return ask(setting, request)


def outcome(setting: Setting, request: Request) -> requests.Progress:
    record = setting.store.get("request", request.name)
    return Request.from_record(record).progress


def finish(setting: Setting, request: Request) -> requests.Progress:
    for _ in range(50):
        setting.work()
        progress = outcome(setting, request)
        if progress.ended:
            return progress
    raise AssertionError("the request does not end")


def test_a_table_is_read_again_and_points_without_a_row_go() -> None:
    setting = Setting(points=[1, 9], titles={1: "a", 2: "b"})
    progress = finish(setting, resync(setting))
    assert progress.stage == "done"
    assert (progress.rows, progress.written, progress.extras) == (2, 2, 1)
    assert set(setting.target.points) == {1, 2}
    assert setting.target.payload(1)["title"] == "a"


def test_only_rows_of_the_range_are_written_again() -> None:
    setting = Setting(points=[1, 2, 3], titles={1: "a", 2: "b", 3: "c"})
    finish(setting, resync(setting, first=("2",), last=("2",)))
    titles = {n: setting.target.payload(n)["title"] for n in (1, 2, 3)}
    assert titles == {1: "old", 2: "b", 3: "old"}


def test_a_change_that_was_applied_between_look_and_write_is_not_undone() -> None:
    setting = Setting(points=[1], titles={1: "old"})

    def another(method: str, _ids: Sequence[PointId]) -> None:
        if method == "upsert":
            # Another process, before this write: its transaction is not visible yet.
            setting.target.fault = lambda method, ids: None
            setting.source.under_way = {7}
            setting.target.put(Point(1, {}, {"title": "new"}))

    setting.target.fault = another
    request = resync(setting)
    setting.work()
    # An older row lies over it now, and the request knows that it cannot be sure.
    assert setting.target.payload(1)["title"] == "old"
    assert outcome(setting, request).after is None
    setting.source.titles[1] = "new"
    setting.source.under_way = set()
    assert finish(setting, request).stage == "done"
    assert setting.target.payload(1)["title"] == "new"


def test_a_delete_that_was_applied_between_look_and_write_is_not_undone() -> None:
    setting = Setting(points=[1], titles={1: "a"})

    def another(method: str, _ids: Sequence[PointId]) -> None:
        if method == "upsert":
            setting.target.fault = lambda method, ids: None
            del setting.source.titles[1]

    setting.target.fault = another
    finish(setting, resync(setting))
    assert not setting.target.points


def test_a_row_that_changes_again_and_again_is_written_until_it_is_sure() -> None:
    setting = Setting(points=[1], titles={1: "v0"})
    writes = 0

    def another(method: str, _ids: Sequence[PointId]) -> None:
        nonlocal writes
        writes += 1
        if writes < 5:
            setting.source.titles[1] = f"v{writes}"

    setting.target.fault = another
    progress = finish(setting, resync(setting))
    assert setting.target.payload(1)["title"] == "v4"
    assert progress.rows == 1


def test_whoever_takes_over_begins_behind_the_last_row_that_is_sure() -> None:
    setting = Setting(points=[], titles={n: "t" for n in range(1200)})
    request = resync(setting)
    setting.source.under_way = {7}
    setting.work()
    # Everything is written, nothing is sure.
    assert len(setting.target.points) == 1200
    progress = outcome(setting, request)
    assert (progress.stage, progress.after, progress.rows) == ("rows", None, 0)
    setting.runner = setting.make_runner()
    setting.source.under_way = set()
    setting.source.titles[0] = "changed"
    assert finish(setting, request).rows == 1200
    assert setting.target.payload(0)["title"] == "changed"


def test_dead_letters_are_written_or_forgotten() -> None:
    setting = Setting(points=[], titles={1: "a"})
    for key in ("1", "2"):
        letter = {"table": LABEL, "key": key, "reason": "r", "position": "p", "at": ""}
        setting.store.put("dead_letter", f"{LABEL}/{key}", letter)
    request = ask(setting, requests.make("retry", LABEL, keys=("1", "2"), waited_for=True))
    progress = finish(setting, request)
    assert (progress.stage, progress.rows, progress.written, progress.gone) == ("done", 1, 1, 1)
    # Of another process: this one did not know them.
    assert not dict(setting.store.records("dead_letter"))
    assert set(setting.target.points) == {1}


def test_a_letter_whose_row_cannot_be_seen_yet_is_not_forgotten() -> None:
    setting = Setting(points=[], titles={})
    letter = {"table": LABEL, "key": "1", "reason": "r", "position": "p", "at": ""}
    setting.store.put("dead_letter", f"{LABEL}/1", letter)
    request = ask(setting, requests.make("retry", LABEL, keys=("1",), waited_for=True))
    setting.source.under_way = {7}
    setting.work()
    assert dict(setting.store.records("dead_letter"))
    setting.source.titles[1] = "a"
    setting.source.under_way = set()
    assert finish(setting, request).stage == "done"
    assert setting.target.payload(1)["title"] == "a"
    assert not dict(setting.store.records("dead_letter"))


def test_only_the_owner_of_the_first_partition_does_it() -> None:
    setting = Setting(points=[], titles={1: "a"})
    request = resync(setting)
    setting.runner.work({Partition("t", 1)})
    assert outcome(setting, request).stage == "asked"
    finish(setting, request)


def test_what_was_given_up_meanwhile_is_not_gone_on_with() -> None:
    setting = Setting(points=[], titles={1: "a"})
    request = resync(setting)
    setting.source.under_way = {7}
    setting.work()
    setting.now += 10
    before = setting.source.looks
    setting.runner.work({Partition("t", 1)})
    assert setting.source.looks == before
    assert not outcome(setting, request).ended


def test_an_outage_of_postgres_is_waited_for_by_the_request_alone() -> None:
    setting = Setting(points=[], titles={1: "a"})
    request = resync(setting)

    def outage(_number: int) -> None:
        setting.source.looked = lambda number: None
        raise Unreachable("away")

    setting.source.looked = outage
    assert finish(setting, request).stage == "done"
    assert "request_waiting" in setting.events
    assert set(setting.target.points) == {1}


@pytest.mark.parametrize("begun", [False, True])
def test_a_request_fails_as_long_as_it_has_written_nothing(begun: bool) -> None:
    setting = Setting(points=[], titles={1: "a"})
    request = resync(setting)
    failures = 1

    def refused(number: int) -> None:
        nonlocal failures
        if number == (2 if begun else 1) and failures:
            failures -= 1
            raise UsageError("no privilege")

    setting.source.looked = refused
    progress = finish(setting, request)
    if begun:
        # What it wrote has to be made sure, however long that takes.
        assert progress.stage == "done"
        assert "request_waiting" in setting.events
    else:
        assert (progress.stage, progress.reason) == ("failed", "no privilege")


def test_what_nobody_can_do_is_told() -> None:
    setting = Setting(points=[], titles={}, topics={"t": 1}, postgres=False)
    progress = finish(setting, resync(setting))
    assert progress.stage == "failed"
    assert "postgres.url" in progress.hint
    unknown = ask(setting, requests.make("resync", "public.other", waited_for=True))
    assert "no process follows public.other" in finish(setting, unknown).reason


def test_a_request_that_another_process_began_is_not_given_up() -> None:
    setting = Setting(points=[], titles={}, topics={"t": 1}, postgres=False)
    begun = requests.make("resync", LABEL, waited_for=True).at(stage="rows")
    ask(setting, begun)
    setting.work()
    assert not outcome(setting, begun).ended
    assert "request_waiting" in setting.events


def test_a_table_made_anew_stops() -> None:
    setting = Setting(points=[1], titles={1: "a"})
    resync(setting)
    setting.source.dropped = True
    with pytest.raises(StopError) as caught:
        setting.work()
    assert caught.value.code == "SCHEMA_CHANGED"


def test_points_of_other_origin_are_counted_and_kept() -> None:
    setting = Setting(points=[1, 9], titles={1: "a"})
    collection = setting.table.mapping.collection.name
    setting.store.put("owner", collection, {"pipeline": "p", "found_points": 3})
    progress = finish(setting, resync(setting))
    assert (progress.extras, progress.extras_kept) == (1, True)
    assert set(setting.target.points) == {1, 9}
