"""prune: find the groups, decide what goes, cut, ask the oracle, refit what is left."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from graphcompress.data import watched
from graphcompress.errors import DataError, ModelError, UsageError
from graphcompress.ir import Model, Node
from graphcompress.ir.check.models import require_known_domains
from graphcompress.ir.files.serialize import size_on_disk
from graphcompress.ir.inline import functions_holding, inline_functions
from graphcompress.passes.prune.actions import Action, ChannelCut, LowRank, PrunePlan
from graphcompress.passes.prune.attempt import HEAVY, PruneAttempt, attempt_of
from graphcompress.passes.prune.axes.labels import Array
from graphcompress.passes.prune.budget import hull, search_widths
from graphcompress.passes.prune.costs import WidthCost
from graphcompress.passes.prune.cut import Cut
from graphcompress.passes.prune.free import FreeUnits, find_free, may_be_free, without
from graphcompress.passes.prune.goals import Goals
from graphcompress.passes.prune.groups import Groups, find_groups
from graphcompress.passes.prune.latency import PROFILED, measured_time, slowness_of_two, time_share
from graphcompress.passes.prune.lowrank import factorable, rank_errors, spectra, with_ranks
from graphcompress.passes.prune.options import Options
from graphcompress.passes.prune.oracle import ORACLE_FEEDS, difference, largest_difference, oracle_feeds, tolerance
from graphcompress.passes.prune.orders import feeling, find_orders
from graphcompress.passes.prune.rotation import rotated
from graphcompress.passes.prune.sensitivity import sensitivities
from graphcompress.passes.prune.sharing import shared
from graphcompress.passes.prune.sparsity import sparsify
from graphcompress.reconstruction.repair import POSITIONS, repair_from
from graphcompress.reconstruction.targets import TeacherRows
from graphcompress.runtime.place import require_times
from graphcompress.runtime.session import Feed
from graphcompress.step import Context, Ladder, Refusal, Rung, StepResult

WIDE_MULTIPLE, NARROW_MULTIPLE = 16, 8
"""Channels that one step of onnxruntime's convolutions takes, with AVX-512 and without."""
LATENCY_TRIES = 6
CLOSE_TO_GOAL = 0.94
"""A measured part of the time that is this much of the goal, or more and not above it, ends the search."""
LESS_BOLD = (0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875)
"""Rungs below the goal: how much of the way back to the whole model."""


def prune(model: Model, context: Context, options: Options) -> Ladder:
    """Remove channels until the goals of `options` are reached, or as far as groups allow. The first rung is the goal; the others are on the way back from it. Where `options`
    ask for zeros, see `sparsity.sparsify`.

    Every cut is compared with the original whose removed channels are masked; where they differ, a smaller cut without the groups at fault is made, with a refusal. Without
    feeds the order is by magnitude, and nothing is refitted. Raises UsageError for an `ignore` that matches nothing, for ranks without data and for a latency where times mean
    nothing, ModelError for nodes that nothing here can run and where the model does not run, DataError where no random input fits a model without data.
    """
    require_known_domains(model, "pruned")
    if options.latency is not None:
        require_times(context.judging_place().describe(), "A goal for the latency")
    if options.sparsity is not None or options.pattern is not None:
        return sparsify(model, context, options)
    if options.free:
        return Ladder.single(remove_free(model, context))
    if "rank" in (options.actions or ()) and context.data is None:
        raise UsageError('Ranks are decided by what layers give on data: the action "rank" needs some.')
    base = inline_functions(model, functions_holding(model, set(HEAVY)))
    feeds = oracle_feeds(base, context)
    turned = frozenset[str]()
    if context.data is not None and options.score == "obs" and "channels" in options.possible_actions(data=True):
        base, turned = rotated(base, context.data, feeds, ignore=options.ignore, threads=context.threads)
    groups = find_groups(base, {name: array.shape for name, array in feeds[0].items()} if feeds else None)
    pruner = _Pruner(model, groups, feeds, context, options, turned)
    if not groups.groups and not pruner.layers:
        return Ladder.single(StepResult(model, False, refusals=tuple(pruner.refusals())))
    goals = Goals(options.goals)
    rungs = (goals, *(goals.towards_whole(part) for part in LESS_BOLD if options.goals))
    return Ladder(tuple(Rung(g.label, partial(pruner.result, g)) for g in rungs))


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
    """What all rungs share: what can be done, and how much each of it hurts."""

    def __init__(self, original: Model, groups: Groups, oracle_feeds: Sequence[Feed], context: Context, options: Options, turned: frozenset[str]) -> None:
        """`turned`: activations of the groups' model that hold other numbers than those of the original."""
        self.original = original
        self.turned = turned
        self.oracle_feeds = oracle_feeds
        self.groups = groups
        self.context = context
        self.options = options
        self.model = groups.algebra.model
        self.allowed_actions = options.possible_actions(data=context.data is not None)
        self.layers = factorable(groups) if "rank" in self.allowed_actions else []
        self.faulty: set[int] = set()
        names = [group.name for group in groups.groups]
        layer_names = [layer.node.name or layer.node.outputs[0].name for layer in self.layers]
        self.ignored = {place for pattern in options.ignore for place in _matching(pattern, names + layer_names, "--ignore")}
        self.ratios = {group: part for pattern, part in reversed(options.ratios.items()) for group in _matching(pattern, names, "--ratio")}
        self._costs: dict[str, WidthCost] = {}
        self._actions: list[Action] | None = None
        self._sensitivities: Array | None = None
        self._teacher_rows: TeacherRows | None = None

    # --- rungs ------------------------------------------------------------------------------------------------------------------

    def result(self, goals: Goals) -> StepResult:
        """The model at `goals`."""
        sizes, shares = self.timed(goals) if "latency" in goals.parts else (self.checked(self.sizes(goals)), {})
        attempt = self.attempt(sizes)
        if attempt.plan.empty:
            return StepResult(self.original, False, refusals=tuple(self.refusals()))
        refusals = self.refusals()
        repaired = []
        if self.options.repair and self.context.data is not None:
            report = repair_from(self.teacher_rows(), attempt.model, attempt.repair_layers(), progress=self.context.progress)
            refusals += report.refusals
            repaired = [{"node": layer.node, "method": layer.method, "error_before": layer.before, "error_after": layer.after} for layer in report.layers]
        model, factored, faults = attempt.finish(self.oracle_feeds)
        refusals += [*faults, *odd_widths(attempt.cut)]
        for place, action in enumerate(self.actions()):
            if isinstance(action, LowRank) and action.layer not in factored:
                sizes[place] = action.size
        shared(model)
        decisions = self.decisions(sizes, goals, shares) | {"channels": attempt.cut.channels(self.turned)} | ({"repair": repaired} if repaired else {})
        applied = {"prune/cut": int((sizes < self.whole)[: len(self.groups.groups)].sum()), "prune/rank": len(factored)}
        return StepResult(model, True, {name: count for name, count in applied.items() if count}, tuple(refusals), decisions)

    def teacher_rows(self) -> TeacherRows:
        """What the layers of all rungs are refitted to, but for the feeds that watch a student that learns afterwards."""
        if self._teacher_rows is None:
            assert self.context.data is not None
            marks = watched(self.context.data)
            feeds = self.context.data.part(lambda position: not marks[position])
            self._teacher_rows = TeacherRows(self.model, feeds, seed=self.context.seed, positions=POSITIONS, mirrors=True, threads=self.context.threads)
        return self._teacher_rows

    def timed(self, goals: Goals) -> tuple[Array, dict[str, float]]:
        """The sizes whose measured time is nearest below the goal, and what it is; where none is below it, the fastest. What the table expects is corrected by what is measured."""
        goal, scale = goals.parts["latency"], 1.0
        measured: dict[bytes, tuple[float, Array]] = {}
        below, above = 0.0, float("inf")
        for index in range(LATENCY_TRIES):
            sizes = self.sizes(goals.scaled("latency", scale))
            key = sizes.tobytes()
            if key not in measured:
                sizes = self.checked(sizes)
                attempt = self.attempt(sizes)
                # What is whole is no faster than itself, whatever noise would say.
                whole = attempt.plan.empty
                model = attempt.model if whole else attempt.finish(self.oracle_feeds)[0]
                measured[key] = 1.0 if whole else time_share(self.model, model, self.oracle_feeds[:ORACLE_FEEDS], self.context), sizes
                self.context.progress("timing cuts", index + 1, LATENCY_TRIES)
            share = measured[key][0]
            if CLOSE_TO_GOAL * goal <= share <= goal:
                break
            below, above = (max(below, scale), above) if share <= goal else (below, min(above, scale))
            # Just below the goal: a share that is equal to it is missed half of the times.
            scale = (below * above) ** 0.5 if 0 < below < above < float("inf") else scale * (1 + CLOSE_TO_GOAL) / 2 * goal / share
        fast = [t for t in measured.values() if t[0] <= goal] or sorted(measured.values(), key=lambda t: t[0])[:1]
        share, sizes = max(fast, key=lambda t: t[0])
        return sizes, {"latency": share}

    def sizes(self, goals: Goals) -> Array:
        """What each action leaves: units of groups, then ranks."""
        curves = []
        for place, action in enumerate(self.actions()):
            allowed = self.allowed(place)
            if place in self.ratios:
                wanted = self.ratios[place] * action.size
                allowed = [min(allowed, key=lambda size: (abs(size - wanted), -size))]
            weight = float(self.sensitivities()[place])
            curves.append(hull((size, weight * action.error(size)) for size in allowed))
        sizes = np.array([curve[0][0] for curve in curves], np.int64)
        for name, part in goals.parts.items():
            cost = self.cost(name)
            curves = [[p for p in curve if p[0] <= size] for curve, size in zip(curves, sizes.tolist(), strict=True)]
            sizes = search_widths(curves, cost, part * cost.at(self.whole))
        return self.paying(sizes, goals)

    def paying(self, sizes: Array, goals: Goals) -> Array:
        """Without ranks that, at the widths of the others, cost no less than one layer."""
        for place in range(len(self.groups.groups), len(sizes)):
            if not any(self.cost(name).saving(sizes, place, int(self.whole[place])) < 0 for name in goals.parts):
                sizes[place] = self.whole[place]
        return sizes

    def allowed(self, place: int) -> list[int]:
        """The sizes that an action may have, largest first."""
        action = self.actions()[place]
        if place in self.faulty or place in self.ignored or action.kind not in self.allowed_actions:
            return [action.size]
        return action.allowed(self.multiple())

    def cost(self, name: str) -> WidthCost:
        """What a goal is a part of."""
        if name not in self._costs:
            slowness: Mapping[Node, float] = {}
            match name:
                case "macs":
                    cost = self.groups.macs
                case "params":
                    cost = self.groups.parameters
                case "size":
                    cost = self.groups.bytes(size_on_disk(self.original))
                case _:
                    cost, slowness = self.measured()
            self._costs[name] = with_ranks(cost, self.groups, self.layers, slowness)
        return self._costs[name]

    def measured(self) -> tuple[WidthCost, Mapping[Node, float]]:
        """The table of times, from cuts in which every group keeps the same part; and how much more than by its multiply-accumulates each layer takes as two."""
        cuts = []
        for part in PROFILED:
            sizes = self.whole
            for place in range(len(self.groups.groups)):
                sizes[place] = min(self.allowed(place), key=lambda w: abs(w - part * self.whole[place]))
            attempt = self.attempt(self.checked(sizes))
            cuts.append((self.groups.widths_of(attempt.plan.keep), attempt.cut))
        cost = measured_time(self.groups, cuts, self.oracle_feeds[0], self.context)
        if not self.layers:
            return cost, {}
        sizes = self.whole
        for place, action in enumerate(self.actions()):
            if isinstance(action, LowRank):
                sizes[place] = min(self.allowed(place), key=lambda rank: abs(rank - action.probe))
        attempt = self.attempt(sizes)
        model, factored, _ = attempt.finish(self.oracle_feeds)
        ranks = {layer: attempt.plan.ranks[layer][0] for layer in factored}
        return cost, slowness_of_two(cost, self.groups, model, ranks, self.oracle_feeds[0], self.context)

    def checked(self, sizes: Array) -> Array:
        """The sizes without the cuts of groups at fault, so that the oracle passes them."""
        count = len(self.groups.groups)
        while not self.sound(self.attempt(self.only(sizes, range(count)))):
            cuts = np.flatnonzero(sizes[:count] < self.whole[:count]).tolist()
            fault = next((g for g in cuts if not self.sound(self.attempt(self.only(sizes, [g])))), None)
            faults = cuts if fault is None else [fault]
            if not faults:
                break
            self.faulty.update(faults)
            sizes[faults] = self.whole[faults]
        return sizes

    def attempt(self, sizes: Array) -> PruneAttempt:
        """What comes of `sizes`."""
        plan = PrunePlan(np.ones(len(self.groups.group_of), bool))
        for action, size in zip(self.actions(), sizes.tolist(), strict=True):
            action.apply(plan, size)
        return attempt_of(self.groups.algebra, plan)

    def only(self, sizes: Array, places: Iterable[int]) -> Array:
        """Nothing done but what is at `places`."""
        result, chosen = self.whole, list(places)
        result[chosen] = sizes[chosen]
        return result

    def sound(self, attempt: PruneAttempt) -> bool:
        """Whether the oracle agrees with the cut, and the cut model runs."""
        try:
            return difference(attempt.cut, self.oracle_feeds) <= tolerance(self.model)
        except (ModelError, DataError):  # a model that does not run with a feed may have a fault, or the feed
            return False

    # --- what is known of actions -----------------------------------------------------------------------------------------------

    @property
    def whole(self) -> Array:
        """[actions] the sizes at which nothing is done."""
        return np.array([action.size for action in self.actions()], np.int64)

    def actions(self) -> list[Action]:
        """The groups', then those of layers that can become two."""
        if self._actions is None:
            data, seed, threads, progress = self.context.data, self.context.seed, self.context.threads, self.context.progress
            orders = find_orders(self.groups, data, score=self.options.score, seed=seed, threads=threads, progress=progress)
            outputs = [] if data is None else spectra(self.model, self.layers, data, seed=seed, threads=threads, progress=progress)
            ranks = [LowRank(layer, m, rank_errors(m)) for layer, m in zip(self.layers, outputs, strict=True)]
            cuts = [ChannelCut(group, order, layers) for group, order, layers in zip(self.groups.groups, orders, feeling(self.groups), strict=True)]
            self._actions = [*cuts, *ranks]
        return self._actions

    def sensitivities(self) -> Array:
        """[actions] see `sensitivity.sensitivities`."""
        if self._sensitivities is None:
            places = [place for place in range(len(self.actions())) if len(self.allowed(place)) > 1]
            if self.options.repair and self.options.score == "obs":
                whole = self.groups.macs.at(self.groups.widths)
                self._sensitivities = sensitivities(self.actions(), places, self.model, whole, self.context, self._alone)
            else:
                self._sensitivities = np.ones(len(self.actions()))
        return self._sensitivities

    def _alone(self, place: int, size: int) -> PruneAttempt:
        sizes = self.whole
        sizes[place] = size
        return self.attempt(sizes)

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

    def decisions(self, sizes: Array, goals: Goals, measured: Mapping[str, float]) -> dict[str, Any]:
        """`measured` are shares that were measured, in place of what was expected."""
        costs = {name: self.cost(name) for name in dict.fromkeys(("macs", "params", *goals.parts)) if name not in measured}
        reached = {name: cost.at(sizes) / (cost.at(self.whole) or 1.0) for name, cost in costs.items()}
        entries = list(zip(self.actions(), sizes.tolist(), self.sensitivities().tolist(), strict=True))
        return {
            "goal": dict(goals.parts),
            "reached": reached | dict(measured),
            "round_to": self.multiple(),
            "groups": [{"name": a.name, "size": a.size, "kept": size, "sensitivity": s} for a, size, s in entries if isinstance(a, ChannelCut)],
            "ranks": [
                {"node": a.name, "shape": list(a.layer.form.shape[1:]), "rank": size, "sensitivity": s}
                for a, size, s in entries
                if isinstance(a, LowRank) and size < a.size
            ],
        }


def _matching(pattern: str, names: Sequence[str], option: str) -> list[int]:
    """The places of the names that `pattern` matches anywhere. Raises UsageError where there is none."""
    hits = [place for place, name in enumerate(names) if re.search(pattern, name)]
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
