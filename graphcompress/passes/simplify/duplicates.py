"""Equal constants, which exporters write once per use, become one."""

from __future__ import annotations

import hashlib
from collections import defaultdict

import numpy as np

from graphcompress.ir import Constant, Graph, Model, graphs, output_ids
from graphcompress.ir.inline import defined_names
from graphcompress.ir.model.edit import Edits
from graphcompress.ir.model.element_types import array_dtype_name

STAGE = "simplify/duplicates"
WORTH_A_CAPTURE = 1024
"""Bytes from which on a constant of a subgraph is read from the main graph instead: fusions of a runtime look for small ones beside the operator."""


class Digests:
    """Hashes of the contents of constants, each taken once for as long as the constant holds the same data."""

    def __init__(self) -> None:
        self._known: dict[Constant, tuple[object, bytes]] = {}

    def of(self, constant: Constant) -> bytes:
        """The hash of a constant's elements, without its type and shape."""
        content = constant.data if constant.data is not None else constant.values
        known = self._known.get(constant)
        if known is None or known[0] is not content:
            known = self._known[constant] = (content, digest_of(constant))
        return known[1]


def merge_equal_constants(model: Model, digests: Digests) -> int:
    """Let one initializer stand for all of its graph that have its type, shape and bytes, and one of the main graph also for large ones of subgraphs; how many went.

    An output of a graph keeps its name: it is what others become. Content is looked at only where type and shape are the same.
    """
    outputs, names = output_ids(model), defined_names(model)
    alike: dict[tuple[str, tuple[int, ...]], list[tuple[Constant, Graph]]] = defaultdict(list)
    for graph in graphs(model):
        for constant in graph.initializers.values():
            if constant.outputs:
                alike[kind_of(constant)].append((constant, graph))
    gone = 0
    with Edits(model) as edits:
        for group in alike.values():
            if len(group) == 1:
                continue
            first: dict[tuple[Graph, bytes], Constant] = {}
            for constant, graph in sorted(group, key=lambda pair: (pair[1] is not model.graph, id(pair[0]) not in outputs)):
                digest = digests.of(constant)
                outer = first.get((model.graph, digest))
                if outer is None or (graph is not model.graph and (constant.nbytes < WORTH_A_CAPTURE or names[outer.name] > 1)):
                    outer = first.setdefault((graph, digest), constant)
                if outer is not constant and id(constant) not in outputs:
                    edits.replace(constant, outer)
                    del graph.initializers[constant.name]
                    gone += 1
    return gone


def kind_of(constant: Constant) -> tuple[str, tuple[int, ...]]:
    """Element type and shape."""
    return (constant.data.dtype_name if constant.data is not None else array_dtype_name(constant.values)), tuple(constant.shape)


def digest_of(constant: Constant) -> bytes:
    """A hash of the bytes."""
    if constant.data is not None and constant.data.dtype_name != "string":
        return hashlib.sha256(constant.data.raw()).digest()
    values = constant.values
    return hashlib.sha256(repr(values.tolist()).encode() if values.dtype == object else np.ascontiguousarray(values).data).digest()
