"""Put a rule's `after` in the place of a match."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from graphcompress.engine.match import OUTPUT_NAME, Match
from graphcompress.engine.net import Net
from graphcompress.engine.values import Undetermined, Value, to_array
from graphcompress.ir import Node, Tensor, Variable
from graphcompress.ir.files.text import BodyNode


@dataclass(frozen=True, slots=True)
class Applied:
    """What a rewrite left behind: new nodes, the tensors that it hands out, the nodes that read what changed, and the tensors that lost a use."""

    nodes: tuple[Node, ...]
    outputs: tuple[Tensor, ...]
    readers: tuple[Node, ...]
    released: tuple[Tensor, ...]


def apply(match: Match) -> Applied | str:
    """Rewrite; a reason where it cannot be done, and then nothing has changed.

    The last node goes. The other matched nodes go where nothing else reads them. New nodes take the outputs' tensors over, so names, types and shapes stay.
    """
    rule, net = match.rule, match.net
    graph = net.place(match.root)
    made = {t for n in rule.after.nodes for t in n.outputs if t}
    pairs = list(zip(rule.before.outputs, rule.after.outputs, strict=True))
    for before, after in pairs:
        old = match.tensors[before]
        assert old is not None
        if after not in made:
            new = _existing(match, after)
            if new is None or not net.can_forward(old, new, graph):
                return OUTPUT_NAME
    try:
        constants = {n: to_array(v) for n in rule.after.inputs if n in rule.lets and isinstance(v := match.let(n), Value)}
        attributes = {r: _plain(match.let(r)) for n in rule.after.nodes for r in n.refs.values()}
        if any(n in rule.lets and n not in constants for n in rule.after.inputs):
            raise Undetermined("an input of `after` is no tensor")
    except Undetermined as problem:
        return f"engine: {problem}"

    released = list(net.remove(match.root))
    gone = [match.root]
    for index in sorted(match.nodes, reverse=True):
        node = match.nodes[index]
        if net.alive(node) and not any(net.uses(t) for t in node.outputs if t.name) and _only_for(match, node):
            released += net.remove(node)
            gone.append(node)

    names: dict[str, Tensor] = {after: match.tensors[before] for before, after in pairs if after in made}  # type: ignore[misc]
    anchor = match.root.outputs[0].name
    for name, array in constants.items():
        names[name] = net.model.constant(f"{anchor}.{name}", array)
    origin = (rule.id, *(n.name or n.outputs[0].name for n in match.nodes.values()))
    nodes = [_node(match, pattern, names, attributes, origin, gone) for pattern in rule.after.nodes]
    for node in nodes:
        net.add(node, graph)
    outputs: list[Tensor] = []
    readers: list[Node] = []
    for before, after in pairs:
        old = match.tensors[before]
        assert old is not None
        # Only who read the old tensor sees something new; the one that stands for it may have any number of readers of its own.
        readers += net.readers(old)
        if after in made:
            outputs.append(old)
        else:
            new = _existing(match, after)
            assert new is not None
            outputs.append(net.forward(old, new))
    return Applied(tuple(nodes), tuple(outputs), tuple(readers), tuple(released))


def _existing(match: Match, name: str) -> Tensor | None:
    tensor = match.tensors.get(name)
    return None if tensor is None else match.net.resolve(tensor)


def _only_for(match: Match, node: Node) -> bool:
    """A node that nothing reads goes, unless `after` hands its result out or reads it."""
    kept = {id(t) for n in (*match.rule.after.inputs, *match.rule.after.outputs) if (t := match.tensors.get(n)) is not None}
    return not any(id(t) in kept for t in node.outputs)


def _node(match: Match, pattern: BodyNode, names: dict[str, Tensor], attributes: dict[str, Any], origin: tuple[str, ...], gone: list[Node]) -> Node:
    net = match.net
    source = next((s for new, s in match.rule.inherit.items() if new in pattern.outputs), None)
    model = net.model
    made = Node(pattern.op, "", {}, [], [], pattern.domain)
    if source is not None:
        index = next(i for i, n in enumerate(match.rule.before.nodes) if source in n.outputs)
        old = match.nodes[index]
        made.attrs.update(old.attrs)
        made.domain = old.domain
        made.proto, made.read_attrs = old.proto, old.read_attrs
        made.name = old.name if old in gone else model.fresh(old.name)
    else:
        made.name = model.fresh(f"{match.root.name}.{pattern.op}") if match.root.name else ""
    made.rank = match.root.rank
    made.origin = origin
    made.attrs.update(pattern.attrs)
    made.attrs.update({name: attributes[ref] for name, ref in pattern.refs.items()})
    inputs = [_operand(match, n, names, net) for n in pattern.inputs]
    while inputs and not inputs[-1].name:
        inputs.pop()
    made.inputs.extend(inputs)
    for name in pattern.outputs:
        if name and name not in names:
            names[name] = model.variable(f"{match.root.outputs[0].name}.{name}")
        list.append(made.outputs, names[name] if name else Variable(""))
    return made


def _operand(match: Match, name: str, names: dict[str, Tensor], net: Net) -> Tensor:
    if not name:
        return Variable("")
    if name in names:
        return names[name]
    if name not in match.tensors:  # made by a later node of `after`
        names[name] = net.model.variable(f"{match.root.outputs[0].name}.{name}")
        return names[name]
    tensor = match.tensors[name]
    return Variable("") if tensor is None else net.resolve(tensor)


def _plain(value: Any) -> Any:
    """A computed attribute: a number, a text or a list of integers."""
    if isinstance(value, Value):
        if value.array.size == 1:
            return float(value.array) if value.floating else int(value.array)
        return [float(v) if value.floating else int(v) for v in value.array.ravel()]
    if isinstance(value, bool | np.bool_):
        return int(value)
    return value
