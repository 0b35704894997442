"""`qdrant-bridge`: the command. Parsing, output and exit codes; what is done lies in the packages.

Exit codes (design.md section 2): 0 done, 1 a check or comparison failed, 2 wrong usage or configuration,
3 stopped because going on would lose or corrupt data, 4 gave up on an unreachable service; 130 and
143 after Ctrl-C and SIGTERM, when what is finished is kept.
"""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType

import typer
from typer._completion_shared import Shells, install  # what its own flag calls, without detecting

from bridge.errors import BridgeError, StopError, UsageError
from cli import (
    backfill_command,
    config_command,
    dead_letters_command,
    demo_command,
    doctor_command,
    init_command,
    plan_command,
    resync_command,
    status_command,
    sync_command,
    teardown_command,
    verify_command,
)
from cli.arguments import normalize
from cli.help import Group, Terminated
from cli.options import Version
from cli.output import note, print_error

_EXAMPLES = (
    """
Begin with: qdrant-bridge demo (it needs pip install 'qdrant-bridge\\[demo]')
Then, on your own data (nothing is written before the backfill):
  qdrant-bridge init bridge.yaml --pg.url postgresql://me@db/app
  qdrant-bridge doctor --config bridge.yaml
  qdrant-bridge backfill pgvector --config bridge.yaml

"""
    "Exit codes: 0 done; 1 a check failed; 2 wrong usage or configuration; 3 stopped, because going "
    "on would lose or corrupt data; 4 a service does not answer."
)

_COMPLETION = "_QDRANT_BRIDGE_COMPLETE"
"""Typer's: the shell asks for completions by it. Its flags alone detect the shell."""

app = typer.Typer(
    name="qdrant-bridge",
    cls=Group,
    help="Copies vectors from pgvector (and Pinecone) into Qdrant, exactly, and shows that it did.",
    epilog=_EXAMPLES,
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
sync_command.register(app)
resync_command.register(app)
teardown_command.register(app)
verify_command.register(app)
demo_command.register(app)


@app.callback()
def _root(show_version: Version = False) -> None:
    """Copies vectors from pgvector (and Pinecone) into Qdrant, exactly, and shows that it did."""


def _terminate(_number: int, _frame: FrameType | None) -> None:
    raise Terminated


def run(arguments: list[str]) -> int:
    """Run one command; its exit code."""
    debug = False
    try:
        given = normalize(arguments)
        debug = "--debug" in given or "--trace" in given
        if len(given) == 2 and given[0] == "--show-completion":
            return _show_completion(given[1])
        if len(given) == 2 and given[0] == "--install-completion":
            return _install_completion(given[1])
        result = _app(given)
        return result if isinstance(result, int) else 0
    except SystemExit as leaving:  # completion leaves in this way
        return 0 if not leaving.code else UsageError.exit_code
    except BridgeError as error:
        print_error(error, debug=debug)
        return error.exit_code
    except typer.TyperException as error:
        return _refuse(error)
    except BrokenPipeError:
        return 0  # the reader of our output has seen enough
    except Exception as error:
        unforeseen = StopError(
            f"something unforeseen happened: {type(error).__name__}",
            code="UNFORESEEN",
            hint="run it again with --debug, and report what it prints",
        )
        unforeseen.__cause__ = error
        print_error(unforeseen, debug=debug)
        return unforeseen.exit_code


def _app(arguments: list[str]) -> object:
    return app(args=arguments, prog_name="qdrant-bridge", standalone_mode=False)


def _show_completion(shell: str) -> int:
    """The script for a shell that is named; Typer's own flag only knows the one it detects."""
    os.environ[_COMPLETION] = f"source_{shell}"
    try:
        _app([])
    finally:
        del os.environ[_COMPLETION]
    return 0


def _install_completion(shell: str) -> int:
    """For a shell that is named, where Typer's own flag would take the one it detects."""
    if shell not in list(Shells):
        raise UsageError(f"no completion for the shell {shell}", hint=f"one of {', '.join(Shells)}")
    _shell, path = install(shell, "qdrant-bridge", _COMPLETION)
    note(f"{shell}: completion is in {path}, for the shells that are started from now on")
    return 0


def _refuse(error: typer.TyperException) -> int:
    """A command line that cannot be parsed; exit code 2, as for all wrong usage."""
    if type(error).__name__ == "NoArgsIsHelpError":
        return UsageError.exit_code  # the help has been printed
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "qdrant-bridge"
    message = error.format_message().rstrip(".")
    refusal = UsageError(message[:1].lower() + message[1:], hint=f"{command} --help")
    print_error(refusal, debug=False)
    return refusal.exit_code


def main() -> None:
    """The console script."""
    signal.signal(signal.SIGTERM, _terminate)
    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
