"""The pipeline's lease: at most one process writes (design.md section 6).

One record of kind `lease` in the state, written by comparing and replacing in one step:

    take    no record, or a free one              at once
            held by a process of this machine     at once if that process is gone; refused if it
                                                  renewed within 10 s
            held otherwise                        watched: refused as soon as it is renewed, taken
                                                  when it has not changed for 10 s of our own clock
    renew   every 3 s, if the record still names us
    give    at the end: the record stays and names nobody

A holder counts its lease from the moment *before* it sent the renewal, and for 8 of the 10 seconds;
who waits counts from the moment after it saw the record. Whatever the two clocks say, the first is
over before the second. The clock goes on while the machine sleeps and while the process is stopped
(SIGSTOP), so `require`, which stands before every write, notices both without asking anybody. Past
its time a holder asks: if the record still names it, it goes on (the target was away, and nobody
else came); else it stops with `LEASE_LOST`.

What remains: a request that was under way when its process froze may arrive late. Writes are
idempotent and a paused process sends no new ones.

Who takes it: the daemon (`sync`, and `run` from before its copy), and a `backfill` of a pipeline whose
stream has begun. Shards that copy side by side before that do not, since there is nobody to be ahead
of: no chunk is written twice, nothing is removed, and the stream cannot begin before all chunks are
recorded. They only refuse to start beside a live lease (`require_takeable`).
"""

from __future__ import annotations

import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol, Self

from bridge.errors import BridgeError, StopError, Unreachable
from bridge.held_until import HeldUntil
from bridge.state import Kind, Record

LEASE_SECONDS = 10.0
"""So long a lease lasts for those who wait for it."""
HELD_SECONDS = 8.0
"""So long its holder counts on it: a request that begins at the last moment needs time as well."""
RENEW_SECONDS = 3.0
WATCH_SECONDS = 0.5

_NAME = "lease"
_FREE = ""


class LeaseStore(Protocol):
    """What a lease needs of `state.StateStore`."""

    @property
    def pipeline(self) -> str:
        """The pipeline."""

    def get(self, kind: Kind, name: str) -> Record | None:
        """The record, or None."""

    def put_new(self, kind: Kind, name: str, record: Record) -> Record:
        """Store it unless there is one; the record that is stored afterwards."""

    def put_if(
        self, kind: Kind, name: str, record: Record, *, matching: Mapping[str, str]
    ) -> Record | None:
        """Replace it if these fields are equal; the record that is stored afterwards."""


def boottime() -> float:
    """Seconds, suspended time included (on macOS CLOCK_MONOTONIC does that)."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """The record. `holder` is unique to one process's hold, empty when free; `stamp` to one write.

    `machine` tells one boot of one machine, `space` its PID namespace, `started` the process among those
    that had its PID: all empty where the system does not tell. `renewed`: `boottime` of that machine.
    """

    holder: str
    stamp: str
    host: str
    pid: int
    machine: str = ""
    space: str = ""
    started: str = ""
    renewed: float = 0.0

    @classmethod
    def from_record(cls, record: Record) -> Claim:
        """The inverse of `asdict`."""
        return cls(**record)

    @property
    def who(self) -> str:
        """For messages."""
        return f"process {self.pid} on {self.host}"


class Processes(Protocol):
    """What is known of the processes of this machine."""

    def own(self) -> tuple[str, str, str]:
        """(machine, space, started) of this process."""

    def started(self, pid: int) -> str:
        """When the process with this PID started, in this machine's own terms; empty if there is none."""


class LinuxProcesses:
    """`Processes` from /proc (man 5 proc). Elsewhere nothing is known, and leases are waited out."""

    def own(self) -> tuple[str, str, str]:
        try:
            machine = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
            space = os.readlink("/proc/self/ns/pid")
        except OSError:
            return "", "", ""
        return machine, space, self.started(os.getpid())

    def started(self, pid: int) -> str:
        try:
            text = Path(f"/proc/{pid}/stat").read_text()
        except OSError:
            return ""
        # The command's name may hold blanks and parentheses; its field ends at the last one.
        fields = text.rpartition(")")[2].split()
        return "" if fields[0] in "ZX" else fields[19]  # 3 state (zombie, dead), 22 starttime


class Readable(Protocol):
    """What looking needs of `state.StateStore`."""

    def get(self, kind: Kind, name: str) -> Record | None:
        """The record, or None."""


def look_for_holder(
    store: Readable,
    *,
    clock: Callable[[], float] = boottime,
    processes: Processes | None = None,
) -> tuple[str, bool | None]:
    """Who holds the pipeline, and whether that process lives: ('', False) if nobody does, None where
    it cannot be told without watching it for a while (another machine, or one that does not renew)."""
    record = store.get("lease", _NAME)
    if record is None or not record["holder"]:
        return "", False
    found, known = Claim.from_record(record), processes or LinuxProcesses()
    machine, space, _started = known.own()
    if not machine or (found.machine, found.space) != (machine, space):
        return found.who, None
    if known.started(found.pid) != found.started:
        return found.who, False
    return found.who, True if clock() - found.renewed < LEASE_SECONDS else None


class Lease:
    """One process's hold on a pipeline. Safe for threads.

    `take` first, `give` at the end; `renew` now and then; `require` before every write.
    """

    def __init__(
        self,
        store: LeaseStore,
        *,
        clock: Callable[[], float] = boottime,
        sleep: Callable[[float], None] = time.sleep,
        processes: Processes | None = None,
    ) -> None:
        self._store = store
        self._clock = clock
        self._sleep = sleep
        self._processes = processes or LinuxProcesses()
        machine, space, started = self._processes.own()
        self._claim = Claim(
            holder=uuid.uuid4().hex,
            stamp="",
            host=socket.gethostname(),
            pid=os.getpid(),
            machine=machine,
            space=space,
            started=started,
        )
        self._count = 0
        self._until = float("-inf")
        self._shared: HeldUntil | None = None
        self._lost: StopError | None = None
        self._writing = threading.Lock()

    # --- taking and giving ---------------------------------------------------------------------

    def take(self, on_wait: Callable[[str], None] = lambda who: None) -> None:
        """Return as the holder. StopError `LEASE_HELD` if another process is alive.

        `on_wait` hears whose lease is being waited out.
        """
        while True:
            began = self._clock()
            claim = self._next(began)
            found = self._claim_of(self._store.put_new("lease", _NAME, asdict(claim)))
            if found.stamp != claim.stamp:
                if not self._free(found):
                    self._wait_out(found, on_wait)
                    began = self._clock()
                    claim = self._next(began)
                stored = self._store.put_if(
                    "lease", _NAME, asdict(claim), matching={"stamp": found.stamp}
                )
                if stored is None or self._claim_of(stored).stamp != claim.stamp:
                    continue  # somebody was faster: look again
            self._count_until(began + HELD_SECONDS)
            return

    def require_takeable(self, on_wait: Callable[[str], None] = lambda who: None) -> None:
        """Return if nobody holds the pipeline; StopError `LEASE_HELD` else. Takes nothing.

        A record of another machine is watched for up to 10 s.
        """
        record = self._store.get("lease", _NAME)
        if record is not None and not self._free(found := self._claim_of(record)):
            self._wait_out(found, on_wait)

    def give(self) -> None:
        """Leave the record to whoever comes; nothing happens if it is not ours any more."""
        with self._writing:
            self._count_until(float("-inf"))
            free = replace(self._next(self._clock()), holder=_FREE)
            self._store.put_if(
                "lease", _NAME, asdict(free), matching={"holder": self._claim.holder}
            )

    def give_quietly(self) -> None:
        """`give`, if the target can be asked: not given, a lease is waited out, or found to be a
        dead process's."""
        with suppress(BridgeError):
            self.give()
        shared, self._shared = self._shared, None
        if shared is not None:
            shared.close()

    def _free(self, found: Claim) -> bool:
        # Ours: the answer to an earlier attempt was lost.
        return found.holder in (_FREE, self._claim.holder) or self._gone(found)

    def _gone(self, found: Claim) -> bool:
        """Whether the holder was a process of this machine that has ended."""
        if not self._here(found):
            return False
        return self._processes.started(found.pid) != found.started

    def _here(self, found: Claim) -> bool:
        own = self._claim
        return bool(own.machine) and (found.machine, found.space) == (own.machine, own.space)

    def _wait_out(self, found: Claim, on_wait: Callable[[str], None]) -> None:
        """Return once the record has not changed for 10 s, or its holder has ended."""
        since = self._clock()
        # On one machine both have the same clock: a holder that renewed just now is alive.
        if self._here(found) and since - found.renewed < LEASE_SECONDS:
            raise self._held(found)
        on_wait(found.who)
        while self._clock() - since < LEASE_SECONDS:
            self._sleep(WATCH_SECONDS)
            record = self._store.get("lease", _NAME)
            now = found if record is None else self._claim_of(record)
            if record is None or self._free(now):
                return
            if now.stamp != found.stamp:
                raise self._held(now)

    def _held(self, by: Claim) -> StopError:
        return StopError(
            f"{by.who} runs pipeline {self._store.pipeline}; only one process may write",
            code="LEASE_HELD",
            hint="stop that one first; or give this one another pipeline: in its configuration",
        )

    # --- holding -------------------------------------------------------------------------------

    def require(self) -> None:
        """Return if this process is the holder for some time yet; asks only when that is over.

        StopError `LEASE_LOST`; Unreachable if the target does not answer.
        """
        if self._lost is not None:
            raise self._lost
        if self._clock() >= self._until:
            self.renew()

    def renew(self) -> None:
        """Hold on for another while. StopError `LEASE_LOST` if another process has taken over."""
        asked = self._clock()
        with self._writing:
            if self._until - HELD_SECONDS >= asked:
                return  # another thread just did
            if self._lost is not None:
                raise self._lost
            began = self._clock()
            claim = self._next(began)
            stored = self._store.put_if(
                "lease", _NAME, asdict(claim), matching={"holder": self._claim.holder}
            )
            if stored is None or stored["holder"] != self._claim.holder:
                self._lost = self._taken(stored)
                raise self._lost
            self._count_until(began + HELD_SECONDS)

    def share(self) -> int:
        """A descriptor of `held_until`, for children that write for this process."""
        if self._shared is None:
            self._shared = HeldUntil(self._until)
        return self._shared.descriptor

    def _count_until(self, moment: float) -> None:
        self._until = moment
        if self._shared is not None:
            self._shared.set(moment)

    def _taken(self, stored: Record | None) -> StopError:
        self._count_until(float("-inf"))
        by = None if stored is None else self._claim_of(stored)
        who = "nobody" if by is None or by.holder == _FREE else by.who
        return StopError(
            f"this process lost pipeline {self._store.pipeline}: {who} holds it now",
            code="LEASE_LOST",
            hint="it was stopped or cut off for more than "
            f"{LEASE_SECONDS:g} s; let one process run, and start it again if none does",
        )

    def _next(self, now: float) -> Claim:
        self._count += 1
        stamp = f"{self._claim.holder}/{self._count}"
        return replace(self._claim, stamp=stamp, renewed=now)

    def _claim_of(self, record: Record) -> Claim:
        return Claim.from_record(record)


class Keeper:
    """Renews a lease from a thread of its own until closed; hears at once when it is lost.

    A target that does not answer is asked again; whether the lease still counts is `require`'s to say.
    """

    def __init__(
        self,
        lease: Lease,
        *,
        on_lost: Callable[[BridgeError], None] = lambda error: None,
        seconds: float = RENEW_SECONDS,
    ) -> None:
        self._lease = lease
        self._on_lost = on_lost
        self._seconds = seconds
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="lease", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._ended.set()
        self._thread.join(self._seconds)

    def _run(self) -> None:
        while not self._ended.wait(self._seconds):
            try:
                self._lease.renew()
            except Unreachable:
                continue
            except BridgeError as error:
                self._on_lost(error)
                return


@contextmanager
def held(
    store: LeaseStore,
    *,
    on_wait: Callable[[str], None] = lambda who: None,
    on_lost: Callable[[BridgeError], None] = lambda error: None,
) -> Iterator[Lease]:
    """Take the lease, keep it, and give it back at the end, however that comes."""
    lease = Lease(store)
    lease.take(on_wait)
    try:
        with Keeper(lease, on_lost=on_lost):
            yield lease
    finally:
        lease.give_quietly()
