"""What is judged, what was found about it, and what came of a search."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from graphcompress.gate.bars import reaches
from graphcompress.step import ExecutedStep, PlannedStep, Rung

if TYPE_CHECKING:
    from graphcompress.ir import Model
    from graphcompress.runtime.compare import Comparison
    from graphcompress.runtime.measure import Measurement


@dataclass(frozen=True, eq=False, slots=True)
class Candidate:
    """The original (no `rung`), or rung `index` (0: the boldest) of the step at `position` of the recipe on top of another candidate."""

    original: Model
    base: Candidate | None = None
    position: int = -1
    step: PlannedStep | None = None
    rung: Rung | None = None
    index: int = 0

    @property
    def model(self) -> Model:
        """The model; builds it. Raises what building raises."""
        return self.original if self.rung is None else self.rung.result.model

    @property
    def path(self) -> tuple[Candidate, ...]:
        """The candidates that it stands on, from the first step to itself, without the original."""
        return () if self.base is None else (*self.base.path, self)

    @property
    def steps(self) -> tuple[str, ...]:
        """The names of the steps that are in it."""
        return tuple(part.step.kind.name for part in self.path if part.step is not None)

    @property
    def rungs(self) -> tuple[str, ...]:
        """The labels of the rungs that are in it."""
        return tuple(part.rung.label for part in self.path if part.rung is not None)

    @property
    def exact(self) -> bool:
        """Every step in it computes the same function by construction."""
        return all(part.step.kind.exact for part in self.path if part.step is not None)


@dataclass(frozen=True, slots=True)
class Judgement:
    """What was found about a candidate: `reason` is "" where it holds (as far as it was judged), `because` a clause that says why not. `measurements` are by
    thread setting."""

    candidate: Candidate
    reason: str = ""
    because: str = ""
    comparison: Comparison | None = None
    measurements: tuple[tuple[int, Measurement], ...] = ()

    @property
    def holds(self) -> bool:
        return not self.reason

    @property
    def speedup(self) -> float | None:
        """The lowest over the thread settings; 1 for the original, None where nothing was measured."""
        return 1.0 if self.candidate.rung is None else min((m.speedup for _, m in self.measurements), default=None)

    @property
    def slower(self) -> bool:
        """Whether it was measured slower than the original, or is more likely that than not."""
        return reaches((m for _, m in self.measurements), 1.0) is False


@dataclass(frozen=True, slots=True)
class Outcome:
    """What was chosen, every candidate that was judged in the order in which it was, and the steps of the recipe as they were executed."""

    chosen: Judgement
    judged: tuple[Judgement, ...]
    executed: tuple[ExecutedStep, ...]
