"""Put a rule's `after` in the place of a match."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np

from graphcompress.engine.match import OUTPUT_NAME, Match
from graphcompress.engine.overlay import GraphOverlay
from graphcompress.engine.values import Undetermined, Value, to_array
from graphcompress.ir import Node, Tensor, Variable, label
from graphcompress.ir.files.text import BodyNode
from graphcompress.ir.inline import INLINE
from graphcompress.ir.model.edit import detached


@dataclass(frozen=True, slots=True)
class Applied:
    """What a rewrite did: the new nodes, the names of those that went, the tensors that the pattern returned, the nodes that read them, and the tensors that lost a use."""

    nodes: tuple[Node, ...]
    removed: tuple[str, ...]
    outputs: tuple[Tensor, ...]
    readers: tuple[Node, ...]
    released: tuple[Tensor, ...]


def apply(match: Match) -> Applied | str:
    """Rewrite; a reason where it cannot be done, and then nothing has changed.

    The last node is removed; the other matched nodes are, where nothing else reads them. New nodes take the outputs' tensors over, so names, types and shapes stay.
    """
    rule, overlay = match.rule, match.overlay
    graph = overlay.graph(match.root)
    new_names = {t for n in rule.after.nodes for t in n.outputs if t}
    pairs = list(zip(rule.before.outputs, rule.after.outputs, strict=True))
    for before, after in pairs:
        old = match.tensors[before]
        assert old is not None
        if after not in new_names:
            new = _existing(match, after)
            if new is None or not overlay.can_replace(old, new, graph):
                return OUTPUT_NAME
    try:
        constants = {n: to_array(v) for n in rule.after.inputs if n in rule.lets and isinstance(v := match.let(n), Value)}
        attributes = {r: _plain(match.let(r)) for n in rule.after.nodes for r in n.refs.values()}
        if any(n in rule.lets and n not in constants for n in rule.after.inputs):
            raise Undetermined("an input of `after` is no tensor")
    except Undetermined as problem:
        return f"engine: {problem}"

    origin = _origin(match)
    released = list(overlay.remove(match.root))
    removed = [match.root]
    for index in sorted(match.nodes, reverse=True):
        node = match.nodes[index]
        if overlay.alive(node) and not any(overlay.uses(t) for t in node.outputs if t.name) and _only_for(match, node):
            released += overlay.remove(node)
            removed.append(node)

    names: dict[str, Tensor] = {after: match.tensors[before] for before, after in pairs if after in new_names}  # type: ignore[misc]
    anchor = match.root.outputs[0].name
    for name, array in constants.items():
        names[name] = overlay.model.constant(f"{anchor}.{name}", array)
    nodes = [_node(match, pattern, names, attributes, origin, removed) for pattern in rule.after.nodes]
    for node in nodes:
        overlay.add(node, graph)
    outputs: list[Tensor] = []
    readers: list[Node] = []
    for before, after in pairs:
        old = match.tensors[before]
        assert old is not None
        # Only who read the old tensor sees something new; the one that stands for it may have any number of readers of its own.
        readers += overlay.readers(old)
        if after in new_names:
            outputs.append(old)
        else:
            new = _existing(match, after)
            assert new is not None
            outputs.append(overlay.replace(old, new))
    return Applied(tuple(nodes), tuple(map(label, removed)), tuple(outputs), tuple(readers), tuple(released))


def _origin(match: Match) -> tuple[str, ...]:
    """The rule, and the nodes of the model before all rewrites that the new nodes stand for: what a matched node stands for itself, where a rule made it."""
    names = (n.origin[1:] if n.origin and n.origin[0] != INLINE else (label(n),) for n in match.nodes.values())
    return match.rule.id, *dict.fromkeys(itertools.chain.from_iterable(names))


def _existing(match: Match, name: str) -> Tensor | None:
    tensor = match.tensors.get(name)
    return None if tensor is None else match.overlay.resolve(tensor)


def _only_for(match: Match, node: Node) -> bool:
    """A node that nothing reads is removed, unless `after` returns its result or reads it."""
    still_read = {t for n in (*match.rule.after.inputs, *match.rule.after.outputs) if (t := match.tensors.get(n)) is not None}
    return not any(t in still_read for t in node.outputs)


def _node(match: Match, pattern: BodyNode, names: dict[str, Tensor], attributes: dict[str, Any], origin: tuple[str, ...], removed: list[Node]) -> Node:
    overlay = match.overlay
    source = next((s for new, s in match.rule.inherit.items() if new in pattern.outputs), None)
    model = overlay.model
    for name in pattern.outputs:
        if name and name not in names:
            names[name] = model.variable(f"{match.root.outputs[0].name}.{name}")
    inputs = [_operand(match, n, names, overlay) for n in pattern.inputs]
    while inputs and not inputs[-1].name:
        inputs.pop()
    node = detached(pattern.op, "", {}, inputs, [names[n] if n else Variable("") for n in pattern.outputs], pattern.domain)
    if source is not None:
        index = next(i for i, n in enumerate(match.rule.before.nodes) if source in n.outputs)
        old = match.nodes[index]
        node.attrs.update(old.attrs)
        node.domain = old.domain
        node.proto, node.read_attrs = old.proto, old.read_attrs
        node.name = old.name if old in removed else model.fresh(old.name)
    else:
        node.name = model.fresh(f"{match.root.name}.{pattern.op}") if match.root.name else ""
    node.rank = match.root.rank
    node.origin = origin
    node.attrs.update(pattern.attrs)
    node.attrs.update({name: attributes[ref] for name, ref in pattern.refs.items()})
    return node


def _operand(match: Match, name: str, names: dict[str, Tensor], overlay: GraphOverlay) -> Tensor:
    if not name:
        return Variable("")
    if name in names:
        return names[name]
    if name not in match.tensors:  # made by a later node of `after`
        names[name] = overlay.model.variable(f"{match.root.outputs[0].name}.{name}")
        return names[name]
    tensor = match.tensors[name]
    return Variable("") if tensor is None else overlay.resolve(tensor)


def _plain(value: Any) -> Any:
    """A computed attribute: a number, a text or a list of integers."""
    if isinstance(value, Value):
        if value.array.size == 1:
            return float(value.array.item()) if value.floating else int(value.array.item())
        return [float(v) if value.floating else int(v) for v in value.array.ravel()]
    if isinstance(value, bool | np.bool_):
        return int(value)
    return value
