"""The exception family, and the exit status of each branch.

    GraphCompressError            2   it could not be done
      UsageError                      the call itself: paths, options, names that match nothing
        RecipeError                   a recipe file
        RuleError                     a rule file
        TargetError                   a target's name or table
      ModelError                      the file is not a valid model, or this step cannot take it
      DataError                       the feeds do not fit the model
      RuntimeUnavailable              no onnxruntime, or a provider that was asked for and not got
      PlaceError                      a place elsewhere does not start, does not answer, or does not speak the protocol
      WriteError                      the result could not be written; the previous output is as it was
      BarMissed                   1   the work was done, but a bar that the user stated was not met

A message is one paragraph: what is wrong, where (file, node, tensor), and what to do.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar


class GraphCompressError(Exception):
    """Root of all errors that are the caller's business. `status` is the exit status of the command line."""

    status: ClassVar[int] = 2


class UsageError(GraphCompressError):
    """The call is wrong: a path, an option, a name that matches nothing."""


class RecipeError(UsageError):
    """A recipe file cannot be used."""


class RuleError(UsageError):
    """A rule file cannot be used; the message carries file and line."""


class TargetError(UsageError):
    """A target is unknown or its table cannot be used."""


class ModelError(GraphCompressError):
    """A file is not a valid model, or a step cannot take this one."""


class DataError(GraphCompressError):
    """The feeds are missing or do not fit the model."""


class RuntimeUnavailable(GraphCompressError):
    """onnxruntime, or an execution provider of it, is not there."""


class PlaceError(GraphCompressError):
    """A place elsewhere cannot be used: its command does not start, its worker dies, hangs, takes too long, or answers with something that is no answer."""


class WriteError(GraphCompressError):
    """The result could not be written; what was there before is untouched."""


class BarMissed(GraphCompressError):
    """The work was done, and a bar that the user stated was not met. `result` is what was made (an `api.Result`)."""

    status: ClassVar[int] = 1

    def __init__(self, message: str, result: Any = None) -> None:
        super().__init__(message)
        self.result = result


def suggestion(name: str, known: Iterable[str]) -> str:
    """The end of a message about a name that matches nothing: the closest known name, else all of them."""
    names = sorted(known)
    return near_name(name, names) or (f"Known: {', '.join(names)}." if names else "")


def near_name(name: str, known: Iterable[str]) -> str:
    """The end of a message about a name that matches nothing: the closest known one, letters of either case and all but letters and digits being alike; empty where none is close."""
    from difflib import get_close_matches

    names = {plain(other): other for other in sorted(known)}
    close = get_close_matches(plain(name), names, n=1)
    return f"Did you mean {quoted(names[close[0]])}?" if close else ""


def plain(name: str) -> str:
    """A name by its letters and digits only, in small letters: what exporters, tables and people leave alike."""
    return "".join(letter for letter in name.casefold() if letter.isalnum())


def near_path(path: str | os.PathLike[str]) -> str:
    """The end of a message about a path where nothing is: the closest name in its folder, as it would be given; empty where none is close."""
    from difflib import get_close_matches

    place = Path(path)
    try:
        with os.scandir(place.parent) as entries:
            names = [entry.name for entry in islice(entries, 10_000)]
    except (OSError, ValueError):
        return ""
    close = get_close_matches(place.name, names, n=1, cutoff=0.75)
    return f" Did you mean {shown(place.with_name(close[0]))}?" if close else ""


def shown(path: str | os.PathLike[str]) -> str:
    """A path, or an argument of the command line, as text for records and messages; bytes that are not UTF-8 are replaced."""
    return os.fsencode(path).decode("utf-8", "replace")


def cause(problem: Exception) -> str:
    """Why a file cannot be read, without what only Python would say."""
    from json import JSONDecodeError

    if isinstance(problem, UnicodeDecodeError):
        return "it holds no text"
    if isinstance(problem, JSONDecodeError):
        return f"it is no JSON ({problem.msg} at line {problem.lineno})"
    return str(getattr(problem, "strerror", None) or problem)


def quoted(name: object) -> str:
    """A name out of a file, fit for a message of one paragraph: in quotes, control characters escaped, cut at 120 characters."""
    text = repr(name)
    return text if len(text) <= 120 else f"{text[:80]}...{text[-30:]}"
