"""Linear maps from a student's channels to a teacher's, where the widths differ and nothing says which channels are the same."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np

from graphcompress.ir import Model
from graphcompress.ir.model.signature import with_signature
from graphcompress.passes.distill.batches import Array, Feed
from graphcompress.passes.distill.match import Adapter, Pair
from graphcompress.passes.distill.weights import named_tensors
from graphcompress.reconstruction.gram import Gram
from graphcompress.reconstruction.solve import bias_of, refit
from graphcompress.runtime.session import open_session

RIDGE = 1e-3
POSITIONS = 4096  # of each batch


def fitted(pairs: Sequence[Pair], student: Model, teacher: Model, feeds: Iterable[Feed], *, threads: int | None) -> list[Pair]:
    """`pairs` with the adapters of least squares on `feeds`, which stay as they are while the student learns."""
    open_pairs = [pair for pair in pairs if isinstance(pair.view, Adapter)]
    if not open_pairs:
        return list(pairs)
    grams = {pair: Gram() for pair in open_pairs}
    sides = [(student, [p.name for p in open_pairs]), (teacher, [p.teacher for p in open_pairs])]
    sessions = [open_session(_with_outputs(model, names), threads=threads) for model, names in sides]
    try:
        for feed in feeds:
            ours, theirs = (session.run({i.name: feed[i.name] for i in session.inputs}) for session in sessions)
            for pair in open_pairs:
                assert isinstance(pair.view, Adapter)
                grams[pair].update(*(_rows(values, pair.view.axis) for values in (ours[pair.name], theirs[pair.teacher])))
    finally:
        for session in sessions:
            session.close()
    return [replace(pair, view=_solved(grams[pair], pair.view)) if isinstance(pair.view, Adapter) else pair for pair in pairs]


def _solved(gram: Gram, view: Adapter) -> Adapter:
    moments = gram.finish()
    matrix = refit([moments], np.zeros_like(moments.xy), RIDGE)
    return Adapter(view.axis, matrix, bias_of(moments, matrix))


def _rows(values: Array, axis: int) -> Array:
    rows = np.moveaxis(values, axis, -1).reshape(-1, values.shape[axis])
    return rows[:: max(1, len(rows) // POSITIONS)]


def _with_outputs(model: Model, names: Iterable[str]) -> Model:
    copy = model.copy()
    tensors = named_tensors(copy)
    return with_signature(copy, [], [tensors[name] for name in dict.fromkeys(names)])
