"""Parameters, bytes, MACs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from graphcompress.ir.analysis.statistics import NodeStatistics, statistics
from graphcompress.ir.files import text
from graphcompress.ir.files.read import load, model_from_proto
from graphcompress.ir.files.write import save
from graphcompress.ir.model.model import Model


def macs(source: str, opset: int = 17, **shapes: tuple[int, ...]) -> int | None:
    return statistics(text.parse_model(source, {"": opset}), shapes).macs


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("g (float[N,4,8,8] x, float[6,2,3,3] w) => (y) { y = Conv <group = 2, pads = [1, 1, 1, 1], strides = [2, 2]> (x, w) }", 6 * 4 * 4 * 2 * 9),
        ("g (float[N,4,5] x, float[4,3,2] w) => (y) { y = ConvTranspose <group = 2, strides = [2]> (x, w) }", 4 * 5 * 3 * 2),
        ("g (float[N,4] x, float[6,4] w, float[6] b) => (y) { y = Gemm <transB = 1> (x, w, b) }", 24),
        ("g (float[4,N] x, float[4,6] w) => (y) { y = Gemm <transA = 1> (x, w) }", None),
        ("g (float[N,3,2,4] x, float[4,6] w) => (y) { y = MatMul (x, w) }", 3 * 2 * 4 * 6),
        ("g (float[N,3,4] x, float[N,5,4] z) => (y) { y = Einsum <equation = \"bik, bjk -> bij\"> (x, z) }", 3 * 5 * 4),
        ("g (float[N,2,3,4] x, float[4,5] z) => (y) { y = Einsum <equation = \"...ik,kj->...ij\"> (x, z) }", 2 * 3 * 4 * 5),
        ("g (float[N,3] x) => (y) { y = Einsum <equation = \"ij->i\"> (x) }", 0),
        ("g (float[7,2,3] x, float[2,16,3] w, float[2,16,4] r) => (y) { y = LSTM <hidden_size = 4, direction = \"bidirectional\"> (x, w, r) }", 7 * 2 * 2 * 16 * (3 + 4)),
        ("g (float[N,7,3] x, float[1,12,3] w, float[1,12,4] r) => (y) { y = GRU <hidden_size = 4, layout = 1> (x, w, r) }", 7 * 12 * (3 + 4)),
        ("g (float[N,3] x) => (y) { y = Relu (x) }", 0),
        ("g (float[N,1,T,8] x, float[8,8] w) => (y) { y = MatMul (x, w) }", None),
    ],
)  # fmt: skip
def test_macs_of_one_run_at_batch_one(source: str, expected: int | None) -> None:
    assert macs(source) == expected


def test_attention_counts_both_products() -> None:
    source = "g (float[N,2,5,4] q, float[N,2,7,4] k, float[N,2,7,3] v) => (y) { y = Attention (q, k, v) }"
    assert macs(source, 23) == 2 * 5 * 7 * (4 + 3)
    flat = "g (float[N,5,8] q, float[N,7,4] k, float[N,7,6] v) => (y) { y = Attention <q_num_heads = 2, kv_num_heads = 1> (q, k, v) }"
    assert macs(flat, 23) == 2 * 5 * 7 * (4 + 6)


@pytest.mark.parametrize(("sizes", "width", "value"), [("", 24, 8), ("<qkv_hidden_sizes = [8, 8, 4], num_heads = 2>", 20, 4)])
def test_packed_attention_counts_the_projection_and_both_products(sizes: str, width: int, value: int) -> None:
    attributes = sizes or "<num_heads = 2>"
    model = text.parse_model(
        f'<ir_version: 8, opset_import: ["" : 17, "com.microsoft" : 1]> g (float[1,5,6] x, float[6,{width}] w, float[{width}] b) => (y) {{ y = com.microsoft.Attention {attributes} (x, w, b) }}'
    )
    assert statistics(model).macs == 5 * 6 * width + 5 * 5 * (8 + value)


def test_free_dimensions_come_from_the_feed_and_the_batch_is_one() -> None:
    source = "g (float[N,T,8] x, float[M,N,8] z) => (y) <float[8,2] w = {1, 2, 3, 4, 5, 6, 7, 8, 1, 2, 3, 4, 5, 6, 7, 8}> { y = MatMul (x, w) }"
    assert macs(source) is None
    assert macs(source, x=(4, 5, 8), z=(3, 4, 8)) == 5 * 8 * 2


def test_control_flow_counts_the_dearer_branch_and_known_iterations() -> None:
    branch = 'g (float[2,3] x, bool c) => (y) { y = If (c) <then_branch = t () => (a) { a = MatMul (x, v) }, else_branch = e () => (b) { b = Einsum <equation = "ij,jk->ik"> (x, w) }> }'
    branch = branch.replace("=> (y) {", "=> (y) <float[3,2] v = {1, 2, 3, 4, 5, 6}, float[3,3] w = {1, 2, 3, 4, 5, 6, 7, 8, 9}> {")
    assert macs(branch) == 2 * 3 * 3
    loop = "g (float[2,3] x) => (y) <float[3,3] w = {1, 2, 3, 4, 5, 6, 7, 8, 9}> { n = Constant <value_int = 5> ()  y = Loop (n, , x) <body = b (int64 i, bool c, float[2,3] s) => (d, t) { d = Identity (c)  t = Identity (s)  u = MatMul (x, w) }> }"
    assert macs(loop) == 5 * 2 * 3 * 3
    scan = "g (float[7,3] x) => (y) <float[3,3] w = {1, 2, 3, 4, 5, 6, 7, 8, 9}> { y = Scan <num_scan_inputs = 1, body = b (float[3] s) => (t) { t = Identity (s)  u = MatMul (w, w) }> (x) }"
    assert macs(scan) == 7 * 27


def test_parameters_and_operators() -> None:
    model = text.parse_model(
        '<ir_version: 8, opset_import: ["" : 17, "com.microsoft" : 1]> g (float[N,2] x, float[2] d) => (y) <float[2,2] w = {1, 2, 3, 4}, float[2] d = {0, 0}, int64[1] unused = {1}>'
        " { k = Constant <value = float[2] {1, 2}> ()  i = Constant <value = int64[1] {1}> ()  [m] a = MatMul (x, w)  b = Add (a, k)  c = Mul (b, d)  y = com.microsoft.QuickGelu (c) }"
    )
    found = statistics(model)
    assert found.parameters == 4 + 2 + 1 + 2
    assert found.initializer_bytes == 16 + 8 + 8 + 8 + 8
    assert found.nodes == 6
    assert found.operators == {"Constant": 2, "MatMul": 1, "Add": 1, "Mul": 1, "com.microsoft.QuickGelu": 1}
    assert found.per_node[2] == NodeStatistics("m", "MatMul", 4, 4)


def test_bytes_are_those_on_disk_with_external_data(tmp_path: Path) -> None:
    weight = np.arange(1000, dtype=np.float32).reshape(10, 100)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])], "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 10])], [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 100])],
        [numpy_helper.from_array(weight, "w")],
    )  # fmt: skip
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    inline = model_from_proto(onnx.ModelProto.FromString(proto.SerializeToString()))
    save(inline, tmp_path / "inline.onnx")
    assert statistics(inline).bytes == (tmp_path / "inline.onnx").stat().st_size
    onnx.save(proto, tmp_path / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=0)
    model = load(tmp_path / "m.onnx")
    assert statistics(model).bytes == (tmp_path / "m.onnx").stat().st_size + 4000
    assert statistics(model).macs == 1000


def test_a_shared_constant_counts_once_in_the_sum() -> None:
    model: Model = text.parse_model("g (float[2,2] x) => (y) <float[2,2] w = {1, 2, 3, 4}> { a = MatMul (x, w)  y = MatMul (a, w) }")
    found = statistics(model)
    assert found.parameters == 4
    assert [n.parameters for n in found.per_node] == [4, 4]
