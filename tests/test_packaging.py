"""What is declared is what is used, no dependency brings an onnxruntime along, and every way to install the package finds its rules."""

from __future__ import annotations

import ast
import importlib.metadata
import json
import os
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import graphcompress

IMPORT_NAMES = {"protobuf": "google", "onnx-graphsurgeon": "onnx_graphsurgeon", "ml-dtypes": "ml_dtypes"}
ASK = """
import json, sys
import graphcompress, graphcompress.recipe, graphcompress.targets as targets
root = targets.rules_root()
print(json.dumps([graphcompress.__file__, str(root), sorted(graphcompress.recipe.known_recipes()), targets.load_target("cpu").name]))
"""


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    with open(Path(__file__).resolve().parent.parent / "pyproject.toml", "rb") as file:
        found: dict[str, Any] = tomllib.load(file)["project"]
    return found


def imported(folder: Path) -> set[str]:
    """The top-level names of everything that the package imports."""
    found: set[str] = set()
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                found.add(node.module.partition(".")[0])
    return found - set(sys.stdlib_module_names) - {"graphcompress"}


def test_dependencies_are_what_is_imported(project: dict[str, Any], repository: Path) -> None:
    declared = {canonicalize_name(Requirement(text).name) for text in project["dependencies"]}
    names = {IMPORT_NAMES.get(name, name) for name in declared}
    optional = {"onnxruntime", "onnxruntime_qnn"}
    assert imported(repository / "graphcompress") - optional == names


def test_no_dependency_brings_an_onnxruntime(project: dict[str, Any]) -> None:
    """The closure of the plain install, as installed here."""
    queue, seen = [Requirement(text) for text in project["dependencies"]], set()
    while queue:
        requirement = queue.pop()
        name = canonicalize_name(requirement.name)
        if name in seen or (requirement.marker and not requirement.marker.evaluate({"extra": ""})):
            continue
        seen.add(name)
        queue += [Requirement(text) for text in importlib.metadata.requires(name) or []]
    assert {"numpy", "onnx", "pydantic-core"} <= seen
    assert [name for name in seen if name.startswith("onnxruntime")] == []


def test_each_extra_brings_one_onnxruntime(project: dict[str, Any]) -> None:
    """The packages share one import name; two of them in one environment destroy each other. The QNN plugin stands beside `onnxruntime`."""
    extras = {extra: {Requirement(text).name for text in texts} for extra, texts in project["optional-dependencies"].items()}
    assert {extra: extras[extra] for extra in ("cpu", "gpu", "openvino", "qnn")} == {
        "cpu": {"onnxruntime"},
        "gpu": {"onnxruntime-gpu"},
        "openvino": {"onnxruntime-openvino"},
        "qnn": {"onnxruntime", "onnxruntime-qnn"},
    }
    assert "graphcompress[cpu]" in project["optional-dependencies"]["test"]


def test_versions_agree(project: dict[str, Any], repository: Path) -> None:
    assert project["version"] == graphcompress.__version__
    assert f"## {project['version']}" in (repository / "CHANGELOG.md").read_text(encoding="utf-8")


def rules(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def built(source: Path, kind: str, target: Path) -> Path:
    """A wheel or sdist, built by the backend that is installed here."""
    done = subprocess.run([sys.executable, "-m", "hatchling", "build", "-t", kind, "-d", str(target)], cwd=source, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return next(target.glob("*.whl" if kind == "wheel" else "*.tar.gz"))


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sdist of this repository, unpacked."""
    folder = tmp_path_factory.mktemp("sdist")
    archive = built(Path(__file__).resolve().parent.parent, "sdist", folder)
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    return next(path for path in folder.iterdir() if path.is_dir())


@pytest.fixture(scope="module")
def wheel(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel built from the sdist, unpacked."""
    folder = tmp_path_factory.mktemp("wheel")
    with zipfile.ZipFile(built(sdist, "wheel", folder)) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def test_the_sdist_can_be_tested(sdist: Path) -> None:
    for needed in ("pyproject.toml", "README.md", "LICENSE", "rules", "models/digits_cnn/model.onnx", "tests/test_packaging.py", "docs"):
        assert (sdist / needed).exists(), needed


def test_the_wheel_holds_package_and_rules_only(wheel: Path, repository: Path) -> None:
    assert {path.name for path in wheel.iterdir()} == {"graphcompress", f"graphcompress-{graphcompress.__version__}.dist-info"}
    assert rules(wheel / "graphcompress" / "rules") == rules(repository / "rules")
    sources = {name: text for name, text in rules(repository / "graphcompress").items() if not name.endswith(".pyc")}
    assert {name: text for name, text in rules(wheel / "graphcompress").items() if not name.startswith("rules")} == sources
    entry = next(wheel.glob("*.dist-info/entry_points.txt")).read_text()
    assert re.search(r"graphcompress\s*=\s*graphcompress\.cli:main", entry)


@pytest.mark.parametrize("how", ["wheel", "sdist", "editable"])
def test_rules_are_found(how: str, request: pytest.FixtureRequest, repository: Path, tmp_path: Path) -> None:
    """From a folder that is none of the three, so that nothing is found by luck."""
    roots: dict[str, Callable[[], Path]] = {
        "wheel": lambda: request.getfixturevalue("wheel"),
        "sdist": lambda: request.getfixturevalue("sdist"),
        "editable": lambda: repository,
    }
    root = roots[how]()
    done = subprocess.run([sys.executable, "-c", ASK], cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(root)}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    module, folder, recipes, target = json.loads(done.stdout)
    assert Path(module).parent == root / "graphcompress"
    assert Path(folder) == (root / "graphcompress" / "rules" if how == "wheel" else root / "rules")
    assert "default" in recipes
    assert target == "cpu"
