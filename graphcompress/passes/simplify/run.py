"""The stages of `simplify`, one after the other until nothing changes."""

from __future__ import annotations

from collections import Counter

from graphcompress.ir import Model
from graphcompress.ir.shapes import Shapes, infer
from graphcompress.passes.simplify import constants, dead, fold, known_shapes
from graphcompress.passes.simplify.options import Options
from graphcompress.step import Context, Refusal, StepResult

OLDEST_OPSET = 7
ROUNDS = 100


def simplify(model: Model, context: Context, options: Options | None = None) -> StepResult:
    """A model that computes the same with fewer nodes and bytes.

    Inputs, outputs, opset and functions stay as they are; operators of unknown domains are barriers. Without a target only standard operators are written.
    Below opset 7, and where training information refers to the graph, the model comes back untouched, with a refusal.
    """
    options = options or Options()
    if model.opset < OLDEST_OPSET:
        return StepResult(model, False, refusals=(Refusal("simplify/opset", f"the model has opset {model.opset}, and simplify works from {OLDEST_OPSET} on"),))
    if model.header.training_info:
        return StepResult(model, False, refusals=(Refusal("simplify/training-info", "training information refers to the graph by name, so the graph stays"),))
    work = model.copy()
    applied: Counter[str] = Counter()
    refused: dict[str, Refusal] = {}
    for round_ in range(ROUNDS):
        context.progress("simplify", round_, None)
        changes, refused = _round(work, context, options)
        applied.update(changes)
        if not changes:
            break
    else:
        refused["simplify/rounds"] = Refusal("simplify/rounds", f"stopped after {ROUNDS} rounds without a fixed point")
    changed = bool(applied)
    return StepResult(work if changed else model, changed, dict(sorted(applied.items())), tuple(refused[k] for k in sorted(refused)))


def _round(model: Model, context: Context, options: Options) -> tuple[Counter[str], dict[str, Refusal]]:
    """One pass of every stage: what changed, and what was refused in this round."""
    shapes = _Lazy(model)
    applied: Counter[str] = Counter()
    refused: dict[str, Refusal] = {}
    if constants.STAGE not in options.off:
        applied[constants.STAGE] += constants.initializers_from_nodes(model)
    if dead.STAGE not in options.off:
        applied[dead.STAGE] += dead.remove_dead(model)
    if known_shapes.STAGE not in options.off:
        applied[known_shapes.STAGE] += known_shapes.replace_known_shapes(model, shapes.ask)
    if fold.STAGE not in options.off:
        folding = fold.Folding(model, shapes.ask)
        applied[fold.STAGE] += folding.run()
        for reason, names in folding.refused.items():
            refused[f"{fold.STAGE}/{reason}"] = Refusal(f"{fold.STAGE}/{reason}", fold.REASONS[reason], names[0], len(names))
    return +applied, refused


class _Lazy:
    """Shapes of a model, inferred when somebody asks first. Edits keep the tensors that stay, so answers stay true; what is made later is unknown until the next round."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._shapes: Shapes | None = None

    def ask(self) -> Shapes:
        if self._shapes is None:
            self._shapes = infer(self._model)
        return self._shapes
