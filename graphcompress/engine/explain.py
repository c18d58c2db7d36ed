"""Where a rule nearly holds, and what is missing."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from graphcompress.engine import expression
from graphcompress.engine.match import Match, fits, matches, orders
from graphcompress.engine.overlay import GraphOverlay
from graphcompress.engine.rulefile import Rule
from graphcompress.engine.values import Undetermined, Value
from graphcompress.ir import Constant, Model, Node, Tensor, label
from graphcompress.ir.files.text import BodyNode
from graphcompress.ir.shapes.infer import infer

SHOWN_ELEMENTS = 6


@dataclass(frozen=True, slots=True)
class Miss:
    """A place where a rule does not hold: the node in which its pattern would end, how many of the pattern's nodes are there, the clause that refuses (None: the pattern does
    not match), and what is missing in words."""

    node: Node
    matched: int
    clause: str | None
    reason: str


def near_misses(model: Model, rule: Rule) -> list[Miss]:
    """Every place of `model` where `rule` could end and does not hold, the nearest first."""
    overlay = GraphOverlay(model, functools.cache(lambda: infer(model)))
    misses: list[Miss] = []
    if not rule.opsets[0] <= overlay.opset <= rule.opsets[1]:
        return misses
    with np.errstate(all="ignore"):
        for node in overlay.order:
            if ("" if node.standard else node.domain or "", node.op) == rule.root_op and (miss := _miss(rule, node, overlay)) is not None:
                misses.append(miss)
    order = {c.text: i for i, c in enumerate(rule.clauses)}
    return sorted(misses, key=lambda m: (-m.matched, -(order.get(m.clause, len(order)) if m.clause else -1)))


def _miss(rule: Rule, node: Node, overlay: GraphOverlay) -> Miss | None:
    """What keeps `rule` from holding at `node`; None where it holds."""
    refusal: Miss | None = None
    for match in matches(rule, node, overlay):
        clause = match.refused_by()
        if clause is None:
            return None
        refusal = refusal or Miss(node, rule.size, clause, "; ".join(_values(match, clause)))
    if refusal is not None:
        return refusal
    count, reason = _closest(rule, rule.root, node, overlay)
    return Miss(node, count, None, reason or "one name of the pattern stands for two different tensors here")


def _values(match: Match, clause: str) -> Iterator[str]:
    """What the parts of a clause are at a match, one sentence each."""
    parsed = next((c for c in match.rule.clauses if c.text == clause), None)
    if parsed is None:  # a refusal of the engine says all
        yield clause.removeprefix("engine: ")
        return
    names = match.names()
    for name in parsed.names:
        if name in match.tensors:
            tensor = match.tensors[name]
            yield f"{name} is absent" if tensor is None else f"{name} is '{tensor.name}'"
    for part in dict.fromkeys(
        ast.unparse(n) for n in ast.walk(parsed.tree) if isinstance(n, ast.Call) or (isinstance(n, ast.Name) and n.id in match.rule.lets)
    ):
        try:
            yield f"{part} is {_shown(expression.evaluate(expression.parse(part), names, match.overlay))}"
        except Undetermined as problem:
            yield f"{part} has no value: {problem}"


def _shown(value: object) -> str:
    if isinstance(value, Value):
        flat = value.array.ravel()
        return f"{value.dtype}{list(value.array.shape)} {', '.join(f'{v:g}' for v in flat[:SHOWN_ELEMENTS])}{', ...' if flat.size > SHOWN_ELEMENTS else ''}"
    return str(value)


def _closest(rule: Rule, index: int, node: Node, overlay: GraphOverlay) -> tuple[int, str]:
    """How many nodes of the pattern from `index` upwards are there, ending in `node`, and the first thing that is missing."""
    pattern = rule.before.nodes[index]
    if (reason := _unfit(pattern, node, overlay)) is not None:
        return 0, reason
    operands = overlay.inputs(node)
    operands += [None] * (len(pattern.inputs) - len(operands))
    best = (0, "")
    for names in orders(pattern):
        count, missing = 1, ""
        for name, tensor in zip(names, operands, strict=False):
            more, reason = _operand(rule, name, tensor, node, overlay)
            count += more
            missing = missing or reason
        best = max(best, (count, missing), key=lambda b: b[0])
    return best


def _operand(rule: Rule, name: str, tensor: Tensor | None, reader: Node, overlay: GraphOverlay) -> tuple[int, str]:
    where = f"{name} of {reader.op} '{label(reader)}'"
    if tensor is None:
        return 0, "" if not name or name in rule.optional else f"{where} is absent"
    if not name:
        return 0, f"{reader.op} '{label(reader)}' has the input '{tensor.name}', which the pattern leaves out"
    if name not in rule.makers:
        return 0, ""
    index, _ = rule.makers[name]
    maker = overlay.maker(tensor)
    wished = rule.before.nodes[index].op
    if maker is None:
        return 0, f"{where} is to be made by {wished}, and '{tensor.name}' is {'a constant' if isinstance(tensor, Constant) else 'an input of a graph'}"
    if overlay.graph(maker) is not overlay.graph(reader):
        return 0, f"{where} is made outside of the subgraph, by '{label(maker)}'"
    return _closest(rule, index, maker, overlay)


def _unfit(pattern: BodyNode, node: Node, overlay: GraphOverlay) -> str | None:
    """Why `node` is not what the pattern has there; None where it is."""
    name = label(node)
    if node.op != pattern.op:
        return f"'{name}' is {node.op}, and the pattern has {pattern.op} there"
    if len(overlay.inputs(node)) > len(pattern.inputs):
        return f"{node.op} '{name}' has {len(overlay.inputs(node))} inputs, and in the pattern it has {len(pattern.inputs)}"
    if not fits(pattern, node, overlay):
        written = ", ".join(f"{k} = {v}" for k, v in pattern.attrs.items())
        return f"{node.op} '{name}' is another operator of this name, or has other attributes than the pattern ({written or 'none'}), or fewer outputs"
    return None
