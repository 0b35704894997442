"""The demo's second half: changes through SQL while the daemon runs, is killed, and starts again.

The daemon is a process of its own, since it is to die. How far it is, Postgres tells: the slot's
confirmed position never exceeds what is durable in Qdrant, so a transaction before it has been applied.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from rich.live import Live
from rich.table import Table

from bridge.errors import CheckFailed
from bridge.positions import Lsn
from bridge.postgres.connection import Connection
from bridge.postgres.sample_changes import KINDS, SampleChanges, Transaction
from bridge.postgres.slots import inspect_slot
from cli.output import err, note

FOLLOWED_SECONDS = 2.0
DEAD_SECONDS = 1.0
PAUSE_SECONDS = 0.1
PATIENCE_SECONDS = 60.0
STOP_SECONDS = 40.0
_LINE_SECONDS = 1.0
_PACKAGES = Path(__file__).resolve().parent.parent


class DaemonProcess:
    """`qdrant-bridge sync postgres`, with its log in a file. Ended with the context, unless `left`."""

    def __init__(self, config: Path, log: Path) -> None:
        self._config = config
        self.log = log
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """Its process id while it runs."""
        running = self._process is not None and self._process.poll() is None
        return self._process.pid if running and self._process is not None else None

    def start(self) -> None:
        """Start it; it goes on from its checkpoint."""
        path = os.pathsep.join(filter(None, (str(_PACKAGES), os.environ.get("PYTHONPATH"))))
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603 - our own interpreter and module
                [
                    sys.executable,
                    "-m",
                    "cli.main",
                    "sync",
                    "postgres",
                    "--config",
                    str(self._config),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, "PYTHONPATH": path},
                start_new_session=True,  # Ctrl-C is for the demo, which then ends it
            )

    def kill(self) -> None:
        """What a crash would do to it."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """Let it finish what it has begun."""
        self._end(signal.SIGTERM)

    def leave(self) -> None:
        """Let it run on when this process ends."""
        self._process = None

    def require_alive(self) -> None:
        """CheckFailed if it ended by itself."""
        process = self._process
        if process is not None and process.poll() is not None:
            lines = self.log.read_text(errors="replace").splitlines()
            raise CheckFailed(
                f"the daemon ended with exit code {process.returncode}: {' '.join(lines[-1:])}",
                code="DAEMON_ENDED",
                hint=f"its log is {self.log} (kept with --keep)",
            )

    def _end(self, number: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None or process.poll() is not None:
            return
        process.send_signal(number)
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.kill() if kind is not None else self.stop()


@dataclass(slots=True)
class Ledger:
    """What SQL has done, and how much of it is in Qdrant."""

    committed: Counter[str] = field(default_factory=Counter)
    applied: Counter[str] = field(default_factory=Counter)
    _open: deque[tuple[float, Transaction]] = field(default_factory=deque)

    def add(self, transaction: Transaction, now: float) -> None:
        """A transaction has committed."""
        self.committed += transaction.counts
        self._open.append((now, transaction))

    def reach(self, position: Lsn) -> None:
        """Everything up to here is applied."""
        while self._open and self._open[0][1].position <= position:
            self.applied += self._open.popleft()[1].counts

    @property
    def settled(self) -> bool:
        """Whether everything is applied."""
        return not self._open

    def lag_seconds(self, now: float) -> float:
        """The age of the oldest transaction that is not."""
        return now - self._open[0][0] if self._open else 0.0


class Scene:
    """Changes, the daemon's life, and the table on the screen."""

    def __init__(self, connection: Connection, daemon: DaemonProcess, slot: str) -> None:
        self._connection = connection
        self._daemon = daemon
        self._slot = slot
        self.changes = SampleChanges(connection)
        self.ledger = Ledger()
        self._lives = 0
        self._applied_before = 0
        self._said = float("-inf")

    def play(self) -> None:
        """Change rows while the daemon follows, is dead, and follows again; wait until all is applied."""
        with _screen() as live:
            self._start_daemon()
            self._change_until_followed(live)
            self._kill_daemon()
            self._change(live, DEAD_SECONDS)
            self._start_daemon()
            self._change_until_followed(live)
            self._await_applied(live)

    def _change_until_followed(self, live: Live | None) -> None:
        """Until the daemon has applied something, and some seconds more: it is killed in full swing."""
        before = self.ledger.applied.total()
        deadline = time.monotonic() + PATIENCE_SECONDS
        while self.ledger.applied.total() == before:
            self._change(live, PAUSE_SECONDS)
            self._require_before(deadline)
        self._change(live, FOLLOWED_SECONDS)

    def _change(self, live: Live | None, seconds: float) -> None:
        """Transactions for so long."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.ledger.add(self.changes.commit_one(), time.monotonic())
            self._look(live)
            time.sleep(PAUSE_SECONDS)

    def _start_daemon(self) -> None:
        self._daemon.start()
        self._applied_before = self.ledger.applied.total()
        self._lives += 1
        again = "" if self._lives == 1 else " again, from its checkpoint"
        note(f"   the daemon starts{again}: process {self._daemon.pid}")

    def _kill_daemon(self) -> None:
        note(f"   kill -9 {self._daemon.pid}; SQL goes on", style="bold")
        self._daemon.kill()

    def _await_applied(self, live: Live | None) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not self.ledger.settled:
            self._require_before(deadline)
            self._look(live)
            time.sleep(PAUSE_SECONDS)
        self._said = float("-inf")
        self._look(live)

    def _require_before(self, deadline: float) -> None:
        if time.monotonic() > deadline:
            raise CheckFailed(
                f"the daemon has not applied the changes within {PATIENCE_SECONDS:.0f} s",
                code="BEHIND",
                hint=f"its log is {self._daemon.log} (kept with --keep)",
            )

    def _look(self, live: Live | None) -> None:
        self._daemon.require_alive()
        status = inspect_slot(self._connection, self._slot)
        if status is not None and status.confirmed_flush_lsn is not None:
            self.ledger.reach(status.confirmed_flush_lsn)
        now = time.monotonic()
        retained = 0 if status is None else status.retained_bytes or 0
        told = f"lag {self.ledger.lag_seconds(now):.1f} s, {retained / 1024:,.0f} KiB of log kept"
        told += self._why_nothing_comes()
        if live is not None:
            live.update(self._table(told))
        elif now - self._said >= _LINE_SECONDS:
            self._said = now
            done = sum(self.ledger.applied.values())
            note(
                f"   {sum(self.ledger.committed.values()):,} changes by SQL, {done:,} applied, {told}"
            )

    def _why_nothing_comes(self) -> str:
        if self._daemon.pid is None:
            return "; no daemon runs"
        if self.ledger.applied.total() == self._applied_before and not self.ledger.settled:
            return "; the daemon is starting"
        return ""

    def _table(self, told: str) -> Table:
        pid = self._daemon.pid
        state = "dead" if pid is None else f"process {pid}"
        table = Table(box=None, pad_edge=False, caption=f"daemon: {state}; {told}")
        table.add_column("rows", style="dim")
        table.add_column("by SQL", justify="right")
        table.add_column("in Qdrant", justify="right")
        for kind in KINDS:
            table.add_row(
                kind, f"{self.ledger.committed[kind]:,}", f"{self.ledger.applied[kind]:,}"
            )
        return table


@contextmanager
def _screen() -> Iterator[Live | None]:
    """A table that changes in place where somebody watches; None elsewhere."""
    console = err()
    if not console.is_terminal:
        yield None
        return
    with Live(console=console, refresh_per_second=10) as live:
        yield live
