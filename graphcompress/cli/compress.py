"""graphcompress compress"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from graphcompress.cli import options
from graphcompress.cli.options import Format
from graphcompress.errors import shown


def compress(
    model: options.ModelPath,
    output: options.Output,
    data: options.MaybeData = None,
    preprocess: options.Preprocess = None,
    random_data: options.RandomData = False,
    recipe: Annotated[
        str | None,
        typer.Option(
            "--recipe",
            metavar="NAME|FILE",
            help="What to do: a name of rules/recipes/, or a TOML file. Default: default, with --goal size: size.",
            show_default=False,
        ),
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(
            "--target",
            metavar="NAME",
            help="The table of rules/targets/ that decides what is worth quantizing. Default: cpu, with --decisions that of the record.",
            show_default=False,
        ),
    ] = None,
    costs: Annotated[
        Path | None,
        typer.Option("--costs", metavar="FILE", help="Costs that graphcompress calibrate measured, in place of the target's own.", show_default=False),
    ] = None,
    goal: Annotated[
        str,
        typer.Option(
            "--goal",
            metavar="GOAL",
            help="balanced: as small as it gets without being slower. speed: not slower, whatever its size. size: the smallest that takes at most 1.02 times as long. "
            "macs=F, latency=F, size=F: at most that part (0 to 1) of the original's, with channels pruned where INT8 and small weights do not suffice; that takes up to three rounds of some minutes.",
        ),
    ] = "balanced",
    decisions: Annotated[
        Path | None,
        typer.Option(
            "--decisions",
            metavar="RECORD",
            help="Repeat what the run that wrote this record decided, with its target, seed and threads, without searching or timing.",
            show_default=False,
        ),
    ] = None,
    effort: Annotated[
        str,
        typer.Option(
            "--effort",
            metavar="full|fast",
            help="full: search, with measured times, for the boldest result that holds. fast: the boldest form of each step by the target's table, or none, timed shortly.",
        ),
    ] = "full",
    provider: options.ResultProvider = None,
    on: options.On = None,
    threads: options.Threads = None,
    strip: Annotated[
        bool,
        typer.Option("--strip", help="Also leave out metadata, doc strings, the producer and inner names; inputs and outputs keep theirs (docs/privacy.md)."),
    ] = False,
    exclude: Annotated[
        list[str] | None, typer.Option("--exclude", metavar="REGEX", help="Leave nodes float whose name matches. Repeatable.", show_default=False)
    ] = None,
    workers: options.Workers = None,
    cluster: options.Cluster = None,
    external_data: options.ExternalData = False,
    record: options.RecordPath = None,
    report: options.ReportPath = None,
    min_agreement: options.MinAgreement = None,
    min_speedup: options.MinSpeedup = None,
    kind: options.Kinds = None,
    metric: options.MetricName = None,
    metric_joins: options.MetricJoins = False,
    keep: Annotated[bool, typer.Option("--keep", help="Write the result even where a bar is missed.")] = False,
    no_measure: options.NoMeasure = False,
    format: options.OutputFormat = Format.table,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> int:
    """Simplify, quantize and store small a model, and return what is faithful to it, not slower and not larger.

    Every 4th feed judges the result and is kept out of calibration. Where agreement is below 0.99 (or --min-agreement), or it is slower (or below --min-speedup), or larger,
    layers and steps are rolled back, at worst all.
    """
    from graphcompress.cli.console import Console
    from graphcompress.cli.files import Outputs
    from graphcompress.cli.run import check_patterns, check_target, choose_data, finish
    from graphcompress.recipe import load_recipe

    plan = None if recipe is None else load_recipe(recipe)
    patterns = [shown(pattern) for pattern in exclude or ()]  # names in models are UTF-8, whatever the locale
    check_patterns(patterns)
    check_target(target)
    outputs = Outputs(
        output, record, (model, data, preprocess, decisions, None if plan is None else plan.path, costs), external_data=external_data, report=report
    )
    with Console(quiet=quiet, format=format) as console:
        from graphcompress import api

        api.parse_goal(goal)
        earlier = None if decisions is None else api.read_record(decisions)
        target = target or "cpu" if earlier is None else api.decided_target(earlier, target)
        kinds, task = api.parse_kinds(kind or ()), api.open_metric(metric, joins=metric_joins)
        source = api.open_model(model)
        outputs.check_data(source.model)
        feeds = choose_data(data, random_data, source.model, preprocess)
        with api.open_place(on, provider, target) as place, api.open_workers(workers, cluster) as processes:
            return finish(
                console,
                outputs,
                keep,
                lambda: api.compress(
                    source,
                    feeds,
                    recipe=plan,
                    exclude=patterns,
                    strip=strip,
                    target=target,
                    costs=costs,
                    provider=provider if place is None else None,
                    place=place,
                    threads=threads,
                    workers=processes,
                    min_agreement=min_agreement,
                    min_speedup=min_speedup,
                    kinds=kinds,
                    metric=task,
                    metric_joins=metric_joins,
                    goal=goal,
                    decisions=earlier,
                    measure=not no_measure,
                    effort=effort,
                    progress=console.progress,
                ),
            )
