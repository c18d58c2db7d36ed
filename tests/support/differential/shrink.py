"""Smaller cases with the same fault: outputs dropped, nodes cut out, subgraphs thinned."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
from onnx import helper

from differential.judge import Discarded, Fault, judge
from differential.program import Case
from differential.running import RUNTIME_ERRORS, session, shown

TRIALS = 400


def shrink(case: Case, fault: Fault) -> tuple[Case, Fault]:
    """The smallest case that was reached whose fault has the same key."""
    left = TRIALS
    strip = _same(tidy(case, strip=True), fault) is not None  # else the fault is in what nobody reads
    progress = True
    while progress and left > 0:
        progress = False
        for candidate in candidates(case, strip):
            left -= 1
            if left <= 0:
                break
            if (other := _same(candidate, fault)) is not None:
                case, fault, progress = candidate, other, True
                break
    return case, fault


def _same(case: Case, fault: Fault) -> Fault | None:
    """The fault of `case`, where it is the one that is looked for."""
    try:
        other = judge(case)
    except Discarded:
        return None
    return other if other is not None and other.key == fault.key else None


def candidates(case: Case, strip: bool) -> Iterator[Case]:
    """Cases that are one step smaller, the largest steps first."""
    if len(case.feeds) > 1:
        for feed in case.feeds:
            yield replace(case, feeds=[feed])
    graph = case.model.graph
    if len(graph.output) > 1:
        for output in graph.output:
            model = copy(case.model)
            keep = [o for o in model.graph.output if o.name == output.name][:1]
            del model.graph.output[:]
            model.graph.output.extend(keep)
            yield tidy(replace(case, model=model), strip=strip)
        for index in range(len(graph.output)):
            model = copy(case.model)
            del model.graph.output[index]
            yield tidy(replace(case, model=model), strip=strip)
    if len(graph.value_info):
        model = copy(case.model)
        del model.graph.value_info[:]
        yield replace(case, model=model)
    tidied = tidy(case, strip=strip)
    if size(tidied) < size(case):
        yield tidied
    yield from cuts(case, strip)
    yield from bypasses(case, strip)
    yield from plain(case)


def copy(model: onnx.ModelProto) -> onnx.ModelProto:
    return onnx.ModelProto.FromString(model.SerializeToString())


def size(case: Case) -> int:
    return len(case.model.SerializeToString())


def tidy(case: Case, *, strip: bool) -> Case:
    """Without nodes and functions that no output needs, and (`strip`) without such inputs and initializers."""
    model = copy(case.model)
    needed = {o.name for o in model.graph.output}
    nodes = list(model.graph.node)
    changed = True
    alive: set[int] = set()
    while changed:
        changed = False
        for index, node in enumerate(nodes):
            if index not in alive and needed & set(node.output):
                alive.add(index)
                needed |= reads(node)
                changed = True
    _replace(model.graph.node, [n for i, n in enumerate(nodes) if i in alive])
    if strip:
        _replace(model.graph.initializer, [t for t in model.graph.initializer if t.name in needed])
        _replace(model.graph.input, [i for i in model.graph.input if i.name in needed])
    _replace(model.graph.value_info, [v for v in model.graph.value_info if v.name in needed])
    called = {n.op_type for f in model.functions for n in f.node} | {n.op_type for n in _everything(model.graph)}
    _replace(model.functions, [f for f in model.functions if f.name in called])
    names = {i.name for i in model.graph.input}
    return replace(case, model=model, feeds=[{k: v for k, v in f.items() if k in names} for f in case.feeds])


def _replace(field: Any, entries: list[Any]) -> None:
    copies = [type(e).FromString(e.SerializeToString()) for e in entries]
    del field[:]
    field.extend(copies)


def reads(node: onnx.NodeProto) -> set[str]:
    """Names that a node and its subgraphs read (inner ones among them)."""
    return set(node.input) | {name for a in node.attribute for n in a.g.node for name in reads(n)} | {o.name for a in node.attribute for o in a.g.output}


def _everything(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            yield from _everything(attribute.g)


def cuts(case: Case, strip: bool) -> Iterator[Case]:
    """Each node of the main graph replaced by inputs that are fed with what it computes, and each made the only output."""
    model = shown(case.model)
    names = [o.name for o in model.graph.output]
    try:
        opened = session(model)
        values = [dict(zip(names, opened.run(None, f), strict=True)) for f in case.feeds]
    except RUNTIME_ERRORS:
        return
    outputs = {o.name for o in case.model.graph.output}
    for index, node in enumerate(case.model.graph.node):
        made = [n for n in node.output if n]
        if node.op_type == "Constant" or any(n in outputs for n in made):
            continue
        smaller = copy(case.model)
        del smaller.graph.node[index]
        for name in made:
            arrays = [v[name] for v in values]
            dims = [sizes[0] if len(set(sizes)) == 1 else f"{name}_{axis}" for axis, sizes in enumerate(zip(*(a.shape for a in arrays), strict=True))]
            smaller.graph.input.append(helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(arrays[0].dtype), dims))
        feeds = [{**f, **{n: v[n] for n in made}} for f, v in zip(case.feeds, values, strict=True)]
        yield tidy(replace(case, model=smaller, feeds=feeds), strip=strip)
    for node in case.model.graph.node:
        for name in node.output:
            if name and name not in outputs and node.op_type != "Constant":
                smaller = copy(case.model)
                del smaller.graph.output[:]
                dtype = helper.np_dtype_to_tensor_dtype(values[0][name].dtype)
                smaller.graph.output.append(helper.make_tensor_value_info(name, dtype, None))
                yield tidy(replace(case, model=smaller), strip=strip)


def bypasses(case: Case, strip: bool) -> Iterator[Case]:
    """Each node, inside subgraphs and functions too, left out in favour of one of its inputs."""
    total = sum(1 for _ in _bodies(case.model))
    for number in range(total):
        length = len(list(_bodies(case.model))[number].node)
        for index in range(length):
            node = list(_bodies(case.model))[number].node[index]
            for source in dict.fromkeys(n for n in node.input if n):
                model = copy(case.model)
                body = list(_bodies(model))[number]
                target = body.node[index].output[0] if body.node[index].output else ""
                if not target or target in {o.name if isinstance(o, onnx.ValueInfoProto) else o for o in body.output}:
                    continue
                del body.node[index]
                _rename(body.node, target, source)
                yield tidy(replace(case, model=model), strip=strip)


def _bodies(model: onnx.ModelProto) -> Iterator[Any]:
    pending: list[Any] = [model.graph, *model.functions]
    while pending:
        body = pending.pop(0)
        yield body
        pending += [a.g for n in body.node for a in n.attribute if a.type == onnx.AttributeProto.GRAPH]


def _rename(nodes: Any, old: str, new: str) -> None:
    for node in nodes:
        for index, name in enumerate(node.input):
            if name == old:
                node.input[index] = new
        for attribute in node.attribute:
            _rename(attribute.g.node, old, new)


def plain(case: Case) -> Iterator[Case]:
    """Feeds and constants with simpler numbers."""
    for number, feed in enumerate(case.feeds):
        for name, value in feed.items():
            if value.dtype.kind == "f" and value.size and not np.array_equal(value, ones := np.ones_like(value)):
                feeds = [dict(f) for f in case.feeds]
                feeds[number][name] = ones
                yield replace(case, feeds=feeds)
