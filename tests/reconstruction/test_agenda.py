"""Which layers are refitted, in which order, and to what."""

from __future__ import annotations

from typing import Any

import numpy as np

from graphcompress.ir import Model
from graphcompress.ir.model.edit import Edits
from graphcompress.reconstruction.agenda import RepairLayer, agenda

Tools = Any


def block(tools: Tools) -> Model:
    """A residual block whose short way stands in the file after the long one, and a classifier."""
    small = tools.Small()
    x = small.input("x", "n", 4, 6, 6)
    stem = small.node("Relu", small.node("Conv", x, small.weight(4, 4, 3, 3, name="w0"), name="stem", pads=[1] * 4))
    one = small.node("Relu", small.node("Conv", stem, small.weight(8, 4, 3, 3, name="w1"), name="one", pads=[1] * 4))
    two = small.node("Conv", one, small.weight(8, 8, 3, 3, name="w2"), name="two", pads=[1] * 4)
    short = small.node("Conv", stem, small.weight(8, 4, 1, 1, name="w3"), name="short")
    out = small.node("Relu", small.node("Add", two, short, name="sum"))
    return small.model(small.node("Gemm", small.node("Flatten", small.node("GlobalAveragePool", out)), small.weight(8, 5, name="w4"), name="classifier"))


def planned(model: Model, *cuts: str) -> list[tuple[str, bool]]:
    """(layer, whether its target is a sum) with the weights `cuts` changed."""
    student, twins = model.clone()
    with Edits(student) as edits:
        for name in cuts:
            edits.set_value(student.graph.initializers[name], 0.5 * student.graph.initializers[name].values)
    jobs, refusals = agenda(model, student, [RepairLayer(n, twins.node(n)) for n in model.graph.nodes if n.op in ("Conv", "Gemm")])
    assert not refusals
    return [(job.layer.node.name, job.sum is not None) for job in jobs]


def test_the_short_way_comes_first_and_the_long_one_has_the_sum_for_its_target(tools: Tools) -> None:
    assert planned(block(tools), "w0", "w1") == [("stem", False), ("one", False), ("short", False), ("two", True), ("classifier", False)]


def test_only_what_lost_something_and_what_follows_is_refitted(tools: Tools) -> None:
    assert planned(block(tools), "w1") == [("one", False), ("two", True), ("classifier", False)]
    assert planned(block(tools), "w4") == [("classifier", False)]
    assert planned(block(tools)) == []


def test_the_other_side_of_a_sum_that_lost_something_is_mended(tools: Tools) -> None:
    assert planned(block(tools), "w3") == [("short", False), ("two", True), ("classifier", False)]


def test_a_cut_of_outputs_alone_is_no_loss(tools: Tools) -> None:
    model = block(tools)
    student, twins = model.clone()
    left = np.array([0, 3, 5])
    with Edits(student) as edits:
        edits.set_value(student.graph.initializers["w1"], student.graph.initializers["w1"].values[left])
        edits.set_value(student.graph.initializers["w2"], student.graph.initializers["w2"].values[:, left])
    layers = [RepairLayer(n, twins.node(n), left if n.name == "one" else None) for n in model.graph.nodes if n.op in ("Conv", "Gemm")]
    assert [job.layer.node.name for job in agenda(model, student, layers)[0]] == ["two", "classifier"]
