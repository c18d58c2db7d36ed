"""layout: columns computed as rows, and several rows of few channels at once, where the target's table expects a gain."""

from __future__ import annotations

from graphcompress.ir import Model
from graphcompress.ir.shapes.infer import Shapes, infer
from graphcompress.passes.layout.columns import turn_columns
from graphcompress.passes.layout.options import Options
from graphcompress.passes.layout.rows import join_rows
from graphcompress.step import Context, Ladder, StepResult
from graphcompress.targets import load_target

COLUMNS = "layout/columns"
ROWS = "layout/rows"


def layout(model: Model, context: Context, options: Options | None = None) -> Ladder:
    """The same function in other layouts: Convs over columns of pixels as Convs over rows, and of Convs with few output channels several rows at once.

    What pays follows from the target's table (`layout`; a target without prices keeps the model as it is) at the sizes of the first feed. Exact but for the order of sums. Never fails:
    where sizes are not known, nothing is changed.
    """
    options = options or Options()
    target = context.target or load_target("cpu")
    if not target.layout:
        return Ladder.single(StepResult(model, False), "nothing laid out")
    work = model.copy()
    turned = turn_columns(work, _sizes(work, context), infer(work), target.layout)
    joined = join_rows(work, _sizes(work, context), infer(work), target.layout, options.growth)
    applied = {name: count for name, count in ((COLUMNS, len(turned)), (ROWS, len(joined))) if count}
    if not applied:
        return Ladder.single(StepResult(model, False), "nothing laid out")
    return Ladder.single(StepResult(work, True, applied, decisions={"columns": turned, "rows": joined}), "laid out")


def _sizes(model: Model, context: Context) -> Shapes:
    """Shapes at the sizes of the first feed; those of any run where there is none."""
    feed = None if context.data is None else next(iter(context.data), None)
    return infer(model, None if feed is None else {name: array.shape for name, array in feed.items()})
