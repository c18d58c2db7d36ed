"""Rules about precision: which heavy operators of a quantized model compute in float, and why."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from graphcompress.ir import Node
from graphcompress.linter import fusion, qdq
from graphcompress.linter.rule import LintRule, Subject
from graphcompress.linter.rule import Problem as Place
from graphcompress.passes.quantize.groups import find, node_name

INTEGER = ("QLinear", "QGemm", "MatMulInteger", "ConvInteger", "MatMulNBits", "DynamicQuantize", "QAttention", "QEmbed")
"""How the names of integer kernels begin (a float kernel of MatMulNBits reads narrow weights at least)."""
MENDED_BY_COMPRESS = ("quantize/unfolded-batchnorm",)
"""Reasons that go away by themselves when a float model is compressed."""
FOUND = ("quantize/already-quantized", "quantize/unknown")


def _heavy(subject: Subject) -> Iterator[Place]:
    if not qdq.quantized(subject) or subject.kernels is None:
        return
    reasons = reasons_for_float(subject)
    for node in subject.nodes:
        if not node.standard or node.op not in subject.target.heavy:
            continue
        kernels = subject.kernels[node]
        if kernels and not any(kernel.op.startswith(INTEGER) for kernel in kernels):
            yield Place(node_name(node), f"{node.op} computes in float: {reasons.get(node, 'it is not between DequantizeLinear and QuantizeLinear')}.")


def reasons_for_float(subject: Subject) -> Mapping[Node, str]:
    """Why heavy operators compute in float: by the rules about Q and DQ, else by what the target's table says of them."""
    silent = FOUND if qdq.quantized(subject) else (*FOUND, *MENDED_BY_COMPRESS)
    reasons = {node: refusal.reason for node, refusal in find(subject.model, subject.target, subject.shapes).refusals.items() if refusal.id not in silent}
    names = {node_name(node): node for node in subject.nodes}
    for rule in fusion.RULES:
        if rule.id in ("qdq/no-quantize", "qdq/output-shared", "qdq/relu", "qdq/float16-scale"):
            for problem in rule.look(subject):
                if problem.place in names:
                    reasons[names[problem.place]] = f"{rule.title[:1].lower()}{rule.title[1:]} ({rule.id})"
    for node in subject.nodes:
        if (
            node not in reasons
            and node.is_op("Conv", "Gemm", "MatMul")
            and (qdq.dequantizer(node.input(0)) is None) != (qdq.dequantizer(node.input(1)) is None)
        ):
            missing = "input" if qdq.dequantizer(node.input(0)) is None else "weight"
            reasons[node] = f"its {missing} is not dequantized"
    return reasons


RULES = (
    LintRule(
        "float/heavy",
        "info",
        "Heavy operators of a quantized model that compute in float",
        "Read from the graph that the installed onnxruntime makes. Each costs its float time, and a Q and a DQ at its borders; some are better off so.",
        "What the reason says. `graphcompress explain` tells how much time each costs.",
        _heavy,
    ),
)
