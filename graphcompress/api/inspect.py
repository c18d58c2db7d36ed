"""inspect."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from graphcompress.api.inputs import AnyModel, open_model
from graphcompress.record import InspectReport, NodeInfo, TensorInfo
from graphcompress.version import __version__

if TYPE_CHECKING:
    from graphcompress.ir import TensorSpec


def inspect(model: AnyModel) -> InspectReport:
    """What a model consists of: signature, opsets, parameters, bytes, MACs, operators, per node. Raises ModelError where the file cannot be used."""
    from graphcompress.ir.analysis.statistics import statistics

    source = open_model(model)
    loaded = source.model
    figures = statistics(loaded)
    return InspectReport(
        graphcompress=__version__,
        model=source.file,
        ir_version=loaded.ir_version,
        opsets={domain or "ai.onnx": version for domain, version in loaded.opsets.items()},
        producer=" ".join(part for part in (loaded.header.producer_name, loaded.header.producer_version) if part),
        inputs=_infos(loaded.inputs),
        overridable=_infos(loaded.overridable),
        outputs=_infos(loaded.outputs),
        bytes=figures.bytes,
        initializer_bytes=figures.initializer_bytes,
        parameters=figures.parameters,
        nodes=figures.nodes,
        macs=figures.macs,
        operators=dict(figures.operators),
        per_node=[NodeInfo(name=n.name, op=n.op, parameters=n.parameters, macs=n.macs) for n in figures.per_node],
    )


def _infos(specs: Sequence[TensorSpec]) -> list[TensorInfo]:
    shapes = [None if s.shape is None else [d if d is None or isinstance(d, int) else str(d) for d in s.shape] for s in specs]
    return [TensorInfo(name=s.name, dtype=s.dtype, shape=shape, kind=s.kind) for s, shape in zip(specs, shapes, strict=True)]
