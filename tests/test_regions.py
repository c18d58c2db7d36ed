"""The pieces of two graphs that differ: what belongs together, what surrounds it, what looks alike."""

from __future__ import annotations

import onnx

from graphcompress.api.html import graphs
from graphcompress.api.regions import MOST_BOXES, ChangedRegion, changed_regions
from graphcompress.ir import model_from_proto


def regions(before: str, after: str) -> list[ChangedRegion]:
    signature = "(float[2,4] x) => (float[2,4] y)"
    one, two = (model_from_proto(onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": 17]> g {signature} {{ {body} }}')) for body in (before, after))
    return changed_regions(one, two)


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
