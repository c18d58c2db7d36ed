"""Whether outputs are equal, as far as what was applied claims it."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx

from differential.program import Case
from differential.running import RUNTIME_ERRORS, Array, Fault, essence, nodes, run, session, shown

#: Rounding of one operation, relative, by element type.
EPSILON = {"float16": 2.0**-10, "float32": 2.0**-23, "float64": 2.0**-52}
#: How many roundings a result may be away where a rewrite sums in another order, relative to the largest magnitude in the graph.
ROUNDINGS = 64.0


class Bound:
    """How far outputs may differ: not at all (`exact`), or by roundings of the largest magnitude that any tensor of the original has (computed when asked for)."""

    def __init__(self, case: Case, exact: bool) -> None:
        self.case, self.exact = case, exact
        self._magnitude: float | None = None

    def magnitude(self) -> float:
        if self._magnitude is None:
            try:
                results = run(shown(self.case.model), self.case.feeds)
            except RUNTIME_ERRORS:  # a tensor that onnxruntime does not hand out
                results = run(self.case.model, self.case.feeds)
            arrays = [a for outputs in results for a in outputs]
            self._magnitude = max([1.0, *(finite_reach(a) for a in arrays)])
        return self._magnitude


def finite_reach(array: Any) -> float:
    """The largest finite magnitude."""
    if not isinstance(array, np.ndarray) or array.dtype.kind != "f":
        return 0.0
    values = np.abs(array[np.isfinite(array)].astype(np.float64))
    return float(values.max(initial=0.0))


def compare(case: Case, result: onnx.ModelProto, expected: list[list[Array]], bound: Bound) -> Fault | None:
    """Load and run `result`, and hold its outputs against `expected`."""
    try:
        opened = session(result)
    except RUNTIME_ERRORS as problem:
        return Fault("does not load", essence(problem), str(problem), result)
    for number, (feed, outputs) in enumerate(zip(case.feeds, expected, strict=True)):
        try:
            got = opened.run(None, feed)
        except RUNTIME_ERRORS as problem:
            return Fault("does not run", essence(problem), f"feed {number}: {problem}", result)
        for info, a, b in zip(case.model.graph.output, outputs, got, strict=True):
            if wrong := difference(a, b, bound):
                return Fault("values", wrong.split(":")[0], f"output {info.name} on feed {number}: {wrong}\nexpected {a!r}\n     got {b!r}", result)
    return None


def difference(a: Array, b: Array, bound: Bound) -> str:
    if a.dtype != b.dtype:
        return f"type: {a.dtype} became {b.dtype}"
    if a.shape != b.shape:
        return f"shape: {a.shape} became {b.shape}"
    if a.dtype.kind != "f":
        return "" if np.array_equal(a, b) else "integers: they differ"
    if (np.isnan(a) != np.isnan(b)).any():
        return "NaN: at other positions"
    bits = {2: np.uint16, 4: np.uint32, 8: np.uint64}[a.dtype.itemsize]
    differs = (a.view(bits) if a.ndim else a.reshape(1).view(bits)) != (b.view(bits) if b.ndim else b.reshape(1).view(bits))
    differs = differs.reshape(a.shape) & ~np.isnan(a)
    if not differs.any():
        return ""
    if (np.isinf(a) != np.isinf(b)).any() or (np.isinf(a) & differs).any():
        return "infinities: they differ"
    if bound.exact:
        return "zeros: signs differ" if (a[differs] == b[differs]).all() else "bits: they differ where every rewrite is exact"
    off = float(np.abs(a[differs].astype(np.float64) - b[differs].astype(np.float64)).max())
    limit = EPSILON[coarsest(bound.case.model, a.dtype.name)] * ROUNDINGS * bound.magnitude()
    return f"rounding: off by {off:.3g}, and {limit:.3g} is what roundings explain" if off > limit else ""


def coarsest(model: onnx.ModelProto, dtype: str) -> str:
    """Half precision anywhere in the graph may have rounded what arrives in another type; float where the result is double too."""
    half, single = onnx.TensorProto.FLOAT16, onnx.TensorProto.FLOAT
    codes = {i.type.tensor_type.elem_type for i in model.graph.input} | {t.data_type for t in model.graph.initializer}
    for node in nodes(model):
        codes |= {a.i for a in node.attribute if a.name == "to"} | {a.t.data_type for a in node.attribute if a.HasField("t")}
    return "float16" if half in codes else "float32" if single in codes else dtype
