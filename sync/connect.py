"""Kafka Connect's REST interface, as far as a connector's configuration and state are concerned.

Optional: it tells the modes that a message without schemas depends on, and lets `doctor` find settings
that lose data. Apache Kafka documentation, section 8.3 "REST API".
"""

from __future__ import annotations

import http.client
import json
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlsplit

from bridge.errors import Unreachable, UsageError

_TIMEOUT_SECONDS = 10.0
_MOST_BYTES = 1024 * 1024
"""Of an answer: a configuration and a state with its trace are a few kB."""
_SECRETS = ("password", "secret", "jaas")


@dataclass(frozen=True, slots=True, kw_only=True)
class Connector:
    """One connector. `states`: of the connector, then of its tasks; a task may have failed while its
    connector is RUNNING. `trace`: the first line of why, if one has."""

    name: str
    config: Mapping[str, str]
    states: tuple[str, ...]
    trace: str = ""

    @property
    def failed(self) -> bool:
        """Whether it, or a task of it, has."""
        return "FAILED" in self.states


def read_connector(url: str, name: str) -> Connector:
    """The connector. UsageError if there is none of that name, Unreachable if nobody answers."""
    if urlsplit(url).scheme not in ("http", "https"):
        raise UsageError("kafka.connect_url is no url", hint="http://connect:8083")
    if "@" in urlsplit(url).netloc:
        raise UsageError(
            "kafka.connect_url has a user or a password in it",
            hint="leave them out, and let the network or a proxy decide who may ask; or give "
            "kafka.modes instead of kafka.connect_url",
        )
    config = _get(url, f"/connectors/{quote(name, safe='')}/config", name)
    status = _get(url, f"/connectors/{quote(name, safe='')}/status", name)
    parts = [status.get("connector", {}), *status.get("tasks", [])]
    failed: dict[str, Any] = next((p for p in parts if p.get("state") == "FAILED"), {})
    return Connector(
        name=name,
        # Connect hands out passwords as they are written down.
        config={
            key: str(value)
            for key, value in config.items()
            if not any(word in key.lower() for word in _SECRETS)
        },
        states=tuple(str(part.get("state", "UNKNOWN")) for part in parts),
        trace=str(failed.get("trace", "")).partition("\n")[0],
    )


def _get(url: str, path: str, name: str) -> dict[str, Any]:
    # No cause is kept: the library's errors may quote the url.
    try:
        # The scheme has been looked at.
        with urllib.request.urlopen(url.rstrip("/") + path, timeout=_TIMEOUT_SECONDS) as reply:  # noqa: S310
            body = reply.read(_MOST_BYTES + 1)
    except urllib.error.HTTPError as error:
        with error:
            if error.code == 404:
                raise UsageError(
                    f"Kafka Connect has no connector {name}", hint="see kafka.connector"
                ) from None
            raise Unreachable(f"Kafka Connect answers {error.code}") from None
    except (OSError, ValueError, http.client.HTTPException):
        raise Unreachable("Kafka Connect does not answer") from None
    if len(body) > _MOST_BYTES:
        raise Unreachable("what answers at kafka.connect_url is not Kafka Connect")
    return _parsed(body)


def _parsed(body: bytes) -> dict[str, Any]:
    try:
        found = json.loads(body)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise Unreachable("what answers at kafka.connect_url is not Kafka Connect")
    return found
