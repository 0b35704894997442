"""The status page in a headless Chromium: what it shows of each state, on a desk and on a phone.

With `STATUS_PAGE_PICTURES=directory` the pictures stay there, for people to look at.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sync.http import Feed, HttpServer, Response, Routes
from sync.status_page import page
from tests.support.browser import MISSING, PROGRAM, Browser, Page
from tests.support.daemons import Pipeline, http_address, wait_streaming
from tests.support.databases import Database
from tests.support.places import open_server

pytestmark = pytest.mark.skipif(PROGRAM is None, reason=MISSING)

DESK = {"width": 1100, "height": 800}
PHONE = {"width": 390, "height": 844}
STREAMING: dict[str, Any] = {
    "pipeline": "shop",
    "version": "0.1.0",
    "at": "2026-01-01T00:00:00+00:00",
    "ready": True,
    "phase": "streaming",
    "connected": True,
    "source_reachable": True,
    "checkpoint_lsn": "16/B374D848",
    "source_lsn": "16/B374E1F0",
    "lag": {"bytes": 2472, "seconds": 0.1},
    "slot": {"active": True, "retained_bytes": 4_300_123, "wal_status": "reserved"},
    "checkpoint_age_seconds": 0.2,
    "tables": {
        "public.products": {"upserts": 123_456, "patches": 40_233, "deletes": 812},
        'app."<img src=x onerror=alert(1)>"': {"upserts": 3, "patches": 0, "deletes": 0},
    },
    "backfill": {},
    "dead_letters": 0,
    "changes_per_second": 412.5,
    "windows": 8812,
    "retries": 0,
    "waiting": None,
    "stop": None,
}
COPYING = {
    **STREAMING,
    "phase": "backfill",
    "ready": False,
    "connected": False,
    "lag": None,
    "slot": None,
    "tables": {},
    "dead_letters": None,
    "backfill": {
        "public.products": {
            "collection": "products",
            "rows": 300_000,
            "estimated_rows": 1_200_000,
            "chunks": 120,
            "chunks_done": 30,
            "dead_letters": 2,
        }
    },
}
WAITING = {
    **STREAMING,
    "waiting": "Qdrant at https://qdrant.internal:6334 does not answer: connection refused",
    "changes_per_second": 0.0,
    "dead_letters": 12,
    "lag": {"bytes": 88_123_456, "seconds": 73.2},
}
STOPPED = {
    **STREAMING,
    "phase": "stopped",
    "ready": False,
    "connected": False,
    "stop": {
        "code": "SLOT_LOST",
        "message": "the slot bridge_shop is lost",
        "hint": "qdrant-bridge resync --all copies everything again",
    },
}
KAFKA = {
    **STREAMING,
    "slot": None,
    "source_reachable": None,
    "lag": {"bytes": None, "messages": 1234, "seconds": 2.0},
    "kafka": {"partitions": 6, "rows_read_again": 77},
}


class Stand:
    """A server whose report the test sets."""

    def __init__(self) -> None:
        self.report = STREAMING
        routes: Routes = {
            "/": page,
            "/events": lambda: Feed(first=self._first, following=self._following),
            "/status.json": lambda: Response.of_json(self._first()),
        }
        self.server = HttpServer(("127.0.0.1", 0), routes)

    def _first(self) -> dict[str, Any]:
        now = time.time()
        points = [[now - 2 * (200 - i), i % 17 / 10, 300.0 + i % 50] for i in range(200)]
        return {**self.report, "history": points}

    def _following(self) -> dict[str, Any]:
        return {**self.report, "point": [time.time(), 0.3, 410.0]}


@pytest.fixture
def stand() -> Iterator[Stand]:
    made = Stand()
    with made.server:
        yield made


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("chromium")) as running:
        yield running


def opened(browser: Browser, address: str, **screen: Any) -> Page:
    page = browser.open(f"http://{address}/", **screen)
    page.wait("document.getElementById('updated').innerText")
    return page


def test_streaming_is_shown_with_its_figures(browser: Browser, stand: Stand) -> None:
    page = opened(browser, stand.server.address, **DESK)
    assert page.value("document.title") == "shop: streaming"
    shown = {name: page.text(name) for name in ("phase", "lag", "rate", "kept", "letters")}
    assert shown == {
        "phase": "streaming",
        "lag": "0.1 s",
        "rate": "412.5",
        "kept": "4.3 MB",
        "letters": "0",
    }
    assert page.text("source-lsn") == "16/B374E1F0"
    assert "123,456" in page.text("tables")
    assert page.value("document.querySelectorAll('.wire.flowing').length") == 2
    line = "document.querySelector('#lag-chart .drawn').getAttribute('d').split('L').length"
    assert page.value(line) > 100


def test_names_are_shown_as_text_and_nothing_is_fetched_from_elsewhere(
    browser: Browser, stand: Stand
) -> None:
    page = opened(browser, stand.server.address, **DESK)
    assert "<img src=x onerror=alert(1)>" in page.text("tables")
    assert page.value("document.querySelectorAll('#page img').length") == 0
    foreign = [
        url
        for url in page.requested()
        if not url.startswith((f"http://{stand.server.address}/", "data:", "about:"))
    ]
    assert foreign == []
    assert page.complaints() == []


def test_a_change_arrives_by_itself(browser: Browser, stand: Stand) -> None:
    page = opened(browser, stand.server.address, **DESK)
    stand.report = STOPPED
    page.wait("!document.getElementById('stop').hidden")
    assert page.text("stop-code") == "Stopped: SLOT_LOST"
    assert "resync --all" in page.text("stop-hint")
    assert page.text("phase") == "stopped"
    stand.report = WAITING
    page.wait("!document.getElementById('waiting').hidden")
    assert "connection refused" in page.text("waiting-reason")
    assert page.text("letters") == "12"
    assert page.value("document.querySelectorAll('#wire-out.cut').length") == 1


def test_a_copy_is_shown_with_its_progress(browser: Browser, stand: Stand) -> None:
    stand.report = COPYING
    page = opened(browser, stand.server.address, **DESK)
    assert page.text("phase") == "copying"
    assert "300,000 of ~1,200,000" in page.text("copies")
    assert page.value("document.querySelector('progress').position") == 0.25
    assert page.value("document.getElementById('stream').hidden") is True


def test_kafka_is_shown_in_the_place_of_postgres(browser: Browser, stand: Stand) -> None:
    stand.report = KAFKA
    page = opened(browser, stand.server.address, **DESK)
    assert page.text("source") == "Kafka"
    assert "1,234 messages" in page.text("lag-bytes")
    assert page.value("document.getElementById('kept-tile').hidden") is True


def test_a_daemon_that_is_gone_is_told(browser: Browser, stand: Stand) -> None:
    page = opened(browser, stand.server.address, **DESK)
    stand.server.close()
    page.wait("!document.getElementById('gone').hidden")
    assert "was so at" in page.text("gone-since")


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("screen", [DESK, PHONE], ids=["desk", "phone"])
def test_everything_fits_the_screen_and_can_be_read(
    browser: Browser, stand: Stand, tmp_path: Path, screen: dict[str, int], dark: bool
) -> None:
    pictures = Path(os.environ.get("STATUS_PAGE_PICTURES") or tmp_path)
    for name, report in (("copying", COPYING), ("waiting", WAITING), ("stopped", STOPPED)):
        stand.report = report
        page = opened(browser, stand.server.address, **screen, dark=dark)
        # Nothing sticks out to the side, where a phone would have to be scrolled for it.
        assert page.value("document.documentElement.scrollWidth <= innerWidth"), name
        assert page.value(_CONTRAST) >= 4.5, name
        if screen is PHONE:
            assert page.value(_DIRECTION) == "column", name
        path = pictures / f"{name}-{screen['width']}-{'dark' if dark else 'light'}.png"
        page.picture(path)
        assert path.stat().st_size > 10_000
        page.call("Page.close")


_DIRECTION = "getComputedStyle(document.querySelector('.picture')).flexDirection"
# The lowest contrast of any text with what lies behind it (WCAG 2.2, 1.4.3).
_CONTRAST = """(() => {
  const parse = (color) => color.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map((c) => c / 255)
    .map((c) => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = (node) => {
    for (; node; node = node.parentElement) {
      const color = parse(getComputedStyle(node).backgroundColor);
      if (color.length < 4 || color[3] > 0) return color;
    }
    return [255, 255, 255];
  };
  const texts = [...document.querySelectorAll('#page *')].filter((node) =>
    node.checkVisibility() && [...node.childNodes].some((c) => c.nodeType === 3 && c.data.trim()));
  return Math.min(...texts.map((node) => {
    const pair = [light(parse(getComputedStyle(node).color)), light(behind(node))].sort();
    return (Math.max(...pair) + 0.05) / (Math.min(...pair) + 0.05);
  }));
})()"""


def test_a_running_daemons_page_follows_what_it_does(
    browser: Browser, database: Database, tmp_path: Path
) -> None:
    with open_server(tmp_path) as place:
        pipeline = Pipeline.make(database, place, tmp_path)
        with pipeline.run() as daemon:
            wait_streaming(daemon)
            page = opened(browser, http_address(daemon), **DESK)
            page.wait("document.getElementById('phase').innerText === 'streaming'")
            page.wait("document.getElementById('slot').innerText === 'reserved'")
            assert f"{pipeline.rows} " in page.text("copies").replace("\t", " ")
            database.execute("UPDATE docs SET body = 'new' WHERE id <= 7")
            database.execute("DELETE FROM docs WHERE id > 15")
            page.wait("document.getElementById('removed').innerText === '5'")
            page.wait("document.getElementById('written').innerText === '27'")
            assert page.complaints() == []
