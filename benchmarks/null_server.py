"""A gRPC server that says yes to every write and keeps nothing: the null target.

    Upsert, Delete      `Completed`
    UpdateBatch         `Completed`, once for the whole batch: a client looks at what it is told
    Get                 every point that is asked for is there

python -m benchmarks.null_server [PORT]        prints its port, ends with its standard input
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc

from bridge.qdrant.grpc_messages import q

# PointsOperationResponse {1 result {2 status: Completed}}, and the same as UpdateBatchResponse
_COMPLETED = b"\x0a\x02\x10\x02"


def _completed(_request: bytes, _context: Any) -> bytes:
    return _COMPLETED


def _all_there(request: bytes, _context: Any) -> bytes:
    asked = q.GetPoints.FromString(request)
    answer = q.GetResponse(result=[q.RetrievedPoint(id=identity) for identity in asked.ids])
    found: bytes = answer.SerializeToString()
    return found


_ANSWERS: Mapping[str, Callable[[bytes, Any], bytes]] = {
    "/qdrant.Points/Upsert": _completed,
    "/qdrant.Points/UpdateBatch": _completed,
    "/qdrant.Points/Delete": _completed,
    "/qdrant.Points/Get": _all_there,
}


class _Handler(grpc.GenericRpcHandler):  # type: ignore[misc]
    def service(self, details: Any) -> Any:
        answer = _ANSWERS.get(details.method)
        return None if answer is None else grpc.unary_unary_rpc_method_handler(answer)


def main() -> None:
    """Serve until standard input ends."""
    options = [("grpc.max_receive_message_length", -1)]
    server = grpc.server(ThreadPoolExecutor(4), options=options)
    server.add_generic_rpc_handlers((_Handler(),))
    wanted = sys.argv[1] if len(sys.argv) > 1 else "0"
    port = server.add_insecure_port(f"127.0.0.1:{wanted}")
    server.start()
    print(port, flush=True)
    sys.stdin.read()
    server.stop(None)


if __name__ == "__main__":
    main()
