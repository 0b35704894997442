"""The SDK's errors -> ours, at the edge where they arise.

External specification: `pinecone.errors` of SDK 10 (facts/pinecone.md, limits and errors). Beside the
tree of `bridge.errors` three causes are told apart that the scan itself can mend: a page token that is
not taken any more, a request that is too long, an answer in which one record cannot be read.

Neither keys nor the text of an answer to a fetch get into a message: the latter may quote a record.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from bridge.errors import BridgeError, RateLimited, Rejected, Unreachable, UsageError

if TYPE_CHECKING:
    from pinecone import errors as sdk

_MONTHLY = re.compile(r"month|quota|plan limit|upgrade", re.IGNORECASE)
_TOO_LONG = frozenset({413, 414, 431})
_PASSING = frozenset({408, 425})
_NO_TOKEN = frozenset({400, 404, 410, 422})


class Missing(UsageError):
    """There is no such index, host or operation (404, and 400 where nothing was asked wrongly)."""


class TokenRefused(BridgeError):
    """The page token is not taken any more: the listing must begin again."""


class TooLong(Rejected):
    """The request's URL is longer than something on the way takes; halves may pass."""


class Unreadable(Rejected):
    """The answer is JSON and no record, or not one that the SDK takes; it holds somebody's mistake."""


def translate(error: Exception, *, what: str, token: bool = False) -> BridgeError:
    """The error as ours. `what` was asked for (`a page of ids`); `token`: with a page token."""
    from pinecone import errors as sdk  # here, so that nobody pays who does not call Pinecone

    if isinstance(error, sdk.ApiError):
        return _of_status(error, what, token)
    if isinstance(error, sdk.ResponseParsingError):
        # A body that is no JSON comes from a gateway; JSON of another shape from one bad record.
        if type(error.__cause__).__name__ == "ValidationError":
            return Unreadable(f"Pinecone's answer for {what} has a record that cannot be read")
        return Unreachable(f"Pinecone's answer for {what} is no JSON")
    if isinstance(error, sdk.PineconeTimeoutError):
        return Unreachable(f"Pinecone took too long for {what}")
    if isinstance(error, sdk.PineconeConnectionError):
        return _of_connection(error, what)
    if type(error).__name__ == "InvalidURL":  # httpx's, of a URL above 65,536 characters
        return TooLong(f"the request for {what} is too long")
    if isinstance(error, sdk.PineconeError):
        return Unreadable(f"the SDK refuses the request for {what}: {type(error).__name__}")
    raise error


def _of_status(error: sdk.ApiError, what: str, token: bool) -> BridgeError:
    status = error.status_code
    if status in (401, 403):
        return UsageError(
            "Pinecone refuses the API key" if status == 401 else "the API key may not read this",
            hint="pinecone.api_key_file, or QDRANT_BRIDGE_PINECONE__API_KEY; is it this project's?",
        )
    if status == 429 and _MONTHLY.search(error.message):
        return UsageError(
            "the plan's read units are used up, and waiting does not bring them back",
            hint="another plan, or the next month; what is copied is kept, and the same command "
            "goes on from there",
        )
    if status == 429 or (status >= 500 and _retry_after(error) is not None):
        return RateLimited(
            f"Pinecone asks for fewer requests ({status})", retry_after_seconds=_retry_after(error)
        )
    if status >= 500 or status in _PASSING:
        return Unreachable(f"Pinecone failed with {status} at {what}")
    if status in _TOO_LONG:
        return TooLong(f"the request for {what} is too long ({status})")
    if token and status in _NO_TOKEN:
        return TokenRefused("Pinecone does not take the page token any more")
    if status in (400, 404, 405, 422, 501):
        return Missing(
            f"Pinecone refuses {what} ({status})",
            hint="is this the index's own host, and the name of an index of this project?",
        )
    return UsageError(f"Pinecone answered {what} with {status}", hint="see --debug")


def _retry_after(error: sdk.ApiError) -> float | None:
    known: Any = getattr(error, "retry_after", None)
    if known is None:
        known = (error.headers or {}).get("retry-after")
    try:
        seconds = float(known)
    except (TypeError, ValueError):
        return None
    return seconds if 0 <= seconds < 86_400 else None


def _of_connection(error: sdk.PineconeConnectionError, what: str) -> BridgeError:
    text = str(error)
    if "CERTIFICATE_VERIFY_FAILED" in text or "certificate verify failed" in text:
        return UsageError(
            "the TLS certificate that answers for Pinecone is not trusted",
            hint="behind a proxy of your own: its authority in pinecone.ca_file",
        )
    if "WRONG_VERSION_NUMBER" in text or "wrong version number" in text.lower():
        return UsageError(
            "the host speaks no TLS", hint="http:// for a plaintext gateway, else another port"
        )
    return Unreachable(f"the connection to Pinecone failed at {what}")
