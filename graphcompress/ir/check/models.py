"""What makes a file an invalid model, each fault in one sentence that names the culprit.

onnxruntime is the judge of what counts as a model: whatever it runs passes, also where onnx's checker refuses (unsorted nodes, 'ai.onnx' as a domain's
name, outputs without a type, the same output twice, IR version 0). The one exception is a name with two values. All walks are iterative and linear.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator

import onnx

from graphcompress.errors import ModelError, quoted
from graphcompress.ir.check.faults import Fault, is_text
from graphcompress.ir.check.functions import called_functions
from graphcompress.ir.check.nodes import NodeChecker, describe
from graphcompress.ir.check.tensors import tensor_fault, type_fault
from graphcompress.ir.model.model import Model
from graphcompress.ir.model.objects import Node
from graphcompress.ir.model.walk import nodes
from graphcompress.ir.schemas.operators import ImportedOperators, canonical_domain, known_domains


def model_faults(proto: onnx.ModelProto, detached: Container[str] = ()) -> list[Fault]:
    """Everything that keeps `proto` from being a model that can be worked on. External data is not looked at: see `files.read.external_faults`. The values of the `detached` initializers
    of the main graph, which were checked, are not in the message."""
    if not proto.HasField("graph"):
        what = "it holds functions only" if proto.functions else "it is not an ONNX model, or was cut before its graph"
        return [Fault("no-graph", f"there is no graph in it: {what}.")]
    faults: list[Fault] = []
    if not proto.HasField("ir_version"):
        faults.append(Fault("no-ir-version", "it does not say its IR version, which every ONNX model must: it is not an ONNX model, or was cut."))
    if not proto.opset_import:
        faults.append(Fault("no-opset", "it imports no operator set (opset_import is empty), so no operator has a meaning: export it again."))
    functions, problems = called_functions(proto)
    faults += problems
    _Walk(proto, proto.opset_import, faults, detached).run(proto.graph)
    for function in functions:
        _Walk(proto, function.opset_import, faults).run(function)
    if not proto.graph.output:
        faults.append(Fault("no-output", "its graph has no output, so there is nothing to compute."))
    stored = {t.name for t in proto.graph.initializer} | {s.values.name for s in proto.graph.sparse_initializer}
    for info in proto.graph.input:
        if not info.HasField("type") and info.name not in stored:
            faults.append(Fault("input-type", f"graph input {quoted(info.name)} has no type.", tensor=str(info.name)))
    for what, infos in (("input", proto.graph.input), ("output", proto.graph.output)):
        for info in infos:
            problem = type_fault(info.type)
            if problem is not None:
                faults.append(Fault(f"{what}-type", f"graph {what} {quoted(info.name)} {problem}.", tensor=str(info.name)))
    return faults


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


class _Scope:
    """One graph: what each name is made by, what each node waits for, and where the graph hangs in the one around it."""

    def __init__(self, proto: onnx.GraphProto | onnx.FunctionProto, outer: _Scope | None, owner: int) -> None:
        self.proto = proto
        self.outer = outer
        self.owner = owner  # index of the node, in the outer graph, that this graph belongs to
        self.stored: dict[str, str] = {}  # name -> "input" or "initializer"
        self.makers: dict[str, int] = {}  # name -> index of the node
        self.waits: list[list[int]] = [[] for _ in proto.node]  # node -> nodes whose outputs it needs, captures included

    @property
    def where(self) -> str:
        """ " in graph 'NAME'" for a subgraph or function, nothing for the main graph."""
        if isinstance(self.proto, onnx.FunctionProto):
            return f" in function {quoted(self.proto.name)}"
        return f" in the subgraph {quoted(self.proto.name)} of {describe(self.outer.proto.node[self.owner])}" if self.outer else ""


class _Walk:
    """Checks one graph or function and everything nested in it. A scope is filled before those inside it are looked at, since nodes may stand in any order."""

    def __init__(self, model: onnx.ModelProto, imports: Iterable[onnx.OperatorSetIdProto], faults: list[Fault], detached: Container[str] = ()) -> None:
        self.faults = faults
        self.detached = detached
        self.nodes = NodeChecker(ImportedOperators(self._versions(imports)), model, faults)

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
            self.cycle(scope)

    def define(self, scope: _Scope) -> None:
        """Note everything that a graph defines."""
        proto = scope.proto
        if isinstance(proto, onnx.FunctionProto):
            self.inputs(scope, proto.input)
        else:
            initializers: set[str] = set()
            for tensor in [*proto.initializer, *(s.values for s in proto.sparse_initializer)]:
                name = tensor.name
                if self.unreadable(name, "an initializer", scope):
                    continue
                if name in initializers:
                    what = f"two initializers are called {quoted(name)}{scope.where}: one name must have one value. Remove all but the last, which is the one that onnxruntime takes."
                    self.faults.append(Fault("initializer-twice", what, tensor=name))
                initializers.add(name)
                scope.stored[name] = "initializer"
                if scope.outer is not None or name not in self.detached:
                    self.tensor(tensor, f"initializer {quoted(name)}", name, scope)
            for sparse in proto.sparse_initializer:
                self.tensor(sparse.indices, f"the indices of sparse initializer {quoted(sparse.values.name)}", str(sparse.values.name), scope)
            self.inputs(scope, [info.name for info in proto.input])
        for index, node in enumerate(proto.node):
            for name in node.output:
                if name:
                    self.make(scope, name, index)

    def inputs(self, scope: _Scope, names: Iterable[str]) -> None:
        """Note the inputs of a graph or function; a graph's may have a default, which is an initializer."""
        seen: set[str] = set()
        what = "inputs" if isinstance(scope.proto, onnx.FunctionProto) else "graph inputs"
        for name in names:
            if self.unreadable(name, "an input", scope):
                continue
            if name in seen:
                self.faults.append(Fault("input-twice", f"two {what} are called {quoted(name)}{scope.where}.", tensor=name))
            seen.add(name)
            scope.stored.setdefault(name, "input")

    def tensor(self, tensor: onnx.TensorProto, label: str, name: str, scope: _Scope) -> None:
        problem = tensor_fault(tensor)
        if problem is not None:
            self.faults.append(Fault("tensor", f"{label}{scope.where} {problem}.", tensor=name))

    def make(self, scope: _Scope, name: str, index: int) -> None:
        """Node `index` makes `name`, which nothing else may."""
        node = scope.proto.node[index]
        if self.unreadable(name, "a node's output", scope):
            return
        if name in scope.stored:
            what = f"tensor {quoted(name)} is made twice{scope.where}: it is an {scope.stored[name]}, and {describe(node)} makes it."
            self.faults.append(Fault("tensor-twice", what, node=str(node.name), tensor=name))
            return
        if name in scope.makers:
            by = (
                f"by {describe(scope.proto.node[scope.makers[name]])} and by {describe(node)}"
                if scope.makers[name] != index
                else f"{describe(node)} has it as two outputs"
            )
            self.faults.append(Fault("tensor-twice", f"tensor {quoted(name)} is made twice{scope.where}: {by}.", node=str(node.name), tensor=name))
            return
        scope.makers[name] = index
        inner, outer = scope, scope.outer
        while outer is not None:  # at most as deep as protobuf nests
            if name in outer.stored or outer.makers.get(name, len(outer.proto.node)) < inner.owner:
                what = f"{describe(node)}{scope.where} makes it, and a graph around it has a tensor of this name already."
                self.faults.append(Fault("tensor-twice", f"tensor {quoted(name)} is made twice: {what}", node=str(node.name), tensor=name))
                return
            inner, outer = outer, outer.outer

    def use(self, scope: _Scope, name: str, index: int) -> None:
        """Node `index` reads `name`: find who makes it, here or in a graph around, and note that the node, or the one it is nested in, must wait."""
        around: _Scope | None = scope
        waiting = index
        while around is not None:
            if name in around.makers:
                if around.makers[name] == waiting and around is not scope:
                    break  # a subgraph that reads what its own node makes: a cycle, and said so below
                around.waits[waiting].append(around.makers[name])
                return
            if name in around.stored:
                return
            waiting, around = around.owner, around.outer
        node = scope.proto.node[index]
        if self.unreadable(name, f"an input of {describe(node)}", scope):
            return
        if around is not None:
            what = f"the graph has a cycle: {describe(node)}{scope.where} reads {quoted(name)}, which the node around it makes."
            self.faults.append(Fault("cycle", what, node=str(node.name), tensor=name))
            return
        what = f"{describe(node)}{scope.where} reads {quoted(name)}, which no node makes and which is neither a graph input nor an initializer."
        self.faults.append(Fault("tensor-missing", what, node=str(node.name), tensor=name))

    def outputs(self, scope: _Scope) -> None:
        """Everything that a graph hands out must be made in it."""
        proto = scope.proto
        names = list(proto.output) if isinstance(proto, onnx.FunctionProto) else [v.name for v in proto.output]
        for name in names:
            if name not in scope.makers and name not in scope.stored:
                self.faults.append(Fault("output-missing", f"nothing makes the graph output {quoted(name)}{scope.where}.", tensor=str(name)))

    def cycle(self, scope: _Scope) -> None:
        """Nodes of one graph must not wait for one another (Kahn's count; what is left over holds a cycle, the first of which is told)."""
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
        what = f"the graph has a cycle{scope.where}: {shown}, then the first again."
        self.faults.append(Fault("cycle", what, node=str(scope.proto.node[ring[0]].name)))

    def unreadable(self, name: str, what: str, scope: _Scope) -> bool:
        """Whether a name is not text, which is a fault."""
        if is_text(name):
            return False
        self.faults.append(Fault("name-not-utf8", f"the name of {what}{scope.where} is not UTF-8: {quoted(name)}."))
        return True

    def _versions(self, imports: Iterable[onnx.OperatorSetIdProto]) -> dict[str, int]:
        versions: dict[str, int] = {}
        for entry in imports:
            if not is_text(entry.domain) or abs(entry.version) >= 2**31:
                what = f"it imports opset {entry.version} of domain {quoted(entry.domain)}, and there is no such thing."
                self.faults.append(Fault("opset-unknown", what))
            else:
                versions[canonical_domain(entry.domain)] = entry.version
        return versions
