"""Small float models, built node by node, and what the runtime makes of them."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from graphcompress.data import Dataset
from graphcompress.ir import Model, model_from_proto, to_bytes


class Small:
    """A model under construction: `input`, `weight`, `node`, then `model`. Weights are random from a fixed seed, their channels of unequal size."""

    def __init__(self, opset: int = 17, seed: int = 0) -> None:
        self.opset = opset
        self.random = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self.inputs: list[onnx.ValueInfoProto] = []
        self.outputs: list[onnx.ValueInfoProto] = []
        self.ir_version = 8

    def input(self, name: str, *shape: int | str, kind: int = TensorProto.FLOAT) -> str:
        self.inputs.append(helper.make_tensor_value_info(name, kind, shape))
        return name

    def constant(self, values: Any, name: str = "") -> str:
        array = np.asarray(values)
        name = name or f"c{len(self.initializers)}"
        self.initializers.append(numpy_helper.from_array(array, name))
        return name

    def weight(self, *shape: int, name: str = "") -> str:
        """The first axis has channels of unequal size, so that a scale per tensor would show."""
        fan = max(1, int(np.prod(shape[1:])))
        spread = np.exp(self.random.normal(0, 1, (shape[0],) + (1,) * (len(shape) - 1)))
        return self.constant((self.random.normal(0, 1 / np.sqrt(fan), shape) * spread).astype(np.float32), name)

    def node(self, op: str, *inputs: str, outputs: int = 1, name: str = "", domain: str = "", **attrs: Any) -> Any:
        names = [f"t{len(self.nodes)}" if i == 0 else f"t{len(self.nodes)}_{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(op, inputs, names, name=name or f"{op}_{len(self.nodes)}", domain=domain, **attrs))
        return names[0] if outputs == 1 else names

    def conv(self, x: str, cin: int, cout: int, *, bias: bool = True, kernel: int = 3, name: str = "", **attrs: Any) -> str:
        parts = [x, self.weight(cout, cin, kernel, kernel), *([self.weight(cout)] if bias else [])]
        made: str = self.node("Conv", *parts, name=name, pads=[kernel // 2] * 4, **attrs)
        return made

    def output(self, name: str, kind: int = TensorProto.FLOAT) -> None:
        self.outputs.append(helper.make_tensor_value_info(name, kind, None))

    def proto(self, *outputs: str) -> onnx.ModelProto:
        for name in outputs:
            self.output(name)
        graph = helper.make_graph(self.nodes, "small", self.inputs, self.outputs, self.initializers)
        imports = [helper.make_opsetid("", self.opset)]
        if any(n.domain == "com.microsoft" for n in self.nodes):
            imports.append(helper.make_opsetid("com.microsoft", 1))
        return helper.make_model(graph, opset_imports=imports, ir_version=self.ir_version)

    def model(self, *outputs: str) -> Model:
        return model_from_proto(self.proto(*outputs))


def feeds(model: Model, count: int = 8, seed: int = 1, sizes: Mapping[str, int] | None = None) -> Dataset:
    """Normal numbers in the shapes of the inputs."""

    def read(indices: Sequence[int]) -> Any:
        for index in indices:
            random = np.random.default_rng([seed, index])
            yield {
                s.name: random.normal(0, 1, [d if isinstance(d, int) else (sizes or {}).get(d or "", 1) for d in s.shape or ()]).astype(np.float32)
                for s in model.inputs
            }

    return Dataset("numbers of a test", "0" * 64, range(count), read)


def session(model: Model, *, level: str = "ORT_ENABLE_ALL", save: Path | None = None, **entries: str) -> Any:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
    if save is not None:
        options.optimized_model_filepath = str(save)
    for name, value in entries.items():
        options.add_session_config_entry(f"session.{name}", value)
    return onnxruntime.InferenceSession(to_bytes(model), options, providers=["CPUExecutionProvider"])


def optimized(model: Model) -> list[onnx.NodeProto]:
    """The nodes that the runtime executes."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "optimized.onnx")
        session(model, save=file)
        return list(onnx.load(file, load_external_data=False).graph.node)


def run(model: Model, feed: Mapping[str, Any], **how: Any) -> list[Any]:
    found: list[Any] = session(model, **how).run(None, dict(feed))
    return found


class Tools:
    """What tests of passes and of what they stand on share."""

    Small = Small
    feeds = staticmethod(feeds)
    optimized = staticmethod(optimized)
    run = staticmethod(run)
