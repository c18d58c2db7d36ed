"""compress."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from pathlib import Path

from graphcompress.api import reports
from graphcompress.api.inputs import AnyData, AnyModel, Feeds, Source, choose_place, open_model, place_notes
from graphcompress.errors import UsageError
from graphcompress.gate import Bars, SessionJudge, search, thread_settings
from graphcompress.ir.analysis.output_kinds import output_kinds
from graphcompress.ir.analysis.statistics import run_shapes
from graphcompress.ir.check.models import require_known_domains
from graphcompress.recipe import Recipe, load_recipe, run
from graphcompress.runtime.place import Place
from graphcompress.step import Context, Progress, silent
from graphcompress.targets import load_target


def compress(
    model: AnyModel,
    data: AnyData | None = None,
    *,
    recipe: str | Path | Recipe = "default",
    target: str = "cpu",
    provider: str | None = None,
    place: Place | None = None,
    threads: int | None = None,
    seed: int = 0,
    min_agreement: float | None = None,
    min_speedup: float | None = None,
    measure: bool = True,
    progress: Progress = silent,
) -> reports.Result:
    """Run a recipe, and return what of it is faithful and not slower, at worst the original (see `gate.search`).

    Every 4th feed is kept out of calibration and judges the result (all of them, and the record says so, below 8 feeds). `measure=False` leaves out all timing:
    then nothing is rolled back for being slow. `min_agreement` (0 to 1) and `min_speedup` are bars of the caller in place of the built-in ones (0.99, not slower): what
    misses them is rolled back, and where nothing reaches one, BarMissed is raised, with the best Result in its `result`. `provider` and `place` say where results run and
    are judged (default: on the target's provider).

    Raises DataError without data unless no step of the recipe learns from data; then the result is neither compared nor measured, and the record says so. Raises
    ModelError or DataError where the original does not load or does not run on the feeds.
    """
    bars = Bars(min_agreement, min_speedup)
    if min_speedup is not None and not measure:
        raise UsageError("A bar for the speed-up (--min-speedup) needs the measurement that was switched off (--no-measure).")
    plan = recipe if isinstance(recipe, Recipe) else load_recipe(recipe)
    table = load_target(target)
    context = Context(target=table, place=choose_place(table, provider, place), threads=threads, seed=seed, progress=progress)
    where = context.judging_place().describe()
    source = open_model(model)
    context = replace(context, teacher=source.model)
    require_known_domains(source.model, "compressed")
    feeds = Feeds.open(data, source.model, plan)
    if feeds.all is None or feeds.judging is None:
        return _unjudged(source, plan, context, feeds, bars)
    shapes = run_shapes(source.model, feeds.shapes())
    with closing(SessionJudge(source.model, feeds.all, feeds.judging, context, output_kinds(source.model, shapes), source.same_file())) as judge:
        outcome = search(source.model, plan.steps, replace(context, data=feeds.calibration), judge, bars, thread_settings(threads) if measure else ())
        result = outcome.chosen.candidate.model
        info = judge.info(result)
    chosen = outcome.chosen
    record = reports.run_record(
        "compress",
        source,
        result,
        feeds,
        plan,
        context,
        outcome.executed,
        reports.sizes(source, result, feeds.shapes(), shapes),
        provider=where["provider"],
        comparison=chosen.comparison,
        measurements=chosen.measurements,
        nodes=info.nodes,
        gate=reports.gate_report(outcome, bars),
        bars=reports.stated_bars(bars, chosen),
        notes=[*place_notes(table, where["provider"]), *info.notes],
    )
    done = reports.Result(result, record)
    reports.raise_missed(record.bars, done)
    return done


def _unjudged(source: Source, plan: Recipe, context: Context, feeds: Feeds, bars: Bars) -> reports.Result:
    """Without data: every step at its boldest."""
    executed = list(run(plan, source.model, context))
    assert executed[-1].result is not None
    result = executed[-1].result.model
    record = reports.run_record(
        "compress",
        source,
        result,
        feeds,
        plan,
        context,
        executed,
        reports.sizes(source, result),
        bars=reports.stated_bars(bars, None),
        notes=["No data was given, so the result was neither compared with the original nor measured."],
    )
    done = reports.Result(result, record)
    reports.raise_missed(record.bars, done)
    return done
