"""data: what a model would be fed."""

from __future__ import annotations

import os

from graphcompress.api import reports
from graphcompress.api.documents import DataReport, FedInput
from graphcompress.api.inputs import AnyData, AnyModel, data_source, open_feeds, open_model, scaled_inputs
from graphcompress.version import __version__


def look(model: AnyModel, data: AnyData, *, preprocess: str | os.PathLike[str] | None = None) -> DataReport:
    """What `model` would be fed from `data`: shapes, ranges, first values, and what looks wrong. Raises DataError where the data do not fit."""
    from graphcompress.data.signature import expected
    from graphcompress.data.summary import summaries, suspicions

    source = open_model(model)
    feeds = open_feeds(data, source.model, preprocess)
    specs = {spec.name: spec for spec in (*source.model.inputs, *source.model.overridable)}
    seen = summaries(feeds)
    inputs = [
        FedInput(
            name=item.name,
            expected=expected(specs[item.name]),
            dtype=item.dtype,
            shapes=[list(shape) for shape in item.shapes],
            minimum=reports.number(item.least),
            maximum=reports.number(item.most),
            mean=reports.number(item.mean),
            deviation=reports.number(item.deviation),
            zeros=item.zeros / item.count if item.count else None,
            rows=item.rows,
        )
        for item in seen
    ]
    return DataReport(
        graphcompress=__version__,
        model=source.file,
        data=data_source(feeds, 0, 0),
        inputs=inputs,
        findings=reports.finding_reports(suspicions(feeds, seen, scaled_inputs(source.model))),
    )
