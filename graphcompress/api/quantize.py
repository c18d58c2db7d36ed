"""quantize."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import closing
from dataclasses import replace
from typing import Any, Literal, TypeAlias, get_args

from graphcompress.api import reports
from graphcompress.api.inputs import AnyData, AnyModel, Feeds, choose_place, open_model, place_notes
from graphcompress.errors import ModelError, UsageError, suggestion
from graphcompress.gate import CandidateFails, SessionJudge, timed_settings
from graphcompress.gate.judge import RunInfo
from graphcompress.gate.nearness import distance, nearer
from graphcompress.ir.analysis.output_kinds import output_kinds
from graphcompress.ir.analysis.statistics import run_shapes
from graphcompress.ir.check.models import require_known_domains
from graphcompress.ir.files.snapshot import snapshot_of
from graphcompress.recipe import recipe_of, run, single_step
from graphcompress.runtime.measure import Measurement
from graphcompress.runtime.place import Place
from graphcompress.runtime.workers import Workers
from graphcompress.step import Context, Progress, silent
from graphcompress.targets import load_target

Mode: TypeAlias = Literal["static", "dynamic", "weights-int8", "weights-int4", "weights-fp16", "auto"]
STORED_AS = {"weights-int8": "int8", "weights-fp16": "float16"}
PRODUCTS = {"dynamic": "dynamic", "weights-int4": "int4"}


def quantize(
    model: AnyModel,
    data: AnyData | None = None,
    *,
    mode: Mode = "static",
    calibration: str | None = None,
    exclude: Iterable[str] = (),
    target: str = "cpu",
    provider: str | None = None,
    place: Place | None = None,
    threads: int | None = None,
    workers: Workers | None = None,
    seed: int = 0,
    kinds: Mapping[str, str] | None = None,
    measure: bool = True,
    tune: float | None = None,
    progress: Progress = silent,
    **options: Any,
) -> reports.Result:
    """Quantize to INT8 by the target's table, whatever comes of it: nothing is rolled back. Agreement (on every 4th feed, kept out of calibration) and speed-up are
    in the record. `exclude` are regular expressions on node names; `kinds` says of outputs by name how they are compared (as for `compress`); further keywords
    are options of the step ("static", "dynamic" and "weights-int4" have some). `provider` and `place` say where the result runs (default: on the target's provider); `workers` (`open_workers`) share the feeds of calibration. `mode`: "static" (weights and activations),
    "dynamic" (MatMul, Gemm and LSTM, activations by the range of each run), "weights-int4" (weights of MatMul and Gemm in 4 bits, fitted where there is data; both need none), "weights-int8" or "weights-fp16" (weights alone, stored small, computed in float; without data the result is not compared),
    "auto" (layer by layer: "static" where it is faster, "dynamic" where that is, other weights as "weights-int8"; without data no "static").
    `tune`: for so many minutes the quantized model learns from the original, through the rounding, on the calibration feeds (the step `distill`); where it is no nearer afterwards, it stays as it was.

    Raises UsageError for a mode that there is not, an option that the step does not have or a pattern that matches nothing, DataError where feeds are missing or do not fit.
    """
    if mode not in (modes := get_args(Mode)):
        raise UsageError(f"There is no mode '{mode}'. {suggestion(mode, modes)}")
    if calibration is not None:
        options["calibration"] = calibration
    if patterns := tuple(exclude):
        options["exclude"] = patterns
    if mode == "static":
        plan = single_step("quantize", options)
    elif mode in PRODUCTS:
        plan = single_step("products", {"form": PRODUCTS[mode], **options})
    elif mode == "auto" and not options.keys() - {"exclude"}:
        plan = recipe_of("auto", [("quantize", options) if data is not None else ("products", {"form": "dynamic", **options}), ("store", {})])
    elif options:
        raise UsageError(f"'{next(iter(options))}' is no option of mode '{mode}'. Leave it out, or choose another mode.")
    else:
        plan = single_step("store", {"weights": STORED_AS[mode]})
    if tune is not None:
        if not tune > 0:
            raise UsageError(f"--tune {tune:g}: minutes of learning are more than 0.")
        plan = recipe_of("quantize", [(step.kind.name, step.options.model_dump(exclude_unset=True)) for step in plan.steps] + [("distill", {"minutes": tune})])
    table = load_target(target)
    context = Context(target=table, place=choose_place(table, provider, place), threads=threads, workers=workers, seed=seed, progress=progress, measure=measure)
    where = context.judging_place().describe()
    source = open_model(model)
    require_known_domains(source.model, "quantized")
    feeds = Feeds.open(data, source.model, plan)
    executed = list(run(plan, source.model, replace(context, data=feeds.calibration, teacher=source.model)))
    results = [step.result.model for step in executed if step.result is not None]
    result = results[-1]
    shapes = run_shapes(source.model, feeds.shapes())
    comparison, info, snapshot = None, RunInfo(), snapshot_of(result)
    measurements: tuple[tuple[int, Measurement], ...] = ()
    notes = place_notes(table, where)
    if feeds.all is not None and feeds.judging is not None:
        with closing(
            SessionJudge(source.model, feeds.all, feeds.judging, context, output_kinds(source.model, shapes, kinds), source.same_file(), once=tune is None)
        ) as judge:
            try:
                comparison = judge.compare(result)
                if tune is not None and result is not results[-2]:
                    untuned = judge.compare(results[-2])
                    notes.append(f"Beside the original before tuning: {distance(untuned)}; after it: {distance(comparison)}.")
                    if not nearer(comparison, untuned):
                        executed[-1], result, comparison = replace(executed[-1], in_result=False), results[-2], untuned
                measurements = tuple((setting, judge.measure(result, setting)) for setting in timed_settings(threads, where, measure=measure))
            except CandidateFails as problem:
                raise ModelError(f"The quantized model does not run, which is a fault of graphcompress, not of {source.name}: {problem}") from problem
            info, snapshot = judge.info(result), judge.snapshot(result)
    record = reports.run_record(
        "quantize",
        source,
        result,
        feeds,
        plan,
        context,
        executed,
        reports.sizes(source, snapshot, feeds.shapes(), shapes),
        where=where if comparison is not None else None,
        comparison=comparison,
        measurements=measurements,
        nodes=info.nodes,
        notes=[*notes, *info.notes, *([] if comparison is not None else [reports.UNCOMPARED])],
    )
    return reports.Result(result, record, snapshot)
