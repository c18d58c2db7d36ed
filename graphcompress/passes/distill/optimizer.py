"""Adam with a warm-up, a cosine decay, and a limit of each tensor's step relative to its norm.

Kingma and Ba, Adam (2014). BatchNormalization is folded in students, so nothing else keeps a step from throwing a layer off: the limit does.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

DECAYS = (0.9, 0.999)
EPSILON = 1e-12
WARM_UP, LEAST_WARM_UP = 0.05, 20  # part of all steps, but so many steps at least, and half of all at most
LAST_RATE = 0.01  # of the highest
STEP_LIMIT = 0.02  # of the tensor's norm
SMALLEST_NORM = 1e-3  # per element (root mean square): below it a tensor may grow freely
LEAST_SCALE = 0.1  # of what it was: a scale never comes near 0


class Adam:
    """Updates `weights` (float32, by name) in place. The rate is one of differences; `sizes` has what it is relative to, element by element, where that is not 1.

    `positive` are names of weights, among those with sizes, that never come near 0.
    """

    def __init__(self, weights: dict[str, Array], rate: float, steps: int, sizes: Mapping[str, Array] | None = None, positive: Collection[str] = ()) -> None:
        self.weights, self.rate, self.steps = weights, rate, steps
        self.step = 0
        self._sizes = {name: size for name, size in (sizes or {}).items() if name in weights}
        self._least = {name: LEAST_SCALE * np.abs(w) for name, w in weights.items() if name in positive}
        self._mean = {name: np.zeros_like(w) for name, w in weights.items()}
        self._square = {name: np.zeros_like(w) for name, w in weights.items()}

    def update(self, gradients: Mapping[str, Array]) -> None:
        """One step. Gradients that are not finite are left out."""
        self.step += 1
        rate = self.rate * schedule(self.step, self.steps)
        first, second = DECAYS
        corrections = 1 - first**self.step, math.sqrt(1 - second**self.step)
        for name, gradient in gradients.items():
            if not np.isfinite(gradient).all():
                continue
            mean, square, weight = self._mean[name], self._square[name], self.weights[name]
            mean += (1 - first) * (gradient - mean)
            square += (1 - second) * (gradient * gradient - square)
            change = mean / (np.sqrt(square) + EPSILON)
            change *= rate * corrections[1] / corrections[0]
            if name in self._sizes:
                change *= self._sizes[name]
            most = STEP_LIMIT * max(float(np.linalg.norm(weight)), SMALLEST_NORM * math.sqrt(weight.size))
            size = float(np.linalg.norm(change))
            if size > most:
                change *= most / size
            weight -= change
            if name in self._least:
                np.copysign(np.maximum(np.abs(weight), self._least[name]), weight, out=weight)


def schedule(step: int, steps: int) -> float:
    """The part of the highest rate at a step (1 is the first): linear up, then a cosine down."""
    warm = max(1, min(steps // 2, max(LEAST_WARM_UP, round(WARM_UP * steps))))
    if step <= warm:
        return step / warm
    return LAST_RATE + (1 - LAST_RATE) * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))
