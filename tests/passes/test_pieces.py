"""Pieces of a transposed tensor are taken first."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from graphcompress.ir import Model
from graphcompress.ir.files.text import parse_model
from graphcompress.passes.simplify import simplify
from graphcompress.runtime.session import open_session
from graphcompress.step import Context

STAGE = "simplify/pieces"


def attention(perm: str, *, split: str = "split", tail: str = "", outputs: str = "float[n,2,5,5] q, float[n,2,5,5] k", opset: int = 17) -> Model:
    one = "one" if opset >= 13 else ""
    squeeze = "Squeeze (a, one)" if one else "Squeeze <axes = [0]> (a)"
    return parse_model(
        f"""(float[n,5,20] x) => ({outputs})
        <int64[2] split = {{1, 1}}, int64[1] one = {{0}}, int64[5] heads = {{0, 5, 2, 2, 5}}>
        {{
            h = Reshape (x, heads)
            t = Transpose <perm = {perm}> (h)
            a, b = Split <axis = 0> (t, {split})
            q = {squeeze}
            k = {squeeze.replace("(a", "(b")}
            {tail}
        }}""",
        {"": opset},
    )


def simplified(model: Model) -> tuple[Model, dict[str, int]]:
    result = simplify(model, Context()).boldest
    return result.model, dict(result.applied)


@pytest.mark.parametrize("rows", [1, 3])
def test_pieces_are_transposed_one_by_one(rows: int) -> None:
    model = attention("[2, 0, 3, 4, 1]")
    result, applied = simplified(model)
    assert applied[STAGE] == 1
    assert Counter(n.op for n in result.graph.nodes) == {"Reshape": 1, "Split": 1, "Squeeze": 2, "Transpose": 2}
    assert all(n.attrs["perm"] == [0, 2, 3, 1] for n in result.graph.nodes if n.op == "Transpose")
    x = np.random.default_rng(0).standard_normal((rows, 5, 20)).astype(np.float32)
    for name, before in open_session(model, threads=1).run({"x": x}).items():
        np.testing.assert_array_equal(open_session(result, threads=1).run({"x": x})[name], before)


@pytest.mark.parametrize("seed", range(40))
def test_any_order_of_axes(seed: int) -> None:
    """Random ranks, sizes, orders, axes counted from the end, and operators older and newer: the same values, whether the pieces are taken first or not."""
    rng = np.random.default_rng(seed)
    rank, opset = int(rng.integers(2, 6)), int(rng.choice([11, 13, 17, 18]))
    axis, pieces = int(rng.integers(rank)), int(rng.integers(1, 4))
    order = rng.permutation(rank).tolist()
    shape = rng.integers(1, 4, rank)
    shape[order[axis]] = pieces
    said = axis - rank if rng.random() < 0.5 else axis
    names = [f"p{i}" for i in range(pieces)]
    sizes = ", ".join(str(shape[i]) for i in order if i != order[axis])
    count = f", num_outputs = {pieces}" if opset >= 18 else ""
    squeeze = "Squeeze ({}, axis)" if opset >= 13 else f"Squeeze <axes = [{said}]> ({{}})"
    model = parse_model(
        f"""(float[{", ".join(map(str, shape))}] x) => ({", ".join(f"float[{sizes}] s{i}" for i in range(pieces))})
        <int64[1] axis = {{{said}}}>
        {{
            t = Transpose <perm = {order}> (x)
            {", ".join(names)} = Split <axis = {said}{count}> (t)
            {" ".join(f"s{i} = {squeeze.format(name)}" for i, name in enumerate(names))}
        }}""",
        {"": opset},
    )
    result, applied = simplified(model)
    x = rng.standard_normal(shape).astype(np.float32)
    before, after = (open_session(m, threads=1, optimize="none").run({"x": x}) for m in (model, result))
    for name, value in before.items():
        np.testing.assert_array_equal(after[name], value)
    if pieces > 1 and order[-1] != rank - 1 and len({*shape.tolist()}) > 1 and rank > 3:
        assert STAGE in applied or not any(n.op == "Split" for n in result.graph.nodes)


@pytest.mark.parametrize(
    ("perm", "tail", "outputs"),
    [
        ("[2, 0, 3, 1, 4]", "", "float[n,2,5,5] q, float[n,2,5,5] k"),  # the innermost axis stays: kernels copy runs of it
        ("[2, 0, 3, 4, 1]", "z = Relu (a)", "float[n,2,5,5] q, float[n,2,5,5] k, float[1,n,2,5,5] z"),  # a piece is read as it was
        ("[2, 0, 3, 4, 1]", "z = Relu (t)", "float[n,2,5,5] q, float[n,2,5,5] k, float[2,n,2,5,5] z"),  # so is the whole
    ],
)
def test_what_gains_nothing_or_is_read_elsewhere_stays(perm: str, tail: str, outputs: str) -> None:
    assert STAGE not in simplified(attention(perm, tail=tail, outputs=outputs))[1]
