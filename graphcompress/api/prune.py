"""prune."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import closing
from dataclasses import replace
from typing import Any

from graphcompress import record
from graphcompress.api import reports
from graphcompress.api.inputs import AnyData, AnyModel, Feeds, Source, choose_place, open_model, untimed_notes
from graphcompress.errors import ModelError, UsageError
from graphcompress.gate import Bars, CandidateFails, SessionJudge, search, timed_settings
from graphcompress.ir import Model
from graphcompress.ir.analysis.output_kinds import output_kinds
from graphcompress.ir.analysis.statistics import run_shapes
from graphcompress.ir.check.models import require_known_domains
from graphcompress.ir.files.snapshot import snapshot_of
from graphcompress.ir.shapes.infer import Shapes
from graphcompress.passes.prune.options import GOALS
from graphcompress.recipe import Recipe, recipe_of, run
from graphcompress.runtime.place import Place
from graphcompress.step import Context, ExecutedStep, Progress, StepResult, silent
from graphcompress.targets import load_target

LEAST_SEARCHED = 0.1
"""Of the multiply-accumulates: the boldest rung where only the agreement is stated."""


def prune(
    model: AnyModel,
    data: AnyData | None = None,
    *,
    macs: float | None = None,
    params: float | None = None,
    size: float | None = None,
    latency: float | None = None,
    sparsity: float | None = None,
    pattern: str | None = None,
    actions: Iterable[str] | None = None,
    best_effort: bool = False,
    max_drop: float | None = None,
    ignore: Iterable[str] = (),
    target: str = "cpu",
    provider: str | None = None,
    place: Place | None = None,
    threads: int | None = None,
    seed: int = 0,
    measure: bool = True,
    progress: Progress = silent,
    **options: Any,
) -> reports.Result:
    """Simplify, then remove channels, and put two small layers in the place of one (`actions`: "channels", "rank", or both; not stated: both, where there is data), until `macs` of the multiply-accumulates (`params` of the parameters, `size` of the bytes, `latency` of the time; parts of 1) are left, and refit
    what is left on the data. Or, with shapes that stay, make `sparsity` of each layer's weights zero, or all but n of m by a `pattern` like "2:4".

    Agreement (on every 4th feed, kept out of the repair) and speed-up are in the record; nothing is rolled back. With `max_drop` alone as much goes as the
    agreement allows. Without data the order is by the norms of weights,
    nothing is refitted, and the result is neither compared nor measured. `ignore` are regular expressions on names of groups; further keywords are options of the step.

    Raises BarMissed, with the Result in its `result`, where the groups do not allow that much (not with `best_effort`) or the agreement falls by more than `max_drop`; UsageError for an
    option that the step does not have; DataError where the data does not fit.
    """
    goals = {"macs": macs, "params": params, "size": size, "latency": latency, "sparsity": sparsity, "pattern": pattern}
    chosen = None if actions is None else tuple(actions)
    options |= {k: v for k, v in {**goals, "actions": chosen, "best_effort": best_effort, "ignore": tuple(ignore)}.items() if v is not None}
    table = load_target(target)
    searched = max_drop is not None and all(goal is None for goal in goals.values()) and not {"ratios", "free"} & {k for k, v in options.items() if v}
    if searched:
        options |= {"macs": LEAST_SEARCHED, "best_effort": True}
    plan = recipe_of("prune", (("simplify", {}), ("prune", options)))
    context = Context(target=table, place=choose_place(table, provider, place), threads=threads, seed=seed, progress=progress)
    where = context.judging_place().describe()
    source = open_model(model)
    require_known_domains(source.model, "pruned")
    feeds = Feeds.open(data, source.model, plan)
    shapes = run_shapes(source.model, feeds.shapes())
    if searched:
        assert max_drop is not None
        executed, result = _boldest(source, plan, context, feeds, shapes, max_drop)
    else:
        executed = list(run(plan, source.model, replace(context, data=feeds.calibration)))
        assert executed[-1].result is not None
        result = executed[-1].result.model
    notes = (
        []
        if feeds.all is not None
        else [f"No data was given: {_without_data(options)}, nothing was refitted, and the result was not compared with the original."]
    )
    notes += [] if executed[-1].result is None else _zero_notes(executed[-1].result)
    judged: dict[str, Any] = {"notes": notes}
    comparison = None
    snapshot = snapshot_of(result)
    if feeds.all is not None and feeds.judging is not None:
        with closing(SessionJudge(source.model, feeds.all, feeds.judging, context, output_kinds(source.model, shapes), source.same_file())) as judge:
            try:
                comparison = judge.compare(result)
                measurements = tuple((setting, judge.measure(result, setting)) for setting in timed_settings(threads, where, measure=measure))
            except CandidateFails as problem:
                raise ModelError(f"The pruned model does not run, which is a fault of graphcompress, not of {source.name}: {problem}") from problem
            info, snapshot = judge.info(result), judge.snapshot(result)
        said = [*notes, *untimed_notes(where), *info.notes]
        judged = {"where": where, "comparison": comparison, "measurements": measurements, "nodes": info.nodes, "notes": said}
    bars = [] if best_effort or searched else _goal_bars(executed[-1], options)
    if max_drop is not None:
        agreement = None if comparison is None else reports.number(comparison.agreement)
        drop = None if agreement is None else 1 - agreement
        bars.append(record.Bar(option="--max-drop", required=max_drop, reached=drop, held=drop is not None and drop <= max_drop))
    document = reports.run_record(
        "prune", source, result, feeds, plan, context, executed, reports.sizes(source, snapshot, feeds.shapes(), shapes), bars=bars, **judged
    )
    done = reports.Result(result, document, snapshot)
    reports.raise_missed(document.bars, done)
    return done


def _boldest(source: Source, plan: Recipe, context: Context, feeds: Feeds, shapes: Shapes, max_drop: float) -> tuple[list[ExecutedStep], Model]:
    """The steps and the model of the boldest rung of pruning whose agreement is at least 1 - `max_drop`."""
    if feeds.all is None or feeds.judging is None:
        raise UsageError("--max-drop without a goal such as --macs looks for the most that can go, for which it needs data.")
    with closing(SessionJudge(source.model, feeds.all, feeds.judging, context, output_kinds(source.model, shapes), source.same_file())) as judge:
        outcome = search(source.model, plan.steps, replace(context, data=feeds.calibration), judge, Bars(min_agreement=1 - max_drop), (), goal="speed")
    return list(outcome.executed), outcome.chosen.candidate.model


def _goal_bars(executed: ExecutedStep, options: dict[str, Any]) -> list[record.Bar]:
    """What was to be left, and what is."""
    parts = {} if executed.result is None else executed.result.decisions.get("reached", {})
    if options.get("sparsity") is not None:
        return [reports.bar("--sparsity", options["sparsity"], parts.get("sparsity", 0.0))]
    goals = [(name, options[name]) for name in GOALS if options.get(name) is not None]
    return [record.Bar(option=f"--{name}", required=goal, reached=parts.get(name, 1.0), held=parts.get(name, 1.0) <= goal) for name, goal in goals]


def _without_data(options: dict[str, Any]) -> str:
    """What decided in place of data."""
    if options.get("sparsity") is not None or options.get("pattern") is not None:
        return "the smallest weights became zero"
    return "channels went by the norms of their weights"


def _zero_notes(result: StepResult) -> list[str]:
    """What zeros are good for, and what not."""
    gzip = result.decisions.get("gzip")
    if gzip is None:
        return []
    return [
        f"{result.decisions['reached']['sparsity']:.1%} of the weights that were looked at are zero. The file is as large as before, and the constants in it take "
        f"{gzip['after'] / max(1, gzip['before']):.0%} of the bytes after gzip. onnxruntime's CPU provider runs the model no faster: it multiplies by zeros like by any other number."
    ]
