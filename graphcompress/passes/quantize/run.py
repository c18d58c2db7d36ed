"""quantize: observe, choose ranges, place, insert, certify; what misses its fusion goes back to float until nothing does."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from graphcompress.errors import DataError, ModelError
from graphcompress.ir import Model, Tensor
from graphcompress.ir import lift as opsets
from graphcompress.ir.check.models import require_known_domains
from graphcompress.ir.inline import functions_holding, inline_functions
from graphcompress.ir.model.dimensions import evaluated
from graphcompress.ir.shapes.infer import Shapes, infer
from graphcompress.passes.quantize.certify import ShapeCheck
from graphcompress.passes.quantize.exclusion import exclusion
from graphcompress.passes.quantize.expansion import expand
from graphcompress.passes.quantize.gates import split_gates
from graphcompress.passes.quantize.groups import Candidates, Group, find
from graphcompress.passes.quantize.ladder import ladder, repeated
from graphcompress.passes.quantize.observe import observe
from graphcompress.passes.quantize.options import Options
from graphcompress.passes.quantize.plan import Plan
from graphcompress.passes.quantize.ranges import Histogram, LeastSquares, MinMax, Percentile, Range, Statistic
from graphcompress.passes.quantize.scales import Choose, Ranges, bounded_range
from graphcompress.runtime import evaluate
from graphcompress.runtime.place import Place, fixed_dims
from graphcompress.runtime.providers import short
from graphcompress.runtime.session import Feed
from graphcompress.step import Context, Ladder, Refusal
from graphcompress.targets import Target, load_target

EQUAL = 1e-4  # of the largest magnitude: how far outputs may move when only the opset is lifted and the provider picks other kernels


def quantize(model: Model, context: Context, options: Options | None = None) -> Ladder:
    """Static INT8 by the target's table (default: that of this machine's CPU). The first rung has everything in integers that pays; each further one leaves
    more in float of what is expected to lose most accuracy.

    What INT8 cannot do is a refusal with its reason, at worst the model as it was. Raises DataError without feeds, UsageError for an `exclude` that matches
    nothing, ModelError for nodes that nothing here can run and where the model does not run on the feeds.
    """
    options = options or Options()
    target = context.target or load_target("cpu")
    require_known_domains(model, "quantized")
    applied: dict[str, int] = {}
    base = inline_functions(model, functions_holding(model, {row.op for row in target.operator if row.heavy}))
    if base is not model:
        applied["quantize/inline-functions"] = 1
    base, gates = split_gates(base, target)
    if gates:
        applied["quantize/split-hard-swish"] = gates
    excluded = exclusion(base, options.exclude)
    if context.data is None or len(context.data) == 0:
        raise DataError("INT8 needs ranges, and ranges need data, but there are no calibration feeds. Give some with --data.")
    feed = next(iter(context.data))
    written = base
    base, stored = expand(written, target)
    shapes = infer(base)
    candidates = find(base, target, shapes, excluded)
    if needed := opset_needed(candidates.groups, target, base.opset):
        try:
            base, stored = expand(lifted(written, needed, feed), target)
        except ModelError as problem:
            candidates = all_float(candidates, f"INT8 needs opset {needed}: {problem}")
        else:
            applied["quantize/lift-opset"] = 1
            shapes = infer(base)
            candidates = find(base, target, shapes, exclusion(base, options.exclude))
    tensors = list(dict.fromkeys(t for g in candidates.groups for t in (*g.inputs, *g.outputs)))
    statistic, choose = estimator(options, target)
    observed = observe(
        base,
        tensors,
        context.data,
        statistic,
        shapes=feed_shapes(base, tensors, feed, shapes),
        threads=context.threads,
        progress=context.progress,
        workers=context.workers,
    )
    for tensor, seen in observed.items():
        seen.shape = shapes.static(tensor) or seen.shape
    # Not the ranks that were seen: other feeds may have others.
    known = {t: shape for t in tensors if (shape := shapes.shape(t)) is not None}
    check = ShapeCheck(base, feed, {t.name: shape for t, shape in feed_shapes(base, base.graph.outputs, feed, shapes).items()})
    plan = Plan(base, stored, candidates, known, Ranges(observed, choose, target), context.progress, feed, certifying_place(context, target), check)
    if context.decisions is not None:
        return repeated(plan, model, applied, options.calibration, context.decisions)
    return ladder(plan, model, applied, options.calibration, context.data, excluded=excluded, timing=context.timing_place())


def certifying_place(context: Context, target: Target) -> Place | None:
    """Where it is asked what the provider of `target` took: where results are judged, if that is on this provider or nobody would be asked, else (None) in this process."""
    place = context.judging_place()
    if target.certificate == "none":
        return place
    return place if short(place.describe()["provider"]) == short(target.provider) else None


def all_float(candidates: Candidates, reason: str) -> Candidates:
    """No group at all, for one reason."""
    return Candidates([], candidates.refusals | {g.node: Refusal("quantize/lift-opset", reason, g.name) for g in candidates.groups})


def feed_shapes(model: Model, tensors: Iterable[Tensor], feed: Feed, shapes: Shapes) -> dict[Tensor, tuple[int, ...]]:
    """Shapes of tensors of the main graph under `feed`, as far as inference knows them; elsewhere it knows them of one iteration only. Where
    `shapes`, which are those of any run, do not say a shape by symbols of the signature, the shapes of such feeds are inferred."""
    outside = {t for n in model.graph.nodes for t in n.outputs} | set(model.graph.inputs)
    watched = [t for t in tensors if t in outside]
    symbols = fixed_dims(model.inputs, feed)
    known: dict[Tensor, tuple[int, ...]] = {}
    for tensor in watched:
        if (shape := shapes.shape(tensor)) is not None:
            dims = tuple(size for dim in shape if (size := evaluated(dim, symbols)) is not None)
            if len(dims) == len(shape):
                known[tensor] = dims
    if len(known) < len(watched):
        of_feed = infer(model, {name: array.shape for name, array in feed.items()})
        known |= {t: shape for t in watched if (shape := of_feed.static(t)) is not None}
    return known


def estimator(options: Options, target: Target) -> tuple[Callable[[Tensor], Statistic], Choose]:
    """The statistic to collect of a tensor, and how a range is chosen from it. Where a bound is known, the histogram says whether it is worth keeping to."""
    if options.calibration == "minmax":
        return lambda t: MinMax() if bounded_range(t, target) is None else Histogram(), lambda s: s.finish()
    chooser = Percentile(options.percentile) if options.calibration == "percentile" else LeastSquares()

    def choose(statistic: Statistic) -> Range:
        assert isinstance(statistic, Histogram)
        return chooser.choose(statistic)

    return lambda t: Histogram(), choose


def opset_needed(groups: Sequence[Group], target: Target, opset: int) -> int | None:
    """The opset to lift to, None where the model's own will do."""
    per_channel = target.weight.granularity == "channel" and any(g.weight is not None for g in groups)
    needed = max([target.opsets.per_channel if per_channel else target.opsets.quantize, *(g.row.opset for g in groups)], default=opset)
    return needed if groups and needed > opset else None


def lifted(model: Model, opset: int, feed: Feed) -> Model:
    """A copy of `model` at `opset` that gives the same outputs on `feed`; raises ModelError where it does not, or does not run."""
    result = opsets.lift(model, opset)
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
                f"{model.path or 'The model'}: lifting it from opset {model.opset} to {opset} changes output '{name}' on the first feed. Export the model with opset {opset} or newer."
            )
    return result
