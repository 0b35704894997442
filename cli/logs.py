"""The daemon's log: a constant event name and fields, on standard error.

JSON lines when nobody watches, aligned text on a terminal. Never a row's value, never a secret: the
callers pass none.
"""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime


def log(event: str, **fields: object) -> None:
    """Write one line."""
    at = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    if sys.stderr.isatty():
        told = "  ".join(f"{name}={value}" for name, value in fields.items())
        line = f"{at}  {event:<16} {told}"
    else:
        line = json.dumps({"at": at, "event": event, **fields}, ensure_ascii=False, default=str)
    # One write with its newline: several threads log, and `print` writes the two apart.
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()
