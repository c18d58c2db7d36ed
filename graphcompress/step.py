"""The vocabulary between passes and record: what a step is given, and what it hands back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from graphcompress.data import Dataset
    from graphcompress.ir import Model
    from graphcompress.targets import Target


class Progress(Protocol):
    """Where a step says how far it is. `cli` draws bars; the default says nothing."""

    def __call__(self, what: str, done: int, total: int | None) -> None: ...


def silent(what: str, done: int, total: int | None) -> None:
    """Progress that nobody sees."""


@dataclass(frozen=True, slots=True)
class Context:
    """What every step is given. Nothing else may influence a result.

    `data` are the feeds for calibration (None: no data); `threads` None means the runtime's default; `seed` feeds every random generator.
    """

    target: Target | None = None
    data: Dataset | None = None
    provider: str = "cpu"
    threads: int | None = None
    seed: int = 0
    progress: Progress = silent


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why something was left as it was: a stable id ("quantize/no-int8-kernel"), a sentence, the node, and how often."""

    id: str
    reason: str
    node: str = ""
    count: int = 1


@dataclass(frozen=True, slots=True)
class StepResult:
    """What a step hands to the runner: a new model (the given one where `changed` is false), what was applied and how often (rule or stage id -> count),
    refusals, decisions (what was chosen, as plain JSON data) and, from quantization, the certificate (plain JSON data)."""

    model: Model
    changed: bool
    applied: dict[str, int] = field(default_factory=dict)
    refusals: tuple[Refusal, ...] = ()
    decisions: dict[str, Any] = field(default_factory=dict)
    certificate: dict[str, Any] | None = None


Step = Callable[["Model", Context], StepResult]
