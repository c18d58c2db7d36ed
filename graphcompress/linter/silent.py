"""Rules about Q and DQ that onnxruntime computes wrongly, without a word or not on every processor, and forms that do not load."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from graphcompress.ir import Node, constant_data, consumers
from graphcompress.ir.analysis.code_pairs import as_pairs, as_rows, pair_sums
from graphcompress.ir.model.edit import Edits, detached
from graphcompress.linter import qdq
from graphcompress.linter.rule import Array, LintRule, Problem, Subject
from graphcompress.passes.quantize.groups import node_name

WIDE = ("int16", "uint16")
NARROW = ("int4", "uint4", "int2", "uint2")
CLOSE = 1e-5
"""Relative difference of scales that single precision explains."""
SMALLEST = 1e-38
"""Activation scales below this are denormal, and saturate."""
INT32_LIMIT = 2**30
PAIR = 128
"""Two codes of one sign that meet in one 16-bit sum hold up to this together: 255 * 128 < 2**15."""


def _axis(subject: Subject) -> Iterator[Problem]:
    for node, axis in qdq.weighted(subject, "Conv", "Gemm"):
        weight = qdq.dequantizer(node.input(1))
        if weight is None or qdq.dequantizer(node.input(0)) is None or "block_size" in weight.attrs:
            continue
        scales, stored = qdq.scale(weight), constant_data(weight.inputs[0])
        if scales is None or stored is None or scales.size < 2:
            continue
        stated = int(weight.attrs.get("axis", 1)) % len(stored.shape)
        if stated != axis:
            yield Problem(node_name(node), f"the scales of the weight of {node.op} lie along axis {stated}, and its output channels along axis {axis}.")


def _bias_of(node: Node) -> Node | None:
    """The DequantizeLinear of an int32 bias."""
    bias = qdq.dequantizer(node.input(2))
    return bias if bias is not None and qdq.is_constant(bias.inputs[0]) else None


def _product(node: Node) -> Array | None:
    """Activation scale times weight scales."""
    x, w = qdq.dequantizer(node.input(0)), qdq.dequantizer(node.input(1))
    x_scale, w_scale = (None if side is None else qdq.scale(side) for side in (x, w))
    return None if x_scale is None or w_scale is None or x_scale.size != 1 else np.float32(x_scale.reshape(())) * w_scale.astype(np.float32)


def _fits(bias_scale: Array, product: Array) -> bool:
    return bias_scale.size in (1, product.size) and bool(np.allclose(bias_scale.reshape(-1), product.reshape(-1), rtol=CLOSE, atol=0))


def _bias_scale(subject: Subject) -> Iterator[Problem]:
    for node, _ in qdq.weighted(subject, "Conv", "Gemm"):
        bias, product = _bias_of(node), _product(node)
        bias_scale = None if bias is None else qdq.scale(bias)
        if bias is None or bias_scale is None or product is None or product.size == 0:
            continue
        alone = len(consumers(bias.outputs[0])) == 1
        if alone and not _fits(bias_scale, product):
            worst = (
                float(np.max(np.abs(np.broadcast_to(bias_scale.reshape(-1), product.reshape(-1).shape) / product.reshape(-1) - 1)))
                if bias_scale.size in (1, product.size)
                else 1.0
            )
            yield Problem(
                node_name(node),
                f"the scale of its bias is not activation scale times weight scale: {worst:.1%} off, and the int32 codes are added as they are.",
            )


def _shared_bias(subject: Subject) -> Iterator[Problem]:
    readers: dict[Node, list[Node]] = {}
    for node, _ in qdq.weighted(subject, "Conv", "Gemm"):
        bias = _bias_of(node)
        if bias is not None:
            readers.setdefault(bias, []).append(node)
    for bias, sharing in readers.items():
        stated = qdq.scale(bias)
        products = [product for node in sharing if (product := _product(node)) is not None]
        if len(sharing) > 1 and stated is not None and any(not _fits(stated, product) for product in products):
            names = " and ".join(f"'{node_name(node)}'" for node in sharing[:3])
            yield Problem(node_name(bias), f"one int32 bias serves {names}, whose activation scales differ: it is right for one of them at most.")


def _requantized(subject: Subject) -> Iterator[Problem]:
    for node in subject.nodes:
        before = qdq.dequantizer(node.input(0)) if qdq.is_quantize(node) else None
        if before is None or qdq.is_constant(before.inputs[0]):
            continue
        pairs = [(qdq.scale(node), qdq.scale(before)), (qdq.zero_point(node), qdq.zero_point(before))]
        if any(a is not None and b is not None and not np.array_equal(a, b) for a, b in pairs):
            yield Problem(node_name(node), "a DQ is followed at once by a Q of another range: onnxruntime keeps one of the two ranges only, and is a step off.")


def _sixteen(subject: Subject) -> Iterator[Problem]:
    for node, _ in qdq.weighted(subject, "MatMul", "Gemm"):
        x, w = qdq.dequantizer(node.input(0)), qdq.dequantizer(node.input(1))
        if x is not None and w is not None and qdq.code_type(subject, x) in WIDE and qdq.code_type(subject, w) not in WIDE:
            yield Problem(
                node_name(node), f"{node.op} of a 16-bit activation and a narrow weight runs as MatMulNBits, which quantizes the activation again, to 8 bits."
            )


def _scale(subject: Subject) -> Iterator[Problem]:
    for node in subject.nodes:
        value = qdq.scale(node) if qdq.is_quantize(node) or qdq.is_dequantize(node) else None
        if value is None or not value.size:
            continue
        numbers = value.astype(np.float64)
        weight = qdq.is_dequantize(node) and qdq.is_constant(node.inputs[0])
        if not np.isfinite(numbers).all() or (numbers < 0).any():
            yield Problem(node_name(node), f"a scale of {node.op} is {'negative' if np.isfinite(numbers).all() else 'not finite'}: what it makes is garbage.")
        elif not weight and numbers.min() < SMALLEST:
            yield Problem(node_name(node), f"the scale of {node.op} is {numbers.min():g}: every value but 0 saturates. Treat such a tensor as a constant.")


def _bias_overflow(subject: Subject) -> Iterator[Problem]:
    for node, _ in qdq.weighted(subject, "Conv", "Gemm"):
        bias = _bias_of(node)
        stored = None if bias is None else qdq.codes(bias)
        if stored is not None and stored.dtype == np.int32 and stored.size and int(np.abs(stored.astype(np.int64)).max()) >= INT32_LIMIT:
            yield Problem(
                node_name(node),
                "a code of its bias is at the end of int32, so the bias was clipped, or the accumulator may run over. Enlarge the weight scale of that channel.",
            )


def _per_channel_activation(subject: Subject) -> Iterator[Problem]:
    for node, _ in qdq.weighted(subject, "Conv"):
        x = qdq.dequantizer(node.input(0))
        x_scale = None if x is None else qdq.scale(x)
        if x_scale is not None and x_scale.size > 1 and qdq.dequantizer(node.input(1)) is not None:
            yield Problem(node_name(node), "the activation of a quantized Conv has a scale per channel: the session loads, and fails when it runs.")


def _early(subject: Subject) -> Iterator[Node]:
    for node in subject.nodes:
        if (
            node.standard
            and (qdq.is_quantize(node) or qdq.is_dequantize(node))
            and subject.model.opset < 21
            and qdq.code_type(subject, node) in (*WIDE, *NARROW)
        ):
            yield node


def _opset(subject: Subject) -> Iterator[Problem]:
    for node in _early(subject):
        yield Problem(
            node_name(node),
            f"{node.op} of {qdq.code_type(subject, node)} is in ONNX from opset 21 on, and the model has opset {subject.model.opset}: it does not load.",
        )


def _to_microsoft(subject: Subject) -> int:
    """onnxruntime's own operators of the same name, which have these types in every opset."""
    early = list(_early(subject))
    with Edits(subject.model) as edits:
        for node in early:
            copy = detached(str(node.op), str(node.name), dict(node.attrs), list(node.inputs), list(node.outputs), "com.microsoft")
            copy.rank = node.rank
            edits.add(copy, subject.home[node])
            edits.remove([node])
    if early:
        subject.model.import_opset("com.microsoft", 1)
    return len(early)


def _saturates(subject: Subject) -> Iterator[Problem]:
    if subject.target.weight.pair_limit > PAIR:
        return
    for node, axis in qdq.weighted(subject, "Conv", "Gemm", "MatMul"):
        x, w = qdq.dequantizer(node.input(0)), qdq.dequantizer(node.input(1))
        stored = None if w is None else qdq.codes(w)
        end, _ = qdq.end_of_group(subject, node)
        if x is None or stored is None or stored.dtype != np.int8 or not qdq.quantizers(end) or int(node.attrs.get("group", 1)) > 1:
            continue
        longest = int(pair_sums(as_pairs(as_rows(stored, axis))).max(initial=0))
        if longest > PAIR:
            yield Problem(
                node_name(node),
                f"two neighbouring weights add up to {longest}: on processors without VNNI the sum of two products saturates above {PAIR}, and the result is wrong.",
            )


RULES = (
    LintRule(
        "qdq/axis",
        "error",
        "Scales of a weight along another axis than the output channels",
        "onnxruntime (1.19 to 1.32) takes the scales as those of the output channels, whatever `axis` says: up to 40 quantization steps off, without a word.",
        "Quantize the weight per output channel: axis 0 of a Conv, axis 1 of a Gemm (0 with transB).",
        _axis,
    ),
    LintRule(
        "qdq/bias-scale",
        "error",
        "The scale of an int32 bias is not activation scale times weight scale",
        "The codes of the bias are added to the accumulator as they are. A Gemm is wrong by the difference; a Conv is wrong, or stays float, depending on onnxruntime's version.",
        "Compute the scale as float32(activation scale * weight scale), and the codes from it.",
        _bias_scale,
    ),
    LintRule(
        "qdq/shared-bias",
        "error",
        "One int32 bias for two layers with different scales",
        "The codes can be right for one of them only: the other is wrong (Gemm) or stays float (Conv).",
        "Give each layer a bias of its own.",
        _shared_bias,
    ),
    LintRule(
        "qdq/requantized",
        "warning",
        "A DQ and a Q of another range, one behind the other",
        "onnxruntime removes the inner pair and keeps one of the two ranges: the result is a step off what the graph says.",
        "Let the reader use the range of the maker.",
        _requantized,
    ),
    LintRule(
        "qdq/16-bit",
        "warning",
        "A 16-bit activation on a matrix product with a narrow weight",
        "It runs as MatMulNBits, which quantizes the activation again to 8 bits: 180 to 230 of the 16-bit steps off.",
        "Use 8-bit activations, or leave the layer float.",
        _sixteen,
    ),
    LintRule(
        "qdq/scale",
        "error",
        "A scale that is negative, not finite, or denormal",
        "Not finite or negative: garbage. An activation scale below 1e-38 saturates every value but 0.",
        "Leave tensors float that are constant or nearly so; floor weight scales at 1e-30.",
        _scale,
    ),
    LintRule(
        "qdq/bias-overflow",
        "error",
        "A bias at the end of int32",
        "With tiny weights and a large bias the codes do not fit, and are clipped.",
        "Enlarge the weight scale of that channel until |bias| / (activation scale * weight scale) is below 2**30.",
        _bias_overflow,
    ),
    LintRule(
        "qdq/per-channel-activation",
        "error",
        "A scale per channel on the activation of a quantized Conv",
        "onnxruntime fuses it all the same, and the session fails when it runs.",
        "Quantize activations with one scale per tensor.",
        _per_channel_activation,
    ),
    LintRule(
        "qdq/opset",
        "error",
        "16-bit or 4-bit Q/DQ below opset 21",
        "QuantizeLinear and DequantizeLinear have these types from opset 21 on; below, the file does not load.",
        "Raise the opset, or use onnxruntime's own operators of the same name (domain com.microsoft), as --fix does.",
        _opset,
        _to_microsoft,
    ),
    LintRule(
        "qdq/saturates",
        "warning",
        "Weights whose products saturate on processors without VNNI",
        "x86 without VNNI adds two products of uint8 and int8 in 16 bits, with saturation: two neighbouring weights (channels last, for a Conv) of one sign that add up to more than 128 can "
        "give another result there than on the machine where the file was made.",
        "Enlarge the scale of these channels, as graphcompress does by default; or check with --target cpu-vnni if the file runs on no other processors.",
        _saturates,
    ),
)
