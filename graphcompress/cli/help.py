"""The help pages: groups of options, an example, nothing cut, at any width."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Iterator
from enum import Enum
from typing import Any

import typer
import typer.core

WIDEST, NARROW, LEFT = 110, 80, 30
"""Columns: more are not used; below `NARROW` texts stand below their options; else the options have `LEFT`."""

GROUPS = {
    "Input and output": (
        *("--output", "--teacher", "--data", "--preprocess", "--random-data", "--sheet", "--report", "--record", "--external-data", "--fix"),
        *("--provider", "--target", "--threads"),
    ),
    "Bars: status 1 where one is missed": ("--min-agreement", "--min-speedup", "--max-drop", "--best-effort", "--keep"),
    "Judging and measuring": ("--kind", "--metric", "--metric-joins", "--no-measure", "--clock", "--price-per-hour", "--memorization"),
    "What is printed": ("--format", "--quiet", "--debug", "--help"),
}
OTHERS = "What to do"
EXAMPLES = {
    "compress": "graphcompress compress model.onnx -o small.onnx --data inputs.npz",
    "simplify": "graphcompress simplify model.onnx -o simple.onnx",
    "prune": "graphcompress prune model.onnx -o half.onnx --data inputs.npz --macs 0.5",
    "quantize": "graphcompress quantize model.onnx -o int8.onnx --data inputs.npz",
    "distill": "graphcompress distill small.onnx --teacher model.onnx -o taught.onnx --data inputs.npz",
    "validate": "graphcompress validate model.onnx small.onnx --data inputs.npz --min-agreement 0.99",
    "benchmark": "graphcompress benchmark model.onnx small.onnx --data inputs.npz",
    "inspect": "graphcompress inspect model.onnx",
    "data": "graphcompress data model.onnx --data photos/ --preprocess preprocess.toml --sheet sheet.png",
    "lint": "graphcompress lint model.onnx --fix -o mended.onnx",
    "explain": "graphcompress explain small.onnx --record record.json",
    "diff": "graphcompress diff model.onnx small.onnx --record record.json",
    "list": "graphcompress rules list",
    "show": "graphcompress rules show fuse/conv_bn",
    "verify": "graphcompress rules verify fuse/conv_bn",
    "why": "graphcompress rules why fuse/conv_bn model.onnx",
    "report": "graphcompress report record.json -o report.html",
}


class Command(typer.core.TyperCommand):
    """A command whose help is written here."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        formatter.write("\n".join(lines(self, ctx)) + "\n")


class CommandList(typer.core.TyperGroup):
    """The list of commands."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        formatter.write("\n".join(lines(self, ctx)) + "\n")


def lines(command: Any, ctx: Any) -> Iterator[str]:
    """A help page, line by line."""
    width = min(WIDEST, shutil.get_terminal_size().columns)
    commands = getattr(command, "commands", {})
    parameters = [parameter for parameter in command.get_params(ctx) if not getattr(parameter, "hidden", False)]
    arguments = [parameter for parameter in parameters if parameter.param_type_name == "argument"]
    required = [f"{parameter.opts[0]} {parameter.metavar}" for parameter in parameters if parameter.required and parameter not in arguments]
    usage = " ".join([ctx.command_path, *(_name(a) for a in arguments), *required, "[options]" if not commands else "COMMAND ..."])
    yield from textwrap.wrap(f"Usage: {usage}", width, subsequent_indent="       ", break_long_words=False, break_on_hyphens=False)
    for paragraph in (command.help or "").split("\n\n"):
        yield ""
        yield from _wrapped(" ".join(paragraph.split()), width, "")
    if command.name in EXAMPLES:
        yield from ("", "Example:")
        yield from textwrap.wrap(EXAMPLES[command.name], width, initial_indent="  ", subsequent_indent="    ", break_long_words=False, break_on_hyphens=False)
    if commands:
        yield from ("", "Commands:")
        summaries = commands.summaries() if hasattr(commands, "summaries") else {name: item.help or "" for name, item in commands.items()}
        for name, told in summaries.items():
            yield from _entry(name, " ".join(told.split("\n\n")[0].split()), width)
    grouped = {option for names in GROUPS.values() for option in names}
    first = "Input and output"
    titles = {
        "Arguments": arguments,
        first: [],
        "Options" if commands else OTHERS: [p for p in parameters if p not in arguments and not grouped.intersection(p.opts)],
    }
    titles |= {
        title: sorted((p for p in parameters if set(p.opts) & set(names)), key=lambda p: names.index(next(o for o in p.opts if o in names)))
        for title, names in GROUPS.items()
    }
    for title, members in titles.items():
        if members:
            yield from ("", f"{title}:")
            for parameter in members:
                yield from _entry(_name(parameter), _help(parameter), width)
    if command.epilog:
        yield ""
        yield from _wrapped(command.epilog, width, "")


def _name(parameter: Any) -> str:
    """As it is typed: "-o, --output OUT"."""
    if parameter.param_type_name == "argument":
        return str(parameter.metavar or parameter.name.upper())
    choices = _choices(parameter)
    value = "" if getattr(parameter, "is_flag", False) else f" {parameter.metavar or ('X' if choices else parameter.name.upper())}"
    return ", ".join(sorted(parameter.opts, key=len)) + value


def _choices(parameter: Any) -> tuple[object, ...]:
    descriptor = getattr(parameter, "type_descriptor", None)
    return tuple(getattr(descriptor, "choices", None) or ()) if getattr(descriptor, "is_choice", False) else ()


def _help(parameter: Any) -> str:
    text = (parameter.help or "").strip()
    choices = _choices(parameter)
    if choices:
        text += f" One of: {', '.join(str(getattr(choice, 'value', choice)) for choice in choices)}."
    default = parameter.default
    if getattr(parameter, "show_default", False) and default not in (None, False, ()) and not parameter.required:
        text += f" Default: {default.value if isinstance(default, Enum) else default}."
    return text.strip()


def _entry(name: str, text: str, width: int) -> Iterator[str]:
    """A name and what it means: side by side, or one below the other where it is narrow."""
    if width < NARROW:
        yield f"  {name}"
        yield from _wrapped(text, width, "      ")
        return
    wrapped = list(_wrapped(text, width, " " * LEFT)) or [""]
    if len(name) + 4 > LEFT:
        yield f"  {name}"
    else:
        wrapped[0] = f"  {name}".ljust(LEFT) + wrapped[0][LEFT:]
    yield from wrapped


def _wrapped(text: str, width: int, indent: str) -> Iterator[str]:
    yield from textwrap.wrap(text, width, initial_indent=indent, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)
