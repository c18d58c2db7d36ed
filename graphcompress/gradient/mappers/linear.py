"""Products: MatMul, Gemm, Einsum."""

from __future__ import annotations

from collections.abc import Mapping

from graphcompress.gradient.build import NodeGradient, NoGradient
from graphcompress.gradient.mappers.registry import mapper
from graphcompress.ir import Tensor


@mapper
def matmul(call: NodeGradient) -> Mapping[int, Tensor]:
    """da = dy b^T, db = a^T dy; a vector is a matrix of one row or one column. A weight that all matrices of a batch share takes one product over the whole batch."""
    a, b, dy = call.x, call.input(1), call.dy
    rank_a, rank_b = call.rank(a), call.rank(b)
    if rank_b == 1:
        dy = call.add("Unsqueeze", dy, call.ints([-1]))
    if rank_a == 1:
        dy = call.add("Unsqueeze", dy, call.ints([-2]))
    left = call.add("Unsqueeze", a, call.ints([0])) if rank_a == 1 else a
    right = call.add("Unsqueeze", b, call.ints([1])) if rank_b == 1 else b
    gradients: dict[int, Tensor] = {}
    if 0 in call.targets:
        gradients[0] = product(call, dy, transposed(call, right, max(2, rank_b)), a)
    if 1 in call.targets:
        rank = max(2, rank_a)
        if rank_b <= 2 and rank > 2:
            rows, columns = call.size(left, -1), call.size(dy, -1)
            gradients[1] = product(call, call.add("Transpose", call.reshape(left, [-1, rows]), perm=[1, 0]), call.reshape(dy, [-1, columns]), b)
        else:
            gradients[1] = product(call, transposed(call, left, rank), dy, b)
    return gradients


def transposed(call: NodeGradient, tensor: Tensor, rank: int) -> Tensor:
    """The last two axes exchanged."""
    return call.transpose(tensor, [*range(rank - 2), rank - 1, rank - 2])


def product(call: NodeGradient, a: Tensor, b: Tensor, like: Tensor) -> Tensor:
    """a b, summed over the axes of the batch along which `like` was repeated, in its shape."""
    result = call.add("MatMul", a, b)
    if call.rank(like) == 1:  # one axis of the matrix has size one
        rows = call.add("Reshape", result, call.add("Concat", call.ints([-1]), call.build.shape_of(like), axis=0))
        return call.add("ReduceSum", rows, call.ints([0]), keepdims=0)
    return call.build.reduced_to(result, like)


@mapper
def gemm(call: NodeGradient) -> Mapping[int, Tensor]:
    """y = alpha op(a) op(b) + beta c."""
    a, b, dy = call.x, call.input(1), call.dy
    alpha, beta = float(call.attr("alpha", 1.0)), float(call.attr("beta", 1.0))
    ta, tb = int(call.attr("transA", 0)), int(call.attr("transB", 0))
    gradients: dict[int, Tensor] = {}
    if 0 in call.targets:
        gradients[0] = call.add("Gemm", b, dy, alpha=alpha, transA=tb, transB=1) if ta else call.add("Gemm", dy, b, alpha=alpha, transB=1 - tb)
    if 1 in call.targets:
        gradients[1] = call.add("Gemm", dy, a, alpha=alpha, transA=1, transB=ta) if tb else call.add("Gemm", a, dy, alpha=alpha, transA=1 - ta)
    if call.has(2) and 2 in call.targets:
        scaled = dy if beta == 1 else call.add("Mul", dy, call.number(beta))
        gradients[2] = call.build.reduced_to(scaled, call.input(2))
    return gradients


@mapper
def einsum(call: NodeGradient) -> Mapping[int, Tensor]:
    """The gradient of one operand is the Einsum of dy and all others; labels that only this operand has are summed over, so that dy is repeated along them."""
    equation = str(call.attr("equation")).replace(" ", "")
    if "..." in equation:
        raise NoGradient("ellipsis", "an Einsum with an ellipsis has no gradient rule")
    terms, _, result = equation.partition("->")
    operands = terms.split(",")
    if "->" not in equation:
        letters = "".join(operands)
        result = "".join(sorted(c for c in set(letters) if letters.count(c) == 1))
    if any(len(set(t)) != len(t) for t in operands):
        raise NoGradient("diagonal", "an Einsum that takes a diagonal has no gradient rule")
    gradients: dict[int, Tensor] = {}
    for index, term in enumerate(operands):
        if index not in call.targets:
            continue
        others = [(t, call.input(i)) for i, t in enumerate(operands) if i != index]
        present = set(result).union(*(t for t, _ in others)) if others else set(result)
        reached = "".join(c for c in term if c in present)
        gradient = call.add("Einsum", call.dy, *(tensor for _, tensor in others), equation=f"{','.join([result, *(t for t, _ in others)])}->{reached}")
        if reached != term:
            missing = [i for i, c in enumerate(term) if c not in present]
            gradient = call.add("Expand", call.add("Unsqueeze", gradient, call.ints(missing)), call.build.shape_of(call.input(index)))
        gradients[index] = gradient
    return gradients
