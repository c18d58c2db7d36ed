"""What scores need of the data: the moments of each layer's input rows in the uncut model, in one pass over the feeds."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from graphcompress.ir import Model, Tensor
from graphcompress.passes.prune.scores import WIDE, Consumer, by_channel, output_energy, weight_by_channel
from graphcompress.reconstruction.batches import batches, items
from graphcompress.reconstruction.gram import Array, Gram
from graphcompress.reconstruction.rows import Layer, sample
from graphcompress.runtime.session import Feed
from graphcompress.runtime.watch import BUDGET, Watch
from graphcompress.step import Progress, silent

POSITIONS = 12


@dataclass(frozen=True, slots=True)
class SeenLayer:
    """A layer with the centred moments of its rows, `xx` [g, n, n]; where n is more than WIDE those of its channels, [g, n / taps, n / taps]."""

    layer: Layer
    xx: Array
    narrow: bool

    def consumers(self, units: Sequence[Array]) -> list[Consumer]:
        """One consumer for each group, of units that are sets of the layer's input channels. Their errors are parts of the whole layer's energy."""
        matrix = self.layer.weight_matrix()
        if self.narrow:
            matrix = weight_by_channel(matrix, self.layer.form.taps)
        energy = sum(output_energy(xx, weight) for xx, weight in zip(self.xx, matrix, strict=True))
        rows: list[list[Array]] = [[] for _ in matrix]
        for channels in units:
            group, at = self.layer.rows_of(channels)
            at = at[:, :1] // self.layer.form.taps if self.narrow else at
            for index, own in enumerate(rows):
                own.append(at[group == index].reshape(-1))
        return [Consumer(xx, weight, own, energy) for xx, weight, own in zip(self.xx, matrix, rows, strict=True)]


def see(
    model: Model,
    layers: Sequence[Layer],
    feeds: Iterable[Feed],
    *,
    seed: int,
    positions: int = POSITIONS,
    threads: int | None = None,
    progress: Progress = silent,
) -> list[SeenLayer]:
    """The moments of `layers` of `model` over `positions` of each input. `feeds` must be iterable again; without any the moments are zero."""
    grams = [Gram() for _ in layers]
    by_input: dict[Tensor, list[int]] = {}
    for index, layer in enumerate(layers):
        by_input.setdefault(layer.x, []).append(index)
    first = next(iter(feeds), None)
    if first is not None and by_input:
        needed = sum(np.asarray(v).nbytes for values in Watch(model, by_input).run([first], threads=threads, optimize="basic") for v in values.values())
        feed_batches = batches(model, feeds, bytes_per_input=needed // items(first), budget=BUDGET, threads=threads)
        counts = [items(feed) for feed in feed_batches]
        next_batch = dict.fromkeys(by_input, 0)
        for values in Watch(model, by_input).run(feed_batches, threads=threads, optimize="basic"):
            for tensor in list(values):
                x = np.asarray(values.pop(tensor))
                batch = next_batch[tensor]
                next_batch[tensor] += 1
                for index in by_input[tensor]:
                    form = layers[index].form
                    at = sample(form.places_from(x.shape), counts[batch], positions, np.random.default_rng([seed, index, batch]))
                    rows = form.rows(x, at)
                    grams[index].update(by_channel(rows, form.taps) if _narrow(layers[index]) else rows)
            progress("scoring", max(next_batch.values()), len(counts))
    return [_seen(layer, gram) for layer, gram in zip(layers, grams, strict=True)]


def _narrow(layer: Layer) -> bool:
    return layer.form.shape[1] > WIDE and layer.form.taps > 1


def _seen(layer: Layer, gram: Gram) -> SeenLayer:
    g, n, _ = layer.form.shape
    n = n // layer.form.taps if _narrow(layer) else n
    return SeenLayer(layer, gram.finish().xx if gram.rows else np.zeros((g, n, n)), _narrow(layer))
