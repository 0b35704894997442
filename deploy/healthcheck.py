#!/opt/qdrant-bridge/bin/python -IS
"""The image's health check: whether /healthz answers, or the path that is given. Imports little, so
that it costs little.

The port is that of QDRANT_BRIDGE_HTTP__LISTEN, else 8080; whoever sets http.listen in the file to
another one has to set the variable as well.
"""

import os
import socket
import sys

address = os.environ.get("QDRANT_BRIDGE_HTTP__LISTEN") or "127.0.0.1:8080"
host, _, port = address.rpartition(":")
host = host.strip("[]")
if host in ("", "0.0.0.0", "::"):  # noqa: S104 - asked, not listened on
    host = "127.0.0.1"
path = sys.argv[1] if len(sys.argv) > 1 else "/healthz"
try:
    with socket.create_connection((host, int(port)), timeout=3) as connection:
        connection.sendall(f"GET {path} HTTP/1.0\r\n\r\n".encode())
        answer = connection.recv(64)
except OSError as error:
    sys.exit(f"{host}:{port} does not answer: {error}")
sys.exit(0 if b" 200 " in answer else f"answered {answer!r}")
