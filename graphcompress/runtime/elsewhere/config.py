"""How a place is reached: by a name of places.toml, or by a command."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import tomllib
from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from graphcompress.errors import UsageError, cause, suggestion
from graphcompress.runtime.elsewhere.sources import Kind, start_words

FILE = "places.toml"
PYTHON = re.compile(r"(python|pypy)[\d.]*(\.exe)?")
NODE = re.compile(r"node(js)?(\.exe)?")
SHELLS = ("ssh", "adb", "plink")
"""Commands that hand the words behind them to a shell, which takes them apart once more."""


def _words(command: object) -> object:
    return shlex.split(command) if isinstance(command, str) else command


class PlaceSpec(BaseModel):
    """One place.

    command    words, or a string that is cut into words, that start Python (or Node) there; where none of them names one, `python3` is added
    provider   execution provider there (None: what the caller asks for, else the CPU provider)
    worker     "python" and "node": our worker is sent; "own": the command starts a worker by itself (None: by the command)
    limit      what one request may take, in seconds
    silence    how long a worker at work may give no sign of life, in seconds
    timing     whether times mean something there; false for emulators
    folder     where the command is started, on this machine
    env        what is added to its environment, on this machine
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = ""
    command: Annotated[tuple[str, ...], BeforeValidator(_words), Field(min_length=1)]
    provider: str | None = None
    worker: Annotated[Kind, Field(default_factory=lambda data: kind_of(data.get("command", ())))]
    limit: float = Field(default=300.0, gt=0)
    silence: float = Field(default=20.0, gt=0)
    timing: bool = True
    folder: str | None = None
    env: Mapping[str, str] = Field(default_factory=dict)
    summary: str = ""

    def words(self) -> list[str]:
        """The whole command, with what makes the interpreter wait for our program."""
        words = list(self.command)
        tail = start_words(self.worker)
        if self.worker == "python" and not any(PYTHON.fullmatch(PurePath(word).name) for word in words):
            tail = ["python3", *tail]
        if PurePath(words[0]).name in SHELLS:
            tail = [shlex.quote(word) for word in tail]
        return [*words, *tail]


def kind_of(command: tuple[str, ...]) -> Kind:
    """Which worker a command takes."""
    return "node" if any(NODE.fullmatch(PurePath(word).name) for word in command) else "python"


def find_place(name: str) -> PlaceSpec:
    """The place of that name in places.toml, else the command `name`.

    Raises UsageError where it is neither, or where a places.toml cannot be used.
    """
    known = known_places()
    if name in known:
        return known[name]
    try:
        words = shlex.split(name)
    except ValueError as problem:
        raise UsageError(f"The place {name!r} is no command: {problem}.") from problem
    if words and shutil.which(words[0]) is not None:
        return PlaceSpec.model_validate({"name": name, "command": words})
    where = " or ".join(str(path) for path in places_files())
    raise UsageError(
        f"'{name}' is neither a place that {where} names nor a command that can be started. {suggestion(name, known)}".rstrip()
        + " A place is a command that starts Python or Node there, such as 'ssh HOST' or the path of a Python."
    )


def places_files() -> tuple[Path, ...]:
    """Where places are named: in the working folder, then in the user's. The first that names a place decides."""
    return Path(FILE), Path.home() / ".config" / "graphcompress" / FILE


def known_places() -> dict[str, PlaceSpec]:
    """All places that are named, the working folder's first. Raises UsageError with file and place of what is wrong."""
    places: dict[str, PlaceSpec] = {}
    for path in places_files():
        if path.is_file():
            places |= {name: spec for name, spec in read_places(path).items() if name not in places}
    return places


def read_places(path: Path) -> dict[str, PlaceSpec]:
    """The places of one file, by name. A relative `folder`, and a command with a relative path, are taken from where the file lies."""
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as problem:
        raise UsageError(f"{path} cannot be read: {cause(problem)}.") from problem
    places = {}
    for name, table in tables.items():
        if not isinstance(table, dict) or "name" in table:
            raise UsageError(f"{path}: '{name}' is no place: a place is a table that is called what the place is called, with at least a `command`.")
        try:
            spec = PlaceSpec(name=name, **table)
        except ValidationError as problem:
            faults = "; ".join(f"{'.'.join(str(part) for part in e['loc'])}: {e['msg']}" for e in problem.errors())
            raise UsageError(f"{path}: the place '{name}': {faults}.") from problem
        places[name] = spec.model_copy(update=_from_folder(spec, path.resolve().parent))
    return places


def _from_folder(spec: PlaceSpec, folder: Path) -> dict[str, object]:
    command = spec.command
    if os.sep in command[0] and not Path(command[0]).is_absolute():
        command = (str(folder / command[0]), *command[1:])
    return {"command": command, "folder": None if spec.folder is None else str(folder / spec.folder)}
