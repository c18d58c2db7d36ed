"""Starting up is cheap: help, version and usage errors load nothing heavy, and onnxruntime is told not to report home before it is loaded."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

CPU_SECONDS = 0.35  # 0.13 on an idle machine; the bar of 0.2 is judged there
HEAVY = ("google", "ml_dtypes", "numpy", "onnx", "onnx_graphsurgeon", "onnxruntime", "psutil", "scipy")

PROBE = """
import json, sys
sys.argv[0] = "graphcompress"
from graphcompress.cli import main
try:
    status = main()
except SystemExit as end:
    status = end.code
roots = {name.partition(".")[0] for name in sys.modules}
with open(FILE, "w") as file:
    json.dump([status, sorted(roots & set(HEAVY))], file)
"""

TELEMETRY = """
import importlib.abc, os, sys
seen = []
class Watch(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == "onnxruntime":
            seen.append(os.environ.get("ORT_DISABLE_TELEMETRY"))
        return None
sys.meta_path.insert(0, Watch())
import graphcompress
model = graphcompress.load(MODEL)
assert "onnxruntime" not in sys.modules
from graphcompress.runtime.session import open_session
open_session(model).close()
print(sorted(set(seen)))
"""


def fresh(arguments: list[str], environment: dict[str, str] | None = None, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """A new interpreter; one thread, so that its CPU time is its own work."""
    return subprocess.run([sys.executable, *arguments], env=environment, cwd=cwd, capture_output=True, text=True, check=False, timeout=120)


def test_help_takes_little_cpu() -> None:
    resource = pytest.importorskip("resource")

    def seconds() -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = fresh(["-m", "graphcompress", "--help"])
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert done.returncode == 0, done.stderr
        assert "compress" in done.stdout
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    # The least of a few runs: the first one may write byte code, and neighbours on the machine only ever add.
    assert min(seconds() for _ in range(4)) < CPU_SECONDS


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (["--help"], 0),
        (["--version"], 0),
        (["compress", "--help"], 0),
        (["compress"], 2),
        (["compress", "model.onnx", "--no-such-option"], 2),
        (["no-such-command"], 2),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_nothing_heavy_is_loaded(arguments: list[str], status: int, tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    program = PROBE.replace("FILE", repr(str(report))).replace("HEAVY", repr(HEAVY))
    done = fresh(["-c", program, *arguments])
    assert report.exists(), done.stderr
    code, loaded = json.loads(report.read_text())
    assert (code or 0) == status
    assert loaded == []


def test_a_command_loads_no_pass_but_its_own() -> None:
    """And the name of a function stays the function's, whoever loads the module of that name."""
    lines = (
        "import sys, graphcompress.api.simplify, graphcompress.api.inspect",
        "from graphcompress import api",
        "assert callable(api.simplify) and callable(api.inspect)",
        "print(sorted(m for m in sys.modules if m.startswith('graphcompress.passes.') and m.count('.') == 2))",
    )
    done = fresh(["-c", "\n".join(lines)])
    assert done.stdout.strip() in ("[]", "['graphcompress.passes.simplify']"), done.stdout + done.stderr


@pytest.mark.parametrize(
    ("arguments", "needless"),
    [(["-q"], ["data", "gate", "record", "api.reports"]), ([], ["data.files", "data.images", "passes.quantize"]), (["-q", "--format", "json"], ["data.files"])],
)
def test_simplify_loads_and_writes_no_more_than_was_asked_for(arguments: list[str], needless: list[str], models: Path, tmp_path: Path) -> None:
    model, quiet, told = models / "digits_mlp" / "model.onnx", tmp_path / "quiet.onnx", tmp_path / "told.onnx"
    call = "from graphcompress.cli import main\nstatus = main()\n"
    tell = f"print([n for n in {needless} if 'graphcompress.' + n in sys.modules], file=sys.stderr)\nsys.exit(status)"
    done = fresh(["-c", f"import sys\n{call}{tell}", "simplify", str(model), "-o", str(quiet), *arguments])
    assert (done.returncode, done.stderr.strip().splitlines()[-1]) == (0, "[]")
    assert fresh(["-m", "graphcompress", "simplify", str(model), "-o", str(told), "--record", str(tmp_path / "r.json")]).returncode == 0
    assert quiet.read_bytes() == told.read_bytes()


def test_importing_the_package_loads_nothing_heavy() -> None:
    done = fresh(["-c", f"import graphcompress, sys; print(sorted({{m.partition('.')[0] for m in sys.modules}} & set({HEAVY})))"])
    assert done.stdout.strip() == "[]", done.stderr


@pytest.mark.parametrize(("given", "expected"), [(None, "1"), ("0", "0")])
def test_telemetry_is_switched_off_before_onnxruntime_is_loaded(given: str | None, expected: str, models: Path) -> None:
    """The user's own setting stands, if there is one."""
    environment = {k: v for k, v in os.environ.items() if k != "ORT_DISABLE_TELEMETRY"} | ({"ORT_DISABLE_TELEMETRY": given} if given else {})
    done = fresh(["-c", TELEMETRY.replace("MODEL", repr(str(models / "digits_mlp" / "model.onnx")))], environment)
    assert done.stdout.strip().splitlines()[-1:] == [str([expected])], done.stderr
