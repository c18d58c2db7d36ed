"""Which operator has which mapper."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

from graphcompress.ir import Node
from graphcompress.passes.prune.axes import indexing, mappers
from graphcompress.passes.prune.axes.forms import AxisForm
from graphcompress.passes.prune.axes.state import AxisStore

Mapper: TypeAlias = Callable[[AxisStore, Node], AxisForm | bool]

_STANDARD: Mapping[Mapper, tuple[str, ...]] = {
    mappers.reshape: ("Reshape", "Flatten", "Squeeze", "Unsqueeze"),
    mappers.transpose: ("Transpose",),
    mappers.depth_to_space: ("DepthToSpace", "SpaceToDepth"),
    mappers.normalization: ("Hardmax", "LayerNormalization", "LogSoftmax", "LpNormalization", "RMSNormalization", "Softmax"),
    mappers.cum_sum: ("CumSum",),
    mappers.channel_window: ("LRN",),
    mappers.last_two: ("Trilu",),
    mappers.top_k: ("TopK",),
    mappers.reduction: (
        "ArgMax",
        "ArgMin",
        "ReduceL1",
        "ReduceL2",
        "ReduceLogSum",
        "ReduceLogSumExp",
        "ReduceMax",
        "ReduceMean",
        "ReduceMin",
        "ReduceProd",
        "ReduceSum",
        "ReduceSumSquare",
    ),
    mappers.resize: ("Resize", "Upsample"),
    mappers.einsum: ("Einsum",),
    indexing.concat: ("Concat",),
    indexing.split: ("Split",),
    indexing.slice_: ("Slice",),
    indexing.gather: ("Gather",),
    indexing.pad: ("Pad",),
    indexing.expand: ("Expand",),
    indexing.tile: ("Tile",),
    indexing.shape_of: ("Shape",),
    indexing.same_sizes: ("Cast", "Identity"),
    indexing.from_size: ("ConstantOfShape", "RandomNormal", "RandomUniform", "Range", "Size"),
}
FOLLOWED: Mapping[Mapper, tuple[int, ...]] = {
    mappers.reshape: (0, 1),
    mappers.resize: (3,),
    indexing.concat: (),
    indexing.expand: (1,),
    indexing.gather: (0,),
    indexing.same_sizes: (0,),
    indexing.shape_of: (0,),
    indexing.slice_: (0,),
}
"""The inputs in which a mapper follows sizes, () for all. Elsewhere, what a size is the length of keeps it."""
MAPPERS: Mapping[tuple[str, str], Mapper] = {("", op): mapper for mapper, ops in _STANDARD.items() for op in ops}
