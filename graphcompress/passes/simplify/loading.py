"""Whether onnxruntime loads a model: its structure alone, whatever its weights weigh."""

from __future__ import annotations

from graphcompress.errors import ModelError
from graphcompress.ir import Model, to_bytes
from graphcompress.ir.model.extract import structure
from graphcompress.runtime import ort
from graphcompress.runtime.ort import Optimize

INLINE_BYTES = 1024  # an initializer up to this size may be a shape, axes or a scale, which some kernels want constant
LEVELS: tuple[Optimize, ...] = ("none", "all")  # a kernel may be missing in the one, the optimizer may fail in the other
CPU: tuple[tuple[str, dict[str, str]], ...] = (("CPUExecutionProvider", {}),)


def load_problem(model: Model) -> str | None:
    """What onnxruntime says against the model, None where it loads. Raises RuntimeUnavailable where there is no onnxruntime to ask."""
    failures = ort.failures()
    try:
        content = to_bytes(structure(model, INLINE_BYTES))
    except ModelError:  # tables in attributes, or in subgraphs, that no message can hold: nothing to say
        return None
    for level in LEVELS:
        try:
            ort.create(content, ort.options(threads=1, optimize=level), CPU)
        except failures as problem:
            return ort.one_line(problem)
    return None
