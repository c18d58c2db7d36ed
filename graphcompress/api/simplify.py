"""simplify."""

from __future__ import annotations

from graphcompress.api import reports
from graphcompress.api.inputs import AnyModel, Feeds, open_model
from graphcompress.ir.files.snapshot import snapshot_of
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
    snapshot = snapshot_of(result)
    record = reports.run_record("simplify", source, result, Feeds(), plan, context, [executed], reports.sizes(source, snapshot))
    return reports.Result(result, record, snapshot)
