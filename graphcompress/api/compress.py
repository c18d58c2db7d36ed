"""compress."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from graphcompress.api import reports
from graphcompress.api.cost_goals import parse_goal, plan_of, reach
from graphcompress.api.decisions import AnyRecord, decided, decided_seed, decided_target, other_data, read_record, repeat
from graphcompress.api.inputs import AnyData, AnyModel, Feeds, Source, choose_place, open_model, place_notes
from graphcompress.api.metrics import AnyMetric, open_metric
from graphcompress.errors import DataError, ModelError, UsageError, suggestion
from graphcompress.gate import Bars, CandidateFails, SessionJudge, search, timed_settings
from graphcompress.gate.judge import TIMING_S
from graphcompress.ir.analysis.output_kinds import output_kinds
from graphcompress.ir.analysis.statistics import run_shapes, statistics
from graphcompress.ir.check.models import require_known_domains
from graphcompress.ir.files.snapshot import snapshot_of
from graphcompress.recipe import Recipe, excluding, load_recipe, run, stripped
from graphcompress.runtime.metric import Metric
from graphcompress.runtime.place import Place, require_times
from graphcompress.runtime.workers import Workers
from graphcompress.step import Context, ExecutedStep, Progress, silent
from graphcompress.targets import load_target, read_costs

EFFORTS = ("full", "fast")
FAST_TIMING_S = 6.0
"""Seconds that all measurements together may take with the effort "fast"."""
FAST = "Only the boldest form of each step was tried, and not all of it holds: --effort full (the default) searches for what does."


def compress(
    model: AnyModel,
    data: AnyData | None = None,
    *,
    recipe: str | Path | Recipe | None = None,
    exclude: Sequence[str] = (),
    strip: bool = False,
    target: str | None = None,
    costs: str | Path | None = None,
    provider: str | None = None,
    place: Place | None = None,
    threads: int | None = None,
    workers: Workers | None = None,
    seed: int | None = None,
    min_agreement: float | None = None,
    min_speedup: float | None = None,
    kinds: Mapping[str, str] | None = None,
    metric: AnyMetric | None = None,
    metric_joins: bool = False,
    goal: str = "balanced",
    decisions: AnyRecord | None = None,
    measure: bool = True,
    effort: str = "full",
    progress: Progress = silent,
) -> reports.Result:
    """Run a recipe, and return what of it is faithful and not slower, at worst the original (see `gate.search`).

    Every 4th feed is kept out of calibration and judges the result (all of them, and the record says so, below 8 feeds). `measure=False` leaves out all timing:
    then nothing is rolled back for being slow. With the effort "fast" each step does all that the target's table finds worth while, or nothing, and the result is timed shortly. `min_agreement` (0 to 1) and `min_speedup` are bars of the caller in place of the built-in ones (0.99, not
    slower): what misses them is rolled back, and where nothing reaches one, BarMissed is raised, with the best Result in its `result`. `kinds` says of outputs
    by name how they are judged ("classes", "sequence", "probabilities", "boxes", "values", "embedding", "exact"), where the graph does not tell. `metric` is a
    function (reference, candidate) or (reference, candidate, labels) on the outputs of a feed, by name, that gives the agreement 0 to 1 in place of the
    outputs' own, or "MODULE:FUNCTION"; with `metric_joins` both judge. Labels are the data's keys that begin with `_`. `provider` and `place` say where
    results run and are judged (default: on the target's provider); `workers` (`open_workers`) share the feeds of calibration. `costs` is a file of `calibrate`, in place of the table's own. `goal`: "balanced" (neither slower nor larger), "speed" (not slower, whatever its size), "size"
    (the smallest that takes at most 1.02 times as long), or a part of the original's cost, "macs=0.5", "latency=0.6" (one thread, or `threads`) or "size=0.3": then channels are
    pruned as far as INT8 and small weights do not suffice, within the bars, and BarMissed is raised where that is not enough. `decisions` is the record of an earlier run on the same model: what that decided is done again, to the same bytes with the same data,
    with its target, seed and threads, without searching or timing; the result is compared, and held against no bar but a stated agreement. `target` (else
    "cpu") is the table of `rules/targets/`; `seed` (else 0) feeds every random generator. Without `recipe` the goal decides: "size" and costs have recipes of
    their own, the others share "default". `exclude`: regular expressions of names of nodes that stay float. `strip` leaves out metadata, doc strings and
    inner names.

    Raises DataError without data unless no step of the recipe learns from data; then the result is neither compared nor measured, and the record says so. Raises
    ModelError or DataError where the original does not load or does not run on the feeds.
    """
    gate_goal, cost = parse_goal(goal)
    if cost is not None and recipe is not None:
        raise UsageError(f"--goal {goal} has steps of its own: give it without a recipe, or a recipe without it.")
    if cost is not None and cost.cost == "latency" and not measure:
        raise UsageError("A goal for the latency needs the measurement that was switched off (--no-measure).")
    bars = Bars(min_agreement, min_speedup)
    if effort not in EFFORTS:
        raise UsageError(f"There is no effort '{effort}'. {suggestion(effort, EFFORTS)}")
    fast = effort == "fast"
    if fast and (cost is not None or decisions is not None):
        raise UsageError(f"The effort 'fast' does not search: give it without {'--decisions' if cost is None else f'--goal {goal}'}.")
    if decisions is not None and (recipe is not None or goal != "balanced" or costs is not None or exclude or strip or min_speedup is not None):
        raise UsageError(
            "Decisions say which steps are done and how, without timing: give no recipe, goal, costs, nodes to leave out, --strip or bar for the speed-up "
            "with them."
        )
    earlier = None if decisions is None else read_record(decisions)
    if earlier is not None:
        target, seed, threads = decided_target(earlier, target), decided_seed(earlier, seed), earlier.threads if threads is None else threads
        measure = False
    task = open_metric(metric, joins=metric_joins)
    if min_speedup is not None and not measure:
        raise UsageError("A bar for the speed-up (--min-speedup) needs the measurement that was switched off (--no-measure).")

    def adapted(plan: Recipe) -> Recipe:
        plan = excluding(plan, exclude) if exclude else plan
        return stripped(plan) if strip else plan

    source = open_model(model)
    if earlier is not None:
        plan = decided(earlier, source.file)
    elif cost is not None:
        plan = adapted(plan_of(cost, cost.part))
    else:
        name = recipe or ("size" if goal == "size" else "default")
        plan = adapted(name if isinstance(name, Recipe) else load_recipe(name))
    table = load_target(target or "cpu")
    table = table if costs is None else read_costs(Path(costs), table)
    context = Context(target=table, place=choose_place(table, provider, place), threads=threads, workers=workers, seed=seed or 0, progress=progress)
    where = context.judging_place().describe()
    if min_speedup is not None:
        require_times(where, "A bar for the speed-up (--min-speedup)")
    if cost is not None and cost.cost == "latency":
        require_times(where, "A goal for the latency")
    context = replace(context, teacher=source.model, measure=measure and not fast)
    require_known_domains(source.model, "compressed")
    feeds = Feeds.open(data, source.model, plan)
    if earlier is not None:
        return _repeated(source, plan, context, feeds, bars, kinds, task, other_data(earlier, feeds.source()))
    if feeds.all is None or feeds.judging is None:
        return _unjudged(source, plan, context, feeds, bars, list(run(plan, source.model, context)))
    shapes = run_shapes(source.model, feeds.shapes())
    outputs = output_kinds(source.model, shapes, kinds)
    with closing(
        SessionJudge(source.model, feeds.all, feeds.judging, context, outputs, source.same_file(), task, timing_s=FAST_TIMING_S if fast else TIMING_S)
    ) as judge:
        calibrated = replace(context, data=feeds.calibration)
        settings = timed_settings(threads, where, measure=measure)[: 1 if fast else None]
        stated = []
        if cost is None:
            outcome = search(source.model, plan.steps, calibrated, judge, bars, settings, goal=gate_goal, size=judge.size, boldest_only=fast)
        else:
            attempt = reach(
                source.model,
                cost,
                gate_goal,
                calibrated,
                judge,
                bars,
                settings,
                plans=lambda part: adapted(plan_of(cost, part)),
                macs=lambda m: statistics(m, feeds.shapes(), size=0).macs or 0,
            )
            plan, outcome = attempt.plan, attempt.outcome
            stated = [cost.bar(attempt.share, attempt.measurement)]
        result = outcome.chosen.candidate.model
        info, snapshot = judge.info(result), judge.snapshot(result)
    chosen = outcome.chosen
    record = reports.run_record(
        "compress",
        source,
        result,
        feeds,
        plan,
        context,
        outcome.executed,
        reports.sizes(source, snapshot, feeds.shapes(), shapes),
        where=where,
        comparison=chosen.comparison,
        measurements=chosen.measurements,
        nodes=info.nodes,
        gate=reports.gate_report(outcome, bars, gate_goal),
        bars=[*stated, *reports.stated_bars(bars, chosen)],
        notes=[*([FAST] if fast and any(j.reason for j in outcome.judged) else []), *place_notes(table, where), *info.notes],
    )
    done = reports.Result(result, record, snapshot)
    reports.raise_missed(record.bars, done)
    return done


def _repeated(
    source: Source, plan: Recipe, context: Context, feeds: Feeds, bars: Bars, kinds: Mapping[str, str] | None, metric: Metric | None, notes: Sequence[str]
) -> reports.Result:
    """What an earlier run decided: nothing is searched for, and a bar that is missed changes nothing of the result."""
    if feeds.all is None or feeds.judging is None:
        return _unjudged(source, plan, context, feeds, bars, repeat(plan, source.model, context))
    where = context.judging_place().describe()
    shapes = run_shapes(source.model, feeds.shapes())
    outputs = output_kinds(source.model, shapes, kinds)
    with closing(SessionJudge(source.model, feeds.all, feeds.judging, context, outputs, source.same_file(), metric)) as judge:
        try:
            executed = repeat(plan, source.model, replace(context, data=feeds.calibration))
        except (ModelError, DataError):
            judge.check_original()
            raise
        assert executed[-1].result is not None
        result = executed[-1].result.model
        try:
            comparison = judge.compare(result)
        except CandidateFails as problem:
            raise ModelError(f"What the earlier run decided does not run here: {problem}") from problem
        info, snapshot = judge.info(result), judge.snapshot(result)
    record = reports.run_record(
        "compress",
        source,
        result,
        feeds,
        plan,
        context,
        executed,
        reports.sizes(source, snapshot, feeds.shapes(), shapes),
        where=where,
        comparison=comparison,
        nodes=info.nodes,
        bars=reports.agreement_bar(bars, comparison),
        notes=[reports.REPEATED, *notes, *([] if context.target is None else place_notes(context.target, where)), *info.notes],
    )
    done = reports.Result(result, record, snapshot)
    reports.raise_missed(record.bars, done)
    return done


def _unjudged(source: Source, plan: Recipe, context: Context, feeds: Feeds, bars: Bars, executed: Sequence[ExecutedStep]) -> reports.Result:
    """Without data: every step as it was executed."""
    assert executed[-1].result is not None
    result = executed[-1].result.model
    snapshot = snapshot_of(result)
    record = reports.run_record(
        "compress",
        source,
        result,
        feeds,
        plan,
        context,
        executed,
        reports.sizes(source, snapshot),
        bars=reports.stated_bars(bars, None),
        notes=[reports.UNCOMPARED],
    )
    done = reports.Result(result, record, snapshot)
    reports.raise_missed(record.bars, done)
    return done
