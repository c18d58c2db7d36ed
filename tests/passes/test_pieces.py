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
