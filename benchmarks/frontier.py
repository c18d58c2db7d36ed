"""The frontier of a task of the zoo, accuracy over measured latency: channels cut, low rank as well, taught by the original, in INT8.

python benchmarks/frontier.py make OUTS [--task cifar10_resnet] [--steps 400]     makes the files, in OUTS; those that are there stay
python benchmarks/frontier.py time OUTS [--task cifar10_resnet] [--rounds 40]     times and judges them: OUTS/frontier.md and OUTS/frontier.svg

The time is the CPU's with one thread, all files and the original in turns; the ratio of each round, its median and deciles.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import zoo
from prune_plot import COLOURS, HEIGHT, MARGIN, TOP, WIDTH

import graphcompress

sys.path.insert(0, str(zoo.SHARED))
import zoo_tools

PARTS = (0.75, 0.5, 0.33)
LINES = {"original": "the original", "channels": "channels cut", "ranks": "and low rank", "taught": "and taught", "int8": "and INT8"}
RUNS = 20
"""Inferences of one input that are timed together."""


@dataclass(frozen=True, slots=True)
class Point:
    """A file: what was done to it, part of the MACs that was asked for, the task's metric, agreement, parts of the original's time."""

    line: str
    part: float
    metric: float
    agreement: float
    times: np.ndarray[Any, Any]

    @property
    def share(self) -> float:
        return float(np.median(self.times))


def make(task: Any, outs: Path, steps: int) -> None:
    """The files of all lines, NAME_PART.onnx."""
    quantized(task, task.model, outs / "int8_1.onnx")
    for part in sorted(PARTS):  # the boldest first: what is there can be timed
        cuts = {"channels": ("channels",), "ranks": ("channels", "rank")}
        for line, actions in cuts.items():
            path, record = outs / f"{line}_{part}.onnx", outs / f"{line}_{part}.json"
            if not path.exists():
                done = graphcompress.prune(task.model, task.calib, macs=part, actions=actions, threads=1, measure=False)
                record.write_text(done.record.model_dump_json(), encoding="utf-8")
                graphcompress.save(done.model, path)
        taught = outs / f"taught_{part}.onnx"
        if not taught.exists():
            try:
                result = graphcompress.distill(
                    outs / f"ranks_{part}.onnx", task.model, task.calib, steps=steps, match=str(outs / f"ranks_{part}.json"), threads=1
                )
            except graphcompress.BarMissed as missed:  # the student stays as it was
                print(f"{part}: {missed}", flush=True)
                result = missed.result
            graphcompress.save(result.model, taught)
        quantized(task, taught, outs / f"int8_{part}.onnx")


def quantized(task: Any, model: Path, path: Path) -> None:
    if not path.exists():
        graphcompress.save(graphcompress.compress(model, task.calib, threads=1, measure=False, min_agreement=0.0).model, path)


def files(task: Any, outs: Path) -> Iterator[tuple[str, float, Path]]:
    """(line, part, file) of what is there, the original first."""
    yield "original", 1.0, task.model
    for line in list(LINES)[1:]:
        for part in (1.0, *PARTS):
            path = outs / f"{line}_{part:g}.onnx"
            if path.exists():
                yield line, part, path


def points(task: Any, outs: Path, rounds: int) -> list[Point]:
    """All files judged, then timed in turns."""
    known = list(files(task, outs))
    sessions = [zoo_tools.session(path, 1) for _, _, path in known]
    answers = [zoo_tools.outputs(task, session) for session in sessions]
    feed = zoo_tools.feeds(task, "test", 1)[0]
    times = np.array([[seconds(session, feed) for session in sessions] for _ in range(rounds + 2)])[2:]  # two warm up
    shares = times / times[:, :1]
    judged = [(float(zoo_tools.metric(task, a)), float(zoo_tools.fidelity(task, answers[0], a))) for a in answers]
    return [Point(line, part, *figures, shares[:, i]) for i, ((line, part, _), figures) in enumerate(zip(known, judged, strict=True))]


def seconds(session: Any, feed: Mapping[str, Any]) -> float:
    begin = time.process_time()
    for _ in range(RUNS):
        session.run(None, feed)
    return time.process_time() - begin


def table(found: list[Point]) -> str:
    rows = ["| | MACs | accuracy | agreement | time, 10th and 90th percentile |", "|---|---|---|---|---|"]
    for point in found:
        low, high = np.quantile(point.times, (0.1, 0.9))
        rows.append(f"| {LINES[point.line]} | {point.part:g} | {point.metric:.3f} | {point.agreement:.3f} | {point.share:.2f} ({low:.2f} to {high:.2f}) |")
    return "\n".join(rows) + "\n"


def plot(task: str, found: list[Point]) -> str:
    """Accuracy against the part of the original's time, a line for each thing that is done."""
    lowest = min(point.metric for point in found)
    bottom = np.floor(20 * (lowest - 0.005)) / 20
    top = np.ceil(20 * max(point.metric for point in found)) / 20

    def at(point: Point) -> tuple[float, float]:
        return round(min(1.1, point.share) / 1.1 * WIDTH, 1), round((top - point.metric) / (top - bottom) * HEIGHT, 1)

    width, height = WIDTH + 2 * MARGIN + 90, TOP + HEIGHT + MARGIN
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="11">',
        f'<rect width="{width}" height="{height}" fill="white"/><g transform="translate({MARGIN} {TOP})">',
        f'<text x="0" y="-30" font-weight="bold">{escape(task)}</text><text x="0" y="-10">accuracy over the part of the time that is left</text>',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="none" stroke="#888"/>',
    ]
    for step in range(round((top - bottom) * 50) + 1):
        y = round(HEIGHT * (1 - step / (50 * (top - bottom))), 1)
        parts.append(f'<path d="M0 {y}H{WIDTH}" stroke="#ddd"/><text x="-6" y="{y + 4}" text-anchor="end">{bottom + step / 50:.2f}</text>')
    parts += [f'<text x="{round(value / 1.1 * WIDTH, 1)}" y="{HEIGHT + 16}" text-anchor="middle">{value:g}</text>' for value in (0.2, 0.4, 0.6, 0.8, 1.0)]
    for index, (line, colour) in enumerate(zip(LINES, ("#444", *COLOURS), strict=True)):
        places = [at(point) for point in sorted(found, key=lambda p: p.share) if point.line == line]
        parts.append(f'<polyline points="{" ".join(f"{x},{y}" for x, y in places)}" fill="none" stroke="{colour}" stroke-width="1.5"/>')
        parts += [f'<circle cx="{x}" cy="{y}" r="3.5" fill="{colour}"/>' for x, y in places]
        parts.append(
            f'<circle cx="{WIDTH + 14}" cy="{20 + 18 * index}" r="4" fill="{colour}"/><text x="{WIDTH + 24}" y="{24 + 18 * index}">{LINES[line]}</text>'
        )
    return "\n".join([*parts, "</g></svg>", ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("make", "time"))
    parser.add_argument("outs", type=Path)
    parser.add_argument("--task", default="cifar10_resnet")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=40)
    options = parser.parse_args()
    options.outs.mkdir(parents=True, exist_ok=True)
    task = zoo_tools.load(options.task)
    if options.what == "make":
        make(task, options.outs, options.steps)
        return
    found = points(task, options.outs, options.rounds)
    (options.outs / "frontier.md").write_text(table(found), encoding="utf-8")
    (options.outs / "frontier.svg").write_text(plot(task.name, found), encoding="utf-8")
    print(table(found))


if __name__ == "__main__":
    main()
