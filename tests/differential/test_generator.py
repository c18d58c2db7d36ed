"""The generator itself: it is deterministic, onnxruntime runs nearly all that it draws, and it finds faults that are put into the product."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from differential.judge import judge
from differential.program import APPROXIMATE, KINDS, generate
from differential.running import Discarded, nodes, original
from differential.simplifying import effects, library, simplified

from graphcompress.errors import ModelError
from graphcompress.targets import rules_root

SAMPLE = range(200)


def test_a_seed_says_everything() -> None:
    for kind in KINDS:
        first, second = generate(kind, 7), generate(kind, 7)
        assert first.model.SerializeToString(deterministic=True) == second.model.SerializeToString(deterministic=True)
        assert [{k: v.tobytes() for k, v in f.items()} for f in first.feeds] == [{k: v.tobytes() for k, v in f.items()} for f in second.feeds]


@pytest.mark.parametrize("kind", KINDS)
def test_onnxruntime_runs_most_graphs_and_they_are_varied(kind: str) -> None:
    """Outputs have the shapes that the emitters counted: later ones choose operands by them."""
    discarded = 0
    operators: Counter[str] = Counter()
    for seed in SAMPLE:
        case = generate(kind, seed)
        operators.update({n.op_type for n in nodes(case.model)})
        try:
            results = original(case)
        except Discarded:
            discarded += 1
            continue
        bindings = [0] * len(results) if kind == "quantize" else [0, 1, 0]
        for arrays, binding in zip(results, bindings, strict=False):
            assert [a.shape for a in arrays] == [case.shapes[o.name][binding] for o in case.model.graph.output], (kind, seed)
    assert discarded <= 0.2 * len(SAMPLE)
    assert len(operators) > (40 if kind in APPROXIMATE else 90)


@pytest.mark.parametrize("kind", KINDS)
def test_every_seed_gives_a_graph(kind: str) -> None:
    """An emitter that counts a size below 0, as of a kernel larger than its picture, fails where it does so (`Builder.emit_many`)."""
    for seed in range(len(SAMPLE), 1500):
        generate(kind, seed)


def test_what_the_issue_names_is_drawn() -> None:
    """Ranks, sizes, element types, opsets, subgraphs, functions, overridable initializers, dynamic dimensions, unsorted nodes, numbers that are no numbers."""
    seen: set[str] = set()
    for seed in range(600):
        case = generate("simplify", seed)
        model = case.model
        seen.add(f"opset {model.opset_import[0].version}")
        constants = {t.name for t in model.graph.initializer}
        listed = {i.name for i in model.graph.input} & constants
        if listed:
            seen.add("listed below IR 4" if model.ir_version < 4 else "overridable")
        for info in model.graph.input:
            dims = info.type.tensor_type.shape.dim
            seen |= {f"rank {len(dims)}", f"type {info.type.tensor_type.elem_type}"}
            seen |= {"symbol" if d.dim_param else "unnamed" if not d.HasField("dim_value") else f"size {min(d.dim_value, 2)}" for d in dims}
        made: set[str] = set()
        for node in model.graph.node:
            seen |= {"unsorted"} if set(node.input) & {o for n in model.graph.node for o in n.output} - made else set()
            made.update(node.output)
        seen |= (
            {f"operator {n.op_type}" for n in nodes(model)}
            | ({"function"} if model.functions else set())
            | ({"value_info"} if model.graph.value_info else set())
        )
        seen |= {"an input is absent" for n in nodes(model) if "" in n.input}
        seen |= {"output in the middle" for o in model.graph.output for n in model.graph.node if o.name in n.input}
        values = [v for f in case.feeds for v in f.values() if v.dtype.kind == "f"]
        seen |= {text for v in values for text, hit in (("NaN", (v != v).any()), ("infinity", (abs(v) == float("inf")).any())) if hit}
    wanted = {f"opset {v}" for v in range(7, 24)} | {f"rank {r}" for r in range(6)} | {"size 0", "size 1", "size 2"}
    wanted |= {f"type {t}" for t in (1, 2, 6, 7, 9, 10, 11)} | {f"operator {o}" for o in ("If", "Loop", "Scan", "Shape", "Expand", "Constant")}
    wanted |= {"symbol", "unnamed", "unsorted", "function", "overridable", "listed below IR 4", "value_info", "an input is absent", "output in the middle"}
    wanted |= {"NaN", "infinity"}
    assert not wanted - seen


@pytest.mark.slow
def test_the_graphs_of_a_run_reach_nearly_every_rule() -> None:
    applied: set[str] = set()
    for kind, count in (("simplify", 500), ("neutral", 200)):
        for seed in range(count):
            with contextlib.suppress(ModelError):
                applied |= set(simplified(generate(kind, seed)).applied)
    rules = set(effects())
    assert len(rules - applied) <= len(rules) // 10, sorted(rules - applied)


# Graphs in which a rule changes what is not finite: an overflow at 3.4e38 that is gone when two factors are one, and an underflow of a Softmax.
@pytest.mark.parametrize(("seed", "rule"), [(500765, "fuse/matmul_multiply"), (913778, "fuse/log_softmax")])
def test_what_is_not_finite_may_change_where_the_rule_says_so_and_it_arises_there(seed: int, rule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    case = generate("simplify", seed)
    assert rule in simplified(case).applied
    assert judge(case) is None
    monkeypatch.setitem(library(), rule, replace(library()[rule], nonfinite=""))
    fault = judge(case)
    assert fault is not None and fault.kind == "values"


# Faults that gave wrong results and that no other test saw: (what to look for in the sources of the engine, what to put there).
MUTANTS = {
    "Sub and Div commute": (r"(COMMUTATIVE = frozenset\(\()", r'\1"Sub", "Div", '),
    "forwarding across graphs": (r"self\.graph\(maker\) is graph\b", "True"),
    "uses are not added up": (r"(self\._uses\[[^\]]+\]) \+= self\._uses\.pop\(.*\)", r"\1 += 0"),
    "a dimension of 0": (r"isinstance\(x, int\) and x > 0 for x in", "isinstance(x, int) for x in"),
}
WRONG = ("values", "signature", "does not load", "does not run", "left out")


@pytest.mark.slow
@pytest.mark.parametrize("name", MUTANTS)
def test_a_fault_in_the_engine_is_found(name: str, tmp_path: Path, repository: Path) -> None:
    """Within 400 graphs, each of the faults that were once proven to give wrong results."""
    shutil.copytree(repository / "graphcompress", tmp_path / "graphcompress", ignore=shutil.ignore_patterns("__pycache__", "rules"))
    shutil.copytree(rules_root(), tmp_path / "graphcompress" / "rules")
    pattern, replacement = MUTANTS[name]
    places = 0
    for file in sorted((tmp_path / "graphcompress" / "engine").glob("*.py")):
        changed, count = re.subn(pattern, replacement, file.read_text(encoding="utf-8"))
        file.write_text(changed, encoding="utf-8")
        places += count
    assert places == 1, "the line that this fault is put into has another form now: write the pattern anew"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(repository / "tests" / "support")])}
    command = [sys.executable, "-P", "-m", "differential", "simplify", "0", "400", "--first", *(a for kind in WRONG for a in ("--only", kind))]
    outcome = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert outcome.returncode == 1 and outcome.stdout.startswith("--- "), outcome.stdout + outcome.stderr
