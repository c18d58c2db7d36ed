"""Apply rules until nothing changes: a worklist of nodes, in which a rewrite puts its own neighbourhood back."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from enum import Enum

import numpy as np

from graphcompress.engine.match import Match, RuleIndex, matches
from graphcompress.engine.net import Net, distinct
from graphcompress.engine.rewrite import Applied, apply
from graphcompress.engine.rulefile import Rule
from graphcompress.ir import Model, Node
from graphcompress.ir.model.garbage import paused
from graphcompress.ir.shapes.infer import Shapes, infer

# Rewrites that a graph of n nodes may need before something must be wrong.
BUDGET_PER_NODE = 8
BUDGET_AT_LEAST = 1000
# A tensor that is rewritten this often in a row without the graph getting smaller is rewritten for ever.
TURNS = 12


class Stop(Enum):
    """Why a run ended."""

    FIXED_POINT = "fixed point"
    BUDGET = "budget"
    LOOP = "loop"


@dataclass(slots=True)
class Refused:
    """How many places a clause kept as they are, and the first of them."""

    count: int = 0
    node: str = ""


@dataclass(slots=True)
class Outcome:
    """`applied`: rule id -> rewrites; `refused`: (rule id, clause) -> places; `loop`: the rules that undo one another; `visits`: nodes looked at."""

    applied: Counter[str] = field(default_factory=Counter)
    refused: dict[tuple[str, str], Refused] = field(default_factory=dict)
    stop: Stop = Stop.FIXED_POINT
    loop: tuple[str, ...] = ()
    visits: int = 0


@paused()
def rewrite(model: Model, rules: Sequence[Rule], shapes: Callable[[], Shapes] | None = None) -> Outcome:
    """Apply `rules` to `model`, in place, everywhere but in functions. `shapes` answers what is known of its tensors (default: inferred when first needed)."""
    with np.errstate(all="ignore"):
        return _Run(model, rules, shapes or _inferred(model)).run()


class _Run:
    def __init__(self, model: Model, rules: Sequence[Rule], shapes: Callable[[], Shapes]) -> None:
        self.net = Net(model, shapes)
        self.index = RuleIndex(rules, self.net)
        self.outcome = Outcome()
        self.work: deque[Node] = deque(self.net.order)
        self.waiting = {id(n) for n in self.work}
        self.reasons: dict[tuple[str, int], tuple[str, Node]] = {}
        self.history: dict[int, deque[tuple[str, int]]] = {}

    def run(self) -> Outcome:
        budget = max(BUDGET_AT_LEAST, BUDGET_PER_NODE * len(self.net))
        while self.work:
            node = self.work.popleft()
            self.waiting.discard(id(node))
            if not self.net.alive(node):
                continue
            self.outcome.visits += 1
            if not self.visit(node):
                continue
            if self.outcome.stop is Stop.LOOP:
                break
            if sum(self.outcome.applied.values()) >= budget:
                self.outcome.stop = Stop.BUDGET
                break
        self.net.commit()
        for (rule, _), (reason, node) in self.reasons.items():
            if self.net.alive(node):
                entry = self.outcome.refused.setdefault((rule, reason), Refused(node=node.name or node.outputs[0].name))
                entry.count += 1
        return self.outcome

    def visit(self, node: Node) -> bool:
        """Try every rule that could end here; True where one was applied."""
        for rule in self.index.candidates(node, self.net):
            reason: str | None = None
            for match in matches(rule, node, self.net):
                size = len(self.net)
                found = match.refused_by() or apply(match)
                match.known = None  # it holds what was decoded, in a cycle
                if isinstance(found, Applied):
                    self.applied(match, found, len(self.net) - size)
                    return True
                reason = found if reason is None else _further(rule, reason, found)
            if reason is not None:
                self.reasons[rule.id, id(node)] = (reason, node)
        return False

    def applied(self, match: Match, done: Applied, grown: int) -> None:
        rule = match.rule.id
        self.outcome.applied[rule] += 1
        for tensor in done.outputs:
            past = self.history.setdefault(id(tensor), deque(maxlen=TURNS))
            past.append((rule, grown))
            if len(past) == TURNS and sum(g for _, g in past) >= 0:
                self.outcome.stop = Stop.LOOP
                self.outcome.loop = tuple(sorted({r for r, _ in past}))
        self.queue(done.nodes)
        for tensor in done.released:
            if self.net.uses(tensor) == 1:
                self.queue(self.net.readers(tensor))
        level = list(done.readers)
        for _ in range(self.index.depth):
            self.queue(level)
            level = distinct(r for n in level for t in n.outputs if t.name for r in self.net.readers(t))

    def queue(self, nodes: Iterable[Node]) -> None:
        for node in nodes:
            if id(node) not in self.waiting and self.net.alive(node):
                self.waiting.add(id(node))
                self.work.append(node)


def _further(rule: Rule, one: str, other: str) -> str:
    """Of two reasons for one place, that of the match which got further."""
    order = {c.text: i for i, c in enumerate(rule.clauses)}
    last = len(order)
    return other if order.get(other, last) > order.get(one, last) else one


def _inferred(model: Model) -> Callable[[], Shapes]:
    found: list[Shapes] = []

    def ask() -> Shapes:
        if not found:
            found.append(infer(model))
        return found[0]

    return ask
