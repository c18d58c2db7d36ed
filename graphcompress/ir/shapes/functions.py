"""The bodies of model-local functions as graphs, to be inferred per call."""

from __future__ import annotations

from collections.abc import Iterable

import onnx
from onnx import AttributeProto, helper

from graphcompress.ir.files.read import graph_from_proto
from graphcompress.ir.model.objects import DEFAULT_DOMAINS, Graph, Node


class FunctionBodies:
    """Graphs of functions, with the opsets that they import. A function that is called with attributes has one graph per call."""

    def __init__(self, functions: Iterable[onnx.FunctionProto]) -> None:
        self._functions = {(_domain(f.domain), f.name, f.overload): f for f in functions}
        self._bodies: dict[tuple[str, str, str], tuple[Graph, dict[str, int]]] = {}

    def body(self, node: Node) -> tuple[Graph, dict[str, int]] | None:
        """The body that `node` calls; None where it calls none."""
        if not self._functions:
            return None
        key = (_domain(node.domain or ""), node.op, node.proto.overload if node.proto is not None else "")
        function = self._functions.get(key)
        if function is None:
            return None
        if key in self._bodies:
            return self._bodies[key]
        body = _graph(function, node), {("" if o.domain in DEFAULT_DOMAINS else o.domain): o.version for o in function.opset_import}
        if not function.attribute and not function.attribute_proto:
            self._bodies[key] = body
        return body


def _domain(domain: str) -> str:
    return "" if domain in DEFAULT_DOMAINS else domain


def _graph(function: onnx.FunctionProto, call: Node) -> Graph:
    values = {a.name: a for a in function.attribute_proto}
    for name, value in call.attrs.items():
        if isinstance(value, int | float | str | list):
            values[name] = helper.make_attribute(name, value)
        elif isinstance(value, AttributeProto):
            values[name] = value
    graph = onnx.GraphProto(name=function.name, node=function.node)
    graph.input.extend(onnx.ValueInfoProto(name=n) for n in function.input)
    graph.output.extend(onnx.ValueInfoProto(name=n) for n in function.output)
    pending = list(graph.node)
    while pending:
        node = pending.pop()
        attributes = [_bound(a, values) for a in node.attribute]
        if any(a is not b for a, b in zip(attributes, node.attribute, strict=True)):
            filled = [onnx.AttributeProto.FromString(a.SerializeToString()) for a in attributes if a is not None]
            del node.attribute[:]
            node.attribute.extend(filled)
        for attribute in node.attribute:
            pending.extend(attribute.g.node)
            pending.extend(n for g in attribute.graphs for n in g.node)
    return graph_from_proto(graph)


def _bound(attribute: AttributeProto, values: dict[str, AttributeProto]) -> AttributeProto | None:
    """An attribute that refers to the function's parameter has the value of the call; None where the call gives none."""
    if not attribute.ref_attr_name:
        return attribute
    value = values.get(attribute.ref_attr_name)
    if value is None:
        return None
    result = AttributeProto()
    result.CopyFrom(value)
    result.name = attribute.name
    return result
