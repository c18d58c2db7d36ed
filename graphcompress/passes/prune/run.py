"""prune: find the groups, decide what goes, cut, ask the oracle, refit what is left."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from graphcompress.data import Dataset, watched
from graphcompress.errors import GraphCompressError, ModelError, UsageError
from graphcompress.ir import Model, constant_data
from graphcompress.ir.check.models import require_known_domains
from graphcompress.ir.inline import functions_holding, inline_functions
from graphcompress.passes.prune.axes.labels import Array
from graphcompress.passes.prune.budget import allowed_widths, hull, search_widths
from graphcompress.passes.prune.cut import Cut, cut
from graphcompress.passes.prune.deviation import TeacherAnswers
from graphcompress.passes.prune.groups import FEWEST, Groups, find_groups
from graphcompress.passes.prune.options import Options
from graphcompress.passes.prune.oracle import difference, tolerance
from graphcompress.passes.prune.orders import find_orders
from graphcompress.passes.prune.scores import Order
from graphcompress.passes.prune.sharing import shared
from graphcompress.passes.prune.sparsity import sparsify
from graphcompress.random_feeds import random_feeds
from graphcompress.reconstruction.agenda import RepairLayer
from graphcompress.reconstruction.repair import repair
from graphcompress.runtime.session import Feed
from graphcompress.step import Context, Ladder, Refusal, Rung, StepResult

ORACLE_FEEDS = 2
LEAST_FREE = 8
"""Length of free axes in random inputs for the oracle: where it is 1, axes that are mixed up look alike."""
PROBE_FEEDS = 192
PROBE_JUDGES = 3
"""Every third of the feeds of a probe judges it and takes no part in its repair: on the feeds that were fitted, errors look smaller the more there is to fit."""
PROBE_POSITIONS = 4
MOST_PROBES = 24
WIDE_MULTIPLE, NARROW_MULTIPLE = 16, 8
"""Channels that one step of onnxruntime's convolutions takes, with AVX-512 and without."""
LESS_BOLD = (0.25, 0.5, 0.75)
"""Rungs below the goal: how much of the way back to the whole model."""
HEAVY = ("Conv", "ConvTranspose", "Gemm", "MatMul", "LSTM", "GRU", "RNN", "Einsum")


def prune(model: Model, context: Context, options: Options) -> Ladder:
    """Remove channels until the goals of `options` are reached, or as far as groups allow. The first rung is the goal; the others are on the way back from it. Where `options`
    ask for zeros, see `sparsity.sparsify`.

    Every cut is compared with the original whose removed channels are masked; where they differ, a smaller cut without the groups at fault is made, with a refusal. Without
    feeds the order is by magnitude, and nothing is refitted. Raises UsageError for an `ignore` that matches nothing, ModelError for nodes that nothing here can run
    and where the model does not run, DataError where no random input fits a model without data.
    """
    require_known_domains(model, "pruned")
    if options.sparsity is not None or options.pattern is not None:
        return sparsify(model, context, options)
    base = inline_functions(model, functions_holding(model, set(HEAVY)))
    feeds = oracle_feeds(base, context)
    groups = find_groups(base, {name: array.shape for name, array in feeds[0].items()} if feeds else None)
    pruner = _Pruner(model, groups, feeds, context, options)
    if not groups.groups:
        return Ladder.single(StepResult(model, False, refusals=tuple(pruner.refusals())))
    goals = [Budget(options.macs, options.params)] + [Budget(options.macs, options.params).towards_whole(part) for part in LESS_BOLD]
    return Ladder(tuple(Rung(goal.label, partial(pruner.result, goal)) for goal in goals))


@dataclass(frozen=True, slots=True)
class Budget:
    """Parts that are kept, None where nothing is asked."""

    macs: float | None
    params: float | None

    def towards_whole(self, part: float) -> Budget:
        """A goal that is less bold by `part` of what was to go."""
        return Budget(*(None if x is None else x + part * (1 - x) for x in (self.macs, self.params)))

    @property
    def label(self) -> str:
        """As the terminal shows it."""
        parts = [f"{value:.0%} of the {name}" for value, name in ((self.macs, "MACs"), (self.params, "parameters")) if value is not None]
        return " and ".join(parts)


class _Pruner:
    """What all rungs share: groups, orders, sensitivities."""

    def __init__(self, original: Model, groups: Groups, oracle_feeds: Sequence[Feed], context: Context, options: Options) -> None:
        self.original = original
        self.oracle_feeds = oracle_feeds
        self.groups = groups
        self.context = context
        self.options = options
        self.model = groups.algebra.model
        self.faulty: set[int] = set()
        self.ignored = self._ignored()
        self._orders: list[Order] | None = None
        self._sensitivities: Array | None = None

    # --- rungs ------------------------------------------------------------------------------------------------------------------

    def result(self, goal: Budget) -> StepResult:
        """The model at `goal`."""
        widths = self.widths(goal)
        attempt = self.checked(widths)
        if attempt is None or (widths == self.groups.widths).all():
            return StepResult(self.original, False, refusals=tuple(self.refusals()))
        refusals = self.refusals()
        decisions = {**self.decisions(widths, goal), "channels": kept_channels(attempt)}
        if self.options.repair and self.context.data is not None:
            marks = watched(self.context.data)
            report = repair(
                self.model,
                attempt.model,
                repair_layers(attempt),
                self.context.data.part(lambda position: not marks[position]),
                seed=self.context.seed,
                mirrors=True,
                threads=self.context.threads,
                progress=self.context.progress,
            )
            refusals += report.refusals
            decisions["repair"] = [
                {"node": layer.node, "method": layer.method, "error_before": layer.before, "error_after": layer.after} for layer in report.layers
            ]
        refusals += odd_widths(attempt)
        shared(attempt.model)
        changed = int((widths < self.groups.widths).sum())
        return StepResult(attempt.model, True, {"prune/cut": changed}, tuple(refusals), decisions)

    def widths(self, goal: Budget) -> Array:
        """Units that each group keeps."""
        multiple = self.multiple()
        curves = []
        for index, (group, order) in enumerate(zip(self.groups.groups, self.orders(), strict=True)):
            fixed = index in self.faulty or index in self.ignored
            allowed = [group.size] if fixed else allowed_widths(group.size, multiple if group.size >= multiple else 1, FEWEST)
            weight = float(self.sensitivities()[index])
            curves.append(hull((width, weight * float(order.errors[group.size - width])) for width in allowed))
        widths = self.groups.widths
        for cost, part in ((self.groups.macs, goal.macs), (self.groups.parameters, goal.params)):
            if part is not None:
                curves = [[p for p in curve if p[0] <= width] for curve, width in zip(curves, widths.tolist(), strict=True)]
                widths = search_widths(curves, cost, part * cost.at(self.groups.widths))
        return widths

    def checked(self, widths: Array) -> Cut | None:
        """The cut at `widths`, which the oracle has passed; without the groups at fault where it did not."""
        for _ in range(len(self.groups.groups) + 1):
            attempt = self.cut_at(widths)
            if self.sound(attempt):
                return attempt
            fault = next((g for g in np.flatnonzero(widths < self.groups.widths).tolist() if not self.sound(self.cut_at(self.only(widths, g)))), None)
            if fault is None:
                self.faulty.update(np.flatnonzero(widths < self.groups.widths).tolist())
                return None
            self.faulty.add(fault)
            widths[fault] = self.groups.groups[fault].size
        return None

    def cut_at(self, widths: Array) -> Cut:
        keep = np.ones(len(self.groups.group_of), bool)
        for group, order, width in zip(self.groups.groups, self.orders(), widths.tolist(), strict=True):
            keep[group.units[[u for step in order.steps[: group.size - width] for u in step]]] = False
        return cut(self.groups.algebra, keep)

    def only(self, widths: Array, group: int) -> Array:
        """Nothing cut but `group`."""
        result = self.groups.widths
        result[group] = widths[group]
        return result

    def sound(self, attempt: Cut) -> bool:
        """Whether the oracle agrees, and the cut model runs."""
        try:
            return difference(attempt, self.oracle_feeds) <= tolerance(self.model)
        except ModelError:
            return False

    # --- what is known of groups ------------------------------------------------------------------------------------------------

    def orders(self) -> list[Order]:
        if self._orders is None:
            self._orders = find_orders(
                self.groups, self.context.data, score=self.options.score, seed=self.context.seed, threads=self.context.threads, progress=self.context.progress
            )
        return self._orders

    def sensitivities(self) -> Array:
        """[groups] what an error in a group's consumers does to the outputs: the outputs' relative error with half of the group gone and the rest refitted, as a part of the
        consumers' error. 1 for all without data, or where there are too many groups to try each."""
        if self._sensitivities is None:
            count = len(self.groups.groups)
            self._sensitivities = np.ones(count)
            if self.context.data is not None and self.options.repair and self.options.score == "obs" and count <= MOST_PROBES:
                probes = sampled(self.context.data, PROBE_FEEDS)
                judging = probes[PROBE_JUDGES - 1 :: PROBE_JUDGES] or probes
                probes = [feed for index, feed in enumerate(probes) if index % PROBE_JUDGES != PROBE_JUDGES - 1]
                reference = TeacherAnswers(self.model, judging, threads=self.context.threads)
                for index in range(count):
                    self._sensitivities[index] = self.sensitivity(index, probes, reference)
                    self.context.progress("measuring sensitivity", index + 1, count)
        return self._sensitivities

    def sensitivity(self, index: int, probes: Sequence[Feed], reference: TeacherAnswers) -> float:
        widths = self.groups.widths
        size = int(widths[index])
        widths[index] = max(FEWEST, size // 2)
        expected = float(self.orders()[index].errors[size - widths[index]])
        attempt = self.cut_at(widths)
        try:
            repair(
                self.model,
                attempt.model,
                repair_layers(attempt),
                probes,
                seed=self.context.seed,
                positions=PROBE_POSITIONS,
                ridges=(1e-2,),
                threads=self.context.threads,
            )
            error = reference.relative_error(attempt.model)
        except GraphCompressError:
            return 1.0
        return error / expected if expected > 0 and np.isfinite(error) and error > 0 else 1.0

    def multiple(self) -> int:
        """Of how many units a width is a multiple."""
        if isinstance(self.options.round_to, int):
            return self.options.round_to
        flags = self.context.judging_place().describe().get("flags") or ()
        return WIDE_MULTIPLE if any("avx512" in str(flag) for flag in flags) else NARROW_MULTIPLE

    # --- words ------------------------------------------------------------------------------------------------------------------

    def refusals(self) -> list[Refusal]:
        """Why channels stay, and what the oracle refused."""
        reasons = [Refusal(f"prune/{reason.id}", reason.text, reason.node, count) for reason, count in self.groups.fixed()]
        oracle = "a cut of this group does not compute what the model with masked channels does"
        return [*reasons, *(Refusal("prune/oracle", oracle, self.groups.groups[g].name) for g in sorted(self.faulty))]

    def decisions(self, widths: Array, goal: Budget) -> dict[str, Any]:
        whole = self.groups.widths
        parts = {"macs": self.groups.macs, "params": self.groups.parameters}
        return {
            "goal": {name: value for name, value in (("macs", goal.macs), ("params", goal.params)) if value is not None},
            "reached": {name: cost.at(widths) / max(1.0, cost.at(whole)) for name, cost in parts.items()},
            "groups": [
                {"name": group.name, "size": group.size, "kept": int(width), "sensitivity": float(s)}
                for group, width, s in zip(self.groups.groups, widths, self.sensitivities(), strict=True)
            ],
        }

    def _ignored(self) -> set[int]:
        result: set[int] = set()
        for pattern in self.options.ignore:
            hits = {i for i, g in enumerate(self.groups.groups) if re.search(pattern, g.name)}
            if not hits:
                raise UsageError(f"--ignore '{pattern}' matches no group. `graphcompress inspect --groups` lists them.")
            result |= hits
        return result


def kept_channels(attempt: Cut) -> list[dict[str, Any]]:
    """What is left of each activation that a layer reads, by the name that it has in both models: what a student is compared with its teacher by."""
    tensors = dict.fromkeys(a.form.node.inputs[0] for a in attempt.algebra.applications if a.form.node.op in HEAVY)
    entries = []
    for tensor in tensors:
        axes = range(len(attempt.algebra.axes.get(tensor) or ()))
        cut_axes = {axis: indices for axis in axes if (indices := attempt.indices(tensor, axis)) is not None}
        if len(cut_axes) == 1 and constant_data(tensor) is None:
            entries += [{"tensor": tensor.name, "axis": axis, "kept": indices.tolist()} for axis, indices in cut_axes.items()]
    return entries


def odd_widths(attempt: Cut) -> list[Refusal]:
    """The depthwise convolutions whose width lies between two blocks: onnxruntime computes them, and what is around them, by much slower kernels."""
    nodes = []
    for application in attempt.algebra.applications:
        node = application.form.node
        indices = attempt.indices(node.outputs[0], 1) if node.is_op("Conv") and node.attrs.get("group", 1) > 1 else None
        if indices is not None and len(indices) % NARROW_MULTIPLE and application.form.sizes.get("c") == 1:
            nodes.append(node)
    text = f"its width is no multiple of {NARROW_MULTIPLE}, for which onnxruntime has slower kernels: --round-to auto keeps to multiples"
    return [Refusal("prune/odd-width", text, nodes[0].name or nodes[0].outputs[0].name, len(nodes))] if nodes else []


def oracle_feeds(model: Model, context: Context) -> list[Feed]:
    """Inputs for the oracle, at whose shapes costs are counted too: the first of the data, random ones without. Raises DataError where no random ones fit."""
    source = context.data
    if source is None:
        source = random_feeds(model, ORACLE_FEEDS, context.seed, least=LEAST_FREE)
    return [feed for feed, _ in zip(source, range(ORACLE_FEEDS), strict=False)]


def sampled(feeds: Dataset, count: int) -> list[Feed]:
    """`count` feeds from all over the data, all where there are no more."""
    step = max(1, len(feeds) // count)
    return [feed for index, feed in enumerate(feeds) if index % step == 0][:count]


def repair_layers(attempt: Cut) -> list[RepairLayer]:
    """Every weighted node with the output channels that it has left."""
    layers = []
    for application in attempt.algebra.applications:
        node = application.form.node
        if node.op in HEAVY and node.standard:
            slots = [s for s in application.form.outputs if s.tensor is node.outputs[0]]
            axis = 1 if node.is_op("Conv", "ConvTranspose") else len(slots) - 1
            layers.append(RepairLayer(node, attempt.twins.node(node), attempt.indices(node.outputs[0], axis)))
    return layers
