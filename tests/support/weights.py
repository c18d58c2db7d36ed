"""Models from ONNX text whose weights are arrays."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper, parser

from graphcompress.ir import Model, model_from_proto


def with_weights(text: str, weights: Mapping[str, Any], *, opset: int = 17, ir_version: int = 8) -> Model:
    """The model that `text` describes (inputs, outputs and body of a graph), with the initializers `weights`: those called "BRANCH/NAME" stand in the subgraph of that name."""
    proto = parser.parse_model(f'<ir_version: {ir_version}, opset_import: ["": {opset}]> g {text}')
    for path, values in weights.items():
        graph, _, name = path.rpartition("/")
        where = proto.graph if not graph else next(a.g for n in proto.graph.node for a in n.attribute if a.g.name == graph)
        where.initializer.append(numpy_helper.from_array(np.asarray(values), name))
        if ir_version < 4 and not graph:
            where.input.append(onnx.helper.make_tensor_value_info(name, where.initializer[-1].data_type, list(values.shape)))
    return model_from_proto(proto)
