"""What a large transformer costs: an export of PyTorch with dynamic axes and about 6 000 nodes, random weights, 8 feeds.

python benchmarks/transformer.py [FOLDER]      FOLDER keeps the environment with PyTorch and the export between runs (GRAPHCOMPRESS_EXPORTS does too)

- of a profiled `compress --no-measure`: how often the model's protobuf is built, and the share of time in `graphcompress.ir.shapes` (with what it calls);
- of `simplify`: CPU seconds of the whole process;
- of `quantize --no-measure`: CPU seconds of the process less those inside `InferenceSession.run`, and its peak memory beside that of a float session in
  onnxruntime that runs the same feeds, in a process that has imported the same package.
"""

from __future__ import annotations

import argparse
import json
import os
import pstats
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "exports"))

from environments import write

REPOSITORY = Path(__file__).resolve().parent.parent
NAME = "big_transformer"

# Runs a command line of the tool; says at the end: CPU seconds, those inside InferenceSession.run, peak KiB.
COMMAND = """
import json, sys, time
import onnxruntime

inside = 0.0
original = onnxruntime.InferenceSession.run

def run(*arguments, **options):
    global inside
    start = time.process_time()
    try:
        return original(*arguments, **options)
    finally:
        inside += time.process_time() - start

onnxruntime.InferenceSession.run = run
from graphcompress.cli import main

status = main(sys.argv[2:])
peak = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))
json.dump({"cpu": time.process_time(), "runs": inside, "peak": peak}, open(sys.argv[1], "w"))
sys.exit(status)
"""

# Runs a command line of the tool under the profiler.
PROFILE = """
import cProfile, sys, time
from graphcompress.cli import main

profile = cProfile.Profile(time.process_time)  # the wall clock would count other processes
status = profile.runcall(main, sys.argv[2:])
profile.dump_stats(sys.argv[1])
sys.exit(status)
"""

# The float session: the same package imported, the same feeds run, no tool.
FLOAT = """
import json, pathlib, pkgutil, sys
import numpy, onnxruntime
import graphcompress

for module in pkgutil.walk_packages(graphcompress.__path__, "graphcompress."):
    if not module.name.endswith("__main__"):
        __import__(module.name)
session = onnxruntime.InferenceSession(sys.argv[2], providers=["CPUExecutionProvider"])
for file in sorted(pathlib.Path(sys.argv[3]).glob("*.npz")):
    session.run(None, dict(numpy.load(file)))
peak = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))
json.dump({"peak": peak}, open(sys.argv[1], "w"))
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", help="keeps the environment with PyTorch and the export between runs")
    folder = parser.parse_args().folder
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(folder or os.environ.get("GRAPHCOMPRESS_EXPORTS") or temporary).resolve()
        model, feeds = folder / f"{NAME}.onnx", folder / f"{NAME}.feeds"
        if not model.exists():
            folder.mkdir(parents=True, exist_ok=True)
            write(folder, "torch", folder, [NAME])
        return measure(model, feeds, Path(temporary))


def measure(model: Path, feeds: Path, place: Path) -> int:
    """Print every figure beside its bar; 1 where one is missed."""
    size = model.stat().st_size / 2**20
    print(f"{model.name}: {size:.1f} MiB, {len(list(feeds.glob('*.npz')))} feeds")
    data = ["--data", str(feeds)]

    profile = place / "profile"
    child(["-c", PROFILE, str(profile), "compress", str(model), "-o", str(place / "c.onnx"), "--no-measure", "-q", *data])
    builds, share, seconds = shape_share(profile)
    failed = report("compress, profiled: times that the protobuf is built", builds, "", 4)
    failed += report(f"compress, profiled: share of {seconds:.1f} s CPU in shape inference", 100 * share, "%", 25)

    figures = tool(["simplify", str(model), "-o", str(place / "s.onnx"), "-q"], place)
    failed += report("simplify", figures["cpu"], "s CPU", 4)

    figures = tool(["quantize", str(model), "-o", str(place / "q.onnx"), "--no-measure", "-q", *data], place)
    failed += report(f"quantize, besides {figures['runs']:.1f} s in runs of onnxruntime", figures["cpu"] - figures["runs"], "s CPU", 8)
    child(["-c", FLOAT, str(place / "figures"), str(model), str(feeds)])
    session = json.loads((place / "figures").read_text())["peak"] / 1024
    failed += report(f"quantize, peak (float session {session:.0f} MiB)", figures["peak"] / 1024, "MiB", session + 2 * size)
    return int(failed > 0)


def report(what: str, figure: float, unit: str, bar: float) -> int:
    print(f"{what:75} {figure:8.1f} {unit:6} (bar {bar:.0f})  {'ok' if figure <= bar else 'MISSED'}", flush=True)
    return int(figure > bar)


def child(arguments: Sequence[str]) -> None:
    """Run this interpreter with the repository's package."""
    environment = dict(os.environ, PYTHONPATH=str(REPOSITORY))
    process = subprocess.run([sys.executable, *arguments], env=environment, stdout=subprocess.DEVNULL, check=False)
    if process.returncode:
        raise SystemExit(f"{' '.join(arguments[-6:])} ended with status {process.returncode}")


def tool(words: Sequence[str], place: Path) -> dict[str, float]:
    """CPU seconds, those inside runs of onnxruntime, and peak KiB of one command line."""
    child(["-c", COMMAND, str(place / "figures"), *words])
    figures: dict[str, float] = json.loads((place / "figures").read_text())
    return figures


def shape_share(profile: Path) -> tuple[int, float, float]:
    """(how often messages were built of all nodes, share of the time that was spent in `graphcompress/ir/shapes` and what it called, seconds profiled)."""
    stats = pstats.Stats(str(profile)).stats
    inside = os.path.join("graphcompress", "ir", "shapes") + os.sep
    builds, entered = 0, 0.0
    for (file, _, name), (_, calls, _, _, callers) in stats.items():
        if name == "node_protos" and "graphcompress" in file:  # to_proto and the writers of files all pass here, once a build
            builds += calls
        if inside in file:
            entered += sum(cumulative for (caller, _, _), (_, _, _, cumulative) in callers.items() if inside not in caller)
    if not builds or not entered:
        raise SystemExit("nothing in the profile is called node_protos, or lies in graphcompress/ir/shapes: this script must follow the code")
    total = sum(own for _, _, own, _, _ in stats.values())
    return builds, entered / total, total


if __name__ == "__main__":
    sys.exit(main())
