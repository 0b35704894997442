"""Table names as users write them, read by SQL's rules for identifiers.

External specification: PostgreSQL, "Lexical Structure", 4.1.1 Identifiers and Key Words. Unquoted
names are folded to lower case, in ASCII only, as the server does under a multibyte encoding; quoted
ones stay, with `""` for a quote. `U&"..."` is not read, and key words need no quotes here, because
a name stands where nothing else can. Nothing is cut to the server's limit: that would be another
table.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NoReturn

from bridge.errors import UsageError
from bridge.schema import quote_identifier

# NAMEDATALEN - 1 of every usual build.
_LIMIT_BYTES = 63

_QUOTED = re.compile(r'"((?:[^"\0]|"")*)"')
_PLAIN = re.compile(r"[A-Za-z_\u0080-\U0010ffff][A-Za-z0-9_$\u0080-\U0010ffff]*")
_FOLD = {code: code + 32 for code in range(ord("A"), ord("Z") + 1)}
# What SQL's scanner passes over.
_BLANKS = " \t\n\r\f\v"

_HINT = 'write it as in SQL: docs, public.docs, app."Weird.Table"'


def parse_table_name(text: str) -> tuple[str | None, str]:
    """`public.docs` -> ("public", "docs"); `docs` -> (None, "docs"). UsageError if malformed."""
    parts = _parts(text)
    if len(parts) > 2:
        raise UsageError(
            f"table name {text!r} has {len(parts)} parts",
            hint="name the schema and the table; the database stands in postgres.url",
        )
    for part in parts:
        if len(part.encode("utf-8", "surrogatepass")) > _LIMIT_BYTES:
            raise UsageError(
                f"table name {text!r}: a part is longer than {_LIMIT_BYTES} bytes",
                hint="Postgres keeps the first 63 bytes of a name: write the name that it kept",
            )
    if len(parts) == 1:
        return None, parts[0]
    return parts[0], parts[1]


def format_table_name(schema: str | None, name: str) -> str:
    """The one spelling of a name: what `parse_table_name` reads back, quoted where needed."""
    quoted = quote_identifier(name)
    return quoted if schema is None else f"{quote_identifier(schema)}.{quoted}"


def find_table(names: Iterable[str], wanted: str) -> str:
    """The one of these names that is meant; a schema may be left out where that is unambiguous.

    Names as `format_table_name` spells them. UsageError if none is meant, or several may be.
    """
    known = list(names)
    schema, name = parse_table_name(wanted)
    spelled = format_table_name(schema, name)
    if spelled in known:
        return spelled
    meant = [one for one in known if _may_be(parse_table_name(one), schema, name)]
    if len(meant) == 1:
        return meant[0]
    if meant:
        raise UsageError(
            f"table {wanted} may be {' or '.join(meant)}", hint="name it with its schema"
        )
    raise UsageError(
        f"table {wanted} is not in the configuration", hint=f"it has: {', '.join(known)}"
    )


def _may_be(known: tuple[str | None, str], schema: str | None, name: str) -> bool:
    # Which schema a name without one is of, only the server's search_path tells.
    return known[1] == name and (known[0] is None or schema is None)


def _parts(text: str) -> list[str]:
    """The identifiers between the dots."""
    parts: list[str] = []
    at = _skip_blanks(text, 0)
    while True:
        part, at = _identifier(text, at)
        parts.append(part)
        at = _skip_blanks(text, at)
        if at == len(text):
            return parts
        if text[at] != ".":
            _refuse(text, f"unexpected {text[at]!r} at character {at + 1}")
        at = _skip_blanks(text, at + 1)


def _identifier(text: str, at: int) -> tuple[str, int]:
    """The identifier that begins at `at`, and where it ends."""
    if at == len(text):
        _refuse(text, "a name is missing at its end" if text.strip() else "it is empty")
    if text[at] == '"':
        quoted = _QUOTED.match(text, at)
        if quoted is None:
            _refuse(text, "a double quote is not closed, or a NUL is inside")
        if not quoted[1]:
            _refuse(text, "a quoted name is empty")
        return quoted[1].replace('""', '"'), quoted.end()
    plain = _PLAIN.match(text, at)
    if plain is None:
        _refuse(text, f"unexpected {text[at]!r} at character {at + 1}")
    return plain[0].translate(_FOLD), plain.end()


def _skip_blanks(text: str, at: int) -> int:
    while at < len(text) and text[at] in _BLANKS:
        at += 1
    return at


def _refuse(text: str, reason: str) -> NoReturn:
    raise UsageError(
        f"table name {text!r}: {reason}",
        hint=_HINT + "; other characters than letters, digits, _ and $ need double quotes",
    )
