"""The light models of the onnx wheel with weights: their one-value ConstantOfShape nodes are replaced by seeded random initializers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

NAMES = ("bvlc_alexnet", "densenet121", "inception_v1", "inception_v2", "resnet50", "shufflenet", "squeezenet", "vgg19", "zfnet512")


def light_model(name: str, seed: int = 0) -> onnx.ModelProto:
    """light_NAME.onnx with random weights; variances and scales are positive."""
    path = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light" / f"light_{name}.onnx"
    model = onnx.load(path)
    graph = model.graph
    constants = {i.name: numpy_helper.to_array(i) for i in graph.initializer}
    random = np.random.default_rng(seed)
    norms = {t for n in graph.node if n.op_type == "BatchNormalization" for t in (n.input[1], n.input[4])}
    kept = []
    for node in graph.node:
        shape = constants.get(node.input[0]) if node.op_type == "ConstantOfShape" else None
        if shape is None:
            kept.append(node)
            continue
        dims = shape.tolist()
        if node.output[0] in norms:
            values = random.uniform(0.5, 1.5, dims)
        else:
            values = random.normal(0, 1 / np.sqrt(max(1, np.prod(dims[1:]))), dims)
        graph.initializer.append(numpy_helper.from_array(values.astype(np.float32), node.output[0]))
        if model.ir_version < 4:
            graph.input.append(onnx.helper.make_tensor_value_info(node.output[0], onnx.TensorProto.FLOAT, dims))
    del graph.node[:]
    graph.node.extend(kept)
    return model
