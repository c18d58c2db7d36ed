"""Goals of `compress` that are parts of a cost: pruning, learning, INT8 and small weights together, no bolder than the goal needs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, get_args

from graphcompress import record
from graphcompress.errors import UsageError, suggestion
from graphcompress.gate import Bars, Goal, Outcome, SessionJudge, search
from graphcompress.ir import Model
from graphcompress.recipe import Recipe, recipe_of
from graphcompress.step import Context

if TYPE_CHECKING:
    from graphcompress.runtime.measure import Measurement

COSTS = ("macs", "latency", "size")
ROUNDS = 3
"""How often the part that pruning leaves is put right by what the later steps made of it."""
MARGIN = 0.97
"""Of what seems to be needed: a measured time that is just the goal is missed half of the times."""

TEACHING: dict[str, object] = {"steps": 600, "minutes": 3.0}
"""How long what was cut learns from the original, at most: more steps bring little with some hundred inputs."""

Count = Callable[[Model], int]
Plans = Callable[[float | None], Recipe]


@dataclass(frozen=True, slots=True)
class CostGoal:
    """At most `part` of the original's `cost`, one of COSTS."""

    cost: str
    part: float

    def bar(self, share: float, measurement: Measurement | None = None) -> record.Bar:
        """The bar and the share that was reached; undecided, which counts as missed, where the `measurement` that it comes from is too noisy to tell."""
        undecided = self.cost == "latency" and share <= self.part and measurement is not None and measurement.reaches(1 / self.part) is None
        return record.Bar(option=f"--goal {self.cost}", required=self.part, reached=share, held=share <= self.part and not undecided, undecided=undecided)


@dataclass(frozen=True, slots=True)
class Round:
    """One search: its recipe, what came of it, and the share of the cost that is left."""

    plan: Recipe
    outcome: Outcome
    share: float

    @property
    def boldest(self) -> bool:
        """Whether the result has pruning as it was asked for; else the bar of agreement stood against it."""
        return any(part.step is not None and part.step.kind.name == "prune" and part.index == 0 for part in self.outcome.chosen.candidate.path)

    @property
    def measurement(self) -> Measurement | None:
        """With the first thread setting, which the share of the latency is for; None where nothing was measured."""
        return next((m for _, m in self.outcome.chosen.measurements), None)


def parse_goal(text: str) -> tuple[Goal, CostGoal | None]:
    """What the gate goes for, and the cost that is asked for: "macs=0.5", "latency=0.6", "size=0.3". Raises UsageError for anything else."""
    goals: tuple[Goal, ...] = get_args(Goal)
    for goal in goals:
        if text == goal:
            return goal, None
    cost, _, part = text.partition("=")
    if cost not in COSTS or not part:
        raise UsageError(f"There is no goal '{text}'. {suggestion(text, (*goals, *(f'{name}=0.5' for name in COSTS)))}")
    try:
        value = float(part)
    except ValueError:
        value = 0.0
    if not 0 < value <= 1:
        raise UsageError(f"--goal {text} is not a part: give a number above 0, at most 1 ({cost}=0.5 keeps half).")
    return "size" if cost == "size" else "balanced", CostGoal(cost, value)


def plan_of(goal: CostGoal, part: float | None) -> Recipe:
    """The recipe that prunes to `part` of the cost and teaches what is left, None: not at all."""
    pruning: list[tuple[str, dict[str, object]]] = [] if part is None else [("prune", {goal.cost: part, "best_effort": True}), ("distill", TEACHING)]
    ends: list[tuple[str, dict[str, object]]] = [("strip", {})] if goal.cost == "size" else []
    return recipe_of(f"{goal.cost}={goal.part:g}", [("simplify", {}), *pruning, ("quantize", {}), ("store", {}), *ends])


def reach(
    model: Model, goal: CostGoal, gate_goal: Goal, context: Context, judge: SessionJudge, bars: Bars, settings: Sequence[int], *, plans: Plans, macs: Count
) -> Round:
    """Search for a result with at most the goal's part of the cost. INT8 and small weights alone come first, since they take less from the answers than pruning;
    pruning then goes as far as what they left needs, within the bars. Where that is not enough: the nearest. `plans` gives the recipe for a part of
    the cost (see `plan_of`), `macs` counts multiply-accumulates. The caller says how much of the cost is to go, so that each rung that reaches the bar of
    agreement will do.

    Raises what `gate.search` raises.
    """

    def attempt(part: float | None) -> Round:
        plan = plans(part)
        outcome = search(model, plan.steps, context, judge, bars, settings, goal=gate_goal, size=judge.size, clear=False)
        return Round(plan, outcome, share(outcome))

    def share(outcome: Outcome) -> float:
        match goal.cost:
            case "latency":
                return next((1 / m.speedup for _, m in outcome.chosen.measurements), 1.0)
            case "size":
                return judge.size(outcome.chosen.candidate.model) / judge.size(model)
            case _:
                return macs(outcome.chosen.candidate.model) / (macs(model) or 1)

    # Nothing but pruning takes multiply-accumulates away.
    rounds = [] if goal.cost == "macs" else [attempt(None)]
    part = goal.part / (rounds[0].share if rounds else 1.0)
    while not (rounds and rounds[-1].share <= goal.part) and len(rounds) <= ROUNDS:
        rounds.append(attempt(min(1.0, part)))
        if not rounds[-1].boldest:
            break
        part *= MARGIN * goal.part / rounds[-1].share
    return min(rounds, key=lambda r: r.share)
