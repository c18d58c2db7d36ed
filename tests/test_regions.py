"""The pieces of two graphs that differ: what belongs together, what surrounds it, what looks alike."""

from __future__ import annotations

import onnx

from graphcompress.api.html import graphs
from graphcompress.api.regions import MOST_BOXES, ChangedRegion, changed_regions
from graphcompress.ir import model_from_proto
from graphcompress.ir.analysis.matching import match


def regions(before: str, after: str) -> list[ChangedRegion]:
    signature = "(float[2,4] x) => (float[2,4] y)"
    one, two = (model_from_proto(onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": 17]> g {signature} {{ {body} }}')) for body in (before, after))
    return changed_regions(match(one, two))


def looks(region: ChangedRegion) -> list[list[str]]:
    return [[f"{box.op} {box.kind}" for box in sketch.boxes] for sketch in (region.before, region.after)]


def test_equal_graphs_have_none() -> None:
    assert regions("a = Relu (x) y = Neg (a)", "a = Relu (x) y = Neg (a)") == []


def test_what_stands_for_something_is_drawn_beside_it() -> None:
    (region,) = regions("a = Relu (x) b = Exp (a) c = Log (b) y = Neg (c)", "a = Relu (x) c = Abs (a) y = Neg (c)")
    assert looks(region) == [["Relu same", "Exp gone", "Log gone", "Neg same"], ["Relu same", "Abs new", "Neg same"]]
    assert region.before.edges == [(0, 1), (1, 2), (2, 3)] and (region.gone, region.new, region.places) == (["b", "c"], ["c"], ["b"])


def test_what_went_leaves_its_neighbours() -> None:
    (region,) = regions("a = Relu (x) b = Abs (a) y = Neg (b)", "a = Relu (x) y = Neg (a)")
    assert looks(region) == [["Relu same", "Abs gone", "Neg same"], ["Relu same", "Neg same"]]


def test_a_maker_of_an_output_is_one_region_with_the_one_before() -> None:
    (region,) = regions("a = Relu (x) y = Abs (a)", "a = Relu (x) y = Exp (a)")
    assert looks(region) == [["Relu same", "Abs gone"], ["Relu same", "Exp new"]]


def test_alike_is_drawn_once_the_most_frequent_first() -> None:
    before = "a = Relu (x) b = Abs (a) c = Neg (b) d = Relu (c) e = Abs (d) f = Neg (e) g = Sin (f) h = Exp (g) y = Cos (h)"
    after = "a = Relu (x) c = Neg (a) d = Relu (c) f = Neg (d) g = Sin (f) y = Cos (g)"
    first, second = regions(before, after)
    assert first.places == ["b", "e"] and second.places == ["h"]


def test_large_regions_are_cut() -> None:
    chain = " ".join(f"t{i + 1} = Sin (t{i})" for i in range(40))
    (region,) = regions(f"t0 = Relu (x) {chain} y = Neg (t40)", "t0 = Relu (x) y = Neg (t0)")
    assert len(region.before.boxes) == MOST_BOXES and region.before.left_out == 42 - MOST_BOXES
    assert "and 30 more nodes" in graphs("title", [("before", region.before), ("after", region.after)], "caption")


def test_layers_without_names_are_matched_by_their_weights_in_order() -> None:
    """Behind DQ as well, and what stands between them through Q and DQ; where one more is on a side, order says nothing."""
    weights = "<float[4,4] v = {1,2,3,4,5,6,7,8,9,1,2,3,4,5,6,7}, float[4,4] w = {2,2,3,4,5,6,7,8,9,1,2,3,4,5,6,7}, int8[4,4] c = {1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1}, float s = {0.5}, uint8 z = {128}, int8 k = {0}>"
    head = f'<ir_version: 8, opset_import: ["": 17]> g (float[2,4] x) => (float[2,4] y) {weights}'
    named = f"{head} {{ a = MatMul (x, v)  b = Softmax (a)  d = Tanh (b)  y = MatMul (d, w) }}"
    bare = f"{head} {{ e = DequantizeLinear (c, s, k)  f = MatMul (x, e)  g = Softmax (f)  q = QuantizeLinear (g, s, z)  h = DequantizeLinear (q, s, z)  i = Tanh (h)  j = MatMul (i, e) MORE }}"
    for more, matched in (("y = Relu (j)", ["MatMul", "Softmax", "Tanh", "MatMul"]), ("o = MatMul (j, e) y = Relu (o)", [])):
        one, two = (model_from_proto(onnx.parser.parse_model(text)) for text in (named, bare.replace("MORE", more)))
        pairs = match(one, two).pairs
        assert [node.op for node in one.graph.nodes if node in pairs] == matched
        assert [pairs[node] for node in one.graph.nodes if node in pairs] == [n for n in two.graph.nodes if n.op in matched]
