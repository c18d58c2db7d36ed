"""quantize: observe, choose ranges, place, insert, certify; what misses its fusion goes back to float until nothing does."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import numpy as np

from graphcompress.errors import DataError, ModelError, UsageError
from graphcompress.ir import Model, Node, nodes
from graphcompress.ir.check.models import require_known_domains
from graphcompress.ir.shapes.infer import infer
from graphcompress.passes.quantize.groups import Group, find, node_name
from graphcompress.passes.quantize.observe import observe
from graphcompress.passes.quantize.options import Options
from graphcompress.passes.quantize.place import Choose, Ranges
from graphcompress.passes.quantize.plan import Plan
from graphcompress.passes.quantize.ranges import Histogram, LeastSquares, MinMax, Percentile, Range, Statistic
from graphcompress.runtime import evaluate
from graphcompress.step import Context, Ladder, local_target
from graphcompress.targets import Target, load_target

EQUAL = 1e-4  # of the largest magnitude: how far outputs may move when only the opset is lifted and the provider picks other kernels


def quantize(model: Model, context: Context, options: Options | None = None) -> Ladder:
    """Static INT8 by the target's table (default: that of this machine's CPU).

    Raises DataError without feeds or where a tensor has NaN or infinite values in one, UsageError for an `exclude` that matches nothing, ModelError for BatchNormalization that `simplify`
    would fold, for nodes that nothing here can run, and where lifting the opset changes the outputs.
    """
    options = options or Options()
    target = context.target or load_target(local_target())
    require_known_domains(model, "quantized")
    excluded = exclusion(model, options.exclude)
    if context.data is None or len(context.data) == 0:
        raise DataError("INT8 needs ranges, and ranges need data, but there are no calibration feeds. Give some with --data.")
    shapes = infer(model)
    found = find(model, target, shapes, excluded)
    applied: dict[str, int] = {}
    base = model
    if needs := opset_needed(found.groups, target, model.opset):
        base = lifted(model, needs, context)
        applied["quantize/lift-opset"] = 1
        shapes = infer(base)
        found = find(base, target, shapes, exclusion(base, options.exclude))
    statistic, choose = estimator(options)
    names = sorted({t.name for g in found.groups for t in (*g.inputs, *g.outputs)})
    seen = observe(base, names, context.data, statistic, threads=context.threads, progress=context.progress, total=len(context.data)) if names else {}
    plan = Plan(base, found, shapes, Ranges(seen, choose), target, context.progress)
    return Ladder.single(plan.result(plan.settle(), model, applied, options.calibration), "INT8")


def exclusion(model: Model, patterns: Sequence[str]) -> Callable[[Node], bool]:
    """Which nodes stay float because a pattern matches their name anywhere. Raises UsageError for a pattern that is no regular expression or matches no node."""
    compiled = []
    for pattern in patterns:
        try:
            compiled.append(re.compile(pattern))
        except re.error as problem:
            raise UsageError(f"--exclude '{pattern}' is no regular expression: {problem}.") from problem
    names = {id(n): node_name(n) for n in nodes(model)} if compiled else {}
    for expression in compiled:
        if not any(expression.search(name) for name in names.values()):
            raise UsageError(f"--exclude '{expression.pattern}' matches no node of {model.path or 'the model'}. `graphcompress inspect` lists the names.")
    return lambda node: any(e.search(node_name(node)) for e in compiled)


def estimator(options: Options) -> tuple[Callable[[], Statistic], Choose]:
    """The statistic to collect, and how a range is chosen from it."""
    if options.calibration == "minmax":
        return MinMax, lambda s: s.finish()
    chooser = Percentile(options.percentile) if options.calibration == "percentile" else LeastSquares()

    def choose(statistic: Statistic) -> Range:
        assert isinstance(statistic, Histogram)
        return chooser.choose(statistic)

    return Histogram, choose


def opset_needed(groups: Sequence[Group], target: Target, opset: int) -> int | None:
    """The opset to lift to, None where the model's own will do."""
    per_channel = target.weight.granularity == "channel" and any(g.weight is not None for g in groups)
    needed = max([target.opsets.per_channel if per_channel else target.opsets.quantize, *(g.row.opset for g in groups)], default=opset)
    return needed if groups and needed > opset else None


def lifted(model: Model, opset: int, context: Context) -> Model:
    """A copy of `model` at `opset` that gives the same outputs on the first feed; raises ModelError where it does not."""
    from graphcompress.ir import lift as opsets

    result = opsets.lift(model, opset)
    assert context.data is not None
    feed = next(iter(context.data))
    before, after = evaluate.run_once(model, feed), evaluate.run_once(result, feed)
    for name, value in before.items():
        other = after.get(name)
        if isinstance(value, np.ndarray) and value.dtype.kind == "f":
            reach = float(np.abs(value[np.isfinite(value)]).max(initial=0.0))
            same = isinstance(other, np.ndarray) and value.shape == other.shape and np.allclose(value, other, rtol=EQUAL, atol=EQUAL * reach, equal_nan=True)
        else:
            same = isinstance(other, type(value)) and np.array_equal(np.asarray(value, dtype=object), np.asarray(other, dtype=object))
        if not same:
            raise ModelError(
                f"{model.path or 'The model'}: INT8 needs opset {opset}, and lifting it from {model.opset} changes output '{name}' on the first feed. Export the model with opset {opset} or newer."
            )
    return result
