"""Deciding, writing and checking, until the provider does what was written."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from graphcompress.errors import DataError, ModelError
from graphcompress.ir import Model, Node, Shape, Tensor
from graphcompress.ir.model.twins import Twins
from graphcompress.passes.quantize import placement
from graphcompress.passes.quantize.attention import blurred_scores
from graphcompress.passes.quantize.certify import Fusion, ShapeCheck, certificate, check_constants, check_fusion, neighbours
from graphcompress.passes.quantize.expansion import Stored, restore
from graphcompress.passes.quantize.groups import Candidates, Group, node_name
from graphcompress.passes.quantize.insert import Inserter, Insertion, Weights
from graphcompress.passes.quantize.scales import Ranges, scales_of
from graphcompress.runtime.place import Place
from graphcompress.runtime.session import Feed
from graphcompress.step import Progress, Refusal, StepResult

ROUNDS = 8  # each sends at least one group to float, usually all that need it; afterwards whole islands go
LARGEST_SEARCH = 40  # attempts that are loaded to find which groups the provider cannot load or run


@dataclass(slots=True)
class Attempt:
    """A copy of the base model with `groups` (those of the base) in integers, `twins` being the same groups in the copy."""

    model: Model
    nodes: Twins
    groups: list[Group]
    twins: list[Group]
    insertion: Insertion


def twin_group(group: Group, twins: Twins) -> Group:
    """The same group in a copy of its model."""
    return replace(group, chain=tuple(twins.node(n) for n in group.chain), outputs=tuple(twins.tensor(t) for t in group.outputs))


class Plan:
    """What goes to integers in `base`, where some constants are those of weights that are `stored` small. `reasons` says why an operator does not; `feed` is one that attempts
    are run on, `check` what comes out of them, `place` where the provider is (see `check_fusion`)."""

    def __init__(
        self,
        base: Model,
        stored: Stored,
        candidates: Candidates,
        shapes: dict[Tensor, Shape],
        ranges: Ranges,
        progress: Progress,
        feed: Feed,
        place: Place | None = None,
        check: ShapeCheck | None = None,
    ) -> None:
        self.base = base
        self.stored = stored
        self.candidates = candidates
        self.shapes = shapes
        self.ranges = ranges
        self.target = ranges.target
        self.progress = progress
        self.feed = feed
        self.place = place
        self.check = check
        self.reasons: dict[Node, Refusal] = dict(candidates.refusals)
        self.groups: list[Group] = []
        self.weights = Weights(self.target)
        self.measured: placement.Costs = placement.NOTHING
        self._stay: set[Group] = set()  # what the provider does not take, whatever else is in integers
        makers = {t: g for g in candidates.groups for t in g.outputs}
        for group in candidates.groups:
            problem = next((p for t in (*group.inputs, *group.outputs) if (p := ranges.problem(t)) is not None), None)
            if problem is None and group.row.clipped:
                maker = makers.get(group.inputs[0])
                while maker is not None and maker.row.tied:
                    maker = makers.get(maker.inputs[0])
                problem = ranges.clipping_problem(group, maker)
            if problem is None:
                self.groups.append(group)
            else:
                self._refuse(group, *problem)
        blurred = blurred_scores(base, self.groups, ranges, self.weights)
        for group, (softmax, error) in blurred.items():
            reason = f"in INT8 the scores of Softmax '{node_name(softmax)}' would be off by {error:.2f} (standard deviation), and each probability by that part of itself"
            self._refuse(group, "sharp-scores", reason)
        self.groups = [g for g in self.groups if g not in blurred]

    def everything(self) -> Attempt | None:
        """As much in integers as the provider takes, whatever it costs; what is found out on the way is no reason."""
        stay, reasons = set(self._stay), dict(self.reasons)
        try:
            return self.settle(forced=set(self.groups))
        finally:
            self._stay, self.reasons = stay, reasons

    def settle(self, price: placement.NoisePrice | None = None, forced: Collection[Group] = ()) -> Attempt | None:
        """The attempt in which every group fuses and nothing else does, noise costing `price`, and `forced` whatever they cost; None where no group is left."""
        forced = set(forced)
        for round_number in range(2 * len(self.groups) + 1):
            self.progress("placing", round_number, None)
            rest = [g for g in self.groups if g not in self._stay and (price is None or g in price.noise.groups)]
            chosen = placement.decide(self.base, rest, self.ranges.observed, self.target, forced - self._stay, price, self.measured)
            if not chosen:
                return None
            attempt = self.write([g for g in rest if g in chosen])
            try:
                fusion = check_fusion(attempt.model, attempt.twins, self.target, self.feed, self.place, self.check)
            except (ModelError, DataError) as problem:
                self._leave_broken(attempt.groups, problem)
                continue
            wrong = self._not_fused(attempt, fusion)
            pulled_in = self._fused_by_provider(attempt, fusion, rest, forced, wrong)
            if not wrong and not pulled_in:
                return attempt
            if round_number >= ROUNDS:
                wrong |= island_of(attempt.groups, wrong)
            forced |= pulled_in
            self._stay |= wrong
            for group in attempt.groups:
                if group in wrong:
                    self._refuse(group, "beside-float", "in INT8 it would draw an operator beside it into integers that must stay float")
        return None

    def write(self, groups: Sequence[Group]) -> Attempt:
        """A copy of the base with these groups in integers."""
        model, nodes = self.base.clone()
        twins = [twin_group(g, nodes) for g in groups]
        scales = {nodes.tensor(t): s for t, s in scales_of(groups, self.ranges).items()}
        shapes = {nodes.tensor(t): s for t, s in self.shapes.items()}
        insertion = Inserter(model, list(zip(twins, groups, strict=True)), scales, self.target, shapes, self.weights).run()
        check_constants(twins)
        restore(model, nodes, self.stored)
        return Attempt(model, nodes, list(groups), twins, insertion)

    def result(
        self, attempt: Attempt | None, original: Model, applied: dict[str, int], calibration: str, noise: Mapping[Group, float] | None = None
    ) -> StepResult:
        """The step's result with its certificate; `original` where nothing is in integers. `noise` is the part that a group has in that of the boldest alternative."""
        integer = {g.node: g for g in attempt.groups} if attempt else {}
        reasons = dict(self.reasons)
        for group in self.groups:
            if group.node not in integer:
                reasons.setdefault(group.node, self._placed_in_float(group, noise or {}))
        refusals = tuple(r for n, r in reasons.items() if n not in integer)
        certified = certificate(self.base, integer, reasons, self.target)
        if attempt is None:
            return StepResult(original, False, refusals=refusals, certificate=certified)
        counts = dict(applied)
        for group in attempt.groups:
            name = f"quantize/{group.row.op.lower()}"
            counts[name] = counts.get(name, 0) + 1
        if attempt.insertion.protected:
            counts["quantize/protect-float"] = attempt.insertion.protected
        names = labels(t.name for t in attempt.insertion.scales)
        groups = dict(zip(self.candidates.groups, labels(g.name for g in self.candidates.groups), strict=True))
        decisions: dict[str, Any] = {
            "calibration": calibration,
            "int8": [groups[g] for g in attempt.groups],
            "activations": {name: {"scale": s.scale, "zero_point": s.zero} for name, s in sorted(zip(names, attempt.insertion.scales.values(), strict=True))},
        }
        if noise:
            decisions["noise"] = {groups[group]: round(noise[group], 4) for group in sorted(noise, key=lambda group: -noise[group])}
        return StepResult(attempt.model, True, counts, refusals, decisions, certified)

    # --- what the provider says -----------------------------------------------------------------------------------------------------

    def _not_fused(self, attempt: Attempt, fusion: Fusion) -> set[Group]:
        missed = set(fusion.not_fused)
        wrong = {g for g, twin in zip(attempt.groups, attempt.twins, strict=True) if twin in missed}
        for group in attempt.groups:
            if group in wrong:
                self._refuse(group, "missed-fusion", "written in INT8 the provider would still compute it in float, with its weights dequantized at each run")
        return wrong

    def _fused_by_provider(self, attempt: Attempt, fusion: Fusion, rest: Sequence[Group], forced: set[Group], wrong: set[Group]) -> set[Group]:
        """What the provider quantizes by itself is better quantized by us: the groups of such operators. Where that is not possible, its neighbours go to
        `wrong`."""
        heads = {attempt.nodes.node(g.node): g for g in rest}
        settled = {attempt.nodes.node(n) for n, r in self.reasons.items() if r.id == "quantize/already-quantized"}
        base = dict(zip(attempt.twins, attempt.groups, strict=True))
        pulled_in: set[Group] = set()
        for node in fusion.fused_by_provider:
            group = heads.get(node)
            if group is not None and group not in forced:
                pulled_in.add(group)
            elif node not in settled:
                wrong.update(base[twin] for twin in neighbours(attempt.twins, node))
        return pulled_in

    def _leave_broken(self, groups: Sequence[Group], problem: ModelError | DataError) -> None:
        """Find which of `groups`, which the provider cannot load or run together, it cannot take, and leave them in float."""
        tests = 0

        def broken(members: Sequence[Group]) -> bool:
            nonlocal tests
            tests += 1
            attempt = self.write(members)
            try:
                check_fusion(attempt.model, attempt.twins, self.target, self.feed, self.place, self.check)
            except (ModelError, DataError):
                return True
            return False

        def culprits(sound: list[Group], suspects: list[Group]) -> list[Group]:
            """`sound` alone runs, with `suspects` it does not: those of them that must go, by halving."""
            if len(suspects) == 1 or tests >= LARGEST_SEARCH:
                return suspects
            half = len(suspects) // 2
            first, second = suspects[:half], suspects[half:]
            guilty = culprits(sound, first) if broken(sound + first) else []
            sound = sound + [g for g in first if g not in guilty]
            return guilty + (culprits(sound, second) if broken(sound + second) else [])

        guilty = culprits([], list(groups))
        self._stay.update(guilty)
        for group in guilty:
            self._refuse(group, "does-not-run", f"written in INT8 the provider cannot load or run it: {problem}")

    # --- reasons --------------------------------------------------------------------------------------------------------------------

    def _placed_in_float(self, group: Group, noise: Mapping[Group, float]) -> Refusal:
        if group in noise:
            part = f"with what it reads and makes it has {noise[group]:.1%} of the noise that INT8 makes at the outputs"
            return Refusal("quantize/accuracy", f"{part}, and saves too little time for that", group.name)
        price = self.measured.get(group) or placement.cost(group, self.ranges.observed, self.target.boundary)
        around = placement.borders(group, self.ranges.observed, self.target.boundary)
        source = "measured here" if group in self.measured else "by the target's table"
        if price.integer + around > price.floating:
            figures = f"about {_time(price.integer)} and {_time(around)} for Q and DQ at its borders, against {_time(price.floating)} in float"
            return Refusal("quantize/cost", f"INT8 does not pay here: {figures}, {source}", group.name)
        figures = f"alone about {_time(price.integer + around)} with Q and DQ at its borders, against {_time(price.floating)} in float"
        # The cheapest cut leaves none of these in float: what stands is another one, which was faster when both were timed, or what surrounds the group has gone to float since.
        why = "in the placement that was timed as the fastest it is in float" if group in self.measured else "INT8 does not pay here with what surrounds it"
        return Refusal("quantize/cost", f"{why}: {figures}, {source}", group.name)

    def _refuse(self, group: Group, identifier: str, reason: str) -> None:
        self.reasons.setdefault(group.node, Refusal(f"quantize/{identifier}", reason, group.name))


def _time(ns: float) -> str:
    """A duration for a sentence: 3 ns, 2.6 us."""
    return f"{ns:.0f} ns" if ns < 95 else f"{ns / 1000:.1f} us"


def island_of(groups: Sequence[Group], members: Collection[Group]) -> set[Group]:
    """Those of `groups` that are joined to `members` by tensors, directly or by way of others."""
    touching: dict[Tensor, list[Group]] = {}
    for group in groups:
        for tensor in (*group.inputs, *group.outputs):
            touching.setdefault(tensor, []).append(group)
    island = set(members)
    queue = list(members)
    while queue:
        group = queue.pop()
        for tensor in (*group.inputs, *group.outputs):
            for other in touching.pop(tensor, ()):
                if other not in island:
                    island.add(other)
                    queue.append(other)
    return island


def labels(names: Iterable[str]) -> list[str]:
    """Names for a record: those of subgraphs may occur more than once, and are told apart by a number."""
    counts: dict[str, int] = {}
    result = []
    for name in names:
        number = counts[name] = counts.get(name, 0) + 1
        result.append(name if number == 1 else f"{name} ({number})")
    return result
