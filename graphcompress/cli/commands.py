"""Commands that are built when somebody asks for them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, MutableMapping
from typing import Any, TypeAlias

import typer

from graphcompress.cli.help import Command

Part: TypeAlias = Callable[..., int | None] | typer.Typer
"""A command's function, or the commands below it."""


class LazyCommands(MutableMapping[str, Any]):
    """Commands by their names; what is set is the part that one is made from."""

    def __init__(self, parts: MutableMapping[str, Part]) -> None:
        self._parts = parts
        self._built: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        if name not in self._built:
            self._built[name] = _built(name, self._parts[name])
        return self._built[name]

    def __setitem__(self, name: str, part: Part) -> None:
        self._parts[name] = part
        self._built.pop(name, None)

    def __delitem__(self, name: str) -> None:
        del self._parts[name]
        self._built.pop(name, None)

    def __iter__(self) -> Iterator[str]:
        return iter(self._parts)

    def __len__(self) -> int:
        return len(self._parts)

    def summaries(self) -> dict[str, str]:
        """What each is for, without building it."""
        return {name: str(part.info.help) if isinstance(part, typer.Typer) else inspect.getdoc(part) or "" for name, part in self._parts.items()}


def _built(name: str, part: Part) -> Any:
    if isinstance(part, typer.Typer):
        group = typer.main.get_group(part)
        group.name = name
        return group
    alone = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    alone.command(name, cls=Command)(part)
    return typer.main.get_command(alone)
