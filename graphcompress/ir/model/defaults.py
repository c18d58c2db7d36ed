"""Initializers that a file lists as inputs."""

from __future__ import annotations

from onnx import TensorProto

from graphcompress.ir.model.edit import Edits
from graphcompress.ir.model.model import Model
from graphcompress.ir.model.objects import Constant, Tensor, Variable
from graphcompress.ir.model.tensors import TensorData

# A property of the model that says that callers do override: it is set where the initializers that were not listed have been removed.
MEANT = "graphcompress.overridable"


def freeze_listed_initializers(model: Model) -> int:
    """Make constants of the initializers that are listed as inputs, where that is all of them, and more than one; how many.

    Exporters for IR 3 had to list every initializer, and many went on to do so: nobody chose what callers may override. Where some are listed and others not, or
    where the only one is, it may be meant, and nothing is changed. The inputs that callers must feed stay as they are.
    """
    values = _listed(model)
    constants: dict[Tensor, Constant] = {t: Constant(t.name, TensorData(value, model.data)) for t, value in values.items()}
    graph = model.graph
    graph.initializers.update((c.name, c) for c in constants.values())
    graph.inputs = [t for t in graph.inputs if t not in constants]
    graph.outputs = [constants.get(t, t) for t in graph.outputs]
    with Edits(model) as edits:
        for variable, constant in constants.items():
            edits.replace(variable, constant)
    return len(constants)


def mark_meant_defaults(model: Model) -> None:
    """Say in the file that the defaults are meant, where only those are left: they would be taken for an exporter's habit."""
    if _listed(model):
        model.header.metadata_props.add(key=MEANT, value="true")


def _listed(model: Model) -> dict[Variable, TensorProto]:
    listed = [t for t in model.graph.inputs if isinstance(t, Variable) and t.default is not None]
    values = {t: t.default for t in listed if isinstance(t.default, TensorProto)}
    others = model.graph.initializers or model.graph.shell.sparse_initializer or any(p.key == MEANT for p in model.header.metadata_props)
    return {} if len(values) < 2 or len(values) < len(listed) or others else values
