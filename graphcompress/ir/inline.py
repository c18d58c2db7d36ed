"""Calls of model-local functions, and branches that are always taken, written out in the graph that holds them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError, EncodeError
from onnx import inliner

from graphcompress.ir.check.functions import Key, function_key, unfolded_sizes
from graphcompress.ir.files.build import to_proto
from graphcompress.ir.files.read import model_from_proto
from graphcompress.ir.model.edit import Edits, detached, takes_initializers
from graphcompress.ir.model.messages import node_protos
from graphcompress.ir.model.model import Model
from graphcompress.ir.model.objects import DEFAULT_DOMAINS, Graph, Node, Tensor
from graphcompress.ir.model.walk import graphs, nodes

# A runtime may have a kernel for an operator of these domains, whatever a function of the same name says.
RUNTIME_DOMAINS = frozenset((*DEFAULT_DOMAINS, "ai.onnx.ml", "com.microsoft"))
INLINE = "inline"
MOST_NODES = 200_000  # of all calls together; functions that call one another twice grow without bounds
_SOURCE = "graphcompress.function"
_LARGEST_SHOWN = 4096  # bytes


def function_bodies(model: Model) -> dict[Key, list[onnx.NodeProto]]:
    """The functions of `model`, each with the nodes of its body, those of subgraphs too."""
    return {_key(f): list(node_protos(f.node)) for f in model.header.functions}


def called_function(node: Node | onnx.NodeProto) -> Key:
    """What `node` calls, if there is a function of this key; a function of the name of an operator takes its place."""
    if isinstance(node, Node):
        return function_key(node.domain or "", node.op, node.proto.overload if node.proto is not None else "")
    return function_key(node.domain, node.op_type, node.overload)


def calls(node: Node, functions: Collection[Key]) -> bool:
    """Whether `node` calls one of `functions`."""
    return bool(functions) and called_function(node) in functions


def functions_holding(model: Model, ops: Collection[str]) -> set[Key]:
    """The functions of `model` whose bodies, or those of the functions that they call, hold an operator of ai.onnx out of `ops`."""
    bodies = function_bodies(model)
    holding = {key for key, body in bodies.items() if any(n.domain in DEFAULT_DOMAINS and n.op_type in ops for n in body)}
    return callers(model, holding)


def callers(model: Model, functions: Collection[Key]) -> set[Key]:
    """`functions`, and the functions that call them, directly or through others."""
    bodies = function_bodies(model)
    result = set(functions)
    while True:
        more = {key for key, body in bodies.items() if key not in result and any(called_function(n) in result for n in body)}
        if not more:
            return result
        result |= more


def inline_functions(model: Model, functions: Collection[Key] | None = None) -> Model:
    """A copy of `model` in which calls of `functions` (default: of all) are written out, nested ones too; `model` itself where there is nothing to do.

    Names that come out of a function are made unique; the new nodes have the origin ("inline", domain, name, overload). A function stays where somebody else
    calls it, and where nobody called it before. A function is not written out where it means something else in the model's opsets than in its own, or has the
    domain of operators that a runtime knows. The bytes of initializers are shared.
    """
    chosen = {key for key in _inlinable(model) if functions is None or key in functions}
    called = {called_function(n) for body in function_bodies(model).values() for n in body} | {called_function(n) for n in nodes(model)}
    if not chosen & called or _unfolded_nodes(model) > MOST_NODES:
        return model
    light = model.copy()
    for constant in light.graph.initializers.values():  # the inliner copies the whole model several times, and does not look at values
        constant.values = np.zeros(0, np.float32)
    proto = to_proto(light)
    originals = list(proto.functions)
    _prepare(proto, chosen, model.opsets)
    try:
        inlined = inliner.inline_local_functions(proto)
    except (RuntimeError, ValueError, EncodeError, DecodeError):  # what it cannot inline stays a function
        return model
    del inlined.functions[:]
    inlined.functions.extend(_still_needed(originals, inlined.graph.node, _reachable(originals, map(called_function, nodes(model)))))
    result = model_from_proto(inlined, source=model, check=False)
    for name, constant in model.graph.initializers.items():
        result.graph.initializers[name].values = constant.data or constant.values
    _tell_origins(result)
    return result


def inlined_from(node: Node) -> Key | None:
    """The function that `node` was written out of."""
    return node.origin[1:] if node.origin[:1] == (INLINE,) else None  # type: ignore[return-value]


def inline_body(model: Model, edits: Edits, graph: Graph, node: Node, attribute: str, names: Counter[str], results: Sequence[tuple[Tensor, Tensor]]) -> None:
    """Replace `node`, which stands in `graph`, by the nodes of the graph in its `attribute`; `names` counts the scopes that define each name (`defined_names`).

    `results` are pairs: an output of `node`, and the tensor that has its value in the body. Where the body does not calculate that one, an Identity makes the output.
    The body must have no sparse initializers; whoever calls makes what its inputs are.
    """
    body: Graph = node.attrs.pop(attribute)
    for tensor in (*body.inputs, *body.initializers.values(), *(t for n in body.nodes for t in n.outputs if t.name)):
        if names[tensor.name] > 1:
            tensor.name = model.fresh(tensor.name)
    home = graph if takes_initializers(model, graph) else model.graph
    home.initializers.update((c.name, c) for c in body.initializers.values())
    for inner in body.nodes:
        if inner.name and names[f"node {inner.name}"] > 1:
            inner.name = model.fresh(inner.name)
        inner.rank = node.rank
        edits.add(inner, graph)
    edits.remove([node])
    made: set[Tensor] = set()
    makers = {t: n for n in body.nodes for t in n.outputs}
    for old, new in results:
        if not old.name:
            continue
        maker = makers.get(new)
        if maker is None or new in made:
            add_beside(edits, graph, node, "Identity", (new,), old)
        else:
            edits.set_output(maker, next(i for i, t in enumerate(maker.outputs) if t is new), old)
            edits.replace(new, old)
        made.add(new)


def add_beside(edits: Edits, graph: Graph, node: Node, op: str, inputs: Sequence[Tensor], output: Tensor, **attrs: Any) -> None:
    """Put a nameless node that makes `output` into `graph`, where `node` stands."""
    added = detached(op, "", attrs, inputs, (output,))
    added.rank = node.rank
    edits.add(added, graph)


def inline_branch(model: Model, edits: Edits, graph: Graph, node: Node, attribute: str, names: Counter[str]) -> None:
    """`inline_body` for an If and the branch in its `attribute`, which has no inputs."""
    inline_body(model, edits, graph, node, attribute, names, list(zip(node.outputs, node.attrs[attribute].outputs, strict=False)))


def needs_identity(node: Node, branch: Graph) -> list[Tensor]:
    """The outputs of an If that its `branch` does not calculate itself."""
    calculated = {t for n in branch.nodes for t in n.outputs}
    return [old for old, new in zip(node.outputs, branch.outputs, strict=False) if new not in calculated or sum(t is new for t in branch.outputs) > 1]


def defined_names(model: Model) -> Counter[str]:
    """How often each name is defined in the scopes of the model: tensors by their names, nodes by "node NAME"."""
    names: Counter[str] = Counter()
    for graph in graphs(model):
        names.update({t.name for t in (*graph.inputs, *graph.initializers.values(), *(t for n in graph.nodes for t in n.outputs))})
        names.update(s.values.name for s in graph.shell.sparse_initializer)
        names.update(f"node {n.name}" for n in graph.nodes)
    return names


# --- functions ----------------------------------------------------------------------------------------------------------------------


def _prepare(proto: onnx.ModelProto, chosen: Collection[Key], opsets: dict[str, int]) -> None:
    """Leave only the functions that are written out, in the opsets of the model, with defaults at their calls and their name at every node."""
    for function in [f for f in proto.functions if _key(f) not in chosen]:
        proto.functions.remove(function)
    defaults = {_key(f): list(f.attribute_proto) for f in proto.functions}
    for node in node_protos([*proto.graph.node, *(n for f in proto.functions for n in f.node)]):
        present = {a.name for a in node.attribute}
        node.attribute.extend(a for a in defaults.get(called_function(node), ()) if a.name not in present)  # onnx 1.23's inliner forgets them
    imported = {o.domain for o in proto.opset_import}
    for function in proto.functions:
        used = {"" if n.domain in DEFAULT_DOMAINS else n.domain for n in node_protos(function.node)}
        for entry in list(function.opset_import):
            domain = "" if entry.domain in DEFAULT_DOMAINS else entry.domain
            if domain not in used:
                function.opset_import.remove(entry)
            elif domain in opsets:
                entry.version = opsets[domain]
            elif domain not in imported:
                imported.add(domain)
                proto.opset_import.add(domain=domain, version=entry.version)
        for node in node_protos(function.node):
            node.metadata_props.add(key=_SOURCE, value="\n".join(_key(function)))


def _tell_origins(model: Model) -> None:
    """Turn the function names that `_prepare` left into origins."""
    for node in nodes(model):
        assert node.proto is not None
        entry = next((e for e in node.proto.metadata_props if e.key == _SOURCE), None)
        if entry is not None:
            node.origin = (INLINE, *entry.value.split("\n"))
            node.proto.metadata_props.remove(entry)


def _inlinable(model: Model) -> set[Key]:
    return {_key(f) for f in model.header.functions if f.domain not in RUNTIME_DOMAINS and _means_the_same(f, model.opsets)}


def _means_the_same(function: onnx.FunctionProto, opsets: dict[str, int]) -> bool:
    """Whether every operator of the body is, at the function's versions, what it is at the model's."""
    versions = {"" if o.domain in DEFAULT_DOMAINS else o.domain: o.version for o in function.opset_import}
    for node in node_protos(function.node):
        domain = "" if node.domain in DEFAULT_DOMAINS else node.domain
        inside, outside = versions.get(domain), opsets.get(domain)
        if inside is None or (domain == "" and outside is None):
            return False
        if outside is not None and inside != outside and _since(node.op_type, domain, inside) != _since(node.op_type, domain, outside):
            return False
    return True


def _since(op: str, domain: str, version: int) -> int:
    """The version that brought the definition of an operator that holds at `version`; `version` itself where onnx does not know it."""
    try:
        return int(onnx.defs.get_schema(op, version, domain).since_version)
    except onnx.defs.SchemaError:
        return version


def _still_needed(functions: Collection[onnx.FunctionProto], roots: Iterable[onnx.NodeProto], reached_before: set[Key]) -> list[onnx.FunctionProto]:
    """The functions that are called now, and those that nobody called before with what they call."""
    unused = [f for f in functions if _key(f) not in reached_before]
    needed = _reachable(functions, (called_function(n) for n in node_protos([*roots, *(n for f in unused for n in f.node)]))) | {_key(f) for f in unused}
    return [f for f in functions if _key(f) in needed]


def _reachable(functions: Iterable[onnx.FunctionProto], roots: Iterable[Key]) -> set[Key]:
    bodies = {_key(f): [called_function(n) for n in node_protos(f.node)] for f in functions}
    pending = list(roots)
    reached: set[Key] = set()
    while pending:
        key = pending.pop()
        if key in bodies and key not in reached:
            reached.add(key)
            pending.extend(bodies[key])
    return reached


def _unfolded_nodes(model: Model) -> float:
    """Nodes of all calls, each written out."""
    bodies = function_bodies(model)
    calls = {key: [c for n in body if (c := called_function(n)) in bodies] for key, body in bodies.items()}
    sizes, recursive = unfolded_sizes({_key(f): f for f in model.header.functions}, calls)
    if recursive:
        return float("inf")
    return sum(sizes.get(called_function(n), 0) for n in nodes(model))


def _key(function: onnx.FunctionProto) -> Key:
    return function_key(function.domain, function.name, function.overload)


# --- operators that their definitions write in other operators -------------------------------------------------------------------------


def composed_operators(model: Model) -> set[str]:
    """The operators of ai.onnx in `model`'s main graph whose definitions have a body of other operators."""
    ops = {n.op for n in model.graph.nodes if n.standard}
    return {op for op in ops if _has_body(op, model.opset)}


def expand_operators(model: Model, ops: Collection[str]) -> Model:
    """A copy of `model` in which operators of ai.onnx are written out by the bodies of their definitions; `model` itself where there is nothing to do. Initializers keep their names and bytes."""
    present = composed_operators(model) & set(ops)
    if not present:
        return model
    light = model.copy()
    large = [c for c in light.graph.initializers.values() if c.nbytes > _LARGEST_SHOWN]
    infos = [onnx.helper.make_tensor_value_info(c.name, onnx.helper.np_dtype_to_tensor_dtype(np.dtype(c.dtype)), c.shape) for c in large]
    for constant in large:  # bodies look at small values only (axes, sizes); the inliner copies the whole model several times
        constant.values = np.zeros(0, np.float32)
    proto = to_proto(light)
    stubs = {t.name: t for t in proto.graph.initializer}
    small = [t for t in proto.graph.initializer if t.name not in {info.name for info in infos}]
    empty = [onnx.TensorProto.FromString(stubs[info.name].SerializeToString()) for info in infos]
    del proto.graph.initializer[:]
    proto.graph.initializer.extend(small)
    count = len(proto.graph.input)
    proto.graph.input.extend(infos)
    try:
        expanded = inliner.inline_selected_functions(proto, [("", op) for op in sorted(present)], inline_schema_functions=True)
    except (RuntimeError, ValueError, EncodeError, DecodeError):
        return model
    del expanded.graph.input[count:]
    expanded.graph.initializer.extend(empty)
    result = model_from_proto(expanded, source=model, check=False)
    for name, constant in model.graph.initializers.items():
        result.graph.initializers[name].values = constant.data or constant.values
    return result


def _has_body(op: str, version: int) -> bool:
    try:
        schema: Any = onnx.defs.get_schema(op, version, "")  # the stub lacks what is asked for here
    except onnx.defs.SchemaError:
        return False
    return bool(schema.has_function or schema.has_context_dependent_function)
