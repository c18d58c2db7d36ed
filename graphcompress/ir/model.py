"""Models as graphs: onnx-graphsurgeon's objects, with what they have no field for kept beside them.

graphsurgeon compares nodes and tensors by value: two nodes that do the same thing are "equal", and `list.remove` takes the wrong one. The subclasses here
compare by identity. Everything else about them is graphsurgeon's: producers and consumers stay linked when `inputs` and `outputs` are edited.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from graphcompress.errors import ModelError
from graphcompress.ir.tensors import TensorData, dtype_name

Dim: TypeAlias = int | str | None
Shape: TypeAlias = tuple[Dim, ...]
Tensor: TypeAlias = "Variable | Constant"

DEFAULT_DOMAINS = ("", "ai.onnx")


class Node(gs.Node):  # type: ignore[misc]
    """One operator. `proto` is what it was read from (None for a new node); an unedited node is written from it.

    `origin` names what a new node stands for: (rule or step, names of the nodes that it replaces). `rank` is its wished place in the file.
    """

    __hash__ = object.__hash__
    proto: onnx.NodeProto | None
    read_attrs: dict[str, Any]
    origin: tuple[str, ...]
    rank: float

    def __init__(
        self, op: str, name: str = "", attrs: dict[str, Any] | None = None, inputs: Sequence[Tensor] = (), outputs: Sequence[Tensor] = (), domain: str = ""
    ) -> None:
        super().__init__(op, name, dict(attrs or {}), list(inputs), list(outputs), domain)
        self.proto = None
        self.read_attrs = {}
        self.origin = ()
        self.rank = float("inf")

    def __eq__(self, other: object) -> bool:
        return self is other

    @property
    def standard(self) -> bool:
        """True for an operator of ai.onnx, however its domain is spelled."""
        return (self.domain or "") in DEFAULT_DOMAINS

    def is_op(self, *ops: str) -> bool:
        """True for an operator of ai.onnx with one of these names."""
        return self.standard and self.op in ops

    def input(self, index: int) -> Tensor | None:
        """The input at `index`, None where it is absent or empty."""
        if index >= len(self.inputs) or self.inputs[index].name == "":
            return None
        found: Tensor = self.inputs[index]
        return found


class Variable(gs.Variable):  # type: ignore[misc]
    """A tensor computed at run time, or a graph input. `default` is the value of an initializer that callers may override (IR 4 on)."""

    __hash__ = object.__hash__
    default: onnx.TensorProto | onnx.SparseTensorProto | None

    def __init__(self, name: str, dtype: Any = None, shape: Sequence[Dim] | None = None) -> None:
        super().__init__(name, dtype, shape)
        self.default = None

    def __eq__(self, other: object) -> bool:
        return self is other


class Constant(gs.Constant):  # type: ignore[misc]
    """An initializer. Its bytes are decoded only when `values` is read, and written by copying unless `values` was set."""

    __hash__ = object.__hash__
    _values: TensorData | np.ndarray[Any, Any]

    def __init__(self, name: str, values: TensorData | np.ndarray[Any, Any]) -> None:
        super().__init__(name, values)

    def __eq__(self, other: object) -> bool:
        return self is other

    @property
    def values(self) -> np.ndarray[Any, Any]:
        """The array, read-only where it was read from a file; a view into the file or its map where the layout allows."""
        return self._values if isinstance(self._values, np.ndarray) else self._values.load()

    @values.setter
    def values(self, values: TensorData | np.ndarray[Any, Any]) -> None:
        self._values = values

    @property
    def data(self) -> TensorData | None:
        """What the file holds, None once `values` was set."""
        return None if isinstance(self._values, np.ndarray) else self._values

    @property
    def nbytes(self) -> int:
        """Bytes of the tensor's elements as ONNX stores them; no decoding."""
        return int(self._values.nbytes)


class Graph(gs.Graph):  # type: ignore[misc]
    """A graph or subgraph. `initializers` holds every constant of this scope by name, the unused ones too;
    `shell` is the proto without nodes, initializers, inputs and outputs."""

    nodes: list[Node]
    inputs: list[Tensor]
    outputs: list[Tensor]
    initializers: dict[str, Constant]
    shell: onnx.GraphProto
    input_protos: tuple[onnx.ValueInfoProto, ...]
    output_protos: tuple[onnx.ValueInfoProto, ...]
    order: list[Node]
    file_order: list[str]
    read_names: set[str]

    def __init__(self, name: str = "") -> None:
        super().__init__(nodes=[], inputs=[], outputs=[], name=name)
        self.initializers = {}
        self.shell = onnx.GraphProto(name=name)
        self.input_protos = self.output_protos = ()
        # As read: the nodes, the names of the initializers in file order (overridable ones too), and every name that this scope defined.
        self.order = []
        self.file_order = []
        self.read_names = set()


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One input or output of a model. `dtype` is ONNX's name in lower case ("float", "uint8", "string" ...), None where the file does not say;
    `shape` has an int, a symbol or None per axis, and is None where the rank is unknown; `kind` is "tensor", "sequence", "optional", "map" or "sparse_tensor"."""

    name: str
    dtype: str | None
    shape: Shape | None
    kind: str = "tensor"


def type_spec(name: str, kind: onnx.TypeProto) -> TensorSpec:
    """What a TypeProto says, as a TensorSpec."""
    which = kind.WhichOneof("value")
    if which not in ("tensor_type", "sparse_tensor_type"):
        return TensorSpec(name, None, None, (which or "tensor").removesuffix("_type"))
    tensor = getattr(kind, which)
    shape: Shape | None = None
    if tensor.HasField("shape"):
        shape = tuple(d.dim_value if d.HasField("dim_value") and d.dim_value >= 0 else (d.dim_param or None) for d in tensor.shape.dim)
    return TensorSpec(name, dtype_name(tensor.elem_type) if tensor.elem_type else None, shape, which.removesuffix("_type"))


class Model:
    """A model: `header` (everything but the graph, functions included), `graph`, and where it came from.

    The signature is frozen: `write` puts the inputs and outputs back as they were read and refuses a graph whose names have changed.
    Passes work on a `copy()` and edit its graph; tensor bytes are shared between copies.
    """

    def __init__(
        self, header: onnx.ModelProto, graph: Graph, inputs: Sequence[onnx.ValueInfoProto], outputs: Sequence[onnx.ValueInfoProto], path: Path | None = None
    ) -> None:
        self.header = header
        self.graph = graph
        self.input_protos = tuple(inputs)
        self.output_protos = tuple(outputs)
        self.path = path
        self._names: set[str] | None = None
        self._counters: dict[str, itertools.count[int]] = {}

    # --- what it says -----------------------------------------------------------------------------------------------------------

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """The inputs that a caller must feed: overridable initializers (IR 4 on) and constants listed as inputs (IR 3) are left out."""
        needed = {t.name for t in self.graph.inputs if isinstance(t, Variable) and t.default is None}
        return tuple(type_spec(v.name, v.type) for v in self.input_protos if v.name in needed)

    @property
    def overridable(self) -> tuple[TensorSpec, ...]:
        """The inputs that have a default value."""
        given = {t.name for t in self.graph.inputs if isinstance(t, Variable) and t.default is not None}
        return tuple(type_spec(v.name, v.type) for v in self.input_protos if v.name in given)

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """The outputs, in order."""
        return tuple(type_spec(v.name, v.type) for v in self.output_protos)

    @property
    def opsets(self) -> dict[str, int]:
        """Domain -> version; ai.onnx under "" however the file spells it."""
        return {"" if o.domain in DEFAULT_DOMAINS else o.domain: o.version for o in self.header.opset_import}

    @property
    def opset(self) -> int:
        """Version of ai.onnx; 1 where the file imports none."""
        return self.opsets.get("", 1)

    @property
    def ir_version(self) -> int:
        return int(self.header.ir_version)

    def import_opset(self, domain: str, version: int) -> None:
        """Set the version of `domain`, adding the import where there is none."""
        for entry in self.header.opset_import:
            if entry.domain == domain or (entry.domain in DEFAULT_DOMAINS and domain in DEFAULT_DOMAINS):
                entry.version = version
                return
        self.header.opset_import.add(domain=domain, version=version)

    def copy(self) -> Model:
        """An independent graph over the same tensor bytes."""
        from graphcompress.ir.read import model_from_proto
        from graphcompress.ir.write import to_proto

        return model_from_proto(to_proto(self), path=self.path, check=False)

    # --- editing ----------------------------------------------------------------------------------------------------------------

    def fresh(self, hint: str) -> str:
        """A name that no tensor or node of the model has, made from `hint`; every call reserves its answer."""
        if self._names is None:
            self._names = all_names(self)
        name = hint
        if not hint or name in self._names:
            counter = self._counters.setdefault(hint, itertools.count(1))
            while (name := f"{hint}_{next(counter)}") in self._names:
                pass
        self._names.add(name)
        return name

    def variable(self, hint: str) -> Variable:
        """A new tensor with a free name."""
        return Variable(self.fresh(hint))

    def constant(self, hint: str, values: np.ndarray[Any, Any]) -> Constant:
        """A new initializer of the main graph (visible in every subgraph) with a free name."""
        made = Constant(self.fresh(hint), np.asarray(values))
        self.graph.initializers[made.name] = made
        return made

    def add(
        self,
        op: str,
        inputs: Sequence[Tensor],
        outputs: Sequence[Tensor] | None = None,
        attrs: dict[str, Any] | None = None,
        *,
        name: str = "",
        domain: str = "",
        graph: Graph | None = None,
        near: Node | None = None,
        origin: tuple[str, ...] = (),
    ) -> Node:
        """A new node at the end of `graph` (default: the main one); `write` sorts it to its place, close to `near`.

        Without `outputs` it gets one new tensor. An output that had a producer must have been taken from it first (`old.outputs.clear()`).
        """
        made = Node(op, name and self.fresh(name), attrs, inputs, [self.variable(f"{name or op}_out")] if outputs is None else outputs, domain)
        made.origin = origin
        if near is not None:
            made.rank = near.rank
        (graph or self.graph).nodes.append(made)
        return made

    def replace_uses(self, old: Tensor, new: Tensor) -> None:
        """Every node input that is `old`, in subgraphs too, becomes `new`. Graph outputs are not touched: they are the signature."""
        for node in {id(n): n for n in old.outputs}.values():
            for index, tensor in enumerate(node.inputs):
                if tensor is old:
                    node.inputs[index] = new

    def remove(self, nodes: Iterable[Node]) -> None:
        """Take nodes out of whichever graph they stand in, and unlink them; linear in the graph."""
        from graphcompress.ir.walk import graphs

        gone = {id(n): n for n in nodes}
        if not gone:
            return
        for graph in graphs(self):
            if any(id(n) in gone for n in graph.nodes):
                graph.nodes = [n for n in graph.nodes if id(n) not in gone]
        # Past graphsurgeon's synchronized lists, which search a tensor's whole list of users for every node that leaves it.
        touched = {id(t): t for n in gone.values() for t in (*n.inputs, *n.outputs)}
        for tensor in touched.values():
            list.__setitem__(tensor.inputs, slice(None), [n for n in tensor.inputs if id(n) not in gone])
            list.__setitem__(tensor.outputs, slice(None), [n for n in tensor.outputs if id(n) not in gone])
        for node in gone.values():
            list.clear(node.inputs)
            list.clear(node.outputs)

    def require_known_domains(self, what: str) -> None:
        """Raise ModelError where a node belongs to a domain that nothing here can run."""
        from graphcompress.ir.check import unknown_domain_nodes

        for node in unknown_domain_nodes(self):
            raise ModelError(
                f"{self.path or 'the model'}: node '{node.name or node.outputs[0].name}' is {node.op} of domain '{node.domain}', which nothing here can run, so it cannot be {what}."
            )


def all_names(model: Model) -> set[str]:
    """Names of all tensors and nodes in all scopes; those of functions are their own and do not count."""
    from graphcompress.ir.walk import graphs

    names: set[str] = set()
    for graph in graphs(model):
        names.update(t.name for t in graph.inputs)
        names.update(t.name for t in graph.outputs)
        names.update(graph.initializers)
        names.update(s.values.name for s in graph.shell.sparse_initializer)
        for node in graph.nodes:
            names.add(node.name)
            names.update(t.name for t in node.inputs)
            names.update(t.name for t in node.outputs)
    return names
