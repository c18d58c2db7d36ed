"""layout: columns become rows and few channels several rows, with the same numbers, where the table expects a gain and nowhere else."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from quantized import done, precision, sqnr

from graphcompress.data.memory import memory_data
from graphcompress.ir import Model, lint, nodes, to_bytes, to_proto
from graphcompress.passes.layout import Options, layout
from graphcompress.passes.store import Options as Stored
from graphcompress.passes.store import store
from graphcompress.passes.store.constants import channel_axes, find
from graphcompress.runtime.profile import optimized_model
from graphcompress.runtime.session import open_session
from graphcompress.step import Context, StepResult
from graphcompress.targets import load_target
from tests.support.weights import with_weights

F32 = np.float32


def weight(*shape: int) -> np.ndarray[Any, Any]:
    return (np.random.default_rng(len(shape) * 7 + shape[0]).standard_normal(shape) / np.sqrt(np.prod(shape[1:]))).astype(F32)


Feed = dict[str, np.ndarray[Any, Any]]


def feed_of(*shape: int) -> Feed:
    return {"x": np.random.default_rng(1).standard_normal(shape).astype(F32)}


def same_outputs(model: Model, other: Model, feeds: Sequence[Feed]) -> None:
    with open_session(model, threads=1) as first, open_session(other, threads=1) as second:
        for feed in feeds:
            expected, outputs = first.run(feed), second.run(feed)
            for name, value in expected.items():
                assert value.shape == outputs[name].shape
                np.testing.assert_allclose(value, outputs[name], rtol=1e-4, atol=1e-5)


def laid_out(model: Model, feeds: Sequence[Feed] = (), **options: Any) -> StepResult:
    """The step's result, which computes the same as `model` and leaves it as it was. With `feeds` the first decides what pays, and all are compared."""
    before = to_bytes(model)
    context = Context(data=memory_data(feeds[:1], model.inputs) if feeds else None)
    result = layout(model, context, Options(**options)).boldest
    assert to_bytes(model) == before
    assert (result.model.inputs, result.model.outputs) == (model.inputs, model.outputs)
    lint(result.model)
    to_proto(result.model)
    rng = np.random.default_rng(1)
    own = {i.name: rng.standard_normal([d if isinstance(d, int) else 2 for d in i.shape or ()]).astype(F32) for i in model.inputs}
    same_outputs(model, result.model, feeds or [own])
    return result


def ops(model: Model) -> list[str]:
    return [n.op for n in nodes(model)]


COLUMN = {"w": weight(32, 4, 64, 1), "v": weight(16, 32, 32, 1), "b": weight(16, 1).ravel(), "k": weight(32, 1, 1)}


def test_a_chain_on_columns_goes_along_rows_with_one_transpose_at_each_end() -> None:
    model = with_weights(
        """(float[N,4,512,1] x) => (float[N,16,C,D] y) {
            a = Conv <pads = [31, 0, 32, 0], strides = [2, 1]> (x, w)
            r = Relu (a)
            m = MaxPool <kernel_shape = [2, 1], strides = [2, 1], pads = [1, 0, 0, 0]> (r)
            s = Mul (m, k)
            y = Conv <dilations = [2, 1]> (s, v, b)
        }""",
        COLUMN,
    )
    result = laid_out(model)
    assert result.applied == {"layout/columns": 2}
    assert turns(result.model) == 2
    assert [list(n.attrs["kernel_shape"]) for n in nodes(result.model) if n.op == "MaxPool"] == [[1, 2]]
    assert {tuple(c.shape) for c in result.model.graph.initializers.values()} == {(32, 4, 1, 64), (16, 32, 1, 32), (16,), (32, 1, 1), (1,)}


def turns(model: Model) -> int:
    """Places where columns become rows or the other way round, which the models of these tests have not by themselves."""
    return ops(model).count("Transpose") + ops(model).count("Squeeze")


def test_a_column_in_any_run_is_turned_without_a_transpose() -> None:
    """onnxruntime joins a Transpose of ours with its own for channels-last, which is then ten times as slow."""
    result = laid_out(with_weights("(float[N,4,512,1] x) => (float y) { a = Conv (x, w) y = Softmax <axis = 2> (a) }", {"w": COLUMN["w"]}))
    assert sorted(ops(result.model)) == ["Conv", "Softmax", "Squeeze", "Squeeze", "Unsqueeze", "Unsqueeze"]
    old = laid_out(with_weights("(float[N,4,512,1] x) => (float y) { a = Conv (x, w) y = Softmax <axis = 2> (a) }", {"w": COLUMN["w"]}, opset=11, ir_version=6))
    assert sorted(ops(old.model)) == sorted(ops(result.model))
    wider = with_weights("(float[1,4,L,D] x) => (float y) { a = Conv (x, w) y = Softmax <axis = 2> (a) }", {"w": COLUMN["w"]})
    assert ops(laid_out(wider, [feed_of(1, 4, 512, 1), feed_of(1, 4, 512, 3)]).model).count("Transpose") == 2


@pytest.mark.parametrize(
    ("reader", "transposes"),
    [
        ("y = Reshape (a, shape)", 1),
        ("y = Flatten (a)", 1),
        ("y = GlobalAveragePool (a)", 1),
        ("y = Flatten <axis = 3> (a)", 2),
        ("y = Reshape (a, kept)", 2),
        ("y = Softmax <axis = 2> (a)", 2),
    ],
)
def test_what_reads_elements_in_their_order_reads_the_row_itself(reader: str, transposes: int) -> None:
    model = with_weights(
        "(float[2,4,512,1] x) => (float y) { a = Conv (x, w) " + reader + " }",
        {"w": COLUMN["w"], "shape": np.array([0, -1], np.int64), "kept": np.array([-1, 32, 0], np.int64)},
    )
    assert turns(laid_out(model).model) == transposes


@pytest.mark.parametrize(
    ("reader", "transposes"),
    [("y = Reshape (a, shape)", 2), ("y = Flatten <axis = 2> (a)", 2), ("y = GlobalAveragePool (a)", 1)],
)
def test_what_reads_elements_in_their_order_reads_the_column_where_another_run_may_be_wider(reader: str, transposes: int) -> None:
    model = with_weights("(float[1,4,L,D] x) => (float y) { a = Conv (x, w) " + reader + " }", {"w": COLUMN["w"], "shape": np.array([0, -1], np.int64)})
    result = laid_out(model, [feed_of(1, 4, 512, 1), feed_of(1, 4, 512, 3), feed_of(1, 4, 300, 1)])
    assert result.applied == {"layout/columns": 1}
    assert turns(result.model) == transposes


def test_a_second_operand_that_may_have_another_rank_stays_outside() -> None:
    model = with_weights("(float[1,4,512,1] x, float[] z) => (float y) { a = Conv (x, w) y = Add (a, z) }", {"w": COLUMN["w"]})
    feeds = [feed_of(1, 4, 512, 1) | {"z": np.ones(shape, F32)} for shape in ((1, 32, 449, 1), (449, 1), (5, 1, 1, 1, 1))]
    assert laid_out(model, feeds).applied == {"layout/columns": 1}


def test_a_reshape_of_an_opset_whose_shape_is_an_attribute_reads_the_row_too() -> None:
    text = "(float[2,4,512,1] x) => (float y) { a = Conv (x, w) y = Reshape <shape = [0, -1]> (a) }"
    assert turns(laid_out(with_weights(text, {"w": COLUMN["w"]}, opset=4, ir_version=3)).model) == 1
    kept = with_weights(text.replace("[0, -1]", "[-1, 32, 0]"), {"w": COLUMN["w"]}, opset=4, ir_version=3)
    assert turns(laid_out(kept).model) == 2


def test_a_column_that_is_an_output_is_handed_out_as_one() -> None:
    model = with_weights("(float[1,4,512,1] x) => (float[1,32,449,1] a, float[1,32,449,1] y) { a = Conv (x, w) y = Tanh (a) }", {"w": COLUMN["w"]})
    assert laid_out(model).applied == {"layout/columns": 1}


@pytest.mark.parametrize(
    "text",
    [
        "(float[1,4,512,1] x) => (float y) { y = Conv <pads = [0, 1, 0, 1]> (x, w) }",  # no column any more
        "(float[1,4,512,2] x) => (float y) { y = Conv (x, w) }",
        '(float[1,4,512,1] x) => (float y) { y = Conv <auto_pad = "SAME_UPPER"> (x, w) }',
        "(float[1,4,512,1] x, float[32,4,64,1] w2) => (float y) { y = Conv (x, w2) }",
        "(float[1,4,66,1] x) => (float y) { y = Conv (x, w) }",  # three outputs: not worth two Transposes
    ],
)
def test_other_convs_stay(text: str) -> None:
    model = with_weights(text, {"w": COLUMN["w"]})
    result = laid_out(model)
    assert not result.changed and result.model is model


def test_few_channels_are_computed_several_rows_at_once() -> None:
    model = with_weights(
        "(float[N,16,48,40] x) => (float[N,1,A,B] y) { a = Conv <pads = [2, 1, 2, 1], strides = [1, 2]> (x, w, b) r = Clip (a, low) y = Sigmoid (r) }",
        {"w": weight(1, 16, 5, 3), "b": weight(1, 1).ravel(), "low": F32(-0.2)},
    )
    result = laid_out(model, growth=20.0)
    assert result.applied == {"layout/rows": 1}
    assert ops(result.model) == ["Conv", "Clip", "Sigmoid", "Reshape", "Transpose", "Reshape"]
    (conv,) = (n for n in nodes(result.model) if n.op == "Conv")
    rows = conv.attrs["strides"][0]
    assert rows in (2, 3, 4, 6, 8) and conv.attrs["strides"][1] == 2
    assert conv.attrs["kernel_shape"] == [5 + rows - 1, 3]


def test_rows_with_a_stride_and_an_output_between() -> None:
    model = with_weights(
        "(float[1,16,49,40] x) => (float[1,2,24,38] a, float[1,2,24,38] y) { a = Conv <strides = [2, 1]> (x, w) y = Relu (a) }", {"w": weight(2, 16, 3, 3)}
    )
    result = laid_out(model, growth=20.0)
    assert result.applied == {"layout/rows": 1}
    assert [n.inputs[0].name for n in nodes(result.model) if n.op == "Relu"] == ["a"]


@pytest.mark.parametrize(
    ("signature", "shapes"), [("N,16,48,40", [(1, 16, 48, 40), (0, 16, 48, 40), (3, 16, 48, 40)]), ("2,16,48,D", [(2, 16, 48, 40), (2, 16, 48, 7)])]
)
def test_rows_of_empty_batches_and_of_other_widths(signature: str, shapes: list[tuple[int, ...]]) -> None:
    model = with_weights("(float[" + signature + "] x) => (float y) { y = Conv <pads = [2, 1, 2, 1]> (x, w) }", {"w": weight(1, 16, 5, 3)})
    assert laid_out(model, [feed_of(*shape) for shape in shapes], growth=20.0).applied == {"layout/rows": 1}


@pytest.mark.parametrize(
    "text",
    [
        "(float[N,16,48,D] x) => (float y) { y = Conv <pads = [1, 1, 1, 1]> (x, w) }",  # of an empty batch no Reshape could tell the width
        "(float[1,16,49,40] x) => (float y) { y = Conv <pads = [1, 1, 1, 1], dilations = [2, 1]> (x, w) }",
        "(float[1,32,48,40] x) => (float y) { y = Conv <pads = [1, 1, 1, 1], group = 2> (x, w) }",
        "(float[1,16,H,40] x) => (float y) { y = Conv <pads = [1, 1, 1, 1]> (x, w) }",
        "(float[1,16,47,40] x) => (float y) { y = Conv <pads = [1, 1, 1, 1]> (x, w) }",  # 47 rows are no multiple
        "(float[1,16,48,40] x) => (float y) { y = Conv <pads = [1, 1, 1, 1]> (x, wide) }",  # the block is full
        "(float[1,16,8,2] x) => (float y) { y = Conv <pads = [1, 1, 1, 1]> (x, w) }",  # too small
    ],
)
def test_convs_that_gain_nothing_keep_their_rows(text: str) -> None:
    model = with_weights(text, {"w": weight(2, 16, 3, 3), "wide": weight(16, 16, 3, 3)})
    result = laid_out(model, growth=20.0)
    assert not result.changed and result.model is model


def floats(model: Model) -> int:
    return sum(c.values.size for c in model.graph.initializers.values() if c.values.dtype == F32)


@pytest.mark.parametrize("opset", [4, 7, 10, 11, 17])
@pytest.mark.parametrize("stride", [1, 2])
def test_weights_in_the_file_grow_no_further_than_asked_for(opset: int, stride: int) -> None:
    text = f"(float[N,16,49,40] x) => (float y) {{ y = Conv <pads = [1, 1, {stride - 1}, 1], strides = [{stride}, 1]> (x, w, b) }}"
    model = with_weights(text, {"w": weight(2, 16, 3, 3), "b": weight(2, 1).ravel()}, opset=opset, ir_version=8 if opset > 4 else 3)
    small, large = laid_out(model).model, laid_out(model, growth=40.0).model
    assert floats(small) <= 1.0625 * floats(model) + 16 < floats(large)
    for result in (small, large):
        onnx.checker.check_model(to_proto(result))
        kernels = [n for n in nodes(optimized_model(result)) if n.op not in ("ReorderInput", "ReorderOutput")]
        assert [n.op for n in kernels] == ["Conv", "Reshape", "Transpose", "Reshape"]  # no session makes the kernel at each run


def test_where_runtimes_have_no_pad_or_concat_kernels_grow_in_the_file_or_not_at_all() -> None:
    model = with_weights("(float[1,16,48,40] x) => (float y) { y = Conv (x, w) }", {"w": weight(2, 16, 3, 3)}, opset=3, ir_version=3)
    assert not laid_out(model).changed
    onnx.checker.check_model(to_proto(laid_out(model, growth=40.0).model))


def test_a_weight_that_two_convs_read_stays_one() -> None:
    text = "(float[1,16,48,40] x) => (float y, float z) { y = Conv <pads = [1,1,1,1]> (x, w) t = Tanh (x) z = Conv <pads = [1,1,1,1]> (t, w) }"
    model = with_weights(text, {"w": weight(2, 16, 3, 3)})
    result = laid_out(model)
    assert result.applied == {"layout/rows": 2} and floats(result.model) == floats(model)


def test_a_kernel_that_grows_on_loading_is_stored_small_by_output_channels_and_folded() -> None:
    text = "(float[1,16,48,40] x) => (float y) { y = Conv <pads = [1,1,1,1]> (x, w) }"
    result = laid_out(with_weights(text, {"w": weight(2, 16, 3, 3)})).model
    (constant,), _ = find(result)
    assert constant.shape == (2, 16, 3, 3) and channel_axes(constant) == (0,)
    stored = store(result, Context(), Stored(weights="int8")).boldest.model
    assert floats(stored) < 100
    assert [n.op for n in nodes(optimized_model(stored)) if "Reorder" not in n.op] == ["Conv", "Reshape", "Transpose", "Reshape"]


@pytest.mark.parametrize("small", [False, True])
def test_a_kernel_that_grows_on_loading_can_go_to_integers(small: bool, tools: Any) -> None:
    text = "(float[1,16,48,40] x) => (float y) { [conv] a = Conv <pads = [1,1,1,1]> (x, w) y = Tanh (a) }"
    model = laid_out(with_weights(text, {"w": weight(2, 16, 3, 3)})).model
    if small:
        model = store(model, Context(), Stored(weights="int8")).boldest.model
    quantized = done(model, tools)
    assert precision(quantized) == {"conv": "int8"} and sqnr(model, quantized, tools) > 25
    assert floats(quantized.model) < 100 and not {"Pad", "Cast"} & set(ops(quantized.model))
    unchanged = done(model, tools, exclude=("conv",))
    assert not unchanged.changed and unchanged.model is model


def test_sizes_are_those_of_the_first_feed() -> None:
    model = with_weights("(float[1,4,L,1] x) => (float y) { y = Conv (x, w) }", {"w": COLUMN["w"]})
    assert not layout(model, Context()).boldest.changed
    feeds = memory_data([{"x": np.zeros((1, 4, 512, 1), F32)}], model.inputs)
    assert layout(model, Context(data=feeds)).boldest.changed


def test_a_target_without_prices_keeps_the_model() -> None:
    model = with_weights("(float[1,4,512,1] x) => (float y) { y = Conv (x, w) }", {"w": COLUMN["w"]})
    for name in ("web", "cpu-arm", "qnn", "tensorrt", "openvino"):
        assert not layout(model, Context(target=load_target(name))).boldest.changed, name
    assert layout(model, Context(target=load_target("cpu-avx2"))).boldest.changed
