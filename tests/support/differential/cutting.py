"""What must hold between a case and a cut of it: the oracle agrees, shapes are those of before, the checker finds nothing; what is free changes no output."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import numpy_helper

from differential.program import Case
from differential.running import Fault, failure, loaded, nodes, original, signature
from graphcompress.errors import DataError, ModelError
from graphcompress.ir import Model, lint, to_proto
from graphcompress.passes.prune import Options, prune
from graphcompress.passes.prune.actions import PrunePlan
from graphcompress.passes.prune.attempt import attempt_of
from graphcompress.passes.prune.groups import Groups, find_groups
from graphcompress.passes.prune.lowrank import factorable, full_rank, spectra
from graphcompress.passes.prune.oracle import TOLERANCE, difference, largest_difference
from graphcompress.reconstruction.gram import Moments
from graphcompress.reconstruction.rows import Layer
from graphcompress.runtime.watch import Watch
from graphcompress.step import Context

OUTPUT_AXIS = {"Conv": 0, "ConvTranspose": 1, "MatMul": 1, "Gemm": 1}


def judge_prune(case: Case) -> Fault | None:
    """A random cut of all groups, at most to two units of each, with random ranks of some layers, and the removal of what is free of a model that was given such channels. Raises Discarded."""
    original(case)
    if (fault := _judge_free(case)) is not None:
        return fault
    random = np.random.default_rng([5, case.seed])
    try:
        groups = find_groups(loaded(case.model))
        keep = np.ones(len(groups.group_of), bool)
        for group in groups.groups:
            count = random.integers(0, max(1, group.size // group.step - 1))
            keep[group.units[[u for block in group.partition for u in random.permutation(block)[:count]]]] = False
        plan = PrunePlan(keep, _ranks(groups, case, random))
        if plan.empty:
            return None
        attempt = attempt_of(groups.algebra, plan)
        apart = difference(attempt.cut, case.feeds)
        model, _, refusals = attempt.finish(case.feeds)
        result = to_proto(model)
        faults = lint(model)
    except ModelError as problem:
        return Fault("does not load or run", str(problem).split(":")[-1][:60], str(problem))
    except Exception as problem:  # noqa: BLE001
        return failure("prune raises", problem)
    if faults:
        return Fault("not valid", str(faults[0])[:60], str(faults), result)
    if wrong := signature(case.model, result):
        return Fault("signature", wrong.split(":")[0], wrong, result)
    if apart > TOLERANCE:
        names = ", ".join(g.name for g in groups.groups if not keep[g.units].all())
        return Fault("values", names, f"the cut of {names} is {apart:.3g} off", result)
    if refusals and _finite(attempt.model, case):
        return Fault("values", refusals[0].node, f"as two layers '{refusals[0].node}' is not what it is as one", result)
    return None


def _ranks(groups: Groups, case: Case, random: np.random.Generator) -> dict[Layer, tuple[int, Moments]]:
    """Random ranks of half of the layers that could be two."""
    layers = [layer for layer in factorable(groups) if random.random() < 0.5]
    moments = spectra(groups.algebra.model, layers, case.feeds, seed=case.seed)
    return {layer: (int(random.integers(1, full_rank(layer))), m) for layer, m in zip(layers, moments, strict=True) if m.rows and full_rank(layer) > 1}


def _finite(model: Model, case: Case) -> bool:
    """Whether no number goes to infinity: what infinities add up to hangs on the order."""
    values = Watch(model, [t for node in model.graph.nodes for t in node.outputs if t.name]).run(case.feeds, optimize="none")
    return all(np.isfinite(v).all() for some in values for v in some.values() if isinstance(v, np.ndarray) and v.dtype.kind == "f")


def _judge_free(case: Case) -> Fault | None:
    model = _with_free_channels(case)
    try:
        before = loaded(model)
        result = prune(before, Context(threads=1), Options(free=True)).boldest
        apart = largest_difference(before, result.model, case.feeds)
    except DataError:  # no random feed fits the model
        return None
    except Exception as problem:  # noqa: BLE001
        return failure("free channels raise", problem)
    if apart > TOLERANCE:
        return Fault("free channels", ", ".join(sorted(result.applied)), f"without them it is {apart:.3g} off", to_proto(result.model))
    return None


def _with_free_channels(case: Case) -> onnx.ModelProto:
    """The model with some output channels of its layers zero, or equal to others, and as much of biases."""
    model = onnx.ModelProto.FromString(case.model.SerializeToString())
    random = np.random.default_rng([6, case.seed])
    tensors = {t.name: t for t in model.graph.initializer}
    for node in nodes(model):
        if node.op_type not in OUTPUT_AXIS or node.input[1] not in tensors:
            continue
        axis = OUTPUT_AXIS[node.op_type]
        if any(a.name == "transB" and a.i for a in node.attribute):
            axis = 0
        for name, along in ((node.input[1], axis), *((n, 0) for n in node.input[2:3])):
            values = numpy_helper.to_array(tensors[name]).copy() if name in tensors else np.zeros(())
            if values.ndim > along:
                rows = np.moveaxis(values, along, 0)
                for row in range(1, len(rows)):
                    if (chance := random.random()) < 0.5:
                        rows[row] = rows[0] if chance < 0.25 else 0.0
                tensors[name].CopyFrom(numpy_helper.from_array(values, name))
    return model
