"""What simplify does with weights: codes of quantized ones, ones that are stored small, equal ones."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest

from graphcompress.ir import Model, graphs, lint, nodes
from graphcompress.ir.files.text import parse_model
from graphcompress.passes.simplify import simplify
from graphcompress.runtime.evaluate import run_once
from graphcompress.step import Context, StepResult
from tests.support.weights import with_weights


def simplified(model: Model | str) -> StepResult:
    result = simplify(parse_model(model, {"": 17}) if isinstance(model, str) else model, Context()).boldest
    lint(result.model)
    return result


def ops(model: Model) -> Counter[str]:
    return Counter(n.op for n in nodes(model))


def constants(model: Model) -> dict[str, np.ndarray[Any, Any]]:
    return {name: c.values for name, c in model.graph.initializers.items()}


def test_a_float_weight_behind_a_quantizer_is_stored_as_its_codes() -> None:
    result = simplified(
        "(float[2] x) => (float[2] y) <float[2] k = {1, 2}, float s = {0.5}, uint8 z = {3}> { q = QuantizeLinear (k, s, z) r = DequantizeLinear (q, s, z) y = Add (x, r) }"
    )
    assert ops(result.model) == {"DequantizeLinear": 1, "Add": 1}
    assert constants(result.model)["q"].tolist() == [5, 7] and "k" not in constants(result.model)


# --- stored small ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["int8", "uint8", "float16"])
def test_a_weight_that_is_stored_small_is_not_turned_back_into_floats(kind: str) -> None:
    weights = {"q": np.arange(100).reshape(1, 100).astype(kind), "s": np.full((1, 1), 0.5, np.float32)}
    result = simplified(with_weights("(float[1,100] x) => (float[1,100] y) { w = Cast <to = 1> (q) v = Mul (w, s) y = Add (x, v) }", weights))
    assert not result.changed and "simplify/fold/stored" in {r.id for r in result.refusals}


def test_a_small_cast_is_folded() -> None:
    result = simplified("(float[2] x) => (float[2] y) <int8[2] k = {1, 2}> { r = Cast <to = 1> (k) y = Add (x, r) }")
    assert ops(result.model) == {"Add": 1}


def test_a_cast_that_makes_a_constant_no_larger_is_folded() -> None:
    result = simplified(with_weights("(float16[200] x) => (float16[200] y) { r = Cast <to = 10> (k) y = Add (x, r) }", {"k": np.ones(200, np.float32)}))
    assert ops(result.model) == {"Add": 1}


# --- equal constants ------------------------------------------------------------------------------------------------------------


def test_equal_constants_become_one_and_an_output_keeps_its_name() -> None:
    text = "(float[2] x) => (float[2] y, float[2] b) <float[2] a = {1, 2}, float[2] b = {1, 2}, float[2] c = {1, 3}> { u = Add (x, a) v = Atan (u) w = Mul (v, b) s = Atan (w) y = Div (s, c) }"
    result = simplified(text)
    assert result.applied == {"simplify/duplicates": 1}
    assert constants(result.model).keys() == {"b", "c"}
    assert [n.inputs[1].name for n in result.model.graph.nodes if len(n.inputs) > 1] == ["b", "b", "c"]


@pytest.mark.parametrize("other", [np.ones((1, 2), np.float32), np.ones(2, np.float64), np.array([1, -1], np.float32)])
def test_constants_of_another_shape_type_or_value_stay_two(other: np.ndarray[Any, Any]) -> None:
    weights = {"a": np.ones(2, np.float32), "b": other}
    kind = "double" if other.dtype == np.float64 else "float"
    result = simplified(with_weights(f"(float[1,2] x, {kind}[1,2] z) => (float[1,2] y, {kind}[1,2] n) {{ y = Add (x, a) n = Sub (z, b) }}", weights))
    assert not result.changed


def test_signed_zeros_are_not_equal() -> None:
    weights = {"a": np.array([0.0, 2.0], np.float32), "b": np.array([-0.0, 2.0], np.float32)}
    assert not simplified(with_weights("(float[2] x) => (float[2] y) { u = Div (x, a) v = Atan (u) y = Div (v, b) }", weights)).changed


def test_equal_texts_become_one() -> None:
    model = parse_model(
        '(string[2] x) => (bool[2] y, bool[2] z) { a = Constant <value_strings = ["p", "q"]> () b = Constant <value_strings = ["p", "q"]> () y = Equal (x, a) z = Equal (x, b) }',
        {"": 19},
    )
    result = simplified(model)
    assert result.applied["simplify/duplicates"] == 1 and len(constants(result.model)) == 1


@pytest.mark.parametrize(("size", "left"), [(300, 0), (4, 2)])
def test_a_large_constant_of_a_branch_is_read_from_the_main_graph(size: int, left: int) -> None:
    """Small ones stay: fusions look for them beside the operator."""
    values = np.ones((1, size), np.float32)
    model = with_weights(
        f"""(float[N,{size}] x, bool p) => (float[N,{size}] y) {{ m = Add (x, k)
            y = If (p) <then_branch = t () => (float[N,{size}] a) {{ a = Add (m, u) }}, else_branch = e () => (float[N,{size}] b) {{ b = Sub (m, v) }}> }}""",
        {"k": values, "t/u": values, "e/v": values},
    )
    result = simplified(model).model
    assert sum(len(g.initializers) for g in graphs(result) if g is not result.graph) == left
    for taken, expected in ((True, 3), (False, 1)):
        assert np.array_equal(run_once(result, {"x": np.ones((2, size), np.float32), "p": np.array(taken)})["y"], np.full((2, size), expected, np.float32))


def test_a_name_that_means_something_else_in_a_branch_is_not_read_there() -> None:
    values = np.ones((1, 300), np.float32)
    model = with_weights(
        """(float[N,300] x, bool p) => (float[N,300] y) { m = Add (x, k)
            y = If (p) <then_branch = t () => (float[N,300] a) { a = Neg (m) }, else_branch = e () => (float[N,300] b) { c = Sub (m, k) b = Add (c, u) }> }""",
        {"k": values, "e/u": values, "e/k": 2 * values},
    )
    result = simplified(model).model
    assert np.array_equal(run_once(result, {"x": np.ones((2, 300), np.float32), "p": np.array(False)})["y"], np.ones((2, 300), np.float32))


@pytest.mark.parametrize("kept", [False, True])
def test_parts_of_a_weight_are_folded_where_all_its_readers_are(kept: bool) -> None:
    """As TorchScript exports the gates of an LSTM: three Slices and a Concat, which together are as large as the weight."""
    weight = np.random.default_rng(0).standard_normal((4, 16, 1024)).astype(np.float32)
    slices = " ".join(f"s{i} = Slice (w, b{i}, b{i + 1})" for i in range(4))
    numbers = {f"b{i}": np.array([i]) for i in range(5)}
    reader = "v = MatMul (x, w)" if kept else "v = Identity (x)"
    text = f"(float[N,4,1,16] x) => (float y, float v) {{ {slices} c = Concat <axis = 0> (s0, s3, s1, s2) y = MatMul (x, c) {reader} }}"
    model = with_weights(text, {"w": weight, **numbers})
    result = simplified(model)
    assert ops(result.model)["MatMul"] == 1 + kept
    assert ("Slice" in ops(result.model)) == kept
    assert sum(c.nbytes for c in result.model.graph.initializers.values()) < weight.nbytes + 1000
