"""What each quantized tensor does to the outputs: measured one at a time in one model, priced in the cut."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from quantized import CPU

from graphcompress.errors import ModelError
from graphcompress.ir import Model, Tensor
from graphcompress.ir.shapes.infer import infer
from graphcompress.passes.quantize import noise, placement
from graphcompress.passes.quantize.groups import Group, find
from graphcompress.passes.quantize.noise import output_noise, quantized
from graphcompress.passes.quantize.parameters import QuantizationParameters
from graphcompress.runtime.noise import relative_noise
from graphcompress.step import silent
from tests.support.weights import with_weights

F32 = np.float32
R = np.random.default_rng(2)
FEEDS = [{"x": R.standard_normal((2, 8, 6, 6)).astype(F32)} for _ in range(2)]
WEIGHTS = {"u": (R.standard_normal((8, 8, 1, 1)) / 3).astype(F32), "v": (R.standard_normal((8, 8, 1, 1)) / 3).astype(F32)}
CHAIN = "(float[2,8,6,6] x) => (float[2,8,6,6] y, float[2,8,6,6] z) { a = Conv (x, u)  t = Tanh (a)  y = Conv (t, v)  z = Tanh (y) }"
BRANCH = """(float[2,8,6,6] x) => (float[2,8,6,6] y) {
    c = Constant <value_int = 1> ()  d = Cast <to = 9> (c)
    y = If (d) <then_branch = yes () => (float[2,8,6,6] p) { t = Tanh (x)  a = Conv (t, u)  p = Tanh (a) }, else_branch = no () => (float[2,8,6,6] q) { q = Identity (x) }>
}"""


def parts(model: Model, steps: dict[str, float]) -> tuple[list[Group], dict[Tensor, QuantizationParameters]]:
    """The groups of a model, and by the name of a tensor the step of its codes."""
    groups = find(model, CPU, infer(model)).groups
    tensors = {t for g in groups for t in quantized(g)}
    return groups, {t: QuantizationParameters(steps[t.name], 128) for t in tensors}


def by_name(model: Model, steps: dict[str, float], local: Any = None) -> tuple[dict[str, float], noise.Noise, list[Group]]:
    groups, scales = parts(model, steps)
    measured = output_noise(model, groups, scales, "uint8", local(groups) if local else {}, FEEDS, silent)
    return {t.name: measured.tensors[unit] for t, unit in measured.units.items()}, measured, groups


def test_each_tensor_counts_by_what_it_does_to_the_outputs() -> None:
    steps = {"x": 0.03, "a": 0.03, "t": 0.2, "y": 0.03}
    found, _, _ = by_name(with_weights(CHAIN, WEIGHTS), steps)
    assert set(found) == set(steps)
    assert found["t"] > 10 * max(found["x"], found["a"]) > 0
    # An output of the model that is made of codes: the error of rounding itself.
    power = np.mean([np.square(reference(feed)).mean() for feed in FEEDS])
    assert found["y"] == pytest.approx(0.03**2 / 12 / power, rel=0.1)


def reference(feed: dict[str, Any]) -> Any:
    from graphcompress.runtime.session import open_session

    with open_session(with_weights(CHAIN, WEIGHTS), threads=1) as session:
        return session.run(feed)["y"]


def test_tensors_of_branches_are_switched_there() -> None:
    found, _, _ = by_name(with_weights(BRANCH, WEIGHTS), {"t": 0.02, "a": 0.02})
    assert set(found) == {"t", "a"} and min(found.values()) > 0


def test_a_weight_counts_as_its_input_does() -> None:
    model = with_weights(CHAIN, WEIGHTS)
    found, measured, groups = by_name(model, {"x": 0.03, "a": 0.03, "t": 0.2, "y": 0.03}, lambda groups: {groups[0]: (1e-4, 3e-4)})
    assert measured.weights == {groups[0]: pytest.approx(3 * found["x"])}
    assert measured.total(groups[:1]) == pytest.approx(4 * found["x"] + found["a"])
    assert measured.total(groups) == pytest.approx(4 * found["x"] + found["a"] + found["t"] + found["y"])


def test_where_it_cannot_run_local_errors_stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: Any, **more: Any) -> Any:
        raise ModelError("no")

    monkeypatch.setattr(noise, "LocalSession", broken)
    found, _, _ = by_name(with_weights(CHAIN, WEIGHTS), {"x": 0.03, "a": 0.03, "t": 0.2, "y": 0.03}, lambda groups: {groups[1]: (0.5, 0.1)})
    assert found == {"x": 0.0, "a": 0.0, "t": 0.5, "y": 0.0}


def test_where_time_is_short_neighbours_are_switched_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(noise, "SECONDS", 0.0)
    found, _, _ = by_name(with_weights(CHAIN, WEIGHTS), {"x": 0.03, "a": 0.03, "t": 0.2, "y": 0.03})
    assert len(set(found.values())) == 1


def test_noise_has_a_price_in_the_cut(tools: Any) -> None:
    from quantized import context

    from graphcompress.passes.quantize.observe import observe
    from graphcompress.passes.quantize.ranges import Histogram

    small = tools.Small()
    x = small.node("Relu", small.conv(small.input("x", 1, 64, 24, 24), 64, 64, name="a"))
    model = small.model(small.node("Tanh", small.conv(small.node("Tanh", x), 64, 64, name="b")))
    groups = find(model, CPU, infer(model)).groups
    tensors = list(dict.fromkeys(t for g in groups for t in (*g.inputs, *g.outputs)))
    seen = observe(model, tensors, context(model, tools).data, lambda t: Histogram())
    units = {t: i for i, t in enumerate(tensors)}
    loud = next(g for g in groups if g.name == "b")
    levels = [1.0 if t in loud.inputs else 1e-9 for t in tensors]
    price = placement.NoisePrice(noise.Noise(frozenset(groups), units, levels, {}), 1e9)
    assert {g.name for g in placement.decide(model, groups, seen, CPU) if g.row.heavy} == {"a", "b"}
    assert {g.name for g in placement.decide(model, groups, seen, CPU, price=price) if g.row.heavy} == {"a"}
    weighty = placement.NoisePrice(noise.Noise(frozenset(groups), {}, (), {next(g for g in groups if g.name == "a"): 1.0}), 1e9)
    assert {g.name for g in placement.decide(model, groups, seen, CPU, price=weighty) if g.row.heavy} == {"b"}


def test_relative_noise_is_that_of_the_worst_output() -> None:
    before = [{"a": np.array([3.0, 4.0], F32), "b": np.array([1.0, np.nan], F32), "c": np.array([1, 2])}]
    after = [{"a": np.array([3.0, 4.5], F32), "b": np.array([1.5, 0.0], F32), "c": np.array([7, 7])}]
    assert relative_noise(before, after) == pytest.approx(0.25)
