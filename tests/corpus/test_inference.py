"""Shapes, kinds, statistics and opset lifts over the corpus: what is claimed is what onnxruntime makes."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import onnx
import pytest

from graphcompress.errors import ModelError
from graphcompress.ir.analysis.output_kinds import output_kinds
from graphcompress.ir.analysis.statistics import statistics
from graphcompress.ir.files.read import load, model_from_proto
from graphcompress.ir.files.write import to_bytes
from graphcompress.ir.lift import lift
from graphcompress.ir.model.dimensions import evaluated
from graphcompress.ir.model.model import Model
from graphcompress.ir.model.objects import TensorSpec
from graphcompress.ir.shapes.infer import infer

NEWEST = 21
REFUSED = {"bn__spatial_0", "function__other_opset", "header__training_info"}


def run(model: bytes, feed: dict[str, Any], names: list[str] | None = None) -> dict[str, Any] | None:
    """Outputs by name with optimizations off; None where this runtime cannot run the model."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        known = {i.name for i in (*session.get_inputs(), *session.get_overridable_initializers())}
        names = names or [o.name for o in session.get_outputs()]
        return dict(zip(names, session.run(names, {k: v for k, v in feed.items() if k in known}), strict=True))
    except Exception:  # noqa: BLE001  (the runtime has one class per error)
        return None


def contradicts(spec: TensorSpec, value: Any, sizes: dict[str, set[int]]) -> bool:
    """Whether a real tensor is not what was said of it. `sizes`: what each symbol of the signature stood for in this feed."""
    if spec.shape is None or not hasattr(value, "shape"):
        return False
    if len(spec.shape) != value.ndim:
        return True
    symbols = {name: next(iter(values)) for name, values in sizes.items() if len(values) == 1}
    return any(evaluated(said, symbols) not in (None, real) for said, real in zip(spec.shape, value.shape, strict=True))


def sizes_of(model: Model, feed: dict[str, Any]) -> dict[str, set[int]]:
    sizes: dict[str, set[int]] = {}
    for spec in model.inputs:
        value = feed.get(spec.name)
        if spec.shape is not None and hasattr(value, "shape"):
            for said, real in zip(spec.shape, value.shape, strict=False):
                if isinstance(said, str):
                    sizes.setdefault(said, set()).add(real)
    return sizes


def feeds_of(probe: Any, probes: ModuleType) -> list[dict[str, Any]]:
    return [probe.feeds(np.random.default_rng([probes.SEED, k]), k) for k in (0, 1)]


def test_every_inferred_shape_of_a_probe_is_real(probe: Any, probes: ModuleType) -> None:
    proto = probe.build()
    model = model_from_proto(onnx.ModelProto.FromString(proto.SerializeToString()))
    shapes = infer(model)
    output_kinds(model)
    statistics(model)
    tensors = {t.name: t for n in model.graph.nodes for t in n.outputs if t.name and shapes.dtype(t) is not None}
    stated = {o.name for o in proto.graph.output}
    proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in tensors if name not in stated)
    for feed in feeds_of(probe, probes):
        found = run(proto.SerializeToString(), feed)
        sizes = sizes_of(model, feed)
        for name, value in (found or {}).items():
            spec = shapes.spec(tensors[name]) if name in tensors else None
            assert spec is None or not contradicts(spec, value, sizes), (name, spec, value.shape)


def test_a_lifted_probe_computes_the_same(probe: Any, probes: ModuleType) -> None:
    model = model_from_proto(probe.build())
    if not 7 <= model.opset < NEWEST:
        return
    if probe.name in REFUSED:
        with pytest.raises(ModelError, match=r"BatchNormalization|function|training"):
            lift(model, NEWEST)
        return
    lifted = lift(model, NEWEST)
    if probe.compare != "values" or any(m.startswith(("keeps_random", "stochastic")) for m in probe.must):
        return
    for feed in feeds_of(probe, probes):
        before = run(to_bytes(model), feed)
        if before is not None:
            after = run(to_bytes(lifted), feed)
            assert after is not None
            for name, value in before.items():
                if isinstance(value, np.ndarray) and value.dtype.kind == "f":
                    # AveragePool has another kernel from 19 on.
                    np.testing.assert_allclose(value, after[name], rtol=1e-5, atol=1e-6)
                elif isinstance(value, np.ndarray):
                    np.testing.assert_array_equal(value, after[name])


def test_models_of_the_zoo_lifted_to_13(task: Any, zoo: ModuleType) -> None:
    """Those that come from exporters of opset 12 and less: INT8 per channel needs 13."""
    model = load(task.model)
    if model.opset >= 13:
        return
    feed = next(iter(zoo.feeds(task, "calib")))
    before, after = run(to_bytes(model), feed), run(to_bytes(lift(model, 13)), feed)
    assert before is not None
    assert after is not None
    for name, value in before.items():
        np.testing.assert_array_equal(value, after[name])
