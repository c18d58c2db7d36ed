"""Models as graphs; the only door to onnx and onnx-graphsurgeon."""

from graphcompress.ir.model import Constant, Graph, Model, Node, Shape, Tensor, TensorSpec, Variable
from graphcompress.ir.read import load, model_from_proto
from graphcompress.ir.tensors import TensorData
from graphcompress.ir.walk import (
    captured,
    constant_data,
    constant_value,
    consumers,
    graphs,
    lint,
    nodes,
    output_ids,
    producer,
    sole_consumer,
    subgraphs,
    toposort,
)
from graphcompress.ir.write import save, to_bytes, to_proto

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
