"""Tables as feeds: which columns are which input, and what CSV and Parquet files hold. One row is one feed (as many as the model's fixed first dimension)."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from graphcompress.data.dataset import Dataset, of_stack
from graphcompress.data.held import Held, optional
from graphcompress.data.preparation import TablePreparation
from graphcompress.data.signature import TEXT, Array, Signature, expected, type_name
from graphcompress.errors import DataError, plain, quoted
from graphcompress.findings import Finding
from graphcompress.ir.model.element_types import numpy_dtype
from graphcompress.ir.model.objects import TensorSpec

Columns: TypeAlias = Mapping[str, Array]
SEPARATORS = ",;\t|"
DECIMAL_COMMA = re.compile(r"[+-]?\d*,?\d+([eE][+-]?\d+)?")
THOUSANDS = re.compile(r"[+-]?[1-9]\d{0,2},\d{3}")
ANSWERS = {"label", "labels", "target", "class", "y", "outcome"}
"""What columns of ground truth are called, for a suggestion only."""


@dataclass(frozen=True)
class TableColumns:
    """`columns` by name, numbers or texts. `cells` are the texts as which columns of numbers were written: what an input of strings takes ("007" is no 7). `notes` are sentences on how it
    was read."""

    columns: Columns
    cells: Columns = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def texts(self, name: str) -> Array:
        """A column as it was written, where that is known."""
        return self.cells.get(name, self.columns[name])

    def taken(self, name: str, spec: TensorSpec) -> Array:
        """A column as an input takes it: for one of texts as it was written."""
        return self.texts(name) if spec.dtype == "string" else self.columns[name]


def read_csv(path: Path) -> TableColumns:
    """The columns of a CSV file by the names in its first row; where that row holds numbers only there are no names, and they are "0", "1" ... (which is also what pandas writes for
    columns without names: then that row is not data). Beside another separator a comma may be the decimal point. Columns of numbers are int64 or float64 (an empty cell is NaN), all others texts. Raises DataError where rows are of different
    lengths or it is no text."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as problem:
        raise DataError(f"{path}: this is no UTF-8 text ({problem.reason} at byte {problem.start}). Save it as UTF-8.") from problem
    first = text.partition("\n")[0]
    separator = next(
        (mark for mark in ";\t" if mark in first and all(DECIMAL_COMMA.fullmatch(cell.strip()) for cell in first.split(mark))), max(SEPARATORS, key=first.count)
    )
    try:
        rows = [row for row in csv.reader(io.StringIO(text, newline=""), delimiter=separator if separator in first else ",") if row]
    except csv.Error as problem:
        raise DataError(f"{path}: this is no table ({problem}; a quotation mark that is never closed?). Correct it.") from problem
    if not rows:
        raise DataError(f"{path}: the table is empty.")
    numbered = [str(i) for i in range(len(rows[0]))]
    counted = len(rows) > 1 and len(numbered) > 1 and rows[0] == numbered
    point = "," if separator in ";\t" and separator in first else "."
    nameless = not counted and all(_number(cell.strip().replace(point, ".")) is not None for cell in rows[0])
    names = numbered if nameless else [cell.strip() for cell in rows.pop(0)]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise DataError(f"{path}: two columns are called {quoted(twice)}. Give each its own name.")
    for number, row in enumerate(rows, 1):
        if len(row) != len(names):
            raise DataError(
                f"{path}: row {number} has {len(row)} cells, and there are {len(names)} columns (separated by {separator!r}). Correct or remove it."
            )
    cells = {name: np.array([row[index].strip() for row in rows], TEXT) for index, name in enumerate(names)}
    notes = [f"the first row, 0 to {len(names) - 1}, was taken for the names of the columns, as pandas writes them."] if counted else []
    columns = {name: _column(column.tolist()) for name, column in cells.items()}
    commas = {name for name, column in columns.items() if point == "," and column.dtype.kind == "T" and _has_decimal_commas(cells[name].tolist())}
    if commas:
        columns |= {name: _column([cell.replace(",", ".") for cell in cells[name].tolist()]) for name in commas}
        notes.append(f"the commas in {', '.join(map(quoted, sorted(commas)))} were read as decimal points.")
    return TableColumns(columns, cells, tuple(notes))


def read_parquet(path: Path) -> TableColumns:
    """The columns of a Parquet file; a column of lists of equal length has two axes. Raises DataError where it cannot be read."""
    parquet = optional("pyarrow.parquet", str(path))
    try:
        table = parquet.read_table(path)
    except (OSError, ValueError, NotImplementedError) as problem:  # pyarrow's errors are of these
        raise DataError(f"{path}: this Parquet file cannot be read ({' '.join(str(problem).split())[:200]}). Write it again.") from problem
    columns = {}
    for name in table.column_names:
        values = table.column(name)
        kind = str(values.type)
        array = np.asarray((values.cast("double") if kind.startswith("decimal") else values).to_numpy())
        if values.null_count == 0 and "list" in kind:
            with contextlib.suppress(ValueError):  # of different lengths: no array for an input, and perhaps for none
                array = np.asarray(values.to_pylist())
        columns[name] = array.astype(TEXT) if array.dtype == object and all(isinstance(text, str) for text in array.flat) else array
    return TableColumns(columns)


def table_data(source: str, table: TableColumns, signature: Signature, preparation: TablePreparation | None) -> Dataset:
    """Rows as feeds. Raises DataError, with the columns that there are and what to write, where columns and inputs cannot be matched."""
    if not table.columns or not len(next(iter(table.columns.values()))):
        raise DataError(f"{source}: the table has no rows.")
    arrays, said = assigned(source, table, signature, preparation or TablePreparation())
    entries = {name: Held(array) for name, array in arrays.items()}
    data = of_stack(source, lambda: contextlib.nullcontext(entries), signature)
    return replace(data, notes=(*data.notes, *(Finding("data/columns", f"{text[:1].upper()}{text[1:]}") for text in (*table.notes, *said))))


def assigned(source: str, table: TableColumns, signature: Signature, preparation: TablePreparation) -> tuple[dict[str, Array], list[str]]:
    """Arrays by input (and, with a `_` in front, those that are no inputs), and sentences on what was put together and left out: rows with an empty cell in a column that is fed are."""
    listings, said = _matched(source, table.columns, signature, preparation)
    table, left_out = without_gaps(source, table, {name: table.taken(name, signature.specs[key]) for key, listing in listings.items() for name in listing})
    said += left_out
    arrays = {name: _joined(source, signature.specs[name], listing, table) for name, listing in listings.items()}
    fed = {name for listing in listings.values() for name in listing}
    truth = {name if name.startswith("_") else f"_{name}": column for name, column in table.columns.items() if name not in fed}
    return truth | arrays, said


def _matched(source: str, columns: Columns, signature: Signature, preparation: TablePreparation) -> tuple[dict[str, list[str]], list[str]]:
    """Columns by input, and sentences on what was guessed. A column of an input's name is that input; what is left belongs, in the file's order, to the one input that has no column, if it
    is as wide. Raises DataError."""
    left = {name: column for name, column in columns.items() if name not in preparation.drop and not name.startswith("_")}
    listings: dict[str, list[str]] = {}
    faults = [f"[table] drop names {quoted(name)}, and there is no such column." for name in preparation.drop if name not in columns]
    said: list[str] = []
    for name, listing in preparation.columns.items():
        absent = [column for column in listing if column not in columns]
        if name not in signature.specs or absent:
            what = (
                f"'{name}', which is no input of the model" if name not in signature.specs else f"{', '.join(map(quoted, absent))}, and there is no such column"
            )
            faults.append(f"[table] columns names {what}.")
        else:
            listings[name] = list(listing)
    listings |= {name: [name] for name in columns if name in signature.specs and name not in listings}
    left = {name: column for name, column in left.items() if not any(name in listing for listing in listings.values())}
    for spec, name in _alike([spec for spec in signature.required if spec.name not in listings], left):
        listings[spec.name] = [name]
        said.append(f"'{spec.name}' is the column {quoted(name)}.")
        del left[name]
    missing = [spec for spec in signature.required if spec.name not in listings]
    if len(missing) == 1 and left and not faults and _width(missing[0]) in (None, len(left)):
        name, names = missing.pop().name, list(left)
        listings[name] = names
        listed = ", ".join(map(quoted, names[:3])) + (f" ... {quoted(names[-1])}" if len(names) > 3 else "")
        said.append(f"'{name}' is made of {len(names)} columns in the file's order: {listed}.")
        left = {}
    faults += _questions(columns, left, missing)
    if faults:
        raise DataError(f"{source}: " + " ".join(faults))
    return listings, said


def without_gaps(source: str, table: TableColumns, fed: Columns) -> tuple[TableColumns, list[str]]:
    """The table without the rows in which a cell of the `fed` columns is empty, and what is to be said about it. Raises DataError where no row is left."""
    gaps = {name: _gaps(column) for name, column in fed.items()}
    empty = [name for name, gap in gaps.items() if gap.any()]
    if not empty:
        return table, []
    full = ~np.logical_or.reduce([gaps[name] for name in empty])
    if not full.any():
        raise DataError(
            f"{source}: every row has an empty cell, in {', '.join(map(quoted, empty[:8]))}. Fill them as your application does, or leave these columns out."
        )
    listed = ", ".join(map(quoted, empty[:3])) + " ..." * (len(empty) > 3)
    kept = TableColumns({name: _kept(column, full) for name, column in table.columns.items()}, {name: c[full] for name, c in table.cells.items()}, table.notes)
    return kept, [f"{int((~full).sum())} of {len(full)} rows were left out, since cells are empty in {listed}."]


def _gaps(column: Array) -> Array:
    """Rows of a column that hold nothing: NaN, or None."""
    match column.dtype.kind:
        case "f":
            gaps = np.isnan(column)
        case "O":
            gaps = np.array([cell is None for cell in column.flat], bool)
        case _:
            gaps = np.zeros(column.shape, bool)
    by_row: Array = np.logical_or.reduce(gaps.reshape(len(column), -1), axis=1)
    return by_row


def _kept(column: Array, rows: Array) -> Array:
    """Some rows of a column; of what is left when None is gone, the type."""
    kept = column[rows]
    if kept.dtype.kind != "O" or any(isinstance(cell, list | np.ndarray) for cell in kept.flat):
        return kept
    return kept.astype(TEXT) if all(isinstance(cell, str) for cell in kept.flat) else np.array(kept.tolist())


def _questions(columns: Columns, left: Columns, missing: Sequence[TensorSpec]) -> list[str]:
    """What cannot be guessed, with the file that says it."""
    if not left and not missing:
        return []
    width = _width(missing[0]) if len(missing) == 1 else None
    if width is not None and len(left) < width:
        return [f"the table has {len(left)} columns for the model's '{missing[0].name}', {expected(missing[0])}. Expected {width} numbers in each row."]
    held = ", ".join(map(quoted, list(columns)[:12])) + (f" ... ({len(columns)} columns)" if len(columns) > 12 else "")
    needed = ", ".join(f"'{spec.name}' ({expected(spec)})" for spec in missing)
    # A column without a name that is there beside named ones is the index that pandas wrote.
    answers = [name for name in left if not name or name.lower() in ANSWERS or name.lower().startswith("unnamed:")] or list(left)[-1:]
    drop = f"drop = {json.dumps(answers if missing else list(left)[:8], ensure_ascii=False)}"
    suffices = width is not None and len(left) - len(answers) == width
    optional_line = "# if the rest is not it, in this order:\n# " if suffices else "# in this order:\n"
    example = "\n".join(
        ["[table]", "# columns that are no inputs:", drop] + [f'{optional_line}columns."{spec.name}" = {_placeholders(spec)}' for spec in missing]
    )
    superfluous = f"{', '.join(map(quoted, list(left)[:8]))} {'is no input' if len(left) == 1 else 'are no inputs'} of the model"
    what = f"which of them are the model's {needed} cannot be guessed" if missing else superfluous
    return [f"the columns are {held}, and {what}. Say it in a file columns.toml and add --preprocess columns.toml:\n{example}"]


def _alike(missing: Sequence[TensorSpec], left: Columns) -> list[tuple[TensorSpec, str]]:
    """Inputs with the one column whose name is theirs but for case, blanks and punctuation: exporters write names that way."""
    inputs, names = Counter(plain(spec.name) for spec in missing), Counter(map(plain, left))
    return [(spec, name) for spec in missing for name in left if plain(name) == plain(spec.name) != "" and inputs[plain(spec.name)] == names[plain(name)] == 1]


def _placeholders(spec: TensorSpec) -> str:
    """A list of columns as long as the input is wide, as far as that is short."""
    width = _width(spec) or 2
    names = ", ".join(['"COLUMN"'] * min(width, 3))
    return f"[{names}]" + (f"   # {width} of them" if width > 3 else "")


def _width(spec: TensorSpec) -> int | None:
    """How many numbers of a row the input takes; None where the model leaves it open."""
    rest = (spec.shape or (None, None))[1:]
    return math.prod(dim for dim in rest if isinstance(dim, int)) if all(isinstance(dim, int) for dim in rest) else None


def _joined(source: str, spec: TensorSpec, names: Sequence[str], table: TableColumns) -> Array:
    """Columns side by side as an input's array, one row per first index. Raises DataError where numbers are wanted and texts are there, or parts of numbers would be lost."""
    rank = 2 if spec.shape is None else len(spec.shape)
    arrays = [as_type(f"{source}: column {quoted(name)}", table.taken(name, spec), spec) for name in names]
    rows = len(arrays[0])
    flat = np.concatenate([array.reshape(rows, -1) for array in arrays], axis=1)
    if rank <= 1:
        return flat[:, 0] if flat.shape[1] == 1 else flat
    dims = [] if spec.shape is None else list(spec.shape[1:])
    fixed = all(isinstance(dim, int) for dim in dims) and math.prod(int(dim) for dim in dims if isinstance(dim, int)) == flat.shape[1]
    return flat.reshape(rows, *dims) if fixed and rows else flat


def as_type(where: str, values: Array, spec: TensorSpec) -> Array:
    """Numbers or texts that have no type of their own, as the input's. Raises DataError where something would be lost."""
    if spec.dtype is None:
        return values
    if spec.dtype == "string":
        if values.dtype.kind == "O" and all(isinstance(value, bytes) for value in values.flat):
            return np.array([value.decode("utf-8", "replace") for value in values.flat], TEXT).reshape(values.shape)
        if values.dtype.kind == "O" or (values.dtype.kind == "f" and np.isnan(values).any()):
            raise DataError(f"{where}: it holds missing or mixed values, and the input '{spec.name}' is {expected(spec)}. Fill or remove these rows.")
        return values if values.dtype.kind == "T" else np.array([str(value) for value in values.flat], TEXT).reshape(values.shape)
    goal = numpy_dtype(spec.dtype)
    if values.dtype.kind not in "biuf":
        ragged = values.dtype.kind == "O" and all(isinstance(value, np.ndarray | list) for value in values.flat)
        what = "lists of different lengths" if ragged else "missing or mixed values" if values.dtype.kind == "O" else type_name(values.dtype)
        what = "texts" if values.dtype.kind in "UST" else what
        raise DataError(f"{where}: it holds {what}, and the input '{spec.name}' is {expected(spec)}.")
    if goal.kind in "iu" and not _holds(values, goal):
        raise DataError(f"{where}: it holds numbers that {goal.name} cannot hold, which the input '{spec.name}' takes: {expected(spec)}.")
    return values.astype(goal) if goal.kind in "biuf" else values


def _holds(values: Array, goal: np.dtype[Any]) -> bool:
    if values.dtype.kind == "b" or not values.size:
        return True
    limits = np.iinfo(goal)
    return bool(np.isfinite(values).all() and (values == np.rint(values)).all() and values.min() >= limits.min and values.max() <= limits.max)


def _column(cells: Sequence[str]) -> Array:
    numbers = [math.nan if not cell else _number(cell) for cell in cells]
    if any(number is None for number in numbers) or not any(cells):
        return np.array(cells, TEXT)
    if all(isinstance(number, int) and abs(number) < 2**63 for number in numbers):
        return np.array(numbers, np.int64)
    return np.array(numbers, np.float64)


def _has_decimal_commas(cells: Sequence[str]) -> bool:
    """Whether all cells are numbers with at most one comma, which for one of them at least cannot part thousands: as many languages write them, beside other separators than commas."""
    filled = [cell for cell in cells if cell]
    return all(DECIMAL_COMMA.fullmatch(cell) for cell in filled) and any(not THOUSANDS.fullmatch(cell) for cell in filled if "," in cell)


def _number(cell: str) -> float | int | None:
    if "_" in cell:  # Python's own way to write 1_000
        return None
    for kind in (int, float):
        try:
            return kind(cell)
        except ValueError:
            continue
    return {"true": 1, "false": 0}.get(cell.lower())
