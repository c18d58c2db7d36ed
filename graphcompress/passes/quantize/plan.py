"""Deciding, writing and reading back, until the provider does what was written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from graphcompress.ir import Model, Node, Shape, nodes
from graphcompress.ir.shapes.infer import Shapes
from graphcompress.passes.quantize import cost
from graphcompress.passes.quantize.certify import certificate, check_constants, neighbours, read_back
from graphcompress.passes.quantize.groups import Found, Group, node_name
from graphcompress.passes.quantize.insert import Inserted, insert
from graphcompress.passes.quantize.place import Ranges, scales_of
from graphcompress.step import Progress, Refusal, StepResult
from graphcompress.targets import Target

ROUNDS = 12  # each sends at least one group to float, usually all that need it


@dataclass(slots=True)
class Written:
    """One attempt: the model, its groups, and what was inserted."""

    model: Model
    groups: list[Group]
    inserted: Inserted


def transfer(group: Group, by_output: dict[str, Node]) -> Group:
    """The same group in a copy of its model."""
    chain = tuple(by_output[n.outputs[0].name] for n in group.chain)
    last = chain[-1]
    outputs = tuple(last.outputs) if group.row.every_output else (last.outputs[0],)
    return replace(group, chain=chain, outputs=outputs)


class Plan:
    """What goes to integers in `base`. `reasons` says, by first output of the operator, why a group does not."""

    def __init__(self, base: Model, found: Found, shapes: Shapes, ranges: Ranges, target: Target, progress: Progress) -> None:
        self.base = base
        self.ranges = ranges
        self.target = target
        self.progress = progress
        self.found = found
        self.groups: list[Group] = found.groups
        self.reasons: dict[str, Refusal] = {n.outputs[0].name: found.refusals[id(n)] for n in nodes(base) if id(n) in found.refusals and n.outputs}
        tensors = {t.name: t for g in self.groups for t in (*g.inputs, *g.outputs)}
        # Where inference knows nothing, the rank at least was seen.
        self.shapes: dict[str, Shape] = {name: shapes.shape(t) or (None,) * len(ranges.seen[name].shape) for name, t in tensors.items()}
        self._leave_unfit()

    def settle(self, *, by_cost: bool = True) -> Written | None:
        """The attempt in which every group fuses and nothing else does; None where no group is left. `by_cost` false: all that fuse, whatever it costs."""
        stay: set[str] = set()
        forced: set[str] = set()
        for attempt in range(ROUNDS):
            self.progress("placing", attempt, None)
            rest = [g for g in self.groups if g.key not in stay]
            chosen = cost.decide(self.base, rest, self.ranges.seen, self.target, forced - stay) if by_cost else {g.key for g in rest}
            if not chosen:
                return self._done(None, rest, chosen)
            written = self.write([g for g in rest if g.key in chosen])
            reading = read_back(written.model, written.groups, self.target)
            wrong = set(reading.missed)
            for group in self.groups:
                if group.key in wrong:
                    self._refuse(
                        group, "missed-fusion", "written in INT8 the provider would still compute it in float, with its weights dequantized at each run"
                    )
            for first in sorted(reading.silent):
                own = next((g.key for g in rest if g.node.outputs[0].name == first), None)
                # What the provider quantizes by itself, per tensor, is better quantized by us; where that is not possible, its neighbour goes to float.
                if own is not None and own not in forced:
                    forced.add(own)
                else:
                    wrong |= neighbours(written.model, written.groups, first)
            if not wrong and not reading.silent:
                return self._done(written, rest, chosen)
            stay |= wrong
        return self._done(None, [], set())

    def write(self, groups: Sequence[Group]) -> Written:
        """A copy of the base with these groups in integers."""
        model = self.base.copy()
        by_output = {n.outputs[0].name: n for n in model.graph.nodes if n.outputs}
        own = [transfer(g, by_output) for g in groups]
        inserted = insert(model, own, scales_of(groups, self.ranges, self.target), self.target, self.shapes)
        check_constants(model, own)
        return Written(model, own, inserted)

    def result(self, written: Written | None, original: Model, applied: dict[str, int], calibration: str) -> StepResult:
        """The step's result with its certificate; `original` where nothing is in integers."""
        model = written.model if written else original
        integer = {g.node.outputs[0].name for g in written.groups} if written else set()
        refusals = tuple(r for n, r in self.reasons.items() if n not in integer)
        paper = certificate(model, integer, self.reasons, self.target)
        if written is None:
            return StepResult(original, False, refusals=refusals, certificate=paper)
        counts = dict(applied)
        for group in written.groups:
            name = f"quantize/{group.row.op.lower()}"
            counts[name] = counts.get(name, 0) + 1
        if written.inserted.protected:
            counts["quantize/protect-float"] = written.inserted.protected
        decisions = {
            "calibration": calibration,
            "int8": [g.name for g in written.groups],
            "activations": {name: {"scale": s.scale, "zero_point": s.zero} for name, s in sorted(written.inserted.scales.items())},
        }
        return StepResult(model, True, counts, refusals, decisions, paper)

    def _done(self, written: Written | None, rest: Sequence[Group], chosen: set[str]) -> Written | None:
        for group in rest:
            if group.key not in chosen:
                self._refuse(group, "cost", self._price(group))
        return written

    def _price(self, group: Group) -> str:
        price = cost.cost(group, self.ranges.seen, self.target.boundary)
        return f"INT8 does not pay here: about {price.integer / 1000:.1f} us against {price.floating / 1000:.1f} us in float by the target's table, and Q and DQ at its borders"

    def _refuse(self, group: Group, identifier: str, reason: str) -> None:
        self.reasons.setdefault(group.node.outputs[0].name, Refusal(f"quantize/{identifier}", reason, node_name(group.node)))

    def _leave_unfit(self) -> None:
        """Types that inference does not know, and infinite values, are known once the tensors were seen."""
        keep = []
        for group in self.groups:
            seen = [self.ranges.seen[t.name] for t in (*group.inputs, *group.outputs)]
            if any(s.dtype != "float32" for s in seen):
                self._refuse(group, "not-float32", "it does not compute in float32")
            elif not all(s.finite for s in seen):
                self._refuse(group, "not-finite", "it reads or makes infinite values, which no 8-bit range holds")
            else:
                keep.append(group)
        self.groups = keep
