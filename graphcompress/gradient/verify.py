"""Proof of gradient rules by experiment, in double precision.

A case is an example of a rule with a choice among its `vary`, and random values. For each float input x a random direction u and for the outputs a random cotangent v
are drawn, and the gradient model's <gradient, u> is held against <v, (f(x + e u) - f(x - e u)) / 2e>: the adjoint test, with the Jacobian's product by central differences. Both run on
onnxruntime where it has kernels in double precision, else on onnx's reference evaluator; the gradient model in single precision on onnxruntime too, and must give the same.

    python -m graphcompress.gradient.verify [--cases 200] [--seed 0] [RULE ...]
"""

from __future__ import annotations

import argparse
import re
import string
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from graphcompress.errors import DataError, GraphCompressError, ModelError
from graphcompress.gradient.build import FLOATS
from graphcompress.gradient.reverse import gradient, gradient_rules
from graphcompress.gradient.rulefile import GradientExample, GradientRule
from graphcompress.ir import Model
from graphcompress.ir.files.text import parse_model
from graphcompress.ir.model.element_types import numpy_dtype
from graphcompress.ir.reference import Reference
from graphcompress.runtime.session import open_session

Array: TypeAlias = np.ndarray[Any, Any]
Feed: TypeAlias = dict[str, Array]
Run: TypeAlias = Callable[[Feed], Mapping[str, Any]]

CASES = 200
EXACT, ROUGH = 1e-5, 1e-2  # the step of central differences in double and in single precision
LARGEST = (
    2e-6,
    1e-2,
)  # the largest difference relative to the sizes of what is compared, at either step; the second also for a surrogate whose graph has kernels in single precision alone
SINGLE = 2e-3  # how far single precision may be from double


def verify(rule: GradientRule, cases: int = CASES, seed: int = 0) -> Iterator[str]:
    """The faults of `rule` in so many random cases, each with the graph that shows it."""
    examples = [e for e in rule.examples if e.refused is None]
    rules = {**gradient_rules(), rule.op: rule}
    for number in range(cases):
        rng = np.random.default_rng([seed, zlib.crc32(rule.id.encode()), number])
        example = examples[number % len(examples)]
        chosen = {name: str(rng.choice(values)) for name, values in example.vary.items()}
        text = string.Template(example.graph).substitute(chosen)
        try:
            fault = fault_of(text, example, rng, rules)
        except GraphCompressError as problem:
            fault = str(problem)
        if fault:
            yield f"{rule.path.name}, line {example.line}, case {number}: {fault}\n{text}"


def fault_of(text: str, example: GradientExample, rng: np.random.Generator, rules: Mapping[str, GradientRule] | None = None) -> str | None:
    """What is wrong with the gradients of one graph, None where they are its slopes, or those of the example's surrogate."""
    single, double = in_both_precisions(text, example.opset)
    names = [i.name for i in double.inputs if i.dtype in FLOATS]
    result, rough = gradient(double, None, names, rules=rules), gradient(single, None, names, rules=rules)
    if result.frozen:
        return f"no gradient of {', '.join(f'{n}: {r.reason}' for n, r in result.frozen.items())}"
    feed = {i.name: values(i.dtype or "double", [int(d) for d in i.shape or () if isinstance(d, int)], example.ranges.get(i.name), rng) for i in double.inputs}
    forward = Twofold(*in_both_precisions(example.surrogate or text, example.opset), feed)
    weights = {o: rng.standard_normal(np.shape(forward.outputs[o])) for o in result.cotangents}
    back = Twofold(rough.model, result.model, {**feed, **{result.cotangents[o]: v for o, v in weights.items()}})
    step = EXACT if forward.exact else ROUGH
    tolerance = LARGEST[0] if forward.exact and (back.exact or example.surrogate is None) else LARGEST[1]
    roots = [o for o in forward.outputs if np.asarray(forward.outputs[o]).dtype.kind == "f"]
    for name in names:
        slope, coarse = np.asarray(back.outputs[result.gradients[name]]), np.asarray(back.single[rough.gradients[name]])
        if slope.shape != feed[name].shape:
            return f"the gradient of '{name}' has shape {slope.shape}, not {feed[name].shape}"
        if not np.abs(coarse - slope).max(initial=0.0) <= SINGLE * (1 + np.abs(slope).max(initial=0.0)):
            return f"in single precision the gradient of '{name}' is off by {np.abs(coarse - slope).max():.3g}"
        direction = rng.standard_normal(feed[name].shape)
        up, down = (forward.run({**feed, name: feed[name] + s * direction}) for s in (step, -step))
        along = [weights.get(o, np.ones(())) * (np.asarray(up[o], np.float64) - down[o]) / (2 * step) for o in roots]
        expected, size = sum(float(p.sum()) for p in along), sum(float(np.abs(p).sum()) for p in along)
        computed = float(np.sum(slope * direction))
        if not abs(expected - computed) <= tolerance * (1 + size + float(np.abs(slope * direction).sum())):
            return f"the slope of '{name}' is {computed:.9g}, by central differences {expected:.9g}"
    return None


def in_both_precisions(text: str, opset: int) -> tuple[Model, Model]:
    """A model in ONNX text, in single precision and in double."""
    return parse_model(text, {"": opset}), parse_model(re.sub(r"\bfloat\b(?=\s*[\[{\w])", "double", text), {"": opset})


class Twofold:
    """A model in single and in double precision. `outputs` are those on `feed`, `single` the same by onnxruntime in single precision; `exact` says whether `run` computes in double.

    Double is onnxruntime where it has the kernels, else onnx's reference evaluator where that gives what onnxruntime gives in single precision.
    """

    def __init__(self, single: Model, double: Model, feed: Feed) -> None:
        session = open_session(single, optimize="all", threads=1)
        types = {i.name: numpy_dtype(i.dtype or "float") for i in session.inputs}
        self.run: Run = lambda f: session.run({name: f[name].astype(kind) for name, kind in types.items()})
        self.single = self.outputs = self.run(feed)
        self.exact = False
        for open_double in (lambda: open_session(double, optimize="none", threads=1), lambda: Reference(double)):
            try:
                runner = open_double()
                outputs = runner.run({name: feed[name] for name in types})
            except (ModelError, DataError):
                continue
            if all(close(a, b) for a, b in zip(outputs.values(), self.single.values(), strict=True)):
                self.run, self.outputs, self.exact = runner.run, outputs, True
                return


def close(a: Any, b: Any) -> bool:
    """Equal as far as single precision tells."""
    first, second = np.asarray(a), np.asarray(b)
    return first.shape == second.shape and bool(np.allclose(first, second, rtol=SINGLE, atol=SINGLE))


def values(dtype: str, shape: Sequence[int], bounds: tuple[float, float] | None, rng: np.random.Generator) -> Array:
    """Random values: uniform between bounds, else of a normal distribution (integers: 0 or 1)."""
    kind = numpy_dtype(dtype)
    if dtype in FLOATS:
        return (rng.uniform(*bounds, shape) if bounds else rng.standard_normal(shape)).astype(kind)
    low, high = bounds or (0, 2)
    return rng.integers(int(low), int(high), shape).astype(kind)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; 1 where a rule is wrong."""
    parser = argparse.ArgumentParser(
        prog="python -m graphcompress.gradient.verify", description="Check gradient rules by central differences in double precision."
    )
    parser.add_argument("rules", nargs="*", metavar="RULE", help="operators; default: all")
    parser.add_argument("--cases", type=int, default=CASES)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    wrong = 0
    for op, rule in sorted(gradient_rules().items()):
        if options.rules and op not in options.rules:
            continue
        faults = list(verify(rule, options.cases, options.seed))
        wrong += bool(faults)
        print(f"{op}: {options.cases} cases, {len(faults)} wrong" + (f"\n  first: {faults[0]}" if faults else ""), flush=True)
    print(f"{wrong} rules are wrong")
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
