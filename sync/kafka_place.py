"""Which brokers, and how they are spoken to."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

from bridge.errors import UsageError


@dataclass(frozen=True, slots=True, kw_only=True)
class KafkaPlace:
    """Which brokers, and how to speak to them."""

    bootstrap_servers: tuple[str, ...]
    security: Literal["plaintext", "tls"] = "plaintext"
    sasl: Literal["none", "plain", "scram-sha-256", "scram-sha-512"] = "none"
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    ca_file: str | None = None
    certificate_file: str | None = None
    key_file: str | None = None

    def client_settings(self) -> dict[str, Any]:
        """As kafka-python calls them. UsageError if a certificate cannot be read."""
        settings: dict[str, Any] = {
            "bootstrap_servers": list(self.bootstrap_servers),
            "security_protocol": f"{'SASL_' if self.sasl != 'none' else ''}"
            f"{'SSL' if self.security == 'tls' else 'PLAINTEXT'}",
        }
        if self.sasl != "none":
            settings |= {
                "sasl_mechanism": self.sasl.upper(),
                "sasl_plain_username": self.username,
                "sasl_plain_password": self.password,
            }
        if self.security == "tls":
            settings["ssl_context"] = self.tls()
        return settings

    def tls(self) -> ssl.SSLContext:
        """Certificates are checked, and the host's name against them. UsageError if a file cannot be
        read, which the client would take for a broker that does not answer."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if self.ca_file is None:
            context.load_default_certs()
        else:
            with _readable("kafka.ca_file", self.ca_file):
                context.load_verify_locations(self.ca_file)
        if self.certificate_file is not None:
            with _readable("kafka.certificate_file and kafka.key_file", self.certificate_file):
                # A password would be asked for on the terminal, for ever.
                context.load_cert_chain(self.certificate_file, self.key_file, password="")
        return context


@contextmanager
def _readable(setting: str, path: str) -> Iterator[None]:
    """Errors of reading PEM files as ours."""
    try:
        yield
    except ssl.SSLError as error:
        raise UsageError(
            f"{path} does not hold what it should, as PEM",
            hint=f"{setting} in the configuration: certificates, or a certificate and its key without "
            "a password",
        ) from error
    except OSError as error:
        raise UsageError(
            f"{path} cannot be read ({error.strerror})", hint=f"{setting} in the configuration"
        ) from error
