"""A rule held against experiment: what it makes of random graphs computes what they computed, by onnxruntime and by onnx's own evaluator."""

from __future__ import annotations

import warnings
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import numpy as np

from graphcompress.engine.driver import rewrite
from graphcompress.engine.proof.cases import Case, case_of
from graphcompress.engine.proof.choices import Choices, shrink
from graphcompress.engine.proof.draft import NoCase
from graphcompress.engine.rulefile import Rule
from graphcompress.errors import DataError, ModelError
from graphcompress.ir import Model, lint, model_from_proto, to_proto
from graphcompress.ir.files.text import TextError, parse_model, to_text
from graphcompress.ir.model.element_types import numpy_dtype
from graphcompress.ir.reference import Reference
from graphcompress.runtime.session import LocalSession, open_session

Array = np.ndarray[Any, Any]

CASES = 40
TRIES_PER_CASE = 100
#: What is allowed by element type, relative to the largest number that the pattern calculates: rounding, amplified where terms cancel. Double precision is the strict judge.
TOLERANCES = {"f2": 5e-2, "f4": 1e-3, "f8": 1e-8}
JUDGES = ("onnxruntime", "reference")
FaultKind: TypeAlias = Literal["value", "shape", "overflow", "load", "lint"]


@dataclass(frozen=True, slots=True)
class Counterexample:
    """What a rule did wrong: who says so, what it is, the graph as ONNX text and its inputs."""

    judge: str
    kind: FaultKind
    problem: str
    graph: str
    feed: dict[str, list[Any]]


@dataclass(slots=True)
class Proof:
    """What came of a rule's cases: how many graphs were tried, how many of these the rule changed, those judged by each judge, and by element type and opset; a fault, shrunk."""

    rule: str
    tried: int = 0
    changed: int = 0
    judged: Counter[str] = field(default_factory=Counter)
    types: Counter[str] = field(default_factory=Counter)
    opsets: Counter[int] = field(default_factory=Counter)
    fault: Counterexample | None = None


def prove(rule: Rule, cases: int = CASES, seed: int = 0) -> Proof:
    """Try `rule` on random graphs until it has changed `cases` of them, or enough were tried. The rule's own examples count among them. The first fault ends it."""
    proof = Proof(rule.id)
    for model in _examples(rule):
        if (fault := _judge(rule, model, [_feed(model, seed)], None, proof)) is not None:
            proof.fault = fault
            return proof
    start = proof.changed
    for number in range(cases * TRIES_PER_CASE):
        if proof.changed - start >= cases:
            break
        rng = np.random.default_rng([seed, zlib.crc32(rule.id.encode()), number])
        choices = Choices(rng=rng)
        if (fault := fault_of(rule, choices, proof)) is not None:
            proof.fault = _smallest(rule, choices.taken, fault)
            break
    return proof


def fault_of(rule: Rule, choices: Choices, proof: Proof) -> Counterexample | None:
    """What is wrong with one case; None where nothing is, where it is no graph, and where the rule does not change it."""
    try:
        case = case_of(rule, choices)
        model = case.model()
    except (NoCase, TextError, ModelError, ArithmeticError, LookupError):  # choices that fit nothing
        return None
    proof.tried += 1
    before = proof.changed
    fault = _judge(rule, model, list(case.feeds()), case, proof)
    if proof.changed > before:
        proof.types[next(iter(case.operands.values())).dtype] += 1
        proof.opsets[case.opset] += 1
        if fault is None and rule.effect == "equivalent" and not case.large and any(o.dtype == "float" for o in case.operands.values()):
            double = case.in_type("double")
            fault = _judge(rule, double.model(), [next(double.feeds())], double, Proof(rule.id))
    return fault


def _smallest(rule: Rule, taken: Sequence[int], fault: Counterexample) -> Counterexample:
    """The fault in the smallest case that shows one of its kind."""
    smallest = fault

    def fails(choices: Sequence[int]) -> bool:
        nonlocal smallest
        other = fault_of(rule, Choices(choices), Proof(rule.id))
        if other is None or other.kind != fault.kind:
            return False
        smallest = other
        return True

    shrink(taken, fails)
    return smallest


def _judge(rule: Rule, original: Model, feeds: Sequence[dict[str, Array]], case: Case | None, proof: Proof) -> Counterexample | None:
    """Compare a graph with what the rule makes of it. Counts in `proof` what was judged."""
    work = original.copy()
    if not rewrite(work, [rule]).applied:
        return None

    def fault(judge: str, kind: FaultKind, problem: str, feed: Mapping[str, Array] | None = None) -> Counterexample:
        return Counterexample(judge, kind, problem, to_text(original), {n: a.tolist() for n, a in (feed or {}).items()})

    try:
        lint(work)
        changed = model_from_proto(to_proto(work))
    except ModelError as problem:
        return fault("graphcompress", "lint", str(problem))
    inner = original if case is None else case.model([*case.outputs, *(n for n in case.inner if n not in case.outputs)])
    names = [o.name for o in original.outputs]
    before, after = _Runs(inner), _Runs(changed)
    judged = proof.judged.total()
    for feed in feeds:
        if rule.effect != "exact" and not all(a.size for a in feed.values()):  # the mean of nothing is whatever a kernel makes of it
            continue
        if (wrong := _first_difference(rule, before, after, feed, names, case, proof)) is not None:
            return fault(*wrong, feed)
    if proof.judged.total() == judged:
        return None
    proof.changed += 1
    refusal = _load_problem(changed)
    if refusal is None or _load_problem(original) is not None:
        return None
    return fault("onnxruntime", "load", f"optimized, the graph loads, and what the rule makes of it does not: {refusal}")


def _first_difference(
    rule: Rule, before: _Runs, after: _Runs, feed: dict[str, Array], names: Sequence[str], case: Case | None, proof: Proof
) -> tuple[str, FaultKind, str] | None:
    """The judge that sees one of the outputs `names` differ on `feed`, the kind of fault and a sentence; None where none does. Counts in `proof` who judged."""
    by_runtime: dict[str, Any] | None = None
    for judge in JUDGES:
        try:
            expected = before(judge, feed)
        except (ModelError, DataError):  # no kernel, sizes that do not fit
            continue
        if judge == "reference" and not (_competent(case, feed, names) if by_runtime is None else _agree(expected, by_runtime, names)):
            continue  # where it contradicts onnxruntime it is not believed
        by_runtime = expected
        try:
            result = after(judge, feed)
        except (ModelError, DataError) as problem:
            if judge == "reference":  # an operator that it lacks or has wrong
                continue
            return judge, "load", f"the graph runs, and what the rule makes of it does not: {problem}"
        scale = max(map(_reach, expected.values()), default=0.0)
        large = case is not None and case.large
        for name in names:
            wrong = difference(expected[name], result[name], scale, exact=rule.effect == "exact" and judge == "onnxruntime", large=large)
            if wrong is not None:
                return judge, *wrong
        proof.judged[judge] += 1
    return None


def _load_problem(model: Model) -> ModelError | None:
    """Why onnxruntime cannot load a model with all of its optimizations; None where it can."""
    try:
        open_session(model, optimize="all", threads=1).close()
    except ModelError as problem:
        return problem
    return None


class _Runs:
    """A model on both judges, each opened once."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.open: dict[str, LocalSession | Reference] = {}

    def __call__(self, judge: str, feed: Mapping[str, Array]) -> dict[str, Any]:
        """All outputs. Raises ModelError or DataError where the judge cannot run the model."""
        if judge not in self.open:
            self.open[judge] = open_session(self.model, optimize="none", threads=1) if judge == "onnxruntime" else Reference(self.model)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            return {k: np.asarray(v) for k, v in self.open[judge].run(dict(feed)).items()}


def _reach(value: Any) -> float:
    """The largest finite magnitude; 0 of what holds no floats."""
    if not isinstance(value, np.ndarray) or value.dtype.kind != "f":
        return 0.0
    return float(np.abs(value[np.isfinite(value)]).max(initial=0.0))


def _competent(case: Case | None, feed: Mapping[str, Array], names: Sequence[str]) -> bool:
    """Whether onnx's evaluator, where onnxruntime lacks a kernel, can be believed: both give the same in single precision. It has bugs, and also calculates what no operator is defined for."""
    if case is None or any(a.dtype.kind != "f" for a in feed.values()):
        return False
    single = case.in_type("float")
    runs, narrow = _Runs(single.model()), {n: a.astype(np.float32) for n, a in feed.items()}
    try:
        return _agree(runs("reference", narrow), runs("onnxruntime", narrow), names)
    except (ModelError, DataError):
        return False


def _agree(first: Mapping[str, Any], second: Mapping[str, Any], names: Sequence[str]) -> bool:
    return all(difference(second[n], first[n], _reach(second[n])) is None for n in names)


def difference(
    expected: Array, result: Array, scale: float, *, exact: bool = False, large: bool = False
) -> tuple[Literal["value", "shape", "overflow"], str] | None:
    """How two tensors differ by more than is allowed; None where they do not. `large`: only what is finite before and not after counts."""
    if expected.dtype != result.dtype or expected.shape != result.shape:
        return "shape", f"{expected.dtype}{list(expected.shape)} became {result.dtype}{list(result.shape)}"
    if expected.dtype.kind != "f":
        return None if np.array_equal(expected, result) else ("value", _first(expected, result, expected != result))
    with np.errstate(all="ignore"):
        lost = np.isfinite(expected) & ~np.isfinite(result)
        if lost.any():
            return "overflow", _first(expected, result, lost)
        if large:
            return None
        if exact:
            wrong = ~((expected == result) & (np.signbit(expected) == np.signbit(result)) | np.isnan(expected) & np.isnan(result))
        else:
            tolerance = TOLERANCES[expected.dtype.str[1:]] * max(scale, float(np.finfo(expected.dtype).tiny))
            close = np.abs(expected.astype(np.float64) - result) <= tolerance
            wrong = ~(close | (expected == result) | np.isnan(expected) & np.isnan(result))
    return ("value", _first(expected, result, wrong)) if wrong.any() else None


def _first(expected: Array, result: Array, wrong: Array) -> str:
    place = tuple(int(i) for i in np.argwhere(wrong)[0])
    return f"at {list(place)} {expected[place]} became {result[place]} ({int(wrong.sum())} of {wrong.size} elements)"


def _examples(rule: Rule) -> Iterator[Model]:
    for example in rule.examples:
        if example.refused is None:
            yield parse_model(example.graph) if example.graph.lstrip().startswith("<") else parse_model(example.graph, {"": example.opset})


def _feed(model: Model, seed: int) -> dict[str, Array]:
    """Normal numbers in the types of the inputs; 3 for free dimensions."""
    rng = np.random.default_rng(seed)
    return {
        s.name: (rng.standard_normal([d if isinstance(d, int) else 3 for d in s.shape or ()]) * 3).astype(numpy_dtype(s.dtype or "float")) for s in model.inputs
    }
