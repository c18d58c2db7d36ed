"""The vocabulary between passes and record: what a step is given, and what it hands back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any, Literal, Protocol

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
class CertifiedOperator:
    """One heavy operator of a result: `precision` it computes in, and why that is float (`id`, `reason`; empty otherwise)."""

    node: str
    op: str
    precision: Literal["int8", "float"]
    id: str = ""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Certificate:
    """What of a result runs in integers on `target`, operator by operator."""

    target: str
    operators: tuple[CertifiedOperator, ...]

    @property
    def integer(self) -> int:
        """How many heavy operators compute in INT8."""
        return sum(o.precision == "int8" for o in self.operators)


@dataclass(frozen=True, slots=True)
class StepResult:
    """One result of a step: a new model (the given one where `changed` is false), what was applied and how often (rule or stage id -> count),
    refusals, decisions (what was chosen, as plain JSON data) and, from quantization, the certificate."""

    model: Model
    changed: bool
    applied: dict[str, int] = field(default_factory=dict)
    refusals: tuple[Refusal, ...] = ()
    decisions: dict[str, Any] = field(default_factory=dict)
    certificate: Certificate | None = None


class Rung:
    """One alternative of a step, built when `result` is asked for first, once. `label` says what it is ("all 40 layers", "31 of 40 layers");
    `gain_ns` is what the target's table expects it to save per run against the step's input, None where nothing is known."""

    def __init__(self, label: str, build: Callable[[], StepResult], gain_ns: float | None = None) -> None:
        self.label = label
        self.gain_ns = gain_ns
        self._build = build
        self._result: StepResult | None = None

    @property
    def result(self) -> StepResult:
        """The alternative itself. Raises what building it raises."""
        if self._result is None:
            self._result = self._build()
        return self._result


@dataclass(frozen=True, slots=True)
class Ladder:
    """What a step returns: its alternatives, the boldest first; the step's input is the alternative below the last. `monotone`: each rung is at least as faithful
    as the one before it, as far as the step can tell, so that the judge may search by bisection."""

    rungs: tuple[Rung, ...]
    monotone: bool = True

    @classmethod
    def single(cls, result: StepResult, label: str = "") -> Ladder:
        """A ladder of one alternative that is there already."""
        return cls((Rung(label, lambda: result),))

    @property
    def boldest(self) -> StepResult:
        """The first alternative: what the step does where nobody judges."""
        return self.rungs[0].result


Step = Callable[["Model", Context], Ladder]


@cache
def local_target() -> str:
    """The name of the table for onnxruntime's CPU provider on this machine: `cpu`, or `cpu-avx2` where integer kernels saturate. Runs one small model."""
    from graphcompress.runtime.saturation import saturates
    from graphcompress.runtime.session import open_session

    return "cpu-avx2" if saturates(lambda model: open_session(model, threads=1)) else "cpu"
