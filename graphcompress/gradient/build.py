"""What writes gradients into a graph: new nodes, constants, and what is known of shapes while they are built."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from graphcompress.ir import Constant, Model, Node, Shape, Tensor
from graphcompress.ir.model.element_types import numpy_dtype
from graphcompress.ir.shapes.infer import Shapes

FARTHEST = 2**62  # an end of a Slice beyond every axis
FLOATS = frozenset(("float", "double", "float16", "bfloat16"))


class NoGradient(Exception):
    """Nothing can be learned through a node, or through one of its inputs. `id` is stable, `reason` a sentence."""

    def __init__(self, id: str, reason: str) -> None:
        super().__init__(reason)
        self.id = f"gradient/{id}"
        self.reason = reason


class GradientBuilder:
    """Adds nodes to `model`'s main graph. Equal lists of integers and equal numbers are one constant."""

    def __init__(self, model: Model, shapes: Shapes) -> None:
        self.model = model
        self.shapes = shapes
        self._ints: dict[tuple[int, ...] | int, Constant] = {}
        self._numbers: dict[tuple[str, float], Constant] = {}

    def add(self, op: str, *inputs: Tensor, hint: str = "gradient", **attrs: Any) -> Tensor:
        """The output of a new node; attributes that are None are left out."""
        output = self.model.variable(hint)
        self.model.add(op, inputs, [output], {k: v for k, v in attrs.items() if v is not None})
        return output

    def add_several(self, op: str, count: int, *inputs: Tensor, **attrs: Any) -> list[Tensor]:
        """The `count` outputs of a new node."""
        outputs: list[Tensor] = [self.model.variable("gradient") for _ in range(count)]
        self.model.add(op, inputs, outputs, attrs)
        return outputs

    def ints(self, values: Sequence[int] | int) -> Constant:
        """A constant of int64: a list, or a scalar."""
        key = int(values) if isinstance(values, int | np.integer) else tuple(int(v) for v in values)
        if key not in self._ints:
            self._ints[key] = self.model.constant("gradient_ints", np.array(key, np.int64))
        return self._ints[key]

    def number(self, value: float, dtype: str) -> Constant:
        """A scalar of an element type given by ONNX's name."""
        if (dtype, value) not in self._numbers:
            self._numbers[dtype, value] = self.model.constant("gradient_number", np.array(value, numpy_dtype(dtype)))
        return self._numbers[dtype, value]

    def array(self, values: np.ndarray[Any, Any], dtype: str | None = None) -> Constant:
        """A constant of `dtype` (default: that of the array)."""
        return self.model.constant("gradient_array", values if dtype is None else values.astype(numpy_dtype(dtype)))

    def shape_of(self, tensor: Tensor) -> Tensor:
        """The shape as a tensor: a constant where it is known, else computed."""
        static = self.shapes.static(tensor)
        return self.ints(static) if static is not None else self.add("Shape", tensor)

    def total(self, parts: Sequence[Tensor]) -> Tensor:
        """The sum of tensors of one shape."""
        return parts[0] if len(parts) == 1 else self.add("Sum", *parts)

    def reduced_to(self, gradient: Tensor, like: Tensor) -> Tensor:
        """`gradient` summed over the axes along which `like` was broadcast, so that it has its shape.

        Raises NoGradient where a rank is not known.
        """
        if self.shapes.same_shape(gradient, like):
            return gradient
        have, want = self.shapes.shape(gradient), self.shapes.shape(like)
        if have is None or want is None:
            raise NoGradient("unknown-rank", f"the rank of '{like.name}' is not known")
        extra = len(have) - len(want)
        if extra < 0:
            return self.add("Reshape", gradient, self.shape_of(like))
        if extra:
            gradient = self.add("ReduceSum", gradient, self.ints(range(extra)), keepdims=0)
            have = have[extra:]
        if all(a is not None and a == b for a, b in zip(have, want, strict=True)):
            return gradient
        if all((a is not None and a == b) or b == 1 for a, b in zip(have, want, strict=True)):
            axes: Tensor = self.ints([i for i, (a, b) in enumerate(zip(have, want, strict=True)) if b == 1 and a != 1])
        else:
            differs = self.add("Not", self.add("Equal", self.shape_of(gradient), self.shape_of(like)))
            axes = self.add("Reshape", self.add("NonZero", differs), self.ints([-1]))
        return self.add("ReduceSum", gradient, axes, keepdims=1, noop_with_empty_axes=1)


class NodeGradient:
    """One node on the way back: its inputs and outputs, the gradients of the outputs, and what a rule or a mapper needs to write those of the inputs.

    `targets` are the indices of the inputs whose gradients are asked for; a mapper may hand out more. `build` adds nodes.
    """

    def __init__(self, build: GradientBuilder, node: Node, cotangents: Sequence[Tensor | None], targets: frozenset[int]) -> None:
        self.build = build
        self.node = node
        self.cotangents = cotangents
        self.targets = targets
        self.add = build.add
        self.ints = build.ints

    @property
    def x(self) -> Tensor:
        """The first input."""
        return self.input(0)

    @property
    def y(self) -> Tensor:
        """The first output."""
        tensor: Tensor = self.node.outputs[0]
        return tensor

    @property
    def dy(self) -> Tensor:
        """The gradient of the first output. Raises NoGradient where only another output is used."""
        if any(g is not None for g in self.cotangents[1:]) or self.cotangents[0] is None:
            raise NoGradient("other-output", f"an output of {self.node.op} beside the first is used")
        return self.cotangents[0]

    def has(self, index: int) -> bool:
        """Whether the input is there."""
        return self.node.input(index) is not None

    def input(self, index: int) -> Tensor:
        """An input that must be there."""
        tensor = self.node.input(index)
        if tensor is None:
            raise NoGradient("missing-input", f"{self.node.op} has no input {index}")
        return tensor

    def attr(self, name: str, default: Any = None) -> Any:
        """An attribute; a list of integers whatever holds it."""
        value = self.node.attrs.get(name, default)
        if value is None or isinstance(value, int | float | str | list):
            return value
        raise NoGradient("attribute", f"attribute {name} of {self.node.op} is no number, text or list")

    def static(self, tensor: Tensor) -> tuple[int, ...]:
        """The shape in numbers. Raises NoGradient where a size is not known."""
        shape = self.build.shapes.static(tensor)
        if shape is None:
            raise NoGradient(
                "dynamic-shape", f"{self.node.op} needs the shape of '{tensor.name}', which is not known before it runs: state the shapes of the inputs"
            )
        return shape

    def shape(self, tensor: Tensor) -> Shape:
        """The shape as far as it is known. Raises NoGradient where the rank is not."""
        shape = self.build.shapes.shape(tensor)
        if shape is None:
            raise NoGradient("unknown-rank", f"the rank of '{tensor.name}' is not known")
        return shape

    def size(self, tensor: Tensor, axis: int) -> int:
        """One size in numbers. Raises NoGradient where it is not known."""
        size = self.shape(tensor)[axis]
        if not isinstance(size, int):
            raise NoGradient(
                "dynamic-shape", f"{self.node.op} needs axis {axis} of '{tensor.name}', which is not known before it runs: state the shapes of the inputs"
            )
        return size

    def sizes(self, tensor: Tensor, first: int) -> tuple[int, ...]:
        """The sizes from axis `first` on, in numbers."""
        return tuple(self.size(tensor, axis) for axis in range(first, self.rank(tensor)))

    def rank(self, tensor: Tensor) -> int:
        """Number of axes. Raises NoGradient where it is not known."""
        return len(self.shape(tensor))

    def dtype(self, tensor: Tensor) -> str:
        """Element type by ONNX's name."""
        dtype = self.build.shapes.dtype(tensor)
        if dtype is None:
            raise NoGradient("unknown-type", f"the element type of '{tensor.name}' is not known")
        return dtype

    def value(self, index: int) -> list[int] | None:
        """An input of integers in numbers, None where it is absent. Raises NoGradient where it is computed."""
        tensor = self.node.input(index)
        if tensor is None:
            return None
        value = self.build.shapes.value(tensor)
        if value is None:
            raise NoGradient("computed-input", f"input {index} of {self.node.op} is not known before it runs")
        return [int(v) for v in value.reshape(-1)]

    def number(self, value: float) -> Tensor:
        """A scalar of the first output's element type."""
        return self.build.number(float(value), self.dtype(self.y))

    def axis(self, tensor: Tensor, default: int) -> int:
        """The attribute `axis`, not negative."""
        return int(self.attr("axis", default)) % max(1, self.rank(tensor))

    def reshape(self, tensor: Tensor, shape: Sequence[int]) -> Tensor:
        return self.add("Reshape", tensor, self.ints(shape))

    def transpose(self, tensor: Tensor, perm: Sequence[int]) -> Tensor:
        if list(perm) == list(range(len(perm))):
            return tensor
        return self.add("Transpose", tensor, perm=list(perm))

    def pad(self, tensor: Tensor, before: Mapping[int, int], after: Mapping[int, int], rank: int) -> Tensor:
        """Zeros before and after, per axis; negative numbers cut."""
        cut = [axis for axis in range(rank) if before.get(axis, 0) < 0 or after.get(axis, 0) < 0]
        if cut:
            starts = [max(0, -before.get(axis, 0)) for axis in cut]
            ends = [after.get(axis, 0) if after.get(axis, 0) < 0 else FARTHEST for axis in cut]
            tensor = self.add("Slice", tensor, self.ints(starts), self.ints(ends), self.ints(cut))
        pads = [max(0, side.get(axis, 0)) for side in (before, after) for axis in range(rank)]
        return self.add("Pad", tensor, self.ints(pads)) if any(pads) else tensor

    def zeros(self, like: Tensor) -> Tensor:
        """Zeros of the shape and type of `like`."""
        zero = np.zeros(1, numpy_dtype(self.dtype(like)))
        return self.add("ConstantOfShape", self.build.shape_of(like), value=zero)
