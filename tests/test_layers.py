"""The layering: whatever a module imports stands to its left, each heavy library has one package that imports it, no modules import one another in a circle, no file is long.

Imports are read from the source: those inside functions, under TYPE_CHECKING, relative ones and module names written as strings (dynamic imports) count alike.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

PACKAGE = "graphcompress"
ROOT = Path(__file__).resolve().parent.parent / PACKAGE

# Left to right; packages of one column do not import one another.
COLUMNS = (
    ("errors", "findings", "version"),
    ("transaction",),
    ("ir",),
    ("runtime", "data", "targets"),
    ("step", "random_feeds"),
    ("engine",),
    ("gradient", "reconstruction"),
    ("passes",),
    ("recipe", "record", "gate"),
    ("api",),
    ("cli",),
    ("__main__",),
)
RANK = {name: rank for rank, names in enumerate(COLUMNS) for name in names}
ONLY_IMPORTER = {"onnx": "ir", "onnx_graphsurgeon": "ir", "google": "ir", "onnxruntime": "runtime", "onnxruntime_qnn": "runtime", "typer": "cli", "rich": "cli"}
# The top package re-exports the public functions: it may name everything but the command line, and loads it lazily (test_startup.py).
NOT_RE_EXPORTED = {"cli", "__main__"}
DYNAMIC = re.compile(rf"{PACKAGE}(\.\w+)+(:\w+)?")
LONGEST_FILE = 400


@dataclass(frozen=True)
class Import:
    """One import of `target` (a dotted name) at `line` of a file."""

    target: str
    line: int


def imports(source: str, module: str, *, package: bool, names: bool = False) -> Iterator[Import]:
    """Every import that the source of `module` contains, wherever it stands. `names`: with the name that is imported, whether it is a module or not."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import(names=aliases):
                yield from (Import(alias.name, node.lineno) for alias in aliases)
            case ast.ImportFrom(module=name, names=aliases, level=level):
                base = name or ""
                if level:
                    parts = module.split(".") if package else module.split(".")[:-1]
                    base = ".".join([*parts[: len(parts) - level + 1], *([name] if name else [])])
                # `from graphcompress import ir` and `from graphcompress.passes import quantize` name packages, `from graphcompress.ir import load` a thing in one.
                inside = names or base in (PACKAGE, f"{PACKAGE}.passes")
                yield from (Import(f"{base}.{alias.name}" if inside else base, node.lineno) for alias in aliases)
            case ast.Constant(value=str(text)) if DYNAMIC.fullmatch(text) and re.split(r"[.:]", text)[1] in RANK:
                yield Import(text.partition(":")[0], node.lineno)


def faults(source: str, module: str, *, package: bool = False) -> list[str]:
    """What is wrong with the imports of `module`, one sentence each."""
    parts = module.split(".")
    package_of_module = parts[1] if len(parts) > 1 else ""
    sentences: list[str] = []
    for item in imports(source, module, package=package):
        target = item.target.split(".")
        where = f"{module}, line {item.line}: "
        if target[0] in ONLY_IMPORTER and ONLY_IMPORTER[target[0]] != package_of_module:
            sentences.append(f"{where}{item.target} is imported in {ONLY_IMPORTER[target[0]]} only")
        if target[0] != PACKAGE:
            continue
        goal = target[1] if len(target) > 1 else ""
        if not package_of_module:
            if goal in NOT_RE_EXPORTED:
                sentences.append(f"{where}the package does not import {goal}")
        elif goal == package_of_module:
            if goal == "passes" and len(parts) > 2 and len(target) > 2 and parts[2] != target[2]:
                sentences.append(f"{where}passes do not import one another: {item.target}")
        elif package_of_module not in RANK:
            sentences.append(f"{where}the design has no package '{package_of_module}'")
        elif goal not in RANK:
            sentences.append(f"{where}{item.target} is re-exported only; import from the module that has it")
        elif RANK[goal] >= RANK[package_of_module]:
            sentences.append(f"{where}{package_of_module} does not import {goal}")
    return sentences


def modules() -> list[tuple[Path, str]]:
    """Every source file of the package, with its dotted name."""
    files = []
    for path in sorted(ROOT.rglob("*.py")):
        parts = [PACKAGE, *path.relative_to(ROOT).with_suffix("").parts]
        files.append((path, ".".join(parts[:-1] if parts[-1] == "__init__" else parts)))
    return files


def module_graph(sources: Mapping[str, str], packages: Container[str]) -> dict[str, set[str]]:
    """Module -> the modules that it imports. `sources` are by dotted name; those of `packages` are of their __init__.py. An import of a name is one of the module that has it."""
    graph: dict[str, set[str]] = {}
    for module, source in sources.items():
        targets = {item.target for item in imports(source, module, package=module in packages, names=True)}
        resolved = {next((part for part in (t, t.rpartition(".")[0]) if part in sources), "") for t in targets}
        graph[module] = resolved - {"", module}
    return graph


def circle(graph: Mapping[str, set[str]]) -> list[str]:
    """Modules that import one another in a circle, in its order; empty where there is none."""
    done: set[str] = set()
    for start in sorted(graph):
        way: list[str] = []
        stack = [(start, iter(sorted(graph[start])))] if start not in done else []
        way.append(start)
        while stack:
            module, rest = stack[-1]
            following = next((m for m in rest if m not in done), None)
            if following is None:
                done.add(module)
                stack.pop()
                way.pop()
            elif following in way:
                return [*way[way.index(following) :], following]
            else:
                way.append(following)
                stack.append((following, iter(sorted(graph[following]))))
    return []


@pytest.mark.parametrize(("path", "module"), modules(), ids=lambda value: value if isinstance(value, str) else "")
def test_imports_go_left(path: Path, module: str) -> None:
    assert faults(path.read_text(encoding="utf-8"), module, package=path.name == "__init__.py") == []


def test_every_package_is_in_the_design() -> None:
    names = {path.name.removesuffix(".py") for path in ROOT.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()} - {"__init__"}
    assert names - set(RANK) == set()


@pytest.mark.parametrize(("path", "module"), modules(), ids=lambda value: value if isinstance(value, str) else "")
def test_only_the_command_line_catches_everything(path: Path, module: str) -> None:
    if module.startswith(f"{PACKAGE}.cli"):
        return
    broad = [
        f"{module}, line {node.lineno}"
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ExceptHandler)
        for caught in (node.type.elts if isinstance(node.type, ast.Tuple) else [node.type])
        if caught is None or (isinstance(caught, ast.Name) and caught.id in ("Exception", "BaseException"))
    ]
    assert broad == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("graphcompress.ir.model.walk", "from graphcompress.runtime import session"),
        ("graphcompress.ir.model.walk", "from graphcompress import data"),
        ("graphcompress.ir.model.walk", "def f():\n    import graphcompress.step"),
        ("graphcompress.ir.model.walk", "if TYPE_CHECKING:\n    from graphcompress.data import Dataset"),
        ("graphcompress.ir.model.walk", "from ...runtime import compare"),
        ("graphcompress.ir.model.walk", "from ... import engine"),
        ("graphcompress.ir.model.walk", "import_module('graphcompress.passes.simplify:simplify')"),
        ("graphcompress.data", "from graphcompress.runtime import session"),
        ("graphcompress.errors", "import graphcompress.ir"),
        ("graphcompress.engine.match", "from graphcompress.passes.simplify import simplify"),
        ("graphcompress.passes.simplify.fold", "from graphcompress.passes.quantize import place"),
        ("graphcompress.passes.simplify.fold", "from graphcompress.passes import quantize"),
        ("graphcompress.passes.simplify.fold", "from ..quantize import place"),
        ("graphcompress.passes.simplify.fold", "import graphcompress"),
        ("graphcompress.passes.simplify.fold", "from graphcompress import compress"),
        ("graphcompress.api.validate", "from graphcompress import __version__"),
        ("graphcompress.record", "from graphcompress.recipe import Recipe"),
        ("graphcompress.recipe", "from graphcompress.cli import main"),
        ("graphcompress", "from graphcompress.cli import main"),
        ("graphcompress.engine.match", "import onnx.helper"),
        ("graphcompress.runtime.session", "from onnx import ModelProto"),
        ("graphcompress.data", "def f():\n    from google.protobuf import message"),
        ("graphcompress.ir.model.walk", "import onnxruntime as ort"),
        ("graphcompress.api", "from rich.table import Table"),
        ("graphcompress.api", "def f():\n    import typer"),
        ("graphcompress.passes.quantize.ranges", "from onnx_graphsurgeon import Node"),
    ],
)
def test_a_wrong_arrow_is_seen(module: str, source: str) -> None:
    assert len(faults(source, module)) == 1


@pytest.mark.parametrize(
    ("module", "source"),
    [
        (
            "graphcompress.passes.simplify.fold",
            "from graphcompress.engine import driver\nfrom graphcompress.ir import Model\nfrom graphcompress.runtime import evaluate",
        ),
        ("graphcompress.passes.simplify.fold", "from .options import Options\nfrom graphcompress.passes.simplify.options import Options"),
        ("graphcompress.cli.compress", "import typer\nfrom rich.table import Table\nfrom graphcompress import errors, version"),
        ("graphcompress.runtime.session", "def f():\n    import onnxruntime"),
        ("graphcompress.ir.files.read", "import onnx\nfrom google.protobuf.message import DecodeError\nfrom graphcompress.errors import ModelError"),
    ],
)
def test_a_right_arrow_is_let_through(module: str, source: str) -> None:
    assert faults(source, module) == []


def test_no_modules_import_one_another_in_a_circle() -> None:
    files = modules()
    sources = {module: path.read_text(encoding="utf-8") for path, module in files}
    assert circle(module_graph(sources, {module for path, module in files if path.name == "__init__.py"})) == []


def test_a_circle_is_seen_wherever_the_imports_stand() -> None:
    sources = {
        "graphcompress": "",
        "graphcompress.a": "from graphcompress import b",
        "graphcompress.b": "def f():\n    from graphcompress.p import c",
        "graphcompress.p": "from graphcompress.p.c import C",
        "graphcompress.p.c": "if TYPE_CHECKING:\n    from graphcompress.a import A",
    }
    graph = module_graph(sources, {"graphcompress", "graphcompress.p"})
    assert circle(graph) == ["graphcompress.a", "graphcompress.b", "graphcompress.p.c", "graphcompress.a"]
    assert circle({**graph, "graphcompress.p.c": set()}) == []


@pytest.mark.parametrize(("path", "module"), modules(), ids=lambda value: value if isinstance(value, str) else "")
def test_no_file_is_long(path: Path, module: str) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= LONGEST_FILE


def test_no_two_classes_have_one_name() -> None:
    """But for `Options`, which every pass has, and which is always named with its pass."""
    places: dict[str, list[str]] = {}
    for path, module in modules():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                places.setdefault(node.name, []).append(module)
    assert {name: at for name, at in places.items() if len(at) > 1 and name != "Options"} == {}
