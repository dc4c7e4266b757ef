"""The command line. Each verb is one file; nothing heavy is imported before a verb runs."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from edgekd import __version__
from edgekd.errors import EdgekdError

app = typer.Typer(
    name="edgekd",
    help="From a teacher that is too big to a student that ships, with the proof beside it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(value: bool) -> None:
    if value:
        print(f"edgekd {__version__}")
        raise typer.Exit


@app.callback()
def _global(
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of an error.", is_eager=True)
    ] = False,
    version: Annotated[
        bool,
        typer.Option("--version", help="Show the version.", callback=_version, is_eager=True),
    ] = False,
) -> None:
    pass


def _register() -> None:
    from edgekd.cli.run import run

    app.command()(run)


_register()


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; an :class:`EdgekdError` becomes one line and its exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in given
    given = [argument for argument in given if argument != "--debug"]
    # Libraries that talk before they are asked.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    try:
        app(given)
    except EdgekdError as error:
        if debug:
            raise
        print(f"edgekd: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        print("edgekd: interrupted; run the same command again to go on", file=sys.stderr)
        sys.exit(130)
