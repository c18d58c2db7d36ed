"""Feeds from files: a folder of `.npz` files, one complete feed each, in name order; or one `.npz` with arrays stacked along the first axis, cut by the model's
fixed first dimension, else one by one.

Keys are input names; other keys that begin with `_` are ground truth and are not fed. Nothing is ever unpickled. Everything is checked in one pass when the
source is opened, and read again feed by feed afterwards: memory holds one feed, however many there are.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from graphcompress.data import npz
from graphcompress.data.dataset import FEW, Dataset, of_feeds, of_stack
from graphcompress.data.signature import Feed, Signature
from graphcompress.errors import DataError, quoted
from graphcompress.findings import Finding
from graphcompress.ir.model.objects import TensorSpec

STACKED = "If its feeds are stacked along the first axis, give the file itself instead of its folder: it is then cut."


def open_data(path: str | Path, inputs: Sequence[TensorSpec], optional: Sequence[TensorSpec] = ()) -> Dataset:
    """The feeds at `path` for a model that must be given `inputs` and may be given `optional`.

    Raises DataError, naming file, key, what was expected and what is there, where anything is missing, superfluous, misshaped, mistyped, NaN, pickled, empty or
    unreadable.
    """
    place = Path(path)
    signature = Signature.of(str(place), inputs, optional)
    try:
        kind = place.stat().st_mode
        if stat.S_ISDIR(kind):
            return _folder(place, signature)
    except FileNotFoundError:
        raise DataError(f"{place}: there is no such file or folder. Data is a folder of .npz files, one feed each, or one .npz with stacked arrays.") from None
    except (OSError, ValueError) as problem:
        raise DataError(f"{quoted(str(path))} cannot be read: {getattr(problem, 'strerror', None) or problem}.") from problem
    if not stat.S_ISREG(kind):
        raise DataError(f"{place} is neither a file nor a folder, but a pipe, a socket or a device.")
    return of_stack(str(place), lambda: npz.open_file(place), signature)


def _folder(place: Path, signature: Signature) -> Dataset:
    entries = sorted(p for p in place.iterdir() if not p.name.startswith("."))
    files = [p for p in entries if p.suffix.lower() == ".npz"]
    if not files:
        others = f"It holds {len(entries)} other entries, {entries[0].name} among them." if entries else "It is empty."
        raise DataError(f"{place}: the folder holds no .npz files, so there are no feeds. {others} Save each feed with np.savez(path, INPUT=array, ...).")
    dataset = of_feeds(str(place), len(files), lambda i: npz.open_file(files[i]), lambda i: str(files[i]), signature, STACKED)
    return replace(dataset, notes=(*dataset.notes, *_perhaps_stacked(dataset, signature)))


def _perhaps_stacked(dataset: Dataset, signature: Signature) -> Iterator[Finding]:
    """A few files of many rows each, where the model takes any number of rows: they may be meant as many feeds."""
    if len(dataset) >= FEW:
        return
    rows = [_rows(feed, signature) for feed in dataset]
    if all(count > 1 for count in rows):
        files = "The file of the folder is" if len(rows) == 1 else f"Each of the {len(rows)} files of the folder is"
        several = f"{min(rows)}" if min(rows) == max(rows) else f"{min(rows)} to {max(rows)}"
        yield Finding(
            "data/perhaps-stacked",
            f"{files} taken as one feed of {several} rows. If the rows are feeds of their own, put them into one .npz and give that file.",
        )


def _rows(feed: Feed, signature: Signature) -> int:
    """The common length of the first axes, where the model leaves all of them free; else 1."""
    free = [spec for spec in signature.required if spec.shape != ()]
    if not free or any(spec.shape is not None and isinstance(spec.shape[0], int) for spec in free):
        return 1
    lengths = {feed[spec.name].shape[0] if feed[spec.name].ndim else 1 for spec in free}
    return lengths.pop() if len(lengths) == 1 else 1
