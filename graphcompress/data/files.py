"""Feeds from files as people have them: a folder of `.npz` files, one complete feed each, in name order; one `.npz` with arrays stacked along the first axis, cut by the model's fixed
first dimension, else one by one; `.npy`; tar files of samples; pictures; tables; JSON lines; texts. A folder that holds one file of arrays, a table or texts stands for that file.

Keys are input names; other keys that begin with `_` are ground truth and are not fed. Nothing is ever unpickled. Everything is checked in one pass when the
source is opened, and arrays and pictures are read again feed by feed afterwards: memory holds one feed, however many there are.
"""

from __future__ import annotations

import contextlib
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

from graphcompress.data import npz
from graphcompress.data.dataset import FEW, Dataset, Entries, of_feeds, of_stack
from graphcompress.data.images import SUFFIXES as PICTURES
from graphcompress.data.images import image_data
from graphcompress.data.npy import ArrayFile
from graphcompress.data.preparation import Preparation, read_preparation
from graphcompress.data.records import columns_of, read_lines, record_data
from graphcompress.data.shards import shard_data
from graphcompress.data.signature import Feed, Signature
from graphcompress.data.tables import TableColumns, read_csv, read_parquet, table_data, without_gaps
from graphcompress.data.texts import text_data
from graphcompress.errors import DataError, cause, near_path, quoted
from graphcompress.findings import Finding
from graphcompress.ir.model.objects import TensorSpec

COMPANIONS = frozenset(
    {
        "tokenizer.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "added_tokens.json",
        "vocab.json",
        "config.json",
        "generation_config.json",
        "preprocessor_config.json",
        "processor_config.json",
    }
)
"""What lies beside data that Hugging Face's libraries saved, and is none itself."""
STACKED = "If its feeds are stacked along the first axis, give the file itself instead of its folder: it is then cut."
TABLES = frozenset({".csv", ".tsv", ".parquet", ".pq"})
LINES = frozenset({".jsonl", ".ndjson", ".json"})
TAKEN = "Data is a folder of .npz files, one feed each, or one .npz with stacked arrays; .npy, pictures, CSV, Parquet, JSON lines and texts are taken as well."


def open_data(
    path: str | Path,
    inputs: Sequence[TensorSpec],
    optional: Sequence[TensorSpec] = (),
    preprocess: str | Path | None = None,
    scaled: frozenset[str] = frozenset(),
) -> Dataset:
    """The feeds at `path` for a model that must be given `inputs` and may be given `optional`. `preprocess` is the file that says how pictures, columns or texts become arrays; `scaled`
    names the inputs that the model itself scales.

    Raises DataError, naming file, key, what was expected and what is there, where anything is missing, superfluous, misshaped, mistyped, NaN, pickled, empty or
    unreadable, and where something has to be known that cannot be guessed.
    """
    place = Path(path)
    preparation = Preparation() if preprocess is None else read_preparation(Path(preprocess))
    helpers = () if preprocess is None else (Path(preprocess), *((preparation.text.tokenizer,) if preparation.text else ()))
    source = _Source(str(place), Signature.of(str(place), inputs, optional, scaled), preparation, helpers)
    try:
        kind = place.stat().st_mode
        if stat.S_ISDIR(kind):
            return source.folder(place)
        if stat.S_ISREG(kind):
            return source.file(place)
    except FileNotFoundError:
        raise DataError(f"{place}: there is no such file or folder.{near_path(place) or f' {TAKEN}'}") from None
    except (OSError, ValueError) as problem:
        raise DataError(f"{quoted(str(path))} cannot be read: {cause(problem)}.") from problem
    raise DataError(f"{place} is neither a file nor a folder, but a pipe, a socket or a device.")


_Open: TypeAlias = Callable[[], Entries]


@dataclass(frozen=True)
class _Source:
    """What data is opened for, and how messages name it."""

    name: str
    signature: Signature
    preparation: Preparation
    helpers: tuple[Path, ...] = ()  # the files that the preparation was read from, which are no data

    def folder(self, place: Path) -> Dataset:
        """The files of one kind in a folder; pictures may lie in folders below it."""
        entries = sorted(p for p in place.iterdir() if not p.name.startswith("."))
        kinds = {kind: [p for p in entries if p.suffix.lower() in kind] for kind in (frozenset({".npz"}), frozenset({".npy"}), TABLES | LINES | {".txt"})}
        archives, arrays, whole = kinds.values()
        whole = [p for p in whole if p.name not in COMPANIONS and not any(file.exists() and p.samefile(file) for file in self.helpers)]
        if archives:
            return replace(self, name=str(archives[0])).file(archives[0]) if len(archives) == 1 and self._is_stack(archives[0]) else self._archives(archives)
        if arrays:
            return self._arrays(arrays)
        if shards := [p for p in entries if p.suffix.lower() == ".tar"]:
            return shard_data(self.name, shards, self.signature, self.preparation.images)
        below = (p for p in place.rglob("*") if p.suffix.lower() in PICTURES)
        pictures = sorted(p for p in below if not any(part.startswith(".") for part in p.relative_to(place).parts))
        if pictures:
            return image_data(self.name, pictures, self.signature, self.preparation.images)
        if len(whole) == 1:
            return replace(self, name=str(whole[0])).file(whole[0])
        if whole:
            listed = ", ".join(p.name for p in whole[:6]) + (f" ... ({len(whole)} files)" if len(whole) > 6 else "")
            raise DataError(
                f"{place}: the folder holds several files that could be the data: {listed}. Give the one that is, or put all rows or texts into one."
            )
        others = f"It holds {len(entries)} other entries, {entries[0].name} among them." if entries else "It is empty."
        raise DataError(
            f"{place}: the folder holds no .npz files, so there are no feeds. {others} Save each feed with np.savez(path, INPUT=array, ...). {TAKEN}"
        )

    def file(self, place: Path) -> Dataset:
        """One file, by its ending."""
        match place.suffix.lower():
            case ".npy":
                return self._stack(lambda: self._array(place))
            case ".csv" | ".tsv":
                return self._table(read_csv(place))
            case ".parquet" | ".pq":
                return self._table(read_parquet(place))
            case ".txt":
                texts = [line for line in _text(place).split("\n") if line.strip()]
                return text_data(self.name, [(text,) for text in texts], self.signature, self.preparation.text)
            case suffix if suffix in LINES:
                values = read_lines(place)
                columns = columns_of(values, self.signature)
                return record_data(self.name, values, self.signature) if columns is None else self._table(TableColumns(columns))
            case ".tar":
                return shard_data(self.name, [place], self.signature, self.preparation.images)
            case suffix if suffix in PICTURES:
                return image_data(self.name, [place], self.signature, self.preparation.images)
        return self._stack(lambda: self._archive(place))

    def _stack(self, entries: _Open) -> Dataset:
        return of_stack(self.name, entries, self.signature)

    def _table(self, table: TableColumns) -> Dataset:
        """A table of numbers, or one whose texts are tokenized."""
        text = self.preparation.text
        if text is None:
            return table_data(self.name, table, self.signature, self.preparation.table)
        columns = table.columns
        names = text.columns or tuple(name for name, column in columns.items() if column.dtype.kind in "UTO")[:2]
        absent = [name for name in names if name not in columns]
        if absent or not names or (text.columns is None and len(names) > 1):
            listed = ", ".join(map(quoted, columns))
            raise DataError(
                f'{self.name}: which of the columns {listed} hold the texts cannot be guessed. Add columns = ["COLUMN"] to [text] of the file that --preprocess names.'
            )
        table, said = without_gaps(self.name, table, {name: table.texts(name) for name in names})
        rows = list(zip(*([str(cell) for cell in table.texts(name)] for name in names), strict=True))
        data = text_data(self.name, rows, self.signature, text, "row")
        return replace(data, notes=(*data.notes, *(Finding("data/columns", sentence) for sentence in said)))

    def _archives(self, files: Sequence[Path]) -> Dataset:
        dataset = of_feeds(self.name, files, self._archive, [str(file) for file in files], self.signature, STACKED)
        return replace(dataset, notes=(*dataset.notes, *_perhaps_stacked(dataset, self.signature)))

    @contextlib.contextmanager
    def _archive(self, place: Path) -> Iterator[Mapping[str, npz.Member]]:
        with npz.open_file(place) as opened:
            yield self.signature.named(opened)

    def _is_stack(self, place: Path) -> bool:
        """Whether the one file of a folder holds many feeds: more rows than the model takes at a time, or, where it takes any number, more than one."""
        with self._archive(place) as opened:
            try:
                return self.signature.check_stack(str(place), opened)[1] > 1
            except DataError:  # what is wrong is told of it as a feed
                return False

    def _arrays(self, files: Sequence[Path]) -> Dataset:
        """`INPUT.npy` for every input, stacked; else each a feed of a model with one input."""
        required = {spec.name for spec in self.signature.required}
        if required <= {file.stem for file in files}:
            return self._stack(lambda: contextlib.nullcontext({file.stem: ArrayFile.at(file) for file in files}))
        return of_feeds(self.name, files, self._array, [str(file) for file in files], self.signature, STACKED)

    def _array(self, place: Path) -> Entries:
        """The array of a file, for the only input. Raises DataError where the model has several."""
        if len(self.signature.required) != 1:
            names = ", ".join(f"'{spec.name}'" for spec in self.signature.required)
            raise DataError(
                f"{place}: this is one array without a name, and the model's inputs are {names}. Call the files INPUT.npy, or save np.savez(path, INPUT=array, ...)."
            )
        return contextlib.nullcontext({self.signature.required[0].name: ArrayFile.at(place)})


def _text(place: Path) -> str:
    try:
        return place.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as problem:
        raise DataError(f"{place}: this is no UTF-8 text ({problem.reason} at byte {problem.start}). Save it as UTF-8.") from problem


def _perhaps_stacked(dataset: Dataset, signature: Signature) -> Iterator[Finding]:
    """A few files of many rows each, where the model takes any number of rows: they may be meant as many feeds."""
    if len(dataset) >= FEW:
        return
    rows = [_rows(feed, signature) for feed in dataset]
    if all(count > 1 for count in rows):
        several = f"{min(rows)}" if min(rows) == max(rows) else f"{min(rows)} to {max(rows)}"
        yield Finding(
            "data/perhaps-stacked",
            f"Each of the {len(rows)} files of the folder is taken as one feed of {several} rows. If the rows are feeds of their own, put them into one .npz and give that file.",
        )


def _rows(feed: Feed, signature: Signature) -> int:
    """The common length of the first axes, where the model leaves all of them free; else 1."""
    free = [spec for spec in signature.required if spec.shape != ()]
    if not free or any(spec.shape is not None and isinstance(spec.shape[0], int) for spec in free):
        return 1
    lengths = {feed[spec.name].shape[0] if feed[spec.name].ndim else 1 for spec in free}
    return lengths.pop() if len(lengths) == 1 else 1
