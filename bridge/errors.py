"""The tree of errors, and what each one asks of whoever catches it.

    BridgeError
    |- UsageError            wrong flag, configuration, table or privilege        stop, exit 2
    |- CheckFailed           a check or comparison failed                         stop, exit 1
    |- StopError             going on would lose or corrupt data; has a code      stop, exit 3
    |- Unreachable           a service does not answer, for now                   retry, exit 4 when given up
    |  `- RateLimited        it asked us to wait (`retry_after_seconds`)          retry
    |- Rejected              Qdrant refused a request; bisect to find the point   dead-letter
    `- Unstorable            one value cannot become payload or vector            dead-letter

Foreign errors (psycopg, gRPC, qdrant_edge) are translated into these at the edge where they
arise, with `raise ... from error`; nothing above the edge catches a foreign error. An error says
what happened (`message`), where (`table`, `key`, `position`) and how to mend it (`hint`); it never
carries a row's values or a secret.
"""

from __future__ import annotations

from enum import Enum
from typing import ClassVar


class Action(Enum):
    """What the catcher is asked to do."""

    RETRY = "retry"
    DEAD_LETTER = "dead-letter"
    STOP = "stop"


class BridgeError(Exception):
    """Root of the tree. `str(error)` is the message; the rest is in the attributes.

    `exit_code` is the process's exit code if nobody handles the error; `code` a stable word for
    scripts and dashboards.
    """

    action: ClassVar[Action] = Action.STOP
    exit_code: ClassVar[int] = 2

    def __init__(
        self,
        message: str,
        *,
        hint: str = "",
        code: str = "",
        table: str | None = None,
        key: str | None = None,
        position: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.code = code
        self.table = table
        self.key = key
        self.position = position

    def where(self) -> str:
        """Where it happened, as one line; empty if nothing is known."""
        parts = [
            f"{label} {value}"
            for label, value in (
                ("table", self.table),
                ("key", self.key),
                ("position", self.position),
            )
            if value is not None
        ]
        return ", ".join(parts)


class UsageError(BridgeError):
    """The command, the configuration or the privileges must change before a run makes sense."""


class CheckFailed(BridgeError):
    """A check or a comparison failed: counts differ, doctor found a blocker."""

    exit_code = 1


class StopError(BridgeError):
    """Going on would lose or corrupt data. `code` is one of the documented stop codes."""

    exit_code = 3


class Unreachable(BridgeError):
    """A service does not answer or failed in a way that passes by itself."""

    action = Action.RETRY
    exit_code = 4


class RateLimited(Unreachable):
    """The service asked for fewer or smaller requests. `retry_after_seconds`: as it said, or None."""

    def __init__(
        self, message: str, *, retry_after_seconds: float | None = None, hint: str = ""
    ) -> None:
        super().__init__(message, hint=hint)
        self.retry_after_seconds = retry_after_seconds


class Rejected(BridgeError):
    """The target refused a request because of what is in it; another try is refused as well."""

    action = Action.DEAD_LETTER


class Unstorable(BridgeError):
    """One row cannot become a point: `message` says which column and why, without the value."""

    action = Action.DEAD_LETTER
