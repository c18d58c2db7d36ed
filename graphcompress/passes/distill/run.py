"""distill: match, differentiate, learn, keep the best."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np

from graphcompress.data import WATCHED, watched
from graphcompress.errors import DataError, UsageError
from graphcompress.ir import Model
from graphcompress.ir.shapes.infer import Shapes, infer
from graphcompress.passes.distill.adapters import fitted
from graphcompress.passes.distill.augment import KINDS, Augmentation, Kind
from graphcompress.passes.distill.batches import Feed, batches, can_join, constant_inputs, joined
from graphcompress.passes.distill.lesson import Lesson
from graphcompress.passes.distill.masters import Masters
from graphcompress.passes.distill.match import Adapter, Pair, pairs, stated_matching
from graphcompress.passes.distill.optimizer import Adam
from graphcompress.passes.distill.options import Options
from graphcompress.passes.distill.weights import learnable
from graphcompress.step import Context, Ladder, Refusal, StepResult

Array: TypeAlias = np.ndarray[Any, Any]

FEWEST = 4  # different feeds; fewer cannot be split into those that teach and those that watch
WATCHES = 20  # how often, over all steps
TIMED = 3  # steps that are timed, after one that warms up
MOST_LESSONS = 32  # sessions for different shapes of feeds that are open at one time
NOTHING_TO_LEARN = 1e-8  # of the outputs' variance
IMPROVEMENT = 1e-3  # relative: a smaller one is noise
FAR = 0.2
"""Error of the outputs, as a part of their variance, from which on a student learns at the whole rate. A nearer one takes smaller steps, by the root of its error: at the whole rate it would be thrown back at once."""
TRIAL_PART, LEAST_TRIAL = 0.05, 20
"""A trial of an augmentation takes this part of all steps; where that is fewer than LEAST_TRIAL, nothing is tried, and inputs stay as they are."""
TRIAL_RATE = 0.2
"""Of the highest rate: at the whole of it a course that short throws a student back whatever it is shown."""
ADAPTED = 8  # batches that adapters are fitted on


def distill(model: Model, context: Context, options: Options | None = None) -> Ladder:
    """Let `model`, the student, learn the outputs of `context.teacher` on `context.data`, without labels.

    Only initializers change. The state with the lowest loss of the outputs on feeds that it does not learn from is the result; where none is better than the start, the model itself. Weights
    that do not learn are refusals with their reason. Raises UsageError without a teacher or for a pattern that matches nothing, DataError without feeds, ModelError where teacher and
    student have no output in common.
    """
    options = options or Options()
    if context.teacher is None:
        raise UsageError("A student needs a teacher: there is none in the context (`--teacher`).")
    feeds: list[Feed] = [] if context.data is None else list(context.data)
    if len(feeds) < FEWEST:
        raise DataError(f"A student learns from feeds, and there are {len(feeds)} of them here; at least {FEWEST} are needed. Give more with --data.")
    return Ladder.single(_Course(model, context.teacher, feeds, context, options).run())


class _Course:
    """One student on its way."""

    def __init__(self, student: Model, teacher: Model, feeds: Sequence[Feed], context: Context, options: Options) -> None:
        self.masters = Masters(student)
        self.sizes = self.masters.sizes()
        self.student, self.teacher, self.context, self.options = self.masters.model, teacher, context, options
        self.matching = stated_matching(options.match, [result.decisions for result in context.earlier])
        self.fixed = constant_inputs(feeds)
        self.teach, self.watch = parted(feeds)
        self.join = can_join((self.student, teacher), feeds, self.fixed)
        self.size = min(options.batch, len(self.teach))
        self.lessons: dict[tuple[Any, ...], Lesson] = {}
        self.views: dict[str, Adapter] = {}
        self.scales: dict[str, float] = {}
        values, self.frozen = learnable(self.student, options.freeze, self.masters.scales, self.masters.fixed)
        self.start = values
        self.weights = {name: np.array(value) for name, value in values.items()}
        self.rng = np.random.default_rng(context.seed)
        self.rate = options.rate
        self.decisions: dict[str, Any] = {}
        kinds: list[Kind] = [kind for kind in options.augment if kind != "auto"]
        self.augmentation = Augmentation(kinds, teacher.inputs)

    def run(self) -> StepResult:
        try:
            return self.learn()
        finally:
            for lesson in self.lessons.values():
                lesson.close()

    def learn(self) -> StepResult:
        if not self.weights:
            nothing = Refusal("distill/no-weights", "no initializer of its main graph can learn")
            return StepResult(self.masters.student, False, refusals=(nothing, *self.refusals()))
        first = self.lesson(self.parts(range(self.size), self.teach)[0][0])
        self.frozen |= {name: Refusal(r.id.replace("gradient/", "distill/"), r.reason, name) for name, r in first.frozen.items()}
        trained = first.trained
        if not trained:
            return StepResult(self.masters.student, False, refusals=self.refusals(), decisions={"steps": 0, "trained": 0})
        self.weights = {name: self.weights[name] for name in trained}
        best, best_loss = dict(self.start), self.watched()
        if best_loss < NOTHING_TO_LEARN:
            nothing = Refusal("distill/nothing-to-learn", "its answers are those of the teacher on the feeds that watch")
            return StepResult(
                self.masters.student, False, refusals=(nothing, *self.refusals()), decisions={"steps": 0, "trained": 0, "loss": {"before": best_loss}}
            )
        self.rate = self.options.rate * min(1.0, math.sqrt(best_loss / FAR))
        steps = self.budget()
        losses = [[0, best_loss]]
        every, step = max(1, steps // WATCHES), 0
        try:
            self.augmentation = self.choose_augmentation(steps)
            order, adam = self.course(self.rate, steps)
            for step in range(1, steps + 1):
                adam.update(self.gradients(next(order)))
                self.masters.keep_bounds(self.weights)
                self.context.progress(f"distill, error {losses[-1][1]:.4f}", step, steps)
                if step % every == 0 or step == steps:
                    losses.append([step, self.watched()])
                    if losses[-1][1] < best_loss:
                        best, best_loss = {name: np.array(w) for name, w in self.weights.items()}, losses[-1][1]
        except KeyboardInterrupt:
            if not self.options.keep:
                raise
            self.decisions["interrupted"] = step
        changed = best_loss < losses[0][1] * (1 - IMPROVEMENT)
        self.decisions |= {
            "steps": steps,
            "rate": self.rate,
            "batch": self.size,
            "trained": len(trained),
            "teach": len(self.teach),
            "watch": len(self.watch),
            "matched": {"outputs": [p.name for p in first.pairs if p.output], "features": [p.name for p in first.pairs if not p.output]},
            "losses": losses,
            "loss": {"before": losses[0][1], "after": best_loss},
        }
        result = self.masters.written({name: best[name] for name in trained}) if changed else self.masters.student
        return StepResult(result, changed, {"distill/weights": len(trained)} if changed else {}, self.refusals(), self.decisions)

    def course(self, rate: float, steps: int) -> tuple[Iterator[list[int]], Adam]:
        """A new beginning: the order of the feeds, and the optimizer of the weights, which are those of the start. What was drawn before leaves no trace, so that the same number of steps gives
        the same student."""
        self.rng = np.random.default_rng(self.context.seed)
        self.weights = {name: np.array(self.start[name]) for name in self.weights}
        return batches(len(self.teach), self.size, self.rng), Adam(self.weights, rate, steps, self.sizes, self.masters.scales | self.masters.factors)

    def choose_augmentation(self, steps: int) -> Augmentation:
        """The augmentation that was asked for or decided before, or all kinds of it each of which, in a trial of its own, brings the student nearer than inputs as they are do."""
        if "auto" not in self.options.augment:
            self.decisions["augment"] = list(self.augmentation.kinds)
            return self.augmentation
        if self.context.decisions is not None and "augment" in self.context.decisions:
            kinds: list[Kind] = [kind for kind in KINDS if kind in self.context.decisions["augment"]]
        else:
            trials = self.trials(steps)
            kinds = [kind for kind in KINDS if kind in trials and trials[kind] < trials["none"] * (1 - IMPROVEMENT)]
            self.decisions["trials"] = trials
        self.decisions["augment"] = kinds
        return Augmentation(kinds, self.teacher.inputs)

    def trials(self, steps: int) -> dict[str, float]:
        """The loss of the outputs on the feeds that watch after a short course with each kind alone, and without any ("none"); nothing where there is nothing to choose, or no time for it."""
        usual = Augmentation((), self.teacher.inputs)
        kinds = [kind for kind in KINDS if usual.applies(kind)]
        length = round(TRIAL_PART * steps)
        if not kinds or length < LEAST_TRIAL:
            return {}
        losses: dict[str, float] = {}
        for index, augmentation in enumerate([usual, *(Augmentation((kind,), self.teacher.inputs) for kind in kinds)]):
            self.augmentation = augmentation
            order, adam = self.course(TRIAL_RATE * self.rate, length)
            for step in range(length):
                self.context.progress("distill, trying augmentations", index * length + step, (1 + len(kinds)) * length)
                adam.update(self.gradients(next(order)))
                self.masters.keep_bounds(self.weights)
            losses[next(iter(augmentation.kinds), "none")] = self.watched()
        return losses

    def budget(self) -> int:
        """The number of steps: where it is neither decided before nor stated without a time, what the first ones take decides."""
        stated = self.options.steps
        if stated is not None and "minutes" not in self.options.model_fields_set:
            return stated
        if self.context.decisions is not None and "steps" in self.context.decisions:
            return int(self.context.decisions["steps"])
        self.gradients(range(self.size))
        begin = time.perf_counter()
        for _ in range(TIMED):
            self.gradients(range(self.size))
        seconds = (time.perf_counter() - begin) / TIMED
        self.decisions["step_seconds"] = seconds
        tried = 1 + sum(map(self.augmentation.applies, KINDS)) if "auto" in self.options.augment else 0
        fitting = max(1, round(60 * self.options.minutes / seconds / (1 + TRIAL_PART * tried)))
        return fitting if stated is None else min(stated, fitting)

    def gradients(self, indices: Sequence[int]) -> dict[str, Array]:
        """The mean gradient over some feeds that teach."""
        chosen = [self.teach[i] for i in indices]
        if self.augmentation.kinds:
            partners = self.rng.permutation(len(chosen)).tolist()
            chosen = [self.augmentation.draw(feed, chosen[other], self.rng) for feed, other in zip(chosen, partners, strict=True)]
        parts = self.parts(range(len(chosen)), chosen)
        total: dict[str, Array] = {}
        for feed, share in parts:
            _, gradients = self.lesson(feed).gradients(feed, self.weights)
            for name, value in gradients.items():
                total[name] = value if len(parts) == 1 else total.get(name, 0) + share * value
        return total

    def watched(self) -> float:
        """The loss of the outputs over the feeds that watch."""
        size = self.size if self.join else 1
        groups = [range(i, min(i + size, len(self.watch))) for i in range(0, len(self.watch), size)]
        loss = 0.0
        for group in groups:
            for feed, share in self.parts(group, self.watch):
                loss += share * len(group) * self.lesson(feed).output_loss(feed, self.weights)
        return loss / len(self.watch)

    def parts(self, indices: Iterable[int], feeds: Sequence[Feed]) -> list[tuple[Feed, float]]:
        """Some feeds as one where they can be joined, else one by one, each with its share."""
        chosen = [feeds[i] for i in indices]
        return [(joined(chosen, self.fixed), 1.0)] if self.join else [(feed, 1 / len(chosen)) for feed in chosen]

    def lesson(self, feed: Feed) -> Lesson:
        """The sessions for feeds of this shape; those that were not used for longest are closed."""
        key = tuple((name, array.shape) for name, array in sorted(feed.items()))
        lesson = self.lessons.pop(key, None)
        if lesson is None:
            while len(self.lessons) >= MOST_LESSONS:
                self.lessons.pop(next(iter(self.lessons))).close()
            lesson = Lesson(self.student, self.teacher, self.pairs(feed), feed, self.fixed, self.weights, self.scales, threads=self.context.threads)
        self.lessons[key] = lesson
        return lesson

    def pairs(self, feed: Feed) -> list[Pair]:
        """What is compared on feeds of this shape. Adapters are fitted once, for all shapes."""
        shapes = self.shapes(feed)
        chosen = pairs(self.student, self.teacher, shapes, self.matching, features=self.options.match != "outputs")
        if not self.views and any(isinstance(p.view, Adapter) for p in chosen):
            count = min(len(self.teach), ADAPTED * self.size)
            some = [part for i in range(0, count, self.size) for part, _ in self.parts(range(i, min(count, i + self.size)), self.teach)]
            self.views = {p.name: p.view for p in fitted(chosen, self.student, self.teacher, some, threads=self.context.threads) if isinstance(p.view, Adapter)}
        return [replace(p, view=self.views[p.name]) if isinstance(p.view, Adapter) else p for p in chosen]

    def shapes(self, feed: Feed) -> tuple[Shapes, Shapes]:
        """Those of student and teacher on a feed."""
        inputs = {name: array.shape for name, array in feed.items()}
        return infer(self.student, inputs), infer(self.teacher, inputs)

    def refusals(self) -> tuple[Refusal, ...]:
        """Why weights do not learn: one entry for each reason, with the first weight and how many there are."""
        counts = Counter((r.id, r.reason) for r in self.frozen.values())
        firsts: Mapping[tuple[str, str], str] = {(r.id, r.reason): name for name, r in reversed(self.frozen.items())}
        return tuple(Refusal(id, reason, firsts[id, reason], count) for (id, reason), count in counts.items())


def parted(feeds: Sequence[Feed]) -> tuple[list[Feed], list[Feed]]:
    """(feeds that teach, feeds that watch): those that nobody fits anything on (`data.watched`), every 8th where there are none."""
    marks = watched(feeds)
    if not any(marks):
        every = min(WATCHED, len(feeds))
        marks = [i % every == every - 1 for i in range(len(feeds))]
    return [f for f, m in zip(feeds, marks, strict=True) if not m], [f for f, m in zip(feeds, marks, strict=True) if m]
