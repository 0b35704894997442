"""What other commands ask of the process that holds the pipeline, and what became of it.

One record of kind `request` for each. The asker stores it; the holder looks every second, executes it
inside its stream, and writes the progress into the record, so that a restarted holder goes on where the
last one stopped. A request that somebody waits for keeps its outcome until he has read it, or for an
hour; any other goes when it is done. Requests of one pipeline are executed one after the other, in the
order in which they were made.

What a crash leaves: a request that is not finished. It is executed again from its last recorded step;
every step may be repeated.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, Protocol
from uuid import uuid4

from bridge.errors import BridgeError
from bridge.point_ids import PointId
from bridge.state import Kind, Record

Action = Literal["resync", "retry"]
Stage = Literal["asked", "rows", "extras", "done", "failed"]
Key = tuple[str, ...]

LOOK_SECONDS = 0.25
KEPT = timedelta(hours=1)
"""So long an outcome that nobody fetched is kept: its asker is gone."""


class RequestStore(Protocol):
    """What requests need of `state.StateStore`."""

    def get(self, kind: Kind, name: str) -> Record | None:
        """The record, or None."""

    def put(self, kind: Kind, name: str, record: Record) -> None:
        """Store or replace it; durable on return."""

    def records(self, kind: Kind) -> Iterator[tuple[str, Record]]:
        """All records of a kind, in no order."""

    def remove(self, kind: Kind, names: Sequence[str]) -> None:
        """Remove records; missing ones are no error."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a request has come.

    `after`: the key of the last row that is done; `swept`: the last point id whose row was looked for.
    `gone`: rows asked for by key that there are not; `extras`: points without a row, removed unless
    `extras_kept`. `waiting`: what is waited for just now.
    """

    stage: Stage = "asked"
    after: Key | None = None
    swept: PointId | None = None
    rows: int = 0
    written: int = 0
    letters: int = 0
    gone: int = 0
    extras: int = 0
    extras_kept: bool = False
    estimated_rows: int = -1
    waiting: str = ""
    reason: str = ""
    hint: str = ""
    ended_at: str = ""

    @property
    def ended(self) -> bool:
        """Whether nothing more will come."""
        return self.stage in ("done", "failed")


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One request. `table` as a user writes it (`Table.label`).

    resync: the rows with keys from `first` to `last`, both included; None: all on that side.
    retry: the rows with these `keys`, as dead letters name them. Else a key is its text forms, one a
    key column.
    """

    name: str
    action: Action
    table: str
    asked_at: str
    first: Key | None = None
    last: Key | None = None
    keys: tuple[str, ...] = ()
    waited_for: bool = False
    progress: Progress = field(default_factory=Progress)

    @property
    def whole(self) -> bool:
        """Whether it is about the whole table."""
        return self.action == "resync" and self.first is None and self.last is None

    def to_record(self) -> dict[str, Any]:
        """As it is stored."""
        return asdict(self)

    @classmethod
    def from_record(cls, record: Record) -> Request:
        """The inverse of `to_record`."""
        progress = dict(record["progress"])
        return cls(
            **{
                **record,
                "first": _key(record["first"]),
                "last": _key(record["last"]),
                "keys": tuple(record["keys"]),
                "progress": Progress(**{**progress, "after": _key(progress["after"])}),
            }
        )

    def at(self, **changes: Any) -> Request:
        """The same with another progress."""
        return replace(self, progress=replace(self.progress, **changes))


def _key(stored: Sequence[str] | None) -> Key | None:
    return None if stored is None else tuple(stored)


def _now() -> datetime:
    return datetime.now(UTC)


def moment(at: datetime) -> str:
    """RFC 3339 with microseconds: texts that sort as the moments do."""
    return at.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def make(
    action: Action, table: str, *, now: Callable[[], datetime] = _now, **details: Any
) -> Request:
    """A new request, not stored yet."""
    asked_at = moment(now())
    return Request(
        name=f"{asked_at}/{uuid4().hex[:8]}",
        action=action,
        table=table,
        asked_at=asked_at,
        **details,
    )


def ask(store: RequestStore, request: Request) -> None:
    """Hand it over; durable on return."""
    store.put("request", request.name, request.to_record())


def waiting(store: RequestStore) -> list[Request]:
    """What has been asked and has not ended, oldest first."""
    found = [Request.from_record(record) for _name, record in store.records("request")]
    return sorted((r for r in found if not r.progress.ended), key=lambda r: (r.asked_at, r.name))


# --- the holder ----------------------------------------------------------------------------------


def open_requests(store: RequestStore, *, now: Callable[[], datetime] = _now) -> list[Request]:
    """What is to be done, oldest first. Forgets outcomes that nobody fetched."""
    found = [Request.from_record(record) for _name, record in store.records("request")]
    oldest = moment(now() - KEPT)
    left = [r.name for r in found if r.progress.ended and r.progress.ended_at < oldest]
    if left:
        store.remove("request", left)
    return sorted((r for r in found if not r.progress.ended), key=lambda r: (r.asked_at, r.name))


def save(store: RequestStore, request: Request) -> None:
    """Record the progress."""
    store.put("request", request.name, request.to_record())


def finish(
    store: RequestStore, request: Request, *, now: Callable[[], datetime] = _now, **changes: Any
) -> Request:
    """Record the outcome for him who waits, or forget the request if nobody does."""
    ended = request.at(ended_at=moment(now()), waiting="", **changes)
    if ended.waited_for:
        save(store, ended)
    else:
        store.remove("request", [ended.name])
    return ended


def outcome(error: BridgeError | None) -> dict[str, Any]:
    """What `finish` records of how it ended: done, or failed with this error."""
    if error is None:
        return {"stage": "done"}
    return {"stage": "failed", "reason": error.message, "hint": error.hint}


def told(ended: Request) -> dict[str, Any]:
    """What the log says of a request that has ended (event `request_ended`)."""
    progress = ended.progress
    return {
        "action": ended.action,
        "table": ended.table,
        "outcome": progress.stage,
        "rows": progress.rows,
        "written": progress.written,
        "dead_letters": progress.letters,
        "extras": progress.extras,
        **({"reason": progress.reason} if progress.stage == "failed" else {}),
    }


# --- the asker -----------------------------------------------------------------------------------


def await_outcomes(
    store: RequestStore,
    requests: Sequence[Request],
    *,
    on_progress: Callable[[Request], None] = lambda request: None,
    sleep: Callable[[float], None] = time.sleep,
) -> list[Request]:
    """Wait until each has ended, and forget it; as they ended, in the order given.

    `on_progress` hears of every look at a request that is under way; it may raise to give up, and
    the requests then go on.
    """
    ended: list[Request] = []
    for request in requests:
        while True:
            record = store.get("request", request.name)
            if record is None:
                # Forgotten by whoever: an hour old, or a teardown. It counts as not done.
                ended.append(request.at(stage="failed", reason="the request is gone"))
                break
            now = Request.from_record(record)
            on_progress(now)
            if now.progress.ended:
                store.remove("request", [now.name])
                ended.append(now)
                break
            sleep(LOOK_SECONDS)
    return ended
