"""Small models that the tests of the runtime share."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from onnx import parser

from graphcompress import ir

ModelOf = Callable[..., ir.Model]


@pytest.fixture(scope="session")
def model_of() -> ModelOf:
    """A function from the body of a graph in ONNX text to a Model."""

    def make(text: str, *, opset: int = 17, ir_version: int = 8, extra: str = "") -> ir.Model:
        proto = parser.parse_model(f'<ir_version: {ir_version}, opset_import: ["" : {opset}{extra}]>\n{text}')
        return ir.model_from_proto(proto)

    return make
