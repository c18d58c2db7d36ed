"""A judge whose answers are made up, and steps whose models are names: what tests of the gate search with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from graphcompress.errors import ModelError
from graphcompress.gate import Bars, CandidateFails, Goal, Outcome, search
from graphcompress.gate.explain import explanation
from graphcompress.ir import TensorSpec
from graphcompress.runtime.compare import Comparison
from graphcompress.runtime.measure import Measurement
from graphcompress.step import Certificate, CertifiedOperator, Context, Ladder, Rung, StepResult

Y = TensorSpec("y", "float", (1, 10))


def model(name: str, outputs: tuple[TensorSpec, ...] = (Y,)) -> Any:
    return SimpleNamespace(name=name, inputs=(TensorSpec("x", "float", (1, 4)),), outputs=outputs)


def same_size(model: Any) -> int:
    return 100


ORIGINAL = model("original")


SPEEDS: dict[str, tuple[float, tuple[float, float], Any]] = {
    "faster": (2.0, (1.9, 2.1), "faster"),
    "slower": (0.5, (0.4, 0.6), "slower"),
    "barely slower": (0.985, (0.983, 0.988), "slower"),
    "same": (0.99, (0.98, 1.0), "same"),
    "noisy": (1.02, (0.8, 1.3), "noisy"),
    "noisy loss": (0.91, (0.7, 1.1), "noisy"),
    "noisy gain": (1.4, (0.9, 1.8), "noisy"),
}


@dataclass
class FakeJudge:
    """Agreement and verdict by the name of the model (default: 1.0, faster), the verdict also by (name, threads); a message where a model does not run.
    `inputs`: with 19 a measure whose floor is 0.95 is clear of it in the middle between floor and 1."""

    agreement: dict[str, float | None] = field(default_factory=dict)
    verdicts: dict[Any, str] = field(default_factory=dict)
    fails: dict[str, str] = field(default_factory=dict)
    original_fails: str = ""
    unstable: bool = False
    worst: str | None = "y"
    inputs: int = 19
    compared: list[str] = field(default_factory=list)
    measured: list[tuple[str, int]] = field(default_factory=list)

    def compare(self, model: Any) -> Any:
        self.compared.append(model.name)
        if model.name in self.fails:
            raise CandidateFails(self.fails[model.name])
        outputs: dict[str, Any] = {"y": SimpleNamespace(unstable=self.unstable, inputs=self.inputs, equal=False, sqnr_db=None)}
        agreement = self.agreement.get(model.name, 1.0)
        judging: Any = () if agreement is None else ((self.worst or "", SimpleNamespace(agreement=agreement, floor=0.95, decisions=0)),)
        return Comparison(outputs, 6, judging)

    def measure(self, model: Any, threads: int, bar: float = 1.0) -> Any:
        self.measured.append((model.name, threads))
        speedup, interval, verdict = SPEEDS[self.verdicts.get((model.name, threads), self.verdicts.get(model.name, "faster"))]
        return Measurement(1.0, 1 / speedup, speedup, interval, (0.99, 1.01), 10, verdict, threads)

    def check_original(self) -> None:
        if self.original_fails:
            raise ModelError(self.original_fails)


def step(name: str, noun: str, ladder: Callable[[Any], Ladder], *, exact: bool = False, stated: bool = False, teaches: bool = False) -> Any:
    kind = SimpleNamespace(name=name, noun=noun, exact=exact, stated=stated, teaches=teaches)
    return SimpleNamespace(kind=kind, options=None, run=lambda model, context: ladder(model))


def simplify(outputs: tuple[TensorSpec, ...] = (Y,)) -> Any:
    return step("simplify", "simplification", lambda m: Ladder.single(StepResult(model("simple", outputs), True)), exact=True)


def certificate(integer: int, total: int) -> Certificate:
    return Certificate("cpu", tuple(CertifiedOperator(f"n{i}", "Conv", "int8" if i < integer else "float") for i in range(total)))


@dataclass
class Quantize:
    """A ladder of `count` rungs q0 (the boldest) to q{count - 1}; on another model than "simple" the name of it goes before: "original/q0"."""

    count: int = 1
    monotone: bool = True
    gains: Sequence[float] | None = None
    breaks: dict[int, Exception] = field(default_factory=dict)
    built: list[str] = field(default_factory=list)

    def ladder(self, base: Any) -> Ladder:
        def rung(index: int) -> Rung:
            name = f"q{index}" if base.name == "simple" else f"{base.name}/q{index}"

            def build() -> StepResult:
                self.built.append(name)
                if index in self.breaks:
                    raise self.breaks[index]
                return StepResult(model(name), True, certificate=certificate(self.count - index, self.count))

            return Rung(f"{self.count - index} of {self.count} layers", build, None if self.gains is None else self.gains[index])

        return Ladder(tuple(map(rung, range(self.count))), self.monotone)

    @property
    def step(self) -> Any:
        return step("quantize", "quantization", self.ladder)


def gate(
    judge: FakeJudge,
    *steps: Any,
    bars: Bars | None = None,
    settings: tuple[int, ...] = (1, 2),
    goal: Goal = "balanced",
    size: Any = same_size,
    clear: bool = True,
    boldest_only: bool = False,
) -> Outcome:
    steps = steps or (simplify(), Quantize().step)
    return search(ORIGINAL, steps, Context(), judge, bars or Bars(), settings, goal=goal, size=size, clear=clear, boldest_only=boldest_only)


def chosen(outcome: Outcome) -> str:
    stands: Any = outcome.chosen.candidate.model
    return str(stands.name)


def told(outcome: Outcome, bars: Bars | None = None) -> str:
    return explanation(outcome, bars or Bars())
