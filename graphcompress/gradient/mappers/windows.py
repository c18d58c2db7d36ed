"""Windows of Conv, ConvTranspose and pooling in numbers: sizes, strides, dilations and pads of every spatial axis."""

from __future__ import annotations

from dataclasses import dataclass

from graphcompress.gradient.build import NodeGradient
from graphcompress.ir import Tensor


@dataclass(frozen=True, slots=True)
class Windows:
    """Per spatial axis: kernel, stride, dilation, zeros before and after, and the sizes of the large side (that windows slide over) and of the small side (their number)."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    before: tuple[int, ...]
    after: tuple[int, ...]
    large: tuple[int, ...]
    small: tuple[int, ...]

    @property
    def rank(self) -> int:
        return len(self.kernel)

    @property
    def reach(self) -> tuple[int, ...]:
        """Length of a window along each axis, gaps included."""
        return tuple((k - 1) * d + 1 for k, d in zip(self.kernel, self.dilations, strict=True))

    @property
    def surplus(self) -> tuple[int, ...]:
        """Elements at the end of each padded axis that no window reaches; negative where windows reach beyond it (ceil_mode)."""
        sides = zip(self.large, self.before, self.after, self.small, self.strides, self.reach, strict=True)
        return tuple(size + b + a - (count - 1) * s - r for size, b, a, count, s, r in sides)

    @property
    def pads(self) -> list[int]:
        """As the attribute has them."""
        return [*self.before, *self.after]


def windows(call: NodeGradient, kernel: tuple[int, ...], large: Tensor, small: Tensor) -> Windows:
    """The windows of `call`'s node, whose large and small side are these tensors. Raises NoGradient where a size is not known."""
    rank = len(kernel)
    strides = tuple(int(s) for s in call.attr("strides") or [1] * rank)
    dilations = tuple(int(d) for d in call.attr("dilations") or [1] * rank)
    large_sizes, small_sizes = call.sizes(large, 2), call.sizes(small, 2)
    pads = [int(p) for p in call.attr("pads") or [0] * (2 * rank)]
    auto = call.attr("auto_pad", "NOTSET")
    if auto in ("SAME_UPPER", "SAME_LOWER"):
        needed = [
            max(0, (count - 1) * s + (k - 1) * d + 1 - size) for count, s, k, d, size in zip(small_sizes, strides, kernel, dilations, large_sizes, strict=True)
        ]
        half = [n // 2 for n in needed]
        rest = [n - h for n, h in zip(needed, half, strict=True)]
        pads = [*half, *rest] if auto == "SAME_UPPER" else [*rest, *half]
    elif auto == "VALID":
        pads = [0] * (2 * rank)
    return Windows(kernel, strides, dilations, tuple(pads[:rank]), tuple(pads[rank:]), large_sizes, small_sizes)
