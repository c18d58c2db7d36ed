"""Small networks that are trained in closed form, on digits on a canvas: patches of the data as filters, a ridge readout."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from onnx import helper, numpy_helper

Array = np.ndarray[Any, Any]
MODELS = Path(__file__).resolve().parents[1] / "models"
SIDE = 32
MOST_ROWS = 40_000
FILTERS = 192


def digits() -> tuple[Array, Array, Array, Array]:
    """Images of 8 x 8 (0 to 1) and labels: for training, and others."""
    train, test = (np.load(MODELS / "digits_cnn" / f"{part}.npz") for part in ("calib", "test"))
    scale = max(1e-6, float(np.abs(train["image"]).max()))
    return train["image"][:, 0] / scale, train["_label"], test["image"][:, 0] / scale, test["_label"]


@dataclass
class Canvas:
    """Images [n, 1, h, w], and for each the digits on it as (class, top, left)."""

    images: Array
    digits: list[list[tuple[int, int, int]]]


def canvases(rng: np.random.Generator, images: Array, labels: Array, count: int, height: int, width: int, most: int, noise: float = 0.05) -> Canvas:
    """One to `most` digits that do not overlap, on noise."""
    drawn = rng.normal(0, noise, (count, 1, height, width)).astype(np.float32)
    placed: list[list[tuple[int, int, int]]] = []
    for i in range(count):
        here: list[tuple[int, int, int]] = []
        for _ in range(int(rng.integers(1, most + 1))):
            top, left = int(rng.integers(0, height - 7)), int(rng.integers(0, width - 7))
            if all(abs(top - t) >= 9 or abs(left - x) >= 9 for _, t, x in here):
                which = int(rng.integers(len(images)))
                drawn[i, 0, top : top + 8, left : left + 8] += images[which]
                here.append((int(labels[which]), top, left))
        placed.append(sorted(here, key=lambda d: d[2]))
    return Canvas(drawn, placed)


# --- networks -------------------------------------------------------------------------------------------------------------------------


class Net:
    """A graph that grows: a Conv with patches of the data as filters, Relu, and what a task adds."""

    def __init__(self, height: int, width: int, filters: Array, *, pads: list[int], strides: list[int] | None = None) -> None:
        self.nodes: list[Any] = []
        self.weights: list[Any] = []
        self.height, self.width, self.last = height, width, "x"
        bias = -0.5 * np.ones(len(filters), np.float32)
        self.add("Conv", [filters.astype(np.float32), bias], pads=pads, strides=strides or [1, 1])
        self.add("Relu")

    def add(self, op: str, constants: list[Array] | None = None, *, inputs: list[str] | None = None, **attrs: Any) -> str:
        """A node that reads the last one, and constants."""
        names = []
        for value in constants or []:
            names.append(f"c{len(self.weights)}")
            self.weights.append(numpy_helper.from_array(np.asarray(value), names[-1]))
        out = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, [*(inputs or [self.last]), *names], [out], **attrs))
        self.last = out
        return out

    def model(self, rank: int) -> bytes:
        """With the last tensor as the output `y`."""
        nodes = [*self.nodes, helper.make_node("Identity", [self.last], ["y"])]
        x = helper.make_tensor_value_info("x", 1, ["n", 1, self.height, self.width])
        y = helper.make_tensor_value_info("y", 1, [None] * rank)
        graph = helper.make_graph(nodes, "g", [x], [y], self.weights)
        return bytes(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8).SerializeToString())

    def features(self, images: Array) -> Array:
        """The last tensor."""
        rank = 2 if self.nodes[-1].op_type == "Flatten" else 4
        return np.asarray(run(self.model(rank), [{"x": images}])[0]["y"])


def run(model: bytes, feeds: list[dict[str, Array]], state: dict[str, str] | None = None, reset_every: int = 0) -> list[dict[str, Any]]:
    """All outputs for each feed, in order; `state` maps outputs to the inputs that they are fed back to."""
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    names = [o.name for o in session.get_outputs()]
    results: list[dict[str, Any]] = []
    for i, feed in enumerate(feeds):
        back = {} if not state or not results or (reset_every and i % reset_every == 0) else {into: results[-1][out] for out, into in state.items()}
        results.append(dict(zip(names, session.run(None, feed | back), strict=True)))
    return results


def patches(rng: np.random.Generator, images: Array, height: int, width: int) -> Array:
    """Filters [FILTERS, 1, height, width]: digits and parts of them, shifted, without mean, of length 2."""
    found = []
    for _ in range(FILTERS):
        padded = np.pad(images[rng.integers(len(images))], 2)
        top, left = rng.integers(0, 13 - height), rng.integers(0, 13 - width)
        part = padded[top : top + height, left : left + width]
        found.append(part - part.mean())
    filters = np.array(found)
    lengths = np.maximum(1e-3, np.linalg.norm(filters.reshape(FILTERS, -1), axis=1))
    return np.asarray((2 * filters / lengths[:, None, None])[:, None])


def ridge(features: Array, targets: Array, strength: float = 100.0) -> tuple[Array, Array]:
    """(weights [features, targets], biases)."""
    f, t = features.reshape(-1, features.shape[-1]), targets.reshape(-1, targets.shape[-1])
    step = -(-len(f) // MOST_ROWS)
    f, t = f[::step].astype(np.float64), t[::step].astype(np.float64)
    mean = f.mean(axis=0)
    gram = (f - mean).T @ (f - mean) + strength * np.eye(f.shape[1])
    weights = np.linalg.solve(gram, (f - mean).T @ (t - t.mean(axis=0)))
    return weights.astype(np.float32), (t.mean(axis=0) - mean @ weights).astype(np.float32)


def logistic(features: Array, targets: Array) -> tuple[Array, Array]:
    """As `ridge`, for targets of 0 and 1: logits, 0 at the threshold with the best F1 and 4 at the mean of the positives."""
    f, t = features.reshape(-1, features.shape[-1]), targets.reshape(-1, targets.shape[-1]) > 0
    weights, bias = ridge(f, t)
    scores = f @ weights
    for k in range(t.shape[1]):
        own, rest = scores[t[:, k], k], scores[~t[:, k], k]
        limits = np.quantile(own, np.linspace(0, 0.9, 40))
        quality = [2 * (own >= x).sum() / (len(own) + (own >= x).sum() + (rest >= x).sum()) for x in limits]
        limit = float(limits[int(np.argmax(quality))])
        scale = 4 / max(1e-3, float(own.mean()) - limit)
        weights[:, k], bias[k] = weights[:, k] * scale, -limit * scale
    return weights, bias
