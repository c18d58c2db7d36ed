"""Products with one-hot vectors become lookups, and what is computed from each row alone is computed from the table."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from graphcompress.ir import Model, lint, nodes
from graphcompress.passes.simplify import Options, simplify
from graphcompress.runtime import evaluate
from graphcompress.step import Context
from tests.support.weights import with_weights

F32 = np.float32
RNG = np.random.default_rng(3)
MATRIX = RNG.standard_normal((5, 4)).astype(F32)
INDEX = np.array([[[0], [4], [-1]], [[5], [2], [2**31 - 1]]], np.int32)
ONE_HOT = "e = Equal (i, k) c = Cast <to = 1> (e)"


def simplified(model: Model, feed: dict[str, Any]) -> list[str]:
    result = simplify(model, Context(), Options()).boldest.model
    lint(result)
    before, after = evaluate.run_once(model, feed), evaluate.run_once(result, feed)
    for name, value in before.items():
        np.testing.assert_allclose(value, after[name], rtol=1e-6, atol=1e-7)
        assert value.shape == after[name].shape and value.dtype == after[name].dtype
    return [n.op for n in nodes(result)]


def one_hot(body: str, index: str = "int32[N,3,1] i", opset: int = 17, **constants: Any) -> Model:
    values = {"k": np.arange(5, dtype=np.int32).reshape(1, 1, 5), "w": MATRIX, **constants}
    return with_weights(f"({index}) => (float y) {{ {body} }}", values, opset=opset)


@pytest.mark.parametrize("opset", [12, 17])
@pytest.mark.parametrize("order", ["i, k", "k, i"])
def test_a_product_with_a_one_hot_vector_is_a_lookup(order: str, opset: int) -> None:
    ops = simplified(one_hot(f"e = Equal ({order}) c = Cast <to = 1> (e) y = MatMul (c, w)", opset=opset), {"i": INDEX})
    assert ops == ["Clip", "Add", "Squeeze", "Gather"]


def test_indices_of_64_bits() -> None:
    model = one_hot(f"{ONE_HOT} y = MatMul (c, w)", index="int64[N,3,1] i", k=np.arange(5, dtype=np.int64))
    assert simplified(model, {"i": np.where(INDEX > 10, 2**40, INDEX.astype(np.int64))}) == ["Clip", "Add", "Squeeze", "Gather"]


@pytest.mark.parametrize(
    ("body", "constants"),
    [
        ("e = Equal (i, k) c = Cast <to = 1> (e) y = MatMul (c, w)", {"k": np.array([0, 1, 2, 4, 3], np.int32)}),
        ("e = Equal (i, k) c = Cast <to = 1> (e) y = MatMul (c, w)", {"k": np.arange(1, 6, dtype=np.int32)}),
        ("e = Equal (i, k) c = Cast <to = 1> (e) y = MatMul (c, w)", {"w": np.where(MATRIX > 1, F32(np.inf), MATRIX)}),
        ("e = Equal (i, k) c = Cast <to = 1> (e) y = MatMul (c, w)", {"k": np.arange(15, dtype=np.int32).reshape(3, 5) % 5}),
        ("e = Equal (i, k) c = Cast <to = 1> (e) z = MatMul (c, w) s = ReduceSum <keepdims = 0> (c) y = Add (z, s)", {}),
        ("e = Less (i, k) c = Cast <to = 1> (e) y = MatMul (c, w)", {}),
    ],
)
def test_other_products_stay(body: str, constants: dict[str, Any]) -> None:
    assert "MatMul" in simplified(one_hot(body, **constants), {"i": INDEX})


def table(body: str, index: str = "int64[N] i", **constants: Any) -> Model:
    values = {"t": MATRIX, "b": MATRIX[0], "one": np.ones((1, 1, 4), F32), "two": F32(2), **constants}
    return with_weights(f"({index}) => (float y) {{ {body} }}", values)


@pytest.mark.parametrize(
    "body",
    [
        "g = Gather (t, i) y0 = Add (g, b) y = Identity (y0)",
        "g = Gather (t, i) a = Add (b, g) s = Sigmoid (a) m = Mul (a, s) h = Div (m, one) y = Softmax (h)",
        "g = Gather (t, i) a = Mul (g, g) p = Pow (a, two) c = Clip (p, , two) y = Softmax (c)",
    ],
)
def test_what_is_computed_from_rows_is_computed_from_the_table(body: str) -> None:
    ops = simplified(table(body, "int64[N,3] i"), {"i": np.array([[0, 3, 1], [4, 4, 2]])})
    assert not {"Add", "Mul", "Pow", "Clip", "Sigmoid", "Div"} & set(ops[ops.index("Gather") :])


@pytest.mark.parametrize(
    ("body", "constants"),
    [
        ("g = Gather (t, i) a = Add (g, b) s = Softmax (a) y = Mul (s, g)", {}),  # rows are read beside what is computed from them
        ("g = Gather (t, i) y = Add (g, wide)", {"wide": np.ones((3, 4), F32)}),  # differs from position to position
        ("g = Gather <axis = 1> (t, i) y = Add (g, b)", {"b": np.ones(3, F32)}),
        ("g = Gather (t, i) j = Abs (i) z = Gather (t, j) a = Add (g, b) y = Concat <axis = 0> (a, z)", {}),  # the table would be there twice
    ],
)
def test_what_would_not_pay_or_differ_stays(body: str, constants: dict[str, Any]) -> None:
    ops = simplified(table(body, **constants), {"i": np.array([0, 3, 1])})
    assert {"Add", "Mul"} & set(ops[ops.index("Gather") :])


@pytest.mark.parametrize("added", [(4,), (1, 4), (1, 1, 4), (1, 1, 1, 4)])
@pytest.mark.parametrize("index", [(), (3,), (2, 3)])
def test_constants_of_more_axes_than_rows_have_make_results_of_more_axes(index: tuple[int, ...], added: tuple[int, ...]) -> None:
    """What is looked up has the index's axes and one more: a constant with more than that adds axes, which a table does not."""
    constants = {"t": MATRIX, "a": RNG.standard_normal(added).astype(F32)}
    axes = f"[{','.join(map(str, index))}]" if index else ""
    model = with_weights(f"(int64{axes} i) => (float y) {{ r = Gather (t, i) s = Add (r, a) h = Tanh (s) y = Softmax (h) }}", constants, opset=17)
    ops = simplified(model, {"i": RNG.integers(0, 5, index)})
    assert (sorted(ops) == ["Gather", "Softmax"]) == (len(added) <= len(index) + 1)
