"""The stages of `simplify`, one after the other until nothing changes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from graphcompress.engine import Rule, Stop, load_rules, rewrite
from graphcompress.errors import ModelError, UsageError
from graphcompress.ir import Model
from graphcompress.ir.schemas.lookup import newest_opset
from graphcompress.ir.shapes.infer import Shapes, infer
from graphcompress.passes.simplify import constants, dead, fold, known_shapes
from graphcompress.passes.simplify.options import Options
from graphcompress.step import Context, Ladder, Refusal, StepResult
from graphcompress.targets import rules_root

OLDEST_OPSET = 7
ROUNDS = 100
RULES_STOPPED = "simplify/rules"
STAGES = (constants.STAGE, dead.STAGE, known_shapes.STAGE, fold.STAGE)


def simplify(model: Model, context: Context, options: Options | None = None) -> Ladder:
    """A model that computes the same with fewer nodes and bytes.

    Inputs, outputs, opset and functions stay as they are; operators of unknown domains are barriers. Without a target only standard operators are written.
    Raises ModelError for an opset that the installed onnx does not know. Below opset 7, and where training information refers to the graph, the model comes back untouched, with a refusal.
    """
    options = options or Options()
    rules = _rules(context, options)
    if model.opset < OLDEST_OPSET:
        refusal = Refusal("simplify/opset", f"the model has opset {model.opset}, and simplify works from {OLDEST_OPSET} on")
        return Ladder.single(StepResult(model, False, refusals=(refusal,)))
    if model.opset > (newest := newest_opset()):
        raise ModelError(
            f"{model.path or 'The model'} has opset {model.opset}, and simplify knows the operators up to {newest}, as the installed onnx does: update onnx."
        )
    if model.header.training_info:
        refusal = Refusal("simplify/training-info", "training information refers to the graph by name, so the graph is kept unchanged")
        return Ladder.single(StepResult(model, False, refusals=(refusal,)))
    work = _Work(model.copy(), rules, frozenset(options.off))
    for round_ in range(ROUNDS):
        context.progress("simplify", round_, None)
        if not work.round():
            break
    else:
        work.refused["simplify/rounds"] = Refusal("simplify/rounds", f"stopped after {ROUNDS} rounds without a fixed point")
    refused = {**work.refused, **work.refused_by_rules}
    changed = bool(work.applied)
    result = StepResult(work.model if changed else model, changed, dict(sorted(work.applied.items())), tuple(refused[k] for k in sorted(refused)))
    return Ladder.single(result, "simplified")


class _Work:
    """A model on its way to the fixed point. The refusals are those of the last time that a stage looked at it."""

    def __init__(self, model: Model, rules: Sequence[Rule], off: frozenset[str]) -> None:
        self.model = model
        self.rules = rules
        self.off = off
        self.growth = fold.Growth(model)
        self.applied: Counter[str] = Counter()
        self.refused: dict[str, Refusal] = {}
        self.refused_by_rules: dict[str, Refusal] = {}
        self._settled = False

    def round(self) -> bool:
        """One pass of every stage; whether anything changed that another pass could build on."""
        shapes = _Lazy(self.model)
        before = self.applied.total()
        if constants.STAGE not in self.off:
            self.applied[constants.STAGE] += constants.initializers_from_nodes(self.model)
        if dead.STAGE not in self.off:
            self.applied[dead.STAGE] += dead.remove_dead(self.model)
        if known_shapes.STAGE not in self.off:
            self.applied[known_shapes.STAGE] += known_shapes.replace_known_shapes(self.model, shapes.ask)
        if fold.STAGE not in self.off:
            self._fold(shapes)
        self._settled = self._settled and self.applied.total() == before
        if not self._settled:
            self._rewrite(shapes)
        changed = self.applied.total() > before
        self.applied = +self.applied
        return changed and RULES_STOPPED not in self.refused_by_rules

    def _fold(self, shapes: _Lazy) -> None:
        folding = fold.Folding(self.model, shapes.ask, self.growth)
        self.applied[fold.STAGE] += folding.run()
        self.refused = {}
        for reason, names in folding.refused.items():
            self.refused[f"{fold.STAGE}/{reason}"] = Refusal(f"{fold.STAGE}/{reason}", fold.REASONS[reason], names[0], len(names))

    def _rewrite(self, shapes: _Lazy) -> None:
        """Rules run to their own fixed point. They look again only after something changed; a rewrite counts, because shapes of new tensors are known only then."""
        outcome = rewrite(self.model, self.rules, shapes.ask)
        self.applied.update(outcome.applied)
        self._settled = not outcome.applied
        self.refused_by_rules = {}
        for (rule, clause), where in outcome.refused.items():
            name = f"{rule}/{clause}"
            self.refused_by_rules[name] = Refusal(name, f"the clause '{clause}' of rule {rule} does not hold", where.node, where.count)
        if outcome.stop is not Stop.FIXED_POINT:
            reason = f"rules {' and '.join(outcome.loop)} undo one another" if outcome.loop else "the budget of rewrites is used up"
            self.refused_by_rules[RULES_STOPPED] = Refusal(RULES_STOPPED, f"rewriting stopped without a fixed point: {reason}")


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
