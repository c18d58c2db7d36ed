"""`compress` and `compress --goal speed` beside onnxruntime's quantization and NNCF on the ten tasks of ../shared/zoo: a table, and a plot of speed against faithfulness.

python benchmarks/quantize.py OUTS [TASK...] [--environments FOLDER]

Models that are in OUTS are judged again and not made again. OUTS/quantize.md and OUTS/quantize.svg are written.
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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quantize_plot import plot

import graphcompress

HERE = Path(__file__).resolve().parent
SHARED = Path(os.environ.get("GRAPHCOMPRESS_SHARED", HERE.parents[1] / "shared"))
sys.path[:0] = [str(SHARED), str(HERE.parent / "tests" / "exports")]

import zoo_tools  # noqa: E402
from environments import FRAMEWORKS, Framework, NoEnvironment, interpreter  # noqa: E402

FRAMEWORKS["nncf"] = Framework(("nncf==3.4.0", "onnx", "onnxruntime"), exports=(), required=False)
OURS = {"graphcompress": [], "graphcompress speed": ["--goal", "speed"]}
VARIANTS = {"onnxruntime": "default", "onnxruntime U8S8": "minmax", "onnxruntime percentile": "percentile", "onnxruntime dynamic": "dynamic"}
TOOLS = (*OURS, *VARIANTS, "nncf")
ROUNDS, BLOCK_SECONDS = 21, 0.03
LIMIT = 1800
"""Seconds that one run of a tool may take."""
MEASURED = "import resource, subprocess, sys; c = subprocess.run(sys.argv[1:]).returncode; u = resource.getrusage(resource.RUSAGE_CHILDREN); print(u.ru_utime + u.ru_stime, u.ru_maxrss); sys.exit(c)"


@dataclass(frozen=True)
class Row:
    """One model of one tool, or why there is none: the task's metric, its agreement with the float model, our judge's agreement, SQNR of the worst output in dB, speed-up with its 10th and 90th
    percentile, bytes of the float file by those of this one, CPU seconds and peak memory in MB of making it."""

    task: str
    tool: str
    error: str = ""
    metric: float = math.nan
    fidelity: float = math.nan
    faithful: bool = False
    agreement: float = math.nan
    sqnr: float = math.nan
    speedup: float = math.nan
    spread: tuple[float, float] = (math.nan, math.nan)
    smaller: float = math.nan
    seconds: float = math.nan
    megabytes: float = math.nan


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("outs", type=Path)
    parser.add_argument("tasks", nargs="*")
    parser.add_argument("--environments", type=Path, help="where the peers' environments are made and used again (default: OUTS/environments)")
    args = parser.parse_args()
    environments = args.environments or args.outs / "environments"
    rows: list[Row] = []
    for name in args.tasks or zoo_tools.tasks():
        task = zoo_tools.load(name)
        reference = zoo_tools.outputs(task, zoo_tools.session(task.model, 1))
        outs = {tool: args.outs / tool.replace(" ", "-") / f"{name}.onnx" for tool in TOOLS}
        notes = {tool: make(tool, environments, task, out) for tool, out in outs.items()}
        times = ratios(task, [out for tool, out in outs.items() if not notes[tool]["error"]])
        for tool, out in outs.items():
            rows.append(judge(Row(name, tool), task, reference, out, notes[tool], times.get(out, [])))
            print(line(rows[-1]), flush=True)
    (args.outs / "quantize.md").write_text(table(rows))
    (args.outs / "quantize.svg").write_text(plot(rows, TOOLS))
    return 0


def command(tool: str, environments: Path, task: Any, out: Path) -> list[str]:
    """What lets `tool` make `out`. Raises NoEnvironment where the tool cannot be had."""
    if tool in OURS:
        return [
            sys.executable,
            "-m",
            "graphcompress",
            "compress",
            str(task.model),
            "--data",
            str(task.calib),
            "-o",
            str(out),
            "--threads",
            "1",
            "-q",
            *OURS[tool],
        ]
    words = [str(task.model), str(task.calib), str(out)]
    if tool in VARIANTS:
        return [sys.executable, str(HERE / "peer_onnxruntime.py"), *words, VARIANTS[tool]]
    environments.mkdir(parents=True, exist_ok=True)
    return [str(interpreter(environments, tool)), str(HERE / f"peer_{tool}.py"), *words]


def make(tool: str, environments: Path, task: Any, out: Path) -> dict[str, Any]:
    """Let a tool make `out`: its CPU seconds and peak memory, and what it said where it failed; from the file beside `out` where it was made before."""
    notes = out.with_suffix(".json")
    if not notes.exists():
        out.parent.mkdir(parents=True, exist_ok=True)
        found = {"seconds": math.nan, "megabytes": math.nan, "error": ""}
        try:
            words = [sys.executable, "-c", MEASURED, *command(tool, environments, task, out)]
            process = subprocess.run(words, capture_output=True, text=True, check=False, timeout=LIMIT)
            found["error"] = "" if out.exists() else last_line(process.stderr)
            seconds, kilobytes = process.stdout.split()[-2:]
            found |= {"seconds": float(seconds), "megabytes": float(kilobytes) / 1024}
        except NoEnvironment as problem:
            return found | {"error": last_line(str(problem))}
        except subprocess.TimeoutExpired:
            found["error"] = f"not ready after {LIMIT} s"
        notes.write_text(json.dumps(found))
    result: dict[str, Any] = json.loads(notes.read_text())
    if not result["error"]:
        try:
            zoo_tools.session(out, 1)
        except Exception as problem:  # noqa: BLE001  (a peer's model that does not load is a finding)
            result["error"] = last_line(str(problem))
    return result


def last_line(text: str) -> str:
    """The end of an error message, without what would break a table."""
    return (text.strip().splitlines() or ["no message"])[-1][:120].replace("|", "/")


def ratios(task: Any, outs: list[Path]) -> dict[Path, list[float]]:
    """CPU time of the float model by that of each of `outs`, all in turn in each round, one thread, on the task's own feeds."""
    feeds = zoo_tools.feeds(task)[:4]
    sessions = [zoo_tools.session(path, 1) for path in (task.model, *outs)]

    def block(session: Any, times: int) -> float:
        start = time.thread_time()
        for _ in range(times):
            for feed in feeds:
                session.run(None, feed)
        return (time.thread_time() - start) / times

    times = [max(1, round(BLOCK_SECONDS / max(1e-6, min(block(s, 1), block(s, 2))))) for s in sessions]
    found: dict[Path, list[float]] = {out: [] for out in outs}
    for _ in range(ROUNDS):
        seconds = [block(session, count) for session, count in zip(sessions, times, strict=True)]
        for out, spent in zip(outs, seconds[1:], strict=True):
            found[out].append(seconds[0] / spent)
    return found


def judge(row: Row, task: Any, reference: Any, out: Path, notes: dict[str, Any], times: list[float]) -> Row:
    """`row` with its figures."""
    cost = (notes["seconds"], notes["megabytes"])
    if notes["error"]:
        return Row(row.task, row.tool, notes["error"], seconds=cost[0], megabytes=cost[1])
    outs = zoo_tools.outputs(task, zoo_tools.session(out, 1))
    fidelity = zoo_tools.fidelity(task, reference, outs)
    report = graphcompress.validate(task.model, out, task.calib, threads=1)
    sqnr = min((o.sqnr_db for o in report.outputs.values() if o.sqnr_db is not None), default=math.inf)
    tenths = statistics.quantiles(times, n=10)
    size = task.model.stat().st_size / out.stat().st_size
    agreement = math.nan if report.agreement is None else report.agreement
    faithful = fidelity >= task.bars["fidelity"]
    figures = (zoo_tools.metric(task, outs), fidelity, faithful, agreement, sqnr, statistics.median(times), (tenths[0], tenths[-1]), size)
    return Row(row.task, row.tool, "", *figures, *cost)


def line(row: Row) -> str:
    """One line of the table."""
    start, cost = f"| {row.task} | {row.tool} |", f"{row.seconds:.0f} | {row.megabytes:.0f} |"
    if row.error:
        return f"{start} - | - | - | - | - | - | {cost} {row.error} |"
    speed = f"{row.speedup:.2f} ({row.spread[0]:.2f} to {row.spread[1]:.2f})"
    note = "" if row.faithful else "not faithful"
    return f"{start} {row.metric:.3f} | {row.fidelity:.3f} | {row.agreement:.3f} | {row.sqnr:.1f} | {speed} | {row.smaller:.2f} | {cost} {note} |"


def table(rows: list[Row]) -> str:
    """Markdown."""
    head = ["task", "tool", "metric", "fidelity", "our judge", "SQNR dB", "speed-up", "smaller", "CPU s", "peak MB", "note"]
    return "\n".join([f"| {' | '.join(head)} |", "|---" * len(head) + "|", *map(line, rows), ""])


if __name__ == "__main__":
    sys.exit(main())
