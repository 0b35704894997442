"""What a comparison says, keeps and exports."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bridge.config_tables import TableSettings
from bridge.errors import UsageError
from bridge.map_table import map_table
from bridge.mapping import TableMapping
from bridge.postgres.verify_reads import Part
from bridge.workers import WorkerLost
from cli.verify_options import parse_queries, parse_sample
from cli.verify_progress import Lines, Tally, line_of
from tests.support.source_tables import table
from verify.comparison import Difference
from verify.digests import hashes
from verify.looks import Verdict
from verify.mending import Repair, Repaired, mended
from verify.messages import ChunkCompared, Planned, Progress, Step, Waiting
from verify.payloads import ABSENT
from verify.progress_file import ProgressFile, Saved, fingerprint
from verify.report import COUNTS, EXAMPLES_A_KIND, Findings, TableResult, to_json
from verify.textfile import metrics, write

DIFFERENCE = Difference(
    field="payload price", path=("price",), what="string instead of float", wanted=1.5, found="1.5"
)


def findings() -> Findings:
    found = Findings()
    found.add(Verdict(kind="altered", key=("7",), id=7, differences=(DIFFERENCE,)))
    found.add(Verdict(kind="missing", key=("a", "8"), id="x"))
    found.add(Verdict(kind="dead_lettered", key=("9",), id=9, reason="too large"))
    found.add_extra(900)
    return found


def result(found: Findings, **more: Any) -> TableResult:
    settings = {"source": 10, "target": 11, "compared": 10, **more}
    return TableResult(table="public.docs", collection="docs", findings=found, **settings)


def test_the_report_has_every_count_and_examples_without_values() -> None:
    report = to_json("shop", [result(findings())])
    told = report["tables"]["public.docs"]
    assert (report["version"], report["equal"]) == (1, False)
    assert [told[name] for name in COUNTS] == [1, 1, 0, 1, 0, 1]
    assert "1.5" not in json.dumps(report)
    assert told["examples"][1]["key"] == '["a","8"]'
    assert told["examples"][2]["reason"] == "too large"
    shown = to_json("shop", [result(findings())], show_values=True)
    (field,) = shown["tables"]["public.docs"]["examples"][0]["fields"]
    assert (field["source"], field["target"]) == (1.5, "1.5")


def test_a_side_that_has_no_value_is_left_out() -> None:
    found = Findings()
    gone = Difference(
        field="payload a", path=("a",), what="null is not there", wanted=None, found=ABSENT
    )
    found.add(Verdict(kind="altered", key=("1",), id=1, differences=(gone,)))
    (field,) = result(found).to_json(show_values=True)["examples"][0]["fields"]
    assert field["source"] is None and "target" not in field


def test_nothing_compared_is_not_equal() -> None:
    assert to_json("shop", [])["equal"] is False
    assert to_json("shop", [result(Findings(), schema=("no such collection",))])["equal"] is False
    assert to_json("shop", [result(Findings())])["equal"] is True


def test_what_is_kept_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("verify.report.KEPT_KEYS", 20)
    found = Findings()
    for number in range(30):
        found.add(Verdict(kind="missing", key=(str(number),), id=number))
    assert (found.counts["missing"], len(found.keys), found.overflowed) == (30, 20, True)
    assert len(found.examples) == EXAMPLES_A_KIND
    repair = Repair.of(result(found))
    assert repair is not None and repair.whole


def test_a_repair_is_about_what_can_be_mended() -> None:
    before = result(findings())
    repair = Repair.of(before)
    assert repair is not None
    assert (repair.keys, repair.extras) == ((("7",), ("a", "8")), (900,))
    after = mended(before, [], [], 10)
    assert {
        name: after.findings.counts[name] for name in COUNTS if after.findings.counts[name]
    } == {"dead_lettered": 1}
    assert (after.target, after.equal) == (10, False)
    told = Repaired(repair=repair, extras_kept=True).to_json(before.findings.counts)
    assert (told["written"], told["removed"]) == (["7", '["a","8"]'], [])
    assert Repair.of(result(Findings())) is None


def test_metrics_are_in_the_text_format() -> None:
    report = to_json('sh"op\\', [result(findings())])
    text = metrics(report, 1_700_000_000.5)
    assert 'qdrant_bridge_verify_equal{pipeline="sh\\"op\\\\",table="public.docs"} 0\n' in text
    assert 'kind="dead_lettered"} 1\n' in text
    assert text.endswith('finished_timestamp_seconds{pipeline="sh\\"op\\\\"} 1700000000.5\n')
    assert "recall" not in text


def test_a_file_is_put_in_place_whole(tmp_path: Path) -> None:
    path = tmp_path / "verify.prom"
    write(path, "one\n")
    write(path, "two\n")
    assert path.read_text() == "two\n"
    assert [one.name for one in tmp_path.iterdir()] == ["verify.prom"]
    with pytest.raises(UsageError, match="cannot write"):
        write(tmp_path / "nowhere" / "verify.prom", "three")


# --- progress ------------------------------------------------------------------------------------


def test_progress_is_gone_on_with_only_by_the_same_comparison(tmp_path: Path) -> None:
    docs = map_table(table(id="int4", v=("vector", 3)), TableSettings())
    other = map_table(table(id="int4", title="text", v=("vector", 3)), TableSettings())

    def printed(mapping: TableMapping, part: Part, **more: Any) -> str:
        usual: dict[str, Any] = {"source": "db/app", "target": "a:6334", "exact_vectors": False}
        return fingerprint(mapping, part, **(usual | more))

    print_of = printed(docs, Part())
    others = [
        printed(other, Part()),
        printed(docs, Part(seed=1)),
        printed(docs, Part(), target="http://b:6334"),
        printed(docs, Part(), source="postgresql://db/other"),
        printed(docs, Part(), exact_vectors=True),
    ]
    assert len({print_of, *others}) == 6
    file = ProgressFile(tmp_path / "progress", "public.docs", print_of)
    assert file.load() is None
    saved = Saved(bounds=(("5",), ("9",)), findings=findings(), done={0: 5, 2: 4})
    saved.buckets.add(hashes([1, 2, 3]))
    file.save(saved)
    again = file.load()
    assert again is not None
    assert (again.bounds, again.done) == (saved.bounds, saved.done)
    assert again.findings == saved.findings
    again.buckets.take(hashes([3, 1, 2]))
    assert not again.buckets.uneven().any()
    file.forget()
    assert file.load() is None


def test_a_damaged_file_is_not_gone_on_with(tmp_path: Path) -> None:
    file = ProgressFile(tmp_path, "public.docs", "x")
    file.save(Saved(bounds=()))
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:100])
    assert file.load() is None
    nothing = ProgressFile(None, "public.docs", "x")
    nothing.save(Saved(bounds=()))
    assert (nothing.kept, nothing.load()) == (False, None)


def test_a_directory_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot make the directory"):
        ProgressFile(tmp_path / "file" / "below", "public.docs", "x")


# --- flags and lines -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "parsed"),
    [(None, (None, 1.0)), ("7", (7, 1.0)), ("2.5%", (None, 0.025)), ("100%", (None, 1.0))],
)
def test_a_sample(text: str | None, parsed: tuple[int | None, float]) -> None:
    assert parse_sample(text) == parsed


@pytest.mark.parametrize("text", ["0", "-1", "101%", "0%", "1.5", "all", ""])
def test_what_is_no_sample(text: str) -> None:
    with pytest.raises(UsageError):
        parse_sample(text)


def test_queries_are_a_number_or_a_file() -> None:
    assert parse_queries(None) == (None, None)
    assert parse_queries("20") == (20, None)
    assert parse_queries("asked.jsonl") == (None, Path("asked.jsonl"))


def test_rows_are_counted_once_whatever_happens_to_a_worker() -> None:
    planned = Planned(
        table="public.docs",
        collection="docs",
        chunks=2,
        chunks_left=2,
        rows_done=0,
        rows=20,
        workers=1,
    )
    moments = iter(range(100))
    tally = Tally(planned, lambda: float(next(moments)))
    tally.take(Progress(chunk=0, rows=4))
    tally.take(WorkerLost(pid=5, chunks=(0,)))
    assert tally.rows == 0
    tally.take(Progress(chunk=0, rows=6))
    done = ChunkCompared(chunk=0, rows=10, suspects=(), set_aside=(), ids=hashes([]))
    tally.take(done)
    assert tally.rows == 10
    assert "10 of 20 rows" in tally.line()


def test_every_event_has_its_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        line_of(Waiting(reason="Qdrant is away", seconds=1.0), None)
        == "waiting 1.0 s: Qdrant is away"
    )
    assert "died" in (line_of(WorkerLost(pid=5, chunks=()), None) or "")
    assert "3 rows" in (line_of(Step(table="t", what="looking again", done=0, of=3), None) or "")
    lines = Lines(lambda: 0.0)
    lines(WorkerLost(pid=5, chunks=()))
    assert "worker 5 died" in capsys.readouterr().err
