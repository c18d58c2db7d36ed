"""data: what a model would be fed."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from graphcompress.api import reports
from graphcompress.api.documents import DataReport, FedInput
from graphcompress.api.inputs import AnyData, AnyModel, data_source, open_feeds, open_model
from graphcompress.version import __version__

if TYPE_CHECKING:
    from graphcompress.ir import Model


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
        findings=reports.finding_reports(
            finding for finding in suspicions(feeds, seen) if finding.id != "data/never-normalised" or not any(_scales(source.model, i.name) for i in inputs)
        ),
    )


def _scales(model: Model, name: str) -> bool:
    """Whether a model scales this input itself, as exports with a preprocessing layer do: it is read, perhaps transposed or cast, by arithmetic with constants only."""
    from graphcompress.ir import constant_data, consumers

    readers = [reader for tensor in model.graph.inputs if tensor.name == name for reader in consumers(tensor)]
    while len(readers) == 1 and readers[0].is_op("Transpose", "Cast", "Identity"):
        readers = consumers(readers[0].outputs[0])
    scaling = [
        reader
        for reader in readers
        if reader.is_op("Mul", "Div", "Sub", "Add", "BatchNormalization") and any(constant_data(t) is not None for t in reader.inputs)
    ]
    return bool(readers) and len(scaling) == len(readers)
