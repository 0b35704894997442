"""What goes wrong around a comparison: one screen, the right exit code, and never `equal`."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from qdrant_client import models

from bridge.errors import Unreachable
from bridge.positions import Lsn
from bridge.state import Kind, Record
from bridge.stream_state import StreamState
from tests.support.command import Outcome, bridge, config_file
from tests.support.databases import Database
from tests.support.places import ServerPlace
from tests.support.proxy import TcpProxy
from tests.support.qdrant_faults import internal, rate_limited, unavailable
from verify.stream import Stream

FILL = (
    "INSERT INTO docs SELECT i, 'row ' || i, ARRAY[i, 1, 2]::real[]::vector"
    " FROM generate_series(1, 40) i"
)


@pytest.fixture
def config(database: Database, place: ServerPlace, tmp_path: Path) -> str:
    """Of a table that was copied, by its owner."""
    database.execute("CREATE TABLE docs (id int PRIMARY KEY, title text, v vector(3))")
    database.execute(FILL)
    name = place.name("v").lower()
    path = write(tmp_path, database.url, place.url, name)
    bridge("backfill", "pgvector", "--config", path).require()
    return path


def write(directory: Path, postgres: str, qdrant: str, name: str, **table: Any) -> str:
    settings = {
        "pipeline": name,
        "postgres": {"url": postgres},
        "qdrant": {"url": qdrant},
        "tables": {"public.docs": {"collection": name, **table}},
    }
    return config_file(directory, settings)


def changed(config: str, section: str, **values: Any) -> None:
    """Other settings in the file."""
    settings = json.loads(Path(config).read_text())
    settings[section].update(values)
    Path(config).write_text(json.dumps(settings))


def collection_of(config: str) -> str:
    name: str = json.loads(Path(config).read_text())["pipeline"]
    return name


def refused(config: str, code: int, *words: str) -> Outcome:
    """The comparison ends with this code, on one screen with these words, and without a report that
    says `equal`."""
    outcome = bridge("verify", "--config", config, "--json").require(code)
    for word in words:
        assert word in outcome.err
    assert "Traceback" not in outcome.err and len(outcome.err.splitlines()) < 12
    assert not outcome.out or outcome.report["equal"] is False
    return outcome


def test_a_collection_that_is_gone(config: str, place: ServerPlace) -> None:
    place.client.delete_collection(collection_of(config))
    refused(config, 1, "does not exist")


def test_a_collection_that_was_made_again_with_other_vectors(
    config: str, place: ServerPlace
) -> None:
    name = collection_of(config)
    place.client.delete_collection(name)
    params = models.VectorParams(size=4, distance=models.Distance.DOT)
    place.client.create_collection(name, {"v": params})
    outcome = refused(config, 1, "3 x float32, cosine", "4 x float32, dot")
    assert outcome.table["compared"] == 0


def test_a_collection_that_goes_in_the_middle(config: str, place: ServerPlace) -> None:
    assert place.server is not None

    name = collection_of(config)

    def goes(_request: Any, proceed: Callable[[], Any], _stopping: Any) -> Any:
        place.client.delete_collection(name)
        return proceed()

    place.server.faults.add(method="Points.Get", collection=name, action=goes, nth=2)
    outcome = bridge("verify", "--config", config, "--json", "-b", "10").require(3)
    assert "TARGET_CHANGED" in outcome.err and outcome.out == ""


def test_a_table_that_was_dropped(config: str, database: Database) -> None:
    database.execute("DROP TABLE docs")
    refused(config, 2, "docs", "remedy")


def test_a_column_that_was_dropped_is_no_difference_without_a_stream(
    config: str, database: Database
) -> None:
    database.execute("ALTER TABLE docs DROP COLUMN title")
    outcome = refused(config, 1, "40 altered")
    assert outcome.table["examples"][0]["fields"][0]["what"] == "string should not be there"


def test_rows_that_were_set_aside_are_told_as_such(
    config: str, database: Database, place: ServerPlace
) -> None:
    database.execute("INSERT INTO docs VALUES (100, 'bad', '[1e38,1e38,1e38]')")
    database.execute("UPDATE docs SET v = '[1e38,1e38,1e38]' WHERE id = 7")
    # Exit code 1: row 7 is set aside, and its last good version is there.
    bridge("backfill", "pgvector", "--config", config, "--migration.restart").require(1)
    outcome = refused(config, 1, "2 dead-lettered", "dead-letters list")
    counts = {n: outcome.table[n] for n in ("missing", "extra", "altered", "dead_lettered")}
    assert counts == {"missing": 0, "extra": 0, "altered": 0, "dead_lettered": 2}
    reasons = {example["key"]: example["reason"] for example in outcome.table["examples"]}
    assert reasons.keys() == {"7", "100"} and all("norm" in text for text in reasons.values())


def test_a_role_that_may_not_read_the_table(config: str, database: Database) -> None:
    database.execute("DROP ROLE IF EXISTS nobody_here")
    database.execute("CREATE ROLE nobody_here LOGIN")
    changed(config, "postgres", url=database.url.replace("postgres@", "nobody_here@"))
    try:
        refused(config, 2, "GRANT SELECT")
    finally:
        database.execute("DROP ROLE nobody_here")


def test_a_postgres_that_does_not_answer(config: str) -> None:
    changed(config, "postgres", url="postgresql://postgres@127.0.0.1:1/app")
    refused(config, 4)


def test_a_qdrant_that_does_not_answer(config: str) -> None:
    changed(config, "qdrant", url="http://127.0.0.1:1")
    refused(config, 4)


def test_a_qdrant_that_fails_now_and_then_is_asked_again(config: str, place: ServerPlace) -> None:
    assert place.server is not None
    name, failed = collection_of(config), list[str]()

    def fails_once(request: Any, proceed: Callable[[], Any], stopping: Any) -> Any:
        if request.collection_name != name or failed:
            return proceed()
        failed.append(name)
        return internal()(request, proceed, stopping)

    faults = place.server.faults
    faults.add(method="Points.Get", collection=name, action=unavailable(), nth=2, times=2)
    faults.add(method="Points.Get", collection=name, action=rate_limited(0), nth=5)
    place.server.faults.add(method="Points.Scroll", action=fails_once, times=100)
    bridge("verify", "--config", config, "--json", "-b", "10").require(0)
    assert failed


def test_connections_to_postgres_that_are_cut_are_made_again(
    config: str, database: Database, place: ServerPlace
) -> None:
    assert place.server is not None
    port = database.server.port
    with TcpProxy(port) as proxy:
        changed(config, "postgres", url=database.url.replace(f":{port}/", f":{proxy.port}/"))

        def cut(_request: Any, proceed: Callable[[], Any], _stopping: Any) -> Any:
            proxy.cut()
            return proceed()

        place.client.set_payload(collection_of(config), {"title": "x"}, points=[3], wait=True)
        place.server.faults.add(method="Points.Get", action=cut, nth=2)
        outcome = refused(config, 1, "1 altered")
    assert outcome.table["compared"] == 40


def test_a_daemon_that_stands_still_leaves_no_verdict() -> None:
    clock, slept = iter(range(1000)), list[float]()
    stream = Stream(
        _Standing(), stalled_seconds=5, clock=lambda: float(next(clock)), sleep=slept.append
    )
    with pytest.raises(Unreachable, match="stood still at 0/10") as caught:
        stream.await_passed(Lsn(17))
    assert caught.value.exit_code == 4 and slept
    stream.await_passed(Lsn(16))


class _Standing:
    """A store whose stream has come to 0/10, and comes no further."""

    pipeline = "shop"

    def get(self, kind: Kind, name: str) -> Record:
        state = StreamState(facts={}, checkpoint=Lsn(16), phase="streaming")
        return state.to_record()

    def put(self, kind: Kind, name: str, record: Record) -> None:
        raise AssertionError

    def put_new(self, kind: Kind, name: str, record: Record) -> Record:
        raise AssertionError

    def records(self, kind: Kind) -> Iterator[tuple[str, Record]]:
        return iter(())

    def remove(self, kind: Kind, names: Iterable[str]) -> None:
        raise AssertionError
