"""Rules about what keeps a quantized operator in float, or quantizes one that was to stay float."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from graphcompress.ir import Node, Tensor, constant_data, consumers, producer
from graphcompress.ir.model.edit import Edits, detached
from graphcompress.linter import qdq
from graphcompress.linter.rule import Array, LintRule, Problem, Subject
from graphcompress.passes.quantize.groups import activation_bounds, node_name


def _implicit_places(subject: Subject) -> Iterator[tuple[Node, Node, int]]:
    """Float operators between DQ and Q, with the DQ, and the number of their input channels."""
    for node, axis in qdq.weighted(subject, "Conv", "Gemm", "ConvTranspose", "MatMul"):
        before, weight = qdq.dequantizer(node.input(0)), constant_data(node.input(1))
        x_scale = None if before is None else qdq.scale(before)
        if before is None or weight is None or x_scale is None or x_scale.size != 1 or qdq.is_constant(before.inputs[0]):
            continue
        end, _ = qdq.end_of_group(subject, node)
        readers = consumers(end)
        if node.op == "MatMul" and len(readers) == 1 and readers[0].is_op("Add"):
            end, _ = qdq.end_of_group(subject, readers[0])
            readers = consumers(end)
        if len(readers) == 1 and qdq.is_quantize(readers[0]) and id(end) not in subject.outputs:
            shape = tuple(weight.shape)
            channels = (
                shape[1] * int(node.attrs.get("group", 1))
                if node.op == "Conv"
                else shape[0]
                if node.op == "ConvTranspose"
                else shape[1 - axis]
                if node.op == "Gemm"
                else shape[-2]
                if len(shape) > 1
                else 0
            )
            yield node, before, channels


def _implicit(subject: Subject) -> Iterator[Problem]:
    for node, _, _ in _implicit_places(subject):
        yield Problem(
            node_name(node), f"{node.op} has a float weight between a DQ and a Q: onnxruntime (from 1.21 on) quantizes the weight itself, per tensor."
        )


def _keep_float(subject: Subject) -> int:
    """Give each such operator its own DQ with the same scale for each channel: onnxruntime then leaves it in float."""
    count = 0
    model = subject.model
    with Edits(model) as edits:
        for node, before, channels in list(_implicit_places(subject)):
            rank = subject.shapes.rank(node.inputs[0])
            if not channels or model.opset < 13 or (node.op == "Gemm" and node.attrs.get("transA", 0)) or rank is None:
                continue
            value, zero = qdq.scale(before), qdq.zero_point(before)
            assert value is not None
            if before.input(2) is not None and zero is None:
                continue
            inputs: list[Tensor] = [before.inputs[0], model.constant("scale", np.full(channels, value.reshape(()), value.dtype))]
            if zero is not None:
                inputs.append(model.constant("zero", np.full(channels, zero.reshape(()), zero.dtype)))
            out = model.variable("float_input")
            copy = detached("DequantizeLinear", "", {"axis": rank - 1 if node.op == "MatMul" else 1}, inputs, [out], before.domain or "")
            copy.rank = before.rank
            edits.add(copy, subject.home[node])
            edits.set_input(node, 0, out)
            if len(before.outputs[0].outputs) == 1 and id(before.outputs[0]) not in subject.outputs:
                edits.remove([before])
            count += 1
    return count


def _integer_input(node: Node) -> bool:
    return all(qdq.dequantizer(tensor) is not None for tensor in node.inputs[:2]) and len(node.inputs) > 1


def _no_quantize(subject: Subject) -> Iterator[Problem]:
    for node, _ in qdq.weighted(subject, "Conv"):
        if _integer_input(node):
            end, _ = qdq.end_of_group(subject, node)
            if not qdq.quantizers(end) and not qdq.quantizers(node.outputs[0]):
                yield Problem(
                    node_name(node), "both inputs of the Conv are dequantized and no Q is behind it: it stays float, and its weight is dequantized at each run."
                )


def _output_shared(subject: Subject) -> Iterator[Problem]:
    for node, _ in qdq.weighted(subject, "Conv", "Gemm", "MatMul"):
        end, _ = qdq.end_of_group(subject, node)
        behind = qdq.quantizers(end)
        if not _integer_input(node) or not behind:
            continue
        others = [reader for reader in consumers(end) if reader not in behind]
        if len(behind) > 1 or others or id(end) in subject.outputs:
            what = f"{len(behind)} Q nodes" if len(behind) > 1 else f"a Q and '{node_name(others[0])}'" if others else "a Q and an output of the graph"
            yield Problem(node_name(node), f"{what} read its output, so that the whole group stays float: one Q per tensor, and nothing beside it.")


def _merge_quantizers(subject: Subject) -> int:
    """One Q for several equal ones of a tensor."""
    count = 0
    with Edits(subject.model) as edits:
        for node, _ in qdq.weighted(subject, "Conv", "Gemm", "MatMul"):
            end, _ = qdq.end_of_group(subject, node)
            # What one branch computes cannot be read in another.
            behind = sorted(qdq.quantizers(end), key=lambda quantizer: subject.home[quantizer] is not subject.home[node])
            for first, other in zip(behind[:1] * len(behind), behind[1:], strict=False):
                visible = any(subject.home[first] is subject.home[reader] for reader in (node, other))
                if visible and id(other.outputs[0]) not in subject.outputs and _alike(first, other):
                    edits.replace(other.outputs[0], first.outputs[0])
                    edits.remove([other])
                    count += 1
    return count


def _alike(a: Node, b: Node) -> bool:
    same = a.attrs == b.attrs and len(a.inputs) == len(b.inputs)
    pairs = [(qdq.scale(a), qdq.scale(b)), (qdq.zero_point(a), qdq.zero_point(b))]
    return same and all(x is y or (x is not None and y is not None and x.dtype == y.dtype and np.array_equal(x, y)) for x, y in pairs)


def _surviving(subject: Subject) -> list[Node]:
    """DQ nodes of constants that onnxruntime runs at every inference."""
    if subject.kernels is None:
        return []
    return [
        node
        for node in subject.nodes
        if qdq.is_dequantize(node)
        and qdq.is_constant(node.inputs[0])
        and any(qdq.is_dequantize(kernel) and producer(kernel.inputs[0]) is None for kernel in subject.kernels[node])
    ]


def _constant(subject: Subject) -> Iterator[Problem]:
    for node in _surviving(subject):
        readers = ", ".join(dict.fromkeys(str(reader.op) for reader in consumers(node.outputs[0])))
        yield Problem(
            node_name(node), f"the constant '{node.inputs[0].name}' is dequantized at every run, since {readers or 'its reader'} does not fuse with it."
        )


def _fold_constants(subject: Subject) -> int:
    """The float values in place of codes and DQ: the same numbers, computed once."""
    count = 0
    with Edits(subject.model) as edits:
        for node in _surviving(subject):
            values = dequantized(node)
            if values is not None and id(node.outputs[0]) not in subject.outputs:
                edits.replace(node.outputs[0], subject.model.constant(str(node.outputs[0].name) + "_float", values))
                edits.remove([node])
                count += 1
    return count


def dequantized(node: Node) -> Array | None:
    """What a DequantizeLinear makes of constant codes, float32; None where it is blocked, or a part is computed or of another type."""
    stored, scales = qdq.codes(node), qdq.scale(node)
    if (
        stored is None
        or scales is None
        or scales.dtype != np.float32
        or node.attrs.get("block_size", 0)
        or (node.input(2) is not None and qdq.zero_point(node) is None)
    ):
        return None
    zero = qdq.zero_point(node)
    shape = [1] * stored.ndim
    if scales.size > 1 or (scales.ndim == 1 and stored.ndim):
        shape[int(node.attrs.get("axis", 1)) % stored.ndim] = -1
    offset = np.int32(0) if zero is None else zero.astype(np.int32).reshape(shape)
    # Codes of float8 are numbers with fractions, and their zero point is 0.
    numbers = (stored.astype(np.int32) - offset).astype(np.float32) if np.can_cast(stored.dtype, np.int32) else stored.astype(np.float32)
    values: Array = numbers * scales.reshape(shape)
    return values


def _relu(subject: Subject) -> Iterator[Problem]:
    for node, _ in qdq.weighted(subject, "Conv", "Gemm", "MatMul"):
        end, activation = qdq.end_of_group(subject, node)
        behind = qdq.quantizers(end)
        bounds = None if activation is None else activation_bounds(activation)
        if not behind or not _integer_input(node) or bounds is None or activation is None:
            continue
        value, zero = qdq.scale(behind[0]), qdq.zero_point(behind[0])
        kind = np.dtype(np.uint8) if zero is None else zero.dtype
        if value is None or value.size != 1 or kind.kind not in "iu":
            continue
        offset = 0 if zero is None else int(zero.reshape(()))
        step, limits = float(value.reshape(())), np.iinfo(kind)
        low, high = (limits.min - offset) * step, (limits.max - offset) * step
        if low < bounds[0] or high > bounds[1] * (1 + 1e-6):
            yield Problem(
                node_name(node),
                f"the range of the Q, {low:.3g} to {high:.3g}, is wider than its {activation.op} lets through, which so stays, and the {node.op} with it, in float.",
            )


def _int8_operand(subject: Subject) -> Iterator[tuple[Node, Node]]:
    """Add and Mul of an int8 activation and an int8 constant, with the constant's DQ."""
    for node in subject.nodes:
        sides = [qdq.dequantizer(tensor) for tensor in node.inputs] if node.is_op("Add", "Mul") else []
        for constant, other in (sides, sides[::-1]) if len(sides) == 2 else ():
            if constant is not None and other is not None and qdq.is_constant(constant.inputs[0]) and not qdq.is_constant(other.inputs[0]):
                computed = constant.input(2) is not None and qdq.zero_point(constant) is None
                if qdq.code_type(subject, constant) == qdq.code_type(subject, other) == "int8" and qdq.quantizers(node.outputs[0]) and not computed:
                    yield node, constant


def _s8_constant(subject: Subject) -> Iterator[Problem]:
    for node, _ in _int8_operand(subject):
        yield Problem(
            node_name(node),
            f"{node.op} has an int8 constant: on x86 onnxruntime turns int8 activations, but not constants, to uint8, and then does not fuse it.",
        )


def _unsign(subject: Subject) -> int:
    """The same values with uint8 codes."""
    count = 0
    with Edits(subject.model) as edits:
        for _, constant in list(_int8_operand(subject)):
            stored, zero = qdq.codes(constant), qdq.zero_point(constant)
            if stored is None or stored.dtype != np.int8:
                continue
            shape = subject.shapes.static(constant.inputs[1])
            if zero is None and shape is None:
                continue
            offset = np.zeros(shape or (), np.int8) if zero is None else zero
            edits.set_input(constant, 0, subject.model.constant("codes", (stored.astype(np.int16) + 128).astype(np.uint8)))
            edits.set_input(constant, 2, subject.model.constant("zero", (offset.astype(np.int16) + 128).astype(np.uint8)))
            count += 1
    return count


def _float16_scale(subject: Subject) -> Iterator[Problem]:
    for node in subject.nodes:
        if (qdq.is_quantize(node) or qdq.is_dequantize(node)) and subject.shapes.dtype(node.inputs[1]) in ("float16", "bfloat16"):
            yield Problem(
                node_name(node), f"the scale of {node.op} is {subject.shapes.dtype(node.inputs[1])}: nothing fuses with it, and everything around stays float."
            )


# In the order in which they mend: a constant is folded only where nothing else made its reader fuse.
RULES = (
    LintRule(
        "qdq/implicit",
        "warning",
        "A float layer between DQ and Q",
        "onnxruntime, from 1.21 on, quantizes the float weight itself: per tensor, to int8, 2 to 5 dB worse than per channel. A layer that was to stay float does not.",
        "Quantize the weight per channel, or give the layer a DQ of its own with the same scale for each channel, which onnxruntime does not fuse; --fix does the latter.",
        _implicit,
        _keep_float,
    ),
    LintRule(
        "qdq/no-quantize",
        "warning",
        "A quantized Conv without a Q behind it",
        "The CPU provider fuses a Conv only with a Q behind it. Without one it stays float, and its weight is dequantized at each run.",
        "Put a QuantizeLinear and a DequantizeLinear behind it, or leave its weight float.",
        _no_quantize,
    ),
    LintRule(
        "qdq/output-shared",
        "warning",
        "More than one Q, or a float reader, behind a quantized operator",
        "A group fuses only where its output has exactly one reader, the Q; equal Q nodes do not count as one.",
        "One Q per tensor, and a DQ for each reader. --fix merges equal ones.",
        _output_shared,
        _merge_quantizers,
    ),
    LintRule(
        "qdq/relu",
        "warning",
        "A Q that reaches beyond the Relu or Clip before it",
        "The activation is only made redundant by a Q whose range lies inside what it lets through (zero point at the end of the type for a Relu). Else it stays, and the operator stays float.",
        "Choose the range of the Q inside that of the activation: an unsigned type with zero point 0.",
        _relu,
    ),
    LintRule(
        "qdq/int8-constant",
        "warning",
        "An int8 constant operand of a quantized Add or Mul",
        "On x86 int8 activations are rewritten to uint8, constants are not: types differ, and the operator stays float (onnxruntime issue 12487).",
        "Use uint8 codes; --fix adds 128 to codes and zero point.",
        _s8_constant,
        _unsign,
    ),
    LintRule(
        "qdq/float16-scale",
        "warning",
        "Scales of type float16",
        "No integer kernel takes them: everything between such pairs stays float, with casts.",
        "Quantize the float32 model.",
        _float16_scale,
    ),
    LintRule(
        "qdq/constant",
        "warning",
        "A constant that is dequantized at every run",
        "onnxruntime does not fold a DequantizeLinear. Where the reader does not fuse with it, it runs at every inference: found in the graph that the installed onnxruntime makes.",
        "Store the float values, as --fix does: the same numbers, and a larger file. `graphcompress compress` stores them small in a form that is expanded once, at loading.",
        _constant,
        _fold_constants,
    ),
)
