"""graphcompress prune"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from graphcompress.cli import options
from graphcompress.cli.options import Format
from graphcompress.errors import UsageError, shown


class Score(StrEnum):
    """What decides which channels go first."""

    obs = "obs"
    activation = "activation"
    magnitude = "magnitude"


def prune(
    model: options.ModelPath,
    output: options.Output,
    data: options.MaybeData = None,
    preprocess: options.Preprocess = None,
    random_data: options.RandomData = False,
    macs: Annotated[
        float | None, typer.Option("--macs", metavar="F", help="The part of the multiply-accumulates that is kept, 0 to 1.", show_default=False)
    ] = None,
    params: Annotated[float | None, typer.Option("--params", metavar="F", help="The part of the parameters that is kept, 0 to 1.", show_default=False)] = None,
    size: Annotated[float | None, typer.Option("--size", metavar="F", help="The part of the file's bytes that is kept, 0 to 1.", show_default=False)] = None,
    latency: Annotated[
        float | None, typer.Option("--latency", metavar="F", help="The part of the time of one run that is kept, 0 to 1, as measured here.", show_default=False)
    ] = None,
    ratio: Annotated[
        list[str] | None,
        typer.Option("--ratio", metavar="REGEX=F", help="Groups whose name matches keep this part of their channels. Repeatable.", show_default=False),
    ] = None,
    sparsity: Annotated[
        float | None,
        typer.Option(
            "--sparsity", metavar="F", help="Zeros instead: the part of each layer's weights that becomes zero, 0 to 1; shapes stay.", show_default=False
        ),
    ] = None,
    pattern: Annotated[
        str | None,
        typer.Option("--pattern", metavar="N:M", help="Zeros instead: N of every M neighbouring input channels keep their weights.", show_default=False),
    ] = None,
    best_effort: Annotated[bool, typer.Option("--best-effort", help="Status 0 also where the graph does not allow that much.")] = False,
    max_drop: Annotated[
        float | None,
        typer.Option(
            "--max-drop",
            metavar="X",
            help="A bar, 0 to 1: status 1 where the agreement is lower than 1 - X. Without a goal: as much goes as it allows.",
            show_default=False,
        ),
    ] = None,
    actions: Annotated[
        str | None,
        typer.Option(
            "--actions",
            metavar="LIST",
            help="What may be done: channels, rank (a layer becomes two of a low rank; needs data), or channels,rank. Default: all that can be done.",
            show_default=False,
        ),
    ] = None,
    score: Annotated[Score, typer.Option("--score", help="What goes first: by the error after refitting, without it, or by the norms of weights.")] = Score.obs,
    round_to: Annotated[str, typer.Option("--round-to", metavar="N", help="Widths are multiples of N; auto: those that the target computes fast.")] = "auto",
    ignore: Annotated[
        list[str] | None,
        typer.Option(
            "--ignore",
            metavar="REGEX",
            help="Leave groups whole whose name matches (inspect --groups lists them); for zeros: nodes. Repeatable.",
            show_default=False,
        ),
    ] = None,
    no_repair: Annotated[bool, typer.Option("--no-repair", help="Do not refit what is left.")] = False,
    target: Annotated[str, typer.Option("--target", metavar="NAME", help="The table of rules/targets/ that says which widths are fast.")] = "cpu",
    provider: options.ResultProvider = None,
    threads: options.Threads = None,
    external_data: options.ExternalData = False,
    record: options.RecordPath = None,
    report: options.ReportPath = None,
    keep: Annotated[bool, typer.Option("--keep", help="Write the result also where a bar was missed.")] = False,
    no_measure: options.NoMeasure = False,
    format: options.OutputFormat = Format.table,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> int:
    """Remove channels, split layers into two of a low rank, or make single weights zero, and refit what is left on unlabeled data; agreement and speed-up are printed. It simplifies first."""
    from graphcompress.cli.console import Console
    from graphcompress.cli.files import Outputs
    from graphcompress.cli.run import check_patterns, check_target, choose_data, finish
    from graphcompress.passes.prune.options import ACTIONS

    channels = bool(ratio) or any(value is not None for value in (macs, params, size, latency))
    zeros = (sparsity is not None) + (pattern is not None)
    if channels + zeros > 1 or (channels + zeros == 0 and max_drop is None):
        raise UsageError(
            "Say how much is to be left: --macs 0.5 for half of the multiply-accumulates, --params, --size or --latency, or several of them, "
            "or --max-drop 0.02 for as much as that allows; or else, for zeros in shapes that stay, --sparsity 0.5 or --pattern 2:4."
        )
    for option, value in (("--macs", macs), ("--params", params), ("--size", size), ("--latency", latency)):
        if value is not None and not 0 < value <= 1:
            raise UsageError(f"{option} {value:g} is not a part: give a number above 0, at most 1 (0.5 keeps half).")
    if sparsity is not None and not 0 < sparsity < 1:
        raise UsageError(f"--sparsity {sparsity:g} is not a part: give a number above 0 and below 1 (0.5 makes half of the weights zero).")
    if zeros and (score is not Score.obs or round_to != "auto" or actions is not None):
        raise UsageError("--actions, --score and --round-to are about channels and ranks: they do not go with --sparsity or --pattern.")
    chosen = None if actions is None else tuple(part.strip() for part in actions.split(","))
    if not set(chosen or ()) <= set(ACTIONS):
        raise UsageError(f"--actions {shown(actions or '')} is not among {', '.join(ACTIONS)}, or both with a comma.")
    if "rank" in (chosen or ()) and (score is not Score.obs or not (data or random_data)):
        raise UsageError("--actions rank needs inputs (--data), and does not go with another --score, which is about channels.")
    if ratio and chosen == ("rank",):
        raise UsageError("--ratio is about channels: it does not go with --actions rank.")
    if round_to != "auto" and not (round_to.isdecimal() and int(round_to) > 0):
        raise UsageError(f"--round-to {round_to} is neither a number from 1 on nor auto.")
    kept, _, group = (pattern or "1:2").partition(":")
    if not (kept.isdecimal() and group.isdecimal() and 0 < int(kept) < int(group)):
        raise UsageError(f"--pattern {pattern} does not say how many weights stay of how many: give two numbers, the smaller first, like 2:4.")
    ratios = dict(_ratio(shown(text)) for text in ratio or ())
    check_patterns(list(ratios), "--ratio")
    patterns = [shown(pattern) for pattern in ignore or ()]
    check_patterns(patterns, "--ignore")
    check_target(target)
    outputs = Outputs(output, record, (model, data, preprocess), external_data=external_data, report=report)
    with Console(quiet=quiet, format=format) as console:
        from graphcompress import api

        source = api.open_model(model)
        outputs.check_data(source.model)
        feeds = choose_data(data, random_data, source.model, preprocess)
        return finish(
            console,
            outputs,
            keep,
            lambda: api.prune(
                source,
                feeds,
                macs=macs,
                params=params,
                size=size,
                latency=latency,
                ratios=ratios,
                sparsity=sparsity,
                pattern=pattern,
                best_effort=best_effort,
                max_drop=max_drop,
                actions=chosen,
                ignore=patterns,
                score=score.value,
                round_to=round_to if round_to == "auto" else int(round_to),
                repair=not no_repair,
                target=target,
                provider=provider,
                threads=threads,
                measure=not no_measure,
                progress=console.progress,
            ),
        )


def _ratio(text: str) -> tuple[str, float]:
    """A pattern and the part that it stands for. Raises UsageError where the text is something else."""
    pattern, _, part = text.rpartition("=")
    try:
        value = float(part)
    except ValueError:
        value = 0.0
    if not pattern or not 0 < value <= 1:
        raise UsageError(f"--ratio {text} does not say which groups keep which part: give a regular expression and a number above 0, at most 1, like stem=0.5.")
    return pattern, value
