"""The stages of `simplify`, one after the other until nothing changes."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import TypeAlias

from graphcompress.engine import Rule, Stop, load_rules, rewrite, rule_ids
from graphcompress.errors import ModelError, RuntimeUnavailable, UsageError
from graphcompress.ir import Model, Node, label, nodes
from graphcompress.ir.check.functions import Key
from graphcompress.ir.inline import callers, inline_functions, inlined_from
from graphcompress.ir.model.defaults import freeze_listed_initializers, mark_meant_defaults
from graphcompress.ir.model.garbage import paused
from graphcompress.ir.model.scopes import rename_hidden
from graphcompress.ir.schemas.operators import newest_opset
from graphcompress.ir.shapes.infer import Shapes, infer
from graphcompress.passes.simplify import (
    affine,
    branches,
    broadcasts,
    common,
    constants,
    dead,
    duplicates,
    fold,
    known_shapes,
    lookups,
    loops,
    pieces,
    sizes,
    states,
    view_targets,
    views,
    zeros,
)
from graphcompress.passes.simplify.loading import load_problem
from graphcompress.passes.simplify.options import Options
from graphcompress.step import AppliedChange, Context, Ladder, Refusal, RuleCount, StepResult
from graphcompress.targets import rules_root

OLDEST_OPSET = 7
ROUNDS = 100
RULES_STOPPED = "simplify/rules"
INLINE = "simplify/function"
LISTED = "simplify/listed"
LISTED_NOTE = (
    "every initializer is listed as an input, as old exporters did, so they were taken for constants; callers can no longer override them. "
    "Switch this off (off = ['simplify/listed']) if they must"
)
SHAPED_STAGES: dict[str, Callable[[Model, Callable[[], Shapes]], int]] = {
    known_shapes.STAGE: known_shapes.replace_known_shapes,
    view_targets.STAGE: view_targets.write_targets,
    sizes.STAGE: sizes.read_sizes,
    views.STAGE: views.join_views,
    broadcasts.STAGE: broadcasts.skip_expands,
    zeros.STAGE: zeros.remove_zeros,
    states.STAGE: states.leave_out_zero_states,
    lookups.STAGE: lookups.write_lookups,
    pieces.STAGE: pieces.take_pieces_first,
}
STAGES = (LISTED, INLINE, constants.STAGE, dead.STAGE, *SHAPED_STAGES, fold.STAGE, branches.STAGE, loops.STAGE, affine.STAGE, common.STAGE, duplicates.STAGE)


Rules: TypeAlias = Callable[[Collection[str]], Sequence[Rule]]
"""The rules that are of use in a graph of these operators."""


def simplify(model: Model, context: Context, options: Options | None = None) -> Ladder:
    """A model that computes the same with fewer nodes and bytes.

    Inputs, outputs and opset stay as they are; operators of unknown domains are barriers. Calls of functions are written out where that leads to something.
    Without a target only standard operators are written. A rule or stage without which onnxruntime loads the result, and with which it does not, is left out,
    with a refusal. Raises ModelError for an opset that the installed onnx does not know. Below opset 7, and where training information refers to the graph, the
    model is returned unchanged, with a refusal.
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
    work, refusals = _that_loads(model, rules, frozenset(options.off), context)
    refused = {r.id: r for r in (*work.notes.values(), *work.refused.values(), *work.refused_by_rules.values(), *refusals)}
    result = StepResult(
        work.model if work.applied else model,
        bool(work.applied),
        dict(sorted(work.applied.items())),
        tuple(refused[k] for k in sorted(refused)),
        applications=tuple(work.applications),
        rules=dict(sorted(work.counts.items())),
        stop=work.stop,
    )
    return Ladder.single(result, "simplified")


def simplified_so_far(model: Model, context: Context, limit: int | None) -> tuple[Model, tuple[AppliedChange, ...]]:
    """`model` after the first `limit` things that `simplify` does to it (rewrites, runs of stages, writing out all functions), and those things. Whether the result loads is not asked."""
    base = inline_functions(model)
    work = _Work(model.copy() if base is model else base, _rules(context, Options()), frozenset(), limit)
    if base is not model:
        work.applications.append(_between(INLINE, map(label, nodes(model)), map(label, nodes(work.model))))
    work.run(context)
    return work.model, tuple(work.applications)


def _that_loads(model: Model, rules: Rules, off: frozenset[str], context: Context) -> tuple[_Work, list[Refusal]]:
    """`model` simplified, without the rules and stages whose results onnxruntime does not load; those as refusals.

    What onnxruntime cannot load before (operators that it does not know) says nothing about the result.
    """
    refusals: list[Refusal] = []
    while True:
        work = _without_needless_inlining(model, rules, off, context)
        try:
            problem = load_problem(work.model) if work.applied else None
            if problem is None or load_problem(model) is not None:
                return work, refusals
        except RuntimeUnavailable:  # folding has said so
            return work, refusals
        culprit = _culprit(model, rules, off, context, sorted(work.applied))
        if culprit is None:  # not even without any of them
            refusals.append(Refusal("simplify/load", f"onnxruntime loads the model, but nothing that is made of it, so it is returned unchanged: {problem}"))
            return _Work(model, rules, off), refusals
        reason = f"onnxruntime loads the model, but not what is made of it with this, so it is left out: {problem}"
        refusals.append(Refusal(f"{culprit}/load", reason, count=work.applied[culprit]))
        off |= {culprit}


def _culprit(model: Model, rules: Rules, off: frozenset[str], context: Context, applied: Sequence[str]) -> str | None:
    """The first of `applied`, in their order, with which the result does not load any more: found by bisection."""

    def loads_with(count: int) -> bool:
        return load_problem(_without_needless_inlining(model, rules, off | set(applied[count:]), context).model) is None

    good, bad = 0, len(applied)
    if not loads_with(good):
        return None
    while bad - good > 1:
        middle = (good + bad) // 2
        if loads_with(middle):
            good = middle
        else:
            bad = middle
    return applied[bad - 1]


@paused()
def _without_needless_inlining(model: Model, rules: Rules, off: frozenset[str], context: Context) -> _Work:
    """`model` simplified with its functions written out, but for those in which nothing was changed: they stay functions."""
    functions: set[Key] | None = None
    while True:
        base = model if INLINE in off else inline_functions(model, functions)
        work = _Work(model.copy() if base is model else base, rules, off)
        before = Counter() if base is model else _nodes_of_functions(work.model)
        if before:
            work.applications.append(_between(INLINE, map(label, nodes(model)), map(label, nodes(work.model))))
        work.run(context)
        after = _nodes_of_functions(work.model)
        changed = callers(model, {key for key, count in before.items() if after[key] != count})
        if set(before) <= changed:
            work.applied[INLINE] += len(before)
            work.applied = +work.applied
            if work.applied.keys() == {LISTED}:  # nothing came of it
                work.applied.clear()
                work.notes.clear()
            elif work.applied and LISTED not in off:
                mark_meant_defaults(work.model)
            return work
        functions = changed


def _between(by: str, before: Iterable[str], after: Iterable[str]) -> AppliedChange:
    """What lies between two states of a model, by the names of nodes."""
    old, new = dict.fromkeys(before), dict.fromkeys(after)
    return AppliedChange(by, tuple(n for n in old if n not in new), tuple(n for n in new if n not in old))


def _nodes_of_functions(model: Model) -> Counter[Key]:
    """How many nodes were written out of each function; Constant nodes, which become initializers in any case, are not counted."""
    return Counter(key for n in nodes(model) if not n.is_op("Constant") and (key := inlined_from(n)) is not None)


class _Work:
    """A model on its way to the fixed point. The refusals are those of the last time that a stage looked at it."""

    def __init__(self, model: Model, rules: Rules, off: frozenset[str], limit: int | None = None) -> None:
        self.model = model
        self.rules = rules
        self.off = off
        self._shapes: Shapes | None = None
        #: How many things were done to the model that the shapes were inferred from.
        self._inferred_at = 0
        self.growth = fold.Growth(model)
        self.applied: Counter[str] = Counter()
        self.refused: dict[str, Refusal] = {}
        self.refused_by_rules: dict[str, Refusal] = {}
        self.notes: dict[str, Refusal] = {}
        self.digests = duplicates.Digests()
        #: What was done, in order; no more than `limit` things are.
        self.applications: list[AppliedChange] = []
        self.limit = limit
        #: What the nodes are called, as long as nothing changes.
        self.names: dict[Node, str] = {}
        self.counts: dict[str, RuleCount] = {}
        self.stop = Stop.FIXED_POINT.value
        self._settled = False

    def run(self, context: Context) -> None:
        """Rounds until nothing changes."""
        rename_hidden(self.model)
        if LISTED not in self.off and (count := freeze_listed_initializers(self.model)):
            self.applied[LISTED] = count
            self.notes[LISTED] = Refusal(LISTED, LISTED_NOTE, count=count)
        for round_ in range(ROUNDS):
            context.progress("simplify", round_, None)
            if not self.round() and not self._learned():
                break
        else:
            self.stop = "rounds"
            self.notes["simplify/rounds"] = Refusal("simplify/rounds", f"stopped after {ROUNDS} rounds without a fixed point")
        # Last, since rules and folding look at who reads a constant.
        self._stage(duplicates.STAGE, lambda: duplicates.merge_equal_constants(self.model, self.digests))
        self.applied = +self.applied

    def shapes(self) -> Shapes:
        """Shapes, inferred when somebody asks first. Every edit keeps the values of the tensors that stay, so the answers hold over all rounds."""
        if self._shapes is None:
            self._inferred_at = self.applied.total()
            self._shapes = infer(self.model)
        return self._shapes

    def _learned(self) -> bool:
        """Whether the model, as it has become, says more or less of its tensors than what was inferred before: then that is taken, as a second run would.

        Where one tensor stands for another, either may have been known better: a Reshape says what its input's free size must be, the input of a Pad what comes out.
        """
        before = self._shapes
        if before is None or self.ended or self.stop != Stop.FIXED_POINT.value or self.applied.total() == self._inferred_at:
            return False
        self._shapes = None
        if self.shapes().agrees(before, self.model):
            return False
        self._settled = False
        return True

    def round(self) -> bool:
        """One pass of every stage; whether anything changed that another pass could build on."""
        before = self.applied.total()
        self._stage(constants.STAGE, lambda: constants.initializers_from_nodes(self.model))
        self._stage(dead.STAGE, lambda: dead.remove_dead(self.model))
        for stage, function in SHAPED_STAGES.items():
            self._stage(stage, functools.partial(function, self.model, self.shapes))
        self._stage(fold.STAGE, self._fold)
        self._stage(branches.STAGE, lambda: branches.inline_constant_ifs(self.model, self.shapes))
        self._stage(loops.STAGE, lambda: loops.inline_single_trips(self.model, self.shapes))
        self._stage(affine.STAGE, lambda: affine.join_runs(self.model, self.shapes, affine.LONG))
        self._settled = self._settled and self.applied.total() == before
        if not self._settled:
            self._rewrite()
        if self.applied.total() == before:  # behind the rules, which put constants into the layers before and behind them
            self._stage(affine.STAGE, lambda: affine.join_runs(self.model, self.shapes))
        if self.applied.total() == before:  # last, since rules ask how often a tensor is read
            self._stage(common.STAGE, lambda: common.merge_equal_nodes(self.model, self.digests))
            self._settled = self._settled and self.applied.total() == before
        changed = self.applied.total() > before
        self.applied = +self.applied
        return changed and not self.ended and RULES_STOPPED not in self.refused_by_rules

    @property
    def ended(self) -> bool:
        """Whether the limit is reached."""
        return self.limit is not None and len(self.applications) >= self.limit

    def _stage(self, name: str, run: Callable[[], int]) -> None:
        """Run a stage, unless it is switched off, and enter what it did."""
        if name in self.off or self.ended:
            return
        names = self.names or {n: label(n) for n in nodes(self.model)}
        count = run()
        self.names = {} if count else names
        if count:
            self.applied[name] += count
            left = dict.fromkeys(nodes(self.model))
            self.applications.append(AppliedChange(name, tuple(t for n, t in names.items() if n not in left), tuple(label(n) for n in left if n not in names)))

    def _fold(self) -> int:
        folding = fold.Folding(self.model, self.shapes, self.growth)
        count = folding.run()
        self.refused = {}
        for reason, names in folding.refused.items():
            self.refused[f"{fold.STAGE}/{reason}"] = Refusal(f"{fold.STAGE}/{reason}", fold.REASONS[reason], names[0], len(names))
        return count

    def _rewrite(self) -> None:
        """Rules run to their own fixed point. They look again only after something changed; a rewrite counts, because shapes of new tensors are known only then."""
        if self.ended:
            return
        rules = [r for r in self.rules({n.op for n in nodes(self.model)}) if r.id not in self.off]
        outcome = rewrite(self.model, rules, self.shapes, None if self.limit is None else self.limit - len(self.applications))
        self.applied.update(outcome.applied)
        self.applications += outcome.applications
        for rule, count in outcome.rules.items():
            self.counts.setdefault(rule, RuleCount()).add(count)
        self.stop = outcome.stop.value
        self._settled = not outcome.applied
        if outcome.applied:
            self.names = {}
        self.refused_by_rules = {}
        for (rule, clause), where in outcome.refused.items():
            name = f"{rule}/{clause}"
            self.refused_by_rules[name] = Refusal(name, f"the clause '{clause}' of rule {rule} does not hold", where.node, where.count)
        if outcome.stop in (Stop.LOOP, Stop.BUDGET):
            reason = f"rules {' and '.join(outcome.loop)} undo one another" if outcome.loop else "the budget of rewrites is used up"
            self.refused_by_rules[RULES_STOPPED] = Refusal(RULES_STOPPED, f"rewriting stopped without a fixed point: {reason}")


def _rules(context: Context, options: Options) -> Rules:
    """The rules that are on: those for the target or for all, without the approximate ones and those that are switched off."""
    root, target = rules_root() / "rewrite", context.target.name if context.target is not None else None
    known = {*STAGES, *rule_ids(root, target)}
    unknown = [name for name in options.off if name not in known]
    if unknown:
        raise UsageError(
            f"simplify: off names '{unknown[0]}', and there is no such stage or rule. Stages are {', '.join(STAGES)}; rules are the files of rules/rewrite."
        )
    return lambda operators: [r for r in load_rules(root, target, operators) if r.effect != "approximate"]
