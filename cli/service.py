"""What surrounds a daemon: health and metrics from the first moment, the lease, SIGTERM, the end.

    service(effective)      listens, tells why it stopped, and holds on if asked to
    .open()                 the target, waited for without end
    .holding(place)         the lease; the place whose every write looks at it first
    .follow(daemon, ...)    the daemon, until it is told to stop or another process takes over

SIGTERM ends with exit code 0 from the moment that `/healthz` answers: before the daemon streams there
is nothing to drain, and what a copy has finished is recorded.
"""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import TypeVar

from bridge.config import Settings
from bridge.errors import BridgeError, StopError, UsageError
from bridge.lease import Keeper, Lease
from bridge.qdrant.guarded import GuardedTarget
from bridge.qdrant.state import QdrantState
from bridge.retry import Retry
from bridge.telemetry import Telemetry
from cli.help import Terminated
from cli.logs import log
from cli.places import Place, open_target, pipeline_name, postgres_url
from sync.board import Board, SourceWatch
from sync.daemon import DRAIN_SECONDS, Daemon, tune_collector
from sync.http import HttpServer

T = TypeVar("T")

_LAST_WORDS_SECONDS = 1.0


class Service:
    """One daemon's surroundings; see the module."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.pipeline = pipeline_name(settings)
        self.telemetry = Telemetry()
        self.board = Board(self.pipeline, self.telemetry)
        self.watching = ExitStack()
        self._lost: BridgeError | None = None
        self._wake: Callable[[], None] = lambda: None

    def tell(self, event: str, **fields: object) -> None:
        """Log an event, and count it."""
        self.telemetry.count_event(event, reason=str(fields.get("reason", "")))
        log(event, **fields)

    def patiently(self, action: Callable[[], T]) -> T:
        """The result; what does not answer is asked again without end."""
        return Retry(on_wait=self._tell_waiting).call(action)

    def _tell_waiting(self, error: BridgeError, seconds: float) -> None:
        self.tell("waiting", reason=error.message, seconds=round(seconds, 2))

    @contextmanager
    def open(self) -> Iterator[Place]:
        """The target."""
        with ExitStack() as stack:
            yield self.patiently(lambda: stack.enter_context(open_target(self.settings)))

    # --- the lease -----------------------------------------------------------------------------

    @contextmanager
    def holding(self, place: Place) -> Iterator[Place]:
        """Be the one process that writes. StopError `LEASE_HELD` if there is another."""
        lease = Lease(QdrantState(place.target, self.pipeline))
        self.patiently(lambda: lease.take(self.tell_holder))
        self.tell("lease_taken", pipeline=self.pipeline)
        guarded = GuardedTarget(
            place.target,
            before=lease.require,
            held_until=lease.share(),
            after=self.telemetry.observe_write,
        )
        try:
            with Keeper(lease, on_lost=self._lose):
                yield replace(place, target=guarded)
        finally:
            lease.give_quietly()

    def state_of(self, place: Place) -> QdrantState:
        """The records, measured apart from the data."""

        def observe(_kind: str, seconds: float) -> None:
            self.telemetry.observe_write("state", seconds)

        target = place.target
        if isinstance(target, GuardedTarget):
            target = target.observed_by(observe)
        return QdrantState(target, self.pipeline)

    def tell_holder(self, who: str) -> None:
        """Log whose lease is waited out."""
        self.tell("waiting_for_lease", holder=who)

    def _lose(self, error: BridgeError) -> None:
        self._lost = error
        self.tell("lease_lost", reason=error.message)
        self._wake()

    # --- the daemon ----------------------------------------------------------------------------

    def watch(self, slot: str) -> None:
        """Look at Postgres from now on: what it keeps for the slot counts during a copy, too."""
        if self.board.watch is None:
            watch = SourceWatch(
                postgres_url(self.settings),
                slot,
                allow_plaintext=self.settings.allow_plaintext,
                tell=self.tell,
            )
            # Longer than the daemon: after a stop, slot and lag are shown as they are then.
            self.board.watch = self.watching.enter_context(watch)

    def follow(self, daemon: Daemon) -> None:
        """Run it until SIGTERM, SIGINT or an error."""
        before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
        self.board.daemon = daemon
        daemon.observe_window = self.telemetry.observe_window
        self.tell("starting", pipeline=self.pipeline, checkpoint=str(daemon.state.checkpoint))
        try:
            self.watch(str(daemon.state.facts["slot"]))
            tune_collector()
            asyncio.run(self._until_stopped(daemon))
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)  # the loop has put the system's own there
        self.tell("ended", checkpoint=str(daemon.state.checkpoint))

    async def _until_stopped(self, daemon: Daemon) -> None:
        loop = asyncio.get_running_loop()
        running = asyncio.ensure_future(daemon.run())

        def cancel() -> None:
            loop.call_soon_threadsafe(running.cancel)

        self._wake = cancel
        if self._lost is not None:
            running.cancel()
        limit = threading.Timer(DRAIN_SECONDS - _LAST_WORDS_SECONDS, self._leave)
        limit.daemon = True

        def stop() -> None:
            if not daemon.stopping.is_set():
                daemon.stop()
                limit.start()

        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop)
        try:
            await running
        except asyncio.CancelledError:
            if self._lost is None:
                raise
            raise self._lost from None
        finally:
            self._wake = lambda: None
            limit.cancel()

    def _leave(self) -> None:
        """A request that nobody answers cannot be interrupted; what it wrote is written again."""
        self.tell("drain_timeout")
        os._exit(0)


@contextmanager
def service(settings: Settings) -> Iterator[Service]:
    """Answer on `http.listen` while the body runs; see the module for how it ends."""
    made = Service(settings)
    with ExitStack() as stack:
        try:
            answering = _listen(made)
            made.tell("listening", address=stack.enter_context(answering).address)
        except Terminated:
            # It may have answered already. Nothing has begun.
            made.tell("ended")
            raise SystemExit(0) from None
        try:
            yield made
        except Terminated:
            made.tell("ended")
        except StopError as error:
            made.board.stop = error
            if settings.http.hold_on_stop:
                made.tell("holding", code=error.code)
                _await_signal()
            raise


def _listen(made: Service) -> HttpServer:
    settings = made.settings
    try:
        return HttpServer(settings.http.address, made.board.routes, made.board.tick)
    except UsageError as error:
        cause = error.__cause__
        if not isinstance(cause, OSError) or cause.errno != errno.EADDRINUSE:
            raise
        # Mostly it is not the port that is wrong, but this process that is one too many.
        untold = _require_alone(made)
        raise UsageError(
            f"{error.message}{untold}",
            hint="does another process run with this configuration, or with the same http.listen? "
            f"Else {error.hint}",
        ) from cause


def _require_alone(made: Service) -> str:
    """StopError `LEASE_HELD` if a process holds the pipeline; why that is not known, empty if it is not
    held. Kafka's readers hold no lease."""
    if made.settings.reads_kafka:
        return ""
    try:
        with open_target(made.settings, beside=True) as place:
            store = QdrantState(place.target, made.pipeline)
            if store.exists():
                Lease(store).require_takeable(made.tell_holder)
    except BridgeError as error:
        if error.code == "LEASE_HELD":
            raise
        return f" (who runs pipeline {made.pipeline} is not known: {error.message})"
    return ""


def _await_signal() -> None:
    try:
        threading.Event().wait()
    except KeyboardInterrupt:
        return
