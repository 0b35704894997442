"""The command as tests run it: in this process where that is enough, as a process of its own else.

    outcome = bridge("backfill", "pgvector", "--pg.url", url, ...)
    with Running("backfill", ..., failpoints="backfill.read:kill@3") as running:
        running.wait_line("chunks to copy")
        running.kill()
        outcome = running.finish()

A command in this process answers sooner; only one of its own can be killed, or have failpoints.
"""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Final, Self

import cli.main
from tests.support.processes import children

ROOT: Final = Path(__file__).resolve().parent.parent.parent
PATIENCE_SECONDS: Final = 120.0
# Daemons of tests that run side by side do not share the default port.
ANY_PORT: Final = "QDRANT_BRIDGE_HTTP__LISTEN"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def report(self) -> dict[str, Any]:
        """What `--json` printed."""
        report: dict[str, Any] = json.loads(self.out)
        return report

    @property
    def table(self) -> dict[str, Any]:
        """The report of the only table."""
        (table,) = self.report["tables"].values()
        return dict(table)

    def require(self, code: int = 0) -> Self:
        """The outcome itself, if this is its exit code."""
        assert self.code == code, f"exit {self.code} instead of {code}\n{self.err}\n{self.out}"
        return self


def bridge(*arguments: str) -> Outcome:
    """Run a command in this process."""
    with redirect_stdout(io.StringIO()) as out, redirect_stderr(io.StringIO()) as err:
        code = cli.main.run(list(arguments))
    return Outcome(code=code, out=out.getvalue(), err=err.getvalue())


class Background:
    """A command in this process, in a thread: for tests that break what it talks to meanwhile.

    One at a time: standard output and error are this process's own.
    """

    def __init__(self, *arguments: str) -> None:
        self._err = _Lines()
        self._outcome: Outcome | None = None
        self._thread = threading.Thread(target=self._run, args=(arguments,), daemon=True)
        self._thread.start()

    def wait_line(self, text: str, timeout_seconds: float = PATIENCE_SECONDS) -> str:
        """The first line of standard error with this text, once it is there."""
        return self._err.wait(text, timeout_seconds)

    def finish(self, timeout_seconds: float = PATIENCE_SECONDS) -> Outcome:
        """Wait for the end."""
        self._thread.join(timeout_seconds)
        if self._outcome is None:
            raise TimeoutError(f"the command still runs:\n{self._err.getvalue()}")
        return self._outcome

    def _run(self, arguments: tuple[str, ...]) -> None:
        try:
            with redirect_stdout(io.StringIO()) as out, redirect_stderr(self._err):
                code = cli.main.run(list(arguments))
            self._outcome = Outcome(code=code, out=out.getvalue(), err=self._err.getvalue())
        finally:
            self._err.end()


class _Lines(io.StringIO):
    """A stream whose lines can be waited for."""

    def __init__(self) -> None:
        super().__init__()
        self._changed = threading.Condition()
        self._ended = False

    def write(self, text: str) -> int:
        with self._changed:
            written = super().write(text)
            self._changed.notify_all()
        return written

    def end(self) -> None:
        """Nothing more will come."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def wait(self, text: str, timeout_seconds: float) -> str:
        """The first line with this text, once it is there."""
        with self._changed:
            self._changed.wait_for(lambda: self._ended or self._find(text), timeout_seconds)
            found = self._find(text)
        if found is None:
            raise TimeoutError(f"no line with {text!r} in:\n{self.getvalue()}")
        return found

    def _find(self, text: str) -> str | None:
        whole, _, _ = self.getvalue().rpartition("\n")
        return next((line for line in whole.split("\n") if text in line), None)


def config_file(directory: Path, settings: Mapping[str, Any]) -> str:
    """The path of a `bridge.yaml` with these settings; JSON is YAML."""
    path = directory / "bridge.yaml"
    path.write_text(json.dumps(settings, ensure_ascii=False), encoding="utf-8")
    return str(path)


class Running:
    """A command as a process. On leaving the context it is killed if it still runs."""

    def __init__(
        self,
        *arguments: str,
        failpoints: str = "",
        environment: Mapping[str, str] | None = None,
        prefix: tuple[str, ...] = (),
    ) -> None:
        self._lines: list[str] = []
        self._out: list[str] = []
        self._changed = threading.Condition()
        self._ended = False
        self.process = subprocess.Popen(
            [*prefix, sys.executable, "-m", "cli.main", *arguments],
            cwd=ROOT,
            env={
                **os.environ,
                ANY_PORT: "127.0.0.1:0",
                **(environment or {}),
                "BRIDGE_FAILPOINTS": failpoints,
            },
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,  # a Ctrl-C in the tests' terminal is not meant for it
        )
        self._readers = [
            threading.Thread(target=self._read, args=(stream, lines, last), daemon=True)
            for stream, lines, last in (
                (self.process.stdout, self._out, False),
                (self.process.stderr, self._lines, True),
            )
        ]
        for reader in self._readers:
            reader.start()

    @property
    def pid(self) -> int:
        """The parent's."""
        return self.process.pid

    @property
    def workers(self) -> list[int]:
        """The pids of the workers that there are now."""
        return children(self.pid)

    def wait_line(self, text: str, timeout_seconds: float = PATIENCE_SECONDS) -> str:
        """The first line of standard error with this text, once it is there."""
        with self._changed:
            self._changed.wait_for(lambda: self._ended or self._find(text), timeout_seconds)
            found = self._find(text)
            if found is None:
                raise TimeoutError(f"no line with {text!r} in:\n" + "".join(self._lines))
            return found

    def wait_out(self, text: str, timeout_seconds: float = PATIENCE_SECONDS) -> str:
        """The first line of standard output with this text, once it is there."""

        def find() -> str | None:
            return next((line for line in self._out if text in line), None)

        with self._changed:
            self._changed.wait_for(lambda: self._ended or find(), timeout_seconds)
            found = find()
        if found is None:
            raise TimeoutError(f"no line with {text!r} in:\n" + "".join(self._out))
        return found

    def signal(self, number: signal.Signals) -> None:
        """Send the parent a signal."""
        self.process.send_signal(number)

    def kill(self) -> None:
        """SIGKILL for the parent alone."""
        self.process.kill()

    def finish(self, timeout_seconds: float = PATIENCE_SECONDS) -> Outcome:
        """Wait for the end."""
        code = self.process.wait(timeout_seconds)
        for reader in self._readers:
            # A worker that outlives its parent holds the stream open, which would be a defect.
            reader.join(timeout_seconds)
            assert not reader.is_alive(), "somebody still holds the output of a dead command"
        return Outcome(code=code, out="".join(self._out), err="".join(self._lines))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        for reader in self._readers:
            reader.join(PATIENCE_SECONDS)
        for stream in (self.process.stdout, self.process.stderr):
            if stream is not None:
                stream.close()

    def _find(self, text: str) -> str | None:
        return next((line for line in self._lines if text in line), None)

    def _read(self, stream: IO[str], lines: list[str], last: bool) -> None:
        for line in stream:
            with self._changed:
                lines.append(line)
                self._changed.notify_all()
        with self._changed:
            self._ended = self._ended or last
            self._changed.notify_all()
