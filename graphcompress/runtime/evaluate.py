"""Run small graphs for folding, and look at the tensors inside a graph. All on the CPU provider."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from graphcompress.errors import ModelError
from graphcompress.ir.files import read, write
from graphcompress.ir.model import walk
from graphcompress.ir.model.model import Model
from graphcompress.runtime.ort import Optimize
from graphcompress.runtime.session import Feed, open_session

# What the tensors of one run may hold together, judged by the shapes of the first feed.
BUDGET = 256 * 2**20
# Tensors whose size the first feed does not tell (sequences among them) are taken this many at a time.
BLIND_GROUP = 16
LARGEST_ITEM = 8


def run_once(model: Model, feed: Feed, outputs: Sequence[str] | None = None) -> dict[str, Any]:
    """Values of `outputs` (default: all outputs of the model), with the optimizer off: every operator runs as it is written.

    `outputs` may name any tensor of the main graph. Raises ModelError where onnxruntime cannot load or run the model, DataError where the feed does not fit.
    """
    own = [o.name for o in model.outputs]
    wanted = own if outputs is None else list(dict.fromkeys(outputs))
    shown = with_outputs(model, wanted) if set(wanted) - set(own) else model
    with open_session(shown, optimize="none", threads=1) as session:
        return session.run(feed, wanted)


def observe(
    model: Model,
    names: Sequence[str],
    feeds: Iterable[Feed],
    *,
    threads: int | None = None,
    optimize: Optimize = "none",
    budget: int = BUDGET,
) -> Iterator[dict[str, Any]]:
    """Values of the tensors `names` for every feed, as dicts from name to array; every (name, feed) pair comes exactly once, and nothing is kept.

    Where all of them fit into `budget` bytes (by the shapes of the first feed) there is one dict per feed, in order. Otherwise they are taken in groups: all
    feeds for the first group, then all for the next where `feeds` can be iterated again; group by group for each feed where it is a one-way iterator.
    The optimizer is off by default, so that every tensor has the value that the graph as written gives it. Names of inputs and constants are allowed.
    Raises ModelError for a name that is no tensor of the main graph.
    """
    wanted = list(dict.fromkeys(names))
    if not wanted:
        return
    again = iter(feeds) is not feeds
    source = iter(feeds)
    first = next(source, None)
    if first is None:
        return
    groups = _groups(model, wanted, first, budget)
    if len(groups) > 1 and again:
        del source  # it may hold a file open
        for group in groups:
            with open_session(with_outputs(model, group), optimize=optimize, threads=threads) as session:
                for each in feeds:
                    yield session.run(each, group)
        return
    sessions = [(g, open_session(with_outputs(model, g), optimize=optimize, threads=threads)) for g in groups]
    try:
        for each in itertools.chain([first], source):
            for group, session in sessions:
                yield session.run(each, group)
    finally:
        for _, session in sessions:
            session.close()


def with_outputs(model: Model, names: Sequence[str]) -> Model:
    """A copy for one session whose outputs are `names`, tensors of the main graph. Raises ModelError for a name that is none."""
    proto = write.to_proto(model)
    known = _tensor_names(proto.graph)
    infos = {i.name: i for i in proto.graph.output}
    chosen = []
    for name in names:
        if name not in known:
            raise ModelError(f"{model.path or 'The model'}: there is no tensor '{name}' in the main graph to look at.")
        chosen.append(infos.get(name))
    graph = proto.graph
    kept = [None if c is None else c.SerializeToString() for c in chosen]
    del graph.output[:]
    for name, info in zip(names, kept, strict=True):
        entry = graph.output.add()
        if info is None:
            entry.name = name
        else:
            entry.ParseFromString(info)
    # A list of inner types may be stale, and would now be read as a promise about outputs.
    keep = [v for v in graph.value_info if v.name not in set(names)]
    if len(keep) != len(graph.value_info):
        del graph.value_info[:]
        graph.value_info.extend(keep)
    return read.model_from_proto(proto, path=model.path, check=False)


def _tensor_names(graph: Any) -> set[str]:
    names = {i.name for i in graph.input} | {t.name for t in graph.initializer} | {s.values.name for s in graph.sparse_initializer}
    for node in graph.node:
        names.update(node.output)
    return names - {""}


def _groups(model: Model, names: Sequence[str], first: Feed, budget: int) -> list[list[str]]:
    """`names` cut into runs of at most `budget` bytes each, in their order; a larger tensor stands alone."""
    sizes = _bytes(model, names, first)
    if sizes is None:
        return [list(names[i : i + BLIND_GROUP]) for i in range(0, len(names), BLIND_GROUP)]
    groups: list[list[str]] = []
    room = -1
    for name in names:
        if sizes[name] > room:
            groups.append([])
            room = budget
        groups[-1].append(name)
        room -= sizes[name]
    return groups


def _bytes(model: Model, names: Sequence[str], first: Feed) -> dict[str, int] | None:
    """Bytes of each tensor under the first feed (at most: 8 bytes an element), from a run that returns shapes only. None where not every tensor has a shape."""
    shown = with_outputs(model, names)
    proto = write.to_proto(shown)
    if not any(o.domain in ("", "ai.onnx") for o in proto.opset_import):
        return None
    del proto.graph.output[:]
    probes = {f"{name}:shape": name for name in names}
    if len(names) == 0 or set(probes) & {t for n in walk.nodes(shown) for t in (o.name for o in n.outputs)}:
        return None
    for probe, name in probes.items():
        node = proto.graph.node.add(op_type="Shape")
        node.input.append(name)
        node.output.append(probe)
        proto.graph.output.add(name=probe)
    try:
        with open_session(read.model_from_proto(proto, path=model.path, check=False), optimize="none", threads=1) as session:
            shapes = session.run(first)
    except ModelError:  # a sequence or map among them, which has no shape
        return None
    return {probes[k]: LARGEST_ITEM * math.prod(int(d) for d in np.asarray(v)) for k, v in shapes.items()}
