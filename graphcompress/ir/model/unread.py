"""Constants that nobody reads any more."""

from __future__ import annotations

from collections.abc import Iterable

from graphcompress.ir.model.edit import Edits
from graphcompress.ir.model.model import Model
from graphcompress.ir.model.objects import Tensor
from graphcompress.ir.model.walk import graphs, output_ids, producer


def drop_unread(model: Model, tensors: Iterable[Tensor]) -> None:
    """Take away those of `tensors` that nobody reads any more: initializers, and what Constant nodes make."""
    outputs = output_ids(model)
    unread = {t for t in tensors if not t.outputs and id(t) not in outputs}
    if not unread:
        return
    for graph in graphs(model):
        for name in [name for name, constant in graph.initializers.items() if constant in unread]:
            del graph.initializers[name]
    with Edits(model) as edits:
        edits.remove([node for t in unread if (node := producer(t)) is not None and node.is_op("Constant")])
