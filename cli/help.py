"""Typer's commands and groups, with help that can be read at 80 columns.

What is changed of Typer's own: `--help` stands among the general flags and not in a panel of its
own; a boolean is listed by its positive name alone, since the column of `--no-...` names and types
would cut the long names of flags off; commands come in the order of their use, not groups last;
Ctrl-C and SIGTERM, which Typer makes the same exit code without a word, are told apart and told.
"""

from __future__ import annotations

import signal
import sys
from typing import TYPE_CHECKING, Any

import typer
from typer.core import TyperCommand, TyperGroup, TyperOption

from cli.output import note

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

GENERAL = "General"

# As one needs them; those that are not named come last, in the order of their registration.
_ORDER = (
    "demo", "init", "plan", "doctor", "backfill", "sync", "run",
    "verify", "status", "resync", "dead-letters", "teardown", "config",
)  # fmt: skip

# Interrupted, these have done a part that stays done.
_RESUMABLE = ("backfill", "sync", "run", "resync")


class Terminated(KeyboardInterrupt):
    """SIGTERM, handled as Ctrl-C is: indexing is restored, what is finished is kept."""


class Command(TyperCommand):
    """One command."""

    def get_help_option(self, ctx: Any) -> Any:
        return _general(super().get_help_option(ctx))

    def format_help(self, ctx: Any, formatter: Any) -> None:
        _make_narrow(self.params)
        super().format_help(ctx, formatter)


class Group(TyperGroup):
    """Commands under one name; the outermost one ends the program when it is interrupted."""

    def get_help_option(self, ctx: Any) -> Any:
        return _general(super().get_help_option(ctx))

    def format_help(self, ctx: Any, formatter: Any) -> None:
        _make_narrow(self.params)
        super().format_help(ctx, formatter)

    def list_commands(self, ctx: Any) -> list[str]:
        names = super().list_commands(ctx)
        last = len(_ORDER)
        return sorted(names, key=lambda name: _ORDER.index(name) if name in _ORDER else last)

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as interrupt:
            note(_interrupted(sys.argv[1:]))
            number = signal.SIGTERM if isinstance(interrupt, Terminated) else signal.SIGINT
            raise typer.Exit(128 + number) from None


def _interrupted(arguments: Sequence[str]) -> str:
    """What comes of a command that was interrupted."""
    if "--migration.restart" in arguments:
        # The same command would begin with forgetting it.
        return "interrupted; what is finished is kept: without --migration.restart it is gone on from there"
    if any(name in arguments for name in _RESUMABLE):
        return "interrupted; what is finished is kept, and the same command goes on from there"
    return "interrupted"


def _general(option: Any) -> Any:
    if isinstance(option, TyperOption):
        option.rich_help_panel = GENERAL
        option.metavar = ""
    return option


def _make_narrow(params: Iterable[object]) -> None:
    """Only for the print: after it the program ends, and parsing has been done."""
    for option in params:
        if isinstance(option, TyperOption) and option.is_flag:
            option.secondary_opts = []
            option.metavar = ""
            if option.rich_help_panel is None:
                option.rich_help_panel = GENERAL
