"""The Qdrant test server as the process of a container that is started as Qdrant's is.

It reads the same variables (QDRANT__SERVICE__API_KEY, QDRANT__TLS__CERT, ...) and listens on 6334 with
TLS; on 6333 it has no REST interface to offer.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from pathlib import Path

from tests.support.qdrant_server import QdrantServer


def main() -> int:
    """Serve until SIGTERM."""
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    tls = tuple(Path(os.environ[f"QDRANT__TLS__{name}"]).read_bytes() for name in ("KEY", "CERT"))
    with QdrantServer(
        Path(os.environ["QDRANT__STORAGE__STORAGE_PATH"]),
        host="0.0.0.0",  # noqa: S104 - of the container
        port=6334,
        api_key=os.environ["QDRANT__SERVICE__API_KEY"],
        tls=(tls[0], tls[1]),
    ):
        ended.wait()
    return 0


if __name__ == "__main__":
    sys.exit(main())
