"""The client's side of the socket in an edge directory: a frame there, a frame back.

A connection that has ended while nothing was asked is made anew; one that breaks under a request is
Unreachable. No request waits longer than its timeout. With `visits`, where nobody serves, this process
opens the directory for the time of one request and answers itself: it does not keep the directory from
whoever wants to hold it, as a daemon that `status --wait` waits for.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from bridge.errors import Unreachable, UsageError
from bridge.qdrant.edge import EdgeTarget
from bridge.qdrant.edge_answers import answer
from bridge.qdrant.edge_claim import DirectoryInUse
from bridge.qdrant.edge_codec import HEADER_BYTES, VERSION, decode_whole, encode, read_error
from bridge.qdrant.edge_socket import SOCKET_NAME, address, peer_uid, receive, receive_rest

PATIENCE_SECONDS = 3.0
"""So long a directory that is in use, and not served, is waited for: its holder visits, or just begins."""
POLL_SECONDS = 0.02
_CONNECT_SECONDS = 5.0
_AGAIN = "run the same command again; what was handed over to that process goes on when it is started again"


class NotServed(Unreachable):
    """No process answers on the directory's socket."""


class Line:
    """Safe for threads: one request at a time."""

    def __init__(self, directory: Path, *, timeout_seconds: float, visits: bool) -> None:
        self._directory = directory
        self._label = f"edge://{directory}"
        self._timeout_seconds = timeout_seconds
        self._visits = visits
        self._lock = threading.Lock()
        self._connection: socket.socket | None = None
        self._pid = 0

    @property
    def holder(self) -> str:
        """The process that was last spoken to, for messages."""
        return f"process {self._pid}" if self._pid else "the process"

    def ask(self, request: bytes) -> bytes:
        """The answer's frame. NotServed if there is nobody; Unreachable if there is none any more."""
        with self._lock:
            return self._visit(request) if self._visits else self._exchange(request)

    def close(self) -> None:
        """End the connection; the next request makes another."""
        with self._lock:
            self._disconnect()

    def _visit(self, request: bytes) -> bytes:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                return self._exchange(request)
            except NotServed:
                with suppress(_Occupied):
                    return self._answer_here(request, last=time.monotonic() > deadline)
            time.sleep(POLL_SECONDS)

    def _answer_here(self, request: bytes, *, last: bool) -> bytes:
        try:
            target = EdgeTarget(self._directory)
        except DirectoryInUse as error:
            if last:
                raise
            raise _Occupied from error
        try:
            return answer(target, request)
        finally:
            target.close()

    def _exchange(self, request: bytes) -> bytes:
        deadline = time.monotonic() + self._timeout_seconds
        connection = self._connection
        if connection is None or _has_ended(connection):
            self._disconnect()
            connection = self._connect(deadline)
        return self._transfer(connection, request, deadline)

    # --- the connection ------------------------------------------------------------------------

    def _connect(self, deadline: float) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._connection = connection
        try:
            connection.settimeout(min(_CONNECT_SECONDS, self._timeout_seconds))
            with address(self._directory) as short:
                connection.connect(short)
            _require_known(connection, self._directory)
            told = self._greet(connection, deadline)
        except (FileNotFoundError, ConnectionRefusedError) as error:
            self._disconnect()
            raise self._not_served() from error
        except OSError as error:
            self._disconnect()
            raise _cannot_connect(self._label, error) from error
        except BaseException:
            self._disconnect()
            raise
        self._pid = int(told.get("pid") or 0)
        return connection

    def _greet(self, connection: socket.socket, deadline: float) -> dict[str, Any]:
        hello = encode({"request": "hello", "version": VERSION})
        try:
            told = decode_whole(self._transfer(connection, hello, deadline)).document
        except _EndedInTheMiddle as error:
            raise self._not_served() from error  # it was just about to end
        if "error" in told:
            raise read_error(told["error"])
        return told

    def _transfer(self, connection: socket.socket, request: bytes, deadline: float) -> bytes:
        try:
            connection.settimeout(max(deadline - time.monotonic(), 0.001))
            connection.sendall(request)
            header = receive(connection, HEADER_BYTES, deadline)
            answered = None
            if len(header) == HEADER_BYTES:
                answered = receive_rest(connection, header, deadline)
        except TimeoutError as error:
            self._disconnect()
            raise self._silent() from error
        except OSError as error:
            self._disconnect()
            raise self._ended() from error
        except BaseException:
            self._disconnect()  # what is left of the answer would be taken for the next one
            raise
        if answered is None:
            self._disconnect()
            raise self._ended()
        return answered

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    # --- what is told --------------------------------------------------------------------------

    def _not_served(self) -> NotServed:
        return NotServed(f"{self.holder}, which had {self._label} open, has ended", hint=_AGAIN)

    def _ended(self) -> Unreachable:
        return _EndedInTheMiddle(
            f"{self.holder}, which had {self._label} open, has ended in the middle", hint=_AGAIN
        )

    def _silent(self) -> Unreachable:
        return Unreachable(
            f"{self.holder}, which has {self._label} open, has not answered within "
            f"{self._timeout_seconds:g} s",
            hint="while it builds an index it answers nobody: try again later, or wait longer with "
            "qdrant.timeout_seconds",
        )


class _EndedInTheMiddle(Unreachable):
    """A request has no answer."""


class _Occupied(Exception):
    """Another process has the directory open, for now; internal."""


def is_served(directory: Path) -> bool:
    """Whether somebody listens on the directory's socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(_CONNECT_SECONDS)
        with suppress(OSError), address(directory) as short:
            connection.connect(short)
            return True
    return False


def _has_ended(connection: socket.socket) -> bool:
    try:
        connection.setblocking(False)
        connection.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True  # it has ended, or says what it was not asked


def _require_known(connection: socket.socket, directory: Path) -> None:
    """UsageError unless the server is of this user, root, or whoever owns the directory."""
    uid = peer_uid(connection)
    if uid not in (None, 0, os.geteuid(), directory.stat().st_uid):
        raise UsageError(
            f"the socket {directory / SOCKET_NAME} is served by another user's process ({uid})",
            hint="only the directory's owner, this user and root are trusted there",
        )


def _cannot_connect(label: str, error: OSError) -> Unreachable | UsageError:
    if isinstance(error, PermissionError):
        return UsageError(
            f"this user may not ask the process that has {label} open",
            hint="run the command as the user of that process, or as root",
        )
    return Unreachable(
        f"the process that has {label} open cannot be connected to: {error}", hint=_AGAIN
    )
