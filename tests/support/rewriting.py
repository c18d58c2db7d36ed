"""Rules and small models for tests of rewriting."""

from __future__ import annotations

from pathlib import Path

from graphcompress.engine import Rule, load_rule
from graphcompress.ir import Model, lint, model_from_proto, nodes, to_proto
from graphcompress.ir.files.text import parse_model
from graphcompress.targets import rules_root

ROOT = rules_root() / "rewrite"


CONV = "<float[2,1,1,1] w = {1, -3}, float[2] s = {2, -0.5}, float[2] b = {1, 3}, float[2] m = {0.25, -2}, float[2] v = {4, 0.01}>"


def rule(name: str) -> Rule:
    return load_rule(ROOT / f"{name}.toml", ROOT)


def written(tmp_path: Path, name: str, before: str, after: str, graph: str) -> Rule:
    path = tmp_path / f"{name}.toml"
    path.write_text(
        f"summary = 'for a test'\neffect = 'exact'\nopset = '>=13'\nbefore = '''{before}'''\nafter = '''{after}'''\n[[example]]\ngraph = '''{graph}'''\n",
        encoding="utf-8",
    )
    return load_rule(path)


def ops(model: Model) -> list[str]:
    return sorted(n.op for n in nodes(model))


def again(model: Model) -> Model:
    lint(model)
    return model_from_proto(to_proto(model))


def chain(count: int, op: str = "Identity") -> Model:
    body = "\n".join(f"t{i} = {op} ({'x' if i == 0 else f't{i - 1}'})" for i in range(count))
    return parse_model(f"(float[N,4] x) => (float[N,4] y) {{ {body}\n y = Relu (t{count - 1}) }}")
