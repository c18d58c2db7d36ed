"""diff."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from graphcompress.api.inputs import AnyModel, open_model
from graphcompress.errors import UsageError
from graphcompress.record import DiffReport, NodeDifference, OperatorDifference, Record
from graphcompress.version import __version__

if TYPE_CHECKING:
    from graphcompress.ir import Model, Node, Tensor
    from graphcompress.ir.analysis.matching import Matching

LONGEST_VALUE = 60


def diff(before: AnyModel, after: AnyModel, *, record: Record | str | os.PathLike[str] | None = None) -> DiffReport:
    """How two models differ: signature, operators, then node by node, matched by what they compute and by their names. With the `record` of how the second was made of the first, the
    rule or step that did it stands beside each node. Raises ModelError where a file cannot be used, UsageError where the record cannot be read."""
    from graphcompress.ir import nodes
    from graphcompress.ir.analysis.matching import match, operator

    one, two = open_model(before), open_model(after)
    causes = Causes(None if record is None else record if isinstance(record, Record) else _read(Path(record)))
    matching = match(one.model, two.model)
    counts = [Counter(operator(n) for n in nodes(m)) for m in (one.model, two.model)]
    differences = list(_nodes(matching, causes))
    renamed = {a.name: b.name for old, new in matching.pairs.items() for a, b in zip(old.outputs, new.outputs, strict=False) if a.name != b.name}
    return DiffReport(
        graphcompress=__version__,
        before=one.file,
        after=two.file,
        signature=list(_signature(one.model, two.model)),
        operators=[
            OperatorDifference(op=op, before=counts[0][op], after=counts[1][op]) for op in sorted(counts[0] | counts[1]) if counts[0][op] != counts[1][op]
        ],
        same=len(matching.pairs) - sum(d.kind in ("changed", "renamed") for d in differences),
        nodes=differences,
        renamed=renamed,
    )


def _read(path: Path) -> Record:
    try:
        return Record.model_validate_json(path.read_bytes())
    except OSError as problem:
        raise UsageError(f"{path}: the record cannot be read: {problem.strerror}.") from problem
    except ValidationError as problem:
        raise UsageError(f"{path} is no record of this version of graphcompress: {problem.errors(include_url=False)[0]['msg']}.") from problem


class Causes:
    """Which rule, stage or step took a node away or put it there, as far as a record tells."""

    def __init__(self, record: Record | None) -> None:
        self.removed: dict[str, str] = {}
        self.added: dict[str, str] = {}
        steps = [] if record is None else [s for s in record.steps if s.in_result]
        for step in steps:
            for application in step.applications:
                for name in application.removed:
                    self.removed.setdefault(name, application.by)
                self.added.update(dict.fromkeys(application.added, application.by))
        untold = [s.use for s in steps if not s.applications]
        self.step = untold[0] if len(untold) == 1 else ""

    def of(self, old: str, new: str) -> str:
        """Of a node by its names in both models, "" where it is in one only."""
        return self.added.get(new) or self.removed.get(old) or self.step


def _nodes(matching: Matching, causes: Causes) -> Iterator[NodeDifference]:
    from graphcompress.ir import label, nodes, producer
    from graphcompress.ir.analysis.matching import operator

    for node in nodes(matching.first.model):
        name, twin = label(node), matching.pairs.get(node)
        if twin is None:
            yield NodeDifference(kind="removed", op=operator(node), name=name, other="", changes=[], by=causes.of(name, ""))
            continue
        changes, other = list(_changes(matching, node, twin)), label(twin)
        if changes:
            by = causes.of(name, other) or next(
                filter(None, (causes.of(label(m), "") for t in node.inputs if (m := producer(t)) and m not in matching.pairs)), ""
            )
            yield NodeDifference(kind="changed", op=operator(node), name=name, other=other, changes=changes, by=by)
        elif name != other:
            yield NodeDifference(kind="renamed", op=operator(node), name=name, other=other, changes=[], by=causes.of(name, other))
    for node in nodes(matching.second.model):
        if node not in matching.other:
            yield NodeDifference(kind="added", op=operator(node), name=label(node), other="", changes=[], by=causes.of("", label(node)))


def _changes(matching: Matching, old: Node, new: Node) -> Iterator[str]:
    """What is different between two matched nodes."""
    from graphcompress.ir.analysis.matching import attribute_key

    constant = old.is_op("Constant")
    for name in sorted(old.attrs.keys() | new.attrs.keys()):
        values = [attribute_key(n.attrs[name]) if name in n.attrs else "absent" for n in (old, new)]
        if values[0] != values[1]:
            yield "another value" if constant else f"{name}: {_short(values[0])} -> {_short(values[1])}"
    for place in range(max(len(old.inputs), len(new.inputs))):
        a, b = (n.inputs[place] if place < len(n.inputs) and n.inputs[place].name else None for n in (old, new))
        if a is None or b is None:
            if a is not b:
                yield f"input {place}: {'added' if a is None else 'gone'}"
        elif not matching.same(a, b):
            yield _input_change(place, a, b)


def _input_change(place: int, a: Tensor, b: Tensor) -> str:
    from graphcompress.ir.analysis.matching import is_constant

    if is_constant(a) and is_constant(b):
        return f"input {place}: other values in '{b.name}'"
    return f"input {place}: '{a.name}' -> '{b.name}'"


def _short(text: str) -> str:
    return text if len(text) <= LONGEST_VALUE else f"{text[: LONGEST_VALUE - 3]}..."


def _signature(one: Model, two: Model) -> Iterator[str]:
    for what, ours, theirs in (("input", one.inputs, two.inputs), ("output", one.outputs, two.outputs)):
        first, second = ({s.name: s for s in specs} for specs in (ours, theirs))
        for name in first.keys() | second.keys():
            a, b = first.get(name), second.get(name)
            if a is None or b is None:
                yield f"{what} '{name}': only in {'B' if a is None else 'A'}"
            elif a != b:
                yield f"{what} '{name}': {a.dtype or a.kind} {list(a.shape or ())} -> {b.dtype or b.kind} {list(b.shape or ())}"
    for domain in sorted(one.opsets.keys() | two.opsets.keys()):
        if one.opsets.get(domain) != two.opsets.get(domain):
            yield f"opset {domain or 'ai.onnx'}: {one.opsets.get(domain)} -> {two.opsets.get(domain)}"
