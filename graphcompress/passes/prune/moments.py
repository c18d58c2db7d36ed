"""What scores need of the data: the moments of each layer's input rows in the uncut model, in one pass over the feeds."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from graphcompress.ir import Model, Tensor
from graphcompress.passes.prune.scores import WIDE, Consumer, by_channel, damped_inverse, output_energy, weight_by_channel
from graphcompress.reconstruction.batches import batches, items
from graphcompress.reconstruction.gram import Array, Gram
from graphcompress.reconstruction.rows import Layer, sample
from graphcompress.runtime.session import Feed
from graphcompress.runtime.watch import BUDGET, Watch
from graphcompress.step import Progress, silent

POSITIONS = 12
# Of a matrix of moments.
MOST_ROWS = 6144


@dataclass(frozen=True, slots=True)
class SeenLayer:
    """A layer with the centred moments of its rows, `xx` [g, n / width, n / width]: those of single rows, or of channels of `width` neighbouring rows."""

    layer: Layer
    xx: Array
    width: int
    _whole: dict[str, Any] = field(default_factory=dict)

    def consumers(self, units: Sequence[Array]) -> list[Consumer]:
        """One consumer for each group, of units that are sets of the layer's input channels, with the rows of these units. Their errors are parts of the whole layer's energy."""
        if not self._whole:
            matrix = weight_by_channel(self.layer.weight_matrix(), self.width)
            self._whole["matrix"] = matrix
            self._whole["energy"] = sum(output_energy(xx, weight) for xx, weight in zip(self.xx, matrix, strict=True))
            self._whole["inverses"] = [damped_inverse(xx) for xx in self.xx]
        rows: list[list[Array]] = [[] for _ in self.xx]
        for channels in units:
            group, at = self.layer.rows_of(channels)
            for index, own in enumerate(rows):
                own.append(np.unique(at[group == index] // self.width))
        return [self._consumer(index, own) for index, own in enumerate(rows)]

    def _consumer(self, index: int, units: Sequence[Array]) -> Consumer:
        own = np.unique(np.concatenate([*units, np.zeros(0, np.intp)])).astype(np.intp)
        block = np.ix_(own, own)
        placed = [np.searchsorted(own, rows) for rows in units]
        return Consumer(self.xx[index][block], self._whole["matrix"][index][own], placed, self._whole["energy"], self._whole["inverses"][index][block])


def see(
    model: Model,
    layers: Sequence[Layer],
    feeds: Iterable[Feed],
    *,
    seed: int,
    runs: Mapping[Layer, int] | None = None,
    positions: int = POSITIONS,
    threads: int | None = None,
    progress: Progress = silent,
) -> list[SeenLayer]:
    """The moments of `layers` of `model` over `positions` of each input. `feeds` must be iterable again; without any the moments are zero.

    A layer with more than WIDE rows is seen by its channels: the taps of a convolution, or as many neighbouring rows as `runs` says of other layers. Where more than MOST_ROWS are left,
    the layer is left out: its matrix would need gigabytes, and hours.
    """
    widths = {layer: _width(layer, (runs or {}).get(layer, 1)) for layer in layers}
    layers = [layer for layer in layers if layer.form.shape[1] // widths[layer] <= MOST_ROWS]
    grams = [Gram() for _ in layers]
    asked = [(layer.x, layer.form.places_from) for layer in layers]
    for index, x, at in at_places(model, asked, feeds, seed=seed, positions=positions, threads=threads, progress=progress, words="scoring"):
        grams[index].update(by_channel(layers[index].form.rows(x, at), widths[layers[index]]))
    return [_seen(layer, gram, widths[layer]) for layer, gram in zip(layers, grams, strict=True)]


def at_places(
    model: Model,
    asked: Sequence[tuple[Tensor, Callable[[Sequence[int]], int]]],
    feeds: Iterable[Feed],
    *,
    seed: int,
    positions: int = POSITIONS,
    threads: int | None = None,
    progress: Progress = silent,
    words: str,
) -> Iterator[tuple[int, Array, Array]]:
    """For each of `asked`, (tensor, how many places its shape has), and each batch of `feeds` (iterable again): (index in `asked`, value, sampled places). `words` are for the progress."""
    by_tensor: dict[Tensor, list[int]] = {}
    for index, (tensor, _) in enumerate(asked):
        by_tensor.setdefault(tensor, []).append(index)
    first = next(iter(feeds), None)
    if first is None or not by_tensor:
        return
    sizes = {t: np.asarray(v).nbytes for values in Watch(model, by_tensor).run([first], threads=threads, optimize="basic") for t, v in values.items()}
    feed_batches = batches(model, feeds, bytes_per_input=sum(sizes.values()) // items(first), budget=BUDGET, threads=threads)
    sizes = {t: nbytes * -(-feed_batches.size // items(first)) for t, nbytes in sizes.items()}
    counts = [items(feed) for feed in feed_batches]
    next_batch = dict.fromkeys(by_tensor, 0)
    for values in Watch(model, by_tensor).run(feed_batches, sizes=sizes, threads=threads, optimize="basic"):
        for tensor in list(values):
            value = np.asarray(values.pop(tensor))
            batch = next_batch[tensor]
            next_batch[tensor] += 1
            for index in by_tensor[tensor]:
                places = asked[index][1](value.shape)
                yield index, value, sample(places, counts[batch], positions, np.random.default_rng([seed, index, batch]))
        progress(words, max(next_batch.values()), len(counts))


def _width(layer: Layer, run: int) -> int:
    """How many neighbouring rows are put together."""
    return max(layer.form.taps, run) if layer.form.shape[1] > WIDE else 1


def _seen(layer: Layer, gram: Gram, width: int) -> SeenLayer:
    g, n, _ = layer.form.shape
    n = n // width
    return SeenLayer(layer, gram.finish(last=True).xx if gram.rows else np.zeros((g, n, n)), width)
