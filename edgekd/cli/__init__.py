"""The command line. Each verb is one file; nothing heavy is imported before a verb runs."""

from __future__ import annotations

import os
import sys
from importlib import import_module
from typing import Annotated, NoReturn

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


# Verbs in the order of a user's day; each is the function of that name in its own file.
VERBS = (
    "init",
    "run",
    "label",
    "distill",
    "export",
    "quantize",
    "tune",
    "eval",
    "bench",
    "gate",
    "verify",
    "report",
    "profiles",
    "calibrate",
    "doctor",
)


def _register() -> None:
    for verb in VERBS:
        module = import_module(f"edgekd.cli.{verb}")
        app.command(verb)(getattr(module, verb, None) or getattr(module, f"{verb}_"))


_register()


FAULT = 70  # an error of ours is not an answer: sysexits.h calls it EX_SOFTWARE


def _fail(message: str, code: int) -> NoReturn:
    print(f"edgekd: {message}", file=sys.stderr)
    sys.exit(code)


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
        _fail(str(error), error.exit_code)
    except ModuleNotFoundError as error:
        if debug:
            raise
        package = (error.name or "").partition(".")[0]
        _fail(f"the package '{package}' is missing; install it: pip install {package}", 4)
    except OSError as error:  # a full disk, a folder that may not be written
        if debug or error.filename is None:
            raise
        _fail(f"{error.filename}: {error.strerror}; nothing after that was written", 2)
    except Exception as error:
        if debug:
            raise
        text = " ".join(str(error).split())[:200]
        _fail(
            f"an error in edgekd itself ({type(error).__name__}: {text}); see it with --debug",
            FAULT,
        )
    except KeyboardInterrupt:
        print("edgekd: interrupted; run the same command again to go on", file=sys.stderr)
        sys.exit(130)
