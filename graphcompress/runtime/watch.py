"""Looking at the tensors of a model while it runs, those inside the branches and bodies of If, Loop and Scan included.

The model's message gets one more output per tensor; where tensors of subgraphs are among them, it is that of a copy. What stands in a branch is handed out by
the If, with an empty tensor from the branches that are not taken; what stands in the body of a Loop is collected over the iterations in one more state, flat;
what stands in that of a Scan becomes one more scan output. So such a tensor comes without its shape.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from graphcompress.errors import ModelError
from graphcompress.ir.files.weights import message_and_weights, message_with_inputs
from graphcompress.ir.model.model import Model
from graphcompress.ir.model.objects import DEFAULT_DOMAINS, Tensor
from graphcompress.ir.model.scopes import CannotHandOut, hand_out, owners, tensor_homes
from graphcompress.runtime.ort import Optimize
from graphcompress.runtime.session import Feed, LocalSession

# What the tensors of one run may hold together, judged by the shapes of the first feed.
BUDGET = 256 * 2**20
# Tensors whose size the first feed does not tell (sequences among them) are taken this many at a time.
BLIND_GROUP = 16
LARGEST_ITEM = 8
# A few runs do not earn back what a second, rearranged copy of each weight costs, nor a pool of the memory of each shape of feed.
# Nor are threads that wait busily of use, while Python works between two runs.
FEW_RUNS = {"session.disable_prepacking": "1", "session.intra_op.allow_spinning": "0"}
NO_POOL = {"enable_cpu_mem_arena": False, "enable_mem_pattern": False}


class Watch:
    """One observation of `tensors`. `problems` says of those that cannot be handed out why; it may grow while the model runs."""

    def __init__(self, model: Model, tensors: Iterable[Tensor]) -> None:
        self.model = model
        self.tensors = list(dict.fromkeys(tensors))
        self.problems: dict[Tensor, str] = {}
        self.inner: set[Tensor] = set()
        self._open_still: tuple[list[Tensor], LocalSession, dict[Tensor, str]] | None = None
        self._expose()

    def close(self) -> None:
        """Close the session that `run` left open."""
        if self._open_still is not None:
            self._open_still[1].close()
            self._open_still = None

    def run(
        self,
        feeds: Iterable[Feed],
        *,
        sizes: Mapping[Tensor, int] | None = None,
        threads: int | None = None,
        optimize: Optimize = "none",
        budget: int = BUDGET,
        again: bool = False,
    ) -> Iterator[dict[Tensor, Any]]:
        """Values for every feed, as dicts from tensor to array; every (tensor, feed) pair comes exactly once, and nothing is kept: a caller that holds no value
        either (it empties the dict) has the values of one feed in memory at a time.

        Where all fit into `budget` bytes (`sys.maxsize`: whatever they take; by `sizes`, elsewhere by the shapes of the first feed) there is one dict per feed, in order. Otherwise they are
        taken in groups: all feeds for the first group, then all for the next, so `feeds` must be iterable again. The optimizer is off by default, so that
        every tensor has the value that the graph as written gives it. `again`: the same will be asked of other feeds, so the session stays open where there is
        one group, until `close`. Raises ModelError where the model does not load or run.
        """
        first = next(iter(feeds), None)
        if first is None:
            return
        opened, self._open_still = self._open_still, None
        groups = self._groups(first, sizes or {}, budget) if opened is None else [opened[0]]
        for group in groups:
            session, names = self._load(group, optimize, threads) if opened is None else opened[1:]
            try:
                for feed in feeds:
                    try:
                        values = session.run(feed | self._fed, list(names.values()))
                    except ModelError as problem:
                        if not self.inner:
                            raise
                        session.close()
                        self._give_up_inner(problem)
                        session, names = self._load(group, optimize, threads)
                        values = session.run(feed | self._fed, list(names.values()))
                    yield {tensor: values[name] for tensor, name in names.items()}
                    del values
                if again and len(groups) == 1:
                    self._open_still = group, session, names
            finally:
                if self._open_still is None:
                    session.close()

    def _names(self, tensors: Sequence[Tensor]) -> dict[Tensor, str]:
        return {t: self._shown[t] for t in tensors if t in self._shown}

    def _give_up_inner(self, problem: ModelError) -> None:
        """Watch the main graph alone: what is added to bodies may not suit this runtime (iterations of unequal size in a Scan)."""
        self.problems.update(dict.fromkeys(self.inner, f"it cannot be looked at inside its subgraph: {problem}"))
        self._expose()

    def _load(self, group: Sequence[Tensor], optimize: Optimize, threads: int | None) -> tuple[LocalSession, dict[Tensor, str]]:
        """A session that hands out `group`, and the names of its outputs."""
        try:
            session = self._open(self._names(group).values(), optimize, threads)
        except ModelError:
            if not self._fed:
                raise
            self._expose(constant_weights=True)  # a kernel may ask for constants
            session = self._open(self._names(group).values(), optimize, threads)
        return session, self._names(group)

    def _open(self, names: Iterable[str], optimize: Optimize, threads: int | None) -> LocalSession:
        graph = self._proto.graph
        del graph.output[:]
        for name in names:
            entry = graph.output.add(name=name)
            if name in self._declared:
                entry.ParseFromString(self._declared[name])
        message = self._proto.SerializeToString()
        return LocalSession(
            message, optimize=optimize, threads=threads, label=self._label, initializers=self._initializers, config=FEW_RUNS, attributes=NO_POOL
        )

    # --- the copy -------------------------------------------------------------------------------------------------------------------

    def _expose(self, *, constant_weights: bool = False) -> None:
        """Make the message that runs, and find the tensor of its main graph that hands out each of `tensors`. Large weights are fed, or `constant_weights`."""
        homes = tensor_homes(self.model)
        tensors = [t for t in self.tensors if t not in self.problems]
        self.inner = {t for t in tensors if homes.get(t, self.model.graph) is not self.model.graph}
        self._shown: dict[Tensor, str] = {t: t.name for t in tensors if t not in self.inner}
        exposed = self._with_inner_shown() if self.inner else self.model
        self._label = str(self.model.path or "the model")
        self._proto, weights = message_and_weights(exposed) if constant_weights else message_with_inputs(exposed)
        self._fed: Feed = {} if constant_weights else weights
        self._initializers: Feed = weights if constant_weights else {}
        self._free = exposed.fresh("shape_of")
        self._declared = {o.name: o.SerializeToString() for o in self._proto.graph.output}
        # What the file says of inner tensors may be stale, and would now be read as a promise about outputs.
        names = set(self._shown.values())
        infos = [v for v in self._proto.graph.value_info if v.name not in names]
        del self._proto.graph.value_info[:]
        self._proto.graph.value_info.extend(infos)

    def _with_inner_shown(self) -> Model:
        """A copy of the model, the tensors of whose subgraphs are handed out to its main graph; what cannot be is a problem."""
        copy, twins = self.model.clone()
        around, homes = owners(copy), tensor_homes(copy)
        for tensor in [t for t in self.tensors if t in self.inner]:
            shown = twins.tensor(tensor)
            home = homes[shown]
            try:
                while home is not copy.graph:
                    node, outer = around[home]
                    shown = hand_out(copy, shown, home, node, outer, collected=shown is not twins.tensor(tensor))
                    home = outer
            except CannotHandOut as problem:
                self.problems[tensor] = str(problem)
                self.inner.discard(tensor)
                continue
            self._shown[tensor] = shown.name
        return copy

    # --- sizes ----------------------------------------------------------------------------------------------------------------------

    def _groups(self, first: Feed, sizes: Mapping[Tensor, int], budget: int) -> list[list[Tensor]]:
        """The tensors cut into runs of at most `budget` bytes each, in their order; a larger tensor stands alone."""
        tensors = [t for t in self.tensors if t in self._shown]
        if not tensors:
            return []
        if budget >= sys.maxsize:
            return [tensors]
        known = dict(sizes)
        unknown = [t for t in tensors if t not in known]
        if unknown:
            probed = self._probe(unknown, first)
            if probed is None:
                return [tensors[i : i + BLIND_GROUP] for i in range(0, len(tensors), BLIND_GROUP)]
            known |= probed
        groups: list[list[Tensor]] = []
        room = -1
        for tensor in tensors:
            if known[tensor] > room:
                groups.append([])
                room = budget
            groups[-1].append(tensor)
            room -= known[tensor]
        return groups

    def _probe(self, tensors: Sequence[Tensor], first: Feed) -> dict[Tensor, int] | None:
        """Bytes of each tensor under the first feed (at most: 8 bytes an element), from a run that returns shapes only. None where not every tensor has a
        shape."""
        proto = self._proto
        if not any(o.domain in DEFAULT_DOMAINS for o in proto.opset_import):
            return None
        count = len(proto.graph.node)
        probes = {}
        for index, tensor in enumerate(tensors):
            node = proto.graph.node.add(op_type="Shape")
            node.input.append(self._shown[tensor])
            node.output.append(f"{self._free}{index}")
            probes[tensor] = node.output[0]
        try:
            with self._open(probes.values(), "none", 1) as session:
                shapes = session.run(first | self._fed)
        except ModelError:  # a sequence or map among them, which has no shape
            return None
        finally:
            del proto.graph.node[count:]
        return {t: LARGEST_ITEM * math.prod(int(d) for d in np.asarray(shapes[name])) for t, name in probes.items()}
