"""Sentences on a terminal: broken between words, never inside one. What goes to a file or a pipe is not broken, nor are lines of TOML, which are there to be copied."""

from __future__ import annotations

import re
import shutil
import textwrap
from typing import TextIO

TOML = re.compile(r'\[\w+\]$|# |[\w."]+ = ')


def wrapped(text: str, stream: TextIO | None) -> str:
    """`text` for `stream`, line by line; what follows the first line of a longer one is indented like it."""
    if stream is None or not stream.isatty():
        return text
    width = shutil.get_terminal_size().columns
    return "\n".join(_line(line, width) for line in text.split("\n"))


def _line(line: str, width: int) -> str:
    if TOML.match(line):
        return line
    indent = line[: len(line) - len(line.lstrip())]
    return "\n".join(textwrap.wrap(line, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)) or line
