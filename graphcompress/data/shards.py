"""Tar files of samples, as WebDataset writes them: members that follow each other and whose names are equal up to the first dot are one feed.

A member `KEY.npz` is a complete feed, `KEY.INPUT.npy` an input (or, with `_` in front, ground truth), `KEY.npy` the only input, and a picture is prepared as pictures in a
folder are; what else a sample has is not fed. A file is gone through once, and of a sample only where it lies is kept, so that whoever needs it reads it from there.
"""

from __future__ import annotations

import array
import contextlib
import io
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple, TypeAlias

from graphcompress.data.dataset import Dataset, of_feeds
from graphcompress.data.held import Held
from graphcompress.data.images import SUFFIXES, image_loader
from graphcompress.data.npy import array_of
from graphcompress.data.npz import open_content
from graphcompress.data.preparation import ImagePreparation
from graphcompress.data.signature import Array, Entry, Signature
from graphcompress.errors import DataError
from graphcompress.findings import Finding

Prepare: TypeAlias = Callable[[io.BytesIO, str], Array]
"""A picture's file and what messages call it -> an array."""


class Sample(NamedTuple):
    """Members of a tar file from byte `begin` up to byte `end`."""

    shard: Path
    begin: int
    end: int

    @property
    def name(self) -> str:
        """What messages call it."""
        return f"{self.shard} at byte {self.begin}"

    def members(self) -> Iterator[tuple[str, bytes]]:
        """(what stands behind the first dot of its name, content) of each file. Raises DataError where the tar file is damaged."""
        try:
            with self.shard.open("rb") as file:
                file.seek(self.begin)
                with tarfile.open(fileobj=file, mode="r:") as tar:
                    for member in tar:
                        if member.offset >= self.end:
                            return
                        content = tar.extractfile(member) if member.isfile() else None
                        if content is not None:
                            yield _parted(member.name)[1], content.read()
        except (OSError, tarfile.TarError) as problem:
            raise DataError(f"{self.name}: this sample cannot be read ({problem}). Write the file again.") from problem


class Samples:
    """All samples of tar files, in their order: 24 bytes each. `names` are those of their feeds in messages."""

    def __init__(self, shards: Sequence[Path]) -> None:
        """Raises DataError for a file that is no tar file, is compressed, or is damaged."""
        self._shards = shards
        self._shard, self._begin, self._end = (array.array("q") for _ in range(3))
        for number, shard in enumerate(shards):
            last = None
            for key, begin, end in _found(shard):
                if key == last:
                    self._end[-1] = end
                else:
                    self._shard.append(number)
                    self._begin.append(begin)
                    self._end.append(end)
                last = key

    def __len__(self) -> int:
        return len(self._begin)

    def __getitem__(self, index: int) -> Sample:
        return Sample(self._shards[self._shard[index]], self._begin[index], self._end[index])


class Names:
    """What messages call the feeds of samples."""

    def __init__(self, samples: Samples) -> None:
        self._samples = samples

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int) -> str:
        return self._samples[index].name


def _found(shard: Path) -> Iterator[tuple[str, int, int]]:
    """(key, the byte where it begins, that behind it) of each file in a tar file."""
    try:
        with tarfile.open(shard, mode="r:") as tar:
            end = 0
            while (member := tar.next()) is not None:
                begin, end = end, tar.offset  # the header of a long name stands before that of the member
                vars(tar)["members"] = []  # it would remember all
                if member.isfile():
                    yield _parted(member.name)[0], begin, end
        with shard.open("rb") as file:
            file.seek(end)
            if any(file.read(tarfile.BLOCKSIZE)):  # zeros, or nothing at all
                raise tarfile.ReadError(f"what stands at byte {end} begins no file")
    except (OSError, tarfile.TarError) as problem:
        raise DataError(
            f"{shard}: this is no tar file that can be read in parts ({problem}). Write it uncompressed: tar --sort=name -cf shard.tar FILES."
        ) from problem


def _parted(name: str) -> tuple[str, str]:
    """The key of a member, folders included, and its ending."""
    folder, slash, file = name.rpartition("/")
    key, _, ending = file.partition(".")
    return folder + slash + key, ending


@dataclass(frozen=True)
class SampleReader:
    """Opens samples. `prepare` makes arrays of pictures, for the input `pictured`; None where the first sample has none."""

    signature: Signature
    prepare: Prepare | None = None
    pictured: str = ""

    @contextlib.contextmanager
    def entries(self, sample: Sample) -> Iterator[Mapping[str, Entry]]:
        """The arrays of a sample. Raises DataError where there are none, or one cannot be read."""
        arrays: dict[str, Entry] = {}
        others: list[str] = []
        with contextlib.ExitStack() as stack:
            for ending, content in sample.members():
                stem, _, kind = ending.rpartition(".")
                if kind.lower() == "npz":
                    arrays |= self.signature.named(stack.enter_context(open_content(content, sample.name)))
                elif kind.lower() == "npy":
                    name = stem or self._only_input(sample.name)
                    try:
                        arrays[name] = Held(array_of(content))
                    except ValueError as problem:
                        raise DataError(f"{sample.name}: the array '{name}' cannot be read ({problem}). Save it with np.save(path, array).") from problem
                elif f".{kind.lower()}" in SUFFIXES and self.prepare is not None:
                    arrays[self.pictured] = Held(self.prepare(io.BytesIO(content), sample.name))
                else:
                    others.append(ending)
            if not arrays:
                listed = ", ".join(f"'.{ending}'" for ending in others) or "no files"
                raise DataError(
                    f"{sample.name}: this sample has {listed}, and no arrays. Its files must be KEY.npz, KEY.INPUT.npy for each input, or a picture."
                )
            yield arrays

    def _only_input(self, where: str) -> str:
        if len(self.signature.required) != 1:
            names = ", ".join(f"'{spec.name}'" for spec in self.signature.required)
            raise DataError(f"{where}: KEY.npy is an array without a name, and the model's inputs are {names}. Call the files KEY.INPUT.npy.")
        return self.signature.required[0].name


def shard_data(source: str, shards: Sequence[Path], signature: Signature, preparation: ImagePreparation | None) -> Dataset:
    """The samples of tar files as feeds. Raises DataError as `Samples` and `of_feeds` do, and as for pictures where there are some and nobody said how they are prepared."""
    samples = Samples(shards)
    if not len(samples):
        raise DataError(f"{source}: there are no samples in it. Write each feed as KEY.npz.")
    endings = [f".{ending.rpartition('.')[2].lower()}" for ending, _ in samples[0].members()]
    reader = SampleReader(signature)
    if not {".npz", ".npy"} & set(endings) and SUFFIXES & set(endings):
        loader = image_loader(source, len(samples), signature, preparation)
        reader = SampleReader(signature, loader.opened, loader.spec.name)
    data = of_feeds(source, samples, reader.entries, Names(samples), signature)
    ignored = [ending for ending in endings if ending not in {".npz", ".npy"} | (SUFFIXES if reader.prepare is not None else set())]
    note = f"Of each sample only arrays{' and pictures' if reader.prepare is not None else ''} are fed, not {', '.join(map(repr, ignored))}."
    return replace(data, notes=(*data.notes, *([Finding("data/not-fed", note)] if ignored else [])))
