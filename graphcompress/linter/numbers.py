"""Rules about numbers: what is not finite, what is slow, and what float16 cannot hold."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from graphcompress.ir import Tensor, TensorData, constant_data, constant_value, consumers, graphs, producer
from graphcompress.ir.model.element_types import array_dtype_name
from graphcompress.linter.rule import Array, LintRule, Problem, Subject
from graphcompress.passes.quantize.groups import node_name

LARGEST_HALF = 65504.0
DENORMAL_SHARE = 1e-3
LONG_SUM = 2048
"""Elements of a sum in float16 from which on ordinary values (30 and more) run over."""
FLOATS = ("float", "double", "float16", "bfloat16")


MASKING = ("Add", "Where")
"""What takes "never" as a large negative number: it vanishes in the Softmax behind."""
BOUNDED = ("Min", "Max", "Clip", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Equal")
"""What takes a limit."""
SCALED = ("Mul",)
"""How a mask of 0 and 1 becomes one of 0 and the least number."""
HANDED_ON = ("Cast", "Expand", "Slice", "Unsqueeze", "Squeeze", "Reshape", "Identity", "Gather", "ConstantOfShape", "Trilu", "Tile", "Concat")


def _float_constants(subject: Subject) -> Iterator[tuple[str, str, Array]]:
    """Name, type and values of every float constant of the file, initializers and Constant nodes."""
    for tensor, kind, values in _tensors(subject):
        yield tensor.name, kind, values


def _tensors(subject: Subject) -> Iterator[tuple[Tensor, str, Array]]:
    tensors = [constant for graph in graphs(subject.model) for constant in graph.initializers.values()]
    for tensor in [*tensors, *(node.outputs[0] for node in subject.nodes if node.is_op("Constant") and node.outputs)]:
        data = constant_data(tensor)
        kind = None if data is None else data.dtype_name if isinstance(data, TensorData) else array_dtype_name(data)
        values = constant_value(tensor) if kind in FLOATS else None
        if kind is not None and values is not None and values.size:
            yield tensor, kind, values.reshape(-1)


def _readers(tensor: Tensor) -> set[str]:
    """The operators that read a tensor, themselves or through what hands it on."""
    pending, readers = [tensor], set()
    seen = {id(tensor)}
    while pending:
        for node in consumers(pending.pop()):
            if not node.is_op(*HANDED_ON):
                readers.add(str(node.op))
            elif id(node.outputs[0]) not in seen:
                seen.add(id(node.outputs[0]))
                pending.append(node.outputs[0])
    return readers


def _not_a_number(subject: Subject) -> Iterator[Problem]:
    for name, _, values in _float_constants(subject):
        if np.isnan(values.astype(np.float32, copy=False)).any():
            yield Problem(name, f"the constant '{name}' holds NaN, which spreads through everything that is computed with it.")


def _overflowed(subject: Subject) -> Iterator[Problem]:
    for tensor, kind, values in _tensors(subject):
        if kind == "float16" and np.isinf(values).any() and not _readers(tensor) <= {*BOUNDED, *(() if (values == np.inf).any() else MASKING)}:
            yield Problem(
                tensor.name,
                f"the float16 constant '{tensor.name}' holds infinity: a value above {LARGEST_HALF:g} that was converted, which spreads, or becomes NaN.",
            )


def _clipped(subject: Subject) -> Iterator[Problem]:
    for tensor, kind, values in _tensors(subject):
        limits = values[np.abs(values.astype(np.float32)) == LARGEST_HALF] if kind == "float16" else values[:0]
        if limits.size and not _readers(tensor) <= {*BOUNDED, *(() if (limits > 0).any() else (*MASKING, *SCALED))}:
            yield Problem(
                tensor.name,
                f"the float16 constant '{tensor.name}' holds {LARGEST_HALF:g}, the largest value of its type: it was clipped when it was converted.",
            )


def _denormal(subject: Subject) -> Iterator[Problem]:
    for name, kind, values in _float_constants(subject):
        if kind == "float":
            tiny = (values != 0) & (np.abs(values) < np.finfo(np.float32).tiny)
            if tiny.mean() > DENORMAL_SHARE and tiny.sum() >= 16:
                yield Problem(
                    name, f"{tiny.mean():.0%} of the constant '{name}' is denormal (below 1.2e-38), which many processors compute with up to 100 times slower."
                )


def _half_range(subject: Subject) -> Iterator[Problem]:
    for node in subject.nodes:
        if not node.inputs or not node.standard or subject.shapes.dtype(node.inputs[0]) != "float16":
            continue
        match node.op:
            case "Pow" if (power := constant_value(node.input(1))) is not None and power.size == 1 and float(power.reshape(()).item()) >= 2:
                yield Problem(
                    node_name(node), "Pow in float16 runs over from 256 on when it squares: a layer norm written out, for instance. Compute it in float32."
                )
            case "ReduceSumSquare" | "ReduceL2":
                yield Problem(node_name(node), f"{node.op} in float16 adds squares, which run over from 256 on. Compute it in float32.")
            case "Exp" if (before := producer(node.inputs[0])) is None or not before.is_op("Sub"):
                yield Problem(node_name(node), "Exp in float16 runs over from 11.1 on, and nothing is subtracted before it. Use Softmax, or float32.")
            case "ReduceSum":
                size, left = subject.shapes.static(node.inputs[0]), subject.shapes.static(node.outputs[0])
                if size is not None and left is not None and math.prod(size) > LONG_SUM * max(1, math.prod(left)):
                    yield Problem(
                        node_name(node),
                        f"ReduceSum in float16 adds more than {LONG_SUM} elements: ordinary values run over {LARGEST_HALF:g}. Use ReduceMean, or float32.",
                    )


def _mask(subject: Subject) -> Iterator[Problem]:
    for name, kind, values in _float_constants(subject):
        finite = values[np.isfinite(values)] if kind == "float" else values[:0]
        if finite.size and float(np.abs(finite).max()) > LARGEST_HALF:
            yield Problem(
                name,
                f"the constant '{name}' reaches {np.abs(finite).max():.3g}, beyond float16: converted, it is infinite (a mask of -65504 or less is NaN after a subtraction).",
            )


RULES = (
    LintRule(
        "numbers/nan",
        "error",
        "NaN among the weights",
        "Everything that is computed with it is NaN, and no range can be observed.",
        "Export the model again, or look for the step of training that went wrong.",
        _not_a_number,
    ),
    LintRule(
        "numbers/denormal",
        "warning",
        "Denormal weights",
        "Processors leave the fast path for numbers below 1.2e-38, unless the program flushes them to zero (onnxruntime: session.set_denormal_as_zero).",
        "Set them to zero before exporting; they contribute nothing.",
        _denormal,
    ),
    LintRule(
        "fp16/infinite",
        "error",
        "Infinity among float16 constants",
        "A float32 value above 65504 becomes infinite when it is converted; infinity minus infinity, and infinity times zero, are NaN.",
        "Convert with clipping, or keep the layer in float32.",
        _overflowed,
    ),
    LintRule(
        "fp16/clipped",
        "warning",
        "float16 constants at the end of their range",
        "A value of exactly 65504 is one that a converter clipped: what was there is lost.",
        "Keep the layer in float32.",
        _clipped,
    ),
    LintRule(
        "fp16/range",
        "warning",
        "Operators that run over in float16",
        "Squares run over from 256 on, exponentials from 11.1 on, long sums of ordinary values above 65504: the result is infinite, then NaN.",
        "Leave these operators in float32 (op_block_list of the usual converters), or use the fused operator (LayerNormalization, Softmax), which computes in float32 inside.",
        _half_range,
    ),
    LintRule(
        "fp16/mask",
        "info",
        "Constants beyond float16",
        "Fine as it is. In a conversion to float16 they become infinite.",
        "Keep it in mind when converting to float16.",
        _mask,
    ),
)
