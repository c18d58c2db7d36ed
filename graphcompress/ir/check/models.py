"""What makes a file no usable model, said in one sentence that names the culprit.

onnxruntime is the judge of what counts as a model: whatever it runs passes, also where onnx's checker refuses (unsorted nodes, 'ai.onnx' as a domain's
name, outputs without a type, the same output twice, IR version 0). The one exception is a name with two values. All walks are iterative and linear.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import onnx

from graphcompress.errors import ModelError, quoted
from graphcompress.ir.check.functions import called_functions
from graphcompress.ir.check.nodes import NodeChecker, describe
from graphcompress.ir.check.tensors import check_tensor, check_type
from graphcompress.ir.model.model import Model
from graphcompress.ir.model.objects import Node
from graphcompress.ir.model.walk import nodes
from graphcompress.ir.schemas.operators import ImportedOperators, canonical_domain, known_domains


def check_proto(proto: onnx.ModelProto, path: Path | None = None) -> None:
    """Raise ModelError where `proto` is no model that can be worked on; `path` names it in the message. External data is not looked at: see `external`."""
    try:
        _check_model(proto)
    except ModelError as error:
        raise ModelError(f"{path or 'The model'}: {error}") from None


def unknown_domain_nodes(model: Model) -> Iterator[Node]:
    """Nodes of all graphs whose domain neither onnxruntime nor a function of the model defines: nothing here can run them."""
    local = {(canonical_domain(f.domain), f.name) for f in model.header.functions}
    for node in nodes(model):
        domain = canonical_domain(node.domain or "")
        if domain not in known_domains() and (domain, node.op) not in local:
            yield node


def require_known_domains(model: Model, task: str) -> None:
    """Raise ModelError where a node belongs to a domain that nothing here can run; `task` ("quantized") ends the message."""
    for node in unknown_domain_nodes(model):
        name = node.name or node.outputs[0].name
        raise ModelError(
            f"{model.path or 'the model'}: node '{name}' is {node.op} of domain '{node.domain}', which nothing here can run, so it cannot be {task}."
        )


def _check_model(proto: onnx.ModelProto) -> None:
    if not proto.HasField("graph"):
        what = "it holds functions only" if proto.functions else "it is no ONNX model, or was cut before its graph"
        raise ModelError(f"there is no graph in it: {what}.")
    if not proto.HasField("ir_version"):
        raise ModelError("it does not say its IR version, which every ONNX model must: it is no ONNX model, or was cut.")
    if not proto.opset_import:
        raise ModelError("it imports no operator set (opset_import is empty), so no operator has a meaning: export it again.")
    functions = called_functions(proto)
    _Walk(NodeChecker(ImportedOperators(_versions(proto.opset_import)), proto)).run(proto.graph)
    for function in functions:
        _Walk(NodeChecker(ImportedOperators(_versions(function.opset_import)), proto)).run(function)
    if not proto.graph.output:
        raise ModelError("its graph has no output, so there is nothing to compute.")
    given = {t.name for t in proto.graph.initializer} | {s.values.name for s in proto.graph.sparse_initializer}
    for info in proto.graph.input:
        if not info.HasField("type") and info.name not in given:
            raise ModelError(f"graph input {quoted(info.name)} has no type.")
    for what, infos in (("input", proto.graph.input), ("output", proto.graph.output)):
        for info in infos:
            check_type(info.type, f"graph {what} {quoted(info.name)}")


def _versions(imports: Iterable[onnx.OperatorSetIdProto]) -> dict[str, int]:
    versions: dict[str, int] = {}
    for entry in imports:
        if not isinstance(entry.domain, str) or abs(entry.version) >= 2**31:
            raise ModelError(f"it imports opset {entry.version} of domain {quoted(entry.domain)}, and there is no such thing.")
        versions[canonical_domain(entry.domain)] = entry.version
    return versions


class _Scope:
    """One graph: what each name is made by, what each node waits for, and where the graph hangs in the one around it."""

    def __init__(self, proto: onnx.GraphProto | onnx.FunctionProto, outer: _Scope | None, owner: int) -> None:
        self.proto = proto
        self.outer = outer
        self.owner = owner  # index of the node, in the outer graph, that this graph belongs to
        self.given: dict[str, str] = {}  # name -> "input" or "initializer"
        self.made: dict[str, int] = {}  # name -> index of the node
        self.waits: list[list[int]] = [[] for _ in proto.node]  # node -> nodes whose outputs it needs, captures included

    @property
    def where(self) -> str:
        """ " in graph 'NAME'" for a subgraph or function, nothing for the main graph."""
        if isinstance(self.proto, onnx.FunctionProto):
            return f" in function {quoted(self.proto.name)}"
        return f" in the subgraph {quoted(self.proto.name)} of {describe(self.outer.proto.node[self.owner])}" if self.outer else ""


class _Walk:
    """Checks one graph or function and everything nested in it. A scope is filled before those inside it are looked at, since nodes may stand in any order."""

    def __init__(self, nodes: NodeChecker) -> None:
        self.nodes = nodes

    def run(self, proto: onnx.GraphProto | onnx.FunctionProto) -> None:
        stack = [_Scope(proto, None, -1)]
        done: list[_Scope] = []
        while stack:
            scope = stack.pop()
            where = scope.where
            self.define(scope)
            for index, node in enumerate(scope.proto.node):
                self.nodes.check(node, where)
                for attribute in node.attribute:
                    if attribute.HasField("g"):
                        stack.append(_Scope(attribute.g, scope, index))
                    stack.extend(_Scope(g, scope, index) for g in attribute.graphs)
                for name in node.input:
                    if name:
                        self.use(scope, name, index)
            self.outputs(scope)
            done.append(scope)
        for scope in done:  # only now is every capture known
            _refuse_cycle(scope)

    def define(self, scope: _Scope) -> None:
        proto = scope.proto
        if isinstance(proto, onnx.FunctionProto):
            for name in proto.input:
                _give(scope, _utf8(name, "an input", scope), "input")
        else:
            initializers: set[str] = set()
            for tensor in [*proto.initializer, *(s.values for s in proto.sparse_initializer)]:
                name = _utf8(tensor.name, "an initializer", scope)
                if name in initializers:
                    raise ModelError(f"two initializers are called {quoted(name)}{scope.where}: one name must have one value.")
                initializers.add(name)
                scope.given[name] = "initializer"
                check_tensor(tensor, f"initializer {quoted(name)}{scope.where}")
            for sparse in proto.sparse_initializer:
                check_tensor(sparse.indices, f"the indices of sparse initializer {quoted(sparse.values.name)}{scope.where}")
            inputs: set[str] = set()
            for info in proto.input:
                name = _utf8(info.name, "an input", scope)
                if name in inputs:
                    raise ModelError(f"two graph inputs are called {quoted(name)}{scope.where}.")
                inputs.add(name)
                scope.given.setdefault(name, "input")
        for index, node in enumerate(proto.node):
            for name in node.output:
                if name:
                    self.make(scope, name, index)

    def make(self, scope: _Scope, name: str, index: int) -> None:
        """Node `index` makes `name`, which nobody else may."""
        node = scope.proto.node[index]
        _utf8(name, "a node's output", scope)
        if name in scope.given:
            raise ModelError(f"tensor {quoted(name)} is made twice{scope.where}: it is an {scope.given[name]}, and {describe(node)} makes it.")
        if name in scope.made:
            by = (
                f"by {describe(scope.proto.node[scope.made[name]])} and by {describe(node)}"
                if scope.made[name] != index
                else f"{describe(node)} has it as two outputs"
            )
            raise ModelError(f"tensor {quoted(name)} is made twice{scope.where}: {by}.")
        scope.made[name] = index
        inner, outer = scope, scope.outer
        while outer is not None:  # at most as deep as protobuf nests
            if name in outer.given or outer.made.get(name, len(outer.proto.node)) < inner.owner:
                raise ModelError(
                    f"tensor {quoted(name)} is made twice: {describe(node)}{scope.where} makes it, and a graph around it has a tensor of this name already."
                )
            inner, outer = outer, outer.outer

    def use(self, scope: _Scope, name: str, index: int) -> None:
        """Node `index` reads `name`: find who makes it, here or in a graph around, and note that the node, or the one it is nested in, must wait."""
        found: _Scope | None = scope
        waiting = index
        while found is not None:
            if name in found.made:
                if found.made[name] == waiting and found is not scope:
                    break  # a subgraph that reads what its own node makes: a cycle, and said so below
                found.waits[waiting].append(found.made[name])
                return
            if name in found.given:
                return
            waiting, found = found.owner, found.outer
        node = scope.proto.node[index]
        _utf8(name, f"an input of {describe(node)}", scope)
        if found is not None:
            raise ModelError(f"the graph has a cycle: {describe(node)}{scope.where} reads {quoted(name)}, which the node around it makes.")
        raise ModelError(f"{describe(node)}{scope.where} reads {quoted(name)}, which no node makes and which is neither a graph input nor an initializer.")

    def outputs(self, scope: _Scope) -> None:
        proto = scope.proto
        names = list(proto.output) if isinstance(proto, onnx.FunctionProto) else [v.name for v in proto.output]
        for name in names:
            if name not in scope.made and name not in scope.given:
                raise ModelError(f"nothing makes the graph output {quoted(name)}{scope.where}.")


def _give(scope: _Scope, name: str, what: str) -> None:
    if name in scope.given:
        raise ModelError(f"two {what}s are called {quoted(name)}{scope.where}.")
    scope.given[name] = what


def _utf8(name: str, what: str, scope: _Scope) -> str:
    """The name, if it is text: protobuf hands out bytes where it is not UTF-8, and nothing can speak of such a tensor."""
    if not isinstance(name, str):
        raise ModelError(f"the name of {what}{scope.where} is not UTF-8: {quoted(name)}.")
    return name


def _refuse_cycle(scope: _Scope) -> None:
    """Raise ModelError where nodes of one graph wait for one another (Kahn's count; what is left over holds a cycle)."""
    waits = scope.waits
    missing = [len(w) for w in waits]
    followers: list[list[int]] = [[] for _ in waits]
    for index, needed in enumerate(waits):
        for other in needed:
            followers[other].append(index)
    ready = [i for i, count in enumerate(missing) if count == 0]
    finished = 0
    while ready:
        finished += 1
        for follower in followers[ready.pop()]:
            missing[follower] -= 1
            if missing[follower] == 0:
                ready.append(follower)
    if finished == len(waits):
        return
    at = next(i for i, count in enumerate(missing) if count)
    path: dict[int, None] = {}
    while at not in path:  # backwards among the nodes that were never ready, until one comes again
        path[at] = None
        at = next(i for i in waits[at] if missing[i])
    ring = list(path)[list(path).index(at) :][::-1]
    names = [describe(scope.proto.node[i]) for i in ring]
    shown = ", then ".join(names if len(names) <= 5 else [*names[:4], f"{len(names) - 4} more"])
    raise ModelError(f"the graph has a cycle{scope.where}: {shown}, then the first again.")
