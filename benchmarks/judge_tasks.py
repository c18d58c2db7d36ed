"""Small tasks for `judge.py`, one for each kind of output: digits on a canvas, and networks of `judge_nets`.

A task is a model, feeds that judge, feeds that test with ground truth, and two measures of its own: how right outputs are, and how like the float model's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from judge_nets import SIDE, Array, Canvas, Net, canvases, digits, logistic, patches, ridge


@dataclass
class Task:
    """`metric(outputs)` against the truth and `fidelity(reference, outputs)`, both 0 to 1, on the outputs of `test` (a list of dicts by output name)."""

    name: str
    model: bytes
    judge: list[dict[str, Array]]
    test: list[dict[str, Array]]
    metric: Callable[[list[Any]], float]
    fidelity: Callable[[list[Any], list[Any]], float]
    least_fidelity: float = 0.97
    most_drop: float = 0.01
    state: dict[str, str] | None = None
    reset_every: int = 0


# --- measures -------------------------------------------------------------------------------------------------------------------------


def outs(outputs: list[Any]) -> Array:
    return np.concatenate([o["y"] for o in outputs])


def f1(a: Array, b: Array) -> float:
    return float(2 * (a & b).sum() / max(1, a.sum() + b.sum()))


def explained(truth: Array, guess: Array) -> float:
    """1 - squared error / variance, at least 0, the worst column."""
    truth, guess = truth.reshape(-1, truth.shape[-1]), guess.reshape(-1, guess.shape[-1])
    return float(max(0.0, (1 - ((truth - guess) ** 2).mean(axis=0) / truth.var(axis=0)).min()))


def lines(probabilities: Array) -> list[tuple[int, ...]]:
    """Greedy CTC, blank 10."""
    read = []
    for classes in probabilities.argmax(axis=-1):
        first = np.concatenate([[True], classes[1:] != classes[:-1]])
        read.append(tuple(int(c) for c in classes[first & (classes != 10)]))
    return read


def detected(output: Array) -> list[set[tuple[int, int, int]]]:
    """Local maxima of scores above 0.5 in [n, 14, cells]: (class, top / 40, left / 40)."""
    side = SIDE // 2
    found: list[set[tuple[int, int, int]]] = []
    for boxes, scores in zip(output[:, :4], output[:, 4:].reshape(len(output), 10, side, side), strict=True):
        best = scores.max(axis=0)
        padded = np.pad(best, 2)
        peak = best >= np.max([padded[i : i + side, j : j + side] for i in range(5) for j in range(5)], axis=0)
        rows = np.flatnonzero((peak & (best > 0.5)).reshape(-1))
        classes = scores.argmax(axis=0).reshape(-1)
        corners = np.round(boxes[:2] / 40).astype(int)
        found.append({(int(classes[i]), int(corners[0, i]), int(corners[1, i])) for i in rows})
    return found


def set_f1(a: list[set[Any]], b: list[set[Any]]) -> float:
    def near(d: Any, others: set[Any]) -> bool:
        return any(d[0] == o[0] and abs(d[1] - o[1]) <= 1 and abs(d[2] - o[2]) <= 1 for o in others)

    hits = sum(near(d, y) for x, y in zip(a, b, strict=True) for d in x) + sum(near(d, x) for x, y in zip(a, b, strict=True) for d in y)
    return hits / max(1, sum(map(len, a)) + sum(map(len, b)))


# --- tasks ----------------------------------------------------------------------------------------------------------------------------


def own_tasks(seed: int = 0) -> list[Task]:
    """One for each kind of output."""
    return [
        make(np.random.default_rng([seed, i]), *digits())
        for i, make in enumerate((line, heat_map, detector, segments, embedding, landmarks, position, denoise, presence))
    ]


def feeds(images: Array, batch: int = 1) -> list[dict[str, Array]]:
    return [{"x": images[i : i + batch]} for i in range(0, len(images), batch)]


def line(rng: np.random.Generator, images: Array, labels: Array, others: Array, truth: Array) -> Task:
    """Frames of classes with a blank, Softmax written out: [n, 44, 11]."""
    train, judge, test = (canvases(rng, a, b, n, 8, 96, 8) for a, b, n in ((images, labels, 600), (others, truth, 64), (others, truth, 160)))
    net = Net(8, 96, patches(rng, images, 8, 8), pads=[0, 0, 0, 0], strides=[1, 2])
    target = np.zeros((600, 45, 11), np.float32)
    target[..., 10] = 1
    for i, here in enumerate(train.digits):
        for digit, _, left in here:
            target[i, min(44, (left + 1) // 2)] = np.eye(11)[digit]
    weights, bias = logistic(net.features(train.images)[:, :, 0].transpose(0, 2, 1), target[..., :10])
    net.add("Conv", [np.pad(weights.T, ((0, 1), (0, 0)))[:, :, None, None], np.pad(bias, (0, 1))])
    net.add("Squeeze", [np.array([2])])
    net.add("Transpose", perm=[0, 2, 1])
    exp = net.add("Exp")
    net.add("ReduceSum", [np.array([2])], keepdims=1)
    net.add("Div", inputs=[exp, net.last])
    known = [tuple(d[0] for d in here) for here in test.digits]
    return Task(
        "line",
        net.model(3),
        feeds(judge.images),
        feeds(test.images, 8),
        lambda o: float(np.mean([a == b for a, b in zip(lines(outs(o)), known, strict=True)])),
        lambda r, o: float(np.mean([a == b for a, b in zip(lines(outs(r)), lines(outs(o)), strict=True)])),
    )


def grid(rng: np.random.Generator, images: Array, labels: Array, others: Array, truth: Array, stride: int) -> tuple[Net, list[Canvas]]:
    """A network of one position for each cell of the canvas, and canvases to train, judge and test."""
    parts = [canvases(rng, a, b, n, SIDE, SIDE, 4) for a, b, n in ((images, labels, 150), (others, truth, 32), (others, truth, 100))]
    return Net(SIDE, SIDE, patches(rng, images, 8, 8), pads=[3, 3, 4, 4], strides=[stride, stride]), parts


def peaks(canvas: Canvas, stride: int, reach: int) -> Array:
    """[n, 10, cells, cells]: 1 around the centre of each digit."""
    cells = SIDE // stride
    target = np.zeros((len(canvas.images), 10, cells, cells), np.float32)
    for i, here in enumerate(canvas.digits):
        for digit, top, left in here:
            y, x = (top + 4) // stride, (left + 4) // stride
            target[i, digit, max(0, y - reach) : y + reach + 1, max(0, x - reach) : x + reach + 1] = 1
    return target


def heat_map(rng: np.random.Generator, *data: Array) -> Task:
    """Sparse maps of sigmoids: [n, 10, 32, 32]."""
    net, (train, judge, test) = grid(rng, *data, stride=1)
    weights, bias = logistic(net.features(train.images).transpose(0, 2, 3, 1), peaks(train, 1, 1).transpose(0, 2, 3, 1))
    net.add("Conv", [weights.T[:, :, None, None], bias])
    net.add("Sigmoid")
    known = peaks(test, 1, 1) > 0
    return Task(
        "heat_map",
        net.model(4),
        feeds(judge.images),
        feeds(test.images, 4),
        lambda o: f1(outs(o) >= 0.5, known),
        lambda r, o: f1(outs(r) >= 0.5, outs(o) >= 0.5),
    )


def detector(rng: np.random.Generator, *data: Array) -> Task:
    """Boxes in hundreds beside scores: [n, 14, 256]."""
    net, (train, judge, test) = grid(rng, *data, stride=2)
    features = net.features(train.images).transpose(0, 2, 3, 1)
    target = peaks(train, 2, 1).transpose(0, 2, 3, 1)
    offsets = np.zeros((*target.shape[:3], 2), np.float32)
    for i, here in enumerate(train.digits):
        for _, top, left in here:
            for y in range(max(0, top // 2), min(16, top // 2 + 4)):
                for x in range(max(0, left // 2), min(16, left // 2 + 4)):
                    offsets[i, y, x] = top - 2 * y, left - 2 * x
    some = target.any(axis=-1)
    weights, bias = logistic(features, target)
    move, shift = ridge(features[some], offsets[some])
    base = net.last
    net.add("Conv", [(10 * np.concatenate([move, move], axis=1).T)[:, :, None, None], 10 * np.concatenate([shift, shift + 8])])
    steps = 20 * np.stack(np.meshgrid(np.arange(16), np.arange(16), indexing="ij"))
    boxes = net.add("Add", [np.concatenate([steps, steps])[None].astype(np.float32)])
    net.add("Conv", [weights.T[:, :, None, None], bias], inputs=[base])
    net.add("Sigmoid")
    net.add("Concat", inputs=[boxes, net.last], axis=1)
    net.add("Reshape", [np.array([0, 14, 256])])
    known = [{(d, round(top / 4), round(left / 4)) for d, top, left in here} for here in test.digits]
    return Task(
        "detector",
        net.model(3),
        feeds(judge.images),
        feeds(test.images, 4),
        lambda o: set_f1(detected(outs(o)), known),
        lambda r, o: set_f1(detected(outs(r)), detected(outs(o))),
    )


def segments(rng: np.random.Generator, *data: Array) -> Task:
    """A class for each pixel: Softmax along the second axis of [n, 11, 32, 32], mostly background."""
    net, (train, judge, test) = grid(rng, *data, stride=1)

    def pixels(canvas: Canvas) -> Array:
        target = np.full((len(canvas.images), SIDE, SIDE), 10)
        for i, here in enumerate(canvas.digits):
            for digit, top, left in here:
                target[i, top + 1 : top + 7, left + 1 : left + 7] = digit
        return target

    weights, bias = logistic(net.features(train.images).transpose(0, 2, 3, 1), np.eye(11)[pixels(train)][..., :10])
    net.add("Conv", [np.pad(weights.T, ((0, 1), (0, 0)))[:, :, None, None], np.pad(bias, (0, 1))])
    net.add("Softmax", axis=1)
    known = pixels(test)

    def foreground(a: Array, b: Array) -> float:
        return float(((a == b) & (a != 10)).sum() / max(1, ((a != 10) | (b != 10)).sum()))

    return Task(
        "segments",
        net.model(4),
        feeds(judge.images),
        feeds(test.images, 4),
        lambda o: foreground(outs(o).argmax(1), known),
        lambda r, o: foreground(outs(r).argmax(1), outs(o).argmax(1)),
    )


def single(rng: np.random.Generator, images: Array, labels: Array, others: Array, truth: Array, most: int = 1) -> tuple[Net, list[Canvas]]:
    """A network with features of the whole canvas, and canvases to train, judge and test."""
    parts = [canvases(rng, a, b, n, SIDE, SIDE, most) for a, b, n in ((images, labels, 1500), (others, truth, 64), (others, truth, 400))]
    net = Net(SIDE, SIDE, patches(rng, images, 8, 8), pads=[0, 0, 0, 0])
    return net, parts


def embedding(rng: np.random.Generator, images: Array, labels: Array, others: Array, truth: Array) -> Task:
    """Vectors of length 1 for single digits: [n, 48]; the metric is the class of the nearest other vector."""
    net = Net(8, 8, patches(rng, images, 5, 5), pads=[0, 0, 0, 0])
    net.add("Flatten")
    features = net.features(images[:, None]).astype(np.float64)
    within = sum(np.cov(features[labels == k].T, bias=True) for k in range(10)) / 10 + 0.3 * np.eye(features.shape[1])
    values, vectors = np.linalg.eigh(np.linalg.solve(np.linalg.cholesky(within), np.linalg.solve(np.linalg.cholesky(within), np.cov(features.T)).T))
    project = np.linalg.solve(np.linalg.cholesky(within).T, vectors[:, -48:] * np.sqrt(values[-48:]))
    net.add("Gemm", [project.astype(np.float32), (-features.mean(axis=0) @ project).astype(np.float32)])
    vector = net.last
    net.add("ReduceL2", axes=[1], keepdims=1)
    net.add("Div", inputs=[vector, net.last])
    known = truth[120:]

    def nearest(gallery: Array, asked: Array) -> Array:
        alike = asked @ gallery.T
        np.fill_diagonal(alike, -2)
        return np.asarray(known[np.argmax(alike, axis=1)])

    return Task(
        "embedding",
        net.model(2),
        feeds(others[:120, None]),
        feeds(others[120:, None], 40),
        lambda o: float((nearest(outs(o), outs(o)) == known).mean()),
        lambda r, o: float((nearest(outs(r), outs(r)) == nearest(outs(r), outs(o))).mean()),
    )


def pooled(net: Net) -> None:
    """Features of where and what: the largest of each cell of 5 x 5."""
    net.add("MaxPool", kernel_shape=[5, 5], strides=[5, 5])
    net.add("Flatten")


def landmarks(rng: np.random.Generator, *data: Array) -> Task:
    """Five points of a digit in pixels of a large image: [n, 10]."""
    net, (train, judge, test) = single(rng, *data)
    pooled(net)
    shape = 10 * np.array([0, 0, 0, 8, 8, 0, 8, 8, 4, 4.0])

    def points(canvas: Canvas) -> Array:
        return np.array([20 * np.tile(here[0][1:], 5) + shape + 1000 for here in canvas.digits])

    weights, bias = ridge(net.features(train.images), points(train))
    net.add("Gemm", [weights, bias])
    known, near = points(test), 20.0
    return Task(
        "landmarks", net.model(2), feeds(judge.images), feeds(test.images, 8),
        lambda o: float((np.abs(outs(o) - known) < 2 * near).mean()), lambda r, o: float((np.abs(outs(r) - outs(o)) < near).mean()),
    )  # fmt: skip


def position(rng: np.random.Generator, *data: Array) -> Task:
    """Regression: where a digit is, [n, 2]."""
    net, (train, judge, test) = single(rng, *data)
    pooled(net)

    def values(canvas: Canvas) -> Array:
        return np.array([[here[0][1] / 24, here[0][2] / 24] for here in canvas.digits])

    weights, bias = ridge(net.features(train.images), values(train))
    net.add("Gemm", [weights, bias])
    known = values(test)
    return Task(
        "position",
        net.model(2),
        feeds(judge.images),
        feeds(test.images, 8),
        lambda o: explained(known, outs(o)),
        lambda r, o: explained(outs(r), outs(o)),
        0.99,
    )


def denoise(rng: np.random.Generator, *data: Array) -> Task:
    """An image without noise: [n, 1, 32, 32]."""
    net, (train, judge, test) = grid(rng, *data, stride=1)

    def noisy(canvas: Canvas) -> Array:
        return np.asarray((canvas.images + rng.normal(0, 0.25, canvas.images.shape)).astype(np.float32))

    weights, bias = ridge(net.features(noisy(train)).transpose(0, 2, 3, 1), train.images.transpose(0, 2, 3, 1))
    net.add("Conv", [weights.T[:, :, None, None], bias])
    known = test.images.reshape(-1, 1)
    return Task(
        "denoise", net.model(4), feeds(noisy(judge)), feeds(noisy(test), 4),
        lambda o: explained(known, outs(o).reshape(-1, 1)), lambda r, o: explained(outs(r).reshape(-1, 1), outs(o).reshape(-1, 1)), 0.99,
    )  # fmt: skip


def presence(rng: np.random.Generator, *data: Array) -> Task:
    """Which digits are there: sigmoids [n, 10]."""
    net, (train, judge, test) = single(rng, *data, most=3)
    net.add("GlobalMaxPool")
    net.add("Flatten")

    def there(canvas: Canvas) -> Array:
        return np.array([np.isin(np.arange(10), [d[0] for d in here]) for here in canvas.digits])

    weights, bias = logistic(net.features(train.images), there(train))
    net.add("Gemm", [weights, bias])
    net.add("Sigmoid")
    known = there(test)
    return Task(
        "presence",
        net.model(2),
        feeds(judge.images),
        feeds(test.images, 8),
        lambda o: f1(outs(o) >= 0.5, known),
        lambda r, o: f1(outs(r) >= 0.5, outs(o) >= 0.5),
    )
