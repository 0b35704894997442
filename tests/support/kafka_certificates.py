"""Certificates for a broker that authenticates, and for its clients: made anew by openssl, for an hour.

authority.pem     whom both sides trust
server.pem        the broker on 127.0.0.1 and localhost: key and certificate
client.pem, .key  a client
stranger.pem      an authority that signed nothing of the above
password          of the user `bridge`
"""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Final
from uuid import uuid4

_SERVER: Final = "subjectAltName=IP:127.0.0.1,DNS:localhost\nextendedKeyUsage=serverAuth\n"
_CLIENT: Final = "extendedKeyUsage=clientAuth\n"


def make_certificates(directory: Path) -> Path:
    """All of them, in this directory; its path."""
    for name in ("authority", "stranger"):
        _key(directory / f"{name}.key")
        _openssl(
            "req", "-x509", "-new", "-key", f"{name}.key", "-days", "1", "-sha256",
            "-subj", f"/CN={name}", "-addext", "basicConstraints=critical,CA:TRUE",
            "-addext", "keyUsage=critical,keyCertSign", "-out", f"{name}.pem", cwd=directory,
        )  # fmt: skip
    for number, (name, extensions) in enumerate((("server", _SERVER), ("client", _CLIENT)), 1):
        _key(directory / f"{name}.key")
        _openssl("req", "-new", "-key", f"{name}.key", "-subj", f"/CN={name}", "-out", f"{name}.csr",
                 cwd=directory)  # fmt: skip
        (directory / f"{name}.ext").write_text(extensions)
        _openssl(
            "x509", "-req", "-in", f"{name}.csr", "-CA", "authority.pem", "-CAkey", "authority.key",
            "-set_serial", str(number), "-days", "1", "-sha256", "-extfile", f"{name}.ext",
            "-out", f"{name}.pem", cwd=directory,
        )  # fmt: skip
    server = directory / "server.pem"
    server.write_text((directory / "server.key").read_text() + server.read_text())
    (directory / "password").write_text(uuid4().hex)
    return directory


def _key(path: Path) -> None:
    _openssl("genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256",
             "-out", path.name, cwd=path.parent)  # fmt: skip


def _openssl(*arguments: str, cwd: Path) -> None:
    subprocess.run(["openssl", *arguments], cwd=cwd, check=True, capture_output=True)
