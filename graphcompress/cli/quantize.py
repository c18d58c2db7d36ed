"""graphcompress quantize"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from graphcompress.cli import options
from graphcompress.cli.options import Format
from graphcompress.errors import shown


class Calibration(StrEnum):
    """How a range is found in what was observed."""

    minmax = "minmax"
    percentile = "percentile"
    mse = "mse"


class Mode(StrEnum):
    """What becomes INT8."""

    static = "static"
    dynamic = "dynamic"
    weights_int8 = "weights-int8"
    weights_int4 = "weights-int4"
    weights_fp16 = "weights-fp16"
    auto = "auto"


def quantize(
    model: options.ModelPath,
    output: options.Output,
    data: options.MaybeData = None,
    preprocess: options.Preprocess = None,
    random_data: options.RandomData = False,
    mode: Annotated[
        Mode,
        typer.Option(
            "--mode",
            help="static: weights and activations. dynamic: MatMul, Gemm and LSTM, with the ranges of each run. weights-int4: weights of MatMul and Gemm in 4 bits, fitted where there is data. weights-int8, weights-fp16: weights are "
            "stored small and computed with in float. auto: layer by layer static or dynamic, whichever is faster, other weights stored as int8. Only static needs data.",
        ),
    ] = Mode.static,
    calibration: Annotated[
        Calibration | None, typer.Option("--calibration", help="How ranges are chosen. Default: the step's own.", show_default=False)
    ] = None,
    exclude: Annotated[
        list[str] | None, typer.Option("--exclude", metavar="REGEX", help="Leave nodes float whose name matches. Repeatable.", show_default=False)
    ] = None,
    tune: Annotated[
        float | None,
        typer.Option(
            "--tune",
            metavar="MINUTES",
            min=0,
            help="Let the quantized weights and scales learn from the original for so long, on the calibration inputs; what gets no nearer stays as it was.",
            show_default=False,
        ),
    ] = None,
    target: Annotated[
        str,
        typer.Option("--target", metavar="NAME", help="The table of rules/targets/ that decides what is worth quantizing."),
    ] = "cpu",
    provider: options.ResultProvider = None,
    threads: options.Threads = None,
    workers: options.Workers = None,
    cluster: options.Cluster = None,
    external_data: options.ExternalData = False,
    record: options.RecordPath = None,
    report: options.ReportPath = None,
    kind: options.Kinds = None,
    no_measure: options.NoMeasure = False,
    format: options.OutputFormat = Format.table,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> int:
    """Quantize to INT8, whatever comes of it; agreement and speed-up are printed. It does not simplify first: compress does."""
    from graphcompress.cli.console import Console
    from graphcompress.cli.files import Outputs
    from graphcompress.cli.run import check_patterns, check_target, choose_data, finish

    patterns = [shown(pattern) for pattern in exclude or ()]  # names in models are UTF-8, whatever the locale
    check_patterns(patterns)
    check_target(target)
    outputs = Outputs(output, record, (model, data, preprocess), external_data=external_data, report=report)
    with Console(quiet=quiet, format=format) as console:
        from graphcompress import api

        kinds = api.parse_kinds(kind or ())
        source = api.open_model(model)
        outputs.check_data(source.model)
        feeds = choose_data(data, random_data, source.model, preprocess)
        with api.open_workers(workers, cluster) as processes:
            return finish(
                console,
                outputs,
                False,
                lambda: api.quantize(
                    source,
                    feeds,
                    mode=mode.value,
                    calibration=calibration.value if calibration else None,
                    exclude=patterns,
                    target=target,
                    provider=provider,
                    threads=threads,
                    workers=processes,
                    kinds=kinds,
                    measure=not no_measure,
                    tune=tune,
                    progress=console.progress,
                ),
            )
