"""inspect."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from graphcompress.api.inputs import AnyModel, open_model
from graphcompress.record import ChannelGroup, InspectReport, NodeInfo, RefusalReport, TensorInfo
from graphcompress.version import __version__

if TYPE_CHECKING:
    from graphcompress.ir import Model, TensorSpec


def inspect(model: AnyModel, *, groups: bool = False) -> InspectReport:
    """What a model consists of: signature, opsets, parameters, bytes, MACs, operators, per node; with `groups` also the groups of channels that `prune` could cut
    once the model is simplified. Raises ModelError where the file cannot be used."""
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
        **(_groups(loaded) if groups else {}),
    )


def _groups(model: Model) -> dict[str, Any]:
    """What can be cut, most expensive first, and why the rest stays."""
    from graphcompress.passes.prune.groups import find_groups
    from graphcompress.recipe import recipe_of, run
    from graphcompress.step import Context

    (simplified,) = run(recipe_of("inspect", (("simplify", {}),)), model, Context())
    cuttable = find_groups(model if simplified.result is None else simplified.result.model)
    widths = cuttable.widths
    groups = [
        ChannelGroup(
            name=group.name,
            channels=group.size,
            weights=len(group.weights),
            macs_per_channel=cuttable.macs.saving(widths, index, group.size - 1),
            parameters_per_channel=cuttable.parameters.saving(widths, index, group.size - 1),
        )
        for index, group in enumerate(cuttable.groups)
    ]
    fixed = [RefusalReport(id=f"prune/{reason.id}", reason=reason.text, node=reason.node, count=count) for reason, count in cuttable.fixed()]
    return {"groups": sorted(groups, key=lambda g: -g.macs_per_channel * g.channels), "fixed": fixed}


def _infos(specs: Sequence[TensorSpec]) -> list[TensorInfo]:
    shapes = [None if s.shape is None else [d if d is None or isinstance(d, int) else str(d) for d in s.shape] for s in specs]
    return [TensorInfo(name=s.name, dtype=s.dtype, shape=shape, kind=s.kind) for s, shape in zip(specs, shapes, strict=True)]
