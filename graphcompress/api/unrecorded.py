"""`simplify` without a record: for callers who ask for nothing but the model, which needs neither its statistics nor its hash."""

from __future__ import annotations

from graphcompress.ir import Model
from graphcompress.recipe import Recipe, run, single_step
from graphcompress.step import Context, ExecutedStep, Progress, silent
from graphcompress.targets import load_target


def simplified(model: Model, *, target: str | None = None, progress: Progress = silent) -> Model:
    """`model` simplified, as `simplify` does it."""
    _, _, executed = execute(model, target=target, progress=progress)
    assert executed.result is not None
    return executed.result.model


def execute(model: Model, *, target: str | None, progress: Progress) -> tuple[Recipe, Context, ExecutedStep]:
    """The step on `model`, and what it was run by and in."""
    plan = single_step("simplify", {})
    context = Context(target=load_target(target) if target else None, progress=progress)
    (executed,) = run(plan, model, context)
    return plan, context, executed
