"""Going through the weighted layers of a copy of a model in their order, with the moments that each is to be fitted with, all earlier layers being final."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from graphcompress.errors import UsageError
from graphcompress.ir import Constant, Model, Node, output_ids, toposort
from graphcompress.reconstruction.agenda import Job, RepairLayer, agenda, by_weight
from graphcompress.reconstruction.frontier import Frontier, values_of
from graphcompress.reconstruction.gram import Array, Gram, Moments
from graphcompress.reconstruction.repair import MOST_UNKNOWNS, POSITIONS
from graphcompress.reconstruction.rows import READERS, Layer, layer_of
from graphcompress.reconstruction.solve import damping
from graphcompress.reconstruction.store import IN_MEMORY, Store
from graphcompress.reconstruction.targets import TRAINING, VALIDATION, Targets, TeacherRows
from graphcompress.step import Refusal

if TYPE_CHECKING:
    from graphcompress.ir.model.twins import Twins
    from graphcompress.step import Context

Fits = tuple[list[Job], list[Moments], list[Moments]]


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
) -> Iterator[Fits]:
    """Weight by weight: the layers that share it, and for each its moments for the fit and those for judging it, on the inputs that it has in `student`, a clone of `base` whose layers before it are final by
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
    with Store(IN_MEMORY // 2) as store, TeacherRows(base, context.data, seed=context.seed, positions=POSITIONS, threads=context.threads) as rows:
        targets = rows.targets(jobs)
        frontier = Frontier(student, [group[0].reads for group in groups], targets.feeds, store, threads=context.threads)
        for index, (group, values) in enumerate(zip(groups, frontier, strict=True)):
            moments = [_moments(group[0], targets, values)]
            moments += [_moments(job, targets, values_of(student, job.reads, targets.feeds, threads=context.threads)) for job in group[1:]]
            training, validation = ([m[use] for m in moments] for use in (TRAINING, VALIDATION))
            if all(m.rows for m in training):
                yield group, training, validation if all(m.rows for m in validation) else training
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


def _moments(job: Job, targets: Targets, values: Iterable[Sequence[Array]]) -> dict[int, Moments]:
    """The moments of a job's inputs and targets, by use; about 0 where the layer can have no bias."""
    grams = {use: Gram() for use in (TRAINING, VALIDATION)}
    layer = job.layer
    for batch, (x, *branch) in enumerate(values):
        at, uses, target = targets.of(job, batch)
        if branch:
            target = target - layer.form.outputs(branch[0], at)
        rows, target = layer.form.rows(x, at), layer.grouped(target)
        for use, gram in grams.items():
            gram.update(rows[:, uses == use], target[:, uses == use])
    moments = {use: gram.finish() for use, gram in grams.items()}
    return moments if layer.bias_site is not None else {use: m.about_zero() for use, m in moments.items()}
