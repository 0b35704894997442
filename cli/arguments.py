"""The words of a command line as Click can parse them.

qdrant/migration writes booleans as `--flag=false`, which Click does not know, and the number of
`--recall` may be left out: both are rewritten before parsing.
"""

from __future__ import annotations

from collections.abc import Sequence

from bridge.errors import UsageError

_BOOLEANS = (
    "--migration.restart",
    "--migration.create-collection",
    "-c",
    "--skip-tls-verification",
    "--allow-plaintext",
    "--debug",
    "--trace",
    "--json",
    "--prepare-sync",
    "--keep",
    "--repair",
    "--dry-run",
    "--show-values",
)
_TRUE, _FALSE = ("true", "1", "yes"), ("false", "0", "no")


def normalize(arguments: Sequence[str]) -> list[str]:
    """`--flag=true` -> `--flag`, `--flag=false` -> `--no-flag`; all else stays.

    The number of `--recall` may be left out, which Typer does not know either.
    """
    result: list[str] = []
    for place, argument in enumerate(arguments):
        if argument == "--recall" and not "".join(arguments[place + 1 : place + 2]).isdigit():
            result.append("--recall=10")
            continue
        name, equals, value = argument.partition("=")
        if not equals or name not in _BOOLEANS:
            result.append(argument)
            continue
        name = "--migration.create-collection" if name == "-c" else name
        if value.lower() in _TRUE:
            result.append(name)
        elif value.lower() in _FALSE:
            result.append("--no-" + name.removeprefix("--"))
        else:
            raise UsageError(
                f"{name}: {value!r} is neither true nor false", hint=f"{name}, or {name}=false"
            )
    return result
