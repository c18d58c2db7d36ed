"""Going through a model piece by piece over all calibration inputs, while the weights behind the frontier are being changed.

Everything before the frontier has run with its final weights. What later nodes read of it is held for all inputs, so that every node runs once per input, however
many weights there are: one prefix run for each would be quadratic.
"""

from __future__ import annotations

import sys
from collections.abc import Container, Iterable, Iterator, Sequence

import numpy as np

from graphcompress.ir import Model, Node, Tensor, constant_data, producer, subgraphs, toposort
from graphcompress.ir.model.element_types import array_dtype_name
from graphcompress.ir.model.extract import extract
from graphcompress.reconstruction.store import Array, Store
from graphcompress.runtime.session import Feed, open_session
from graphcompress.runtime.watch import Watch


class Frontier:
    """The values of `stops[0]`, then of `stops[1]` and so on, each under all `feeds`; weights that no earlier stop depends on may change between two of them.

    `feeds` must be iterable again. Where the model cannot be cut into pieces (subgraphs, functions, inputs with defaults) each stop is a run of the whole model.
    """

    def __init__(self, model: Model, stops: Sequence[Sequence[Tensor]], feeds: Iterable[Feed], store: Store, *, threads: int | None = None) -> None:
        self._model = model
        self._stops = [list(dict.fromkeys(stop)) for stop in stops]
        self._feeds = feeds
        self._store = store
        self._threads = threads
        self._pieces: list[list[Node]] | None = None
        self._last: dict[Tensor, int] = {}  # the last stop that needs a tensor
        self._count = -1
        self._held: set[Tensor] = set()
        if _can_be_cut(model):
            self._cut()

    def __iter__(self) -> Iterator[Iterator[list[Array]]]:
        """For each stop the values of its tensors, input batch by input batch; each of these is to be gone through to its end."""
        for index, stop in enumerate(self._stops):
            yield values_of(self._model, stop, self._feeds, threads=self._threads) if self._pieces is None else self._piece(self._pieces[index], index)

    def _cut(self) -> None:
        """Find the nodes that run for each stop, and how long each tensor is held."""
        place = {node: index for index, node in enumerate(toposort(self._model.graph))}
        behind: set[Node] = set()
        self._pieces = []
        for index, stop in enumerate(self._stops):
            piece = upstream(stop, behind)
            behind |= piece
            self._pieces.append(sorted(piece, key=place.__getitem__))
            self._last.update((t, index) for t in (*stop, *(t for n in piece for t in n.inputs)))

    def _piece(self, nodes: Sequence[Node], index: int) -> Iterator[list[Array]]:
        if self._count < 0:
            self._take_inputs()
        stop = self._stops[index]
        made = dict.fromkeys(t for n in nodes for t in n.outputs)
        live = {t for t in (*self._held, *made) if self._last.get(t, -1) > index}
        outputs = [t for t in made if t in live or t in stop]
        inputs = [t for t in dict.fromkeys(t for n in nodes for t in n.inputs) if t in self._held]
        for batch, values in enumerate(self._run(nodes, inputs, outputs)):
            for tensor in outputs:
                if tensor in live:
                    self._store.put((tensor, batch), values[tensor])
            yield [values[t] if t in values else self._store.get((t, batch)) for t in stop]
            for tensor in self._held - live:
                self._store.drop((tensor, batch))
        self._held = {t for t in (*self._held, *outputs) if t in live}

    def _run(self, nodes: Sequence[Node], inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> Iterator[dict[Tensor, Array]]:
        if not nodes:
            yield from ({} for _ in range(self._count))
            return
        kinds = {t: array_dtype_name(self._store.get((t, 0))) for t in inputs}
        part, names = extract(self._model, nodes, outputs, kinds)
        fed = [spec.name for spec in part.inputs]
        with open_session(part, optimize="basic", threads=self._threads) as session:
            for batch in range(self._count):
                values = session.run({name: self._store.get((t, batch)) for name, t in zip(fed, inputs, strict=True)})
                yield {t: values[name] for name, t in zip(names, outputs, strict=True)}

    def _take_inputs(self) -> None:
        """Hold what is read of the model's inputs from now on."""
        self._held = {t for t in self._model.graph.inputs if t in self._last}
        self._count = 0
        for feed in self._feeds:
            for tensor in self._held:
                self._store.put((tensor, self._count), feed[tensor.name])
            self._count += 1


def values_of(model: Model, tensors: Sequence[Tensor], feeds: Iterable[Feed], *, threads: int | None = None) -> Iterator[list[Array]]:
    """The values of `tensors` under each of `feeds`, from runs of the whole model as it is now."""
    watch = Watch(model, tensors)
    for values in watch.run(feeds, threads=threads, optimize="basic", budget=sys.maxsize):
        yield [np.asarray(values[t]) for t in tensors]


def upstream(tensors: Iterable[Tensor], behind: Container[Node] = ()) -> set[Node]:
    """All nodes that `tensors` are calculated by, without those that are `behind` and what these are calculated by; nodes Constant are none."""
    reached: set[Node] = set()
    pending = list(tensors)
    while pending:
        tensor = pending.pop()
        node = producer(tensor)
        if node is not None and node not in reached and node not in behind and constant_data(tensor) is None:
            reached.add(node)
            pending.extend(node.inputs)
    return reached


def _can_be_cut(model: Model) -> bool:
    """Only tensors are handed from piece to piece, and only what stands in the main graph is copied."""
    plain = all(not subgraphs(n) and "Sequence" not in n.op and "Optional" not in n.op for n in model.graph.nodes)
    return plain and not model.header.functions and not model.overridable and all(spec.kind == "tensor" for spec in model.inputs)
