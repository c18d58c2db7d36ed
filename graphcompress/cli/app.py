"""The commands put together, and what becomes of errors: one paragraph on stderr, and the exit status."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence
from typing import Annotated

import typer

from graphcompress.cli import (
    benchmark,
    calibrate,
    compress,
    data,
    diff,
    distill,
    explain,
    inspect,
    lint,
    matrix,
    places,
    prune,
    quantize,
    report,
    rules,
    simplify,
    validate,
)
from graphcompress.cli.commands import LazyCommands, Part
from graphcompress.cli.help import CommandList
from graphcompress.cli.wrap import wrapped
from graphcompress.errors import GraphCompressError, suggestion
from graphcompress.version import __version__

INTERRUPTED = 130

app = typer.Typer(
    name="graphcompress",
    cls=CommandList,
    pretty_exceptions_enable=False,
    suggest_commands=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Compress ONNX models: simplify, prune channels, quantize to INT8, compare with the original, measure against it.",
    epilog="Exit status: 0 done, and every bar that was stated held; 1 a stated bar was missed; 2 it could not be done.",
)
COMMANDS: dict[str, Part] = {
    "compress": compress.compress,
    "simplify": simplify.simplify,
    "prune": prune.prune,
    "quantize": quantize.quantize,
    "distill": distill.distill,
    "validate": validate.validate,
    "benchmark": benchmark.benchmark,
    "inspect": inspect.inspect,
    "data": data.data,
    "explain": explain.explain,
    "lint": lint.lint,
    "report": report.report,
    "diff": diff.diff,
    "rules": rules.app,
    "calibrate": calibrate.calibrate,
    "matrix": matrix.matrix,
    "places": places.app,
}


def root() -> CommandList:
    """The command line. A command's options are read from its function when somebody asks for it: reading all of them costs more than a page of help."""
    group = typer.main.get_command(app)
    assert isinstance(group, CommandList)
    group.commands = LazyCommands(COMMANDS)
    return group


def _version(asked: bool) -> None:
    if asked:
        print(f"graphcompress {__version__}")
        raise typer.Exit


@app.callback()
def start(version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and stop.")] = False) -> None:
    """Compress ONNX models: simplify, prune channels, quantize to INT8, compare with the original, measure against it."""


def run(arguments: list[str]) -> int:
    """Run one command line; the exit status."""
    debug = "--debug" in arguments
    status: object
    print_everything()
    try:
        status = root()(args=arguments, prog_name="graphcompress", standalone_mode=False)
    except GraphCompressError as error:
        tell(str(error))
        status = error.status
        if debug:
            traceback.print_exc()
    except typer.TyperException as error:
        tell(usage(error, arguments))
        status = 2
    except (KeyboardInterrupt, typer.Abort):
        status = INTERRUPTED
    except MemoryError:
        tell("There is not enough memory for this; nothing was written.")
        status = 2
    except Exception as error:  # noqa: BLE001 (the one place that turns a bug into a report)
        tell(
            f"This is a bug in graphcompress: {type(error).__name__}: {error}. Nothing was written. Please report it with the output of the same command and --debug."
        )
        status = 2
        if debug:
            traceback.print_exc()
    if status == INTERRUPTED:  # typer turns the interrupt into this status itself
        tell("Interrupted; nothing was written.")
    return flushed(status if isinstance(status, int) else 0)


def print_everything() -> None:
    """Let stdout and stderr take every text: what their encoding cannot say is written as an escape, and is no error. (Names come from files.)"""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def tell(message: str) -> None:
    """An error on stderr. Control characters (names come from files) are shown as '?'."""
    text = message.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    clean = "".join(c if c == "\n" or c.isprintable() else "?" for c in text)
    try:
        print(wrapped(f"graphcompress: {clean}", sys.stderr), file=sys.stderr)
    except (BrokenPipeError, AttributeError):  # nobody listens, or there is no stderr
        return


def usage(error: typer.TyperException, arguments: Sequence[str]) -> str:
    """What typer found wrong with the call, as one paragraph with a suggestion."""
    shown = getattr(error, "format_message", None)
    message = " ".join(str(shown() if shown is not None else error).split())
    context = getattr(error, "ctx", None)
    command = getattr(context, "command", None)
    path = getattr(context, "command_path", "graphcompress")
    option = getattr(error, "option_name", None)
    if option is not None and hasattr(error, "possibilities") and command is not None:
        known = {name[2:]: name for parameter in command.params for name in parameter.opts if name.startswith("--")}
        close = suggestion(option.lstrip("-"), known) if option.startswith("--") else ""
        message = f"There is no option '{option}'. {close.replace(chr(39), chr(39) + '--', 1) if close.startswith('Did') else ''}".rstrip()
    elif message.startswith("Missing command"):
        message = f"The command is missing. {suggestion('', getattr(command, 'commands', ()))}"
    elif message.startswith("No such command"):
        name = message.split("'")[1]
        commands = getattr(command, "commands", ())
        message = f"There is no command '{name}'. {suggestion(name, commands)}"
        if name.endswith(".onnx"):
            message = f"The command is missing before '{name}'. {suggestion('', commands)}"
    elif message.startswith("Missing option '-o'") and (place := second_model(arguments)) is not None:
        message = f"Missing option '-o': the result's place is given with it, as in -o {place}"
    return f"{message.rstrip('.')}{'' if message.endswith('?') else '.'} '{path} --help' shows how it is called."


def second_model(arguments: Sequence[str]) -> str | None:
    """A second path of a model among the arguments that belong to no option."""
    paths = [a for before, a in zip(["", *arguments], arguments, strict=False) if a.endswith(".onnx") and not before.startswith("-")]
    return paths[1] if len(paths) > 1 else None


def flushed(status: int) -> int:
    """Empty stdout while a reader that has gone can still be forgiven."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return status
