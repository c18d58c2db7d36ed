"""store: the message of its result, and what is too small for a word."""

from __future__ import annotations

import re

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from graphcompress.ir import model_from_proto, to_bytes, to_proto
from graphcompress.ir.files import serialize
from graphcompress.ir.files.snapshot import snapshot_of
from graphcompress.passes.store import store
from graphcompress.runtime import profile
from graphcompress.runtime.session import open_session
from graphcompress.step import Context
from tests.passes.test_store import MODELS, refused, stored, weight
from tests.support.weights import with_weights


def test_the_message_that_is_checked_is_the_one_that_is_judged_and_written(monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[object] = []
    build = serialize._References.model
    monkeypatch.setattr(serialize._References, "model", lambda self: (built.append(self.source), build(self))[1])
    monkeypatch.setattr(profile, "message_and_weights", lambda model: pytest.fail("a message for the check alone"))
    result = store(with_weights(*MODELS["conv"][:2]), Context()).boldest.model
    with open_session(result):
        assert len(to_bytes(result)) == snapshot_of(result).size
    assert built == [result]


@pytest.mark.parametrize(("length", "reasons"), [(255, set()), (256, {"store/overridable"})])
def test_small_things_that_callers_may_override_are_not_worth_a_word(length: int, reasons: set[str]) -> None:
    """From 1 KiB on."""
    proto = to_proto(with_weights(f"(float[{length}] x) => (float[{length}] y) {{ y = Add (x, w) }}", {"w": weight(length)}))
    entry = proto.graph.input.add(name="w")
    entry.type.tensor_type.elem_type = 1
    entry.type.tensor_type.shape.dim.add(dim_value=length)
    assert set(refused(stored(model_from_proto(proto)))) == reasons


def tables(rows: int, *, as_tensors: bool) -> onnx.ModelProto:
    """Two LabelEncoders with so many rows each, as lists or as tensors, beside a large Constant that is one-dimensional."""
    keys, values = np.arange(rows), np.linspace(-1, 1, rows, dtype=np.float32)
    held = {"keys_tensor": numpy_helper.from_array(keys), "values_tensor": numpy_helper.from_array(values)}
    attributes = held if as_tensors else {"keys_int64s": keys.tolist(), "values_floats": values.tolist()}
    default = {"default_tensor": numpy_helper.from_array(np.zeros(1, np.float32))} if as_tensors else {}
    encoders = [helper.make_node("LabelEncoder", ["x"], [name], f"encode_{name}", domain="ai.onnx.ml", **attributes, **default) for name in ("a", "b")]
    constant = helper.make_node("Constant", [], ["c"], value=numpy_helper.from_array(np.ones(30_000, np.float32)))
    summed = [helper.make_node("Add", ["a", "b"], ["s"]), helper.make_node("ReduceSum", ["c"], ["t"], keepdims=0), helper.make_node("Add", ["s", "t"], ["y"])]
    x, y = helper.make_tensor_value_info("x", 7, ["n"]), helper.make_tensor_value_info("y", 1, ["n"])
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 4)]
    return helper.make_model(helper.make_graph([*encoders, constant, *summed], "tables", [x], [y]), opset_imports=opsets, ir_version=8)


@pytest.mark.parametrize("as_tensors", [False, True], ids=["lists", "tensors"])
def test_tables_in_attributes_are_named_as_what_stays_large(as_tensors: bool) -> None:
    """Where a file is all trees, support vectors or vocabulary, nothing else says why it stays as large as it is."""
    model = model_from_proto(tables(10_000, as_tensors=as_tensors))
    (refusal,) = [r for r in stored(model).refusals if r.id == "store/attribute"]
    assert (refusal.node, refusal.count) == ("encode_a", 2)
    said_bytes = re.search(r"LabelEncoder \(([\d,]+) bytes\)", refusal.reason)
    assert said_bytes is not None
    said = int(said_bytes[1].replace(",", ""))
    held = sum(a.ByteSize() for n in to_proto(model).graph.node if n.op_type == "LabelEncoder" for a in n.attribute)
    assert 0.9 * held < said <= held


def test_small_tables_are_not_worth_a_word() -> None:
    assert "store/attribute" not in refused(stored(model_from_proto(tables(1_000, as_tensors=False))))


def test_an_attribute_that_is_a_graph_is_no_table_and_no_word_on_the_terminal(capfd: pytest.CaptureFixture[str]) -> None:
    text = """(float[n,64] x, bool c) => (float[n,64] y)
    { y = If (c) <then_branch = t () => (float[n,64] a) { a = MatMul (x, w) }, else_branch = e () => (float[n,64] b) { b = Identity (x) }> }"""
    model = with_weights(text, {"w": weight(64, 64)})
    assert "store/attribute" not in refused(stored(model))
    assert not hasattr(model.graph, "ByteSize")
    assert tuple(capfd.readouterr()) == ("", "")
