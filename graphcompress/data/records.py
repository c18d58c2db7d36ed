"""JSON lines as feeds: an object per line, of arrays by input name; a bare array for a model with one input; or flat records, which are rows of a table."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from graphcompress.data.dataset import Dataset, of_feeds
from graphcompress.data.held import Held
from graphcompress.data.signature import TEXT, Array, Signature, expected
from graphcompress.data.tables import Columns, as_type
from graphcompress.errors import DataError, quoted

Scalar = str | int | float | bool | None


def read_lines(path: Path) -> list[Any]:
    """The values of a file of JSON lines, or of a file that is one JSON list. Raises DataError naming the line that is none."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as problem:
        raise DataError(f"{path}: this is no UTF-8 text ({problem.reason} at byte {problem.start}). Save it as UTF-8.") from problem
    if path.suffix.lower() == ".json":
        document = _parsed(f"{path}", text)
        return document if isinstance(document, list) else [document]
    return [_parsed(f"{path}, line {number}", line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]  # a text may hold other separators


def columns_of(values: Sequence[Any], signature: Signature) -> Columns | None:
    """The columns of flat records with the same keys, texts and numbers only; None where they are feeds (nested, or of arrays by input name)."""
    if not values or not all(isinstance(value, dict) and value.keys() == values[0].keys() for value in values):
        return None
    if not all(isinstance(cell, Scalar) for value in values for cell in value.values()) or not values[0]:
        return None
    return {name: _column([value[name] for value in values]) for name in values[0]}


def _column(cells: Sequence[Any]) -> Array:
    """Numbers, or, where one of the cells is a text, texts; of objects where cells are missing."""
    if any(isinstance(cell, str) for cell in cells) and None not in cells:
        return np.array([str(cell) for cell in cells], TEXT)
    return np.array(cells, object if None in cells else None)


def record_data(source: str, values: Sequence[Any], signature: Signature) -> Dataset:
    """Each value as one feed. Numbers take the type of their input. Raises DataError where they do not fit."""
    if not values:
        raise DataError(f"{source}: there is no feed in it.")
    names = [f"{source}, line {number}" for number in range(1, len(values) + 1)]
    feeds = [_feed(name, value, signature) for name, value in zip(names, values, strict=True)]
    data = of_feeds(source, feeds, contextlib.nullcontext, names, signature)
    return replace(data, source=source)


def _feed(where: str, value: Any, signature: Signature) -> dict[str, Held]:
    if not isinstance(value, dict):
        if len(signature.required) != 1:
            names = ", ".join(f"'{spec.name}'" for spec in signature.required)
            raise DataError(f'{where}: this is a list without a name, and the model\'s inputs are {names}. Write objects: {{"INPUT": [...]}}.')
        value = {signature.required[0].name: value}
    return {name: Held(_array(where, name, cell, signature)) for name, cell in value.items()}


def _array(where: str, name: str, value: Any, signature: Signature) -> Array:
    spec = signature.specs.get(name)
    try:
        array = np.array(value)
    except ValueError as problem:
        raise DataError(f"{where}: {quoted(name)} is a list of lists of different lengths, which is no array. Pad them, or write one feed a line.") from problem
    if spec is None:
        return array
    if array.dtype.kind == "O":
        raise DataError(f"{where}: {quoted(name)} holds null or objects. Expected {expected(spec)}.")
    return as_type(f"{where}: {quoted(name)}", array, spec)


def _parsed(where: str, text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as problem:
        raise DataError(f"{where}: this is no JSON ({problem.msg} at character {problem.pos}). Correct or remove it.") from problem
    except RecursionError:
        raise DataError(f"{where}: its lists are nested too deeply to be read. Correct or remove it.") from None
