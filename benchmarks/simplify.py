"""`simplify` beside its peers on a folder of models: validity, equality at several shapes, nodes, bytes, CPU seconds, memory, load and run time.

python benchmarks/simplify.py FOLDER OUTS [--only TEXT] [--tools graphcompress,onnxslim] [--again TOOL] [--time]

Every tool writes OUTS/TOOL/NAME.onnx in a process of its own; a peer's environment is made in OUTS/environments when it is missing. What a peer wrote once is not made again, ours always is.
A result counts where onnx's checker takes it, inputs and outputs are those of the original, and its outputs are the original's, both run without optimization on feeds of several sizes.
--time adds load and run time with all optimizations, one thread, in alternation with the original.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort

OURS = "graphcompress"
PEERS = {
    "onnxslim": (("onnxslim==0.1.98", "onnxruntime==1.32.0"), "import onnxslim; onnxslim.slim(source, target)"),
    "onnxsim": (("onnxsim==0.8.1", "onnxruntime==1.32.0"), "import onnx, onnxsim; onnx.save(onnxsim.simplify(onnx.load(source))[0], target)"),
    "onnxoptimizer": (
        ("onnxoptimizer==0.4.2",),
        "import onnx, onnxoptimizer as o; onnx.save(o.optimize(onnx.load(source), o.get_fuse_and_elimination_passes()), target)",
    ),
    "onnxscript": (
        ("onnxscript==0.7.2", "onnxruntime==1.32.0"),
        "import onnx, onnxscript.optimizer as o; onnx.save(o.optimize(onnx.load(source)), target)",
    ),
    "optimize_for_ort": (
        ("onnxscript==0.7.2", "onnxruntime==1.32.0"),
        "import onnx_ir as ir\nfrom onnxscript.rewriter.ort_fusions import optimize_for_ort\n"
        "model = ir.load(source)\nresult = optimize_for_ort(model)\nir.save(result[0] if isinstance(result, tuple) else model, target)",
    ),
}
OUR_CODE = "from graphcompress.cli import main\nsys.argv = ['graphcompress', 'simplify', source, '-o', target, '-q', *rest]\nmain()"
# A child's ru_maxrss begins at its parent's, so the process says itself how high its memory went.
WRAPPER = """
import sys, time
source, target, notes, *rest = sys.argv[1:]
try:
    exec(CODE)
finally:
    peak = next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM"))
    open(notes, "w").write(f"{time.process_time()} {int(peak) / 1024}")
"""
LIMIT = 600
TOLERANCE = {"float16": 2e-2}
DEFAULT_TOLERANCE = 1e-4
SIZES = ((2, 64, 12), (3, 96, 7), (1, 64, 16), (2, 224, 9))
"""Numbers that symbols stand for: axis 0, the last two axes of images, everything else. Sizes that the original does not take are left out."""
ROUNDS = 15


@dataclass
class Result:
    """What a tool made of a model. `fault` says why it does not count."""

    fault: str = ""
    nodes: int = 0
    bytes: int = 0
    seconds: float = math.nan
    memory: float = math.nan
    load: float = math.nan
    run: float = math.nan


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("outs", type=Path)
    parser.add_argument("--only", default="", help="names that hold this text, or several with commas")
    parser.add_argument("--tools", default=f"{OURS},onnxslim,onnxsim")
    parser.add_argument("--again", default="", help="run this peer although its results are there")
    parser.add_argument("--target", default="", help="target of our own run")
    parser.add_argument("--time", action="store_true")
    arguments = parser.parse_args()
    tools = arguments.tools.split(",")
    pythons = {t: environment(t, arguments.outs) for t in tools}
    rows: dict[str, dict[str, Result]] = {}
    for path in sorted(arguments.folder.glob("*.onnx")):
        if any(part in path.stem for part in arguments.only.split(",")):
            rows[path.stem] = judge(path, pythons, arguments)
            print_row(path.stem, rows[path.stem])
    summary(rows, tools)
    report = {name: {tool: asdict(result) for tool, result in row.items()} for name, row in rows.items()}
    (arguments.outs / "simplify.json").write_text(json.dumps(report, indent=1))
    return 0


# --- running tools --------------------------------------------------------------------------------------------------------------


def environment(tool: str, outs: Path) -> Path:
    """The interpreter of a tool's environment."""
    if tool == OURS:
        return Path(sys.executable)
    packages, _ = PEERS[tool]
    place = outs / "environments" / tool
    if not (place / "bin" / "python").exists():
        subprocess.run([sys.executable, "-m", "venv", place], check=True)
        subprocess.run([place / "bin" / "python", "-m", "pip", "install", "-q", *packages], check=True)
    return place / "bin" / "python"


def made(tool: str, python: Path, source: Path, arguments: argparse.Namespace) -> tuple[Path, float, float, str]:
    """The result's path, CPU seconds, MiB at most, and what went wrong."""
    folder = arguments.outs / tool
    folder.mkdir(parents=True, exist_ok=True)
    target, notes = folder / source.name, folder / f"{source.stem}.txt"
    if tool == OURS or tool == arguments.again or not notes.exists():
        target.unlink(missing_ok=True)
        notes.unlink(missing_ok=True)
        code = WRAPPER.replace("CODE", repr(OUR_CODE if tool == OURS else PEERS[tool][1]))
        rest = ["--target", arguments.target] if tool == OURS and arguments.target else []
        command = [str(python), "-c", code, str(source), str(target), str(notes), *rest]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"})
        except subprocess.TimeoutExpired:
            notes.write_text("nan nan")
            return target, math.nan, math.nan, f"more than {LIMIT} s"
        if not target.exists():
            if not notes.exists():
                notes.write_text("nan nan")
            (folder / f"{source.stem}.log").write_text(done.stderr)
    seconds, memory = map(float, notes.read_text().split())
    return target, seconds, memory, "" if target.exists() else "nothing written"


# --- judging --------------------------------------------------------------------------------------------------------------------


def judge(path: Path, pythons: dict[str, Path], arguments: argparse.Namespace) -> dict[str, Result]:
    model = onnx.load(path)
    reference = session(path, optimized=False)
    feeds = list(feeds_of(reference))
    if len(feeds) < 2:
        print(f"{path.stem}: runs at {len(feeds)} sizes only")
    expected = [reference.run(None, f) for f in feeds]
    row = {"original": Result(nodes=count(model), bytes=path.stat().st_size)}
    for tool, python in pythons.items():
        target, seconds, memory, fault = made(tool, python, path, arguments)
        result = Result(fault, seconds=seconds, memory=memory)
        if not fault:
            result.fault = fault_of(model, target, feeds, expected)
            simplified = onnx.load(target, load_external_data=False)
            result.nodes, result.bytes = count(simplified), target.stat().st_size
        row[tool] = result
    if arguments.time:
        measure(path, {t: arguments.outs / t / path.name for t, r in row.items() if not r.fault and t != "original"}, feeds[0], row)
    return row


def fault_of(model: onnx.ModelProto, target: Path, feeds: Sequence[dict[str, Any]], expected: Sequence[Sequence[Any]]) -> str:
    """Why the file at `target` does not count, empty where it does."""
    simplified = onnx.load(target)
    try:
        onnx.checker.check_model(str(target), full_check=True)
    except Exception as problem:  # noqa: BLE001 - whatever a peer or a runtime raises is the answer
        return f"invalid: {one_line(problem)}"
    for side in ("input", "output"):
        if [v.SerializeToString() for v in map(bare, getattr(model.graph, side))] != [
            v.SerializeToString() for v in map(bare, getattr(simplified.graph, side))
        ]:
            return f"another {side}"
    try:
        tested = session(target, optimized=False)
        for feed, wanted in zip(feeds, expected, strict=True):
            for name, a, b in zip([o.name for o in tested.get_outputs()], wanted, tested.run(None, feed), strict=True):
                if not equal(a, b):
                    return f"output {name} differs at {[v.shape for v in feed.values()]}"
    except Exception as problem:  # noqa: BLE001 - whatever a peer or a runtime raises is the answer
        return f"does not run: {one_line(problem)}"
    return ""


def bare(value: onnx.ValueInfoProto) -> onnx.ValueInfoProto:
    """Name, type, rank and fixed sizes; what a free size is called is left out."""
    result = onnx.ValueInfoProto(name=value.name, type=value.type)
    for dim in result.type.tensor_type.shape.dim:
        dim.ClearField("dim_param")
        dim.ClearField("denotation")
    return result


def equal(a: Any, b: Any) -> bool:
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    if a.dtype.kind != "f":
        return bool((a == b).all())
    a, b, tolerance = a.astype(np.float64), b.astype(np.float64), TOLERANCE.get(str(a.dtype), DEFAULT_TOLERANCE)
    finite = np.isfinite(a)
    if not np.array_equal(finite, np.isfinite(b)) or not np.array_equal(a[~finite], b[~finite], equal_nan=True):
        return False
    return bool(np.abs(a - b)[finite].max(initial=0.0) <= tolerance * max(np.abs(a[finite]).max(initial=0.0), 1e-6))


def feeds_of(reference: ort.InferenceSession) -> Iterator[dict[str, Any]]:
    """A feed for each of SIZES that the model takes."""
    rng = np.random.default_rng(0)
    for first, image, other in SIZES:
        symbols: dict[str, int] = {}
        feed: dict[str, Any] = {}
        for entry in reference.get_inputs():
            dims = []
            for axis, dim in enumerate(entry.shape):
                number = first if axis == 0 else image if len(entry.shape) == 4 and axis >= 2 else other
                dims.append(dim if isinstance(dim, int) else symbols.setdefault(dim or f"{entry.name}.{axis}", number))
            feed[entry.name] = random_array(rng, entry.name, entry.type, dims)
        try:
            reference.run(None, feed)
        except Exception:  # noqa: BLE001 - whatever a peer or a runtime raises is the answer
            continue
        yield feed


def random_array(rng: np.random.Generator, name: str, kind: str, dims: Sequence[int]) -> Any:
    kind = kind.removeprefix("tensor(").removesuffix(")")
    if kind.startswith(("int", "uint")):
        return rng.integers(0, 2 if "mask" in name else 20, dims).astype(kind)
    if kind == "bool":
        return rng.random(dims) < 0.8
    if kind == "string":
        return rng.choice(np.array(["red", "a longer text", "x", ""], object), dims)
    return rng.standard_normal(dims).astype({"float": "float32", "double": "float64"}.get(kind, kind))


def session(path: Path, optimized: bool) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL if optimized else ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def count(model: onnx.ModelProto) -> int:
    """Nodes in all graphs and functions; Constant nodes are not counted, they are initializers in another place."""
    total, holders = 0, [model.graph.node, *(f.node for f in model.functions)]
    while holders:
        for node in holders.pop():
            total += node.op_type != "Constant"
            holders += [g.node for a in node.attribute for g in ([a.g] if a.type == onnx.AttributeProto.GRAPH else a.graphs)]
    return total


def one_line(problem: Exception) -> str:
    return " ".join(str(problem).split())[:150]


# --- time -----------------------------------------------------------------------------------------------------------------------


def measure(original: Path, targets: dict[str, Path], feed: dict[str, Any], row: dict[str, Result]) -> None:
    """Load and run time, in alternation."""
    sessions = {}
    for tool, path in {"original": original, **targets}.items():
        start = time.process_time()
        sessions[tool] = session(path, optimized=True)
        row[tool].load = time.process_time() - start
        sessions[tool].run(None, feed)
    times: dict[str, list[float]] = {tool: [] for tool in sessions}
    for _ in range(ROUNDS):
        for tool, opened in sessions.items():
            start = time.thread_time()
            opened.run(None, feed)
            times[tool].append(time.thread_time() - start)
    for tool, values in times.items():
        row[tool].run = statistics.median(values)


# --- tables ---------------------------------------------------------------------------------------------------------------------


def print_row(name: str, row: dict[str, Result]) -> None:
    parts = [f"{name:18}"]
    for tool, r in row.items():
        text = f"{tool} {r.nodes}"
        if tool != "original":
            text += f" ({r.seconds:.1f} s, {r.memory:.0f} MiB)"
        if not math.isnan(r.run):
            text += f" {r.load * 1e3:.0f}+{r.run * 1e3:.2f} ms"
        parts.append(text + (f" !! {r.fault}" if r.fault else ""))
    print("  ".join(parts), flush=True)


def summary(rows: dict[str, dict[str, Result]], tools: Sequence[str]) -> None:
    """Ours beside the better of the peers whose results count, the worst first."""
    peers = [t for t in tools if t != OURS]
    ratios: dict[str, float] = {}
    for name, row in rows.items():
        others = [row[t].nodes for t in peers if not row[t].fault]
        if OURS in row and not row[OURS].fault and others:
            ratios[name] = row[OURS].nodes / min(others)
    for name, ratio in sorted(ratios.items(), key=lambda item: -item[1]):
        print(f"{name:18} {ratio:6.3f}  " + "  ".join(f"{t} {r.nodes}{'!' if r.fault else ''}" for t, r in rows[name].items()))
    if ratios:
        print(
            f"nodes beside the better of {', '.join(peers)}: geometric mean {mean(ratios.values()):.3f}, above it on {sum(r > 1 for r in ratios.values())} of {len(ratios)}"
        )
    for tool in tools:
        seconds = [row[tool].seconds for row in rows.values() if not math.isnan(row[tool].seconds)]
        faults = sum(bool(row[tool].fault) for row in rows.values())
        times = [row[tool].run / row["original"].run for row in rows.values() if not math.isnan(row[tool].run)]
        print(f"{tool}: {faults} of {len(rows)} do not count, {sum(seconds):.0f} CPU s" + (f", run time {mean(times):.3f} of the original's" if times else ""))


def mean(values: Any) -> float:
    """The geometric mean."""
    return math.exp(statistics.fmean(math.log(v) for v in values))


if __name__ == "__main__":
    raise SystemExit(main())
