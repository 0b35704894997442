"""Makes what the compose file's containers keep from each other: passwords, keys, certificates.

Run by the service `secrets`, once, into one volume for each audience:

    /secrets/postgres   the passwords of its roles, its certificate and key
    /secrets/qdrant     its API key, its certificate and key
    /secrets/app        the url of the application's role, for the sample data
    /secrets/bridge     the urls and the key that the bridge needs, and the authority's certificate
    /secrets/kafka      its certificate and key, in one file
    /secrets/connect    the password of its role, and the authority's certificate

What is there is kept, so that a second `up` fits the data of the first. The authority's own key is
forgotten at once: nobody can sign anything further with it. Files are readable to whoever has the
volume, because containers run as users of their own; no container has a volume that is not its own.
"""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(os.environ.get("SECRETS_DIRECTORY", "/secrets"))
DAYS = "3650"


def main() -> int:
    """Make them if they are not there."""
    done = ROOT / "bridge" / "made"
    if done.exists():
        print("secrets: kept")
        return 0
    os.umask(0o022)
    for name in ("postgres", "qdrant", "app", "bridge", "kafka", "connect"):
        (ROOT / name).mkdir(exist_ok=True)
    passwords = {role: secrets.token_urlsafe(24) for role in ("postgres", "app", "bridge")}
    for role, password in passwords.items():
        write(f"postgres/{role}_password", password)
    key = secrets.token_urlsafe(32)
    write("qdrant/api_key", key)
    write("bridge/qdrant_api_key", key)
    trusted = "sslmode=verify-full&sslrootcert=/run/secrets/ca.pem"
    for role in ("app", "bridge"):
        url = f"postgresql://{role}:{passwords[role]}@postgres:5432/app?{trusted}"
        write(f"{role}/postgres_url", url)
    write("connect/connect.properties", f"postgres.password={passwords['bridge']}")
    make_certificates()
    write("bridge/made", "yes")
    print("secrets: made")
    return 0


def write(name: str, text: str) -> None:
    """One file; a crash leaves no half of it."""
    path = ROOT / name
    part = path.with_name(path.name + ".part")
    part.write_text(text + "\n", encoding="utf-8")
    part.replace(path)


def make_certificates() -> None:
    """An authority of our own, and a certificate by it for each server."""
    with tempfile.TemporaryDirectory() as directory:
        authority = Path(directory)
        openssl(
            "req", "-x509", "-days", DAYS, "-subj", "/CN=qdrant-bridge sample authority",
            "-addext", "basicConstraints=critical,CA:TRUE",
            "-addext", "keyUsage=critical,keyCertSign,cRLSign",
            *new_key(authority / "ca.key"), "-out", str(authority / "ca.pem"),
        )  # fmt: skip
        for server in ("postgres", "qdrant", "kafka"):
            request = authority / f"{server}.csr"
            openssl(
                "req", "-subj", f"/CN={server}", *new_key(ROOT / server / "server.key"),
                "-out", str(request),
            )  # fmt: skip
            (ROOT / server / "server.key").chmod(0o644)
            extensions = authority / "extensions"
            extensions.write_text(f"subjectAltName=DNS:{server},DNS:localhost,IP:127.0.0.1\n")
            openssl(
                "x509", "-req", "-days", DAYS, "-in", str(request), "-CAcreateserial",
                "-CA", str(authority / "ca.pem"), "-CAkey", str(authority / "ca.key"),
                "-extfile", str(extensions), "-out", str(ROOT / server / "server.pem"),
            )  # fmt: skip
        # Kafka reads both from one file.
        parts = [(ROOT / "kafka" / f"server.{kind}").read_text() for kind in ("key", "pem")]
        write("kafka/keystore.pem", "".join(parts).strip())
        for audience in ("app", "bridge", "kafka", "connect"):
            write(f"{audience}/ca.pem", (authority / "ca.pem").read_text().strip())


def new_key(path: Path) -> tuple[str, ...]:
    """The arguments that make a key on the way."""
    curve = ("-pkeyopt", "ec_paramgen_curve:prime256v1")
    return ("-newkey", "ec", *curve, "-nodes", "-keyout", str(path))


def openssl(*arguments: str) -> None:
    """Run it; what it says is shown if it fails."""
    done = subprocess.run(["openssl", *arguments], capture_output=True, text=True)  # noqa: S603, S607
    if done.returncode != 0:
        sys.exit(f"secrets: openssl {arguments[0]} failed\n{done.stderr}")


if __name__ == "__main__":
    sys.exit(main())
