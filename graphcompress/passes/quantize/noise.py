"""What each quantized tensor does to the outputs of a model, measured by switching one at a time in one model.

Local errors say next to nothing about the errors of outputs. So every tensor that integers read or make gets a Q and a DQ in the float model, and a Where that takes their result
or the tensor itself, by one element of an input: one session, and one run per tensor and feed. Tensors between which data only moves are one unit.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from graphcompress.errors import DataError, ModelError
from graphcompress.ir import Model, Tensor, consumers, producer
from graphcompress.ir.files.weights import message_with_input
from graphcompress.ir.model.edit import Edits, detached
from graphcompress.ir.model.scopes import node_homes
from graphcompress.passes.quantize.groups import Group
from graphcompress.passes.quantize.parameters import QuantizationParameters
from graphcompress.runtime.noise import relative_noise
from graphcompress.runtime.session import Feed, LocalSession
from graphcompress.step import Progress

Scales = Mapping[Tensor, QuantizationParameters]

FEEDS = 4
"""How many feeds tell, at most: prices need no more."""
SECONDS = 8.0
"""CPU time that all runs together should take; where they take longer, fewer feeds tell, then neighbours are switched together."""


@dataclass(frozen=True, slots=True)
class Noise:
    """At the outputs, relative to their mean square: of each unit of `units` (tensors that share one Q), by tensor; and that of each group's weight in integers. Known for `groups`."""

    groups: frozenset[Group] = frozenset()
    units: Mapping[Tensor, int] = field(default_factory=dict)
    tensors: Sequence[float] = ()
    weights: Mapping[Group, float] = field(default_factory=dict)

    def total(self, chosen: Iterable[Group]) -> float:
        """What `chosen` together do to the outputs: noise adds up, roughly."""
        chosen = list(chosen)
        units = {self.units[t] for g in chosen for t in quantized(g) if t in self.units}
        return sum(self.tensors[u] for u in units) + sum(self.weights.get(g, 0.0) for g in chosen)


def quantized(group: Group) -> list[Tensor]:
    """The tensors that have a Q because of the group."""
    return [*group.inputs, *(group.outputs if group.needs_q else ())]


def output_noise(
    base: Model, groups: Sequence[Group], scales: Scales, dtype: str, local: Mapping[Group, tuple[float, float]], feeds: Sequence[Feed], progress: Progress
) -> Noise:
    """Measure on `feeds`; `scales` are those of codes of type `dtype`. `local` holds of each group with a weight the mean square errors of its first input and of its weight in integers,
    relative to their mean squares: the weight's error reaches the outputs as that of the input does. Where the model with switches does not run, these stand for what it would have told."""
    units = _units(groups, scales)
    count = len(set(units.values()))
    try:
        tensors = _measured(base, groups, scales, dtype, units, count, feeds, progress)
    except (ModelError, DataError):
        tensors = [0.0] * count
        for group, (data, _) in local.items():
            tensors[units[group.inputs[0]]] = max(tensors[units[group.inputs[0]]], data)
    weights = {g: tensors[units[g.inputs[0]]] * weight / data for g, (data, weight) in local.items() if data > 0}
    return Noise(frozenset(groups), units, tensors, weights)


def _units(groups: Sequence[Group], scales: Scales) -> dict[Tensor, int]:
    """Tensors that share one scale object are one unit, and codes that are clipped are in that of the codes they were."""
    numbers: dict[int, int] = {}
    shared = {g.outputs[0]: g.inputs[0] for g in groups if g.row.clipped}
    return {t: numbers.setdefault(id(scales[shared.get(t, t)]), len(numbers)) for g in groups for t in quantized(g) if t in scales}


def _measured(
    base: Model, groups: Sequence[Group], scales: Scales, dtype: str, units: Mapping[Tensor, int], count: int, feeds: Sequence[Feed], progress: Progress
) -> list[float]:
    message, switch = _with_switches(base, groups, scales, dtype, units, count)
    with LocalSession(message, threads=1, label=str(base.path or "the model"), config={"session.disable_quant_qdq": "1"}) as session:
        off = np.zeros(count, np.bool_)
        begin = time.process_time()
        reference = [session.run(feeds[0] | {switch: off})]
        begin = time.process_time()
        session.run(feeds[0] | {switch: off})
        affordable = max(1, int(SECONDS / max(time.process_time() - begin, 1e-6)))
        used = feeds[: max(1, min(FEEDS, affordable // max(count, 1)))]
        reference += [session.run(feed | {switch: off}) for feed in used[1:]]
        together = -(-count // affordable)
        noise = [0.0] * count
        for start in range(0, count, together):
            progress("quantize: noise", start, count)
            on = off.copy()
            on[start : start + together] = True
            moved = relative_noise(reference, [session.run(feed | {switch: on}) for feed in used])
            noise[start : start + together] = [moved / int(on.sum())] * int(on.sum())
        return noise


def _with_switches(base: Model, groups: Sequence[Group], scales: Scales, dtype: str, units: Mapping[Tensor, int], count: int) -> tuple[bytes, str]:
    """The message of the model in which element i of one more input quantizes the tensors of unit i, and that input's name."""
    model, twins = base.clone()
    homes = node_homes(model)
    makers = {t: g for g in groups for t in g.outputs}
    readers = {(id(twins.node(g.node)), i) for g in groups for i in g.data}
    moved = {t for g in groups if g.row.tied or g.row.clipped for t in g.outputs}
    switch = model.constant("switch", np.zeros(count, np.bool_))
    with Edits(model) as edits:
        for original, unit in units.items():
            if original in moved:
                continue
            tensor, scale = twins.tensor(original), scales[original]
            made = original in makers and makers[original].needs_q
            parts = [model.constant("s", np.asarray(scale.scale, np.float32)), model.constant("z", np.asarray(scale.zero, dtype))]
            which = model.constant("i", np.array(unit, np.int64))
            maker = producer(tensor)
            if made and maker is not None and any(t is tensor for t in model.graph.outputs):
                source = model.variable("y")
                edits.set_output(maker, list(maker.outputs).index(tensor), source)
                on = model.add("Gather", [switch, which], near=maker).outputs[0]
                codes = model.add("QuantizeLinear", [source, *parts], near=maker).outputs[0]
                back = model.add("DequantizeLinear", [codes, *parts], near=maker).outputs[0]
                last = detached("Where", "", {}, (on, back, source), (tensor,))
                last.rank = maker.rank
                edits.add(last, model.graph)
                continue
            results: dict[int, Tensor] = {}
            for node in consumers(tensor):
                for index, read in enumerate(node.inputs):
                    if read is tensor and (made or (id(node), index) in readers):
                        home = homes[node]
                        if id(home) not in results:
                            on = model.add("Gather", [switch, which], graph=home, near=node).outputs[0]
                            codes = model.add("QuantizeLinear", [tensor, *parts], graph=home, near=node).outputs[0]
                            back = model.add("DequantizeLinear", [codes, *parts], graph=home, near=node).outputs[0]
                            results[id(home)] = model.add("Where", [on, back, tensor], graph=home, near=node).outputs[0]
                        edits.set_input(node, index, results[id(home)])
    return message_with_input(model, switch.name), switch.name
