"""Small models that the tests of the runtime share."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import psutil
import pytest
from onnx import parser

from graphcompress import ir
from graphcompress.runtime.elsewhere.remote import RemotePlace
from tests.support.places import spec

ModelOf = Callable[..., ir.Model]


@pytest.fixture(scope="session")
def model_of() -> ModelOf:
    """A function from the body of a graph in ONNX text to a Model."""

    def make(text: str, *, opset: int = 17, ir_version: int = 8, extra: str = "") -> ir.Model:
        proto = parser.parse_model(f'<ir_version: {ir_version}, opset_import: ["" : {opset}{extra}]>\n{text}')
        return ir.model_from_proto(proto)

    return make


@pytest.fixture
def nothing_left_running() -> Iterator[None]:
    """Every test ends with the processes that there were before."""
    before = {p.pid for p in psutil.Process().children(recursive=True)}
    yield
    left = [p for p in psutil.Process().children(recursive=True) if p.pid not in before]
    assert left == []


@pytest.fixture
def place() -> Iterator[RemotePlace]:
    with RemotePlace(spec()) as opened:
        yield opened
