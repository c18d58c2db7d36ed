"""`prune` beside onnxsim's structured pruning and Torch-Pruning, on the image tasks of ../shared/zoo: a table, and a plot of accuracy against MACs.

python benchmarks/prune.py OUTS [TASK...] [--environments FOLDER]

Models that are in OUTS are judged again and not made again. OUTS/prune.md and OUTS/prune.svg are written.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from prune_plot import plot

import graphcompress

HERE = Path(__file__).resolve().parent
SHARED = Path(os.environ.get("GRAPHCOMPRESS_SHARED", HERE.parents[1] / "shared"))
sys.path[:0] = [str(SHARED), str(HERE.parent / "tests" / "exports")]

import zoo_tools  # noqa: E402
from environments import FRAMEWORKS, Framework, NoEnvironment, interpreter  # noqa: E402

TASKS = ("cifar10_resnet", "cifar10_cnn_jax", "cifar10_dwcnn_keras", "mnist_vit")
PARTS = (0.75, 0.5, 0.33)
PEERS = {
    "onnxsim": Framework(("onnxsim==0.8.1", "onnxruntime==1.32.0", "onnx==1.23.2"), exports=(), required=False),
    "torch_pruning": Framework(("torch==2.13.0", "torch-pruning==1.6.1", "onnxruntime==1.32.0", "onnx==1.23.2"), exports=(), required=False),
}
FRAMEWORKS |= PEERS
OURS = {"graphcompress": "1", "graphcompress_blocks": "auto"}
"""--round-to: the peers cut to any number of channels too; blocks are what onnxruntime computes fast."""
TOOLS = (*OURS, *PEERS)
ROUNDS, BLOCK_SECONDS = 15, 0.04
LIMIT = 1800
"""Seconds that one run of a tool may take."""


Command = Callable[[Path, Path, Path, float], list[str]]


@dataclass(frozen=True)
class Row:
    """One model of one tool, or why there is none. Figures are parts of 1: `macs` and `latency` of the float model's."""

    task: str
    part: float
    tool: str
    error: str = ""
    macs: float = float("nan")
    accuracy: float = float("nan")
    agreement: float = float("nan")
    latency: float = float("nan")
    seconds: float = float("nan")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("outs", type=Path)
    parser.add_argument("tasks", nargs="*", default=TASKS)
    parser.add_argument("--environments", type=Path, help="where the peers' environments are made and used again (default: OUTS/environments)")
    args = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        # One core for all: onnxruntime's idle threads would spend CPU time on waiting.
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    environments = args.environments or args.outs / "environments"
    rows: list[Row] = []
    accuracies: dict[str, float] = {}
    for name in args.tasks:
        task = zoo_tools.load(name)
        reference = zoo_tools.outputs(task, zoo_tools.session(task.model, 1))
        accuracies[name] = zoo_tools.metric(task, reference)
        for part in PARTS:
            for tool in TOOLS:
                out = args.outs / tool / f"{name}-{part}.onnx"
                rows.append(judge(Row(name, part, tool), task, reference, out, make(tool, environments, task, out, part)))
                print(line(rows[-1]), flush=True)
    (args.outs / "prune.md").write_text(table(rows, accuracies))
    (args.outs / "prune.svg").write_text(plot(rows, accuracies, TOOLS))
    return 0


def command(tool: str, environments: Path) -> Command:
    """The words that let `tool` make OUT of MODEL with DATA and a part of the MACs. Raises NoEnvironment where the tool cannot be had."""
    if tool in OURS:
        options = ["--round-to", OURS[tool], "--threads", "1", "--best-effort", "--no-measure", "-q"]
        ours = [sys.executable, "-m", "graphcompress", "prune", *options]
        return lambda model, data, out, part: [*ours, str(model), "--data", str(data), "-o", str(out), "--macs", str(part)]
    environments.mkdir(parents=True, exist_ok=True)
    peer = [str(interpreter(environments, tool)), "-I", str(HERE / f"peer_{tool}.py")]
    return lambda *words: [*peer, *map(str, words)]


def make(tool: str, environments: Path, task: Any, out: Path, part: float) -> dict[str, Any]:
    """Let a tool make `out`: its CPU seconds, and what it said where it failed; from the file beside `out` where it was made before."""
    notes = out.with_suffix(".json")
    if not notes.exists():
        out.parent.mkdir(parents=True, exist_ok=True)
        try:
            words = command(tool, environments)(task.model, task.calib, out, part)
        except NoEnvironment as problem:
            return {"seconds": float("nan"), "error": last_line(str(problem))}
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        try:
            process = subprocess.run(words, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False, timeout=LIMIT)
            error = "" if out.exists() else last_line(process.stderr)
        except subprocess.TimeoutExpired:
            error = f"not ready after {LIMIT} s"
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        notes.write_text(json.dumps({"seconds": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, "error": error}))
    result: dict[str, Any] = json.loads(notes.read_text())
    return result


def last_line(text: str) -> str:
    """The end of an error message, without what would break a table."""
    return (text.strip().splitlines() or ["no message"])[-1][:120].replace("|", "/")


def judge(row: Row, task: Any, reference: Any, out: Path, notes: dict[str, Any]) -> Row:
    """`row` with its figures."""
    error = notes["error"]
    if not error:
        try:
            outs = zoo_tools.outputs(task, zoo_tools.session(out, 1))
        except Exception as problem:  # noqa: BLE001  (a peer's model that does not run is a finding)
            error = last_line(str(problem))
    if error:
        return Row(row.task, row.part, row.tool, error, seconds=notes["seconds"])
    macs = [graphcompress.inspect(path).macs or float("nan") for path in (out, task.model)]
    figures = (macs[0] / macs[1], zoo_tools.metric(task, outs), zoo_tools.fidelity(task, reference, outs), latency_ratio(task, out))
    return Row(row.task, row.part, row.tool, "", *figures, notes["seconds"])


def latency_ratio(task: Any, out: Path) -> float:
    """CPU time of `out` by that of the float model: the median of interleaved rounds of one thread on the task's own feeds. Wall time is noisier."""
    feeds = zoo_tools.feeds(task)[:4]
    sessions = [zoo_tools.session(path, 1) for path in (out, task.model)]

    def block(session: Any, times: int) -> float:
        start = time.process_time()
        for _ in range(times):
            for feed in feeds:
                session.run(None, feed)
        return (time.process_time() - start) / times

    times = [max(1, round(BLOCK_SECONDS / max(1e-6, min(block(s, 1), block(s, 2))))) for s in sessions]
    ratios = []
    for index in range(ROUNDS):
        seconds = {i: block(sessions[i], times[i]) for i in ((0, 1) if index % 2 else (1, 0))}
        ratios.append(seconds[0] / seconds[1])
    return statistics.median(ratios)


def line(row: Row) -> str:
    """One line of the table."""
    start = f"| {row.task} | {row.part:.2f} | {row.tool} |"
    if row.error:
        return f"{start} - | - | - | - | {'-' if np.isnan(row.seconds) else f'{row.seconds:.0f}'} | {row.error} |"
    note = "goal not reached" if row.macs > row.part + 0.01 else ""
    return f"{start} {row.macs:.2f} | {row.accuracy:.3f} | {row.agreement:.3f} | {row.latency:.2f} | {row.seconds:.0f} | {note} |"


def table(rows: list[Row], accuracies: dict[str, float]) -> str:
    """Markdown."""
    head = ["task", "goal", "tool", "MACs left", "accuracy", "agreement", "latency", "CPU seconds", "note"]
    floats = "; ".join(f"{task} {accuracy:.3f}" for task, accuracy in accuracies.items())
    return "\n".join([f"Accuracy of the float models: {floats}.", "", f"| {' | '.join(head)} |", "|---" * len(head) + "|", *map(line, rows), ""])


if __name__ == "__main__":
    sys.exit(main())
