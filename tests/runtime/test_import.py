"""onnxruntime reports nothing home, and its absence is one paragraph."""

from __future__ import annotations

import subprocess
import sys

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
print(seen)
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


def test_telemetry_is_off_before_the_only_import() -> None:
    assert fresh(ORDER).strip() == "['1']"


def test_absent_onnxruntime_names_the_extras() -> None:
    message = fresh(ABSENT).strip()
    assert "\n" not in message
    for extra in ("[cpu]", "[gpu]", "[openvino]", "[qnn]"):
        assert extra in message


def test_half_removed_onnxruntime_is_named() -> None:
    assert "incomplete" in fresh(BROKEN)
