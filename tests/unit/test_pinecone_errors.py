"""The SDK's errors become ours; queues that can be closed; ids from a file."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from pinecone import errors as sdk

from backfill.pinecone_inspect import IdsFile
from backfill.pinecone_threads import Crew, Line
from bridge.errors import RateLimited, Rejected, Unreachable, UsageError
from bridge.pinecone.errors import Missing, TokenRefused, TooLong, Unreadable, translate
from bridge.pinecone.index import DenseField, IndexFacts, Stats, complete, distance_of
from bridge.pinecone.pace import Closed
from tests.support.command import ROOT

SECRET = "a record's text"


def api(status: int, **more: Any) -> sdk.ApiError:
    return sdk.ApiError(more.pop("message", SECRET), status, **more)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (api(401), UsageError),
        (api(403), UsageError),
        (api(400), Missing),
        (api(404), Missing),
        (api(413), TooLong),
        (api(414), TooLong),
        (api(431), TooLong),
        (api(418), UsageError),
        (api(408), Unreachable),
        (api(500), Unreachable),
        (api(503), Unreachable),
        (sdk.RateLimitError("slow", 429), RateLimited),
        (sdk.RateLimitError("read unit limit for the current month", 429), UsageError),
        (sdk.PineconeTimeoutError("t"), Unreachable),
        (sdk.PineconeConnectionError("reset"), Unreachable),
        (sdk.PineconeConnectionError("[SSL: CERTIFICATE_VERIFY_FAILED]"), UsageError),
        (sdk.PineconeConnectionError("[SSL: WRONG_VERSION_NUMBER]"), UsageError),
        (sdk.PineconeValueError("ids[0] must contain only ASCII"), Unreadable),
    ],
)
def test_each_error_has_its_own_way_out(error: Exception, kind: type[Exception]) -> None:
    ours = translate(error, what="records")
    assert type(ours) is kind
    assert SECRET not in ours.message + ours.hint


def test_a_wait_that_is_asked_for_is_kept() -> None:
    ours = translate(sdk.RateLimitError("slow", 429, retry_after=2.5), what="records")
    assert isinstance(ours, RateLimited)
    assert ours.retry_after_seconds == 2.5
    late = translate(api(503, headers={"retry-after": "7"}), what="records")
    assert isinstance(late, RateLimited)
    assert late.retry_after_seconds == 7.0
    odd = translate(api(503, headers={"retry-after": "Wed, 21 Oct"}), what="records")
    assert type(odd) is Unreachable


@pytest.mark.parametrize("status", [400, 404, 410, 422])
def test_with_a_token_a_refusal_is_the_tokens(status: int) -> None:
    assert type(translate(api(status), what="a page", token=True)) is TokenRefused


def test_json_of_another_shape_is_told_from_no_json() -> None:
    import msgspec

    for cause, kind in (
        (msgspec.ValidationError("x"), Unreadable),
        (msgspec.DecodeError("x"), Unreachable),
    ):
        error = sdk.ResponseParsingError(SECRET, cause=cause)
        error.__cause__ = cause
        ours = translate(error, what="records")
        assert type(ours) is kind
        assert SECRET not in ours.message


def test_what_is_no_error_of_the_sdk_stays_one() -> None:
    with pytest.raises(KeyError):
        translate(KeyError("ours"), what="records")
    assert issubclass(TooLong, Rejected)


def test_other_commands_do_not_load_the_sdk() -> None:
    """It and what it brings along would slow the start of every command."""
    program = (
        "import sys, cli.main; print([m for m in sys.modules"
        " if m.split('.')[0] in ('pinecone', 'httpx', 'msgspec')])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


# --- what an index is -----------------------------------------------------------------------------


def test_stats_complete_what_describe_does_not_tell() -> None:
    facts = IndexFacts(
        name="i", host="h", kind="vectors",
        dense=(DenseField(name="", dimension=None, metric=None),), model="m",
    )  # fmt: skip
    (one,) = complete(facts, Stats(counts={}, dimension=5, metric="cosine")).dense
    assert (one.dimension, one.metric) == (5, "cosine")
    assert distance_of(one) == "cosine"


def test_an_unknown_metric_is_refused() -> None:
    for metric in (None, "hamming"):
        with pytest.raises(UsageError):
            distance_of(DenseField(name="", dimension=1, metric=metric))


# --- queues ---------------------------------------------------------------------------------------


def test_a_line_is_bounded_and_ordered() -> None:
    line: Line[int] = Line(2)
    line.put(1)
    line.put(2)
    done = threading.Event()

    def third() -> None:
        line.put(3)
        done.set()

    thread = threading.Thread(target=third, daemon=True)
    thread.start()
    assert not done.wait(0.05)
    assert [line.take(), line.take(), line.take()] == [1, 2, 3]
    assert line.take(0.0) is None
    thread.join()


def test_closing_lets_everybody_go_and_failures_are_handed_on() -> None:
    line: Line[int] = Line(1)
    failed: list[Exception] = []
    crew = Crew(failed.append)
    crew.start("waits", 3, lambda: _ignore(line.take()))

    def fail() -> None:
        raise ValueError("told")

    crew.start("fails", 1, fail)
    line.close()
    crew.join(10.0)
    assert [type(error) for error in failed] == [ValueError]
    for call in (line.take, lambda: line.put(1)):
        with pytest.raises(Closed):
            call()


def _ignore(_item: object) -> None:
    return None


# --- a file of ids --------------------------------------------------------------------------------


def test_a_file_of_ids_is_paged_by_its_bytes(tmp_path: Path) -> None:
    path = tmp_path / "ids"
    plain = [f"id {number}" for number in range(250)]
    lines = [*plain, json.dumps(["b", "pair"]), "", "[not a pair", json.dumps(["__default__", "x"])]
    path.write_bytes("\r\n".join(lines).encode())
    file = IdsFile(None, path)  # type: ignore[arg-type]
    found: list[str] = []
    token: str | None = None
    while True:
        page = file.list_page("", token)
        assert len(page.ids) <= 100
        found += page.ids
        token = page.following
        if token is None:
            break
    assert found == [*plain, "[not a pair", "x"]
    assert file.list_page("b", None).ids == ("pair",)


def test_a_file_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        IdsFile(None, tmp_path / "nothing")  # type: ignore[arg-type]
    assert "ids_file" in caught.value.message
