"""A report as a file for the textfile collector of Prometheus' node_exporter, for runs by night. Pure.

External specification: Prometheus, "Exposition formats", text format 0.0.4. The collector may read at any
moment, so the file is put in place by a rename.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from bridge.errors import UsageError
from verify.report import COUNTS

PREFIX: Final = "qdrant_bridge_verify"

_HELP: Mapping[str, str] = {
    "equal": "1 if the last comparison found the table and its collection equal, else 0.",
    "rows": "Rows of the table at the last comparison.",
    "points": "Points of the collection at the last comparison.",
    "compared": "Rows whose points were compared.",
    "differences": "What the last comparison found, by kind.",
    "seconds": "How long the last comparison took.",
    "recall": "Measures of the last comparison's searches, by name.",
    "finished_timestamp_seconds": "When the last comparison came to its end.",
}


def metrics(report: Mapping[str, Any], now_seconds: float) -> str:
    """The file's text."""
    samples: dict[str, list[tuple[dict[str, str], float]]] = {name: [] for name in _HELP}
    for table, found in report["tables"].items():
        labels = {"pipeline": report["pipeline"], "table": table}
        samples["equal"].append((labels, 1.0 if found["equal"] else 0.0))
        samples["rows"].append((labels, found["source"]))
        samples["points"].append((labels, found["target"]))
        samples["compared"].append((labels, found["compared"]))
        samples["seconds"].append((labels, found["seconds"]))
        samples["differences"] += [({**labels, "kind": kind}, found[kind]) for kind in COUNTS]
        for vector, recall in found.get("recall", {}).items():
            samples["recall"] += [
                ({**labels, "vector": vector, "measure": name}, value)
                for name, value in recall["index"].items()
                if value is not None
            ]
    finished = {"pipeline": report["pipeline"]}
    samples["finished_timestamp_seconds"].append((finished, now_seconds))
    return "".join(_lines(samples))


def _lines(samples: Mapping[str, list[tuple[dict[str, str], float]]]) -> Iterator[str]:
    for name, found in samples.items():
        if not found:
            continue
        yield f"# HELP {PREFIX}_{name} {_HELP[name]}\n# TYPE {PREFIX}_{name} gauge\n"
        for labels, value in found:
            told = ",".join(f'{key}="{_escaped(text)}"' for key, text in labels.items())
            yield f"{PREFIX}_{name}{{{told}}} {value:.17g}\n"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def write(path: Path, text: str) -> None:
    """Put the file in place, readable for the collector."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        draft.write_text(text, encoding="utf-8")
        draft.chmod(0o644)
        os.replace(draft, path)
    except OSError as error:
        raise UsageError(
            f"cannot write {path}: {error.strerror}",
            hint="name a file in a directory that this user may write to",
        ) from None
