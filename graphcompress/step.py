"""The vocabulary between passes, recipe and gate: what a step is given, what it returns, and a step of a recipe on its way."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal, Protocol

from graphcompress.errors import UsageError

if TYPE_CHECKING:
    from pydantic import BaseModel

    from graphcompress.data import Dataset
    from graphcompress.ir import Model
    from graphcompress.runtime.place import LocalPlace, Place
    from graphcompress.runtime.workers import Workers
    from graphcompress.targets import Target


class Progress(Protocol):
    """Where a step says how far it is. `cli` draws bars; the default says nothing."""

    def __call__(self, what: str, done: int, total: int | None) -> None: ...


def silent(what: str, done: int, total: int | None) -> None:
    """Progress that nobody sees."""


@dataclass(frozen=True, slots=True)
class Context:
    """What every step is given. Nothing else may influence a result.

    `data` are the feeds for calibration (None: no data); `teacher` is the model that a student learns from; `earlier` are the results of the steps before; `place` is where results run and are judged (None: this process, on the target's provider); `threads` None
    means the runtime's default; `measure` allows times to decide where `timing_place` has them (without it, tables do); `decisions` are those of the step itself in an
    earlier run, to be repeated (None: it decides); `seed` feeds every random generator; `started` is when the run began, by the monotonic clock, for its record alone; `workers` are processes that share the feeds where a step can (None: this one does all). Folding and observation do not ask `place`: they run in this process
    on the CPU provider.
    """

    target: Target | None = None
    data: Dataset | None = None
    place: Place | None = None
    threads: int | None = None
    seed: int = 0
    progress: Progress = silent
    teacher: Model | None = None
    earlier: tuple[StepResult, ...] = ()
    measure: bool = False
    decisions: Mapping[str, Any] | None = None
    workers: Workers | None = None
    started: float = field(default_factory=time.monotonic, compare=False)

    def judging_place(self) -> Place:
        """`place`, or the default that follows from the target."""
        if self.place is not None:
            return self.place
        from graphcompress.runtime.place import LocalPlace

        return LocalPlace() if self.target is None else LocalPlace(self.target.provider, tuple(sorted(self.target.session_options.items())))

    def timing_place(self) -> LocalPlace | None:
        """The judging place, where times of it may decide: `measure` allows that, and results run in this process and on the target's provider. Else None: times of this process say
        nothing of another place, and those of another provider nothing of the target's."""
        from graphcompress.runtime.place import LocalPlace
        from graphcompress.runtime.providers import short

        place = self.judging_place()
        if not self.measure or not isinstance(place, LocalPlace) or (self.target is not None and short(place.provider) != short(self.target.provider)):
            return None
        return None if "place" in place.describe() else place  # one may run here and stand for another


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why something was left as it was: a stable id ("quantize/no-int8-kernel"), a sentence, the node, and how often."""

    id: str
    reason: str
    node: str = ""
    count: int = 1


@dataclass(frozen=True, slots=True)
class AppliedChange:
    """One thing that a rule or stage did: the nodes that it took out of the model and those that it put in, by their names (`ir.model.walk.label`)."""

    by: str
    removed: tuple[str, ...]
    added: tuple[str, ...]


@dataclass(slots=True)
class RuleCount:
    """What a rule cost: nodes at which it was tried, matches of its pattern, rewrites, matches that a clause or the engine refused, wall time in seconds."""

    tried: int = 0
    matched: int = 0
    applied: int = 0
    refused: int = 0
    seconds: float = 0.0

    def add(self, other: RuleCount) -> None:
        """Count another run of the rule in."""
        self.tried += other.tried
        self.matched += other.matched
        self.applied += other.applied
        self.refused += other.refused
        self.seconds += other.seconds


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
    refusals, decisions (what was chosen, as plain JSON data), from simplification what became of which node (`applications`, in order), what each rule cost and why rewriting
    stopped (`stop`), and, from quantization, the certificate."""

    model: Model
    changed: bool
    applied: dict[str, int] = field(default_factory=dict)
    refusals: tuple[Refusal, ...] = ()
    decisions: dict[str, Any] = field(default_factory=dict)
    certificate: Certificate | None = None
    applications: tuple[AppliedChange, ...] = ()
    rules: dict[str, RuleCount] = field(default_factory=dict)
    stop: str = ""


class Rung:
    """One alternative of a step, built when `result` is asked for first, once. `label` says what it is ("all 40 layers", "31 of 40 layers");
    `gain_ns` is what the target's table expects it to save per run against the step's input, None where nothing is known."""

    def __init__(self, label: str, build: Callable[[], StepResult], gain_ns: float | None = None) -> None:
        self.label = label
        self.gain_ns = gain_ns
        self._build = build
        self._result: StepResult | None = None

    @property
    def built(self) -> bool:
        """Whether `result` is there already."""
        return self._result is not None

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


@dataclass(frozen=True, slots=True)
class StepKind:
    """A step that recipes may use. `options` and `function` say where its options model and its function are ("module:name"); nothing is imported before it is used.

    `noun` names it in sentences. `exact`: the result computes the same function by construction, so that it stands where no output of the model can be compared.
    `stated`: it goes as far as its options say, whatever that does to the answers. `teaches`: it makes
    a model nothing but nearer to the original, and stands only where that is seen.
    """

    name: str
    options: str
    function: str
    noun: str
    needs_data: bool = False
    exact: bool = False
    stated: bool = False
    teaches: bool = False

    def options_model(self) -> type[BaseModel]:
        """The pydantic model of the step's options."""
        model: type[BaseModel] = _load(self.options)
        return model


def _load(where: str) -> Any:
    module, _, name = where.partition(":")
    return getattr(import_module(module), name)


@dataclass(frozen=True, slots=True)
class Decision:
    """What a step decided in an earlier run: the label of the rung that was in the result, and the decisions of its `StepResult`."""

    rung: str
    decisions: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class PlannedStep:
    """One step of a recipe, its options resolved; `decided` is what it is to do once more, None where it decides."""

    kind: StepKind
    options: BaseModel
    decided: Decision | None = field(default=None, compare=False)

    def run(self, model: Model, context: Context) -> Ladder:
        """Do the step; where it was decided, of a step that offers several rungs anyway the one of that label only. Raises what the step's function raises,
        and UsageError where no rung has the label."""
        decided = self.decided
        ladder: Ladder = _load(self.kind.function)(model, replace(context, decisions=None if decided is None else decided.decisions), self.options)
        if decided is None or len(ladder.rungs) == 1:
            return ladder
        rungs = tuple(rung for rung in ladder.rungs if rung.label == decided.rung)
        if len(rungs) != 1:
            offered = ", ".join(f"'{rung.label}'" for rung in ladder.rungs)
            raise UsageError(
                f"The decisions do not fit: the step '{self.kind.name}' had '{decided.rung}', and here it offers {offered}. Run it without --decisions."
            )
        return Ladder(rungs)


@dataclass(frozen=True, slots=True)
class ExecutedStep:
    """A step that was run: the result that stands (the boldest one where it was rolled back, None where none could be built) with the label of its rung, whether it is
    part of the final model, the wall time of the step and of all rungs that were built in seconds, and the process's peak of resident memory so far in bytes."""

    step: PlannedStep
    result: StepResult | None
    rung: str
    in_result: bool
    seconds: float
    peak_memory_bytes: int | None
