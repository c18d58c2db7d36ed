"""diff: what is the same is found whatever it is called, what differs is named with its cause, and both in linear time."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest

import graphcompress
from graphcompress.errors import UsageError
from graphcompress.ir import Model
from graphcompress.ir.analysis.matching import match
from graphcompress.ir.files.text import parse_model
from graphcompress.record import DiffReport

CHAIN = """(float[N,4] x) => (float[N,4] y) <float[4] k = {{{k}}}> {{
    [first] a = Relu (x)
    [second] b = Mul (a, k)
    [third] y = {op} {attributes}(b)
}}"""


def chain(k: str = "1, 2, 3, 4", op: str = "Neg", attributes: str = "") -> Model:
    return parse_model(CHAIN.format(k=k, op=op, attributes=attributes))


def kinds(report: DiffReport) -> list[tuple[str, str, str]]:
    return [(n.kind, n.op, n.name) for n in report.nodes]


def test_equal_models_differ_in_nothing() -> None:
    report = graphcompress.diff(chain(), chain())
    assert (report.same, report.nodes, report.operators, report.renamed, report.signature) == (3, [], [], {}, [])


def test_what_has_another_name_is_matched_by_what_it_computes() -> None:
    other = parse_model("(float[N,4] x) => (float[N,4] y) <float[4] w = {1, 2, 3, 4}> { [r] t1 = Relu (x)  [s] t2 = Mul (t1, w)  [t] y = Neg (t2) }")
    report = graphcompress.diff(chain(), other)
    assert report.renamed == {"a": "t1", "b": "t2"}
    assert [(n.kind, n.name, n.other) for n in report.nodes] == [("renamed", "first", "r"), ("renamed", "second", "s"), ("renamed", "third", "t")]


def test_other_values_attributes_and_operators_are_named() -> None:
    report = graphcompress.diff(chain(), chain("1, 2, 3, 5"))
    assert [(n.kind, n.name, n.changes) for n in report.nodes] == [("changed", "second", ["input 1: other values in 'k'"])]
    report = graphcompress.diff(chain(op="Elu", attributes="<alpha = 1.5> "), chain(op="Elu", attributes="<alpha = 2.5> "))
    assert [(n.name, n.changes) for n in report.nodes] == [("third", ["alpha: 1.5 -> 2.5"])]
    report = graphcompress.diff(chain(op="Neg"), chain(op="Abs"))
    assert kinds(report) == [("removed", "Neg", "third"), ("added", "Abs", "third")]
    assert [(o.op, o.before, o.after) for o in report.operators] == [("Abs", 0, 1), ("Neg", 1, 0)]


def test_behind_a_change_nodes_are_matched_by_who_reads_them_and_by_their_neighbours() -> None:
    """Without names, and with other values in front, neither name nor value says which node is which."""
    first = parse_model("(float[N,4] x) => (float[N,4] y) <float k = {1}> { a = Mul (x, k)  b = Relu (a)  c = Relu (b)  y = Neg (c) }")
    second = parse_model("(float[N,4] x) => (float[N,4] y) <float w = {2}> { p = Mul (x, w)  q = Relu (p)  r = Relu (q)  y = Neg (r) }")
    report = graphcompress.diff(first, second)
    assert report.renamed == {"a": "p", "b": "q", "c": "r"}
    assert [(n.kind, n.name, n.changes) for n in report.nodes if n.kind == "changed"] == [("changed", "a", ["input 1: other values in 'w'"])]


def test_signature_and_opset() -> None:
    first = parse_model("(float[N,4] x) => (float[N,4] y) { y = Relu (x) }", {"": 13})
    second = parse_model("(float[2,4] x, float[1] z) => (float[2,4] y) { y = Relu (x) }", {"": 17})
    assert sorted(graphcompress.diff(first, second).signature) == [
        "input 'x': float ['N', 4] -> float [2, 4]",
        "input 'z': only in B",
        "opset ai.onnx: 13 -> 17",
        "output 'y': float ['N', 4] -> float [2, 4]",
    ]


def test_nodes_of_branches_are_compared() -> None:
    text = "(float[N] x, bool p) => (float[N] y) {{ y = If (p) <then_branch = t () => (float[N] a) {{ [inner] a = {op} (x) }}, else_branch = e () => (float[N] b) {{ b = Neg (x) }}> }}"
    report = graphcompress.diff(parse_model(text.format(op="Relu")), parse_model(text.format(op="Abs")))
    assert ("removed", "Relu", "inner") in kinds(report)
    assert ("added", "Abs", "inner") in kinds(report)


def test_the_record_says_which_rule_did_it(tmp_path: Path) -> None:
    text = """(float[N,1,2,2] x) => (float[N,2,2,2] y)
    <float[2,1,1,1] w = {1, 2}, float[2] s = {2, 3}, float[2] b = {1, 1}, float[2] m = {0, 1}, float[2] v = {1, 4}> {
        [conv] c = Conv (x, w)  [norm] n = BatchNormalization (c, s, b, m, v)  [same] i = Identity (n)  [relu] y = Relu (i)
    }"""
    original = parse_model(text)
    result = graphcompress.simplify(original)
    file = tmp_path / "record.json"
    file.write_text(result.record.model_dump_json())
    for record in (result.record, file):
        report = graphcompress.diff(original, result.model, record=record)
        assert {n.name: (n.kind, n.by) for n in report.nodes} == {
            "conv": ("changed", "fuse/conv_bn"),
            "norm": ("removed", "fuse/conv_bn"),
            "same": ("removed", "eliminate/identity"),
            "relu": ("changed", "eliminate/identity"),  # it reads what the Identity read
        }
    assert {n.by for n in graphcompress.diff(original, result.model).nodes} == {""}


def test_what_is_no_record_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "no.json").write_text("{}")
    with pytest.raises(UsageError, match="no record"):
        graphcompress.diff(chain(), chain(), record=tmp_path / "no.json")


def test_large_models_are_matched_whole() -> None:
    """Equal subtrees and a node that reads everything are no traps."""

    def wide(prefix: str) -> Model:
        rng = np.random.default_rng(0)
        lines = [f"{prefix}{i} = {rng.choice(['Relu', 'Neg', 'Abs'])} ({'x' if i % 3 == 0 else f'{prefix}{i - 1}'})" for i in range(1000)]
        return parse_model(f"(float[N] x) => (float[N] y) {{ {' '.join(lines)} y = Sum ({', '.join(f'{prefix}{i}' for i in range(1000))}) }}")

    assert len(match(wide("a"), wide("b")).pairs) == 1001


def test_nodes_of_one_operator_that_came_for_one_reason_are_one_row() -> None:
    """What INT8 adds is told by kind, and does not hide what changed."""
    from rich.console import Console

    from graphcompress.cli.rule_tables import diff_tables

    head = "(float[N,4] x) => (float[N,4] y) <float s = {0.5}, uint8 z = {128}> {"
    pairs = "".join(f"q{i} = QuantizeLinear (d{i - 1 if i else ''}, s, z)  d{i} = DequantizeLinear (q{i}, s, z) " for i in range(6))
    report = graphcompress.diff(parse_model(f"{head} d = Relu (x)  y = Neg (d) }}"), parse_model(f"{head} d = Relu (x) {pairs} y = Neg (d5) }}"))
    console = Console(width=110, record=True, file=io.StringIO())
    for part in diff_tables(report):
        console.print(part)
    shown = console.export_text()
    assert shown.count("added") == 2 and "QuantizeLinear x6" in shown and "DequantizeLinear x6" in shown and shown.count("changed") == 1
