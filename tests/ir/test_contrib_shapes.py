"""Shapes of operators outside ai.onnx are those of onnxruntime; every one that has a rule has a case."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnxruntime
import pytest
from onnx import helper, numpy_helper

from graphcompress.ir import model_from_proto
from graphcompress.ir.shapes.contrib import RULES
from graphcompress.ir.shapes.infer import infer

MS, ML = "com.microsoft", "ai.onnx.ml"
F32 = np.float32
CODES = {"float32": "float", "float64": "double"}


def array(*shape: int, dtype: Any = F32) -> np.ndarray[Any, Any]:
    return np.linspace(0.1, 1, int(np.prod(shape))).reshape(shape).astype(dtype)


def tree(kind: str, *, targets: int) -> dict[str, Any]:
    """Two leaves below one comparison; the right one votes for the last target."""
    nodes = {"nodes_treeids": [0, 0, 0], "nodes_nodeids": [0, 1, 2], "nodes_featureids": [0, 0, 0], "nodes_values": [0.5, 0.0, 0.0]}
    nodes |= {"nodes_modes": ["BRANCH_LEQ", "LEAF", "LEAF"], "nodes_truenodeids": [1, 0, 0], "nodes_falsenodeids": [2, 0, 0]}
    votes = {f"{kind}_treeids": [0, 0], f"{kind}_nodeids": [1, 2], f"{kind}_ids": [0, targets - 1], f"{kind}_weights": [1.0, 1.0]}
    return nodes | votes


def machine(**labels: Any) -> dict[str, Any]:
    """A support vector machine of three classes over two features, one vector for each."""
    return {
        "kernel_type": "LINEAR",
        "kernel_params": [0.0, 0.0, 0.0],
        "vectors_per_class": [1, 1, 1],
        "support_vectors": [0.0, 1.0, 1.0, 0.0, 1.0, 1.0],
        "coefficients": [1.0] * 6,
        "rho": [0.0, 0.1, 0.2],
        **labels,
    }


INTS, TEXTS = {"classlabels_ints": [3, 4, 5]}, {"classlabels_strings": ["a", "b", "c"]}
LINEAR = {"coefficients": [1.0] * 6, "intercepts": [0.0] * 3}
#: Two directions of three units over four inputs: X, W, R, B, lengths, first states, peepholes, scales and zero points.
LSTM = {"x": array(5, 1, 4), "w": array(2, 4, 12, dtype=np.int8), "r": array(2, 3, 12, dtype=np.int8), "b": array(2, 24), "lengths": np.array([5], np.int32)}
LSTM |= {"h": array(2, 1, 3), "c": array(2, 1, 3), "p": array(2, 9)}
LSTM |= {"ws": array(2, 12), "wz": np.zeros((2, 12), np.int8), "rs": array(2, 12), "rz": np.zeros((2, 12), np.int8)}
#: (domain, operator, inputs, attributes)
CASES: list[tuple[str, str, dict[str, Any], dict[str, Any]]] = [
    (MS, "Gelu", {"x": array(2, 3)}, {}),
    (MS, "FastGelu", {"x": array(2, 3), "b": array(3)}, {}),
    (MS, "QuickGelu", {"x": array(2, 3, 4)}, {}),
    (MS, "BiasGelu", {"x": array(2, 5, 3), "b": array(3)}, {}),
    (MS, "SkipLayerNormalization", {"x": array(2, 5, 4), "s": array(2, 5, 4), "g": array(4)}, {}),
    (MS, "SkipSimplifiedLayerNormalization", {"x": array(2, 5, 4), "s": array(2, 5, 4), "g": array(4)}, {}),
    (MS, "DynamicQuantizeLSTM", LSTM, {"hidden_size": 3, "direction": "bidirectional"}),
    (MS, "FusedConv", {"x": array(1, 2, 9, 8), "w": array(4, 2, 3, 3)}, {"activation": "Relu", "pads": [1, 0, 1, 0], "strides": [2, 1]}),
    (MS, "FusedGemm", {"a": array(3, 2), "b": array(5, 3)}, {"activation": "Relu", "transA": 1, "transB": 1}),
    (MS, "QuantizeLinear", {"x": array(2, 3), "s": F32(0.1), "z": np.uint8(3)}, {}),
    (MS, "QuantizeLinear", {"x": array(2, 3), "s": F32(0.1), "z": np.int8(3)}, {}),
    (MS, "DequantizeLinear", {"x": array(2, 3, dtype=np.uint8), "s": F32(0.1), "z": np.uint8(3)}, {}),
    (ML, "Binarizer", {"x": array(2, 3)}, {"threshold": 0.5}),
    (ML, "Imputer", {"x": array(2, 3)}, {"imputed_value_floats": [1.0], "replaced_value_float": 0.0}),
    (ML, "Scaler", {"x": array(2, 3, dtype=np.float64)}, {"scale": [1.0], "offset": [0.0]}),
    (ML, "Normalizer", {"x": array(2, 3, dtype=np.int64)}, {"norm": "L1"}),
    (ML, "TreeEnsembleRegressor", {"x": array(4, 2)}, {"n_targets": 3, **tree("target", targets=3)}),
    (ML, "TreeEnsembleClassifier", {"x": array(4, 2)}, {"classlabels_int64s": [0, 1, 2], **tree("class", targets=3)}),
    (ML, "TreeEnsembleClassifier", {"x": array(4, 2)}, {"classlabels_strings": ["a", "b"], **tree("class", targets=2)}),
    (ML, "LinearClassifier", {"x": array(4, 2)}, LINEAR | INTS),
    (ML, "LinearClassifier", {"x": array(4, 2, dtype=np.int64)}, LINEAR | TEXTS),
    (ML, "LinearClassifier", {"x": array(2)}, LINEAR | INTS),
    (ML, "SVMClassifier", {"x": array(4, 2)}, machine(**INTS)),
    (ML, "SVMClassifier", {"x": array(4, 2)}, machine(**TEXTS)),
]


def graph(domain: str, op: str, inputs: Mapping[str, Any], attributes: Mapping[str, Any], count: int) -> Any:
    node = helper.make_node(op, list(inputs), [f"y{i}" for i in range(count)], domain=domain, **attributes)
    infos = [helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(np.asarray(a).dtype), np.shape(a)) for name, a in inputs.items() if np.ndim(a)]
    stored = [numpy_helper.from_array(np.asarray(a), name) for name, a in inputs.items() if not np.ndim(a)]
    outputs = [helper.make_empty_tensor_value_info(f"y{i}") for i in range(count)]
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid(domain, 1)]
    return helper.make_model(helper.make_graph([node], "g", infos, outputs, stored), opset_imports=opsets, ir_version=8)


@pytest.mark.parametrize(("domain", "op", "inputs", "attributes"), CASES, ids=[f"{i}-{op}" for i, (_, op, _, _) in enumerate(CASES)])
def test_types_and_shapes_are_those_of_the_runtime(domain: str, op: str, inputs: dict[str, Any], attributes: dict[str, Any]) -> None:
    proto = graph(domain, op, inputs, attributes, 2 if op.endswith("Classifier") else 1)
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    values = session.run(None, {name: a for name, a in inputs.items() if np.ndim(a)})
    model = model_from_proto(proto)
    shapes = infer(model)
    for tensor, value in zip(model.graph.outputs, values, strict=True):
        text = value.dtype == object
        assert shapes.dtype(tensor) == ("string" if text else CODES.get(str(value.dtype), str(value.dtype)))
        claimed = shapes.shape(tensor)
        assert claimed is not None and len(claimed) == value.ndim
        assert all(dim in (None, size) for dim, size in zip(claimed, value.shape, strict=True))
        # Of a machine without probabilities the scores are those of pairs of classes, which is not worth a rule; all else is known.
        assert None not in claimed or (op, tensor.name) == ("SVMClassifier", "y1")


def test_every_rule_has_a_case() -> None:
    assert {(domain, op) for domain, op, _, _ in CASES} == set(RULES)


def test_what_is_unknown_stays_unknown() -> None:
    proto = graph(ML, "TreeEnsembleRegressor", {"x": array(4, 2)}, tree("target", targets=1), 1)
    proto.graph.input[0].type.tensor_type.ClearField("shape")
    model = model_from_proto(proto)
    assert infer(model).shape(model.graph.outputs[0]) == (None, 1)
