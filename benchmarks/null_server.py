"""A gRPC server that answers every Upsert with `Completed` and keeps nothing: the null target.

python -m benchmarks.null_server        prints its port, ends with its standard input
"""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc

# PointsOperationResponse {1 result {2 status: Completed}}
_COMPLETED = b"\x0a\x02\x10\x02"


class _Handler(grpc.GenericRpcHandler):  # type: ignore[misc]
    def service(self, _details: Any) -> Any:
        return grpc.unary_unary_rpc_method_handler(lambda _request, _context: _COMPLETED)


def main() -> None:
    """Serve until standard input ends."""
    options = [("grpc.max_receive_message_length", -1)]
    server = grpc.server(ThreadPoolExecutor(4), options=options)
    server.add_generic_rpc_handlers((_Handler(),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    print(port, flush=True)
    sys.stdin.read()
    server.stop(None)


if __name__ == "__main__":
    main()
