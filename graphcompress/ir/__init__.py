"""Models as graphs: the only package that imports onnx, onnx-graphsurgeon and protobuf."""

from graphcompress.ir.check.graphs import lint
from graphcompress.ir.files.build import to_proto
from graphcompress.ir.files.read import load, model_from_proto
from graphcompress.ir.files.write import save, to_bytes
from graphcompress.ir.model.model import Model
from graphcompress.ir.model.objects import Constant, Graph, Node, Shape, Tensor, TensorSpec, Variable
from graphcompress.ir.model.tensors import TensorData
from graphcompress.ir.model.walk import (
    captured,
    constant_data,
    constant_value,
    consumers,
    graphs,
    label,
    nodes,
    output_ids,
    producer,
    sole_consumer,
    subgraphs,
    toposort,
)

__all__ = [
    "Constant",
    "Graph",
    "Model",
    "Node",
    "Shape",
    "Tensor",
    "TensorData",
    "TensorSpec",
    "Variable",
    "captured",
    "constant_data",
    "constant_value",
    "consumers",
    "graphs",
    "label",
    "lint",
    "load",
    "model_from_proto",
    "nodes",
    "output_ids",
    "producer",
    "save",
    "sole_consumer",
    "subgraphs",
    "to_bytes",
    "to_proto",
    "toposort",
]
