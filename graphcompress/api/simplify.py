"""simplify."""

from __future__ import annotations

from graphcompress.api import reports
from graphcompress.api.inputs import AnyModel, Feeds, open_model
from graphcompress.recipe import run, single_step
from graphcompress.step import Context, Progress, silent
from graphcompress.targets import load_target


def simplify(model: AnyModel, *, target: str | None = None, progress: Progress = silent) -> reports.Result:
    """Simplify: the same function with fewer nodes. Without `target` the result holds standard operators only. Nodes of unknown domains stay as they are."""
    plan = single_step("simplify", {})
    context = Context(target=load_target(target) if target else None, progress=progress)
    source = open_model(model)
    (executed,) = run(plan, source.model, context)
    assert executed.result is not None
    result = executed.result.model
    return reports.Result(result, reports.run_record("simplify", source, result, Feeds(), plan, context, [executed], reports.sizes(source, result)))
