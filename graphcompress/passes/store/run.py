"""store: choose a form for each weight, write it, and check that the runtime folds it when it loads the model."""

from __future__ import annotations

import functools
import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from graphcompress.errors import ModelError, UsageError
from graphcompress.ir import Constant, Model, graphs
from graphcompress.ir.files.snapshot import Snapshot
from graphcompress.passes.store.codes import EXPONENTS, Codes, fits_float16, float16_codes, int8_codes, slice_factors
from graphcompress.passes.store.constants import FloatConstant, channel_axes, find
from graphcompress.passes.store.noise import output_noise
from graphcompress.passes.store.options import Options
from graphcompress.passes.store.write import write
from graphcompress.reconstruction.narrowing import RoundedWeight, narrowed
from graphcompress.runtime import profile
from graphcompress.step import Context, Ladder, Refusal, Rung, StepResult
from graphcompress.targets import Target, load_target

OVERHEAD = 160
"""Bytes that the nodes, names and shapes of one stored weight cost at most."""
PACKED_OVERHEAD = 400
"""The same of one that is packed into words."""
NARROW = {"int4": 4, "int3": 3}
"""Forms with fewer than 8 bits."""
FEWEST_NARROW = 2048
"""Elements of a weight from which on few bits are worth the nodes that unpack them; smaller weights have 8 bits and are refitted as well, so that a last layer mends what the others lost."""
FULL = 8
"""Bits of codes that are not packed."""
OPSETS = {"float16": 6, "int8": 7, "int4": 11, "int3": 11}
"""From which opset on the nodes that make floats of a form are there: Cast to a number, Mul that broadcasts, BitShift and Slice with bounds as inputs."""
SHARES = (1 / 4, 1 / 16, 1 / 64)
"""What part of the noise of all weights in int8 the rungs below the first may have."""
FEWEST_PER_SCALE = 8
"""Elements that share a scale, at least: with fewer the scales weigh half as much as the codes, and float16 is no larger."""

FEWEST_PER_FACTOR = 32
"""Elements that share a factor of a second axis, at least."""
UNLIKE = 0.2
"""Standard deviation of the logarithms of such factors from which on they are tried."""
WORTH_FACTORS = 0.7
"""What part of the noise they may leave, at most (1.5 dB): a Mul more is in the file for them."""

MOST_NAMED = 5
"""Constants that an error names."""


def store(model: Model, context: Context, options: Options | None = None) -> Ladder:
    """Float weights as int8 codes behind Cast and Mul (a scale per channel) or as float16 behind Cast: the runtime computes the floats once, when it loads the model.

    The first rung has every large float constant in its smallest form; the next ones have those in float16 whose int8 codes move the outputs most, the last one all. Refusals
    say what stays as it is. Nothing is computed in another precision, so no rung is faster or slower than the model itself.
    """
    options = options or Options()
    target = context.target or load_target("cpu")
    if target.certificate != "optimized-graph":
        reason = f"whether the provider of target '{target.name}' makes floats of stored weights when it loads a model cannot be seen, so they stay floats"
        return Ladder.single(StepResult(model, False, refusals=(Refusal("store/not-checked", reason),)), "nothing stored")
    constants, small, half, refusals = choices(model, context, integers=options.weights != "float16")
    for form, opset in OPSETS.items():
        if constants and model.opset < opset and (form == options.weights or opset < OPSETS[options.weights]):
            reason = f"{form} needs opset {opset}, and the model has opset {model.opset}: export it with a newer one"
            refusals.append(Refusal("store/opset", reason, constants[0].name, len(constants)))

    if context.decisions is not None:
        forms = context.decisions.get("weights", {})
        if "layers" in context.decisions and options.weights in NARROW:
            again = narrow_result(model, NARROW[options.weights], context, target)
        else:
            again = written(model, repeated(constants, small, half, forms), target.provider, target.session_options, refusals)
        check_repeated(again, forms)
        return Ladder.single(again, "as decided")

    def result(integers: Collection[FloatConstant]) -> StepResult:
        """With `integers` in int8 and all others in float16, which is made when it is asked for: for a large model it is half of it."""
        forms = {c: small[c] if c in integers else float16_codes(c.values) for c in constants if c in integers or c in half}
        return written(model, forms, target.provider, target.session_options, refusals)

    both = [c for c in half if c in small]

    @functools.cache
    def order() -> list[tuple[FloatConstant, float]]:
        """Those in int8 that could be float16, with their noise; first those where most noise goes for the bytes that it costs."""
        noise = output_noise(model, {c: small[c] for c in both}, context)
        return sorted(noise.items(), key=lambda pair: -pair[1] / (half_bytes(pair[0]) - small[pair[0]].nbytes))

    def mixed(share: float) -> StepResult:
        left = total = sum(noise for _, noise in order())
        integers = dict.fromkeys(small)
        for constant, noise in order():
            if left <= share * total:
                break
            del integers[constant]
            left -= noise
        return result(integers)

    if not small and not half:
        return Ladder.single(StepResult(model, False, refusals=tuple(refusals)), "nothing stored")
    rungs = []
    if options.weights in NARROW and model.opset >= OPSETS[options.weights]:
        narrow = functools.partial(narrow_result, model, NARROW[options.weights], context, target)
        rungs.append(Rung(f"weights stored in {options.weights}", narrow, 0.0))
    rungs += [Rung(f"weights stored in {'int8' if small else 'float16'}", lambda: result(small), 0.0)]
    if both:
        rungs += [Rung(f"weights stored in int8 and float16, 1/{round(1 / share)} of the noise", functools.partial(mixed, share), 0.0) for share in SHARES]
        rungs.append(Rung("weights stored in float16", lambda: result(()), 0.0))
    return Ladder(tuple(rungs))


def choices(model: Model, context: Context, *, integers: bool) -> tuple[list[FloatConstant], dict[FloatConstant, Codes], list[FloatConstant], list[Refusal]]:
    """The constants that can be stored small, the int8 codes of those that they make smaller (`integers`: whether there may be any), those that float16 makes smaller, and why others stay."""
    constants, refusals = find(model)
    integers, halves = integers and model.opset >= OPSETS["int8"], model.opset >= OPSETS["float16"]
    small: dict[FloatConstant, Codes] = {}
    half: list[FloatConstant] = []
    for number, constant in enumerate(constants):
        context.progress("store", number, len(constants))
        values = constant.values
        if integers and not constant.vector and np.isfinite(values).all():
            codes = small_codes(values, channel_axes(constant))
            if codes.nbytes + OVERHEAD < constant.nbytes:
                small[constant] = codes
        if halves and constant.dtype == "float" and fits_float16(values) and half_bytes(constant) + OVERHEAD < constant.nbytes:
            half.append(constant)
        elif halves and constant not in small and not constant.vector:
            refusals.append(Refusal("store/no-form", f"no smaller form holds the values of '{constant.name}'", constant.name))
    return constants, small, half, refusals


def narrow_result(model: Model, bits: int, context: Context, target: Target) -> StepResult:
    """With the weights of layers in `bits` bits (small ones in 8), refitted; everything else in its smallest form."""
    fit = narrowed(model, lambda node, weight: bits if weight.values.size >= FEWEST_NARROW else FULL, context)
    constants, small, half, refusals = choices(fit.model, context, integers=True)
    refusals += [Refusal(r.id.replace("prune/", "store/"), r.reason, r.node, r.count) for r in fit.refusals]
    forms = {c: float16_codes(c.values) for c in half} | small
    for constant in constants:
        fitted = next((fit.weights[t] for t, _ in constant.sources if isinstance(t, Constant) and t in fit.weights), None)
        if fitted is not None and (codes := codes_of(fitted)).nbytes + (PACKED_OVERHEAD if codes.bits else OVERHEAD) < constant.nbytes:
            forms[constant] = codes
    done = written(fit.model, forms, target.provider, target.session_options, refusals)
    if not done.changed:
        return replace(done, model=model)
    return replace(done, decisions={**done.decisions, "layers": fit.layers})


def codes_of(fitted: RoundedWeight) -> Codes:
    """A fitted weight in the form that is written."""
    return Codes(fitted.codes, (fitted.scales,), fitted.noise, fitted.bits if fitted.bits < FULL else 0)


def repeated(
    constants: Sequence[FloatConstant], small: Mapping[FloatConstant, Codes], half: Collection[FloatConstant], forms: Mapping[str, str]
) -> dict[FloatConstant, Codes]:
    """The forms that an earlier run chose, by the names of the constants. Raises UsageError for those that there are not, or that have no such form."""
    by_name = {c.name: c for c in constants}
    able = {"int8": small, "float16": half}
    check_forms({name: form for name, form in forms.items() if by_name.get(name) not in able.get(form, ())})
    return {by_name[name]: small[by_name[name]] if form == "int8" else float16_codes(by_name[name].values) for name, form in forms.items()}


def check_repeated(again: StepResult, forms: Mapping[str, str]) -> None:
    """Raise UsageError where a result lacks one of the forms that an earlier run chose: the runtime does not fold it, or there is no such layer."""
    written_as = again.decisions.get("weights", {})
    check_forms({name: form for name, form in forms.items() if written_as.get(name) != form})


def check_forms(missing: Mapping[str, str]) -> None:
    """Raise UsageError for what was stored in an earlier run, constant -> form, and cannot be; nothing where nothing is missing."""
    if missing:
        named = ", ".join(f"'{name}' as {form}" for name, form in list(missing.items())[:MOST_NAMED])
        more = f" and {len(missing) - MOST_NAMED} more" if len(missing) > MOST_NAMED else ""
        raise UsageError(f"The decisions do not fit: an earlier run stored {named}{more}, and here that cannot be. Run it without --decisions.")


def half_bytes(constant: FloatConstant) -> int:
    """Bytes of its elements as 16-bit floats."""
    return 2 * math.prod(constant.shape)


def small_codes(values: np.ndarray[Any, Any], axes: Sequence[int] | None) -> Codes:
    """int8 codes with scales along `axes`; where none are given, or a scale would stand for too few elements, along the single axis that leaves the least error. Where slices along
    another axis are of unlike size, and it pays, they have factors of their own."""
    choices = [tuple(axes)] if axes is not None else [(axis,) for axis in range(values.ndim) if values.shape[axis] > 1]
    fitting = [choice for choice in choices if values.size >= FEWEST_PER_SCALE * math.prod(values.shape[a] for a in choice)]
    if not fitting:
        fitting = [(min(range(values.ndim), key=lambda axis: (values.shape[axis] == 1, values.shape[axis])),)]
    best, along = min(((int8_codes(values, choice), choice) for choice in fitting), key=lambda pair: pair[0].noise)
    factors = [slice_factors(values, along, a) for a in range(values.ndim) if a not in along and 1 < values.shape[a] * FEWEST_PER_FACTOR <= values.size]
    unlike = max(factors, key=lambda f: float(np.log(f).std()), default=None)
    if unlike is None or float(np.log(unlike).std()) < UNLIKE:
        return best
    finer = min((int8_codes(values, along, unlike**exponent) for exponent in EXPONENTS), key=lambda codes: codes.noise)
    return finer if finer.noise < WORTH_FACTORS * best.noise else best


def written(model: Model, forms: Mapping[FloatConstant, Codes], provider: str, config: Mapping[str, str], refusals: Sequence[Refusal]) -> StepResult:
    """The model with these forms, without those that the provider does not fold; unchanged where it does not load with them."""
    reasons = list(refusals)
    result = model
    while forms:
        stored, codes = write(model, forms)
        result = Snapshot(stored)  # who judges and writes it takes the message that is checked here
        try:
            optimized = profile.optimized_model(result, provider, config=config)
        except ModelError as problem:
            reasons.append(Refusal("store/load", f"the model does not load with its weights stored small: {problem}", count=len(forms)))
            return StepResult(model, False, refusals=tuple(reasons))
        left = {codes[name] for graph in graphs(optimized) for name in graph.initializers if name in codes}
        if not left:
            break
        reason = "the provider would make floats of it at each run, instead of once when it loads the model"
        reasons += [Refusal("store/not-folded", reason, c.name) for c in forms if c in left]
        forms = {c: f for c, f in forms.items() if c not in left}
    if not forms:
        return StepResult(model, False, refusals=tuple(reasons))
    applied = {f"store/{kind}": count for kind, count in Counter(f.kind for f in forms.values()).items()}
    return StepResult(result, True, applied, tuple(reasons), {"weights": {c.name: f.kind for c, f in forms.items()}})
