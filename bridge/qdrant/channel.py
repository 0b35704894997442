"""The gRPC connection: URL, TLS, API key, and foreign errors translated into ours.

Kept apart from `server.py` so that a worker, which only sends bytes that are ready, does not load
`qdrant_client` (some 50 MB and half a second of each process).

Status codes are those of the server's own mapping (Qdrant, src/tonic and
lib/storage/src/content_manager/conversions.rs): a full rate limiter answers RESOURCE_EXHAUSTED with
the metadata `retry-after`, in seconds.
"""

from __future__ import annotations

import ipaddress
import math
import os
import re
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

# Failed calls are told by their errors; gRPC's core would write lines of its own among ours.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

import grpc

from bridge.errors import (
    BridgeError,
    RateLimited,
    Rejected,
    StopError,
    Unreachable,
    UsageError,
)
from bridge.qdrant.wire import (
    UPDATE_COMPLETED,
    decode_batch_statuses,
    decode_operation_ids,
    decode_update_status,
)
from bridge.qdrant.wire_updates import UPDATE_BATCH
from bridge.redaction import redact_url

GRPC_PORT = 6334
REST_PORT = 6333
UPSERT = "/qdrant.Points/Upsert"

_OPTIONS = [
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    # A connection that a firewall forgot is noticed within half a minute, also in a long wait.
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.max_pings_without_data", 0),
    # The retry of this project decides; gRPC's own would hide its attempts.
    ("grpc.enable_retries", 0),
    # Reconnect soon after an outage: our own backoff already spreads the attempts.
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 2_000),
]
_RETRY = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.ABORTED,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNKNOWN,
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.DATA_LOSS,
    }
)
_REJECTED = frozenset(
    {
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.OUT_OF_RANGE,
        grpc.StatusCode.FAILED_PRECONDITION,
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """How to reach a server. Picklable: workers get it and open connections of their own."""

    host: str
    port: int
    tls: bool
    api_key: str | None = None
    ca_file: str | None = None
    skip_tls_verification: bool = False
    timeout_seconds: float = 60.0

    @property
    def label(self) -> str:
        """The URL, without secrets."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self.tls else 'http'}://{host}:{self.port}"

    def __repr__(self) -> str:
        return f"Endpoint({self.label})"


def parse_url(url: str) -> tuple[str, int, bool]:
    """(host, port, tls) of an `http(s)://host[:port]` URL; the port defaults to gRPC's."""
    try:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        port = parts.port
    except ValueError:
        port, parts = None, urlsplit("")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UsageError(
            f"not a Qdrant URL: {redact_url(url)!r}",
            hint="http(s)://host:6334 (gRPC), or edge:///directory",
        )
    if parts.username or parts.password:
        raise UsageError(
            "a Qdrant URL takes no user and password",
            hint="use QDRANT_BRIDGE_QDRANT__API_KEY or qdrant.api_key_file",
        )
    return parts.hostname, port or GRPC_PORT, parts.scheme == "https"


def is_loopback(host: str) -> bool:
    """Whether the host is this machine for sure."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def endpoint(
    url: str,
    *,
    api_key: str | None,
    ca_file: str | None = None,
    skip_tls_verification: bool = False,
    allow_plaintext: bool = False,
    timeout_seconds: float = 60.0,
) -> Endpoint:
    """The endpoint of a URL; UsageError for plaintext to a host that is not this machine."""
    host, port, tls = parse_url(url)
    if not tls and not is_loopback(host) and not allow_plaintext:
        what = "an API key and the data" if api_key else "the data"
        raise UsageError(
            f"{redact_url(url)} would send {what} in plaintext to another machine",
            hint="use https://, or --allow-plaintext where the network itself is trusted",
        )
    return Endpoint(
        host=host,
        port=port,
        tls=tls,
        api_key=api_key,
        ca_file=ca_file,
        skip_tls_verification=skip_tls_verification,
        timeout_seconds=timeout_seconds,
    )


def open_channel(place: Endpoint) -> grpc.Channel:
    """A channel; it connects with the first call, and again by itself."""
    target = f"[{place.host}]:{place.port}" if ":" in place.host else f"{place.host}:{place.port}"
    if not place.tls:
        return grpc.insecure_channel(target, options=_OPTIONS)
    options: list[tuple[str, Any]] = list(_OPTIONS)
    roots: bytes | None = None
    if place.skip_tls_verification:
        roots, name = _certificate_as_it_is(place)
        options.append(("grpc.ssl_target_name_override", name))
    elif place.ca_file is not None:
        roots = _authorities(place.ca_file)
    credentials = grpc.ssl_channel_credentials(root_certificates=roots)
    return grpc.secure_channel(target, credentials, options=options)


def _authorities(path: str) -> bytes:
    """The certificates of a PEM file; UsageError if it holds none."""
    try:
        with open(path, "rb") as file:
            roots = file.read()
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(path)
    except OSError as error:  # ssl.SSLError is one
        reason = "no certificate in it" if isinstance(error, ssl.SSLError) else error.strerror
        raise UsageError(
            f"cannot read qdrant.ca_file {path}: {reason}",
            hint="it holds the certificates to trust, in PEM form",
        ) from None
    return roots


def _certificate_as_it_is(place: Endpoint) -> tuple[bytes, str]:
    """The certificate that the server shows, trusted for this connection, and a name that is in it.

    gRPC has no switch that turns verification off; to trust whatever is shown comes to the same.
    """
    try:
        pem = ssl.get_server_certificate((place.host, place.port), timeout=10)
        context = ssl.create_default_context(cadata=pem)
        context.check_hostname = False
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        with (
            socket.create_connection((place.host, place.port), timeout=10) as raw,
            context.wrap_socket(raw) as wrapped,
        ):
            shown: dict[str, Any] = wrapped.getpeercert() or {}
    except ssl.SSLCertVerificationError as error:
        raise UsageError(
            f"the TLS certificate of {place.label} cannot be used, verified or not: "
            f"{error.verify_message}",
            hint="the server needs a certificate that is valid now",
        ) from error
    except ssl.SSLError as error:
        raise _not_tls(place) from error
    except OSError as error:
        raise Unreachable(
            f"Qdrant at {place.label} does not answer: {error.strerror or type(error).__name__}",
            hint="is it running, and are host and port right?",
        ) from error
    names = [value for _kind, value in shown.get("subjectAltName", ())]
    names += [
        value for group in shown.get("subject", ()) for kind, value in group if kind == "commonName"
    ]
    return pem.encode(), (names[0] if names else place.host).replace("*", "any")


class Sender:
    """Sends requests that are already bytes, several at a time."""

    def __init__(self, place: Endpoint) -> None:
        self._endpoint = place
        self._channel = open_channel(place)
        self._upsert = self._method(UPSERT)
        self._batch = self._method(UPDATE_BATCH)
        self._metadata = metadata(place)

    def _method(self, name: str) -> Any:
        return self._channel.unary_unary(name, request_serializer=None, response_deserializer=None)

    def send(self, request: bytes) -> SentRequest:
        """Begin one Upsert."""
        return self._begin(self._upsert, request, lambda answer: [decode_update_status(answer)])

    def send_batch(self, request: bytes) -> SentRequest:
        """Begin one UpdateBatch."""
        return self._begin(self._batch, request, decode_batch_statuses)

    def send_unwaited(self, request: bytes) -> Accepted:
        """Begin one UpdateBatch that was made with `wait=False`."""
        return Accepted(self._call(self._batch, request), self._endpoint)

    def _begin(
        self, method: Any, request: bytes, statuses: Callable[[bytes], list[int]]
    ) -> SentRequest:
        return SentRequest(self._call(method, request), self._endpoint, statuses)

    def _call(self, method: Any, request: bytes) -> Any:
        timeout = self._endpoint.timeout_seconds
        return method.future(request, metadata=self._metadata, timeout=timeout)

    def close(self) -> None:
        """Close the connection; what is in flight is cancelled."""
        self._channel.close()


class SentRequest:
    """A write in flight (`target.Pending`); `statuses` reads an answer's."""

    __slots__ = ("_call", "_endpoint", "_statuses")

    def __init__(self, call: Any, place: Endpoint, statuses: Callable[[bytes], list[int]]) -> None:
        self._call = call
        self._endpoint = place
        self._statuses = statuses

    def result(self) -> None:
        """Wait for the answer; only `Completed` is success."""
        for status in self._statuses(_answer(self._call, self._endpoint)):
            require_completed(status)

    def done(self) -> bool:
        """Whether `result` would answer at once."""
        return bool(self._call.done())


class Accepted:
    """A batch in flight that the server answers before it has applied it."""

    __slots__ = ("_call", "_endpoint")

    def __init__(self, call: Any, place: Endpoint) -> None:
        self._call = call
        self._endpoint = place

    def result(self) -> list[int]:
        """Wait for the answer: the operations' numbers in the log, or none if that is not known."""
        return decode_operation_ids(_answer(self._call, self._endpoint))


def _answer(call: Any, place: Endpoint) -> bytes:
    try:
        response: bytes = call.result()
    except (grpc.RpcError, grpc.FutureCancelledError) as error:
        raise translate(error, place) from error
    return response


def require_completed(status: int) -> None:
    """Unreachable unless an update was applied: accepted is not applied."""
    if status != UPDATE_COMPLETED:
        raise Unreachable(
            f"Qdrant accepted an update but had not applied it in time (status {status})",
            hint="it is sent again; if it recurs, the server is overloaded or its disk is slow",
        )


def metadata(place: Endpoint) -> tuple[tuple[str, str], ...]:
    """What every request carries."""
    return (("api-key", place.api_key),) if place.api_key else ()


def translate(
    error: grpc.RpcError | grpc.FutureCancelledError, place: Endpoint, collection: str | None = None
) -> BridgeError:
    """Our error for a failed call."""
    if not hasattr(error, "code"):
        return Unreachable(f"the connection to Qdrant at {place.label} was closed")
    code: grpc.StatusCode = error.code()
    details = _one_line(error.details() or code.name)
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        return RateLimited(
            f"Qdrant asks for less: {details}", retry_after_seconds=_retry_after(error)
        )
    if code in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED):
        return UsageError(
            f"Qdrant at {place.label} refuses the API key: {details}",
            hint="set QDRANT_BRIDGE_QDRANT__API_KEY, or qdrant.api_key_file",
        )
    if _is_http1(details) or code is grpc.StatusCode.UNIMPLEMENTED:
        return _not_grpc(place, details)
    if code is grpc.StatusCode.UNAVAILABLE and "WRONG_VERSION_NUMBER" in details:
        return _not_tls(place)
    if code is grpc.StatusCode.UNAVAILABLE and "Hostname Verification" in details:
        return UsageError(
            f"the TLS certificate of {place.label} is for another name than {place.host}",
            hint="use the name that the certificate has, or --skip-tls-verification",
        )
    if code is grpc.StatusCode.UNAVAILABLE and _is_certificate(details):
        return UsageError(
            f"the TLS certificate of {place.label} is not trusted"
            + details.partition("CERTIFICATE_VERIFY_FAILED")[2].removesuffix(": OK"),
            hint="set qdrant.ca_file to the certificate authority's file",
        )
    if code in _RETRY:
        return Unreachable(
            f"Qdrant at {place.label} does not answer: {details}",
            hint=f"is it running, and is this the gRPC port ({GRPC_PORT})?"
            + ("" if place.tls else " If it wants TLS, write https://"),
        )
    if code is grpc.StatusCode.NOT_FOUND and re.search(r"[Cc]ollection", details):
        return StopError(
            f"a collection is gone from Qdrant: {details}",
            code="TARGET_CHANGED",
            hint="it was deleted while it was written to, and is not made again by itself: run "
            "qdrant-bridge resync --all, or for a copy without a stream --migration.restart",
        )
    if code in _REJECTED or code is grpc.StatusCode.NOT_FOUND:
        return Rejected(f"Qdrant refuses the request: {details}")
    return UsageError(f"Qdrant at {place.label} answers {code.name}: {details}")


def calling(place: Endpoint) -> Callable[[Callable[[], Any]], Any]:
    """A function that runs a call and translates its error."""

    def run(action: Callable[[], Any]) -> Any:
        try:
            return action()
        except grpc.RpcError as error:
            raise translate(error, place) from error

    return run


def _retry_after(error: Any) -> float | None:
    for key, value in error.trailing_metadata() or ():
        if key.lower() == "retry-after":
            try:
                seconds = float(value)
            except ValueError:
                return None
            return max(0.0, seconds) if math.isfinite(seconds) else None
    return None


def _is_http1(details: str) -> bool:
    lowered = details.lower()
    return "http1" in lowered or "http/1" in lowered or "expected settings frame" in lowered


def _is_certificate(details: str) -> bool:
    return "CERTIFICATE_VERIFY_FAILED" in details or "certificate verify" in details.lower()


def _not_tls(place: Endpoint) -> UsageError:
    return UsageError(
        f"{place.label} does not speak TLS",
        hint="switch TLS on at the server, or write http:// (to another machine only with "
        "--allow-plaintext)",
    )


def _not_grpc(place: Endpoint, details: str) -> UsageError:
    rest = f" ({REST_PORT} is Qdrant's REST port)" if place.port == REST_PORT else ""
    found = "it answers in HTTP/1" if _is_http1(details) else details
    if place.port == GRPC_PORT:
        hint = (
            "what listens there is not Qdrant, or a proxy in front of it that does not pass gRPC on: "
            "check the host, and how the port is forwarded"
        )
    else:
        hint = (
            f"give the gRPC port, usually {GRPC_PORT}: "
            f"{'https' if place.tls else 'http'}://{place.host}:{GRPC_PORT}"
        )
    return UsageError(
        f"{place.label} does not speak Qdrant's gRPC{rest}: {found}",
        hint=hint,
    )


def _one_line(text: str) -> str:
    """What happened, without gRPC's list of the addresses that it tried."""
    line = " ".join(text.split())
    return re.sub(r"^failed to connect to all addresses; last error: \w+: (\S+: )?", "", line)[:300]
