"""Connections to Postgres, and the translation of its errors into ours.

External specification: libpq, "Connection Strings" and "Parameter Key Words"; "PostgreSQL Error
Codes" (SQLSTATE, appendix A).

What always holds: a connection is in autocommit mode; texts come in UTF-8 and in the forms that
point ids are made of (UTC, ISO dates, ISO 8601 intervals, shortest floats, hex bytea); row-level
security raises instead of hiding rows; no password goes over an unencrypted network; no message
carries a password or a row's value. Nothing is left behind by a crash but a backend that notices
the closed socket.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeAlias
from urllib.parse import unquote

import psycopg
from psycopg import pq, sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from bridge.errors import BridgeError, StopError, Unreachable, UsageError
from bridge.schema import quote_identifier

Connection: TypeAlias = psycopg.Connection[tuple[Any, ...]]

# Session settings that the text forms of keys, and thereby point ids, depend on (design, 3), and
# those that would end or falsify a long read. `search_path` stays as the user has it.
_SETTINGS: Mapping[str, str] = {
    "TimeZone": "UTC",
    "DateStyle": "ISO, MDY",
    "IntervalStyle": "iso_8601",
    "extra_float_digits": "1",
    "bytea_output": "hex",
    "row_security": "off",
    "quote_all_identifiers": "off",
    "standard_conforming_strings": "on",
    "statement_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
    "idle_session_timeout": "0",
}
_SETTINGS_SINCE_17: Mapping[str, str] = {"transaction_timeout": "0"}

# A dead peer is noticed after 30 + 3 x 10 s; unacknowledged data after as long.
_NETWORK: Mapping[str, str] = {
    "keepalives": "1",
    "keepalives_idle": "30",
    "keepalives_interval": "10",
    "keepalives_count": "3",
    "tcp_user_timeout": "60000",
}

_SECRET_OPTION = re.compile("password|secret|scram_")
_MAY_BE_PLAIN = frozenset({"disable", "allow", "prefer"})
_URL_HINT = (
    "write postgresql://user@host:5432/database, with special characters in a part "
    "percent-encoded (@ as %40, / as %2F, : as %3A), or host=... dbname=... user=..."
)
_PLAINTEXT_HINT = (
    "set sslmode=verify-full (with sslrootcert) in the url, or pass --allow-plaintext if the "
    "network is trusted"
)


def connect(
    url: str,
    *,
    application_name: str = "qdrant-bridge",
    allow_plaintext: bool = False,
    connect_timeout_seconds: int = 10,
    read_only: bool = True,
) -> Connection:
    """A synchronous autocommit connection with this bridge's session settings.

    `url` is a libpq URI or keyword/value text. Encryption: towards a host that is neither a
    loopback address nor a Unix socket, an `sslmode` that permits plaintext (libpq's default does)
    is raised to `require` before the first byte is sent, so that no password crosses the network
    in the clear; an explicit `sslmode=disable` is refused. `allow_plaintext` leaves it as it is.
    After connecting, the address actually reached is checked as well: `localhost` may be anything.

    Raises UsageError (url, credentials, database, encryption) or Unreachable.
    """
    options = conninfo(url)
    effective = _effective(options)
    if not allow_plaintext and not _is_local(effective):
        options["sslmode"] = _encrypted_mode(options, effective)
    defaults = {**_NETWORK, "connect_timeout": str(connect_timeout_seconds)}
    settings = {
        **{name: value for name, value in defaults.items() if name not in options},
        **options,
        "application_name": application_name,
        "client_encoding": "UTF8",
    }
    try:
        connection = psycopg.connect(
            make_conninfo(**settings), autocommit=True, prepare_threshold=None
        )
    except psycopg.Error as error:
        raise _connect_error(error, effective, in_url="password" in options) from error
    try:
        with translated(connection=connection):
            if not allow_plaintext:
                _refuse_plaintext(connection)
            _configure(connection, read_only=read_only)
    except BaseException:
        connection.close()
        raise
    return connection


def conninfo(url: str) -> dict[str, str]:
    """The url's own options under libpq's names. UsageError, without the text, if it is none.

    Two forms beyond libpq's are understood: SQLAlchemy's `postgresql+driver://`, and
    `?search_path=`, which pgx (and so qdrant-migration) takes, as `options=-c search_path=...`.
    """
    text, search_path = _without_search_path(re.sub(r"^(postgres(?:ql)?)\+\w+://", r"\1://", url))
    authority = text.split("?", 1)[0]
    if "://" in authority and authority.count("@") > 1:
        raise UsageError("the Postgres url has more than one @", hint=_URL_HINT)
    try:
        parsed = conninfo_to_dict(text)
    except psycopg.Error:
        # libpq's message may quote the part that it did not understand, which can be a password.
        raise UsageError("the Postgres url cannot be parsed", hint=_URL_HINT) from None
    options = {name: str(value) for name, value in parsed.items() if value is not None}
    if any(not port.isdecimal() for port in options.get("port", "").split(",") if port):
        raise UsageError("the Postgres url's port is not a number", hint=_URL_HINT)
    if search_path is not None:
        escaped = re.sub(r"([\\\s])", r"\\\1", search_path)
        options["options"] = f"{options.get('options', '')} -c search_path={escaped}".strip()
    return options


def without_secrets(url: str) -> str:
    """The url as it may stand in a file that others read: without its password, else as it is."""
    options = conninfo(url)
    kept = {name: value for name, value in options.items() if not _SECRET_OPTION.search(name)}
    for text in (url, re.sub(r"^(\w[\w+]*://[^:@/?]*):[^@]*@", r"\1@", url)):
        if conninfo(text) == kept:
            return text
    return make_conninfo(**kept)


def display(url: str) -> str:
    """Where the url leads, for people: `user@host:port/database`; never the password."""
    return _place(_effective(conninfo(url)))


@contextmanager
def translated(
    *, table: str | None = None, key: str | None = None, connection: Connection | None = None
) -> Iterator[None]:
    """Psycopg's errors leave this block as ours. `table` is a label, quoted as in SQL.

    With `connection`, the role is named in the statements that a hint proposes.
    """
    try:
        yield
    except psycopg.Error as error:
        raise translate(error, table=table, key=key, role=_role(connection)) from error


def translate(
    error: psycopg.Error,
    *,
    table: str | None = None,
    key: str | None = None,
    role: str | None = None,
) -> BridgeError:
    """One of our errors for an error of a statement; what is unknown becomes a StopError."""
    state = error.sqlstate or ""
    message = _message(error)
    if not state and _is_of_the_connection(error):
        result: BridgeError = Unreachable(f"the connection to Postgres was lost: {message}")
    elif state[:2] in _RETRY or state in _RETRY:
        result = Unreachable(message)
    elif state == "42501":
        result = _privilege_error(error, message, table, role)
    elif (hint := _HINTS.get(state) or _HINTS.get(state[:2])) is not None:
        result = UsageError(message, hint=hint)
    else:
        result = StopError(message, code="POSTGRES_ERROR", hint="see the server's log")
    result.table, result.key = table, key
    return result


# SQLSTATE classes and codes that pass by themselves. 57014: statement_timeout of another's
# making, or an administrator's cancel; class 40 includes recovery conflicts on a standby.
_RETRY = frozenset(
    {"08", "40", "53100", "53200", "53300", "55006", "55P03", "57014"}
    | {"57P01", "57P02", "57P03", "57P05", "25P03", "25P04"}
)
_CHANGED = "the table may have been changed or renamed; run `qdrant-bridge plan` again"
_HINTS: Mapping[str, str] = {
    "22": "a value does not fit: check `where`, the key column, and, for a view, its expressions",
    "28": "check the user, the password and pg_hba.conf",
    "3D": "check the database's name in the url",
    "3F": _CHANGED,
    "0A": "this relation cannot be read in this way",
    "25006": "this connection only reads",
    "42P01": _CHANGED,
    "42703": _CHANGED,
    "42704": _CHANGED,
    "42883": "a column's type lacks an operator or function that is needed",
    "53400": "raise the limit (such as temp_file_limit) for this role",
    "55000": "if it is a materialized view: REFRESH MATERIALIZED VIEW first",
    "58P01": "a file of the server is missing; is the extension's library installed?",
}

# Classes whose primary message names objects and limits, never values. Others are named only.
_TELLABLE = frozenset({"08", "0A", "25", "28", "3D", "3F", "40", "42", "53", "54", "55", "57"})


def _is_of_the_connection(error: psycopg.Error) -> bool:
    """Whether an error without a SQLSTATE, so not the server's, tells that the connection is gone.

    libpq's own errors come as results too, of which psycopg makes a plain DatabaseError.
    """
    kinds = (psycopg.OperationalError, psycopg.InterfaceError)
    return isinstance(error, kinds) or type(error) is psycopg.DatabaseError


def _message(error: psycopg.Error) -> str:
    """What may be said of an error: the server's own words where they hold no row's values."""
    state = error.sqlstate
    if state is None:
        words = str(error).strip().splitlines() if _is_of_the_connection(error) else []
        return words[0] if words else type(error).__name__
    primary = error.diag.message_primary
    words_or_name = primary if primary and state[:2] in _TELLABLE else type(error).__name__
    return f"{words_or_name} (SQLSTATE {state})"


def _privilege_error(
    error: psycopg.Error, message: str, table: str | None, role: str | None
) -> UsageError:
    # Both cases have one SQLSTATE, and the text is in the server's language.
    who = quote_identifier(role) if role else "<role>"
    if error.diag.source_file == "rls.c" or "row-level security" in message:
        return UsageError(
            message,
            code="ROW_SECURITY",
            hint=f"rows would be hidden; ALTER ROLE {who} BYPASSRLS, or connect as the owner",
        )
    what = table or "<schema>.<table>"
    schema = _schema_of(table) if table else "<schema>"
    return UsageError(
        message,
        code="PRIVILEGE",
        hint=f"GRANT USAGE ON SCHEMA {schema} TO {who}; GRANT SELECT ON {what} TO {who};",
    )


def _schema_of(label: str) -> str:
    match = re.match(r'"(?:[^"]|"")*"|[^.]+', label)
    return match.group() if match else label


def _role(connection: Connection | None) -> str | None:
    if connection is None or connection.closed:
        return None
    return connection.info.user


# --- opening ---------------------------------------------------------------------------------


def _without_search_path(url: str) -> tuple[str, str | None]:
    base, mark, query = url.partition("?")
    if "://" not in base or not mark:
        return url, None
    pairs = query.split("&")
    kept = [pair for pair in pairs if not pair.startswith("search_path=")]
    found = [pair.partition("=")[2] for pair in pairs if pair.startswith("search_path=")]
    url = base + ("?" + "&".join(kept) if kept else "")
    return url, unquote(found[-1]) if found else None


def _effective(options: Mapping[str, str]) -> dict[str, str]:
    """The options after environment, service file and defaults, without the password.

    Only libpq knows how these combine, and it tells only for a connection object. An invalid
    `target_session_attrs` makes it stop after it has combined them, before any network traffic.
    """
    probe = make_conninfo(**{**options, "target_session_attrs": "none"})
    connection = pq.PGconn.connect_start(probe.encode())
    try:
        found = {o.keyword.decode(): o.val.decode() for o in connection.info if o.val is not None}
    finally:
        connection.finish()
    return {name: value for name, value in found.items() if "password" not in name}


def _hosts(effective: Mapping[str, str]) -> list[str]:
    return [host for host in (effective.get("hostaddr") or effective.get("host", "")).split(",")]


def _is_local(effective: Mapping[str, str]) -> bool:
    return all(is_local_host(host) for host in _hosts(effective))


def is_local_host(host: str) -> bool:
    """Whether a host or address is this machine: a loopback address or a Unix socket."""
    if not host or host[0] in "/@" or host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _encrypted_mode(options: Mapping[str, str], effective: Mapping[str, str]) -> str:
    if options.get("sslmode") == "disable":
        raise UsageError(
            f"sslmode=disable would send everything to {_place(effective)} unencrypted",
            hint=_PLAINTEXT_HINT,
        )
    mode = effective.get("sslmode", "prefer")
    return "require" if mode in _MAY_BE_PLAIN else mode


def _refuse_plaintext(connection: Connection) -> None:
    address = connection.info.hostaddr
    if connection.pgconn.ssl_in_use or is_local_host(address) or uses_gss(connection):
        return
    raise UsageError(
        f"the connection to Postgres at {address} is not encrypted", hint=_PLAINTEXT_HINT
    )


def uses_gss(connection: Connection) -> bool:
    """Whether GSSAPI encrypts the connection, which libpq does not tell through psycopg."""
    row = connection.execute(
        "SELECT encrypted FROM pg_catalog.pg_stat_gssapi WHERE pid = pg_catalog.pg_backend_pid()"
    ).fetchone()
    return bool(row and row[0])


def _configure(connection: Connection, *, read_only: bool) -> None:
    settings = {**_SETTINGS, "default_transaction_read_only": "on" if read_only else "off"}
    if connection.info.server_version >= 170000:
        settings |= _SETTINGS_SINCE_17
    calls = [
        sql.SQL("pg_catalog.set_config({}, {}, false)").format(
            sql.Literal(name), sql.Literal(value)
        )
        for name, value in settings.items()
    ]
    connection.execute(sql.SQL("SELECT {}").format(sql.SQL(", ").join(calls)))


# --- errors of opening ------------------------------------------------------------------------

# libpq reports a refused connection as text only, without a SQLSTATE. What matches none of these
# is taken for an outage: a daemon that stops for good at an unknown text is the worse mistake.
_WRONG_SECRET = "password authentication failed"  # noqa: S105 - libpq's words
_REFUSALS: tuple[tuple[str, str, str], ...] = (
    (
        _WRONG_SECRET,
        "wrong password, or no such user",
        "correct the password in PGPASSWORD, ~/.pgpass or url_file, or the user's name in the url",
    ),
    (
        "no password supplied",
        "the server asks for a password and none was given",
        "give the password by PGPASSWORD, ~/.pgpass or url_file",
    ),
    (
        "authentication failed",
        "authentication failed",
        "check the authentication method in pg_hba.conf",
    ),
    (
        "no pg_hba.conf entry",
        "no entry of pg_hba.conf admits this user, database, address and encryption",
        "add a line to pg_hba.conf and reload, or set sslmode=verify-full",
    ),
    (
        "pg_hba.conf rejects",
        "an entry of pg_hba.conf rejects this user, database, address or encryption",
        "change pg_hba.conf and reload, or set sslmode=verify-full",
    ),
    (
        "server does not support SSL",
        "the server does not offer encryption",
        "switch ssl on at the server, or pass --allow-plaintext if the network is trusted",
    ),
    (
        "certificate verify failed",
        "the server's certificate is not trusted",
        "give sslrootcert the CA that signed it",
    ),
    (
        "does not match host name",
        "the server's certificate is for another host",
        "connect by the name in the certificate",
    ),
    ("root certificate file", "sslrootcert cannot be read", "check sslrootcert in the url"),
    ("permission denied for database", "the role may not connect", "GRANT CONNECT ON DATABASE"),
    ("is not permitted to log in", "the role may not log in", "ALTER ROLE ... LOGIN"),
    (
        "is not currently accepting connections",
        "the database takes no connections",
        "see datallowconn",
    ),
    ("definition of service", "the service is not in the service file", "check PGSERVICEFILE"),
    (
        "unrecognized configuration parameter",
        "the url's options name an unknown setting",
        _URL_HINT,
    ),
    ("invalid value for parameter", "the url's options hold an invalid value", _URL_HINT),
    ("connection is bad: invalid", "an option of the url has an invalid value", _URL_HINT),
)
_HINT_FOR_THE_URL = (
    "correct the password in the url, or the user's name; PGPASSWORD and ~/.pgpass count only where "
    "the url has none"
)
_UNKNOWN_NAME = re.compile(r'(database|role) ".*" does not exist', re.DOTALL)


def _connect_error(
    error: psycopg.Error, effective: Mapping[str, str], *, in_url: bool
) -> BridgeError:
    """`in_url`: whether the url has a password, which was then the one that was sent."""
    text = str(error)
    place = _place(effective)
    if unknown := _UNKNOWN_NAME.search(text):
        return UsageError(f"{place}: no such {unknown.group(1)}", hint="check the url")
    for phrase, meaning, hint in _REFUSALS:
        if phrase in text:
            if in_url and phrase == _WRONG_SECRET:
                hint = _HINT_FOR_THE_URL
            return UsageError(f"{place}: {meaning}", hint=hint)
    return Unreachable(
        f"Postgres does not answer at {place}: {_reason(text)}",
        hint="check host, port and firewall, and that the server runs",
    )


def _reason(text: str) -> str:
    """The last line that says why, without psycopg's and libpq's preamble."""
    lines = [line.strip(" \t-") for line in text.splitlines() if not line.startswith("\t")]
    line = next((line for line in reversed(lines) if line), "no reason given")
    return re.sub(r"^.* failed: (?=.)", "", line)


def _place(effective: Mapping[str, str]) -> str:
    hosts = [host or "local socket" for host in _hosts(effective)]
    ports = (effective.get("port") or "5432").split(",")
    ports = ports if len(ports) == len(hosts) else ports[:1] * len(hosts)
    where = ",".join(f"{host}:{port}" for host, port in zip(hosts, ports, strict=True))
    return f"{effective.get('user', '')}@{where}/{effective.get('dbname', '')}"
