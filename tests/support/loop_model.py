"""A model whose running time the feed decides: for tests of what happens in the middle of a run."""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import parser

from graphcompress import ir

TEXT = """
g (int64 n, float[1000] x) => (float[1000] y) {
    go = Constant<value = bool {1}>()
    y = Loop (n, go, x) <body = b (int64 i, bool c, float[1000] a) => (bool again, float[1000] next) { again = Identity(c) next = Sin(a) }>
}"""


def loop_model() -> ir.Model:
    """n times the sine of x; ten thousand take some tens of milliseconds."""
    return ir.model_from_proto(parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]>\n{TEXT}'))


def loop_feed(times: int) -> dict[str, np.ndarray[Any, Any]]:
    return {"n": np.asarray(times, np.int64), "x": np.linspace(0, 1, 1000, dtype=np.float32)}
