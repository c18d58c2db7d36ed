"""store: the message of its result, and what is too small for a word."""

from __future__ import annotations

import pytest

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
