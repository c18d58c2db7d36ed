"""graphcompress distill"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from graphcompress.cli import options
from graphcompress.cli.options import Format
from graphcompress.errors import shown


def distill(
    student: Annotated[Path, typer.Argument(metavar="STUDENT", help="The .onnx file that learns.", show_default=False)],
    output: options.Output,
    teacher: Annotated[Path, typer.Option("--teacher", metavar="MODEL", help="The .onnx file that is learned from.", show_default=False)],
    data: options.Data,
    preprocess: options.Preprocess = None,
    minutes: Annotated[
        float | None, typer.Option("--minutes", metavar="M", min=0, help="For how long to learn. Default: 3, unless --steps is given.", show_default=False)
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option("--steps", metavar="N", min=1, help="How many steps to learn, whatever time they take; with --minutes, at most.", show_default=False),
    ] = None,
    freeze: Annotated[
        list[str] | None, typer.Option("--freeze", metavar="REGEX", help="Leave weights as they are whose name matches. Repeatable.", show_default=False)
    ] = None,
    match: Annotated[
        str,
        typer.Option(
            "--match",
            metavar="WHAT",
            help="auto: outputs and activations of equal names; outputs; or a file: the record of the prune that made STUDENT, or pairs of tensors.",
        ),
    ] = "auto",
    augment: Annotated[
        str,
        typer.Option(
            "--augment",
            metavar="KINDS",
            help="Learn on inputs that are made of others, too: some of crop,flip,mix,noise; none; auto: those that help in short trials.",
        ),
    ] = "auto",
    threads: options.Threads = None,
    external_data: options.ExternalData = False,
    record: options.RecordPath = None,
    report: options.ReportPath = None,
    keep: Annotated[
        bool, typer.Option("--keep", help="Write the student as it was where it has not improved. Ctrl-C ends learning, and what was learned is judged.")
    ] = False,
    format: options.OutputFormat = Format.table,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> int:
    """Let a smaller or coarser model learn from the one that it was made from, on inputs without labels.

    Every 4th feed judges the result and is kept out of learning. Where the student is not nearer to the teacher on these than before, nothing is written and the status is 1.
    """
    from graphcompress.cli.console import Console
    from graphcompress.cli.files import Outputs
    from graphcompress.cli.run import check_patterns, choose_data, finish

    patterns = [shown(pattern) for pattern in freeze or ()]  # names in models are UTF-8, whatever the locale
    check_patterns(patterns, "--freeze")
    kinds = () if augment == "none" else tuple(kind.strip() for kind in augment.split(","))
    outputs = Outputs(output, record, (student, teacher, data, preprocess), external_data=external_data, report=report)
    with Console(quiet=quiet, format=format) as console:
        from graphcompress import api

        source = api.open_model(student)
        outputs.check_data(source.model)
        feeds = choose_data(data, False, source.model, preprocess)
        return finish(
            console,
            outputs,
            keep,
            lambda: api.distill(
                source,
                teacher,
                feeds,
                minutes=minutes,
                steps=steps,
                freeze=patterns,
                match=match,
                augment=kinds,
                keep=keep,
                threads=threads,
                progress=console.progress,
            ),
        )
