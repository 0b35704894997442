"""A directory with a `bridge.yaml`, for tests of the configuration."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from bridge.config import Effective, TableChoice, TableSettings, load
from bridge.errors import UsageError


class Workplace:
    """A directory with a `bridge.yaml`, and how to load it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.path = directory / "bridge.yaml"

    def load(
        self,
        text: str = "",
        *,
        flags: Mapping[str, object] | None = None,
        environ: Mapping[str, str] | None = None,
        table: TableChoice | None = None,
    ) -> Effective:
        self.path.write_text(text, encoding="utf-8")
        return load(self.path, flags or {}, environ or {}, table=table)

    def table(self, text: str) -> TableSettings:
        """The settings of table `t` whose body, on one line, is `text`."""
        return self.load(f"tables: {{t: {text}}}").settings.tables["t"]

    def refusal(self, text: str = "", **layers: Mapping[str, object]) -> str:
        with pytest.raises(UsageError) as caught:
            self.load(text, **layers)  # type: ignore[arg-type]
        assert caught.value.exit_code == 2
        return caught.value.message
