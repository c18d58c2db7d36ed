"""Datasets: feeds that were checked once and can be read again and again, one in memory at a time."""

from __future__ import annotations

import array as packed
import contextlib
import hashlib
import itertools
import pickle
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Any, Generic, Protocol, TypeVar

import numpy as np

from graphcompress.data.signature import MOST_FAULTS, Array, Entry, Feed, Signature, check_numbers
from graphcompress.errors import DataError
from graphcompress.findings import Finding

WATCHED = 8
FEWEST_WATCHED = 64
DIGEST = 16  # bytes of a feed's hash by which equal ones are found
FEW = 8  # below this many different feeds none are held out

Read = Callable[[Sequence[int]], Iterator[Feed]]
Labels = Mapping[str, Array]
Entries = AbstractContextManager[Mapping[str, Entry]]
T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


@dataclass(frozen=True)
class Dataset:
    """Feeds that can be iterated any number of times. `sha256` is that of the source's fed content, whichever part of it this is; `random` feeds are no data.

    `signature` is what the feeds were checked against (None: they were not), `repeats` maps the index of a feed to that of an equal one before it, `notes` are
    findings about the source as a whole, `truth` reads the arrays whose keys begin with `_` (None: there are none).
    """

    source: str
    sha256: str
    indices: Sequence[int]
    read: Read
    random: bool = False
    signature: Signature | None = None
    repeats: Mapping[int, int] = field(default_factory=dict)
    notes: tuple[Finding, ...] = ()
    truth: Callable[[Sequence[int]], Iterator[Labels]] | None = None

    def __len__(self) -> int:
        return len(self.indices)

    def __iter__(self) -> Iterator[Feed]:
        return self.read(self.indices)

    def part(self, keep: Callable[[int], bool]) -> Dataset:
        """The feeds whose position (0, 1, ...) `keep` accepts, in order."""
        return replace(self, indices=packed.array("q", (index for position, index in enumerate(self.indices) if keep(position))))

    def take(self, count: int) -> Dataset:
        """The first `count` feeds."""
        return replace(self, indices=self.indices[:count])

    def parts(self, size: int) -> Iterator[Iterable[Feed]]:
        """Runs of `size` feeds, in order, that can be pickled and gone through again. Where feeds can be read one by one it is whoever has the run that reads them; elsewhere they are in it."""
        if isinstance(self.read, FeedReader) and self.read.travels():
            for start in range(0, len(self), size):
                chosen = self.indices[start : start + size]
                yield Run(self.read.among(chosen), chosen)
            return
        feeds = iter(self)
        while run := list(itertools.islice(feeds, size)):
            yield run

    def labels(self) -> Iterator[Labels] | None:
        """The ground truth of each feed, in the order of the feeds; None where the source has none."""
        return None if self.truth is None else self.truth(self.indices)

    def findings(self) -> tuple[Finding, ...]:
        """What makes these feeds poor judges."""
        total = len(self)
        repeated = total - len({self.repeats.get(index, index) for index in self.indices}) if self.repeats else 0
        seen = list(self.notes)
        if self.random:
            text = "The feeds are random numbers: what is found on them says nothing about real inputs."
            seen.append(Finding("data/random", text, voids_bound=True))
        if repeated and repeated == total - 1:
            seen.append(Finding("data/identical", f"All {total} feeds are identical: they count as one input.", voids_bound=True))
        elif repeated:
            text = f"{repeated} of the {total} feeds repeat{'s' * (repeated == 1)} another one and do{'es' * (repeated == 1)} not count in the bound."
            seen.append(Finding("data/repeated", text, distinct=(total - repeated) / total))
        return tuple(seen)


def split(dataset: Dataset, every: int = 4) -> tuple[Dataset, Dataset, str]:
    """(for calibration, held out for judging, a sentence that says which): every 4th of the different feeds is held out, and what equals it is not calibrated
    with; below 8 different feeds both are all of them, which is a finding of the part that judges."""
    total = len(dataset)
    firsts = packed.array("q", (dataset.repeats.get(index, index) for index in dataset.indices)) if dataset.repeats else dataset.indices
    different = list(dict.fromkeys(firsts)) if dataset.repeats else firsts
    if len(different) < FEW:
        same = "the same input" if total == 1 else f"the same {total} inputs"
        reason = "" if len(different) == total else f", of which {len(different)} differ{'s' * (len(different) == 1)} from the others"
        text = f"Nothing was held out: calibrated and judged on {same}{reason} (fewer than {FEW} are too few to hold any out)."
        return dataset, replace(dataset, notes=(*dataset.notes, Finding("data/not-held-out", text, voids_bound=True))), text
    held = set(different[every - 1 :: every])
    judging = dataset.part(lambda position: dataset.indices[position] in held)
    note = f"Judged on {len(judging)} of {total} feeds, every {every}th, kept out of calibration."
    return dataset.part(lambda position: firsts[position] not in held), judging, note


def watched(feeds: Iterable[Feed]) -> list[bool]:
    """For each feed whether it is one of those, about one in WATCHED, on which a student is watched while it learns, and which nobody fits anything on. The content decides, so that whoever refits a student
    leaves out the same ones as whoever teaches it. None are where there are too few."""
    marks = [_digest(feed) % WATCHED == 0 for feed in feeds]
    return marks if len(marks) >= FEWEST_WATCHED else [False] * len(marks)


def _digest(feed: Feed) -> int:
    digest = hashlib.sha256()
    for name in sorted(feed):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(feed[name]).tobytes())
    return digest.digest()[0]


class ByIndex(Protocol[T_co]):
    """What an index leads to: a list, a part of one as a mapping, or what is made when it is asked for."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> T_co: ...


@dataclass(frozen=True)
class FeedReader(Generic[T]):
    """Reads feeds one by one: `entries` gives those of an item, `names` are those of the feeds in messages. Both go by the index."""

    entries: Callable[[T], Entries]
    items: ByIndex[T]
    names: ByIndex[str]
    signature: Signature

    def __call__(self, indices: Sequence[int]) -> Iterator[Feed]:
        for index in indices:
            with self.entries(self.items[index]) as opened:
                yield self.feed(index, opened)

    def feed(self, index: int, opened: Mapping[str, Entry]) -> Feed:
        """The feed of what was opened. Raises DataError where it does not fit."""
        return self.signature.feed(self.names[index], {name: opened[name].whole() for name in self.signature.specs if name in opened})

    def among(self, indices: Iterable[int]) -> FeedReader[T]:
        """A reader of these only."""
        return replace(self, items={i: self.items[i] for i in indices}, names={i: self.names[i] for i in indices})

    def travels(self) -> bool:
        """Whether another process can be handed this."""
        try:
            pickle.dumps(self.among(()))
        except (pickle.PicklingError, TypeError, AttributeError):
            return False
        return True


@dataclass(frozen=True)
class Run:
    """Some feeds of a reader, read anew each time."""

    reader: FeedReader[Any]
    indices: Sequence[int]

    def __iter__(self) -> Iterator[Feed]:
        return self.reader(self.indices)


def of_feeds(source: str, items: ByIndex[T], entries: Callable[[T], Entries], names: ByIndex[str], signature: Signature, hint: str = "") -> Dataset:
    """A dataset of one complete feed for each of `items`, whose entries `entries` opens, and which messages call by `names`. Raises DataError where one does not fit."""
    reader = FeedReader(entries, items, names, signature)

    def truth(indices: Sequence[int]) -> Iterator[Labels]:
        for index in indices:
            with entries(items[index]) as opened:
                yield {name: _plain(opened[name].whole()) for name in signature.truth(opened)}

    survey, known, problems = Survey(), False, Problems()
    said: dict[str, None] = {}
    for index in range(len(items)):
        name = names[index]
        with problems.of(name), entries(items[index]) as opened:
            signature.check_feed(name, opened, hint)
            said |= dict.fromkeys(signature.conversions(opened))
            survey.take(name, index, reader.feed(index, opened))
            known |= bool(signature.truth(opened))
    problems.tell()
    data = survey.dataset(source, range(len(items)), reader, signature)
    return replace(data, truth=truth if known else None, notes=(*data.notes, *_conversions(said)))


def of_stack(source: str, entries: Callable[[], Entries], signature: Signature) -> Dataset:
    """A dataset of arrays stacked along the first axis, read row by row. Raises DataError where they do not fit."""
    with entries() as opened:
        steps, count = signature.check_stack(source, opened)
        labels = {name: opened[name].shape[0] // count for name in signature.truth(opened) if opened[name].shape and opened[name].shape[0] % count == 0}
        said = signature.conversions(opened)

    def read(indices: Sequence[int]) -> Iterator[Feed]:
        with entries() as opened, contextlib.ExitStack() as stack:
            rows = {name: stack.enter_context(opened[name].rows(max(1, step))) for name, step in steps.items()}
            for index in indices:
                arrays = {name: rows[name](index if step else 0) for name, step in steps.items()}
                yield signature.feed(source, {name: a.reshape(()) if signature.specs[name].shape == () else a for name, a in arrays.items()})

    def truth(indices: Sequence[int]) -> Iterator[Labels]:
        with entries() as opened, contextlib.ExitStack() as stack:
            rows = {name: stack.enter_context(opened[name].rows(step)) for name, step in labels.items()}
            for index in indices:
                yield {name: _plain(rows[name](index)) for name in labels}

    survey = Survey()
    for index, feed in enumerate(read(range(count))):
        survey.take(source, index, feed, {name: index * step for name, step in steps.items()})
    data = survey.dataset(source, range(count), read, signature)
    return replace(data, truth=truth if labels else None, notes=(*data.notes, *_conversions(said)))


def _plain(array: Array) -> Array:
    """Texts of one feed in NumPy's type of fixed width, which whoever wrote a metric expects."""
    return np.array(array.tolist(), str).reshape(array.shape) if array.dtype.kind == "T" else array


def _conversions(sentences: Iterable[str]) -> tuple[Finding, ...]:
    return tuple(Finding("data/converted", sentence) for sentence in sentences)


class Problems:
    """What is wrong with feeds, told once for all of them: faults that differ in the feed's name only are one."""

    def __init__(self) -> None:
        self._faults: dict[str, list[str]] = {}

    @contextlib.contextmanager
    def of(self, where: str) -> Iterator[None]:
        """Take in a DataError about the feed `where`."""
        try:
            yield
        except DataError as error:
            self._faults.setdefault(str(error).removeprefix(f"{where}: "), []).append(where)

    def tell(self) -> None:
        """Raise DataError with the first feed's fault, and how many feeds have it or another one."""
        if not self._faults:
            return
        (fault, places), *others = self._faults.items()
        text = fault if fault.startswith(places[0]) else f"{places[0]}: {fault}"
        same = len(places) - 1
        text += f" So it is with {same} other feed{'s' * (same > 1)}." if same else ""
        text += "".join(f" {other if other.startswith(at[0]) else f'{at[0]}: {other}'}" for other, at in others[:MOST_FAULTS])
        raise DataError(text + (f" {len(others) - MOST_FAULTS} feeds more have faults of their own." if len(others) > MOST_FAULTS else ""))


class Survey:
    """One pass over finished feeds: NaN is refused, the content hashed, and it is noted which feeds are equal and which inputs never vary."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()
        self._indices = packed.array("q")
        self._digests = bytearray()  # DIGEST bytes a feed
        self._constant: dict[str, Array | None] = {}  # the value of an input that had only this one so far, else None
        self._all_constant = True
        self._elements = 0
        self._feeds = 0

    def take(self, where: str, index: int, feed: Feed, first_rows: Mapping[str, int] | None = None) -> None:
        """Take in feed `index`. Raises DataError for NaN."""
        digest = hashlib.sha256()
        self._feeds += 1
        for name, array in feed.items():
            check_numbers(where, name, array, (first_rows or {}).get(name, 0))
            digest.update(f"{name}\0{array.dtype.str}\0{array.shape}\0".encode())
            digest.update(repr(array.tolist()).encode() if array.dtype.hasobject else array.tobytes())
            self._elements = max(self._elements, array.size)
            self._vary(name, array)
        self._hash.update(digest.digest())
        self._indices.append(index)
        self._digests += digest.digest()[:DIGEST]

    def dataset(self, source: str, indices: Sequence[int], read: Read, signature: Signature) -> Dataset:
        """The dataset of everything taken in."""
        return Dataset(source, self._hash.hexdigest(), indices, read, signature=signature, repeats=self.repeats(), notes=self.notes())

    def repeats(self) -> dict[int, int]:
        """The index of each feed that is equal to one taken in before, and the index of the first of these."""
        if not self._feeds:
            return {}
        digests = np.frombuffer(self._digests, np.uint64).reshape(-1, DIGEST // 8)
        order = np.lexsort(digests.T)  # equal ones stay in their order
        new = np.ones(len(order), bool)
        new[1:] = (digests[order[1:]] != digests[order[:-1]]).any(axis=1)
        first = order[new][np.cumsum(new) - 1]
        return {self._indices[place]: self._indices[before] for place, before in zip(order[~new].tolist(), first[~new].tolist(), strict=True)}

    def notes(self) -> tuple[Finding, ...]:
        """What is known of the source as a whole."""
        if self._all_constant and self._elements > 1:
            text = "Every feed holds one constant value per input (all zero, for instance): these are no real inputs."
            return (Finding("data/constant", text, voids_bound=True),)
        return tuple(
            Finding("data/constant-input", f"Input '{name}' is {value if value else 'zero'} in all {self._feeds} feeds: what depends on it was not judged.")
            for name, value in self._constant.items()
            if value is not None and self._feeds > 1
        )

    def _vary(self, name: str, array: Array) -> None:
        """Whether the array has one value only; that of a float input with several elements is remembered across feeds."""
        values = array.reshape(-1)
        if not values.size:
            return
        constant = bool(values[0] == values[-1]) and bool(np.asarray(values == values[0]).all())
        self._all_constant = self._all_constant and constant
        if values.size > 1 and array.dtype.kind in "fV":
            known = self._constant.setdefault(name, values[0] if constant else None)
            if known is not None and not (constant and known == values[0]):
                self._constant[name] = None
