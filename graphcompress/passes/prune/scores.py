"""In which order units of channels should go, and what the consumers lose by it.

A consumer is a matrix W [n, o] with the centred Gram matrix H = X'X [n, n] of its inputs; a unit owns some rows of some consumers. Dropping the rows S and refitting
the others costs tr(W_S' [(H^-1)_SS]^-1 W_S), the optimal brain surgeon's measure (Hassibi and Stork 1993; in blocks: arXiv 2302.04089). After each removal W and H^-1
are brought up to date by Schur complements, so that the order is greedy with all earlier removals taken into account, and one order serves every budget.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

# Of the mean diagonal of H. A larger one charges a channel that has a duplicate (1e-2: 3e-3 of the output's energy; 1e-4: 3e-5).
RIDGE = 1e-4
# Consumers with more rows are scored by channels: the taps of a convolution, or the places of a flattened map, as independent outputs of a channel.
WIDE = 2048
# Rows of removals after which they are taken into the matrices.
MOST_WAITING = 64


@dataclass(frozen=True)
class Consumer:
    """`gram` [n, n] centred (sums or means alike), `weight` [n, o], `units`: for each unit its rows here, empty where it has none.

    `energy` is what its errors are measured by: tr(W'HW) where None is given. The groups of one convolution are consumers that share their whole energy.
    `inverse` [n, n] is `damped_inverse` of the Gram matrix. Rows that no unit owns may be missing from all matrices where `energy` and `inverse` are given, the latter being
    a block of the whole inverse: what removals change hangs on the rows of units alone.
    """

    gram: Array
    weight: Array
    units: Sequence[Array]
    energy: float | None = None
    inverse: Array | None = None


@dataclass(frozen=True, slots=True)
class Order:
    """`steps[k]` are the units that go in step k, one of each block; `errors[k]` [steps + 1] the error with the first k steps gone, as a part of the consumers' energies,
    summed over consumers; it never falls."""

    steps: tuple[tuple[int, ...], ...]
    errors: Array

    def error(self, units: int) -> float:
        """The error with the first `units` gone, a multiple of those of a step."""
        return float(self.errors[units // len(self.steps[0])])


def output_energy(gram: Array, weight: Array) -> float:
    """tr(W'HW): the energy of a layer's outputs about their mean."""
    return float(np.einsum("no,nm,mo->", weight, gram, weight, optimize=True))


def damped_inverse(gram: Array, ridge: float = RIDGE) -> Array:
    """The inverse of H [n, n] with `ridge` times its mean diagonal added to it (1 where it is zero)."""
    mean = float(np.diagonal(gram).mean()) if len(gram) else 0.0
    return np.linalg.inv(gram + (ridge * mean or 1.0) * np.eye(len(gram)))


def by_channel(rows: Array, taps: int) -> Array:
    """Rows [..., r, c * taps] of a convolution as rows [..., r * taps, c] of its channels."""
    *leading, r, n = rows.shape
    return rows.reshape(*leading, r, n // taps, taps).swapaxes(-1, -2).reshape(*leading, r * taps, n // taps)


def weight_by_channel(weight: Array, taps: int) -> Array:
    """The matrix [..., c * taps, o] for rows by channel: [..., c, taps * o]."""
    *leading, n, o = weight.shape
    return weight.reshape(*leading, n // taps, taps * o)


def removal_order(consumers: Sequence[Consumer], units: int, blocks: Sequence[Sequence[int]] = (), *, ridge: float = RIDGE) -> Order:
    """The greedy order of units 0 ... `units` - 1 by the error after refitting.

    `blocks` are sets of units of which equally many must go: a step takes the cheapest of each; without them a step is one unit. Channels that are always the same,
    or that another one repeats, go first at an error of about 0.
    Time: n^3 for each consumer, and n^2 b^2 in all for units of b rows. Raises ValueError where blocks have unequal sizes.
    """
    remaining = [list(block) for block in blocks] or [list(range(units))]
    if len({len(block) for block in remaining}) > 1:
        raise ValueError("Blocks of unequal sizes cannot lose equally many units.")
    states = [_Surgeon(consumer, ridge) for consumer in consumers]
    steps: list[tuple[int, ...]] = []
    errors = [0.0]
    for _ in range(len(remaining[0])):
        step, error = [], errors[-1]
        for block in remaining:
            costs = np.sum([state.costs(block) for state in states], axis=0) if states else np.zeros(len(block))
            cheapest = int(np.argmin(costs))
            error += float(costs[cheapest])
            unit = block.pop(cheapest)
            step.append(unit)
            for state in states:
                state.remove(unit)
        steps.append(tuple(step))
        errors.append(error)
    return Order(tuple(steps), np.asarray(errors))


def order_by_cost(costs: Array, blocks: Sequence[Sequence[int]] = ()) -> Order:
    """The order of units by a fixed cost of each [units], the cheapest first; as `removal_order` with errors that are sums of costs."""
    costs = np.nan_to_num(np.asarray(costs, np.float64), nan=0.0, posinf=np.finfo(np.float64).max)
    ranked = [sorted(block, key=lambda u: (costs[u], u)) for block in blocks or [range(len(costs))]]
    steps = tuple(zip(*ranked, strict=True))
    return Order(steps, np.concatenate([[0.0], np.cumsum([sum(costs[u] for u in step) for step in steps])]))


def magnitudes(producers: Sequence[tuple[Array, Sequence[Array]]], units: int) -> Array:
    """Without data: the squared norm of each unit's weights in its producers, each a (matrix [n, o], columns of each unit), as a part of the producer's mean,
    summed over producers: [units]. The weights should have BatchNormalization folded into them (arXiv 1608.08710)."""
    total = np.zeros(units)
    for matrix, columns in producers:
        squares = np.square(np.asarray(matrix, np.float64)).sum(axis=0)
        norms = np.array([squares[c].sum() for c in columns])
        total += norms / max(float(norms.mean()), np.finfo(np.float64).tiny)
    return total


def activation_costs(consumers: Sequence[Consumer], units: int) -> Array:
    """What dropping each unit alone costs if only the mean is repaired: tr(W_c' H_cc W_c) as a part of the energy, summed over consumers (diagonal forms of it:
    arXiv 2306.11695, 2312.11983): [units]."""
    total = np.zeros(units)
    for consumer in consumers:
        energy = _energy(consumer)
        for unit, rows in enumerate(consumer.units):
            total[unit] += output_energy(consumer.gram[np.ix_(rows, rows)], consumer.weight[rows]) / energy
    return np.maximum(total, 0.0)


# --- one consumer -----------------------------------------------------------------------------------------------------------------


class _Surgeon:
    """H^-1 and W W' of one consumer under removals.

    A removal changes both by few ranks. These wait, and are taken into the matrices many at a time, which is one product of matrices; until then rows are put together when
    they are asked for, and the blocks of each unit on the diagonals, which decide the costs, are brought up to date by themselves.
    """

    def __init__(self, consumer: Consumer, ridge: float) -> None:
        gram = np.asarray(consumer.gram, np.float64)
        diagonal = np.diagonal(gram)
        # An input that never varies has no part in the centred outputs, however large its weight.
        weight = np.where(diagonal[:, None] > 0, np.asarray(consumer.weight, np.float64), 0.0)
        self._products = weight @ weight.T
        self._inverse = damped_inverse(gram, ridge) if consumer.inverse is None else consumer.inverse.copy()
        self._units = consumer.units
        # The rows of all units of the same size together, and their blocks of both matrices.
        self._sizes = np.array([len(rows) for rows in consumer.units])
        self._index = np.zeros(len(consumer.units), np.intp)
        self._tables: dict[int, Array] = {}
        self._blocks: dict[int, tuple[Array, Array]] = {}
        for size in set(self._sizes[self._sizes > 0].tolist()):
            alike = np.flatnonzero(self._sizes == size)
            self._index[alike] = np.arange(len(alike))
            table = self._tables[size] = np.stack([consumer.units[int(i)] for i in alike])
            self._blocks[size] = self._inverse[table[:, :, None], table[:, None, :]], self._products[table[:, :, None], table[:, None, :]]
        self._energy = _energy(consumer)
        self._left = np.ones(len(gram), bool)
        self._place = np.arange(len(gram))  # of each row in what is held
        self._waiting = np.zeros((3, 0, len(gram)))  # F, A, P: H^-1 is the matrix less F'A, W W' is the other less F'P + P'F

    def costs(self, units: Sequence[int]) -> Array:
        """What removing each of `units` would add to the error."""
        result = np.zeros(len(units))
        numbers = np.asarray(units, np.intp)
        for size, (inverses, products) in self._blocks.items():
            alike = np.flatnonzero(self._sizes[numbers] == size)
            if len(alike):
                index = self._index[numbers[alike]]
                a, p = inverses[index], products[index]
                result[alike] = p[:, 0, 0] / a[:, 0, 0] if size == 1 else np.trace(np.linalg.solve(a, p), axis1=1, axis2=2)
        return np.maximum(result, 0.0) / self._energy

    def remove(self, unit: int) -> None:
        """Take the unit out, and refit the others."""
        rows = self._place[np.asarray(self._units[unit], np.intp)]
        if not len(rows):
            return
        f, a, p = self._waiting
        inverse = self._inverse[rows] - f[:, rows].T @ a
        products = self._products[rows] - f[:, rows].T @ p - p[:, rows].T @ f
        factors = np.linalg.solve(inverse[:, rows], inverse)
        products -= 0.5 * products[:, rows] @ factors
        # What rounding leaves there would be taken for an input.
        gone = ~self._left
        factors[:, gone] = inverse[:, gone] = products[:, gone] = 0.0
        for size, (inverses, squares) in self._blocks.items():
            table = self._place[self._tables[size]]
            here = factors[:, table]
            inverses -= np.einsum("bci,bcj->cij", here, inverse[:, table])
            change = np.einsum("bci,bcj->cij", here, products[:, table])
            squares -= change + change.swapaxes(1, 2)
        self._waiting = np.concatenate([self._waiting, np.stack([factors, inverse, products])], axis=1)
        self._left[rows] = False
        if self._waiting.shape[1] >= MOST_WAITING:
            self._settle()

    def _settle(self) -> None:
        """Take in what waits; where few rows are left, hold those only."""
        f, a, p = self._waiting
        self._inverse -= f.T @ a
        change = f.T @ p
        self._products -= change
        self._products -= change.T
        self._waiting = self._waiting[:, :0]
        if 2 * self._left.sum() < len(self._left):
            left = np.flatnonzero(self._left)
            self._inverse, self._products = (matrix[np.ix_(left, left)] for matrix in (self._inverse, self._products))
            place = np.full(len(self._left), -1)
            place[left] = np.arange(len(left))
            self._place = np.where(self._place >= 0, place[self._place], -1)
            self._left = np.ones(len(left), bool)
            self._waiting = np.zeros((3, 0, len(left)))


def _energy(consumer: Consumer) -> float:
    energy = output_energy(consumer.gram, consumer.weight) if consumer.energy is None else consumer.energy
    return energy if energy > 0 else 1.0
