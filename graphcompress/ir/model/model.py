"""A model: its header, its graph, and the edits that need names of their own."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from graphcompress.ir.model.edit import detached, link
from graphcompress.ir.model.external import DataFolder
from graphcompress.ir.model.objects import DEFAULT_DOMAINS, Changes, Constant, Graph, Node, Tensor, TensorSpec, Variable, type_spec
from graphcompress.ir.model.twins import Twins
from graphcompress.ir.model.walk import graphs


class Model:
    """A model: `header` (everything but the graph, functions included), `graph`, and where it came from: `path`, and `data` for the external data of
    that file. `data` stays valid when the file is replaced.

    The signature is frozen: `write` puts the inputs and outputs back as they were read and refuses a graph whose names have changed.
    Passes work on a `copy()` and edit its graph; tensor bytes are shared between copies.
    """

    def __init__(
        self,
        header: onnx.ModelProto,
        graph: Graph,
        inputs: Sequence[onnx.ValueInfoProto],
        outputs: Sequence[onnx.ValueInfoProto],
        path: Path | None = None,
        data: DataFolder | None = None,
    ) -> None:
        self.header = header
        self.graph = graph
        self.input_protos = tuple(inputs)
        self.output_protos = tuple(outputs)
        self.path = path
        self.data = data
        self.changes = Changes()
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
        defaults = {t.name for t in self.graph.inputs if isinstance(t, Variable) and t.default is not None}
        return tuple(type_spec(v.name, v.type) for v in self.input_protos if v.name in defaults)

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
        return self.clone()[0]

    def clone(self) -> tuple[Model, Twins]:
        """A copy, and what each node and tensor of this model is in it."""
        twins = Twins()
        graph = twins.graph_of(self.graph)
        header = onnx.ModelProto()
        header.CopyFrom(self.header)
        model = Model(header, graph, self.input_protos, self.output_protos, self.path, self.data)
        model.changes.reshaped = {twins.tensor(t): None for t in self.changes.reshaped if t in twins}
        model._names = None if self._names is None else set(self._names)
        return model, twins

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

    def forget_names(self) -> None:
        """Whoever gave tensors or nodes other names says so: `fresh` looks at all of them again."""
        self._names = None
        self._counters = {}

    def variable(self, hint: str) -> Variable:
        """A new tensor with a free name."""
        return Variable(self.fresh(hint))

    def constant(self, hint: str, values: np.ndarray[Any, Any]) -> Constant:
        """A new initializer of the main graph (visible in every subgraph) with a free name."""
        constant = Constant(self.fresh(hint), np.asarray(values))
        self.graph.initializers[constant.name] = constant
        return constant

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

        Without `outputs` it gets one new tensor. An output that another node made must have been taken from it first (`Edits.set_outputs`).
        """
        node = detached(op, name and self.fresh(name), attrs or {}, inputs, [self.variable(f"{name or op}_out")] if outputs is None else outputs, domain)
        node.origin = origin
        if near is not None:
            node.rank = near.rank
        link(node)
        (graph or self.graph).nodes.append(node)
        self.changes.nodes.append(node)
        return node


def all_names(model: Model) -> set[str]:
    """Names of all tensors and nodes in all scopes; those of functions are their own and do not count."""
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
