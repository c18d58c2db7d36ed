"""compress, simplify, quantize."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from graphcompress.api import documents
from graphcompress.api.sources import AnyData, AnyModel, Feeds, open_model
from graphcompress.errors import UsageError
from graphcompress.gate import Candidate, Judged, Outcome, Runtime, choose, thread_settings
from graphcompress.ir import Model
from graphcompress.ir.check.models import require_known_domains
from graphcompress.recipe import STEPS, Ran, Recipe, load_recipe, run, single_step
from graphcompress.record import Record
from graphcompress.runtime.providers import find as find_provider
from graphcompress.step import Context, Progress, local_target, silent
from graphcompress.targets import load_target


@dataclass(frozen=True, slots=True)
class Result:
    """What `compress`, `simplify` and `quantize` hand back."""

    model: Model
    record: Record


def compress(
    model: AnyModel,
    data: AnyData | None = None,
    *,
    recipe: str | Path | Recipe = "default",
    target: str | None = None,
    provider: str = "cpu",
    threads: int | None = None,
    seed: int = 0,
    min_agreement: float | None = None,
    min_speedup: float | None = None,
    measure: bool = True,
    progress: Progress = silent,
) -> Result:
    """Run a recipe, and hand back its result if that is faithful and not slower; else the furthest step of it that is, at worst the original (see `gate`).

    Every 4th feed is kept out of calibration and judges the result (all of them, and the record says so, below 8 feeds). `measure=False` leaves out all timing:
    then nothing is taken back for being slow. `min_agreement` (0 to 1) and `min_speedup` are bars of the caller: where the result misses one, BarMissed is
    raised, with the Result in its `result`.

    Raises DataError without data unless no step of the recipe learns from data; then the result is neither compared nor measured, and the record says so.
    """
    documents.check_bars(min_agreement, min_speedup)
    if min_speedup is not None and not measure:
        raise UsageError("A bar for the speed-up (--min-speedup) needs the measurement that was switched off (--no-measure).")
    plan = recipe if isinstance(recipe, Recipe) else load_recipe(recipe)
    context = Context(target=load_target(target or local_target()), provider=provider, threads=threads, seed=seed, progress=progress)
    find_provider(provider)
    source = open_model(model)
    require_known_domains(source.model, "compressed")
    feeds = Feeds.open(data, source.model, plan)
    ran = list(run(plan, source.model, replace(context, data=feeds.calibration)))
    outcome: Outcome | None = None
    judge: Runtime | None = None
    notes: list[str] = []
    if feeds.held_out is None:
        result = ran[-1].result.model
        notes.append("No data was given, so the result was neither compared with the original nor measured.")
    else:
        judge = Runtime(source.model, feeds.held_out, context)
        settings = thread_settings(threads) if measure else ()
        outcome = choose(source.model, candidates(ran), judge, settings, {name: kind.does for name, kind in STEPS.items()})
        result = outcome.chosen.candidate.model
        notes += judge.notes
    made = documents.record(
        "compress",
        source,
        result,
        feeds,
        plan,
        context,
        ran,
        judged=outcome.chosen if outcome else None,
        outcome=outcome,
        nodes=judge.nodes if judge else None,
        min_agreement=min_agreement,
        min_speedup=min_speedup,
        notes=notes,
    )
    done = Result(result, made)
    documents.raise_missed(made.bars, done)
    return done


def candidates(ran: Sequence[Ran]) -> list[Candidate]:
    """What the gate may choose from: the last result first, then what was there before each step that changed something."""
    found: list[Candidate] = []
    steps: tuple[str, ...] = ()
    for step in ran:
        if step.result.changed:
            steps = (*steps, step.step.kind.name)
            found.append(Candidate(step.result.model, steps))
    return found[::-1]


def simplify(model: AnyModel, *, target: str | None = None, progress: Progress = silent) -> Result:
    """Simplify: the same function with fewer nodes. Without `target` the result holds standard operators only. Nodes of unknown domains stay as they are."""
    plan = single_step("simplify", {})
    context = Context(target=load_target(target) if target else None, progress=progress)
    source = open_model(model)
    ran = list(run(plan, source.model, context))
    result = ran[-1].result.model
    return Result(result, documents.record("simplify", source, result, Feeds(), plan, context, ran))


def quantize(
    model: AnyModel,
    data: AnyData | None,
    *,
    calibration: str | None = None,
    exclude: Iterable[str] = (),
    target: str | None = None,
    provider: str = "cpu",
    threads: int | None = None,
    seed: int = 0,
    measure: bool = True,
    progress: Progress = silent,
    **options: Any,
) -> Result:
    """Quantize to INT8 by the target's table, whatever comes of it: nothing is taken back. Agreement (on every 4th feed, kept out of calibration) and speed-up are
    in the record. `exclude` are regular expressions on node names; further keywords are options of the step.

    Raises UsageError for an option that the step does not have or a pattern that matches nothing, DataError where feeds are missing or do not fit.
    """
    given = dict(options)
    if calibration is not None:
        given["calibration"] = calibration
    if patterns := tuple(exclude):
        given["exclude"] = patterns
    plan = single_step("quantize", given)
    context = Context(target=load_target(target or local_target()), provider=provider, threads=threads, seed=seed, progress=progress)
    find_provider(provider)
    source = open_model(model)
    require_known_domains(source.model, "quantized")
    feeds = Feeds.open(data, source.model, plan)
    ran = list(run(plan, source.model, replace(context, data=feeds.calibration)))
    result = ran[-1].result.model
    if feeds.held_out is None:
        return Result(result, documents.record("quantize", source, result, feeds, plan, context, ran))
    judge = Runtime(source.model, feeds.held_out, context)
    comparison = judge.compare(result)
    timings = tuple((t, judge.measure(result, t)) for t in (thread_settings(threads) if measure else ()))
    judged = Judged(Candidate(result, ("quantize",)), comparison=comparison, measurements=timings)
    return Result(result, documents.record("quantize", source, result, feeds, plan, context, ran, judged=judged, nodes=judge.nodes, notes=judge.notes))
