"""Which graph nodes and tensors stand in, and tensors of subgraphs handed out to the graph around them."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto, ValueInfoProto, helper

from graphcompress.ir.model.edit import Edits
from graphcompress.ir.model.model import Model
from graphcompress.ir.model.objects import Graph, Node, Rooted, Tensor, Variable
from graphcompress.ir.model.walk import graphs, subgraphs

FIRST_SCAN_WITHOUT_BATCH = 9


class CannotHandOut(Exception):
    """Why a tensor of a subgraph cannot be output an output of the node that owns the subgraph."""


def node_homes(model: Rooted) -> dict[Node, Graph]:
    """The graph that each node stands in."""
    return {n: g for g in graphs(model) for n in g.nodes}


def tensor_homes(model: Rooted) -> dict[Tensor, Graph]:
    """The graph that defines each tensor, as input, initializer or output of a node. (Sparse initializers have no object that says where they are.)"""
    return {t: g for g in graphs(model) for t in (*g.inputs, *g.initializers.values(), *(t for n in g.nodes for t in n.outputs if t.name))}


def owners(model: Rooted) -> dict[Graph, tuple[Node, Graph]]:
    """Of each subgraph the node whose attribute it is and the graph of that node."""
    return {g: (n, outer) for outer in graphs(model) for n in outer.nodes for g in subgraphs(n)}


def rename_hidden(model: Model) -> int:
    """Give tensors of subgraphs names of their own where a graph around them, at any place, defines the name too; how many.

    Such a file is valid as long as the outer tensor is made behind the subgraph, so whatever changes the order of nodes may break it. Names of sparse initializers,
    which no object stands for, stay.
    """
    outside: dict[Graph, frozenset[str]] = {model.graph: frozenset()}
    count = 0
    for graph in graphs(model):  # outer ones first
        hidden = outside[graph]
        for tensor in _defined(graph):
            if tensor.name in hidden:
                _rename(model, graph, tensor)
                count += 1
        inner = [g for n in graph.nodes for g in subgraphs(n)]
        if inner:
            outside.update(dict.fromkeys(inner, hidden | {t.name for t in _defined(graph)}))
    return count


def _defined(graph: Graph) -> list[Tensor]:
    """The tensors with a name that `graph` itself defines."""
    return [t for t in (*graph.inputs, *graph.initializers.values(), *(t for n in graph.nodes for t in n.outputs)) if t.name]


def _rename(model: Model, graph: Graph, tensor: Tensor) -> None:
    old, new = tensor.name, model.fresh(tensor.name)
    tensor.name = new
    if graph.initializers.get(old) is tensor:
        graph.initializers = {c.name: c for c in graph.initializers.values()}
    protos = []
    for proto in graph.input_protos:
        if proto.name == old:
            known, proto = proto, ValueInfoProto()
            proto.CopyFrom(known)
            proto.name = new
        protos.append(proto)
    graph.input_protos = tuple(protos)


def hand_out(model: Model, tensor: Tensor, home: Graph, node: Node, outer: Graph, *, collected: bool) -> Variable:
    """A new output of `node`, in `outer`, with the values that the float32 `tensor` has in `home`, a subgraph of `node`. Edits the model.

    If: the value, or an empty tensor where another branch is taken. Loop: the elements of all iterations one behind the other, flat. Scan: the same by scan
    output, so the number of elements must be the same in each iteration; a tensor that is itself `collected` from a subgraph need not obey that. Raises
    CannotHandOut there, and for other operators with subgraphs.
    """
    result = model.variable(f"{tensor.name}_seen")
    count = len(home.outputs)
    with Edits(model) as edits:
        match node.op if node.standard else "":
            case "If":
                for branch in subgraphs(node):
                    # A tensor of its own: what is an output of the branch already must not be one twice.
                    shown = model.add("Identity", [tensor], graph=branch).outputs[0] if branch is home else _empty(model, branch)
                    _add_output(branch, shown, count)
                edits.set_output(node, count, result)
            case "Loop":
                carried = len(home.inputs) - 2
                collector = model.variable(f"{tensor.name}_before")
                home.inputs.append(collector)
                home.input_protos = (*home.input_protos, _info(collector.name))
                joined = model.add("Concat", [collector, _flat(model, tensor, home)], attrs={"axis": 0}, graph=home)
                _add_output(home, joined.outputs[0], 1 + carried)
                edits.set_input(node, 2 + carried, _empty(model, outer))
                states = [*node.outputs, *(Variable("") for _ in range(carried - len(node.outputs)))][:carried]
                edits.set_outputs(node, [*states, result, *node.outputs[carried:]])
            case "Scan" if not collected and model.opset >= FIRST_SCAN_WITHOUT_BATCH:
                _add_output(home, _flat(model, tensor, home), count)
                for option in ("scan_output_axes", "scan_output_directions"):
                    if option in node.attrs:
                        node.attrs[option] = [*node.attrs[option], 0]
                edits.set_output(node, count, result)
            case _:
                raise CannotHandOut(f"it stands in a subgraph of {node.op}, where ranges cannot be observed")
    return result


def _add_output(graph: Graph, tensor: Tensor, position: int) -> None:
    graph.outputs.insert(position, tensor)
    infos = list(graph.output_protos)
    infos.insert(position, _info(tensor.name))
    graph.output_protos = tuple(infos)


def _info(name: str) -> ValueInfoProto:
    """A float32 tensor of any shape."""
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, None)


def _empty(model: Model, graph: Graph) -> Tensor:
    output: Tensor = model.add("Constant", [], attrs={"value": np.zeros(0, np.float32)}, graph=graph).outputs[0]
    return output


def _flat(model: Model, tensor: Tensor, graph: Graph) -> Tensor:
    output: Tensor = model.add("Reshape", [tensor, model.constant("flat", np.array([-1]))], graph=graph).outputs[0]
    return output
