"""Going through seeds, and telling what was found."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable
from dataclasses import dataclass, field

import onnx
import onnx.printer

from differential.judge import Discarded, Fault, judge
from differential.program import Case, generate
from differential.shrink import shrink


@dataclass(slots=True)
class Outcome:
    """Of a search: the first case of each distinct fault, how many seeds had one, how many were discarded, the seed to go on with."""

    faults: list[tuple[Case, Fault]] = field(default_factory=list)
    seeds: dict[tuple[str, str], list[int]] = field(default_factory=dict)
    tried: int = 0
    discarded: int = 0
    next: int = 0

    def add(self, other: Outcome) -> None:
        """Go on with what another search, over the seeds behind, came to."""
        self.faults += [(case, fault) for case, fault in other.faults if fault.key not in self.seeds]
        for key, seeds in other.seeds.items():
            self.seeds.setdefault(key, []).extend(seeds)
        self.tried, self.discarded, self.next = self.tried + other.tried, self.discarded + other.discarded, max(self.next, other.next)

    @property
    def faulty(self) -> int:
        return sum(len(s) for s in self.seeds.values())


def search(
    kind: str, seeds: Iterable[int], *, stop: Callable[[], bool] = lambda: False, limit: int | None = None, kinds: Container[str] | None = None
) -> Outcome:
    """Judge the cases of `seeds`, noting all faults or those of `kinds`; end early after `limit` distinct ones."""
    outcome = Outcome()
    for seed in seeds:
        if stop() or (limit is not None and len(outcome.faults) >= limit):
            break
        outcome.tried += 1
        outcome.next = seed + 1
        case = generate(kind, seed)
        try:
            fault = judge(case)
        except Discarded:
            outcome.discarded += 1
            continue
        if fault is not None and (kinds is None or fault.kind in kinds):
            if fault.key not in outcome.seeds:
                outcome.faults.append((case, fault))
            outcome.seeds.setdefault(fault.key, []).append(seed)
    return outcome


def report(case: Case, fault: Fault) -> str:
    """The shrunk case as ONNX text, its feeds, what is wrong, and how to see it again."""
    small, found = shrink(case, fault)
    feeds = "\n".join(f"feed {i}: " + ", ".join(f"{k} = {v.dtype}{list(v.shape)} {v.tolist()}" for k, v in f.items()) for i, f in enumerate(small.feeds))
    result = f"\nbecame\n{text(found.result)}" if found.result is not None else ""
    again = f"PYTHONPATH=tests/support python -m differential {case.kind} {case.seed} {case.seed + 1}"
    target = f" (target {case.target})" if case.target else ""
    return f"--- {found.kind} [{found.place}], seed {case.seed}{target}: {again}\n{text(small.model)}\n{feeds}\n{found.text}{result}\n"


def text(model: onnx.ModelProto) -> str:
    return str(onnx.printer.to_text(model))
