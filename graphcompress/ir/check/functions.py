"""Model-local functions: which the graph really uses, and that none calls itself or unfolds beyond all bounds."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import onnx

from graphcompress.errors import ModelError, quoted
from graphcompress.ir.schemas.operators import canonical_domain

Key = tuple[str, str, str]
MAX_UNFOLDED_NODES = 10_000_000  # thirty functions that call the one before twice would make 2**30 nodes of a small file


def function_key(domain: str, name: str, overload: str) -> Key:
    """What a node must say to call a function."""
    return canonical_domain(domain), name, overload


def called_functions(proto: onnx.ModelProto) -> list[onnx.FunctionProto]:
    """The functions that the main graph needs, in the file's order; onnxruntime does not look at the others.

    Raises ModelError where two functions have one name, a function calls itself, or calls unfold to more than ten million nodes.
    """
    if not proto.functions:
        return []
    functions: dict[Key, onnx.FunctionProto] = {}
    for function in proto.functions:
        key = function_key(function.domain, function.name, function.overload)
        if not all(isinstance(part, str) for part in key):
            raise ModelError(f"the name of a function is not UTF-8: {quoted(key)}.")
        if key in functions:
            raise ModelError(f"two functions are called {_shown(key)}.")
        functions[key] = function
    calls = {key: [k for n in _all_nodes(f.node) if (k := function_key(n.domain, n.op_type, n.overload)) in functions] for key, f in functions.items()}
    sizes = unfolded_sizes(functions, calls)
    wanted = [k for n in _all_nodes(proto.graph.node) if (k := function_key(n.domain, n.op_type, n.overload)) in functions]
    total = sum(sizes[k] for k in wanted)
    if total > MAX_UNFOLDED_NODES:
        raise ModelError(f"its functions call one another so often that the graph would unfold to {total} nodes, and {MAX_UNFOLDED_NODES} are the limit.")
    reached: set[Key] = set()
    while wanted:
        key = wanted.pop()
        if key not in reached:
            reached.add(key)
            wanted.extend(calls[key])
    return [f for k, f in functions.items() if k in reached]


def unfolded_sizes(functions: dict[Key, onnx.FunctionProto], calls: dict[Key, list[Key]]) -> dict[Key, int]:
    """Number of nodes of each function with all its calls unfolded. Raises ModelError at recursion."""
    sizes: dict[Key, int] = {}
    for first in functions:
        open_calls: dict[Key, None] = {}
        stack = [first]
        while stack:
            key = stack[-1]
            if key in sizes:
                stack.pop()
                continue
            pending = [c for c in calls[key] if c not in sizes]
            open_calls[key] = None
            again = next((c for c in pending if c in open_calls), None)
            if again is not None:
                raise ModelError(f"function {_shown(again)} calls itself (through {_shown(key)}), which ONNX does not allow.")
            if pending:
                stack.append(pending[0])
                continue
            sizes[key] = len(functions[key].node) + sum(sizes[c] for c in calls[key])
            del open_calls[key]
            stack.pop()
    return sizes


def _all_nodes(roots: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    stack = list(roots)
    while stack:
        node = stack.pop()
        yield node
        for attribute in node.attribute:
            if attribute.HasField("g"):
                stack.extend(attribute.g.node)
            for graph in attribute.graphs:
                stack.extend(graph.node)


def _shown(key: Key) -> str:
    domain, name, overload = key
    return quoted(f"{domain}::{name}" + (f":{overload}" if overload else ""))
