"""A plan carried out: the cut model, the layers to refit, and in the end two layers where one of a low rank is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from graphcompress.errors import DataError, ModelError
from graphcompress.ir import Model, Node, output_ids
from graphcompress.passes.prune.actions import PrunePlan
from graphcompress.passes.prune.axes.algebra import Algebra
from graphcompress.passes.prune.axes.labels import Array
from graphcompress.passes.prune.cut import Cut, cut
from graphcompress.passes.prune.lowrank import RankedLayer, chosen_outputs, factor, project
from graphcompress.passes.prune.oracle import largest_difference, tolerance
from graphcompress.reconstruction.agenda import RepairLayer
from graphcompress.reconstruction.rows import Layer, layer_of
from graphcompress.runtime.session import Feed
from graphcompress.step import Refusal

HEAVY = ("Conv", "ConvTranspose", "Gemm", "MatMul", "LSTM", "GRU", "RNN", "Einsum")


@dataclass(frozen=True, slots=True, eq=False)
class PruneAttempt:
    """`cut` is the model without the units that `plan` takes, in which layers that are to be two still are one."""

    cut: Cut
    plan: PrunePlan

    @property
    def model(self) -> Model:
        return self.cut.model

    def repair_layers(self) -> list[RepairLayer]:
        """Every weighted node with the output channels that it has left, and the rank that its weight is to have."""
        ranks = {layer.node: rank for layer, (rank, _) in self.plan.ranks.items()}
        layers = [RepairLayer(node, self.cut.twins.node(node), channels, ranks.get(node)) for node, channels in self._channels().items()]
        known = {layer.teacher for layer in layers}
        return layers + [RepairLayer(node, self.cut.twins.node(node), None, rank) for node, rank in ranks.items() if node not in known]

    def finish(self, feeds: Sequence[Feed]) -> tuple[Model, list[Layer], list[Refusal]]:
        """The model with two layers where one is to be of a rank, the layers of the original that are two, and refusals of those that then answer otherwise by more than rounding."""
        ranked = self._ranked()
        project(self.model, list(ranked.values()))
        model = _factored(self.model, list(ranked.values()))
        if self._same(model, feeds):
            return model, list(ranked), []
        sound = {layer: entry for layer, entry in ranked.items() if self._same(_factored(self.model, [entry]), feeds)}
        model = _factored(self.model, list(sound.values()))
        if not self._same(model, feeds):
            model, sound = self.model, {}
        text = "as two layers of its rank it does not compute what it does as one"
        return model, list(sound), [Refusal("prune/oracle", text, layer.node.name) for layer in ranked if layer not in sound]

    def _ranked(self) -> dict[Layer, RankedLayer]:
        outputs = output_ids(self.model)
        channels = self._channels()
        result = {}
        for layer, (rank, moments) in self.plan.ranks.items():
            twin = layer_of(self.cut.twins.node(layer.node), outputs)
            if twin is not None and rank < min(twin.form.shape[1:]):
                result[layer] = RankedLayer(twin, rank, chosen_outputs(moments, channels.get(layer.node)))
        return result

    def _channels(self) -> dict[Node, Array | None]:
        """The output channels that each weighted node has left, None: all."""
        result: dict[Node, Array | None] = {}
        outputs = output_ids(self.cut.algebra.model)
        for application in self.cut.algebra.applications:
            node = application.form.node
            if node.op in HEAVY and node.standard:
                rank = sum(slot.tensor is node.outputs[0] for slot in application.form.outputs)
                layer = layer_of(node, outputs)
                axis = -1 if layer is None else layer.form.channel_axis
                result[node] = self.cut.indices(node.outputs[0], axis % max(1, rank))
        return result

    def _same(self, model: Model, feeds: Sequence[Feed]) -> bool:
        """Whether `model` answers as the one in which layers are one."""
        if model is self.model:
            return True
        try:
            return largest_difference(self.model, model, feeds) <= tolerance(model)
        except (ModelError, DataError):
            return False


def attempt_of(algebra: Algebra, plan: PrunePlan) -> PruneAttempt:
    """Carry `plan` out on a copy of the model of `algebra`."""
    return PruneAttempt(cut(algebra, plan.keep), plan)


def _factored(model: Model, ranked: Sequence[RankedLayer]) -> Model:
    """A copy of `model` with two layers for each of `ranked`; itself where there are none."""
    if not ranked:
        return model
    copy, twins = model.clone()
    outputs = output_ids(copy)
    for entry in ranked:
        layer = layer_of(twins.node(entry.layer.node), outputs)
        assert layer is not None
        factor(copy, layer, entry.rank)
    return copy
