"""graphcompress compress"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from graphcompress.cli import options
from graphcompress.cli.options import Format


class Goal(StrEnum):
    """What is wanted of a result."""

    balanced = "balanced"
    speed = "speed"
    size = "size"


def compress(
    model: options.ModelPath,
    output: options.Output,
    data: options.MaybeData = None,
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
        str,
        typer.Option("--target", metavar="NAME", help="The table of rules/targets/ that decides what is worth quantizing."),
    ] = "cpu",
    goal: Annotated[
        Goal,
        typer.Option(
            "--goal",
            help="balanced: as small as it gets without being slower. speed: not slower, whatever its size. size: the smallest that takes at most 1.02 times as long.",
        ),
    ] = Goal.balanced,
    decisions: Annotated[
        Path | None,
        typer.Option(
            "--decisions", metavar="RECORD", help="Repeat what the run that wrote this record decided, without searching or timing.", show_default=False
        ),
    ] = None,
    provider: options.ResultProvider = None,
    threads: options.Threads = None,
    external_data: options.ExternalData = False,
    record: options.RecordPath = None,
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
    from graphcompress.cli.run import check_target, choose_data, finish
    from graphcompress.recipe import load_recipe

    plan = None if decisions is not None and recipe is None else load_recipe(recipe or ("size" if goal is Goal.size else "default"))
    check_target(target)
    outputs = Outputs(output, record, (model, data, decisions if plan is None else plan.path), external_data=external_data)
    with Console(quiet=quiet, format=format) as console:
        from graphcompress import api

        kinds, task = api.parse_kinds(kind or ()), api.open_metric(metric, joins=metric_joins)
        source = api.open_model(model)
        outputs.check_data(source.model)
        feeds = choose_data(data, random_data, source.model)
        return finish(
            console,
            outputs,
            keep,
            lambda: api.compress(
                source,
                feeds,
                recipe=plan,
                target=target,
                provider=provider,
                threads=threads,
                min_agreement=min_agreement,
                min_speedup=min_speedup,
                kinds=kinds,
                metric=task,
                metric_joins=metric_joins,
                goal=goal.value,
                decisions=decisions,
                measure=not no_measure,
                progress=console.progress,
            ),
        )
