"""Constant folding: nodes whose inputs are all constant are run once by onnxruntime, many in one session, and replaced by their results.

Limits, because a file must not grow and memory must stay bounded:
- all results of a run together may be `SHARE` of the model's constants, or `LEAST` bytes, larger than the constants that die with the nodes; what is no larger than a
  node's own message (`SMALL`) is not counted;
- a node that reads and writes more than `LARGEST` bytes is left to the runtime, which folds it at load without writing it; the same holds for what is
  beyond `ROOM` bytes of results, over all rounds, because results are kept in memory and untouched tensors are not;
- a result whose size is not known beforehand waits for the next round, when its inputs are initializers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from graphcompress.errors import DataError, ModelError, RuntimeUnavailable
from graphcompress.ir import Constant, Graph, Model, Node, Tensor, TensorData, graphs, nodes, output_ids, subgraphs, toposort
from graphcompress.ir.inline import calls, defined_names, function_bodies
from graphcompress.ir.model.element_types import byte_size
from graphcompress.ir.model.extract import extract
from graphcompress.ir.shapes.infer import Shapes
from graphcompress.passes.simplify.constants import keeps_its_maker, make_known
from graphcompress.runtime.evaluate import run_once

STAGE = "simplify/fold"
SHARE = 0.01
LEAST = 16 * 1024
SMALL = 256
LARGEST = 32 << 20
ROOM = 256 << 20

RANDOM = frozenset(("RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Bernoulli", "Multinomial", "Dropout"))
# A dequantized weight is float at run time on purpose: folding it would undo the quantization. The codes of a weight that is float in the file are folded.
QUANTIZED = frozenset(("DequantizeLinear", "DynamicQuantizeLinear"))
# Types that weights are stored in to be small, and made float of when a runtime loads the model.
STORED = frozenset(("int8", "uint8", "float16"))
NO_TENSORS = frozenset(("SequenceConstruct", "SequenceEmpty", "SequenceInsert", "SequenceErase", "SequenceAt", "SplitToSequence", "Optional", "StringSplit"))
PLAIN = frozenset(("float", "double", "float16", "bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"))

REASONS = {
    "random": "a random operator gives new values in each run",
    "quantized": "folding would turn a quantized weight back into floats",
    "stored": "folding would turn a weight that is stored small back into floats",
    "kind": "it holds a subgraph, or makes a sequence or an optional",
    "name": "it makes an output whose name a subgraph uses as well, and constants are known before subgraphs are",
    "size-unknown": "the size of the result is not known before it is computed",
    "growth": "the result is larger than the constants that it replaces",
    "size": "so much is left to the runtime, which folds it at load",
    "type": "numpy has no such element type",
    "raises": "onnxruntime cannot compute it by itself",
    "runtime": "there is no onnxruntime to compute it",
}

Array = np.ndarray[Any, Any]


class Growth:
    """How many bytes the constants of a model may still grow (`left`), and results may still have (`room`), over all rounds."""

    def __init__(self, model: Model) -> None:
        constants = sum(c.nbytes for g in graphs(model) for c in g.initializers.values())
        held = sum(v.nbytes for n in nodes(model) for v in n.attrs.values() if isinstance(v, TensorData))
        self.room = ROOM
        self.left = max(float(LEAST), SHARE * (constants + held))


class Folding:
    """One round over a model. `folded` counts the nodes, `refused` maps a reason to the nodes that it kept."""

    def __init__(self, model: Model, shapes: Callable[[], Shapes], growth: Growth) -> None:
        self.model = model
        self.shapes = shapes
        self.growth = growth
        self.outputs = output_ids(model)
        self.names = defined_names(model)
        self.functions = set(function_bodies(model))
        self.refused: dict[str, list[str]] = {}
        self.folded = 0
        self._size: dict[int, int] = {}
        self._obstacles: dict[Node, str] = {}
        self._credit: dict[int, float] = {}
        self._shares: dict[int, float] = {}

    def run(self) -> int:
        """Fold what may be folded; how many nodes."""
        chosen: list[Node] = []
        places: dict[int, Graph] = {}
        for graph in graphs(self.model):
            if not any(self._constant_inputs(n) for n in graph.nodes):
                continue  # the first node to be folded reads initializers alone
            for node in toposort(graph):
                if self._constant_inputs(node) and self._accepts(node):
                    chosen.append(node)
                    places.update((id(t), graph) for t in node.outputs)
        try:
            for chunk in self._chunks(chosen):
                self._fold(chunk, places)
        except RuntimeUnavailable:
            self.refused["runtime"] = [_name(n) for n in chosen]
        return self.folded

    # --- what may be folded -----------------------------------------------------------------------------------------------------

    def _constant_inputs(self, node: Node) -> bool:
        """Whether everything that `node` reads is an initializer, or the result of a node that is folded. A node that reads nothing does not count."""
        operands = [t for t in node.inputs if t.name]
        return bool(operands) and all(isinstance(t, Constant) or id(t) in self._size for t in operands)

    def _accepts(self, node: Node) -> bool:
        """Decide about a node with constant inputs, and enter the sizes of its outputs."""
        reason = self._reason(node)
        if reason:
            if reason != "quiet":
                self.refused.setdefault(reason, []).append(_name(node))
            return False
        return True

    def _obstacle(self, node: Node) -> str:
        """Why `node` is not folded, however large its results are; "" where nothing stands against it."""
        known = self._obstacles.get(node)
        if known is None:
            known = self._obstacles[node] = self._find_obstacle(node)
        return known

    def _find_obstacle(self, node: Node) -> str:
        if not node.standard or calls(node, self.functions) or node.op == "Identity":
            return "quiet"  # of an Identity a rule makes nothing at all, without decoding
        if node.op in RANDOM:
            return "random"
        if node.op in QUANTIZED:
            return "quantized"
        if subgraphs(node) or node.op in NO_TENSORS:
            return "kind"
        if keeps_its_maker(node, self.outputs, self.names):
            return "name"
        for tensor in node.outputs:
            if not tensor.name:
                continue
            dtype, shape = self.shapes().dtype(tensor), self.shapes().static(tensor)
            if dtype is None or shape is None:
                return "size-unknown"
            if dtype not in PLAIN:
                return "type"
        if any(isinstance(t, Constant) and self.shapes().dtype(t) not in PLAIN for t in node.inputs if t.name):
            return "type"
        return ""

    def _reason(self, node: Node) -> str:
        if obstacle := self._obstacle(node):
            return obstacle
        sizes = {id(t): byte_size(str(self.shapes().dtype(t)), math.prod(self.shapes().static(t) or ())) for t in node.outputs if t.name}
        inputs = {id(t): t for t in node.inputs if t.name}
        written = sum(sizes.values())
        if node.op == "Cast" and written > SMALL and self.shapes().dtype(node.inputs[0]) in STORED and self._bytes(node.inputs[0]) < written:
            return "stored"
        read = sum(self._bytes(t) for t in inputs.values())
        dying = {key: self._dying(t) for key, t in inputs.items()} if written > SMALL else {}
        growth = written - sum(dying.values()) if written > SMALL else 0
        reason = "growth" if growth > self.growth.left else "size" if written + read > LARGEST or written > self.growth.room else ""
        if reason:
            self._obstacles[node] = reason
            for key in inputs:  # what this node reads stays after all
                self.growth.left -= self._credit.pop(key, 0.0)
                self._shares[key] = 0.0
            return reason
        self.growth.left -= growth
        for key, part in dying.items():
            self._credit[key] = self._credit.get(key, 0.0) + part
        # Results that only this node reads are gone when it has run.
        self.growth.room -= written - sum(self._size.get(key, 0) for key, t in inputs.items() if all(n is node for n in t.outputs) and key not in self.outputs)
        self._size.update(sizes)
        return ""

    def _dying(self, tensor: Tensor) -> float:
        """What folding one of the readers of `tensor` takes out of the model: its part of the bytes, where the others can be folded too, as far as is known when the first one is."""
        share = self._shares.get(id(tensor))
        if share is None:
            readers = {id(n): n for n in tensor.outputs}
            gone = id(tensor) not in self.outputs and all(self._constant_inputs(n) and not self._obstacle(n) for n in readers.values())
            share = self._shares[id(tensor)] = self._bytes(tensor) / len(readers) if gone else 0.0
        return share

    def _bytes(self, tensor: Tensor) -> int:
        return tensor.nbytes if isinstance(tensor, Constant) else self._size[id(tensor)]

    # --- folding ----------------------------------------------------------------------------------------------------------------

    def _chunks(self, chosen: list[Node]) -> Iterable[list[Node]]:
        """Parts of `chosen`, in order, each reading and writing at most `LARGEST` bytes."""
        chunk: list[Node] = []
        total = 0
        for node in chosen:
            cost = sum(self._bytes(t) for t in {id(t): t for t in (*node.inputs, *node.outputs) if t.name}.values())
            if chunk and total + cost > LARGEST:
                yield chunk
                chunk, total = [], 0
            chunk.append(node)
            total += cost
        if chunk:
            yield chunk

    def _fold(self, chunk: list[Node], places: dict[int, Graph]) -> None:
        """Run `chunk` in one session. Where that fails it is halved, first half first, until the nodes that fail stand alone."""
        failed: set[int] = set()
        pending = [chunk]
        while pending:
            part = self._without_orphans(pending.pop(), failed)
            if not part:
                continue
            inside = {id(n) for n in part}
            results = [t for n in part for t in n.outputs if t.name and (id(t) in self.outputs or any(id(c) not in inside for c in t.outputs))]
            values = self._values(part, results)
            if values is None:
                if len(part) == 1:
                    failed.update(id(t) for t in part[0].outputs)
                    self.refused.setdefault("raises", []).append(_name(part[0]))
                else:
                    half = len(part) // 2
                    pending += [part[half:], part[:half]]
                continue
            known = {id(t): (t, v) for t, v in zip(results, values, strict=True)}
            self.shapes().forget(t for n in part for t in n.outputs)
            make_known(self.model, known, STAGE, part, places)
            self.folded += len(part)

    def _without_orphans(self, part: list[Node], failed: set[int]) -> list[Node]:
        """`part` without the nodes that read what could not be computed."""
        left: list[Node] = []
        for node in part:
            if any(id(t) in failed for t in node.inputs):
                failed.update(id(t) for t in node.outputs)
            else:
                left.append(node)
        return left

    def _values(self, part: list[Node], results: list[Tensor]) -> list[Array] | None:
        """The results, None where the runtime cannot make them, or makes something that is no plain array."""
        model, names = extract(self.model, part, results)
        try:
            outputs = run_once(model, {}, names)
        except (ModelError, DataError):
            return None
        values = [outputs[n] for n in names]
        return values if all(isinstance(v, np.ndarray) and v.dtype.kind in "fiub" for v in values) else None


def _name(node: Node) -> str:
    return str(node.name or next((t.name for t in node.outputs if t.name), node.op))
