"""`qdrant-bridge`: the command. Parsing, output and exit codes; what is done lies in the packages.

Exit codes (design.md section 2): 0 done, 1 a check or comparison failed, 2 wrong usage or configuration,
3 stopped because going on would lose or corrupt data, 4 gave up on an unreachable service; 130 and
143 after Ctrl-C and SIGTERM, when what is finished is kept.
"""

from __future__ import annotations

import signal
import sys
from importlib.metadata import version
from types import FrameType

import click
import typer

from bridge.errors import BridgeError
from cli import (
    backfill_command,
    config_command,
    dead_letters_command,
    demo_command,
    doctor_command,
    init_command,
    plan_command,
    status_command,
)
from cli.options import normalize
from cli.output import note, print_error

app = typer.Typer(
    name="qdrant-bridge",
    help="Copies vectors from pgvector (and Pinecone) into Qdrant, exactly, and shows that it did.",
    epilog="Begin with: qdrant-bridge demo. Then: qdrant-bridge plan --pg.url ... --pg.table ...",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
backfill_command.register(app)
plan_command.register(app)
doctor_command.register(app)
init_command.register(app)
status_command.register(app)
dead_letters_command.register(app)
config_command.register(app)
demo_command.register(app)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"qdrant-bridge {version('qdrant-bridge')}")
        raise typer.Exit


@app.callback()
def _root(
    show_version: bool = typer.Option(
        False, "--version", help="Print the version.", callback=_version, is_eager=True
    ),
) -> None:
    """Copies vectors from pgvector (and Pinecone) into Qdrant, exactly, and shows that it did."""


class Terminated(KeyboardInterrupt):
    """SIGTERM, handled as Ctrl-C is: indexing is restored, what is finished is kept."""


def _terminate(_number: int, _frame: FrameType | None) -> None:
    raise Terminated


def run(arguments: list[str]) -> int:
    """Run one command; its exit code."""
    debug = any(flag in arguments for flag in ("--debug", "--trace", "--debug=true"))
    try:
        result = app(args=normalize(arguments), prog_name="qdrant-bridge", standalone_mode=False)
        return result if isinstance(result, int) else 0
    except BridgeError as error:
        print_error(error, debug=debug)
        return error.exit_code
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return 2
    except click.ClickException as error:
        error.show()
        return 2
    except click.exceptions.Exit as leaving:
        return leaving.exit_code
    except (click.Abort, KeyboardInterrupt) as interrupt:
        note("interrupted; what is finished is kept, and the same command goes on from there")
        return 128 + (signal.SIGTERM if isinstance(interrupt, Terminated) else signal.SIGINT)
    except BrokenPipeError:
        return 0  # the reader of our output has seen enough
    except Exception as error:
        if debug:
            raise
        note(
            f"error: something unforeseen happened: {type(error).__name__}\n"
            "  remedy: run it again with --debug, and report what it prints",
            style="bold red",
        )
        return 3


def main() -> None:
    """The console script."""
    signal.signal(signal.SIGTERM, _terminate)
    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
