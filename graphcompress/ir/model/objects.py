"""Models as graphs: onnx-graphsurgeon's objects, with what they have no field for kept beside them.

graphsurgeon compares nodes and tensors by value: two nodes that do the same thing are "equal", and `list.remove` takes the wrong one. The subclasses here
compare by identity. Everything else about them is graphsurgeon's: producers and consumers stay linked when `inputs` and `outputs` are edited.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx_graphsurgeon.util.misc import SynchronizedList

from graphcompress.ir.model.dimensions import Dim
from graphcompress.ir.model.element_types import dtype_name
from graphcompress.ir.model.tensors import TensorData

Shape: TypeAlias = tuple[Dim, ...]
Tensor: TypeAlias = "Variable | Constant"

DEFAULT_DOMAINS = ("", "ai.onnx")


class Links(SynchronizedList):  # type: ignore[misc]
    """graphsurgeon's list of what stands at the other side of a node or tensor. There are two for each of them, so that a dict in each would be most of a large graph's memory."""

    __slots__ = ("field_name", "parent_obj")

    def __init__(self, owner: Node | Variable | Constant, field: str, others: Iterable[Any] = ()) -> None:
        """The list of `owner`, which is entered in the list `field` of each of `others`."""
        self.parent_obj = owner
        self.field_name = field
        for other in others:
            list.append(self, other)
            list.append(getattr(other, field), owner)


# The constructors below set what graphsurgeon's set, without its `__setattr__`, which looks for links in every attribute: half of the time of reading a model.


class Node(gs.Node):  # type: ignore[misc]
    """One operator. `proto` is what it was read from (None for a new node); an unedited node is written from it.

    `origin` names what a new node stands for: (rule or step, names of the nodes that it replaces); copies keep it, files do not hold it. `rank` is its wished place in the file.
    """

    __hash__ = object.__hash__
    proto: onnx.NodeProto | None
    read_attrs: dict[str, Any]
    origin: tuple[str, ...]
    rank: float

    def __init__(
        self, op: str, name: str = "", attrs: dict[str, Any] | None = None, inputs: Sequence[Tensor] = (), outputs: Sequence[Tensor] = (), domain: str = ""
    ) -> None:
        put = object.__setattr__
        put(self, "op", op)
        put(self, "name", name)
        put(self, "attrs", dict(attrs or {}))
        put(self, "inputs", Links(self, "outputs", inputs))
        put(self, "outputs", Links(self, "inputs", outputs))
        put(self, "domain", domain)
        put(self, "proto", None)
        put(self, "read_attrs", {})
        put(self, "origin", ())
        put(self, "rank", float("inf"))

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
        tensor: Tensor = self.inputs[index]
        return tensor


class Variable(gs.Variable):  # type: ignore[misc]
    """A tensor computed at run time, or a graph input. `default` is the value of an initializer that callers may override (IR 4 on)."""

    __hash__ = object.__hash__
    default: onnx.TensorProto | onnx.SparseTensorProto | None

    def __init__(self, name: str, dtype: Any = None, shape: Sequence[Dim] | None = None) -> None:
        put = object.__setattr__
        put(self, "name", name)
        put(self, "inputs", Links(self, "outputs"))
        put(self, "outputs", Links(self, "inputs"))
        put(self, "dtype", dtype)
        put(self, "shape", shape)
        put(self, "type", "tensor_type")
        put(self, "default", None)

    def __eq__(self, other: object) -> bool:
        return self is other


class Constant(gs.Constant):  # type: ignore[misc]
    """An initializer. Its bytes are decoded only when `values` is read, and written by copying unless `values` was set."""

    __hash__ = object.__hash__
    _values: TensorData | np.ndarray[Any, Any]

    def __init__(self, name: str, values: TensorData | np.ndarray[Any, Any]) -> None:
        put = object.__setattr__
        put(self, "name", name)
        put(self, "inputs", Links(self, "outputs"))
        put(self, "outputs", Links(self, "inputs"))
        put(self, "data_location", None)
        put(self, "_export_dtype", None)
        self.values = values

    def __eq__(self, other: object) -> bool:
        return self is other

    @property
    def values(self) -> np.ndarray[Any, Any]:
        """The array, read-only where it was read from a file; a view into the file or its map where the layout allows."""
        return self._values if isinstance(self._values, np.ndarray) else self._values.load()

    @values.setter
    def values(self, values: TensorData | np.ndarray[Any, Any]) -> None:
        if isinstance(values, np.ndarray):  # copies of a model share the array, so nobody writes into it
            values = values.view()
            values.flags.writeable = False
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

    __hash__ = object.__hash__

    def __eq__(self, other: object) -> bool:
        return self is other

    def __getattr__(self, name: str) -> Any:
        # graphsurgeon looks for a function of that name, and writes to the terminal that there is none.
        raise AttributeError(f"a graph has no attribute {name!r}")

    def __init__(self, name: str = "") -> None:
        super().__init__(nodes=[], inputs=[], outputs=[], name=name)
        self.initializers = {}
        self.shell = onnx.GraphProto(name=name)
        self.input_protos = self.output_protos = ()
        # As read: the nodes, the names of the initializers in file order (overridable ones too), and every name that this scope defined.
        self.order = []
        self.file_order = []
        self.read_names = set()


class Changes:
    """What edits did to a model since it was read or copied.

    `nodes`: those that were added, read something else or read a constant with another value, in the order of the edits, with repetitions; whoever keeps answers
    about the model remembers how many it has seen. Nodes that were removed since are among them, without inputs and outputs.
    `reshaped`: tensors that an edit gave another shape; the shapes of all that is calculated from them may be others too.
    """

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self.reshaped: dict[Tensor, None] = {}


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


class Rooted(Protocol):
    """What has a main graph: a model."""

    graph: Graph
