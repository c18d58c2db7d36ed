"""What an earlier run decided, read from its record, so that it can be done again without searching or timing."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from pydantic import ValidationError

from graphcompress import record
from graphcompress.errors import UsageError
from graphcompress.recipe import Recipe, recipe_of, run
from graphcompress.step import Decision

if TYPE_CHECKING:
    from graphcompress.ir import Model
    from graphcompress.step import Context, ExecutedStep

AnyRecord: TypeAlias = "record.Record | str | os.PathLike[str]"


def read_record(source: AnyRecord) -> record.Record:
    """A record as it was written. Raises UsageError where there is none at that path, or the file is none of `compress`."""
    if not isinstance(source, record.Record):
        path = Path(source)
        try:
            source = record.Record.model_validate_json(path.read_bytes())
        except OSError as problem:
            raise UsageError(f"{path}: the record cannot be read: {problem.strerror}.") from problem
        except ValidationError as problem:
            raise UsageError(f"{path} is no record that this version can read. Give what `compress --record` wrote.") from problem
    if source.command != "compress":
        raise UsageError(f"Decisions come from a record of 'compress', and this is one of '{source.command}'.")
    return source


def decided_target(earlier: record.Record, stated: str | None) -> str:
    """The target of the earlier run. Raises UsageError where another one is stated."""
    target = earlier.target or "cpu"
    if stated not in (None, target):
        raise UsageError(f"The decisions are for the target '{target}', and --target says '{stated}'. Leave --target out, or run it without --decisions.")
    return target


def decided_seed(earlier: record.Record, stated: int | None) -> int:
    """The seed of the earlier run. Raises UsageError where another one is stated."""
    if stated not in (None, earlier.seed):
        raise UsageError(f"The decisions were made with the seed {earlier.seed}, and {stated} is stated. Leave the seed out, or run it without --decisions.")
    return earlier.seed


def decided(earlier: record.Record, model: record.ModelFile) -> Recipe:
    """The steps that are in the earlier result, with their options and with what each of them decided. Raises UsageError where the record is that of another
    model, or of a result without any step."""
    if earlier.model.sha256 != model.sha256:
        raise UsageError(
            f"The decisions are for another model (sha256 {earlier.model.sha256[:12]}..., and {model.path or 'this one'} has {model.sha256[:12]}...)."
        )
    steps = [step for step in earlier.steps if step.in_result]
    if not steps:
        raise UsageError("The decisions are those of a run that returned the original: there is nothing to repeat.")
    if any(step.use == "prune" and step.options.get("latency") is not None for step in steps):
        raise UsageError(
            "The decisions are those of a run that pruned by measured times, which are others each time. Prune to its --macs instead, which can be repeated."
        )
    recipe = recipe_of(earlier.recipe.name, [(step.use, _options(step)) for step in steps])
    planned = (replace(p, decided=Decision(step.rung, step.decisions)) for p, step in zip(recipe.steps, steps, strict=True))
    return replace(recipe, steps=tuple(planned))


def other_data(earlier: record.Record, data: record.DataSource | None) -> list[str]:
    """A note where the data is not that of the earlier run."""
    if earlier.data is None or data is None or earlier.data.sha256 == data.sha256:
        return []
    return ["The data is not that of the earlier run: ranges and weights that follow from it are others, and so are the bytes of the result."]


def repeat(plan: Recipe, model: Model, context: Context) -> list[ExecutedStep]:
    """Do the steps of `decided`. Raises UsageError where one of them leaves the model as it is, which it did not in the earlier run, and what the steps
    raise."""
    executed = list(run(plan, model, context))
    idle = [step.step.kind.name for step in executed if not step.in_result]
    if idle:
        raise UsageError(
            f"The decisions do not fit: the step '{idle[0]}' changed the model in the earlier run, and here it leaves it as it is. Run it without --decisions."
        )
    return executed


def _options(step: record.StepRun) -> dict[str, Any]:
    """The options of a step, with what followed from the speed of the machine as it was."""
    if step.use != "distill":
        return dict(step.options)
    if "interrupted" in step.decisions:
        raise UsageError("The decisions are those of a run whose learning was interrupted, which cannot be repeated.")
    options: dict[str, Any] = {name: value for name, value in step.options.items() if name != "minutes"}
    return options | {"steps": max(1, int(step.decisions["steps"]))}
