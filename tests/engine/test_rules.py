"""Every rule file's examples: a refused one is refused by the clause that it names, any other is changed and computes the same."""

from __future__ import annotations

import re
import zlib
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from graphcompress.engine import Example, Rule, load_rule, rewrite, rule_files
from graphcompress.errors import DataError, ModelError
from graphcompress.ir import Model, lint, model_from_proto, to_proto
from graphcompress.ir.files.text import TextError, parse_model
from graphcompress.ir.model.element_types import numpy_dtype
from graphcompress.runtime.evaluate import run_once
from graphcompress.runtime.session import open_session
from graphcompress.targets import rules_root

ROOT = rules_root() / "rewrite"
RULES = [load_rule(f, ROOT) for f in rule_files(ROOT)]
CASES = [(rule, example) for rule in RULES for example in rule.examples]
# Sizes for free dimensions. 1 is what broadcasting mistakes hide behind, so it comes first.
FREE = (1, 3)


def name(case: Any) -> str:
    return case.id if isinstance(case, Rule) else f"line{case.line}"


def parsed(example: Example) -> Model:
    return parse_model(example.graph) if example.graph.lstrip().startswith("<") else parse_model(example.graph, {"": example.opset})


@pytest.mark.parametrize(("rule", "example"), [c for c in CASES if c[1].refused is not None], ids=name)
def test_a_refused_example_is_refused_by_its_clause(rule: Rule, example: Example) -> None:
    model = parsed(example)
    before = to_proto(model)
    outcome = rewrite(model, [rule])
    assert not outcome.applied
    assert {clause for _, clause in outcome.refused} == {example.refused}
    assert to_proto(model) == before


@pytest.mark.parametrize(("rule", "example"), [c for c in CASES if c[1].refused is None], ids=name)
def test_an_example_is_changed_and_computes_the_same(rule: Rule, example: Example) -> None:
    original, model = parsed(example), parsed(example)
    outcome = rewrite(model, [rule])
    assert outcome.applied[rule.id] >= 1
    lint(model)
    changed = model_from_proto(to_proto(model))
    for free in FREE:
        feed = feeds(original, free, zlib.crc32(f"{rule.id}{example.line}".encode()))
        expected, found = run_once(original, feed), run_once(changed, feed)
        for key, value in expected.items():
            compare(rule, value, found[key])


FLOAT = re.compile(r"(?<!: )\bfloat\b")
TYPES = ("double", "float16", "uint8", "int32", "int64", "bool")
APPLIED = [c for c in CASES if c[1].refused is None]


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize(("rule", "example"), APPLIED, ids=name)
def test_an_example_in_another_type_loads_and_computes_the_same(rule: Rule, example: Example, dtype: str) -> None:
    """Whatever the clauses admit: where the graph runs in another element type and the rule changes it, the result must run as well."""
    variant = replace(example, graph=FLOAT.sub(dtype, example.graph))
    check_where_it_runs(rule, variant)


@pytest.mark.parametrize("opset", [7, 9, 11, 13, 15, 18, 21, 23])
@pytest.mark.parametrize(("rule", "example"), APPLIED, ids=name)
def test_an_example_in_another_opset_loads_and_computes_the_same(rule: Rule, example: Example, opset: int) -> None:
    check_where_it_runs(rule, replace(example, opset=opset))


def check_where_it_runs(rule: Rule, example: Example) -> None:
    """Where the graph runs and the rule changes it, the result loads, optimized as well, and computes the same; for an empty dimension too."""
    try:
        original, model = parsed(example), parsed(example)
    except (TextError, ModelError):  # a number that the type does not have, an operator that the opset does not have
        return
    if not rewrite(model, [rule]).applied:
        return
    changed = model_from_proto(to_proto(model))
    for free in (3, 0):
        feed = feeds(original, free, zlib.crc32(f"{rule.id}{example.line}".encode()))
        try:
            expected = run_once(original, feed)
        except (ModelError, DataError):  # onnxruntime has no kernel, or does not take an empty tensor
            continue
        result = run_once(changed, feed)
        for key, value in expected.items():
            compare(rule, value, result[key])
        open_session(changed, optimize="all").close()


def compare(rule: Rule, expected: np.ndarray[Any, Any], found: np.ndarray[Any, Any]) -> None:
    assert found.dtype == expected.dtype
    assert found.shape == expected.shape
    if rule.effect == "exact" or expected.dtype.kind not in "f":
        assert found.tobytes() == expected.tobytes()
        return
    scale = float(np.abs(expected[np.isfinite(expected)]).max(initial=1.0))
    tolerance = {"f2": 4e-3, "f4": 1e-5, "f8": 1e-12}[expected.dtype.str[1:]]
    np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance * scale)


def feeds(model: Model, free: int, seed: int) -> dict[str, np.ndarray[Any, Any]]:
    """Inputs by the signature: normal numbers, zeros of both signs among them."""
    rng = np.random.default_rng(seed)
    made: dict[str, np.ndarray[Any, Any]] = {}
    for spec in model.inputs:
        shape = [d if isinstance(d, int) else free for d in spec.shape or ()]
        dtype = numpy_dtype(spec.dtype or "float")
        if dtype.kind == "f":
            values = rng.standard_normal(shape).astype(dtype)
            flat = values.reshape(-1)
            flat[::5], flat[2::7] = 0.0, -0.0
        elif dtype.kind == "b":
            values = rng.integers(0, 2, shape).astype(dtype)
        else:
            values = rng.integers(0, 100, shape).astype(dtype)
        made[spec.name] = values
    return made
