"""prune: find the groups, decide what goes, cut, ask the oracle, refit what is left."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from graphcompress.data import Dataset, watched
from graphcompress.errors import DataError, GraphCompressError, ModelError, UsageError
from graphcompress.ir import Model
from graphcompress.ir.check.models import require_known_domains
from graphcompress.ir.files.serialize import size_on_disk
from graphcompress.ir.inline import functions_holding, inline_functions
from graphcompress.passes.prune.axes.labels import Array
from graphcompress.passes.prune.budget import allowed_widths, hull, search_widths
from graphcompress.passes.prune.cut import Cut, cut
from graphcompress.passes.prune.deviation import TeacherAnswers
from graphcompress.passes.prune.free import FreeUnits, find_free, may_be_free, without
from graphcompress.passes.prune.goals import Goals
from graphcompress.passes.prune.groups import FEWEST, Groups, WidthCost, find_groups
from graphcompress.passes.prune.latency import PROFILED, measured_time, time_share
from graphcompress.passes.prune.options import Options
from graphcompress.passes.prune.oracle import ORACLE_FEEDS, difference, largest_difference, oracle_feeds, tolerance
from graphcompress.passes.prune.orders import find_orders
from graphcompress.passes.prune.scores import Order
from graphcompress.passes.prune.sharing import shared
from graphcompress.passes.prune.sparsity import sparsify
from graphcompress.reconstruction.agenda import RepairLayer
from graphcompress.reconstruction.repair import repair
from graphcompress.runtime.place import require_times
from graphcompress.runtime.session import Feed
from graphcompress.step import Context, Ladder, Refusal, Rung, StepResult

PROBE_FEEDS = 192
PROBE_JUDGES = 3
"""Every third of the feeds of a probe judges it and takes no part in its repair: on the feeds that were fitted, errors look smaller the more there is to fit."""
PROBE_POSITIONS = 4
"""Of each of PROBE_FEEDS feeds; of fewer as many more."""
LEAST_PROBE_FEEDS = 12
PROBE_PASSES = 3
PROBE_MACS = 2e12
"""Multiply-accumulates of all probes together, each feed being run PROBE_PASSES times: some minutes of one core. Where the model allows no LEAST_PROBE_FEEDS, nothing is probed."""
MOST_PROBES = 24
WIDE_MULTIPLE, NARROW_MULTIPLE = 16, 8
"""Channels that one step of onnxruntime's convolutions takes, with AVX-512 and without."""
LATENCY_TRIES = 6
CLOSE_TO_GOAL = 0.94
"""A measured part of the time that is this much of the goal, or more and not above it, ends the search."""
LESS_BOLD = (0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875)
"""Rungs below the goal: how much of the way back to the whole model."""
HEAVY = ("Conv", "ConvTranspose", "Gemm", "MatMul", "LSTM", "GRU", "RNN", "Einsum")


def prune(model: Model, context: Context, options: Options) -> Ladder:
    """Remove channels until the goals of `options` are reached, or as far as groups allow. The first rung is the goal; the others are on the way back from it. Where `options`
    ask for zeros, see `sparsity.sparsify`.

    Every cut is compared with the original whose removed channels are masked; where they differ, a smaller cut without the groups at fault is made, with a refusal. Without
    feeds the order is by magnitude, and nothing is refitted. Raises UsageError for an `ignore` that matches nothing and for a latency where times mean
    nothing, ModelError for nodes that nothing here can run and where the model does not run, DataError where no random input fits a model without data.
    """
    require_known_domains(model, "pruned")
    if options.latency is not None:
        require_times(context.judging_place().describe(), "A goal for the latency")
    if options.sparsity is not None or options.pattern is not None:
        return sparsify(model, context, options)
    if options.free:
        return Ladder.single(remove_free(model, context))
    base = inline_functions(model, functions_holding(model, set(HEAVY)))
    feeds = oracle_feeds(base, context)
    groups = find_groups(base, {name: array.shape for name, array in feeds[0].items()} if feeds else None)
    pruner = _Pruner(model, groups, feeds, context, options)
    if not groups.groups:
        return Ladder.single(StepResult(model, False, refusals=tuple(pruner.refusals())))
    goals = Goals(options.goals)
    return Ladder(tuple(Rung(g.label, partial(pruner.result, g)) for g in (goals, *(goals.towards_whole(part) for part in LESS_BOLD if options.goals))))


def remove_free(model: Model, context: Context) -> StepResult:
    """The model without channels that cost nothing; itself where there are none, or where the outputs differ by more than rounding."""
    unchanged = StepResult(model, False)
    if not may_be_free(model):
        return unchanged
    try:
        feeds = oracle_feeds(model, context)
    except DataError:
        return unchanged
    groups = find_groups(model, {name: array.shape for name, array in feeds[0].items()} if feeds else None)
    free = find_free(groups, feeds) if groups.groups and feeds else FreeUnits()
    if not free.units:
        return unchanged
    attempt = without(groups, free)
    try:
        apart = largest_difference(groups.algebra.model, attempt.model, feeds)
    except (ModelError, DataError):
        apart = math.inf
    if apart > tolerance(model):
        return StepResult(model, False, refusals=(Refusal("prune/oracle", "without its free channels the model answers otherwise", ""),))
    shared(attempt.model)
    applied = {"prune/zero": len(free.zero), "prune/constant": len(free.constant), "prune/copy": len(free.copies)}
    return StepResult(attempt.model, True, {name: count for name, count in applied.items() if count}, decisions={"channels": attempt.channels()})


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
        self.ignored = {group for pattern in options.ignore for group in self.named(pattern, "--ignore")}
        self.ratios = {group: part for pattern, part in reversed(options.ratios.items()) for group in self.named(pattern, "--ratio")}
        self._costs: dict[str, WidthCost] = {}
        self._orders: list[Order] | None = None
        self._sensitivities: Array | None = None

    # --- rungs ------------------------------------------------------------------------------------------------------------------

    def result(self, goals: Goals) -> StepResult:
        """The model at `goals`."""
        attempt, shares = self.timed(goals) if "latency" in goals.parts else (self.checked(self.widths(goals)), {})
        if attempt is None or attempt.keep.all():
            return StepResult(self.original, False, refusals=tuple(self.refusals()))
        widths = self.groups.widths_of(attempt.keep)
        refusals = self.refusals()
        decisions = self.decisions(widths, goals, shares) | {"channels": attempt.channels()}
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

    def timed(self, goals: Goals) -> tuple[Cut | None, dict[str, float]]:
        """The cut whose measured time is nearest below the goal, and what it is; where none is below it, the fastest. What the table expects is corrected by what is measured."""
        goal, scale = goals.parts["latency"], 1.0
        measured: dict[bytes, tuple[float, Cut]] = {}
        below, above = 0.0, float("inf")
        for index in range(LATENCY_TRIES):
            widths = self.widths(goals.scaled("latency", scale))
            key = widths.tobytes()
            if key not in measured:
                attempt = self.checked(widths)
                if attempt is None:
                    break
                # What is whole is no faster than itself, whatever noise would say.
                whole = bool(attempt.keep.all())
                measured[key] = 1.0 if whole else time_share(self.model, attempt.model, self.oracle_feeds[:ORACLE_FEEDS], self.context), attempt
                self.context.progress("timing cuts", index + 1, LATENCY_TRIES)
            share = measured[key][0]
            if CLOSE_TO_GOAL * goal <= share <= goal:
                break
            below, above = (max(below, scale), above) if share <= goal else (below, min(above, scale))
            # Just below the goal: a share that is equal to it is missed half of the times.
            scale = (below * above) ** 0.5 if 0 < below < above < float("inf") else scale * (1 + CLOSE_TO_GOAL) / 2 * goal / share
        fast = [t for t in measured.values() if t[0] <= goal] or sorted(measured.values(), key=lambda t: t[0])[:1]
        share, attempt = max(fast, key=lambda t: t[0], default=(1.0, None))
        return attempt, {"latency": share}

    def widths(self, goals: Goals) -> Array:
        """Units that each group keeps."""
        curves = []
        for index, (group, order) in enumerate(zip(self.groups.groups, self.orders(), strict=True)):
            allowed = self.allowed(index)
            if index in self.ratios:
                wanted = self.ratios[index] * group.size
                allowed = [min(allowed, key=lambda width: (abs(width - wanted), -width))]
            weight = float(self.sensitivities()[index])
            curves.append(hull((width, weight * order.error(group.size - width)) for width in allowed))
        widths = np.array([curve[0][0] for curve in curves], np.int64)
        for name, part in goals.parts.items():
            cost = self.cost(name)
            curves = [[p for p in curve if p[0] <= width] for curve, width in zip(curves, widths.tolist(), strict=True)]
            widths = search_widths(curves, cost, part * cost.at(self.groups.widths))
        return widths

    def allowed(self, index: int) -> list[int]:
        """The widths that a group may have, widest first."""
        group, multiple = self.groups.groups[index], self.multiple()
        if index in self.faulty or index in self.ignored:
            return [group.size]
        per_block = multiple // math.gcd(multiple, group.step) if group.size >= multiple else 1
        return [group.step * width for width in allowed_widths(group.size // group.step, per_block, FEWEST)]

    def cost(self, name: str) -> WidthCost:
        """What a goal is a part of."""
        if name not in self._costs:
            match name:
                case "macs":
                    cost = self.groups.macs
                case "params":
                    cost = self.groups.parameters
                case "size":
                    cost = self.groups.bytes(size_on_disk(self.original))
                case _:
                    cost = self.measured()
            self._costs[name] = cost
        return self._costs[name]

    def measured(self) -> WidthCost:
        """The table of times, from cuts in which every group keeps the same part."""
        cuts = []
        for part in PROFILED:
            widths = np.array([min(self.allowed(i), key=lambda w: abs(w - part * g.size)) for i, g in enumerate(self.groups.groups)])
            attempt = self.checked(widths)
            if attempt is not None:
                cuts.append((self.groups.widths_of(attempt.keep), attempt))
        return measured_time(self.groups, cuts, self.oracle_feeds[0], self.context)

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
            keep[group.units[[u for step in order.steps[: (group.size - width) // group.step] for u in step]]] = False
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
        except (ModelError, DataError):  # a model that does not run with a feed may have a fault, or the feed
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
        consumers' error. 1 for all without data, or where there are too many groups, or the model is too large, to try each."""
        if self._sensitivities is None:
            count = len(self.groups.groups)
            self._sensitivities = np.ones(count)
            of_feed = PROBE_PASSES * count * self.groups.macs.at(self.groups.widths)
            most = int(min(PROBE_FEEDS, PROBE_MACS / max(1.0, of_feed)))
            if self.context.data is not None and self.options.repair and self.options.score == "obs" and count <= MOST_PROBES and most >= LEAST_PROBE_FEEDS:
                probes = sampled(self.context.data, most)
                judging = probes[PROBE_JUDGES - 1 :: PROBE_JUDGES] or probes
                probes = [feed for index, feed in enumerate(probes) if index % PROBE_JUDGES != PROBE_JUDGES - 1]
                reference = TeacherAnswers(self.model, judging, threads=self.context.threads)
                for index in range(count):
                    self._sensitivities[index] = self.sensitivity(index, probes, reference, PROBE_POSITIONS * PROBE_FEEDS // most)
                    self.context.progress("measuring sensitivity", index + 1, count)
        return self._sensitivities

    def sensitivity(self, index: int, probes: Sequence[Feed], reference: TeacherAnswers, positions: int) -> float:
        widths = self.groups.widths
        size = int(widths[index])
        step = self.groups.groups[index].step
        widths[index] = step * max(FEWEST, size // step // 2)
        expected = self.orders()[index].error(size - int(widths[index]))
        attempt = self.cut_at(widths)
        try:
            repair(
                self.model,
                attempt.model,
                repair_layers(attempt),
                probes,
                seed=self.context.seed,
                positions=positions,
                ridges=(1e-2,),
                threads=self.context.threads,
            )
            error = reference.relative_error(attempt.model)
        except GraphCompressError:
            return 1.0
        return error / expected if expected > 0 and np.isfinite(error) and error > 0 else 1.0

    def multiple(self) -> int:
        """Of how many units a width is a multiple: what is stated, what an earlier run had (on whatever machine), else what suits the processor."""
        if isinstance(self.options.round_to, int):
            return self.options.round_to
        if self.context.decisions is not None and "round_to" in self.context.decisions:
            return int(self.context.decisions["round_to"])
        flags = self.context.judging_place().describe().get("flags") or ()
        return WIDE_MULTIPLE if any("avx512" in str(flag) for flag in flags) else NARROW_MULTIPLE

    # --- words ------------------------------------------------------------------------------------------------------------------

    def refusals(self) -> list[Refusal]:
        """Why channels stay, and what the oracle refused."""
        reasons = [Refusal(f"prune/{reason.id}", reason.text, reason.node, count) for reason, count in self.groups.fixed()]
        oracle = "a cut of this group does not compute what the model with masked channels does"
        return [*reasons, *(Refusal("prune/oracle", oracle, self.groups.groups[g].name) for g in sorted(self.faulty))]

    def decisions(self, widths: Array, goals: Goals, measured: Mapping[str, float]) -> dict[str, Any]:
        """`measured` are shares that were measured, in place of what was expected."""
        whole = self.groups.widths
        costs = {name: self.cost(name) for name in dict.fromkeys(("macs", "params", *goals.parts)) if name not in measured}
        reached = {name: cost.at(widths) / (cost.at(whole) or 1.0) for name, cost in costs.items()}
        return {
            "goal": dict(goals.parts),
            "reached": reached | dict(measured),
            "round_to": self.multiple(),
            "groups": [
                {"name": group.name, "size": group.size, "kept": int(width), "sensitivity": float(s)}
                for group, width, s in zip(self.groups.groups, widths, self.sensitivities(), strict=True)
            ],
        }

    def named(self, pattern: str, option: str) -> list[int]:
        """The groups whose name `pattern` matches anywhere. Raises UsageError where there is none."""
        hits = [i for i, g in enumerate(self.groups.groups) if re.search(pattern, g.name)]
        if not hits:
            raise UsageError(f"{option} '{pattern}' matches no group. `graphcompress inspect --groups` lists them.")
        return hits


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


def sampled(feeds: Dataset, count: int) -> list[Feed]:
    """`count` feeds from all over the data, all where there are no more."""
    chosen = {place * len(feeds) // count for place in range(count)} if len(feeds) > count else range(len(feeds))
    return [feed for index, feed in enumerate(feeds) if index in chosen]


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
