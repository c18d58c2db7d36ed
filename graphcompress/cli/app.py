"""The commands put together, and what becomes of errors: one paragraph on stderr, and the exit status."""

from __future__ import annotations

import os
import sys
import traceback
from typing import Annotated

import typer

from graphcompress.cli import benchmark, compress, diff, distill, inspect, prune, quantize, rules, simplify, validate
from graphcompress.errors import GraphCompressError, suggestion
from graphcompress.version import __version__

INTERRUPTED = 130

app = typer.Typer(
    name="graphcompress",
    add_completion=False,
    pretty_exceptions_enable=False,
    suggest_commands=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Compress ONNX models: simplify, prune channels, quantize to INT8, compare with the original, measure against it.",
    epilog="Exit status: 0 done, and every bar that was stated held; 1 a stated bar was missed; 2 it could not be done.",
)
app.command("compress")(compress.compress)
app.command("simplify")(simplify.simplify)
app.command("prune")(prune.prune)
app.command("quantize")(quantize.quantize)
app.command("distill")(distill.distill)
app.command("validate")(validate.validate)
app.command("benchmark")(benchmark.benchmark)
app.command("inspect")(inspect.inspect)
app.command("diff")(diff.diff)
app.add_typer(rules.app, name="rules")


def _version(asked: bool) -> None:
    if asked:
        print(f"graphcompress {__version__}")
        raise typer.Exit


@app.callback()
def root(version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and stop.")] = False) -> None:
    """Compress ONNX models: simplify, prune channels, quantize to INT8, compare with the original, measure against it."""


def run(arguments: list[str]) -> int:
    """Run one command line; the exit status."""
    debug = "--debug" in arguments
    status: object
    print_everything()
    try:
        status = app(args=arguments, prog_name="graphcompress", standalone_mode=False)
    except GraphCompressError as error:
        report(str(error))
        status = error.status
        if debug:
            traceback.print_exc()
    except typer.TyperException as error:
        report(usage(error))
        status = 2
    except (KeyboardInterrupt, typer.Abort):
        status = INTERRUPTED
    except MemoryError:
        report("There is not enough memory for this; nothing was written.")
        status = 2
    except Exception as error:  # noqa: BLE001 (the one place that turns a bug into a report)
        report(
            f"This is a bug in graphcompress: {type(error).__name__}: {error}. Nothing was written. Please report it with the output of the same command and --debug."
        )
        status = 2
        if debug:
            traceback.print_exc()
    if status == INTERRUPTED:  # typer turns the interrupt into this status itself
        report("Interrupted; nothing was written.")
    return flushed(status if isinstance(status, int) else 0)


def print_everything() -> None:
    """Let stdout and stderr take every text: what their encoding cannot say is written as an escape, and is no error. (Names come from files.)"""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def report(message: str) -> None:
    """An error on stderr. Control characters (names come from files) are shown as '?'."""
    text = message.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    clean = "".join(c if c == "\n" or c.isprintable() else "?" for c in text)
    try:
        print(f"graphcompress: {clean}", file=sys.stderr)
    except (BrokenPipeError, AttributeError):  # nobody listens, or there is no stderr
        return


def usage(error: typer.TyperException) -> str:
    """What typer found wrong with the call, as one paragraph with a suggestion."""
    shown = getattr(error, "format_message", None)
    message = " ".join(str(shown() if shown is not None else error).split())
    context = getattr(error, "ctx", None)
    command = getattr(context, "command", None)
    path = getattr(context, "command_path", "graphcompress")
    option = getattr(error, "option_name", None)
    if option is not None and hasattr(error, "possibilities") and command is not None:
        known = [name for parameter in command.params for name in parameter.opts if name.startswith("--")]
        message = f"There is no option '{option}'. {suggestion(option, known)}"
    elif message.startswith("No such command"):
        name = message.split("'")[1]
        message = f"There is no command '{name}'. {suggestion(name, getattr(command, 'commands', ()))}"
    return f"{message.rstrip('.')}{'' if message.endswith('?') else '.'} '{path} --help' shows how it is called."


def flushed(status: int) -> int:
    """Empty stdout while a reader that has gone can still be forgiven."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return status
