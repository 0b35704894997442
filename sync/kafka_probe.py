"""What a broker says when the client only says that it does not answer.

The client tries again whatever the reason, and tells none: a wrong password, an authority that nobody
trusts and a port that speaks no TLS all look like an outage, which would be waited for without end. So
before it begins, one connection is made by hand, and what it meets for certain is a `UsageError` with
its remedy. Whatever may pass by itself is left to the client. No secret is in what is raised.

Frames are those of the Kafka protocol guide: SaslHandshake (17) version 1 and SaslAuthenticate (36)
version 0, which brokers since 1.0 answer at once, on a port without SASL too.
"""

from __future__ import annotations

import socket
import ssl
import struct
from collections.abc import Callable
from contextlib import suppress
from typing import Final, Protocol
from urllib.parse import urlsplit

from bridge.errors import UsageError
from sync.kafka_place import KafkaPlace

SECONDS: Final = 5.0
_PORT: Final = 9092
_HANDSHAKE, _AUTHENTICATE = 17, 36
_UNSUPPORTED_MECHANISM, _NO_SASL_HERE, _REFUSED = 33, 34, 58
_MOST_BYTES: Final = 100_000
_TLS_RECORDS: Final = (b"\x15\x03", b"\x16\x03")
# X509_V_ERR_* of OpenSSL (x509_vfy.h).
_OTHER_NAME: Final = (62, 64)
_UNTRUSTED: Final = (18, 19, 20, 21)


class Mechanism(Protocol):
    """A SASL mechanism of the client."""

    def auth_bytes(self) -> bytes:
        """What is sent next."""

    def receive(self, auth_bytes: bytes) -> object:
        """What came back."""

    def is_done(self) -> bool:
        """Whether nothing more is sent."""


class _NotKafka(Exception):
    """What came back is no frame of Kafka's."""


def require_understanding(place: KafkaPlace, mechanism: Callable[[], Mechanism]) -> None:
    """UsageError if the first broker that can be reached will never have us as the configuration is."""
    context = place.tls() if place.security == "tls" else None
    for server in place.bootstrap_servers:
        parts = urlsplit(f"//{server}")
        address = (parts.hostname or server, parts.port or _PORT)
        try:
            _ask(place, address, context, mechanism)
        except (OSError, _NotKafka):
            continue  # for the client to meet again, and to wait for
        return


def _ask(
    place: KafkaPlace,
    address: tuple[str, int],
    context: ssl.SSLContext | None,
    mechanism: Callable[[], Mechanism],
) -> None:
    named = f"Kafka at {address[0]}:{address[1]}"
    with socket.create_connection(address, SECONDS) as line:
        if context is None:
            _plainly(place, named, address, line, mechanism)
            return
        try:
            secured = context.wrap_socket(line, server_hostname=address[0])
        except ssl.SSLCertVerificationError as error:
            raise _untrusted(named, address[0], error) from error
        except OSError as error:
            if _speaks_plainly(address):
                raise UsageError(
                    f"{named} speaks no TLS on this port",
                    hint="the port of its TLS listener; or kafka.security: plaintext",
                ) from error
            raise
        with secured:
            try:
                _speak(place, named, secured, mechanism)
            except ssl.SSLError as error:
                # TLS 1.3: the refusal of a client comes after its handshake.
                if "CERTIFICATE" in (error.reason or "") or "HANDSHAKE" in (error.reason or ""):
                    raise _wants_certificate(place, named) from error
                raise


def _plainly(
    place: KafkaPlace,
    named: str,
    address: tuple[str, int],
    line: socket.socket,
    mechanism: Callable[[], Mechanism],
) -> None:
    try:
        _speak(place, named, line, mechanism)
    except (OSError, _NotKafka) as error:
        if _speaks_tls(address):
            raise UsageError(
                f"{named} expects TLS on this port", hint="kafka.security: tls, and kafka.ca_file"
            ) from error
        raise


def _speak(
    place: KafkaPlace, named: str, line: socket.socket, mechanism: Callable[[], Mechanism]
) -> None:
    wanted = None if place.sasl == "none" else place.sasl.upper()
    code, offered = _handshake(line, wanted or "NONE")
    told = ", ".join(sorted(offered)).lower()
    if code == _NO_SASL_HERE:
        if wanted is None:
            return
        raise UsageError(
            f"{named} asks for no user on this port",
            hint="the port of its SASL listener; or kafka.sasl: none",
        )
    if wanted is None:
        raise UsageError(
            f"{named} asks for a user and a password",
            hint=f"kafka.sasl (it offers {told}), kafka.username and kafka.password_file",
        )
    if code == _UNSUPPORTED_MECHANISM:
        raise UsageError(
            f"{named} does not know {place.sasl}", hint=f"kafka.sasl: it offers {told}"
        )
    if code:
        raise _NotKafka
    _authenticate(place, named, line, mechanism())


def _handshake(line: socket.socket, mechanism: str) -> tuple[int, list[str]]:
    """The error's code, and the mechanisms that are offered."""
    reply = _call(line, _HANDSHAKE, 1, _text(mechanism))
    try:
        code, count = struct.unpack_from(">hi", reply)
        offered, place = [], 6
        for _ in range(count):
            (size,) = struct.unpack_from(">h", reply, place)
            offered.append(reply[place + 2 : place + 2 + size].decode())
            place += 2 + size
    except (struct.error, UnicodeDecodeError) as error:
        raise _NotKafka from error
    return code, offered


def _authenticate(place: KafkaPlace, named: str, line: socket.socket, mechanism: Mechanism) -> None:
    while not mechanism.is_done():
        sent = mechanism.auth_bytes()
        reply = _call(line, _AUTHENTICATE, 0, struct.pack(">i", len(sent)) + sent)
        try:
            code, size = struct.unpack_from(">hh", reply)
            (length,) = struct.unpack_from(">i", reply, 4 + max(0, size))
        except struct.error as error:
            raise _NotKafka from error
        if code == _REFUSED:
            raise UsageError(
                f"{named} refuses the user or the password",
                hint=f"kafka.username, kafka.password_file; is the user one of {place.sasl}?",
            )
        if code:
            raise _NotKafka
        start = 8 + max(0, size)
        try:
            mechanism.receive(reply[start : start + max(0, length)])
        except ValueError as error:
            raise _NotKafka from error


# --- frames ---------------------------------------------------------------------------------------


def _text(text: str) -> bytes:
    return struct.pack(">h", len(text)) + text.encode()


def _call(line: socket.socket, api: int, version: int, body: bytes) -> bytes:
    """The body of the answer. _NotKafka if it is none; OSError as the socket says."""
    request = struct.pack(">hhi", api, version, 1) + _text("qdrant-bridge") + body
    line.sendall(struct.pack(">i", len(request)) + request)
    head = _read(line, 8)
    size, correlation = struct.unpack(">ii", head)
    if head[:2] in _TLS_RECORDS or not 4 <= size <= _MOST_BYTES or correlation != 1:
        raise _NotKafka
    return _read(line, size - 4)


def _read(line: socket.socket, size: int) -> bytes:
    found = b""
    while len(found) < size:
        part = line.recv(size - len(found))
        if not part:
            raise ConnectionResetError("closed")
        found += part
    return found


# --- what else it may be --------------------------------------------------------------------------


def _speaks_plainly(address: tuple[str, int]) -> bool:
    with suppress(OSError, _NotKafka), socket.create_connection(address, SECONDS) as line:
        _handshake(line, "NONE")
        return True
    return False


def _speaks_tls(address: tuple[str, int]) -> bool:
    """Whether it answers a TLS handshake: nothing is sent over it, and nobody trusted."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with (
        suppress(OSError),
        socket.create_connection(address, SECONDS) as line,
        context.wrap_socket(line),
    ):
        return True
    return False


def _untrusted(named: str, host: str, error: ssl.SSLCertVerificationError) -> UsageError:
    if error.verify_code in _OTHER_NAME:
        return UsageError(
            f"{named} has a certificate for another name than {host}",
            hint="kafka.bootstrap_servers: a name that the certificate holds; or a certificate for this one",
        )
    if error.verify_code in _UNTRUSTED:
        return UsageError(
            f"{named} has a certificate from nobody who is trusted",
            hint="kafka.ca_file: the certificate of the authority that signed it",
        )
    return UsageError(
        f"{named} has a certificate that does not hold: {error.verify_message}",
        hint="mend the broker's certificate; kafka.ca_file says who is trusted",
    )


def _wants_certificate(place: KafkaPlace, named: str) -> UsageError:
    if place.certificate_file is None:
        return UsageError(
            f"{named} asks for a certificate of ours",
            hint="kafka.certificate_file and kafka.key_file",
        )
    return UsageError(
        f"{named} does not accept our certificate",
        hint="kafka.certificate_file: one from an authority that the brokers trust, for clients",
    )
