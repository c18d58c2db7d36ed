"""calibrate: what operators cost at a place, in float and in INT8."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from graphcompress.data import memory_data
from graphcompress.errors import GraphCompressError, UsageError
from graphcompress.ir import Model
from graphcompress.passes.quantize import quantize
from graphcompress.runtime.place import Place
from graphcompress.step import Context, Progress, silent
from graphcompress.targets import Boundary, Costs, MeasuredCost, Operator, Target, load_target

if TYPE_CHECKING:
    from graphcompress.runtime.session import Session

SIDE = 28
"""Height and width of what a Conv reads."""
LONG, SHORT = 3, 1
"""Layers in the two chains of equal layers: their difference is layers alone, without what stands at the border of a model."""
BLOCK_S = 0.004
FEWEST_ROUNDS = 7
WIDEST = 0.3
"""Spread of a ratio, beside it, from which on the table's own figure is the better one."""
EAGER = 1e-3
"""What INT8 is said to cost beside float, where it is to be written whatever it costs."""


@dataclass(frozen=True, slots=True)
class TimedLayer:
    """A layer from as many channels to as many: a Conv of `depth` channels a group with a square `kernel`, or a product of `rows` rows with a square matrix."""

    op: str
    depth: int
    groups: int = 1
    kernel: int = 1
    rows: int = 1

    @property
    def channels(self) -> int:
        """Of input and output."""
        return self.depth * self.groups

    @property
    def macs(self) -> int:
        """Of one run."""
        return self.channels * self.reduction * (SIDE * SIDE if self.op == "Conv" else self.rows)

    @property
    def reduction(self) -> int:
        """Length of a dot product."""
        return self.depth * self.kernel**2

    def figures(self) -> Mapping[str, float]:
        """As prices ask for them (`targets.Price`)."""
        return {
            "macs": self.macs,
            "elements": self.channels * (SIDE * SIDE if self.op == "Conv" else self.rows),
            "depth": self.depth,
            "width": self.depth,
            "groups": self.groups,
            "channels": self.channels,
            "reduction": self.reduction,
        }

    def __str__(self) -> str:
        if self.op != "Conv":
            return f"{self.op} {self.rows} x {self.channels} x {self.channels}"
        return f"Conv {self.kernel} x {self.kernel}, {self.channels} channels" + (f" in {self.groups} groups" if self.groups > 1 else "") + f", {SIDE} x {SIDE}"

    def chain(self, count: int, generator: np.random.Generator) -> Model:
        """A model of `count` such layers, and a Neg, since what makes an output of a model stays float."""
        from graphcompress.ir.files.text import parse_model
        from graphcompress.ir.model.edit import Edits

        channels = self.channels
        shape = f"1, {channels}, {SIDE}, {SIDE}" if self.op == "Conv" else f"{self.rows}, {channels}"
        pads = ", ".join([str(self.kernel // 2)] * 4)
        attributes = f" <pads = [{pads}], group = {self.groups}> " if self.op == "Conv" else " "
        names = ["x", *(f"h{i}" for i in range(count))]
        nodes = " ".join(f"{b} = {self.op}{attributes}({a}, w{i})" for i, (a, b) in enumerate(itertools.pairwise(names)))
        weights = ", ".join(f"float[1] w{i} = {{0.0}}" for i in range(count))
        model = parse_model(f"g (float[{shape}] x) => (float[{shape}] y) <{weights}> {{ {nodes} y = Neg({names[-1]}) }}", {"": 17})
        size = (channels, self.depth, self.kernel, self.kernel) if self.op == "Conv" else (channels, channels)
        with Edits(model) as edits:
            for constant in model.graph.initializers.values():
                edits.set_value(constant, (generator.normal(size=size) / self.reduction**0.5).astype(np.float32))
        return model


def candidates(op: str) -> Iterator[TimedLayer]:
    """Layers that may stand for an entry, the most usual first."""
    if op == "Conv":
        for kernel in (3, 1):
            yield from (TimedLayer(op, depth, kernel=kernel) for depth in (64, 128, 32, 16, 48, 96, 24, 256, 8, 4, 3, 1))
        for depth in (1, 4, 16, 32, 64):
            yield from (TimedLayer(op, depth, groups=groups, kernel=3) for groups in (8, 64, 128, 256, 16, 4, 2))
    else:
        yield from (TimedLayer(op, size, rows=rows) for rows in (16, 64, 1) for size in (256, 512, 128, 64, 1024, 32))


def layers_of(row: Operator) -> Iterator[tuple[int, TimedLayer | None]]:
    """For each entry of a row's prices the layer that stands for it, None where none of the usual ones does."""
    usual = list(candidates(row.op))
    for index in range(len(row.price)):
        yield index, next((layer for layer in usual if entry(row, layer) == index), None)


def entry(row: Operator, layer: TimedLayer) -> int:
    """The entry of the row's prices that decides about a layer."""
    figures = layer.figures()
    return next(i for i, price in enumerate(row.price) if all(figures[key] < bound for key, bound in price.below.items()))


def calibrate(place: Place, target: str = "cpu", *, threads: int = 1, seconds: float = 60.0, seed: int = 0, progress: Progress = silent) -> Costs:
    """Time layers in float and in INT8 at `place`, one for each price of the layers with weights in the table `target`, within about `seconds` in all.

    Raises UsageError where times mean nothing there, and what the place raises. What cannot be measured keeps the table's figures, and `left` says why.
    """
    table = load_target(target)
    described = place.describe()
    name = described.get("place", "here")
    if not described.get("timed", True):
        raise UsageError(f"Times at the place '{name}' mean nothing (places.toml says `timing = false`): there is nothing to calibrate.")
    begin = time.monotonic()
    plan = [
        (number, row, index, layer)
        for number, row in enumerate(table.operator)
        if row.op in ("Conv", "Gemm", "MatMul") and "weight" in row.slots
        for index, layer in layers_of(row)
    ]
    costs: list[MeasuredCost] = []
    left: list[str] = []
    for done, (number, row, index, layer) in enumerate(plan):
        progress(f"calibrate {layer or row.op}", done, len(plan))
        share = (begin + seconds - time.monotonic()) / (len(plan) - done)
        try:
            if layer is None:
                left.append(f"{row.op}, price {index}: no usual layer is of this size")
            elif share <= 0:
                left.append(f"{row.op}, price {index}: the time was used up")
            else:
                costs.append(_cost(number, row, index, layer, table, place, threads, share, seed))
        except GraphCompressError as problem:
            left.append(f"{layer}: {problem}")
    machine = " ".join(
        [str(described[key]) for key in ("machine", "cpu") if described.get(key)] + list(described.get("flags", ())) + [f"{described.get('cores')} cores"]
    )
    return Costs(
        target=table.name,
        place=name,
        provider=described["provider"],
        runtime=f"{described['runtime']} {described['version']}",
        machine=machine,
        threads=threads,
        seconds=round(time.monotonic() - begin, 1),
        costs=tuple(costs),
        left=tuple(left),
    )


def eager(table: Target) -> Target:
    """The table by which everything that can be is written in INT8."""
    rows = tuple(row.model_copy(update={"price": tuple(p.model_copy(update={"ratio": EAGER}) for p in row.price)}) for row in table.operator)
    free = Boundary(quantize=0, dequantize=0, layout=0, floor=0, margin=1, size_share=0)
    return table.model_copy(update={"operator": rows, "boundary": free})


def _cost(number: int, row: Operator, index: int, layer: TimedLayer, table: Target, place: Place, threads: int, seconds: float, seed: int) -> MeasuredCost:
    from graphcompress.runtime.measure import median_interval

    generator = np.random.default_rng(seed)
    floats = [layer.chain(count, generator) for count in (SHORT, LONG)]
    shape = (1, layer.channels, SIDE, SIDE) if layer.op == "Conv" else (layer.rows, layer.channels)
    feeds = [{"x": np.asarray(generator.normal(size=shape), np.float32)} for _ in range(4)]
    integers = [_in_int8(model, feeds, count, table, place) for model, count in zip(floats, (SHORT, LONG), strict=True)]
    with ExitStack() as stack:
        sessions = [stack.enter_context(closing(place.open(model, threads=threads))) for model in (*floats, *integers)]
        rounds = list(_rounds(sessions, feeds[:1], seconds))
    pairs = [((b - a) / (LONG - SHORT), (d - c) / (LONG - SHORT)) for a, b, c, d in rounds]
    floating, integer = (statistics.median(values) for values in zip(*pairs, strict=True))
    if floating <= 0 or integer <= 0:
        raise UsageError("its time is lost in the noise of this machine")
    ratio = integer / floating
    low, high = median_interval(sorted(b / a for a, b in pairs if a > 0))
    spread = max(0.0, high - low) / 2 / ratio
    if spread > WIDEST:
        raise UsageError(f"this machine is too busy to tell ({ratio:.2f} of float, give or take {spread:.0%})")
    return MeasuredCost(op=row.op, row=number, price=index, float_ns=floating * 1e9 / layer.macs, ratio=ratio, spread=spread, measured=str(layer))


def _in_int8(model: Model, feeds: Sequence[dict[str, np.ndarray]], count: int, table: Target, place: Place) -> Model:
    context = Context(target=eager(table), data=memory_data(feeds, model.inputs, model.overridable), place=place)
    result = quantize(model, context).boldest
    if result.certificate is None or result.certificate.integer < count:
        raise UsageError("the provider does not compute it in INT8")
    return result.model


def _rounds(sessions: Sequence[Session], feeds: Sequence[dict[str, np.ndarray]], seconds: float) -> Iterator[list[float]]:
    """Seconds of one run of each session, in turn, for about `seconds`."""
    deadline = time.monotonic() + seconds
    repeats = []
    for session in sessions:
        session.time(feeds, 1)
        repeats.append(max(1, round(BLOCK_S / max(1e-7, session.time(feeds, 1).wall))))
    for done in itertools.count():
        if done >= FEWEST_ROUNDS and time.monotonic() > deadline:
            return
        times = [session.time(feeds, count) for session, count in zip(sessions, repeats, strict=True)]
        yield [t.wall if t.cpu is None else t.cpu for t in times]
