"""How far the comparison of a table has come, in a file: what lets a later run go on.

Written whole and put in place by a rename, so a crash leaves the one before. A file of another comparison
(another table, mapping, part) is not gone on with. It goes when the comparison has ended: the next one
begins anew. No values are in it, but for those of examples.
"""

from __future__ import annotations

import io
import json
import os
from collections import Counter
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from bridge.errors import UsageError
from bridge.mapping import TableMapping
from bridge.postgres.verify_reads import Part
from verify.digests import Buckets
from verify.report import Findings

_VERSION = 2
Bounds = tuple[tuple[str, ...], ...]


@dataclass(slots=True, kw_only=True)
class Saved:
    """`done`: rows compared, by chunk. Suspects of these chunks are settled."""

    bounds: Bounds
    buckets: Buckets = field(default_factory=Buckets)
    findings: Findings = field(default_factory=Findings)
    done: dict[int, int] = field(default_factory=dict)


def fingerprint(
    mapping: TableMapping, part: Part, *, source: str, target: str, exact_vectors: bool
) -> str:
    """What a file must be of, for a comparison to go on with it. `source` and `target` tell the two
    databases: what was found in one Qdrant says nothing of another."""
    parts = (
        (_VERSION, source, target, exact_vectors),
        (mapping.table.oid, mapping.collection, mapping.key, mapping.id_rule, mapping.selection),
        (mapping.payload, mapping.vectors, mapping.omit_nulls, dict(mapping.where), part),
    )
    return sha256(repr(parts).encode()).hexdigest()


class ProgressFile:
    """The file of one table below a directory; without a directory it keeps nothing."""

    def __init__(self, directory: Path | None, table: str, print_of: str) -> None:
        self._path: Path | None = None
        self._print_of = print_of
        if directory is not None:
            try:
                directory.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise UsageError(
                    f"cannot make the directory {directory}: {error.strerror}",
                    hint="name one that this user may write to: --resume DIRECTORY",
                ) from None
            name = sha256(f"{table}/{print_of}".encode()).hexdigest()[:20]
            self._path = directory / f"{name}.verify"

    @property
    def kept(self) -> bool:
        """Whether progress is kept at all."""
        return self._path is not None

    def load(self) -> Saved | None:
        """What an earlier run left; None if there is nothing, or nothing of use."""
        if self._path is None or not self._path.exists():
            return None
        try:
            with np.load(io.BytesIO(self._path.read_bytes()), allow_pickle=False) as arrays:
                head: dict[str, Any] = json.loads(arrays["head"].tobytes())
                buckets = Buckets.restored(arrays["sums"], arrays["counts"])
        except (ValueError, KeyError, EOFError, OSError, BadZipFile):
            return None
        if head["fingerprint"] != self._print_of:
            return None
        found = head["findings"]
        return Saved(
            bounds=tuple(map(tuple, head["bounds"])),
            buckets=buckets,
            findings=Findings(
                counts=Counter(found["counts"]),
                examples=found["examples"],
                keys=[tuple(key) for key in found["keys"]],
                extras=found["extras"],
                overflowed=found["overflowed"],
            ),
            done={int(number): rows for number, rows in head["done"].items()},
        )

    def save(self, saved: Saved) -> None:
        """Keep it; the file before stays until this one is whole."""
        if self._path is None:
            return
        findings = saved.findings
        head = {
            "fingerprint": self._print_of,
            "bounds": saved.bounds,
            "done": saved.done,
            "findings": {
                "counts": findings.counts,
                "examples": findings.examples,
                "keys": findings.keys,
                "extras": findings.extras,
                "overflowed": findings.overflowed,
            },
        }
        raw = json.dumps(head, ensure_ascii=False, default=str).encode()
        buffer = io.BytesIO()
        sums, counts = saved.buckets.state()
        packed = np.frombuffer(raw, dtype=np.uint8)
        np.savez(buffer, head=packed, sums=sums, counts=counts)
        draft = self._path.with_suffix(".draft")
        try:
            descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with open(descriptor, "wb") as file:
                file.write(buffer.getvalue())
            os.replace(draft, self._path)
        except OSError as error:
            raise UsageError(
                f"cannot keep the progress in {self._path.parent}: {error.strerror}",
                hint="name a directory that this user may write to: --resume DIRECTORY",
            ) from None

    def forget(self) -> None:
        """The comparison has ended."""
        if self._path is not None:
            self._path.unlink(missing_ok=True)
