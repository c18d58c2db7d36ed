"""Does the judge see what a task sees? Pairs of a float model and a changed one, of which the task's own measure says whether the change is faithful, beside
what the judge says.

    python benchmarks/judge.py [--cache FOLDER] [--pairs]

Models: the three of models/, nine that `judge_tasks.py` trains, and the ten of ../shared/zoo (or $GRAPHCOMPRESS_SHARED) where that is there. Changes: INT8
with three sorts of ranges, weights rounded to 8 to 3 bits, noise on the weights, and damage to the outputs done on purpose. Judged on the feeds that
`compress` holds out (every 4th of the calibration data), without labels; the task's measure sees other data, with labels. "Faithful": the task's fidelity and
the loss in its metric keep its bars. "Unfaithful": one of them is missed by more than half of what it allows. What lies between is decided by which inputs
happen to be in the test: such pairs are counted apart. Changes that change no bit are no pairs.

The table is given for two halves of the models (every other one by name), so that the floors (`runtime.agreement.measured.FLOORS`) can be read on one and
checked on the other. `--pairs` prints each pair. Needs numpy, onnx, onnxruntime, and about ten minutes of CPU time; `--cache` keeps the outputs of all pairs by
task, so that a change of the judge is tried in one.
"""

from __future__ import annotations

import argparse
import os
import pickle
import sys
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from judge_nets import MODELS, Array, run
from judge_tasks import Task, own_tasks
from onnx import numpy_helper

from graphcompress import ir, quantize
from graphcompress.errors import GraphCompressError
from graphcompress.gate import FLOOR
from graphcompress.ir.analysis.output_kinds import OutputKind, output_kinds
from graphcompress.runtime.agreement.measured import FLOORS
from graphcompress.runtime.compare import Comparison, ComparisonStatistic, rows_of

SHARED = Path(os.environ.get("GRAPHCOMPRESS_SHARED", Path(__file__).resolve().parents[2] / "shared"))
CALIBRATION = 16
EVERY = 4


@dataclass
class Pair:
    """A change of a task's model: its outputs on the feeds that judge, and what the task says of it; `used` is the part of what its bars allow (above 1:
    missed)."""

    task: str
    change: str
    fidelity: float
    drop: float
    used: float
    outputs: list[dict[str, Any]]

    @property
    def verdict(self) -> str:
        """By the task's own measures."""
        return "faithful" if self.used <= 1 + 1e-9 else "unfaithful" if self.used > 1.5 else "between"


@dataclass
class Judged:
    """A task's reference on the feeds that judge (`rows` inputs each), and its pairs."""

    task: str
    kinds: dict[str, OutputKind]
    rows: list[int]
    reference: list[dict[str, Any]]
    pairs: list[Pair]


# --- tasks ----------------------------------------------------------------------------------------------------------------------------


def model_tasks() -> Iterator[Task]:
    """Those of models/: classes of digits."""
    for folder in sorted(p.parent for p in MODELS.glob("*/model.onnx")):
        calib, test = (dict(np.load(folder / f"{part}.npz")) for part in ("calib", "test"))
        (name,) = [k for k in test if not k.startswith("_")]
        judge = [{name: calib[name][i : i + 1]} for i in range(EVERY - 1, len(calib[name]), EVERY)]
        labels = test["_label"]
        yield Task(
            folder.name,
            (folder / "model.onnx").read_bytes(),
            judge,
            [{name: test[name][i : i + 20]} for i in range(0, len(labels), 20)],
            lambda o, labels=labels: float((answers(o) == labels).mean()),
            lambda r, o: float((answers(r) == answers(o)).mean()),
            0.985,
        )


def answers(outputs: list[dict[str, Any]]) -> Array:
    """The class of each input: the largest of the last output, which holds the scores."""
    scores = [list(o.values())[-1] for o in outputs]
    return np.concatenate([np.argmax([list(row.values()) for row in s] if isinstance(s, list) else s, axis=-1) for s in scores])


def zoo_tasks() -> Iterator[Task]:
    """Those of the zoo, by its own measures."""
    if not (SHARED / "zoo_tools.py").exists():
        print(f"There is no zoo in {SHARED}: only the small models are judged.")
        return
    sys.path.insert(0, str(SHARED))
    import zoo_tools as zoo

    def listed(outputs: list[dict[str, Any]]) -> list[list[Any]]:
        return [list(o.values()) for o in outputs]

    for name in zoo.tasks():
        task = zoo.load(name)
        batch = 50 if task.spec["kind"] == "classify" and task.spec["batch"] == 1 else 0
        yield Task(
            name,
            task.model.read_bytes(),
            zoo.feeds(task, "calib", 1)[EVERY - 1 :: EVERY],
            zoo.feeds(task, "test", batch),
            lambda o, t=task: zoo.metric(t, listed(o)),
            lambda r, o, t=task: zoo.fidelity(t, listed(r), listed(o)),
            task.bars["fidelity"],
            task.bars["metric_drop"],
            task.spec.get("state"),
            task.spec.get("reset_every", 0),
        )


# --- changes --------------------------------------------------------------------------------------------------------------------------


def weights(graph: Any) -> Iterator[Any]:
    """Initializers and Constants of floats with two axes or more, those of subgraphs too."""
    tensors = list(graph.initializer)
    for node in graph.node:
        for attribute in node.attribute:
            tensors += [attribute.t] if node.op_type == "Constant" and attribute.name == "value" else []
            for inner in [attribute.g, *attribute.graphs] if attribute.type in (5, 10) else []:
                yield from weights(inner)
    yield from (t for t in tensors if t.data_type == 1 and len(t.dims) >= 2 and int(np.prod(t.dims)) >= 32)


def changed(model: bytes, how: str, amount: float, seed: int) -> bytes:
    """Weights rounded to `amount` bits per tensor, or with noise of `amount` standard deviations of each tensor."""
    proto = onnx.load_model_from_string(model)
    rng = np.random.default_rng(seed)
    for tensor in weights(proto.graph):
        values = numpy_helper.to_array(tensor)
        if how == "round":
            step = max(1e-30, float(np.abs(values).max()) / (2 ** (amount - 1) - 1))
            values = np.round(values / step) * step
        else:
            values = values + amount * values.std() * rng.standard_normal(values.shape)
        tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float32), tensor.name))
    return bytes(proto.SerializeToString())


def changes(task: Task, calibration: list[dict[str, Array]]) -> Iterator[tuple[str, bytes]]:
    """Changed models by name."""
    for ranges in ("minmax", "percentile", "mse"):
        try:
            yield f"int8 {ranges}", ir.to_bytes(quantize(task.model, calibration, calibration=ranges, measure=False).model)
        except GraphCompressError as problem:
            print(f"{task.name}: no INT8 by {ranges}: {problem}")
    for bits in (8, 7, 6, 5, 4):
        yield f"round {bits}", changed(task.model, "round", bits, 0)
    for seed, amount in enumerate((0.01, 0.03, 0.06, 0.12, 0.3)):
        yield f"noise {amount}", changed(task.model, "noise", amount, seed)


DAMAGES = ("one dead", "two swapped", "half lost", "shifted", "all lost", "a breath of noise")


def damaged(outputs: list[dict[str, Any]], kinds: dict[str, OutputKind], how: str, state: Collection[str]) -> list[dict[str, Any]]:
    """Outputs of which something is wrong along the axis of the classes (else the last one, the second of rank 3 and 4). States are left alone:
    they would have to be fed back."""
    rng = np.random.default_rng(7)
    floats = {name: [o[name] for o in outputs if isinstance(o[name], np.ndarray) and o[name].dtype.kind == "f" and o[name].ndim > 1] for name in outputs[0]}
    bounds = {name: (min(v.min() for v in values), max(v.max() for v in values)) for name, values in floats.items() if values}
    result = []
    for out in outputs:
        new = dict(out)
        for name, value in out.items():
            if name not in bounds or name in state:
                continue
            axis = kinds[name].axis if kinds[name].name in ("classes", "sequence") else 1
            parts = np.moveaxis(value.copy(), axis, 0)
            count, (lowest, highest) = len(parts), bounds[name]
            if how == "one dead":
                parts[count // 2] = lowest
            elif how == "two swapped" and count > 1:
                parts[[count // 2, count // 3]] = parts[[count // 3, count // 2]]
            elif how == "half lost":
                parts[count // 2 :] = lowest
            elif how == "shifted":
                parts[count // 2] += 0.3 * (highest - lowest)
            elif how == "all lost":
                parts[4 if count == 14 else 0 :] = lowest
            else:
                parts += (0.0003 * (highest - lowest) * rng.standard_normal(parts.shape)).astype(value.dtype)
            new[name] = np.moveaxis(parts, 0, axis)
        result.append(new)
    return result


def judged(task: Task) -> Judged:
    """Everything that is known of a task's pairs."""
    model = ir.model_from_proto(onnx.load_model_from_string(task.model))
    kinds = output_kinds(model)
    reference, tested = run(task.model, task.judge), run(task.model, task.test, task.state, task.reset_every)
    best = task.metric(tested)
    found = Judged(task.name, kinds, [rows_of(f) for f in task.judge], reference, [])

    def pair(change: str, outputs: list[dict[str, Any]], test: list[dict[str, Any]]) -> None:
        fidelity, drop = task.fidelity(tested, test), best - task.metric(test)
        used = max((1 - fidelity) / (1 - task.least_fidelity), 0.0 if np.isnan(drop) else drop / task.most_drop)
        if any(not same(a, b) for a, b in zip(reference, outputs, strict=True)):
            found.pairs.append(Pair(task.name, change, fidelity, drop, used, outputs))

    for change, candidate in changes(task, task.judge[:CALIBRATION]):
        pair(change, run(candidate, task.judge), run(candidate, task.test, task.state, task.reset_every))
    for how in DAMAGES:
        pair(how, damaged(reference, kinds, how, task.state or ()), damaged(tested, kinds, how, task.state or ()))
    print(f"{task.name}: metric {best:.3f}, {sum(p.verdict == 'faithful' for p in found.pairs)} of {len(found.pairs)} faithful", flush=True)
    return found


def same(a: dict[str, Any], b: dict[str, Any]) -> bool:
    """Whether all outputs are equal."""
    return all(np.array_equal(a[name], b[name]) if isinstance(a[name], np.ndarray) else a[name] == b[name] for name in a)


# --- the judge ------------------------------------------------------------------------------------------------------------------------


def compared(task: Judged, pair: Pair) -> Comparison:
    """What the judge sees."""
    statistic = ComparisonStatistic(list(task.kinds), task.kinds)
    for reference, candidate, rows in zip(task.reference, pair.outputs, task.rows, strict=True):
        statistic.update(reference, candidate, rows=rows)
    return statistic.finish()


def table(rows: list[tuple[Pair, Comparison, bool]]) -> str:
    """One line: how many faithful and unfaithful pairs, and how many of each were accepted."""
    texts = []
    for verdict in ("faithful", "unfaithful", "between"):
        of = [accepted for pair, _, accepted in rows if pair.verdict == verdict]
        texts.append(f"{sum(of):3} of {len(of):3} {verdict}" + (f" ({np.mean(of):.1%})" if of else ""))
    return "accepted " + ", ".join(texts)


def pairs_of(task: Task, cache: Path | None) -> Judged:
    """What is known of a task, from the cache where it is there."""
    place = None if cache is None else cache / f"{task.name}.pkl"
    if place is not None and place.exists():
        known: Judged = pickle.loads(place.read_bytes())
        return known
    known = judged(task)
    if place is not None:
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(pickle.dumps(known))
    return known


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path)
    parser.add_argument("--pairs", action="store_true")
    args = parser.parse_args()
    rows: list[tuple[Pair, Comparison, bool]] = []
    for task in (*own_tasks(), *model_tasks(), *zoo_tasks()):
        known = pairs_of(task, args.cache)
        for pair in known.pairs:
            comparison = compared(known, pair)
            rows.append((pair, comparison, comparison.agreement is None or comparison.agreement >= FLOOR))
    if args.pairs:
        for pair, comparison, accepted in rows:
            said = ", ".join(f"{name} {m.name} {m.value:.4f}" for name, m in comparison.judging)
            mark = "!!" if (pair.verdict, accepted) in (("faithful", False), ("unfaithful", True)) else ""
            print(f"{mark:3}{pair.task:20} {pair.change:18} {pair.verdict:10} fidelity {pair.fidelity:.4f} drop {pair.drop:+.4f}: {said}")
    names = sorted({pair.task for pair, _, _ in rows})
    halves = {"read on": names[::2], "checked on": names[1::2], "all": names}
    print(f"\n{len(rows)} pairs of {len(names)} models; floors " + ", ".join(f"{name} {floor:g}" for name, floor in FLOORS.items()))
    for half, chosen in halves.items():
        print(f"{half:12}{len(chosen):3} models: {table([row for row in rows if row[0].task in chosen])}")
    for name in FLOORS:
        of_kind = [row for row in rows if any(m.name == name for _, m in row[1].judging)]
        if of_kind:
            print(f"judged by {name:14}: {table(of_kind)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
