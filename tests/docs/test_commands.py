"""Every command, statement and configuration that the documents show is run as it stands there.

A document is run from top to bottom on a stage of its own (`stage.py`), as a reader would who follows
it; what is not run says why (`markdown.py`, directives).
"""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
import yaml

from bridge.config import load
from tests.docs.markdown import DOCUMENTS, ROOT, Block, read
from tests.docs.stage import Stage
from tests.support.command import Outcome

RUN = ("sh", "sql", "python")
SHOWN = ("text", "json")


@pytest.mark.parametrize("path", DOCUMENTS)
def test_a_document_can_be_followed_from_top_to_bottom(path: str, stage: Stage) -> None:
    last: Outcome | None = None
    for block in read(path).blocks:
        if "file" in block.directives:
            stage.write(block)
        if "contents" in block.directives:
            written = (stage.work / block.directives["contents"]).read_text()
            shown = yaml.safe_load(block.text)
            assert yaml.safe_load(stage.restored(written)) == shown, block.place
        if "output" in block.directives:
            assert last is not None, f"{block.place}: nothing was run before it"
            _compare(block, last)
        elif block.language in RUN and "not run" not in block.directives:
            last = _run(block, stage)


def _run(block: Block, stage: Stage) -> Outcome | None:
    if block.language == "sql":
        stage.sql(block)
        return None
    outcome = stage.shell(block) if block.language == "sh" else stage.python(block)
    expected = int(block.directives.get("exit", "0"))
    assert outcome.code == expected, f"{block.place}: exit {outcome.code}\n{outcome.err}"
    return outcome


def _compare(block: Block, outcome: Outcome) -> None:
    if block.language == "json":
        assert _shape(json.loads(block.text)) == _shape(outcome.report), block.place
        return
    printed = [" ".join(line.split()) for line in (outcome.out + outcome.err).splitlines()]
    for line in block.text.splitlines():
        pattern = re.escape(" ".join(line.split())).replace("…", ".*")
        assert any(re.fullmatch(pattern, found) for found in printed), (
            f"{block.place}: no line was printed like {line!r}\n" + "\n".join(printed)
        )


def _shape(value: Any) -> Any:
    """The keys, and whether a value is there; a list by its first item."""
    if isinstance(value, dict):
        return {key: _shape(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_shape(value[0])] if value else []
    return None if value is None else type(value).__name__


@pytest.mark.parametrize("path", DOCUMENTS)
def test_every_yaml_block_is_a_configuration(path: str, stage: Stage) -> None:
    blocks = [block for block in read(path).blocks if block.language == "yaml"]
    for number, block in enumerate(blocks):
        text = stage.translated(block.text)
        if "not configuration" in block.directives:
            assert list(yaml.safe_load_all(text)), block.place
            continue
        file = stage.work / f"{number}.yaml"
        file.write_text(text)
        assert load(file, {}, {}).origins, f"{block.place}: it sets nothing"


@pytest.mark.parametrize("path", DOCUMENTS)
def test_every_block_is_run_or_says_why_not(path: str) -> None:
    for block in read(path).blocks:
        assert block.language in (*RUN, *SHOWN, "yaml"), f"{block.place}: {block.language!r}"
        assert block.directives.get("not run", "reason"), f"{block.place}: no reason"
        if block.language == "json":
            assert "output" in block.directives, block.place


def test_the_scripts_that_blocks_name_are_there() -> None:
    named = {
        name
        for path in DOCUMENTS
        for block in read(path).blocks
        for name in re.findall(r"^(script/[\w-]+)", block.text, re.MULTILINE)
    }
    assert {"script/demo", "script/test", "script/setup"} <= named
    for name in named:
        assert (ROOT / name).stat().st_mode & 0o100, name
