"""Run a model once and hand out chosen tensors. Always on the CPU provider, with the optimizer off: every operator runs as it is written."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from graphcompress.errors import ModelError
from graphcompress.ir.model.model import Model
from graphcompress.runtime.session import Feed, open_session
from graphcompress.runtime.watch import Watch


def run_once(model: Model, feed: Feed, outputs: Sequence[str] | None = None) -> dict[str, Any]:
    """Values of `outputs` (default: all outputs of the model) under one feed.

    `outputs` may name any tensor of the main graph. Raises ModelError where onnxruntime cannot load or run the model, DataError where the feed does not fit.
    """
    declared = [o.name for o in model.outputs]
    if outputs is None or set(outputs) <= set(declared):
        with open_session(model, optimize="none", threads=1) as session:
            return session.run(feed, declared if outputs is None else list(dict.fromkeys(outputs)))
    graph = model.graph
    tensors = {t.name: t for t in (*graph.inputs, *graph.initializers.values(), *(t for n in graph.nodes for t in n.outputs))}
    for name in outputs:
        if name not in tensors:
            raise ModelError(f"{model.path or 'The model'}: there is no tensor '{name}' in the main graph to look at.")
    values: dict[str, Any] = {}
    for part in Watch(model, [tensors[name] for name in outputs]).run([feed], threads=1):
        values |= {t.name: value for t, value in part.items()}
    return values
