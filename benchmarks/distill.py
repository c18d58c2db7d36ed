"""`distill` on students of the zoo: what it wins over time, and its step beside PyTorch's on the same student, pairs and loop.

python benchmarks/distill.py OUTS --torch PYTHON [TASK=STUDENT.onnx[,RECORD.json] ...] [--minutes 3]

Without students, cifar10_resnet is cut to 0.5 and 0.33 of its MACs first. PYTHON is the interpreter of an environment with torch and onnx. OUTS/distill.md and OUTS/distill.svg are written.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import graphcompress

HERE = Path(__file__).resolve().parent
SHARED = Path(os.environ.get("GRAPHCOMPRESS_SHARED", HERE.parents[1] / "shared"))
sys.path[:0] = [str(SHARED)]

import zoo_tools  # noqa: E402

STEPS = 58
"""That are timed, after two that warm up: so many that watching comes after every third step only, and the median is a step alone."""
WIDTH, HEIGHT, MARGIN = 360, 220, 50
COLOURS = ("#0b6e4f", "#c8553d", "#3d5a98", "#7fb285")


def cut(task: Any, part: float, outs: Path) -> tuple[Path, Path]:
    """A student of a task, and the record of how it was made."""
    student, record = outs / f"{task.name}_{part}.onnx", outs / f"{task.name}_{part}.json"
    if not record.exists():
        done = graphcompress.prune(task.model, task.calib, macs=part, round_to=1, threads=1, measure=False)
        graphcompress.save(done.model, student)
        record.write_text(done.record.model_dump_json(), encoding="utf-8")
    return student, record


def score(task: Any, model: Path) -> tuple[float, float]:
    """(the task's metric, agreement with the float model) on the test inputs."""
    reference, ours = (zoo_tools.outputs(task, zoo_tools.session(path, 1)) for path in (task.model, model))
    return float(zoo_tools.metric(task, ours)), float(zoo_tools.fidelity(task, reference, ours))


def learn(task: Any, student: Path, record: Path | None, outs: Path, minutes: float) -> dict[str, Any]:
    """One row of the table: the student before and after."""
    result = outs / f"{student.stem}_distilled.onnx"
    begin = time.process_time()
    done = graphcompress.distill(student, task.model, task.calib, minutes=minutes, match=str(record or "auto"), threads=1)
    seconds = time.process_time() - begin
    graphcompress.save(done.model, result)
    decisions = done.record.steps[0].decisions
    before, after = score(task, student), score(task, result)
    return {"task": task.name, "student": student.stem, "before": before, "after": after, "seconds": seconds, **decisions}


def step_here(task: Any, student: Path, record: Path | None) -> dict[str, Any]:
    """CPU seconds of a step and peak memory, of this process (call it in one of its own), and the pairs that were compared."""
    clock: list[float] = []

    def progress(what: str, done: int, total: int | None) -> None:
        if what.startswith("distill"):
            clock.append(time.process_time())

    options = {"steps": STEPS + 2, "match": str(record or "auto"), "augment": ("crop", "flip")}
    try:
        done = graphcompress.distill(student, task.model, task.calib, threads=1, progress=progress, **options)
    except graphcompress.BarMissed as missed:
        done = missed.result
    matched = done.record.steps[0].decisions["matched"]
    steps = [] if record is None else json.loads(record.read_text("utf-8"))["steps"]
    kept = {t: c["kept"] for step in steps for c in step["decisions"].get("channels", ()) for t in c["tensors"]}
    pairs = [(name, name, kept.get(name)) for name in (*matched["outputs"], *matched["features"])]
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    seconds = np.diff(clock)[1:]  # watching comes between a third of them
    return {"step_seconds": float(np.median(seconds)), "peak_bytes": memory, "pairs": pairs, "output": matched["outputs"][0]}


def step_torch(python: str, task: Any, student: Path, ours: Mapping[str, Any], outs: Path) -> dict[str, float]:
    job = outs / "job.json"
    job.write_text(json.dumps({"steps": STEPS + 2, "batch": 32, "rate": 1e-3, "pairs": ours["pairs"], "output": ours["output"]}), encoding="utf-8")
    command = [python, str(HERE / "peer_torch_distill.py"), str(student), str(task.model), str(task.calib), str(job)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{task.name}, PyTorch: {(done.stderr.strip().splitlines() or ['no answer'])[-1]}")
    answer: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return answer


def plot(rows: Sequence[Mapping[str, Any]]) -> str:
    """Error on the feeds that watch against the steps, a line for each student, as a part of the error before."""
    height = HEIGHT + 2 * MARGIN
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH + 2 * MARGIN} {height}" font-family="sans-serif" font-size="11">',
        f'<rect width="{WIDTH + 2 * MARGIN}" height="{height}" fill="white"/><g transform="translate({MARGIN} {MARGIN})">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="none" stroke="#888"/>',
        f'<text x="{WIDTH / 2}" y="{HEIGHT + 34}" text-anchor="middle">part of the steps</text><text x="0" y="-8">error beside the teacher, as a part of that before</text>',
    ]
    for value in (0.25, 0.5, 0.75, 1.0):
        y = round(HEIGHT * (1 - value / 1.5), 1)
        parts.append(f'<path d="M0 {y}H{WIDTH}" stroke="#ddd"/><text x="-6" y="{y + 4}" text-anchor="end">{value:g}</text>')
    for index, row in enumerate(rows):
        colour = COLOURS[index % len(COLOURS)]
        first, last = row["losses"][0][1], row["losses"][-1][0]
        points = " ".join(f"{round(step / last * WIDTH, 1)},{round(HEIGHT * (1 - min(1.5, loss / first) / 1.5), 1)}" for step, loss in row["losses"])
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.5"/>')
        parts.append(f'<text x="{WIDTH - 4}" y="{16 + 14 * index}" text-anchor="end" fill="{colour}">{row["student"]}</text>')
    return "\n".join([*parts, "</g></svg>", ""])


def job(text: str) -> tuple[Any, Path, Path | None]:
    """(task, student, record of how it was made) of TASK=STUDENT[,RECORD]."""
    task, _, files = text.partition("=")
    student, _, record = files.partition(",")
    return zoo_tools.load(task), Path(student), Path(record) if record else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("outs", type=Path)
    parser.add_argument("students", nargs="*", metavar="TASK=STUDENT[,RECORD]")
    parser.add_argument("--torch", metavar="PYTHON")
    parser.add_argument("--minutes", type=float, default=3.0)
    parser.add_argument("--only-steps", action="store_true", help="Time steps, learn nothing.")
    parser.add_argument("--step", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_intermixed_args()
    options.outs.mkdir(parents=True, exist_ok=True)
    jobs = [job(text) for text in options.students]
    if options.step:
        print(json.dumps(step_here(*jobs[0])))
        return
    if not jobs:
        task = zoo_tools.load("cifar10_resnet")
        jobs = [(task, *cut(task, part, options.outs)) for part in (0.5, 0.33)]
    lines = ["| student | metric before, after | agreement | seconds of CPU | points a minute |", "|---|---|---|---|---|"]
    rows = [] if options.only_steps else [learn(*job, options.outs, options.minutes) for job in jobs]
    for row in rows:
        won = 100 * (row["after"][0] - row["before"][0]) / (row["seconds"] / 60)
        figures = [f"{row['before'][i]:.3f}, {row['after'][i]:.3f}" for i in (0, 1)]
        lines.append(f"| {row['student']} | {figures[0]} | {figures[1]} | {row['seconds']:.0f} | {won:.2f} |")
    lines = [
        *(lines if rows else ()),
        "",
        "| student | step here, ms of CPU | step in torch | ratio | peak memory here, MB | in torch |",
        "|---|---|---|---|---|---|",
    ]
    for task, student, record in jobs:
        files = str(student) if record is None else f"{student},{record}"
        command = [sys.executable, __file__, str(options.outs), f"{task.name}={files}", "--step"]
        ours = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1])
        theirs = step_torch(options.torch, task, student, ours, options.outs) if options.torch else None
        there = (
            ("-", "-", "-")
            if theirs is None
            else (f"{1e3 * theirs['step_seconds']:.0f}", f"{ours['step_seconds'] / theirs['step_seconds']:.2f}", f"{theirs['peak_bytes'] / 2**20:.0f}")
        )
        lines.append(f"| {student.stem} | {1e3 * ours['step_seconds']:.0f} | {there[0]} | {there[1]} | {ours['peak_bytes'] / 2**20:.0f} | {there[2]} |")
    (options.outs / "distill.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    if rows:
        (options.outs / "distill.svg").write_text(plot(rows), encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
