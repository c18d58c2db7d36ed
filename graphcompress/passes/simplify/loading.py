"""Whether onnxruntime loads a model: its structure alone, whatever its weights weigh."""

from __future__ import annotations

from graphcompress.errors import RuntimeUnavailable
from graphcompress.ir import Model, nodes
from graphcompress.ir.files.weights import structure
from graphcompress.runtime import ort
from graphcompress.runtime.ort import Optimize

CPU: tuple[tuple[str, dict[str, str]], ...] = (("CPUExecutionProvider", {}),)
LARGEST = 64 << 20  # bytes of a structure; more can only be tables in attributes and weights in subgraphs, which no rule touches
LARGEST_TABLES = 16 << 20  # bytes of tables in attributes; a session holds those of a tree ensemble in 13 times as many
MANY_NODES = 1000  # the optimizer takes longer than everything else on a large graph


def load_problem(model: Model) -> str | None:
    """What onnxruntime says against the model, None where it loads. Raises RuntimeUnavailable where there is no onnxruntime to ask.

    Without optimization, where a kernel may be missing; optimized too, where the optimizer may fail, unless the graph is large.
    """
    failures = ort.failures()
    if sum(n.proto.ByteSize() for n in nodes(model) if n.proto is not None) > LARGEST_TABLES:
        return None
    proto = structure(model)
    if proto.ByteSize() > LARGEST:
        return None
    content = proto.SerializeToString()
    levels: tuple[Optimize, ...] = ("none",) if len(proto.graph.node) > MANY_NODES else ("none", "all")
    for level in levels:
        try:
            ort.create(content, ort.options(threads=1, optimize=level), CPU)
        except RuntimeUnavailable:
            raise
        except failures as problem:
            return ort.one_line(problem)
    return None
