"""The zoo's ten tasks on the six targets of ../shared/lab: `compress --target T --on T`, and the peer's one file for all targets, judged by `zoo_tools.py` at the target.

python benchmarks/matrix.py OUTS [--tasks A,B] [--targets T,U]      make and judge the cells that OUTS does not have yet (--again: those too that it has)
python benchmarks/matrix.py OUTS --speed [--tasks ...] [--targets ...]    time them beside float at the target, on an otherwise idle machine
python benchmarks/matrix.py OUTS --table                            print what there is

Needs the lab (`python ../shared/lab/lab.py setup`, `$GRAPHCOMPRESS_LAB` for its folder); places.toml is written into OUTS. One file a cell: OUTS/TARGET/TASK.json, beside the model and its record.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
import places
import zoo

ROUNDS = 12
EMULATED = 250
"""Test inputs that judge at an emulator, the first so many; elsewhere, and where so many are too few to tell (`NEAR`), all do."""
NEAR = 0.02
"""How far from its bar, on either side, a fidelity on so few inputs may be by chance."""
LIMIT_S = 3000
"""What one `compress` may take at an emulator."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("outs", type=lambda text: Path(text).resolve())
    parser.add_argument("--tasks", default="")
    parser.add_argument("--targets", default="")
    parser.add_argument("--again", action="store_true")
    parser.add_argument("--speed", action="store_true")
    parser.add_argument("--table", action="store_true")
    stated = parser.parse_args()
    sys.path[:0] = [str(zoo.SHARED), str(zoo.SHARED / "lab")]
    import lab
    import zoo_tools

    tasks = [name for name in stated.tasks.split(",") if name] or zoo_tools.tasks()
    targets = [name for name in stated.targets.split(",") if name] or list(lab.TARGETS)
    if stated.table:
        print(table(stated.outs, tasks, targets))
        return 0
    stated.outs.mkdir(parents=True, exist_ok=True)
    places.write(stated.outs / "places.toml")
    for target in targets:
        for name in tasks:
            work = Cell(zoo_tools, stated.outs, zoo_tools.load(name), target, timed=target in lab.TIMED)
            print(name, target, json.dumps(work.speed() if stated.speed else work.make(again=stated.again)), flush=True)
    return 0


class Cell:
    """One task at one target: what the original does there, and the two files."""

    def __init__(self, zoo_tools: Any, outs: Path, task: Any, target: str, *, timed: bool) -> None:
        self.zoo_tools, self.task, self.target, self.timed = zoo_tools, task, target, timed
        self.folder = outs / target
        self.file = self.folder / f"{task.name}.json"
        self.files = {"ours": self.folder / f"{task.name}.onnx", "peer": outs / "peer" / f"{task.name}.onnx"}

    def make(self, *, again: bool) -> dict[str, Any]:
        """The cell, made where it is missing; what an interrupted run has done of it is kept beside it, and not done again."""
        if self.file.exists() and not again:
            return read(self.file)
        for path in self.files.values():
            path.parent.mkdir(parents=True, exist_ok=True)
        begun = self.file.with_suffix(".begun.json")
        cell = read(begun) if begun.exists() else {}
        for part, done in (("original", self.original), ("made", self.compressed), ("ours", lambda: self.ours(cell["made"])), ("peer", self.peer)):
            if part not in cell:
                cell[part] = done()
                begun.write_text(json.dumps(cell), encoding="utf-8")
        del cell["made"]
        self.file.write_text(json.dumps(cell, indent=1), encoding="utf-8")
        begun.unlink()
        return cell

    def original(self) -> str:
        """ "runs", or what the target says of the float model on the first feed."""
        try:
            with self.zoo_tools.lab_session(self.target, self.task, self.task.model) as session:
                session.run(None, {**self.zoo_tools.feeds(self.task, "calib")[0]})
        except (RuntimeError, OSError, ValueError) as problem:  # what the worker says, that it is gone, or rubbish
            return str(problem).splitlines()[0][:200] or type(problem).__name__
        return "runs"

    def compressed(self) -> dict[str, Any]:
        """`compress` for the target, at the target."""
        out = self.files["ours"]
        words = ["compress", self.task.model, "-o", out, "--data", self.task.calib, "--target", self.target, "--on", self.target]
        words += ["--threads", "1", "--record", out.with_suffix(".record.json"), "-q"]
        start = time.perf_counter()
        try:
            done = subprocess.run(
                [sys.executable, "-m", "graphcompress", *map(str, words)],
                cwd=self.folder.parent,  # where places.toml lies
                env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[1])},
                capture_output=True,
                text=True,
                timeout=LIMIT_S,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return {"error": f"compress took longer than {LIMIT_S} s"}
        seconds = round(time.perf_counter() - start)
        if done.returncode:
            return {"error": done.stderr.strip().splitlines()[-1][:300] if done.stderr.strip() else f"status {done.returncode}", "seconds": seconds}
        record = read(out.with_suffix(".record.json"))
        return {"seconds": seconds, "speedup": record["speedup"]}

    def ours(self, made: dict[str, Any]) -> dict[str, Any]:
        """What `compress` made, judged."""
        return made if "error" in made else made | self.judged(self.files["ours"])

    def peer(self) -> dict[str, Any]:
        """The peer's file, which is the same for all targets."""
        out = self.files["peer"]
        said = out.with_suffix(".txt")
        if not said.exists():
            said.write_text(zoo.peer_file(self.zoo_tools, self.task, out), encoding="utf-8")
        return self.judged(out) if out.exists() else {"error": said.read_text(encoding="utf-8")}

    def judged(self, model: Path) -> dict[str, Any]:
        """What the task's own measure says of a model at the target."""
        start = time.perf_counter()
        with shortened(self.zoo_tools, None if self.timed else EMULATED):
            row: dict[str, Any] = self.zoo_tools.judge(self.task, model, on=self.target)
        if not self.timed and abs(self.task.bars["fidelity"] - row.get("fidelity", 0.0)) < NEAR:
            row = self.zoo_tools.judge(self.task, model, on=self.target) | {"all": True}
        kept = {key: row[key] for key in ("error", "metric_float", "metric", "fidelity", "size_ratio", "faithful", "all") if key in row}
        return {**kept, "judge_seconds": round(time.perf_counter() - start)}

    def speed(self) -> dict[str, Any]:
        """The cell, with both files timed beside float where times mean something."""
        cell = read(self.file)
        for who, path in self.files.items():
            if self.timed and "fidelity" in cell.get(who, {}):
                cell[who]["speed"] = self.zoo_tools.speed(self.task, self.task.model, path, rounds=ROUNDS, on=self.target)
        self.file.write_text(json.dumps(cell, indent=1), encoding="utf-8")
        return cell


@contextmanager
def shortened(zoo_tools: Any, most: int | None) -> Iterator[None]:
    """`zoo_tools` with the first `most` test inputs of every task, and their truth."""
    feeds, truth = zoo_tools.feeds, zoo_tools.truth

    def kept(task: Any) -> int | None:  # in whole feeds
        return None if most is None else most // task.spec.get("batch", 1)

    def first(task: Any, which: str = "test", batch: int = 0) -> Any:
        return feeds(task, which, batch)[: kept(task)]

    def of_first(task: Any) -> dict[str, Any]:
        known, inputs = kept(task), task.spec.get("batch", 1)
        return {key: values[: None if known is None else known * inputs] for key, values in truth(task).items()}

    zoo_tools.feeds, zoo_tools.truth = first, of_first
    try:
        yield
    finally:
        zoo_tools.feeds, zoo_tools.truth = feeds, truth


def read(path: Path) -> dict[str, Any]:
    """A cell as it was written."""
    cell: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return cell


def table(outs: Path, tasks: list[str], targets: list[str]) -> str:
    """Two tables, ours and the peer's: fidelity (bold where a bar is missed, with a star where float does not run there), size, speed-up beside float; sums below each."""
    lines = []
    for who in ("ours", "peer"):
        lines += ["", f"| {who} | " + " | ".join(targets) + " |", "|---" * (len(targets) + 1) + "|"]
        cells = {(task, target): read(path) for task in tasks for target in targets if (path := outs / target / f"{task}.json").exists()}
        lines += [f"| {task} | " + " | ".join(text(cells.get((task, target)), who) for target in targets) + " |" for task in tasks]
        judged = [cell[who] for cell in cells.values() if counts(cell)]
        timed = [row["speed"] for row in judged if "speed" in row]
        slower = sum(speed["speed"] < min(1.0, speed["band_low"]) for speed in timed)
        lines.append(
            f"\n{who}: faithful in {sum(row.get('faithful', False) for row in judged)} of {len(judged)} cells in which float or one of the files runs"
            + (f"; not slower than float, noise apart, in {len(timed) - slower} of {len(timed)} timed" if timed else "")
        )
    return "\n".join(lines)


def counts(cell: dict[str, Any]) -> bool:
    """Whether the target can run the task at all: in float, or in what became of it."""
    return cell["original"] == "runs" or any("fidelity" in cell[who] for who in ("ours", "peer"))


def text(cell: dict[str, Any] | None, who: str) -> str:
    """One cell in a few characters."""
    if cell is None:
        return "-"
    if not counts(cell):
        return "(does not run)"
    row = cell[who]
    if "fidelity" not in row:
        return "**fails**"
    fidelity = f"{row['fidelity']:.3f}"
    measured = row["speed"]["speed"] if "speed" in row else row.get("speedup")  # else what `compress` measured itself
    speed = "" if measured is None else f", {measured:.2f}x"
    alone = "" if cell["original"] == "runs" else "*"
    return f"{fidelity if row['faithful'] else f'**{fidelity}**'}{alone} {row['size_ratio']:.1f}:1{speed}"


if __name__ == "__main__":
    sys.exit(main())
