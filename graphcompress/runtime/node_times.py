"""How long each node of a model takes inside a whole run, from onnxruntime's profile."""

from __future__ import annotations

from graphcompress.ir.model.model import Model
from graphcompress.ir.model.objects import Node
from graphcompress.runtime.place import LocalPlace
from graphcompress.runtime.profile import kernel_times
from graphcompress.runtime.session import Feed


def node_times(model: Model, feed: Feed, place: LocalPlace, *, threads: int = 1) -> dict[Node, float]:
    """Seconds per run of the nodes of `model`, those of subgraphs for each time that they run. What is fused counts for the node that is computed (see `Kernel.node`) and others are missing;
    kernels that the runtime adds by itself (reordered layouts, casts) count for the node that ran before them.

    Raises ModelError where the model does not load or run, DataError where the feed does not fit.
    """
    (kernels,) = kernel_times([model], [feed], place, threads=threads)
    seconds: dict[Node, float] = {}
    last: Node | None = None
    for kernel in kernels:
        last = kernel.node or last
        if last is not None:
            seconds[last] = seconds.get(last, 0.0) + kernel.ns * 1e-9
    return seconds
