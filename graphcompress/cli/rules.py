"""graphcompress rules list, show, verify, why"""

from __future__ import annotations

from typing import Annotated

import typer

from graphcompress.cli import options
from graphcompress.cli.help import Command, CommandList
from graphcompress.cli.options import Format

CASES = 40

app = typer.Typer(
    cls=CommandList,
    no_args_is_help=False,
    help="The rewrite rules of simplify: list them, show one, prove them by experiment, find out why one does not hold.",
)
RuleId = Annotated[str, typer.Argument(metavar="ID", help="A rule, for instance fuse/conv_bn.", show_default=False)]


@app.command("list", cls=Command)
def list_(format: options.OutputFormat = Format.table, quiet: options.Quiet = False, debug: options.Debug = False) -> int:
    """List all rules: id, effect, what they do."""
    from graphcompress.cli.console import Console
    from graphcompress.cli.rule_tables import list_tables
    from graphcompress.cli.run import finish_report

    with Console(quiet=quiet, format=format) as console:
        from graphcompress.api.rules import list_rules

        return finish_report(console, list_tables, list_rules)


@app.command("show", cls=Command)
def show(rule: RuleId, format: options.OutputFormat = Format.table, quiet: options.Quiet = False, debug: options.Debug = False) -> int:
    """Show one rule: pattern before and after, conditions, examples."""
    from graphcompress.cli.console import Console
    from graphcompress.cli.rule_tables import show_tables
    from graphcompress.cli.run import finish_report

    with Console(quiet=quiet, format=format) as console:
        from graphcompress.api.rules import show_rule

        return finish_report(console, show_tables, lambda: show_rule(rule))


@app.command("verify", cls=Command)
def verify(
    rules: Annotated[list[str] | None, typer.Argument(metavar="[ID]...", help="Rules to verify. Default: all.", show_default=False)] = None,
    cases: Annotated[int, typer.Option("--cases", metavar="N", min=1, help="Random graphs that each rule is to change.")] = CASES,
    seed: Annotated[int, typer.Option("--seed", metavar="N", help="Of the random graphs.")] = 0,
    format: options.OutputFormat = Format.table,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> int:
    """Run random graphs made from each rule's pattern before and after, on onnxruntime and on onnx's reference evaluator. Status 1 where a rule is wrong."""
    from graphcompress.cli.console import Console
    from graphcompress.cli.rule_tables import verify_tables
    from graphcompress.cli.run import finish_report

    with Console(quiet=quiet, format=format) as console:
        from graphcompress.api.rules import verify_rules

        return finish_report(console, verify_tables, lambda: verify_rules(rules or (), cases=cases, seed=seed, progress=console.progress))


@app.command("why", cls=Command)
def why(
    rule: RuleId,
    model: options.ModelPath,
    target: Annotated[
        str | None, typer.Option("--target", metavar="NAME", help="Simplify for this target. Default: the rule's own, if it has one.", show_default=False)
    ] = None,
    format: options.OutputFormat = Format.table,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> int:
    """Simplify MODEL and say where the rule nearly holds in the result, and what is missing there."""
    from graphcompress.cli.console import Console
    from graphcompress.cli.rule_tables import why_tables
    from graphcompress.cli.run import check_target, finish_report

    check_target(target)
    with Console(quiet=quiet, format=format) as console:
        from graphcompress.api.rules import explain_rule

        return finish_report(console, why_tables, lambda: explain_rule(rule, model, target=target, progress=console.progress))
