"""The house keeps its layers: whatever a module imports stands to its left, and each heavy library has one door.

Imports are read from the source: those inside functions, under TYPE_CHECKING, relative ones and module names written as strings (dynamic imports) count alike.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

PACKAGE = "graphcompress"
ROOT = Path(__file__).resolve().parent.parent / PACKAGE

# Left to right; rooms of one column do not import one another.
COLUMNS = (
    ("errors", "findings"),
    ("ir",),
    ("runtime", "data", "targets"),
    ("step",),
    ("engine",),
    ("passes",),
    ("recipe", "record", "gate"),
    ("api",),
    ("cli",),
    ("__main__",),
)
RANK = {room: rank for rank, rooms in enumerate(COLUMNS) for room in rooms}
DOORS = {"onnx": "ir", "onnx_graphsurgeon": "ir", "google": "ir", "onnxruntime": "runtime", "onnxruntime_qnn": "runtime", "typer": "cli", "rich": "cli"}
# The package itself is the public face: it may name everything but the command line, and loads it lazily (test_startup.py).
FACE_MAY_NOT = {"cli", "__main__"}
DYNAMIC = re.compile(rf"{PACKAGE}(\.\w+)+(:\w+)?")


@dataclass(frozen=True)
class Import:
    """One import of `target` (a dotted name) at `line` of a file."""

    target: str
    line: int


def imports(source: str, module: str, *, package: bool) -> Iterator[Import]:
    """Every import that the source of `module` contains, wherever it stands."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import(names=names):
                yield from (Import(alias.name, node.lineno) for alias in names)
            case ast.ImportFrom(module=name, names=names, level=level):
                base = name or ""
                if level:
                    parts = module.split(".") if package else module.split(".")[:-1]
                    base = ".".join([*parts[: len(parts) - level + 1], *([name] if name else [])])
                # `from graphcompress import ir` and `from graphcompress.passes import quantize` name rooms, `from graphcompress.ir import load` a thing in one.
                yield from (Import(f"{base}.{alias.name}" if base in (PACKAGE, f"{PACKAGE}.passes") else base, node.lineno) for alias in names)
            case ast.Constant(value=str(text)) if DYNAMIC.fullmatch(text) and re.split(r"[.:]", text)[1] in RANK:
                yield Import(text.partition(":")[0], node.lineno)


def faults(source: str, module: str, *, package: bool = False) -> list[str]:
    """What is wrong with the imports of `module`, one sentence each."""
    parts = module.split(".")
    room = parts[1] if len(parts) > 1 else ""
    found: list[str] = []
    for item in imports(source, module, package=package):
        target = item.target.split(".")
        where = f"{module}, line {item.line}: "
        if target[0] in DOORS and DOORS[target[0]] != room:
            found.append(f"{where}{item.target} is imported in {DOORS[target[0]]} only")
        if target[0] != PACKAGE:
            continue
        goal = target[1] if len(target) > 1 else ""
        if goal.startswith("__version"):
            continue
        if not room:
            if goal in FACE_MAY_NOT:
                found.append(f"{where}the package does not import {goal}")
        elif goal == room:
            if room == "passes" and len(parts) > 2 and len(target) > 2 and parts[2] != target[2]:
                found.append(f"{where}passes do not import one another: {item.target}")
        elif room not in RANK:
            found.append(f"{where}the design has no room '{room}'")
        elif goal not in RANK:
            found.append(f"{where}{item.target} goes round the rooms; import from the room that has it")
        elif RANK[goal] >= RANK[room]:
            found.append(f"{where}{room} does not import {goal}")
    return found


def modules() -> list[tuple[Path, str]]:
    """Every source file of the package, with its dotted name."""
    found = []
    for path in sorted(ROOT.rglob("*.py")):
        parts = [PACKAGE, *path.relative_to(ROOT).with_suffix("").parts]
        found.append((path, ".".join(parts[:-1] if parts[-1] == "__init__" else parts)))
    return found


@pytest.mark.parametrize(("path", "module"), modules(), ids=lambda value: value if isinstance(value, str) else "")
def test_imports_go_left(path: Path, module: str) -> None:
    assert faults(path.read_text(encoding="utf-8"), module, package=path.name == "__init__.py") == []


def test_every_room_is_in_the_design() -> None:
    rooms = {path.name.removesuffix(".py") for path in ROOT.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()} - {"__init__"}
    assert rooms - set(RANK) == set()


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
        ("graphcompress.cli.compress", "import typer\nfrom rich.table import Table\nfrom graphcompress import __version__, errors"),
        ("graphcompress.runtime.session", "def f():\n    import onnxruntime"),
        ("graphcompress.ir.files.read", "import onnx\nfrom google.protobuf.message import DecodeError\nfrom graphcompress.errors import ModelError"),
    ],
)
def test_a_right_arrow_is_let_through(module: str, source: str) -> None:
    assert faults(source, module) == []
