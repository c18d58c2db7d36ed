"""What a rule is, and what it looks at."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np

from graphcompress.errors import DataError, ModelError, RuntimeUnavailable
from graphcompress.ir import Graph, Model, Node, graphs, nodes, output_ids
from graphcompress.ir.files.numbered import numbered, numbers_in
from graphcompress.ir.shapes.infer import Shapes, infer
from graphcompress.runtime import profile
from graphcompress.targets import Target

Severity = Literal["error", "warning", "info"]
Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class Problem:
    """One place where a rule holds: the node (or tensor) and a sentence."""

    place: str
    text: str


@dataclass(frozen=True)
class LintRule:
    """`id` is stable. `title` names the defect, `why` says what comes of it and how that is known, `cure` what to do. `look` finds places, `fix` mends all of them without changing what
    the graph computes (None: it cannot be mended like that) and says how many."""

    id: str
    severity: Severity
    title: str
    why: str
    cure: str
    look: Callable[[Subject], Iterable[Problem]]
    fix: Callable[[Subject], int] | None = None


class Subject:
    """A model that is looked at. `provider` is where it is to run: some want all sizes fixed."""

    def __init__(self, model: Model, target: Target, provider: str = "cpu") -> None:
        self.model = model
        self.target = target
        self.provider = provider

    @cached_property
    def nodes(self) -> list[Node]:
        """The nodes of all graphs."""
        return list(nodes(self.model))

    @cached_property
    def home(self) -> Mapping[Node, Graph]:
        """The graph in which each node stands."""
        return {node: graph for graph in graphs(self.model) for node in graph.nodes}

    @cached_property
    def shapes(self) -> Shapes:
        """Shapes and types."""
        return infer(self.model)

    @cached_property
    def outputs(self) -> set[int]:
        """id() of the outputs of all graphs."""
        return output_ids(self.model)

    @cached_property
    def kernels(self) -> Mapping[Node, Sequence[Node]] | None:
        """What stands for each node in the graph that onnxruntime's CPU provider makes of the model; None where it does not load, or there is no onnxruntime."""
        try:
            with numbered(self.model) as everything:
                optimized = profile.optimized_model(self.model)
        except (ModelError, DataError, RuntimeUnavailable):
            return None
        stands_for: dict[Node, list[Node]] = {node: [] for node in everything}
        for kernel in nodes(optimized):
            for number in numbers_in(kernel.name):
                stands_for[everything[number]].append(kernel)
        return stands_for
