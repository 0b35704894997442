"""The documentation's site: it builds without a warning, and fetches nothing from elsewhere."""

from __future__ import annotations

import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from bridge.telemetry import METRICS, full_name
from tests.docs.markdown import DOCUMENTS, ROOT, bare, read
from tests.docs.test_configuration import SETTINGS
from tests.docs.test_quotes import PARSERS


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(directory)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={"PATH": "/usr/bin:/bin", "NO_MKDOCS_2_WARNING": "1", "LC_ALL": "C.UTF-8"},
    )
    assert done.returncode == 0, done.stderr
    return directory


def page(site: Path, name: str) -> str:
    return (site / name / "index.html").read_text(encoding="utf-8")


class _Texts(HTMLParser):
    """The text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.parts: list[str] = []
        self.feed(text)

    def handle_data(self, data: str) -> None:
        self.parts.append(data)


def words(text: str) -> str:
    return " ".join(" ".join(_Texts(text).parts).split())


def test_every_document_has_a_page(site: Path) -> None:
    for path in DOCUMENTS:
        name = Path(path).stem.lower()
        assert (site / name / "index.html").exists() or name == "index", path


def test_every_command_and_flag_is_there(site: Path) -> None:
    shown = words(page(site, "commands"))
    leaves = [parser for parser in PARSERS if not hasattr(parser, "commands")]
    assert len(leaves) > 10
    for parser in leaves:
        if parser.hidden or parser.name == "pg":
            continue
        assert re.search(rf"qdrant-bridge (\S+ )?{parser.name}\b", shown), parser.name
        for parameter in parser.params:
            if not parameter.hidden and parameter.opts[0].startswith("-"):
                assert max(parameter.opts, key=len) in shown, (parser.name, parameter.opts)


def test_every_setting_is_there(site: Path) -> None:
    shown = set(re.findall(r"<code>([\w.*]+)</code>", page(site, "settings")))
    sections = {
        path[:end].removesuffix(".*")
        for path, _schema, _required in SETTINGS
        for end in range(len(path))
        if path[end] == "."
    }
    for path, _schema, _required in SETTINGS:
        assert path in shown or path in sections, path


def test_nothing_is_fetched_from_elsewhere(site: Path) -> None:
    for file in site.rglob("*.html"):
        text = file.read_text(encoding="utf-8")
        fetched = re.findall(r'<(?:script|img|iframe)[^>]* src="([^"]+)"', text)
        fetched += re.findall(r'<link[^>]* rel="stylesheet"[^>]* href="([^"]+)"', text)
        fetched += re.findall(r'<link[^>]* href="([^"]+)"[^>]* rel="stylesheet"', text)
        assert not [url for url in fetched if "//" in url], file


def test_every_metric_is_documented_as_it_is() -> None:
    rows = read("docs/monitoring.md").table("metrics")
    documented = {bare(row[0]): (row[1], row[3]) for row in rows}
    assert documented == {full_name(name): METRICS[name] for name in METRICS}
