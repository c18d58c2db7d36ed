"""Model-local functions: which the graph really uses, and that none calls itself or unfolds beyond all bounds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import onnx

from graphcompress.errors import quoted
from graphcompress.ir.check.faults import Fault, is_text
from graphcompress.ir.model.messages import node_protos
from graphcompress.ir.schemas.operators import canonical_domain

Key = tuple[str, str, str]
MAX_UNFOLDED_NODES = 10_000_000  # thirty functions that call the one before twice would make 2**30 nodes of a small file


def function_key(domain: str, name: str, overload: str) -> Key:
    """What a node must say to call a function."""
    return canonical_domain(domain), name, overload


def called_functions(proto: onnx.ModelProto) -> tuple[list[onnx.FunctionProto], list[Fault]]:
    """The functions that the main graph needs, in the file's order (onnxruntime does not look at the others), and what is wrong with them:
    two of one name, one that calls itself, or calls that unfold to more than ten million nodes."""
    if not proto.functions:
        return [], []
    faults: list[Fault] = []
    functions: dict[Key, onnx.FunctionProto] = {}
    for function in proto.functions:
        key = function_key(function.domain, function.name, function.overload)
        if not is_text(*key):
            faults.append(Fault("name-not-utf8", f"the name of a function is not UTF-8: {quoted(key)}."))
        elif key in functions:
            faults.append(Fault("function-twice", f"two functions are called {_shown(key)}."))
        else:
            functions[key] = function
    calls = {key: _calls(f.node, functions) for key, f in functions.items()}
    pending = _calls(proto.graph.node, functions)
    sizes, recursive = unfolded_sizes(functions, calls)
    faults += recursive
    total = sum(sizes[k] for k in pending)
    if not recursive and total > MAX_UNFOLDED_NODES:
        what = f"its functions call one another so often that the graph would unfold to {total} nodes, and {MAX_UNFOLDED_NODES} are the limit."
        faults.append(Fault("functions-too-large", what))
    reached: set[Key] = set()
    while pending:
        key = pending.pop()
        if key not in reached:
            reached.add(key)
            pending.extend(calls[key])
    return [f for k, f in functions.items() if k in reached], faults


def _calls(roots: Iterable[onnx.NodeProto], functions: Mapping[Key, onnx.FunctionProto]) -> list[Key]:
    return [key for node in node_protos(roots) if (key := function_key(node.domain, node.op_type, node.overload)) in functions]


def unfolded_sizes(functions: dict[Key, onnx.FunctionProto], calls: dict[Key, list[Key]]) -> tuple[dict[Key, int], list[Fault]]:
    """Number of nodes of each function with all its calls unfolded, and a fault for each that calls itself, whose call then counts as nothing."""
    sizes: dict[Key, int] = {}
    faults: dict[Key, Fault] = {}
    for first in functions:
        open_calls: dict[Key, None] = {}
        stack = [first]
        while stack:
            key = stack[-1]
            if key in sizes:
                stack.pop()
                continue
            open_calls[key] = None
            pending = [c for c in calls[key] if c not in sizes]
            for again in [c for c in pending if c in open_calls]:
                what = f"function {_shown(again)} calls itself (through {_shown(key)}), which ONNX does not allow."
                faults.setdefault(again, Fault("function-recursive", what))
            pending = [c for c in pending if c not in open_calls]
            if pending:
                stack.append(pending[0])
                continue
            sizes[key] = len(functions[key].node) + sum(sizes.get(c, 0) for c in calls[key])
            del open_calls[key]
            stack.pop()
    return sizes, list(faults.values())


def _shown(key: Key) -> str:
    domain, name, overload = key
    return quoted(f"{domain}::{name}" + (f":{overload}" if overload else ""))
