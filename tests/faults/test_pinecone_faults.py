"""Pinecone that fails: refused, slow down, cut, killed, changed in the middle. All of it arrives."""

from __future__ import annotations

import signal
import threading
from collections import Counter
from collections.abc import Iterator

import pytest

from backfill.pinecone import IndexBackfill, IndexOptions
from backfill.pinecone_reader import CopyOptions
from bridge.config import PineconeSettings
from bridge.errors import RateLimited, Unreachable
from bridge.pinecone.client import Access, PineconeIndex
from bridge.qdrant.channel import endpoint
from bridge.qdrant.server import ServerTarget
from bridge.qdrant.state import QdrantState
from tests.support.comparison import point_id
from tests.support.pinecone_faults import cut, first, hold, nonsense, refuse
from tests.support.pinecone_index import Index
from tests.support.pinecone_runs import KILLED, Job, fill, standing
from tests.support.pinecone_server import KEY
from tests.support.places import ServerPlace, open_server
from tests.support.qdrant_server import (
    contains_point,
    lost_response,
    rate_limited,
    reject,
    unavailable,
)

PRICES = ["price"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerPlace]:
    with open_server(tmp_path_factory.mktemp("qdrant")) as opened:
        yield opened


def _index(count: int = 700, **options: object) -> Index:
    index = Index(**options)  # type: ignore[arg-type]
    fill(index, count)
    fill(index, count // 7, namespace="b", seed=2)
    return index


# --- answers --------------------------------------------------------------------------------------


def test_a_fifth_of_all_answers_may_fail_in_every_way(place: ServerPlace) -> None:
    index = _index(2500, short_pages=5)
    for number in range(20):
        fill(index, 3 + number, namespace=f"tenant-{number}", seed=number)
    with standing(index, place) as job:
        job.server.faults.at_random(0.2, seed=11)
        job.run().require()
        job.require_equal(float_fields=PRICES)
        assert sum(job.server.faults.injected.values()) > 20


@pytest.mark.parametrize("status", [429, 500, 503])
def test_no_endpoint_is_given_up_at_once(place: ServerPlace, status: int) -> None:
    index = _index(120)
    with standing(index, place) as job:
        for endpoint in ("describe", "stats", "namespaces", "list", "fetch"):
            job.server.faults.add(endpoint, refuse(status, retry_after=0.02), times=6)
        job.run().require()
        job.require_equal(float_fields=PRICES)


def test_a_cut_body_is_read_again(place: ServerPlace) -> None:
    """The SDK does not try again there."""
    with standing(_index(), place) as job:
        job.server.faults.add("fetch", cut(0.5), nth=2, times=3)
        job.server.faults.add("list", cut(0.1), nth=2, times=2)
        job.run().require()
        job.require_equal(float_fields=PRICES)


def test_a_gateways_page_is_no_record(place: ServerPlace) -> None:
    with standing(_index(), place) as job:
        job.server.faults.add("fetch", nonsense(), times=4)
        assert job.run().require().report["totals"]["dead_letters"] == 0
        job.require_equal(float_fields=PRICES)


@pytest.mark.parametrize("bad", [["item-17-bad"], ["a-bad", "item-1-bad", "item-350-bad", "z-bad"]])
def test_a_record_without_any_vector_is_alone_set_aside(place: ServerPlace, bad: list[str]) -> None:
    """It makes the SDK refuse the whole page."""
    index = _index()
    for identity in bad:
        index.put(identity, metadata={"title": "no vector"})
    with standing(index, place) as job:
        report = job.run().require().report
        job.require_equal(float_fields=PRICES, without=bad)
    assert report["totals"]["dead_letters"] == len(bad)
    assert len(place.records(job.name, "dead_letter")) == len(bad)


def test_a_url_that_is_too_long_for_a_proxy_is_halved(place: ServerPlace) -> None:
    index = Index()
    for number in range(150):
        index.put(f"{number:03}-" + "é%".encode().hex() * 30, [number + 1.0] * 8)
    with standing(index, place) as job:
        job.server.faults.add("fetch", refuse(414), times=2)
        job.server.faults.add("fetch", refuse(431), nth=3, times=2)
        job.run().require()
        job.require_equal()
        sizes = [len(request.ids) for request in job.server.requests.of("fetch")]
    assert max(sizes) <= 100


def test_long_ids_make_short_requests(place: ServerPlace) -> None:
    index = Index()
    for number in range(120):
        index.put(f"{number:04}" + "%" * 508, [number + 1.0] * 8)
    with standing(index, place) as job:
        job.run().require()
        job.require_equal()
        for request in job.server.requests.of("fetch"):
            assert sum(len(one) * 3 for one in request.ids) < 9000


def test_what_vector_qdrant_refuses_is_set_aside(place: ServerPlace) -> None:
    index = Index(metric="cosine")
    fill(index, 50)
    index.put("overflow", [3e38] * 8)
    index.put("short", [1.0] * 7)
    with standing(index, place) as job:
        report = job.run().require().report
        job.require_equal(float_fields=PRICES, without=["overflow", "short"])
    assert report["totals"]["dead_letters"] == 2


def test_too_many_of_them_stop_the_run(place: ServerPlace) -> None:
    index = Index()
    for number in range(1101):
        index.put(f"r{number}", [1.0] * (8 if number == 0 else 7))
    with standing(index, place) as job:
        outcome = job.run().require(3)
    assert "DEAD_LETTERS" in outcome.err
    assert place.threshold(job.name) != 0


def test_the_months_read_units_are_not_waited_for(place: ServerPlace) -> None:
    with standing(_index(), place) as job:
        message = "You've reached your read unit limit for the current month"
        job.server.faults.add("fetch", refuse(429, message=message), nth=4, times=10_000)
        outcome = job.run().require(2)
        assert "read units are used up" in outcome.err
        job.server.faults.clear()
        job.run().require()
        job.require_equal(float_fields=PRICES)


def test_a_key_that_is_withdrawn_ends_the_run(place: ServerPlace) -> None:
    with standing(_index(), place) as job:
        job.server.faults.add("fetch", refuse(401), nth=5, times=10_000)
        outcome = job.run().require(2)
        assert "refuses the API key" in outcome.err
        assert place.threshold(job.name) != 0


@pytest.mark.parametrize(("status", "kind"), [(503, Unreachable), (429, RateLimited)])
def test_patience_ends(place: ServerPlace, status: int, kind: type[Unreachable]) -> None:
    index = _index()
    with standing(index, place) as job:
        job.server.faults.add("fetch", refuse(status), nth=2, times=10_000)
        target = ServerTarget(endpoint(place.url, api_key=None))
        pinecone = PineconeIndex(Access(api_key=KEY, index="products", service_host=job.server.url))
        store = QdrantState(target, job.name)
        store.prepare()
        run = IndexBackfill(
            pinecone,
            PineconeSettings(index="products", collection=job.name),
            target=target,
            store=store,
            options=IndexOptions(copy=CopyOptions(patience_seconds=0.3)),
            tell=lambda event: None,
        )
        with pytest.raises(kind) as caught:
            run.run(run.look())
        assert caught.value.exit_code == 4
        pinecone.close()
        target.close()


# --- limits ---------------------------------------------------------------------------------------


def test_a_limit_is_kept_without_a_single_429(place: ServerPlace) -> None:
    index = Index()
    fill(index, 2000)
    with standing(index, place, limits={"list": 20, "fetch": 10}) as job:
        refused = Counter[str]()
        over = job.server.over

        def counted(endpoint: str) -> bool:
            found = over(endpoint)
            refused[endpoint] += found
            return found

        job.server.over = counted  # type: ignore[method-assign]
        job.run("--pinecone.list-per-second", "19", "--pinecone.fetch-per-second", "9.5").require()
        job.require_equal(float_fields=PRICES)
    # The sample and the second look of the stats are paced by clocks of their own.
    assert sum(refused.values()) <= 2


def test_a_limit_that_nobody_told_us_is_found(place: ServerPlace) -> None:
    with standing(_index(1500), place, limits={"fetch": 12, "list": 12}) as job:
        job.run().require()
        job.require_equal(float_fields=PRICES)


# --- changes in the middle ------------------------------------------------------------------------


def test_ids_deleted_between_list_and_fetch_are_no_failure(place: ServerPlace) -> None:
    index = _index()
    with standing(index, place) as job:

        def delete() -> None:
            for number in range(100, 160):
                index.delete(f"item-{number}")

        job.server.faults.add("fetch", first(delete), nth=4)
        report = job.run().require().report
        job.require_equal(float_fields=PRICES)
    assert report["totals"]["records"] == len(index)


def test_a_second_pass_takes_what_was_written_and_deleted_behind_the_cursor(
    place: ServerPlace,
) -> None:
    index = _index()
    with standing(index, place) as job:

        def change() -> None:
            for number in range(30):
                index.put(f"a-new-{number}", [number + 1.0] * 8)
            for number in range(10):
                index.delete(f"item-{number}")
            fill(index, 5, namespace="late", seed=9)

        job.server.faults.add("fetch", first(change), nth=9)
        report = job.run().require().report
        assert report["second_pass"]["added"] >= 30
        assert report["second_pass"]["removed"] >= 1
        assert any("no snapshot" in note for note in report["notes"])
        # The namespace that came late is not in the plan of this run, and in that of the next.
        job.require_equal(float_fields=PRICES, namespaces=["", "b"], joint=True)
        job.run().require()
        job.require_equal(float_fields=PRICES, joint=True)


def test_a_full_second_pass_sees_updates(place: ServerPlace) -> None:
    index = _index()
    with standing(index, place) as job:
        job.server.faults.add(
            "fetch",
            first(lambda: index.put("item-0", [9.0] * 8, metadata={"title": "updated"})),
            nth=8,
        )
        job.run("--pinecone.reconcile", "full").require()
        job.require_equal(float_fields=PRICES)


def test_without_a_second_pass_a_difference_fails(place: ServerPlace) -> None:
    index = _index()
    with standing(index, place) as job:
        job.server.faults.add("fetch", first(lambda: index.put("a-new", [1.0] * 8)), nth=9)
        outcome = job.run("--pinecone.reconcile", "none").require(1)
        assert "COUNTS_DIFFER" in outcome.err
        assert "Pinecone counts 701" in outcome.err
        job.run().require()
        job.require_equal(float_fields=PRICES)


def test_counts_that_never_agree_fail(place: ServerPlace) -> None:
    index = _index(100)
    index.count_error = 3
    with standing(index, place) as job:
        outcome = job.run().require(1)
    assert "COUNTS_DIFFER" in outcome.err


def test_a_namespace_that_is_deleted_is_empty(place: ServerPlace) -> None:
    index = _index()
    with standing(index, place) as job:

        def delete() -> None:
            del index.namespaces["b"]

        job.server.faults.add("fetch", first(delete), nth=5)
        job.run().require()
        job.require_equal(float_fields=PRICES, joint=True)


def test_points_that_were_there_before_are_never_removed(place: ServerPlace) -> None:
    from qdrant_client import models

    index = Index(metric="dotproduct")
    fill(index, 150)
    with standing(index, place) as job:
        place.client.create_collection(
            job.name, vectors_config=models.VectorParams(size=8, distance=models.Distance.DOT)
        )
        theirs = models.PointStruct(id=5, vector=[1.0] * 8, payload={"__id__": "5"})
        place.client.upsert(job.name, [theirs])
        job.server.faults.add("fetch", first(lambda: index.delete("item-99")), nth=3)
        report = job.run().require().report
        assert 5 in job.points()
    assert any("held 1 points" in note for note in report["notes"])


# --- kills and resuming ---------------------------------------------------------------------------


FAILPOINTS = [
    "backfill.after_plan:kill@1",
    "backfill.read:kill@3",
    "backfill.before_checkpoint:kill@2",
    "backfill.after_checkpoint:kill@1",
]


@pytest.mark.parametrize("failpoint", FAILPOINTS)
def test_a_kill_loses_nothing_and_fetches_little_twice(place: ServerPlace, failpoint: str) -> None:
    index = _index(3000, short_pages=3)
    # So slow that there are checkpoints on the way.
    slow = ("--pinecone.fetch-per-second", "25")
    with standing(index, place) as job:
        with job.start(*slow, failpoints=failpoint) as running:
            assert running.finish().code == KILLED
        before = _progress(place, job)
        job.server.requests.clear()
        job.run().require()
        job.require_equal(float_fields=PRICES)
        fetched = sum(len(request.ids) for request in job.server.requests.of("fetch"))
    assert fetched <= len(index) - before + 1


def _progress(place: ServerPlace, job: Job) -> int:
    return sum(one["records"] for one in place.records(job.name, "namespace").values())


def test_an_interrupted_run_restores_indexing_and_goes_on(place: ServerPlace) -> None:
    index = _index(1500)
    release = threading.Event()
    with standing(index, place) as job:
        fired = job.server.faults.add("fetch", hold(release), nth=8, times=1)
        with job.start() as running:
            assert fired.wait(60)
            running.signal(signal.SIGTERM)
            outcome = running.finish()
            release.set()
        assert outcome.code == 143
        assert place.threshold(job.name) != 0
        job.run().require()
        job.require_equal(float_fields=PRICES)


def test_an_expired_token_begins_again_without_fetching_again(place: ServerPlace) -> None:
    index = _index(3000)
    with standing(index, place) as job:
        slow = ("--pinecone.fetch-per-second", "15")
        with job.start(*slow, failpoints="backfill.after_checkpoint:kill@2") as running:
            assert running.finish().code == KILLED
        before = _progress(place, job)
        assert before > 0
        index.expire_tokens()
        job.server.requests.clear()
        report = job.run().require().report
        job.require_equal(float_fields=PRICES)
        fetched = sum(len(request.ids) for request in job.server.requests.of("fetch"))
    assert report["totals"]["records"] == len(index)
    assert fetched <= len(index) - before


def test_a_token_that_expires_under_way_does_so_too(place: ServerPlace) -> None:
    index = _index(3000)
    with standing(index, place) as job:
        job.server.faults.add("list", first(index.expire_tokens), nth=9)
        job.server.faults.add("list", first(index.expire_tokens), nth=22)
        report = job.run().require().report
        job.require_equal(float_fields=PRICES)
    assert report["totals"]["records"] == len(index)


def test_a_token_that_is_refused_whenever_it_is_given_ends_it(place: ServerPlace) -> None:
    """A proxy that spoils URLs: to begin again for ever would only cost read units."""
    index = _index(3000)
    with standing(index, place) as job:
        job.server.faults.add("list", first(index.expire_tokens), nth=9, times=1000)
        outcome = job.run().require(4)
    assert "page tokens that it gave itself" in outcome.err
    assert "proxy" in outcome.err


def test_a_second_run_beside_the_first_is_refused(place: ServerPlace) -> None:
    index = _index(400)
    release = threading.Event()
    with standing(index, place) as job:
        fired = job.server.faults.add("fetch", hold(release), nth=4)
        with job.start() as running:
            assert fired.wait(60)
            outcome = job.run().require(3)
            assert "LEASE_HELD" in outcome.err
            release.set()
            assert running.finish().code == 0
        job.require_equal(float_fields=PRICES)


# --- the target -----------------------------------------------------------------------------------


def test_a_target_that_fails_is_waited_for(place: ServerPlace) -> None:
    assert place.server is not None
    index = _index(1500)
    with standing(index, place, "--migration.batch-size", "50") as job:
        faults = place.server.faults
        faults.add(method="Upsert", collection=job.name, action=unavailable(), nth=2, times=2)
        faults.add(method="Upsert", collection=job.name, action=lost_response(), nth=7, times=2)
        faults.add(method="Upsert", collection=job.name, action=rate_limited(0.05), nth=12, times=1)
        job.run().require()
        job.require_equal(float_fields=PRICES)


def test_a_point_that_the_target_refuses_is_set_aside_by_its_id(place: ServerPlace) -> None:
    assert place.server is not None
    index = _index(300)
    with standing(index, place) as job:
        bad = point_id(("b", "item-7"))
        place.server.faults.add(
            method="Upsert",
            collection=job.name,
            action=reject(contains_point(bad)),
            times=None,
        )
        report = job.run().require().report
    assert report["totals"]["dead_letters"] == 1
    assert report["namespaces"]["b"]["dead_letters"] == 1
    (letter,) = place.records(job.name, "dead_letter").values()
    assert letter["key"] == '["b","item-7"]'


def test_a_collection_that_is_gone_stops_a_resumed_run(place: ServerPlace) -> None:
    index = _index(100)
    with standing(index, place) as job:
        job.run().require()
        place.client.delete_collection(job.name)
        outcome = job.run().require(3)
        assert "TARGET_CHANGED" in outcome.err
        job.run("--migration.restart").require()
        job.require_equal(float_fields=PRICES)


def test_a_full_second_pass_says_how_much_was_read(place: ServerPlace) -> None:
    index = _index(200)
    with standing(index, place) as job:
        assert job.run().require().report["copied_now"] == len(index)
        report = job.run("--pinecone.reconcile", "full").require().report
        assert report["copied_now"] == len(index)
        assert report["second_pass"]["read_again"] == len(index)
        job.require_equal(float_fields=PRICES)


def test_ids_that_were_gone_are_looked_for_once(place: ServerPlace) -> None:
    index = _index(300)
    with standing(index, place) as job:
        job.server.faults.add("fetch", first(lambda: index.delete("item-250")), nth=3)
        assert job.run().require().report["second_pass"] is not None
        again = job.run().require().report
        assert again["second_pass"] is None
        assert again["copied_now"] == 0
