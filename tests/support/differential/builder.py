"""A random ONNX graph under construction: what is known of its tensors, the scopes that they stand in, and the ways to make a node.

Sizes are concrete: every dimension is known under two bindings of the graph's symbols, so what is built runs at two input shapes, and an emitter is plain
arithmetic on numbers. A dimension that differs between the bindings is dynamic.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from differential import arrays

Array = np.ndarray[Any, Any]
Shape = tuple[int, ...]
Pair = tuple[Shape, Shape]

FLOATS = ("float32", "float64", "float16")
INTEGERS = ("int32", "int64", "uint8")
DTYPES = (*FLOATS, *INTEGERS, "bool")
LARGEST = 4096  # elements of a tensor
UNKNOWN = math.inf


class Unsuitable(Exception):
    """What an emitter wants cannot be had here; another is tried."""


@dataclass(frozen=True, slots=True, eq=False)
class Value:
    """A tensor. `shapes` holds under both bindings; `known` are its values where the shapes alone decide them.

    `reach` bounds the magnitude (infinite: unknown, or NaN and infinities are possible). A `rough` value went through sums whose rounding a legal rewrite may
    change: it is kept away from what is not continuous, so that a last bit stays a last bit.
    """

    name: str
    dtype: str
    shapes: Pair
    known: tuple[Array, Array] | None = None
    constant: bool = False
    reach: float = UNKNOWN
    rough: bool = False

    @property
    def rank(self) -> int:
        return len(self.shapes[0])

    @property
    def static(self) -> bool:
        return self.shapes[0] == self.shapes[1]

    @property
    def type(self) -> tuple[str, Pair]:
        return self.dtype, self.shapes

    def dim(self, axis: int) -> int:
        """The size of a fixed axis."""
        if (size := self.dim_or_none(axis)) is None:
            raise Unsuitable
        return size

    def dim_or_none(self, axis: int) -> int | None:
        first, second = (s[axis] for s in self.shapes)
        return first if first == second else None


@dataclass(slots=True)
class Input:
    """An input of the graph; `style` says which numbers it is fed with (see `arrays.draw`). `declared` are its dimensions in the file."""

    name: str
    dtype: str
    shapes: Pair
    declared: list[int | str | None]
    style: str
    limit: int = 0


@dataclass(slots=True)
class Frame:
    """A graph being filled: the main graph, a subgraph, or (`isolated`) a function. `values` are those of outer scopes too."""

    values: list[Value]
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    initializers: list[onnx.TensorProto] = field(default_factory=list)
    own: list[Value] = field(default_factory=list)
    isolated: bool = False
    counter: int = 0


@dataclass(slots=True)
class Policy:
    """What kind of graph is drawn: fixed once per graph, so that single graphs have a character."""

    opset: int
    symbols: dict[str, tuple[int, int]]
    dynamic: float  # chance that a dimension of an input is a symbol
    wild: bool  # NaN, infinities, denormals in the feeds
    dtypes: tuple[str, ...]
    overridable: bool
    shadowing: bool
    empty: float  # chance of a dimension of 0
    int8: bool = False  # a graph for quantization: float32, nothing ill-conditioned


class Builder:
    """Draws from `rng` only, so a seed says everything."""

    def __init__(self, rng: np.random.Generator, policy: Policy) -> None:
        self.rng = rng
        self.policy = policy
        self.opset = policy.opset
        self.inputs: list[Input] = []
        self.overridable: list[Value] = []
        self.functions: list[onnx.FunctionProto] = []
        self.frames = [Frame([])]
        self.read: set[str] = set()
        self.pool: list[Value] = []
        self.constants = 0
        self.weights: Array | None = None  # of the emitters in this graph

    # --- drawing ----------------------------------------------------------------------------------------------------------------

    def chance(self, probability: float) -> bool:
        return bool(self.rng.random() < probability)

    def among(self, options: Sequence[Any]) -> Any:
        if not options:
            raise Unsuitable
        return options[int(self.rng.integers(len(options)))]

    def integer(self, low: int, high: int) -> int:
        """Both ends included."""
        return int(self.rng.integers(low, high + 1))

    # --- scopes -----------------------------------------------------------------------------------------------------------------

    @property
    def frame(self) -> Frame:
        return self.frames[-1]

    @property
    def main(self) -> Frame:
        return self.frames[0]

    @contextmanager
    def scope(self, values: list[Value], *, isolated: bool = False) -> Iterator[Frame]:
        """A subgraph whose nodes see `values`. Names inside repeat those that the outer graph hands out later, where the policy says so."""
        frame = Frame(list(values), isolated=isolated, counter=self.frame.counter + 2)  # what holds the subgraph has up to two outputs
        self.frames.append(frame)
        try:
            yield frame
        finally:
            self.frames.pop()

    def name(self, hint: str = "t") -> str:
        frame = self.frame if self.policy.shadowing else self.main
        frame.counter += 1
        return f"{hint}{frame.counter}"

    # --- tensors ----------------------------------------------------------------------------------------------------------------

    def pick(self, dtypes: Iterable[str] = DTYPES, rank: int | None = None, where: Callable[[Value], bool] = lambda v: True, fresh: float = 0.08) -> Value:
        """A tensor in scope, a recent or unread one more often; sometimes, or where there is none, a new input."""
        kinds = tuple(dtypes)
        fitting = [v for v in self.frame.values if v.dtype in kinds and (rank is None or v.rank == rank) and not v.constant and where(v)]
        if not fitting or (self.chance(fresh) and len(self.inputs) < 4):
            drawn = self.fresh_input([k for k in kinds if k in self.policy.dtypes] or kinds, rank)
            if drawn is not None and where(drawn):
                return drawn
            if not fitting:
                raise Unsuitable
        weights = np.array([(1.0 + i) * (3.0 if v.name not in self.read else 1.0) for i, v in enumerate(fitting)])
        return fitting[int(self.rng.choice(len(fitting), p=weights / weights.sum()))]

    def same_type(self, value: Value) -> Value:
        """Another tensor of the type and shape of `value`, else itself."""
        others = [v for v in self.frame.values if v.type == value.type and v is not value]
        return self.among(others) if others and self.chance(0.7) else value

    def fresh_input(self, dtypes: Sequence[str], rank: int | None = None) -> Value | None:
        if any(f.isolated for f in self.frames) or len(self.inputs) > 5:
            return None
        rank = self.integer(0, 5) if rank is None and self.chance(0.5) else self.integer(1, 4) if rank is None else rank
        return self.input(self.among(dtypes), [self.dimension() for _ in range(rank)])

    def dimension(self) -> int | str:
        if self.policy.symbols and self.chance(self.policy.dynamic):
            return str(self.among(sorted(self.policy.symbols)))
        if self.chance(self.policy.empty):
            return 0
        return int(self.among((1, 1, 2, 2, 3, 3, 4, 5, 8)))

    def input(self, dtype: str, dims: Sequence[int | str], style: str = "", limit: int = 0, reach: float | None = None) -> Value:
        """A new input of the main graph."""
        first, second = (tuple(d if isinstance(d, int) else self.policy.symbols[d][i] for d in dims) for i in (0, 1))
        if math.prod(first) > LARGEST or math.prod(second) > LARGEST:
            raise Unsuitable
        declared: list[int | str | None] = [d if isinstance(d, int) or not self.chance(0.1) else None for d in dims]
        style = style or ("wild" if self.policy.wild else "tame")
        entry = Input(f"x{len(self.inputs)}", dtype, (first, second), declared, style, limit)
        self.inputs.append(entry)
        bound = (UNKNOWN if style == "wild" and dtype in FLOATS else arrays.REACH[dtype]) if reach is None else reach
        value = Value(entry.name, dtype, entry.shapes, reach=bound)
        for frame in self.frames:
            frame.values.append(value)
        return value

    def constant(self, array: Any, dtype: str | None = None, *, plain: bool = False, shared: bool = True) -> Value:
        """An initializer (an equal one is often shared), a Constant node, or (unless `plain`) one that the caller may override."""
        values = np.asarray(array, dtype)
        finite = bool(values.size == 0 or np.isfinite(values).all()) if values.dtype.kind == "f" else True
        reach = (float(np.abs(values.astype(np.float64)).max(initial=0.0))) if finite else UNKNOWN
        if shared and self.chance(0.5):
            for value in self.pool:
                if value.known is not None and value in self.frame.values and value.dtype == values.dtype.name and _identical(value.known[0], values):
                    return value
        inside = any(f.isolated for f in self.frames)
        if not plain and not inside and self.policy.overridable and values.dtype.kind == "f" and self.chance(0.3):
            entry = Value(self.unique("o"), values.dtype.name, (values.shape, values.shape), reach=reach)
            self.main.initializers.append(numpy_helper.from_array(values, entry.name))
            self.overridable.append(entry)
            for frame in self.frames:
                frame.values.append(entry)
            return entry
        nodes = self.opset >= 9 or values.dtype.kind == "f"  # before, Constant has floats only
        if inside and not nodes:
            raise Unsuitable
        if inside or (nodes and self.chance(0.3)):
            name = self.unique("c")
            self.frame.nodes.append(self._constant_node(values, name))
            frames = [self.frame]
        else:
            target = self.frame if self.chance(0.4) else self.main
            name = self.unique("w")
            target.initializers.append(numpy_helper.from_array(values, name))
            frames = [self.frame] if target is self.frame else self.frames
        value = Value(name, values.dtype.name, (values.shape, values.shape), (values, values), True, reach)
        for frame in frames:
            frame.values.append(value)
        self.pool.append(value)
        return value

    def unique(self, hint: str) -> str:
        """A name that no scope uses twice."""
        self.constants += 1
        return f"{hint}{self.constants}"

    def _constant_node(self, values: Array, name: str) -> onnx.NodeProto:
        if self.opset >= 12 and values.dtype == np.float32 and values.ndim < 2 and self.chance(0.5):
            attribute = {"value_float": float(values)} if values.ndim == 0 else {"value_floats": [float(v) for v in values]}
        elif self.opset >= 12 and values.dtype == np.int64 and values.ndim < 2 and self.chance(0.5):
            attribute = {"value_int": int(values)} if values.ndim == 0 else {"value_ints": [int(v) for v in values]}
        else:
            return helper.make_node("Constant", [], [name], value=numpy_helper.from_array(values, ""))
        if any(v == [] for v in attribute.values()):
            return helper.make_node("Constant", [], [name], value=numpy_helper.from_array(values, ""))
        return helper.make_node("Constant", [], [name], **attribute)

    # --- nodes ------------------------------------------------------------------------------------------------------------------

    def emit(
        self,
        op: str,
        inputs: Sequence[Value | None],
        shapes: Pair,
        dtype: str | None = None,
        *,
        reach: float = UNKNOWN,
        rough: bool | None = None,
        known: Callable[..., Any] | None = None,
        domain: str = "",
        **attributes: Any,
    ) -> Value:
        """A node with one output; `known` computes its value from the values of its inputs where all of them are known. A `dtype` of None is the first input's."""
        return self.emit_many(op, inputs, [shapes], [dtype], reach=reach, rough=rough, known=known, domain=domain, **attributes)[0]

    def emit_many(
        self,
        op: str,
        inputs: Sequence[Value | None],
        shapes: Sequence[Pair],
        dtypes: Sequence[str | None] | None = None,
        *,
        reach: float = UNKNOWN,
        rough: bool | None = None,
        known: Callable[..., Any] | None = None,
        domain: str = "",
        **attributes: Any,
    ) -> list[Value]:
        present = [v for v in inputs if v is not None]
        assert all(d >= 0 for pair in shapes for s in pair for d in s), (op, [v and v.shapes for v in inputs], shapes)  # an emitter that counts wrongly
        if any(math.prod(s) > LARGEST for pair in shapes for s in pair):
            raise Unsuitable
        kinds = [d or present[0].dtype for d in (dtypes or [None] * len(shapes))]
        inherited = any(v.rough for v in present) if rough is None else rough
        names = [self.name() for _ in shapes]
        node = helper.make_node(op, [v.name if v is not None else "" for v in inputs], names, domain=domain, **attributes)
        while node.input and not node.input[-1]:
            node.input.pop()
        self.frame.nodes.append(node)
        self.read.update(v.name for v in present)
        values: tuple[Array, Array] | None = None
        if known is not None and len(shapes) == 1 and present and all(v.known is not None for v in present):
            first, second = (np.asarray(known(*(v.known[i] for v in present if v.known is not None))).astype(kinds[0]) for i in (0, 1))
            values = (first, second)
        results = [
            Value(n, k, s, values, reach=reach if reach < largest(k) else UNKNOWN, rough=inherited and k in FLOATS)
            for n, k, s in zip(names, kinds, shapes, strict=True)
        ]
        self.frame.values += results
        self.frame.own += results
        return results


def largest(dtype: str) -> float:
    """Magnitudes from here on are treated as unknown."""
    return 1e4 if dtype == "float16" else 1e6


def both(function: Callable[..., Sequence[int] | None], *pairs: Pair) -> Pair:
    """A shape function applied under both bindings; Unsuitable where it gives None."""
    results = [function(*(p[i] for p in pairs)) for i in (0, 1)]
    if any(r is None for r in results):
        raise Unsuitable
    first, second = (tuple(int(d) for d in r) for r in results if r is not None)
    return first, second


def broadcast(*shapes: Shape) -> Shape | None:
    """NumPy's rule; None where the shapes do not fit."""
    try:
        return np.broadcast_shapes(*shapes)
    except ValueError:
        return None


def _identical(a: Array, b: Array) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
