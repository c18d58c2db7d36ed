"""`graphcompress lint` from the command line: tables, JSON, SARIF, status, --fix."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

TEXT = '<ir_version: 8, opset_import: ["": 17]> g (float[n,4] x) => (float[n,4] y) { i = Identity (x)  y = Add (i, w) }'


@pytest.fixture
def odd(place: Path) -> Path:
    """An Identity and a NaN."""
    model = onnx.parser.parse_model(TEXT)
    model.graph.node[0].name = "left"
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([1, np.nan, 3, 4], np.float32), "w"))
    onnx.save(model, "odd.onnx")
    return Path("odd.onnx")


def test_status_1_on_errors_and_0_on_warnings(odd: Path, run: Any) -> None:
    done = run("lint", "odd.onnx")
    assert done.status == 1 and "1 finding of severity error" in done.err
    assert "error numbers/nan" in done.out and "warning waste/leftover" in done.out and "(--fix mends it)" in done.out
    assert done.out.index("numbers/nan") < done.out.index("waste/leftover")
    assert run("lint", "odd.onnx", "--ignore", "numbers").status == 0
    assert run("lint", "odd.onnx", "--select", "waste/leftover").status == 0
    assert "Did you mean 'waste/leftover'" in run("lint", "odd.onnx", "--select", "waste/leftovers").err


def test_several_models(odd: Path, run: Any) -> None:
    """As pre-commit calls it: all are looked at, also behind one that has errors."""
    onnx.save(onnx.parser.parse_model(TEXT.replace("i = Identity (x)  y = Add (i, w)", "y = Relu (x)")), "clean.onnx")
    done = run("lint", "odd.onnx", "clean.onnx", "odd.onnx")
    assert done.status == 1 and done.err.count("1 finding of severity error") == 2 and done.out.count("error numbers/nan") == 2
    assert "clean.onnx: nothing found." in done.out
    assert run("lint", "clean.onnx", "odd.onnx", "--ignore", "numbers").status == 0
    for alone in (["--format", "json"], ["--format", "sarif"], ["--fix", "-o", "mended.onnx"]):
        assert "is for one model at a time, and there are 2" in run("lint", "odd.onnx", "clean.onnx", *alone).err


def test_json_and_sarif(odd: Path, run: Any) -> None:
    findings = run("lint", "odd.onnx", "--format", "json").json["findings"]
    assert [(f["id"], f["severity"], f["place"], f["fixable"]) for f in findings] == [
        ("numbers/nan", "error", "w", False),
        ("waste/leftover", "warning", "left", True),
    ]
    document = json.loads(run("lint", "odd.onnx", "--format", "sarif").out)
    (log,) = document["runs"]
    assert document["version"] == "2.1.0" and [r["ruleId"] for r in log["results"]] == ["numbers/nan", "waste/leftover"]
    assert [log["tool"]["driver"]["rules"][r["ruleIndex"]]["id"] for r in log["results"]] == ["numbers/nan", "waste/leftover"]
    assert [r["level"] for r in log["results"]] == ["error", "warning"]
    assert log["results"][0]["locations"][0]["physicalLocation"]["artifactLocation"]["uri"] == "odd.onnx"
    assert log["results"][1]["locations"][0]["logicalLocations"] == [{"fullyQualifiedName": "left"}]


def test_a_forge_has_a_title_a_line_and_a_name_that_lasts(odd: Path, run: Any) -> None:
    """Forges title a finding by the short description, refuse places without a line, and take two findings of one fingerprint for one. Checked by sarif-multitool once, by these fields since."""
    from graphcompress.linter import RULES

    titles = {rule.id: (rule.title, rule.why) for rule in RULES}
    model = onnx.load("odd.onnx")
    for _ in range(2):  # two nodes of one name
        model.graph.node.insert(1, onnx.helper.make_node("Identity", ["x"], [f"j{len(model.graph.node)}"], "left"))
    onnx.save(model, "odd.onnx")

    def log() -> Any:
        return json.loads(run("lint", "odd.onnx", "--format", "sarif").out)["runs"][0]

    first = log()
    rules = first["tool"]["driver"]["rules"]
    assert len(rules) >= 3 and all((r["shortDescription"]["text"], r["fullDescription"]["text"]) == titles[r["id"]] for r in rules)
    assert {r["id"]: r["defaultConfiguration"]["level"] for r in rules}["numbers/nan"] == "error" and all(
        r["help"]["text"] and r["help"]["markdown"] for r in rules
    )
    assert all(r["locations"][0]["physicalLocation"]["region"] == {"startLine": 1} for r in first["results"])
    names = [r["partialFingerprints"]["primaryLocationLineHash"] for r in first["results"]]
    assert len(set(names)) == len(names)
    model.producer_name = "another export"
    onnx.save(model, "odd.onnx")
    assert [r["partialFingerprints"]["primaryLocationLineHash"] for r in log()["results"]] == names


def test_places_in_sarif_are_references(odd: Path, run: Any) -> None:
    """Relative as they were given, so that a forge finds them; nothing in them that a reference cannot hold."""
    name = Path("my models") / "a#b ä.onnx"
    name.parent.mkdir()
    odd.rename(name)
    for path, uri in ((str(name), "my%20models/a%23b%20%C3%A4.onnx"), (str(name.resolve()), name.resolve().as_uri())):
        (log,) = json.loads(run("lint", path, "--format", "sarif").out)["runs"]
        assert log["results"][0]["locations"][0]["physicalLocation"]["artifactLocation"]["uri"] == uri


def test_fix_writes_a_mended_model(odd: Path, run: Any) -> None:
    done = run("lint", "odd.onnx", "--fix", "-o", "mended.onnx", "--ignore", "numbers")
    assert done.status == 0 and "Mended: waste/leftover. Written to mended.onnx." in done.err and "nothing found" in done.out
    assert [node.op_type for node in onnx.load("mended.onnx").graph.node] == ["Add"]
    for wrong in (["--fix"], ["-o", "mended.onnx"]):
        assert "give both --fix and -o OUT" in run("lint", "odd.onnx", *wrong).err
    assert "would be overwritten" in run("lint", "odd.onnx", "--fix", "-o", "odd.onnx").err


def test_every_id_has_its_section() -> None:
    from graphcompress.linter import RULES

    page = (Path(__file__).parents[2] / "docs" / "lint.md").read_text(encoding="utf-8")
    for rule in RULES:
        section = page.partition(f"## {rule.id}\n")[2].partition("\n## ")[0]
        assert rule.title in section and rule.cure in section and rule.why in section
