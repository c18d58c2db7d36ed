"""Apply rules until nothing changes: a worklist of nodes, in which a rewrite puts its own neighbourhood back."""

from __future__ import annotations

import functools
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from enum import Enum

import numpy as np

from graphcompress.engine.match import Match, RuleIndex, matches
from graphcompress.engine.overlay import GraphOverlay, distinct
from graphcompress.engine.rewrite import Applied, apply
from graphcompress.engine.rulefile import Rule
from graphcompress.ir import Model, Node, label
from graphcompress.ir.model.garbage import paused
from graphcompress.ir.shapes.infer import Shapes, infer
from graphcompress.step import AppliedChange, RuleCount

# Rewrites that a graph of n nodes may need before something must be wrong.
BUDGET_PER_NODE = 8
BUDGET_AT_LEAST = 1000
# A tensor that is rewritten this often in a row without the graph getting smaller would be rewritten without end.
TURNS = 12


class Stop(Enum):
    """Why a run ended."""

    FIXED_POINT = "fixed point"
    BUDGET = "budget"
    LOOP = "loop"
    LIMIT = "limit"


@dataclass(slots=True)
class RefusalCount:
    """How many places a clause left unchanged, and the first of them."""

    count: int = 0
    node: str = ""


@dataclass(slots=True)
class RewriteResult:
    """`applied`: rule id -> rewrites; `refused`: (rule id, clause) -> places; `loop`: the rules that undo one another; `visits`: nodes looked at; `applications`:
    every rewrite, in order; `rules`: what each rule cost that was tried."""

    applied: Counter[str] = field(default_factory=Counter)
    refused: dict[tuple[str, str], RefusalCount] = field(default_factory=dict)
    stop: Stop = Stop.FIXED_POINT
    loop: tuple[str, ...] = ()
    visits: int = 0
    applications: list[AppliedChange] = field(default_factory=list)
    rules: dict[str, RuleCount] = field(default_factory=dict)


@paused()
def rewrite(model: Model, rules: Sequence[Rule], shapes: Callable[[], Shapes] | None = None, limit: int | None = None) -> RewriteResult:
    """Apply `rules` to `model`, in place, everywhere but in functions. `shapes` answers what is known of its tensors (default: inferred when first needed);
    after `limit` rewrites nothing more is done."""
    with np.errstate(all="ignore"):
        return _Run(model, rules, shapes or _inferred(model), limit).run()


class _Run:
    def __init__(self, model: Model, rules: Sequence[Rule], shapes: Callable[[], Shapes], limit: int | None) -> None:
        self.overlay = GraphOverlay(model, shapes)
        self.index = RuleIndex(rules, self.overlay)
        self.result = RewriteResult()
        self.limit = limit
        self.work: deque[Node] = deque(self.overlay.order)
        self.waiting = {id(n) for n in self.work}
        self.reasons: dict[tuple[str, int], tuple[str, Node]] = {}
        self.history: dict[int, deque[tuple[str, int]]] = {}

    def run(self) -> RewriteResult:
        budget = max(BUDGET_AT_LEAST, BUDGET_PER_NODE * len(self.overlay))
        while self.work:
            if len(self.result.applications) == self.limit:
                self.result.stop = Stop.LIMIT
                break
            node = self.work.popleft()
            self.waiting.discard(id(node))
            if not self.overlay.alive(node):
                continue
            self.result.visits += 1
            if not self.visit(node):
                continue
            if self.result.stop is Stop.LOOP:
                break
            if len(self.result.applications) >= budget:
                self.result.stop = Stop.BUDGET
                break
        self.overlay.commit()
        for (rule, _), (reason, node) in self.reasons.items():
            if self.overlay.alive(node):
                entry = self.result.refused.setdefault((rule, reason), RefusalCount(node=label(node)))
                entry.count += 1
        return self.result

    def visit(self, node: Node) -> bool:
        """Try every rule that could end here; True where one was applied."""
        for rule in self.index.candidates(node, self.overlay):
            count = self.result.rules.setdefault(rule.id, RuleCount())
            count.tried += 1
            begin = time.perf_counter()
            done = self.attempt(rule, node, count)
            count.seconds += time.perf_counter() - begin
            if done:
                return True
        return False

    def attempt(self, rule: Rule, node: Node, count: RuleCount) -> bool:
        """Apply `rule` where it ends in `node`; whether it was."""
        reason: str | None = None
        for match in matches(rule, node, self.overlay):
            count.matched += 1
            size = len(self.overlay)
            outcome = match.refused_by() or apply(match)
            match.bindings = None  # it holds what was decoded, in a cycle
            if isinstance(outcome, Applied):
                count.applied += 1
                self.applied(match, outcome, len(self.overlay) - size)
                return True
            count.refused += 1
            reason = outcome if reason is None else _further(rule, reason, outcome)
        if reason is not None:
            self.reasons[rule.id, id(node)] = (reason, node)
        return False

    def applied(self, match: Match, done: Applied, grown: int) -> None:
        rule = match.rule.id
        self.result.applied[rule] += 1
        self.result.applications.append(AppliedChange(rule, done.removed, tuple(map(label, done.nodes))))
        for tensor in done.outputs:
            past = self.history.setdefault(id(tensor), deque(maxlen=TURNS))
            past.append((rule, grown))
            if len(past) == TURNS and sum(g for _, g in past) >= 0:
                self.result.stop = Stop.LOOP
                self.result.loop = tuple(sorted({r for r, _ in past}))
        self.queue(done.nodes)
        for tensor in done.released:
            if self.overlay.uses(tensor) == 1:
                self.queue(self.overlay.readers(tensor))
        level = list(done.readers)
        for _ in range(self.index.depth):
            self.queue(level)
            level = distinct(r for n in level for t in n.outputs if t.name for r in self.overlay.readers(t))

    def queue(self, nodes: Iterable[Node]) -> None:
        for node in nodes:
            if id(node) not in self.waiting and self.overlay.alive(node):
                self.waiting.add(id(node))
                self.work.append(node)


def _further(rule: Rule, one: str, other: str) -> str:
    """Of two reasons for one place, that of the match which got further."""
    order = {c.text: i for i, c in enumerate(rule.clauses)}
    last = len(order)
    return other if order.get(other, last) > order.get(one, last) else one


def _inferred(model: Model) -> Callable[[], Shapes]:
    return functools.cache(lambda: infer(model))
