"""The Unix socket in an edge directory, on which its holder serves the other commands.

    directory/bridge.sock      mode 0600; there while the directory is open in a command that serves

Only whoever holds the directory's lock makes it, so what a killed holder left is replaced. It appears by
a rename, listening and with its mode, so that nobody ever sees it half made. Peers must be of the same
user, or root (SO_PEERCRED, man 7 unix); where the system does not tell who it is, the mode alone keeps
others out.

A client has a thread here, which reads a frame (`edge_codec.py`), has it answered (`edge_answers.py`) and
writes the answer. Frames that do not come to their end in time end the connection, and so does a client
that does not read. What a crash leaves is the file, which refuses connections.
"""

from __future__ import annotations

import os
import selectors
import socket
import stat
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Self

from bridge.errors import BridgeError, RateLimited, UsageError
from bridge.qdrant.edge_answers import Held, answer, refusal
from bridge.qdrant.edge_codec import HEADER_BYTES, lengths

SOCKET_NAME = "bridge.sock"
CLIENTS = 32
FRAME_SECONDS = 30.0
"""So long a client may take to send the rest of a frame, or to read an answer."""
DRAIN_SECONDS = 5.0
"""So long the end waits for answers that are under way."""

_ADDRESS_LIMIT_BYTES = 100
"""`sun_path` holds 104 bytes on macOS and 108 on Linux, its end included."""
_BACKLOG = 16
_PAUSE_SECONDS = 0.1
_RECEIVE_BYTES = 1 << 20

PeerUid = Callable[[socket.socket], "int | None"]


@contextmanager
def address(directory: Path, name: str = SOCKET_NAME) -> Iterator[str]:
    """The socket's address, however long the directory's path is. UsageError if that cannot be."""
    path = str(directory / name)
    if len(os.fsencode(path)) <= _ADDRESS_LIMIT_BYTES:
        yield path
        return
    opened = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        short = f"/proc/self/fd/{opened}"
        if not os.path.isdir(short):
            raise UsageError(
                f"the path of {directory} is too long for a socket in it, and there is no /proc",
                hint=f"choose a path of less than {_ADDRESS_LIMIT_BYTES - len(name)} bytes",
            )
        yield f"{short}/{name}"
    finally:
        os.close(opened)


def peer_uid(connection: socket.socket) -> int | None:
    """The other side's user; None where the system does not tell."""
    option = getattr(socket, "SO_PEERCRED", None)
    if option is None:
        return None
    credentials = struct.Struct("iII")  # struct ucred: pid, uid, gid
    found = connection.getsockopt(socket.SOL_SOCKET, option, credentials.size)
    uid: int = credentials.unpack(found)[1]
    return uid


def receive(connection: socket.socket, size: int, deadline: float) -> bytes:
    """So many bytes; fewer if the other side has ended. TimeoutError at the deadline."""
    parts: list[bytes] = []
    while size:
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        connection.settimeout(left)
        part = connection.recv(min(size, _RECEIVE_BYTES))
        if not part:
            break
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def receive_rest(connection: socket.socket, header: bytes, deadline: float) -> bytes | None:
    """The whole frame that begins with this header; None if the other side ends before it does."""
    size = sum(lengths(header))
    body = receive(connection, size, deadline)
    return header + body if len(body) == size else None


class EdgeSocket:
    """Serves a target that this process has open. Use it as a context manager, inside the target's life.

    UsageError if there can be no socket in this place, such as on a file system that has none.
    """

    def __init__(
        self,
        directory: Path,
        target: Held,
        *,
        peer: PeerUid = peer_uid,
        clients: int = CLIENTS,
        frame_seconds: float = FRAME_SECONDS,
    ) -> None:
        self._directory = directory
        self._target = target
        self._peer = peer
        self._most = clients
        self._frame_seconds = frame_seconds
        self._closed = False
        self._wake, self._woken = os.pipe()
        self._open: dict[socket.socket, threading.Thread] = {}
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._accept, name="edge socket", daemon=True)
        try:
            self._listener = _listen(directory)
        except BaseException:
            os.close(self._wake)
            os.close(self._woken)
            raise

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Let no more come; answers under way are given, then every connection ends."""
        if self._closed:
            return  # what has this name now may be another process's
        self._closed = True
        with suppress(
            OSError
        ):  # one that stays refuses connections, and the next holder replaces it
            os.unlink(self._directory / SOCKET_NAME)
        os.close(self._woken)
        self._thread.join()
        self._listener.close()
        os.close(self._wake)
        deadline = time.monotonic() + DRAIN_SECONDS
        with self._lock:
            left = list(self._open.items())
        for connection, _thread in left:
            _shut(connection, socket.SHUT_RD)
        for connection, thread in left:
            thread.join(max(0.0, deadline - time.monotonic()))
            _shut(connection, socket.SHUT_RDWR)

    # --- connections ---------------------------------------------------------------------------

    def _accept(self) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self._listener, selectors.EVENT_READ)
            selector.register(self._wake, selectors.EVENT_READ)
            while all(key.fd != self._wake for key, _ in selector.select()):
                self._welcome()

    def _welcome(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except OSError:
            time.sleep(_PAUSE_SECONDS)  # gone again; or no descriptor is left, which may pass
            return
        thread = threading.Thread(
            target=self._serve, args=(connection,), name="edge client", daemon=True
        )
        with self._lock:
            self._open[connection] = thread
        try:
            thread.start()
        except RuntimeError:  # the system has no thread left: this client is not served
            with self._lock:
                del self._open[connection]
            connection.close()

    def _serve(self, connection: socket.socket) -> None:
        try:
            # Whatever ends a connection here, the client sees it end; it was asked for nothing else.
            with connection, suppress(OSError):
                self._converse(connection, self._refused(connection))
        finally:
            with self._lock:
                del self._open[connection]

    def _converse(self, connection: socket.socket, refused: BridgeError | None) -> None:
        while True:
            connection.settimeout(None)
            begin = connection.recv(1)
            if not begin:
                return
            deadline = time.monotonic() + self._frame_seconds
            header = begin + receive(connection, HEADER_BYTES - 1, deadline)
            if len(header) < HEADER_BYTES:
                return
            try:
                request = receive_rest(connection, header, deadline)
            except BridgeError as error:
                request, refused = b"", error
            if request is None:
                return
            told = answer(self._target, request) if refused is None else refusal(refused)
            connection.settimeout(self._frame_seconds)
            connection.sendall(told)
            if refused is not None:
                return

    def _refused(self, connection: socket.socket) -> BridgeError | None:
        """Why this client is not served."""
        uid = self._peer(connection)
        if uid not in (None, 0, os.geteuid()):
            return UsageError(
                f"process {os.getpid()} serves {self._target.label} to its own user only",
                hint="run the command as the user of that process, or as root",
            )
        with self._lock:
            many = len(self._open) > self._most
        if many:
            return RateLimited(
                f"process {os.getpid()}, which has {self._target.label} open, serves "
                f"{self._most} others already",
            )
        return None


def _listen(directory: Path) -> socket.socket:
    draft = directory / f"{SOCKET_NAME}.new"
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        draft.unlink(missing_ok=True)
        with address(directory, draft.name) as short:
            listener.bind(short)
        draft.chmod(stat.S_IRUSR | stat.S_IWUSR)
        listener.listen(_BACKLOG)
        listener.setblocking(False)
        draft.replace(directory / SOCKET_NAME)
    except OSError as error:
        listener.close()
        raise UsageError(
            f"there can be no socket in {directory}: {error.strerror}",
            hint="other commands cannot use the directory while this one has it open",
        ) from None
    except BaseException:
        listener.close()
        raise
    return listener


def _shut(connection: socket.socket, how: int) -> None:
    with suppress(OSError):  # it has ended by itself
        connection.shutdown(how)
