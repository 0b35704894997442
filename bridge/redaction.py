"""Hides passwords in what is shown of connection strings.

External specification: libpq, "Connection Strings" (URI, and keyword/value with quotes and
backslashes). What cannot be read for sure is hidden whole: showing too little is the only safe
mistake.
"""

from __future__ import annotations

import re
from urllib.parse import unquote

HIDDEN = "***"

_URI = re.compile(r"\s*[A-Za-z][A-Za-z0-9+.-]*://")
# A word, blanks around an equals sign, and a value: quoted with escapes, or up to the next blank.
_PAIR = re.compile(
    r"\s*(?P<name>[^\s=']+)\s*=\s*(?P<value>'(?:[^'\\]|\\.)*'|(?:[^\s'\\]|\\.)*)(?=\s|$)",
    re.DOTALL,
)
# Names of libpq that hold a secret, and the parts of names that would.
_SECRET_NAME = re.compile(r"password|secret|scram_|token|api[-_]?key", re.IGNORECASE)


def redact_connection(text: str) -> str:
    """A connection string without its passwords; `***` alone if it is neither form."""
    if _URI.match(text):
        return redact_url(text)
    return _redact_pairs(text)


def redact_url(text: str) -> str:
    """A URL without the password of its user part, nor secrets among its parameters.

    An unescaped `@`, `/` or `?` in a password moves the parts; all between the first colon and the
    last `@` is therefore hidden, even where that hides more than the password.
    """
    scheme, separator, rest = text.partition("://")
    head, at, tail = rest.rpartition("@")
    if at:
        user, colon, _ = head.partition(":")
        rest = user + (f":{HIDDEN}" if colon else "") + at + tail
    address, question, query = rest.partition("?")
    parameters = "&".join(_redact_parameter(parameter) for parameter in query.split("&"))
    return scheme + separator + address + question + parameters


def _redact_parameter(parameter: str) -> str:
    name, equals, _ = parameter.partition("=")
    if equals and _SECRET_NAME.search(unquote(name)):
        return f"{name}={HIDDEN}"
    return parameter


def _redact_pairs(text: str) -> str:
    shown: list[str] = []
    at = 0
    end = len(text.rstrip())
    while at < end:
        pair = _PAIR.match(text, at)
        if pair is None:
            return HIDDEN
        secret = _SECRET_NAME.search(pair["name"])
        shown.append(f"{pair['name']}={HIDDEN if secret else pair['value']}")
        at = pair.end()
    return " ".join(shown) if shown else HIDDEN
