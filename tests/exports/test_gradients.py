"""Gradients of exports of PyTorch beside those of PyTorch itself."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from environments import FRAMEWORKS

from graphcompress.gradient import gradient
from graphcompress.ir import load
from graphcompress.runtime.session import open_session

pytestmark = pytest.mark.slow

Array = np.ndarray[Any, Any]

NEAR = 1e-4  # of the gradient's norm
# What is calculated in 16 bits, and what runs step by step in a Loop that the data ends.
APART = {"half_dynamo", "loop_script"}


@pytest.mark.parametrize(("framework", "name"), [("torch", name) for name in FRAMEWORKS["torch"].exports if name not in APART])
def test_gradients_are_those_of_torch(export: Path) -> None:
    """Of every parameter whose name and shape the file has, and of the inputs; what has no gradient says why."""
    with np.load(export.with_suffix(".gradients.npz")) as file:
        arrays = dict(file)
    model = load(export)
    feed = {i.name: arrays[f"input.{i.name}"] for i in model.inputs}
    shapes = {name: array.shape for name, array in feed.items()}
    result = gradient(model, [model.outputs[0].name], shapes=shapes)
    assert all(r.id.startswith("gradient/") and r.reason for r in result.frozen.values())
    floats = {name for name, constant in model.graph.initializers.items() if constant.values.dtype.kind == "f"}
    assert floats <= set(result.gradients) | set(result.frozen)
    ours, theirs = alike({n: c.values for n, c in model.graph.initializers.items()}, arrays)
    inputs = [key.removeprefix("of.") for key in arrays if key.startswith("of.")]
    names = [name for group in ours for name in group] + inputs
    assert names
    result = gradient(model, [model.outputs[0].name], names, shapes=shapes)
    assert not result.frozen
    with open_session(result.model, threads=1) as session:
        everything = {**feed, **dict.fromkeys(result.cotangents.values(), arrays["cotangent"])}
        values = session.run({i.name: everything[i.name] for i in session.inputs})
    pairs = [(sum(values[result.gradients[n]] for n in group), sum(arrays[n] for n in same)) for group, same in zip(ours, theirs, strict=True)]
    pairs += [(values[result.gradients[name]], arrays[f"of.{name}"]) for name in inputs]
    largest = max(float(np.linalg.norm(expected)) for _, expected in pairs)
    for computed, expected in pairs:
        # A gradient that is 0 in truth (a bias before a normalization, keys' biases under a Softmax) is rounding in both.
        assert np.linalg.norm(computed - expected) <= NEAR * max(float(np.linalg.norm(expected)), 1e-3 * largest)


def alike(initializers: Mapping[str, Array], arrays: Mapping[str, Array]) -> tuple[list[list[str]], list[list[str]]]:
    """Initializers and torch's parameters of equal value and shape, by group: the exporter may write equal ones once."""
    groups: dict[tuple[int, tuple[int, ...]], tuple[list[str], list[str]]] = {}
    for key in arrays:
        if key.startswith("digest."):
            name = key.removeprefix("digest.")
            groups.setdefault((int(arrays[key]), arrays[name].shape), ([], []))[1].append(name)
    for name, values in initializers.items():
        key = zlib.crc32(np.ascontiguousarray(values).tobytes()), values.shape
        if key in groups:
            groups[key][0].append(name)
    known = [group for group in groups.values() if group[0]]
    return [ours for ours, _ in known], [theirs for _, theirs in known]
