"""Going through the weighted layers of a copy of a model in their order, with the moments that each is to be fitted with, all earlier layers being final."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from graphcompress.errors import UsageError
from graphcompress.ir import Constant, Model, Node, output_ids, toposort
from graphcompress.reconstruction.agenda import RepairLayer, agenda, by_weight
from graphcompress.reconstruction.frontier import Frontier, values_of
from graphcompress.reconstruction.gram import Array, Moments
from graphcompress.reconstruction.layer_moments import LayerMoments
from graphcompress.reconstruction.repair import MOST_UNKNOWNS
from graphcompress.reconstruction.rows import READERS, Layer, layer_of
from graphcompress.reconstruction.solve import damping
from graphcompress.reconstruction.store import IN_MEMORY, Store
from graphcompress.reconstruction.targets import TeacherRows
from graphcompress.step import Refusal

if TYPE_CHECKING:
    from graphcompress.ir.model.twins import Twins
    from graphcompress.step import Context

POSITIONS = 72
"""Of each input. Choices among many codes come to fit the noise in the moments where rows are few: on a network of 1-D features 24 left an error of .0015, 96 of .0009."""


def layers_by_weight(model: Model, ignore: Iterable[str]) -> tuple[dict[Constant, list[Layer]], list[Refusal]]:
    """The layers of the main graph by their weight, and why others are none; those with a name that a pattern of `ignore` matches are left out. Raises UsageError for a pattern that matches none."""
    layers: dict[Constant, list[Layer]] = {}
    refusals: list[Refusal] = []
    outputs = output_ids(model)
    nodes = [node for node in toposort(model.graph) if node.is_op(*READERS)]
    ignored = [re.compile(pattern) for pattern in ignore]
    for pattern in ignored:
        if not any(pattern.search(name_of(node)) for node in nodes):
            raise UsageError(f"--ignore '{pattern.pattern}' matches no convolution or matrix product. `graphcompress inspect` lists the nodes.")
    for node in nodes:
        layer = layer_of(node, outputs)
        if any(pattern.search(name_of(node)) for pattern in ignored):
            continue
        if layer is None or layer.weight.values.dtype.kind != "f":
            refusals.append(Refusal("prune/no-layer", "it has no constant weight of floating-point numbers", name_of(node)))
        else:
            layers.setdefault(layer.weight, []).append(layer)
    for weight, readers in list(layers.items()):
        matrix = readers[0].weight_matrix()
        alike = all(reader.form.taps == readers[0].form.taps and np.array_equal(reader.weight_matrix(), matrix) for reader in readers[1:])
        if len(readers) < len(weight.outputs) or weight in model.graph.outputs or not alike:
            del layers[weight]
            refusals.append(Refusal("prune/shared-weight", f"its weight '{weight.name}' is also read in another way", name_of(readers[0].node)))
    return layers, refusals


def sweep(
    base: Model, student: Model, twins: Twins, layers: Mapping[Constant, Sequence[Layer]], context: Context, what: str, refusals: list[Refusal]
) -> Iterator[list[LayerMoments]]:
    """Weight by weight: the moments of the layers that share it, pictures being seen in a mirror too, on the inputs that it has in `student`, a clone of `base` whose layers before it are final by
    then. The target is what `base` calculates there, or the rest of a sum. `refusals` gets what cannot be fitted. Only layers that changed, or stand behind one, come."""
    assert context.data is not None
    originals = {twins.node(node): node for node in base.graph.nodes}
    entries = []
    for readers in layers.values():
        if readers[0].form.shape[1] > MOST_UNKNOWNS:
            wide = f"it has more than {MOST_UNKNOWNS} inputs, so that each weight was changed by itself and nothing was refitted"
            refusals.append(Refusal("prune/too-wide", wide, name_of(readers[0].node)))
        else:
            entries += [RepairLayer(originals[layer.node], layer.node) for layer in readers]
    jobs, more = agenda(base, student, entries)
    refusals += more
    if not jobs:
        return
    groups = by_weight(jobs)
    seed, threads = context.seed, context.threads
    with Store(IN_MEMORY // 2) as store, TeacherRows(base, context.data, seed=seed, positions=POSITIONS, mirrors=True, threads=threads) as rows:
        targets = rows.targets(jobs)
        frontier = Frontier(student, [group[0].reads for group in groups], targets.feeds, store, threads=context.threads)
        for index, (group, values) in enumerate(zip(groups, frontier, strict=True)):
            fits = [LayerMoments(job, targets, by_channel=False, store=None) for job in group]
            fits[0].take(values)
            for fit in fits[1:]:
                fit.take(values_of(student, fit.job.reads, targets.feeds, threads=context.threads))
            if all(fit.rows for fit in fits):
                yield fits
            else:
                refusals.append(Refusal("prune/not-finite", "no row of its input and target is finite", name_of(group[0].layer.node)))
            context.progress(what, index + 1, len(groups))


def curvatures(moments: Sequence[Moments], groups: int, ridge: float) -> list[Array]:
    """What `solve.refit` inverts, for each group of a layer: moments [n, n] with the ridge on their diagonal."""
    sums: list[Array] = [moments[0].xx[g] + sum(m.xx[g] for m in moments[1:]) for g in range(groups)]
    return [xx + damping(xx, ridge) * np.eye(len(xx)) for xx in sums]


def name_of(node: Node) -> str:
    """As records name it."""
    return str(node.name or node.outputs[0].name)
