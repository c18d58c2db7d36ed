"""onnxruntime reports nothing home, and its absence is one paragraph."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from graphcompress.errors import RuntimeUnavailable
from graphcompress.runtime import ort

ORDER = """
import builtins, os, sys
os.environ.pop("ORT_DISABLE_TELEMETRY", None)
seen, real = [], builtins.__import__
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "onnxruntime":
            seen.append(os.environ.get("ORT_DISABLE_TELEMETRY"))
        return None
sys.meta_path.insert(0, Finder())
import graphcompress.runtime.session, graphcompress.runtime.evaluate, graphcompress.runtime.compare, graphcompress.runtime.measure, graphcompress.runtime.profile
assert "onnxruntime" not in sys.modules, "imported before it is needed"
from graphcompress.runtime import ort
ort.load()
print(sorted(set(seen)))
"""

ABSENT = """
import sys
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "onnxruntime":
            raise ModuleNotFoundError("No module named 'onnxruntime'", name="onnxruntime")
        return None
sys.meta_path.insert(0, Finder())
from graphcompress.errors import RuntimeUnavailable
from graphcompress.runtime import ort
try:
    ort.load()
except RuntimeUnavailable as problem:
    print(problem)
"""

BROKEN = """
import sys, types
sys.modules["onnxruntime"] = types.ModuleType("onnxruntime")
from graphcompress.errors import RuntimeUnavailable
from graphcompress.runtime import ort
try:
    ort.load()
except RuntimeUnavailable as problem:
    print(problem)
"""


def fresh(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def test_telemetry_is_off_before_it_is_looked_for() -> None:
    assert fresh(ORDER).strip() == "['1']"


def test_absent_onnxruntime_names_the_extras() -> None:
    message = fresh(ABSENT).strip()
    assert "\n" not in message
    for extra in ("[cpu]", "[gpu]", "[openvino]", "[qnn]"):
        assert extra in message


def test_half_removed_onnxruntime_is_named() -> None:
    assert "incomplete" in fresh(BROKEN)


def test_an_onnxruntime_that_is_too_old_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for version in ("1.23.2", "0.9", "1.9.0.dev20250101"):
        monkeypatch.setattr("onnxruntime.__version__", version)
        with pytest.raises(RuntimeUnavailable, match=rf"onnxruntime.* {version} is installed, and graphcompress needs {ort.OLDEST} or newer"):
            ort.load()
    monkeypatch.setattr("onnxruntime.package_name", "")  # as in 1.20.1
    with pytest.raises(RuntimeUnavailable, match=r"^onnxruntime 1.9.0.* Upgrade it: pip install --upgrade 'onnxruntime>="):
        ort.load()
    for version in ("1.24.0", "1.100.0", "2.0", f"{ort.OLDEST}.0.dev20260101001"):
        monkeypatch.setattr("onnxruntime.__version__", version)
        ort.load()


def test_an_old_onnxruntime_that_cannot_be_imported_is_named_alone(tmp_path: Path) -> None:
    """Builds for numpy 1 write tracebacks beside numpy 2: what is told is the version, and nothing of the package is run."""
    package = tmp_path / "onnxruntime"
    package.mkdir()
    lines = (
        "import sys",
        "from graphcompress.errors import RuntimeUnavailable",
        "from graphcompress.runtime import ort",
        f"sys.path.insert(0, {str(tmp_path)!r})",
    )
    load = (*lines, "try:", "    ort.load()", "except RuntimeUnavailable as problem:", "    print(problem)")
    fails = "print('a traceback')\nraise AttributeError('_ARRAY_API not found')\n"
    for version, told in (("1.17.3", f"onnxruntime 1.17.3 is installed, and graphcompress needs {ort.OLDEST} or newer"), (f"{ort.OLDEST}.1", "a traceback")):
        (package / "__init__.py").write_text(f'"""A docstring."""\n\n__version__ = "{version}"\n{fails}')
        done = subprocess.run([sys.executable, "-c", "\n".join(load)], capture_output=True, text=True, check=False)
        assert done.stdout.startswith(told), done.stderr


def test_the_oldest_onnxruntime_is_that_of_the_package(repository: Path) -> None:
    extras = tomllib.loads((repository / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    bounds = {extra: next(r.split(">=")[1] for r in extras[extra] if r.startswith("onnxruntime")) for extra in ("cpu", "gpu", "openvino", "qnn")}
    assert {extra: ".".join(bound.split(".")[:2]) for extra, bound in bounds.items()} == dict.fromkeys(bounds, ort.OLDEST)
