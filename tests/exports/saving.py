"""What the scripts that write exports have in common: feeds as .npz files, and models without texts that name places on the machine."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx

FEEDS = 8  # of the first shape: every fourth is held out
SECOND = 2  # of the second shape


def write(folder: Path, name: str, model: onnx.ModelProto, feed: Callable[[int, np.random.Generator], dict[str, np.ndarray[Any, Any]]]) -> None:
    """NAME.onnx, NAME.feeds/ and NAME.second/ in `folder`: `feed(0, generator)` makes a feed of the first shape, `feed(1, generator)` one of the second."""
    for graph in _graphs(model):
        for node in graph.node:
            _strip(node)
        for value in (*graph.input, *graph.output, *graph.value_info, *graph.initializer):
            value.ClearField("doc_string")
        graph.ClearField("doc_string")
    for function in model.functions:
        for node in function.node:
            _strip(node)
        _strip(function)
    _strip(model)
    onnx.save(model, folder / f"{name}.onnx")
    for which, (part, count) in enumerate((("feeds", FEEDS), ("second", SECOND))):
        place = folder / f"{name}.{part}"
        place.mkdir(exist_ok=True)
        for index in range(count):
            np.savez(place / f"{index}.npz", **feed(which, np.random.default_rng([which, index])))
    print(f"{name}: {len(model.graph.node)} nodes, {model.ByteSize()} bytes", flush=True)


def _graphs(model: onnx.ModelProto) -> Iterator[onnx.GraphProto]:
    """The main graph and those inside its nodes and functions."""
    stack = [model.graph]
    nodes = [node for function in model.functions for node in function.node]
    while stack or nodes:
        if stack:
            yield stack[-1]
            nodes.extend(stack.pop().node)
        else:
            for attribute in nodes.pop().attribute:
                if attribute.HasField("g"):
                    stack.append(attribute.g)
                stack.extend(attribute.graphs)


def _strip(message: Any) -> None:
    """Exporters write the places of source files into doc strings and stack traces."""
    message.ClearField("doc_string")
    others = [(p.key, p.value) for p in message.metadata_props if "stack_trace" not in p.key]
    del message.metadata_props[:]
    for key, value in others:
        message.metadata_props.add(key=key, value=value)


def main(exports: dict[str, Callable[[Path, str], None]]) -> None:
    """`SCRIPT FOLDER NAME...`: write the exports of these names."""
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for name in sys.argv[2:]:
        exports[name](folder, name)
