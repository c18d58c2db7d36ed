"""The stages of `simplify`, one after the other until nothing changes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from graphcompress.engine import Rule, Stop, load_rules, rewrite
from graphcompress.errors import ModelError, UsageError
from graphcompress.ir import Model
from graphcompress.ir.checkops import newest_opset
from graphcompress.ir.shapes import Shapes, infer
from graphcompress.passes.simplify import constants, dead, fold, known_shapes
from graphcompress.passes.simplify.options import Options
from graphcompress.step import Context, Refusal, StepResult
from graphcompress.targets import rules_root

OLDEST_OPSET = 7
ROUNDS = 100
RULES_STOPPED = "simplify/rules"
STAGES = (constants.STAGE, dead.STAGE, known_shapes.STAGE, fold.STAGE)


def simplify(model: Model, context: Context, options: Options | None = None) -> StepResult:
    """A model that computes the same with fewer nodes and bytes.

    Inputs, outputs, opset and functions stay as they are; operators of unknown domains are barriers. Without a target only standard operators are written.
    Raises ModelError for an opset that the installed onnx does not know. Below opset 7, and where training information refers to the graph, the model comes back untouched, with a refusal.
    """
    options = options or Options()
    rules = _rules(context, options)
    if model.opset < OLDEST_OPSET:
        return StepResult(model, False, refusals=(Refusal("simplify/opset", f"the model has opset {model.opset}, and simplify works from {OLDEST_OPSET} on"),))
    if model.opset > (newest := newest_opset()):
        raise ModelError(
            f"{model.path or 'The model'} has opset {model.opset}, and simplify knows the operators up to {newest}, as the installed onnx does: update onnx."
        )
    if model.header.training_info:
        return StepResult(model, False, refusals=(Refusal("simplify/training-info", "training information refers to the graph by name, so the graph stays"),))
    work = model.copy()
    applied: Counter[str] = Counter()
    refused: dict[str, Refusal] = {}
    for round_ in range(ROUNDS):
        context.progress("simplify", round_, None)
        changes, refused = _round(work, rules, options)
        applied.update(changes)
        if not changes or RULES_STOPPED in refused:
            break
    else:
        refused["simplify/rounds"] = Refusal("simplify/rounds", f"stopped after {ROUNDS} rounds without a fixed point")
    changed = bool(applied)
    return StepResult(work if changed else model, changed, dict(sorted(applied.items())), tuple(refused[k] for k in sorted(refused)))


def _round(model: Model, rules: Sequence[Rule], options: Options) -> tuple[Counter[str], dict[str, Refusal]]:
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
    outcome = rewrite(model, rules, shapes.ask)
    applied.update(outcome.applied)
    for (rule, clause), where in outcome.refused.items():
        refused[f"{rule}/{clause}"] = Refusal(f"{rule}/{clause}", f"the clause '{clause}' of rule {rule} does not hold", where.node, where.count)
    if outcome.stop is not Stop.FIXED_POINT:
        reason = f"rules {' and '.join(outcome.loop)} undo one another" if outcome.loop else "the budget of rewrites is used up"
        refused[RULES_STOPPED] = Refusal(RULES_STOPPED, f"rewriting stopped without a fixed point: {reason}")
    return +applied, refused


def _rules(context: Context, options: Options) -> list[Rule]:
    """The rules that are on: those for the target or for all, without the approximate ones and those that are switched off."""
    rules = load_rules(rules_root() / "rewrite", context.target.name if context.target is not None else None)
    unknown = [name for name in options.off if name not in STAGES and all(name != r.id for r in rules)]
    if unknown:
        raise UsageError(
            f"simplify: off names '{unknown[0]}', and there is no such stage or rule. Stages are {', '.join(STAGES)}; rules are the files of rules/rewrite."
        )
    return [r for r in rules if r.effect != "approximate" and r.id not in options.off]


class _Lazy:
    """Shapes of a model, inferred when somebody asks first. Edits keep the tensors that stay, so answers stay true; what is made later is unknown until the next round."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._shapes: Shapes | None = None

    def ask(self) -> Shapes:
        if self._shapes is None:
            self._shapes = infer(self._model)
        return self._shapes
