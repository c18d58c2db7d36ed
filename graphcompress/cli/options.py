"""The options that several commands share."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, TypeAlias

import typer


class Format(StrEnum):
    """How results are printed."""

    table = "table"
    json = "json"


ModelPath: TypeAlias = Annotated[Path, typer.Argument(metavar="MODEL", help="The .onnx file.", show_default=False)]
Output: TypeAlias = Annotated[Path, typer.Option("-o", "--output", metavar="OUT", help="Where the result is written; not MODEL itself.", show_default=False)]
Data: TypeAlias = Annotated[
    Path,
    typer.Option(
        "--data",
        metavar="DATA",
        help="A folder of .npz files, one feed each, or one .npz stacked along the first axis; .npy, pictures, CSV, Parquet, JSON lines or texts as well (docs/data.md).",
        show_default=False,
    ),
]
MaybeData: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        "--data",
        metavar="DATA",
        help="A folder of .npz files, one feed each, or one .npz stacked along the first axis; .npy, pictures, CSV, Parquet, JSON lines or texts as well (docs/data.md).",
        show_default=False,
    ),
]
Preprocess: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        "--preprocess",
        metavar="FILE",
        help="How pictures, columns or texts become inputs: a TOML file (docs/data.md), a preprocessor_config.json or a tokenizer.json.",
        show_default=False,
    ),
]
RandomData: TypeAlias = Annotated[
    bool, typer.Option("--random-data", help="Use 64 random feeds instead of data. Ranges and agreement then mean little; the record says so.")
]
Provider: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--provider",
        metavar="NAME",
        help="Execution provider: any name that onnxruntime knows, short (cpu, cuda, openvino, qnn) or whole. Default: cpu.",
        show_default=False,
    ),
]
ResultProvider: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--provider",
        metavar="NAME",
        help="Execution provider that results are run and judged on: any name that onnxruntime knows. Default: the target's.",
        show_default=False,
    ),
]
On: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--on",
        metavar="PLACE",
        help="Run it elsewhere: a name of places.toml, or a command that starts Python or Node there ('ssh HOST', another Python, 'docker exec -i C').",
        show_default=False,
    ),
]
Threads: TypeAlias = Annotated[
    int | None, typer.Option("--threads", metavar="N", min=1, help="Threads of a run. Default: measured with one and with all cores.", show_default=False)
]
Workers: TypeAlias = Annotated[
    int | None,
    typer.Option(
        "--workers",
        metavar="N",
        min=1,
        help="Processes that share the feeds, with one thread each; each holds the model once (docs/scale.md). Default: this one.",
        show_default=False,
    ),
]
Cluster: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--cluster",
        metavar="ADDRESS",
        help="The scheduler of a dask cluster whose workers share the feeds ('tcp://HOST:8786'), or 'local' for one on this machine.",
        show_default=False,
    ),
]
ExternalData: TypeAlias = Annotated[
    bool, typer.Option("--external-data", help="Write large tensors to OUT.data beside OUT. Without it OUT is one file, unless that would reach 2 GiB.")
]
RecordPath: TypeAlias = Annotated[
    Path | None, typer.Option("--record", metavar="FILE", help="Write the record (JSON: docs/formats.md) here.", show_default=False)
]
ReportPath: TypeAlias = Annotated[
    Path | None, typer.Option("--report", metavar="FILE.html", help="Write one page that tells what came of it; it needs no script.", show_default=False)
]
MinAgreement: TypeAlias = Annotated[
    float | None, typer.Option("--min-agreement", metavar="X", help="A bar, 0 to 1: status 1 where the agreement is lower.", show_default=False)
]
Kinds: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--kind",
        metavar="OUTPUT=KIND",
        help="How an output is judged, where the graph does not tell: classes, sequence, probabilities, boxes, values, embedding, exact. Repeatable.",
        show_default=False,
    ),
]
MetricName: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--metric",
        metavar="MODULE:FUNCTION",
        help="A function (reference, candidate[, labels]) on the outputs of a feed that gives the agreement, 0 to 1, in place of the outputs' own.",
        show_default=False,
    ),
]
MetricJoins: TypeAlias = Annotated[bool, typer.Option("--metric-joins", help="The outputs' own agreement judges, too, beside the metric.")]
MinSpeedup: TypeAlias = Annotated[
    float | None,
    typer.Option(
        "--min-speedup", metavar="X", help="A bar: status 1 where the result is not X times as fast; what is not proved slower counts as 1.", show_default=False
    ),
]
OutputFormat: TypeAlias = Annotated[Format, typer.Option("--format", help="json prints exactly one JSON document on stdout (docs/formats.md).")]
Quiet: TypeAlias = Annotated[bool, typer.Option("-q", "--quiet", help="Print nothing but errors; a document that --format asks for is printed all the same.")]
Debug: TypeAlias = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
NoMeasure: TypeAlias = Annotated[bool, typer.Option("--no-measure", help="Leave out all timing.")]
