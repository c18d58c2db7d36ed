"""distill."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import closing
from dataclasses import replace
from typing import Any

from graphcompress.api import reports
from graphcompress.api.inputs import AnyData, AnyModel, Feeds, check_comparable, choose_place, open_model
from graphcompress.errors import BarMissed
from graphcompress.gate import SessionJudge
from graphcompress.gate.nearness import distance, nearer
from graphcompress.ir.analysis.output_kinds import output_kinds
from graphcompress.ir.analysis.statistics import run_shapes
from graphcompress.ir.check.models import require_known_domains
from graphcompress.ir.files.snapshot import snapshot_of
from graphcompress.recipe import run, single_step
from graphcompress.runtime.place import Place
from graphcompress.step import Context, Progress, silent


def distill(
    student: AnyModel,
    teacher: AnyModel,
    data: AnyData | None,
    *,
    steps: int | None = None,
    minutes: float | None = None,
    freeze: Iterable[str] = (),
    provider: str | None = None,
    place: Place | None = None,
    threads: int | None = None,
    seed: int = 0,
    progress: Progress = silent,
    **options: Any,
) -> reports.Result:
    """Let `student` learn from `teacher` on inputs without labels, for `minutes` (default: 3) or so many `steps`. Only weights change. Learning runs in this process on the CPU provider.

    Every 4th feed is kept out and judges: where the student is not nearer to the teacher on these than before (`nearer`), BarMissed is raised, with the student as it was in its `result`. The record's
    comparison is with the teacher. `freeze` are regular expressions on the names of weights that stay as they are; further keywords are options of the step.

    Raises UsageError for an option that the step does not have or a pattern that matches nothing, ModelError where the inputs or outputs of the two differ, DataError where feeds are missing or
    do not fit.
    """
    for name, value in (("steps", steps), ("minutes", minutes), ("freeze", tuple(freeze))):
        if value not in (None, ()):
            options[name] = value
    plan = single_step("distill", options)
    pupil, master = open_model(student), open_model(teacher)
    for source in (pupil, master):
        require_known_domains(source.model, "distilled")
    check_comparable(master, pupil)
    context = Context(place=choose_place(None, provider, place), threads=threads, seed=seed, progress=progress, teacher=master.model)
    where = context.judging_place().describe()
    feeds = Feeds.open(data, master.model, plan)
    assert feeds.all is not None and feeds.judging is not None
    kinds = output_kinds(master.model, run_shapes(master.model, feeds.shapes()))
    with closing(SessionJudge(master.model, feeds.all, feeds.judging, context, kinds, master.same_file())) as judge:
        before = judge.compare(pupil.model)
        (executed,) = run(plan, pupil.model, replace(context, data=feeds.calibration))
        assert executed.result is not None
        result = executed.result.model
        after = before if result is pupil.model else judge.compare(result)
        if result is not pupil.model and not nearer(after, before):
            executed, result = replace(executed, in_result=False), pupil.model
    snapshot = snapshot_of(result)
    comparison = after if result is not pupil.model else before
    record = reports.run_record(
        "distill",
        pupil,
        result,
        feeds,
        plan,
        context,
        [executed],
        reports.sizes(pupil, snapshot, feeds.shapes()),
        where=where,
        comparison=comparison,
        notes=[f"Beside the teacher before learning: {distance(before)}; after it: {distance(after)}."],
    ).model_copy(update={"teacher": master.file})
    done = reports.Result(result, record, snapshot)
    if result is pupil.model:
        raise BarMissed(
            f"{pupil.name} is not nearer to {master.name} after learning ({distance(after)}, before {distance(before)}, on {before.feeds} feeds that were kept out), "
            "so it stays as it was. More inputs or more steps may help.",
            done,
        )
    return done
