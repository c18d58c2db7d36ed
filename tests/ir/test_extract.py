"""Part of a model as a model of its own."""

from __future__ import annotations

import numpy as np

from graphcompress.ir import toposort
from graphcompress.ir.files.text import parse_model
from graphcompress.ir.model.extract import extract
from graphcompress.runtime.evaluate import run_once


def test_a_part_between_two_tensors_runs_by_itself() -> None:
    model = parse_model("(float[2] x, int64[2] k) => (float[2] y) <float[2] w = {2, 3}> { a = Mul (x, w) b = Cast <to = 1> (k) c = Add (a, b) y = Neg (c) }")
    tensors = {t.name: t for t in (*model.graph.inputs, *(t for n in model.graph.nodes for t in n.outputs))}
    nodes = [n for n in toposort(model.graph) if n.outputs[0].name in "bc"]
    part, outputs = extract(model, nodes, [tensors["c"], tensors["b"]], {tensors["a"]: "float", tensors["k"]: "int64"})
    fed = dict(zip([spec.name for spec in part.inputs], [np.array([1, 2], np.float32), np.array([3, 4])], strict=True))
    values = run_once(part, fed)
    assert [values[name].tolist() for name in outputs] == [[4, 6], [3, 4]]
