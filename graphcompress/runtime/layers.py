"""Which layers compute something else at one place than at another.

Every layer is looked at by itself: at the second place it is fed what the layers before it gave at the first, so that an error of an earlier layer is not seen again in
all later ones. Layers end where a tensor can be handed out without coming between operators that runtimes fuse: behind QuantizeLinear, and behind float operators that no
QuantizeLinear follows; what is dequantized is never handed out.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass

import numpy as np

from graphcompress.ir.model.edit import Edits
from graphcompress.ir.model.element_types import array_dtype_name
from graphcompress.ir.model.model import Model
from graphcompress.ir.model.objects import Node, Tensor
from graphcompress.ir.model.signature import with_signature
from graphcompress.ir.model.walk import constant_data, consumers, producer, toposort
from graphcompress.runtime.ort_session import Array, Feed
from graphcompress.runtime.place import Place, open_for

PASSED_ON = ("Relu", "Clip", "LeakyRelu", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Identity")
"""Operators that a runtime may fuse with what stands before them, or that compute nothing: no layer ends in front of them."""


@dataclass(frozen=True, slots=True)
class LayerNoise:
    """What a layer, named by its heaviest operator `node` of type `op`, gives at the other place: `noise` is the error's root mean square beside the standard deviation of `tensor`."""

    node: str
    op: str
    tensor: str
    noise: float


def layer_noises(model: Model, right: Place, other: Place, feeds: Iterable[Feed], *, threads: int | None = None) -> list[LayerNoise]:
    """The layers of `model` in an order in which it runs, each with its noise at `other`, where `right` counts as right; `feeds` are a few,
    two at least.

    Raises what sessions raise, ModelError also where `other` does not take the model cut into layers.
    """
    feeds = list(feeds)
    ends = layer_ends(model)
    names = [tensor.name for tensor in ends]
    whole = with_signature(*_copied(model, ends))
    session, _ = open_for(right, whole, feeds, threads=threads)
    with closing(session):
        told = [session.run(feed) for feed in feeds]
    # What does not depend on the feed is folded away by a runtime, some of which cannot hand it out then.
    names = [n for n in names if all(_numeric(values[n]) for values in told) and any(not np.array_equal(values[n], told[0][n]) for values in told[1:])]
    if not names:
        return []
    copy, _, tensors = _copied(model, [t for t in ends if t.name in set(names)])
    fed = {name: copy.variable(f"{name}_fed") for name in names}
    with Edits(copy) as edits:
        for tensor in tensors:
            edits.replace(tensor, fed[tensor.name])
    inputs = [(fed[n], array_dtype_name(told[0][n]), (None,) * told[0][n].ndim if _ragged(told, n) else told[0][n].shape) for n in names]
    cut = with_signature(copy, inputs, tensors)
    layered = [{**feed, **{fed[n].name: values[n] for n in names}} for feed, values in zip(feeds, told, strict=True)]
    session, _ = open_for(other, cut, layered, threads=threads)
    with closing(session):
        # What nothing reads is no input of the session.
        taken = {spec.name for spec in session.inputs}
        given = [session.run({name: array for name, array in feed.items() if name in taken}) for feed in layered]
    return [_noise(tensor, [v[tensor.name] for v in told], [v[tensor.name] for v in given]) for tensor in ends if tensor.name in fed]


def layer_ends(model: Model) -> list[Tensor]:
    """Tensors of the main graph at which layers end, in an order in which it runs."""
    ends = []
    outputs = set(model.graph.outputs)
    for node in toposort(model.graph):
        for tensor in node.outputs:
            readers = consumers(tensor)
            if not tensor.name or constant_data(tensor) is not None or node.is_op("DequantizeLinear", "Constant"):
                continue
            absorbed = readers and all(r.is_op("QuantizeLinear", *PASSED_ON) for r in readers) and not node.is_op("QuantizeLinear")
            if tensor in outputs or (readers and not absorbed):
                ends.append(tensor)
    return ends


def _copied(model: Model, tensors: Sequence[Tensor]) -> tuple[Model, list[tuple[Tensor, str, tuple[int, ...]]], list[Tensor]]:
    """A copy, no further inputs, and its twins of `tensors`: what `with_signature` takes."""
    copy, twins = model.clone()
    return copy, [], [twins.tensor(t) for t in tensors]


def _numeric(value: object) -> bool:
    return isinstance(value, np.ndarray) and (value.dtype.kind == "f" or value.dtype in (np.uint8, np.int8, np.uint16, np.int16)) and value.size > 0


def _ragged(told: Sequence[dict[str, Array]], name: str) -> bool:
    return len({values[name].shape for values in told}) > 1


def _noise(tensor: Tensor, right: Sequence[Array], other: Sequence[Array]) -> LayerNoise:
    pairs = [(np.float64(a), np.float64(b)) for a, b in zip(right, other, strict=True)]
    error = sum(float(np.sum((a - b) ** 2)) for a, b in pairs if a.shape == b.shape)
    count = sum(a.size for a, _ in pairs)
    spread = float(np.std(np.concatenate([a.ravel() for a, _ in pairs])))
    noise = np.inf if any(a.shape != b.shape or not np.isfinite(b).all() >= np.isfinite(a).all() for a, b in pairs) else (error / count) ** 0.5
    node = _heaviest(tensor)
    return LayerNoise(node.name or node.outputs[0].name, str(node.op), tensor.name, float(noise / spread) if spread else float(noise))


def _heaviest(tensor: Tensor) -> Node:
    """The operator that computes: what stands before a QuantizeLinear and what only passes on."""
    node = producer(tensor)
    assert node is not None
    while (
        node.is_op("QuantizeLinear", *PASSED_ON) and node.inputs and (before := producer(node.inputs[0])) is not None and not before.is_op("DequantizeLinear")
    ):
        node = before
    return node
