"""What is said of rules, of their applications, and of how two models differ."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from graphcompress.record.base import FORMAT, Document, ModelFile, Varying


class RuleReport(Document):
    """What a rule cost in one step: nodes at which it was tried, places where its pattern matched, rewrites, matches that a clause (see `refusals`) or the engine refused."""

    id: str
    tried: int
    matched: int
    applied: int
    refused: int
    seconds: Annotated[float, Varying]


class ApplicationReport(Document):
    """One thing that a rule or stage did, by the names of nodes (of a node without a name: of its first output) as they were at that time."""

    by: str = Field(description="The id of the rule or stage.")
    removed: list[str]
    added: list[str]


class RuleSummary(Document):
    """A rule in a list. `target` is null for a rule that holds everywhere; `benefit` says what it is for where that is not speed."""

    id: str
    effect: str = Field(description="exact (the same bits), equivalent (equal in real arithmetic) or approximate (only where a recipe names it).")
    target: str | None
    benefit: str
    summary: str


class RuleListReport(Document):
    """What `rules list` prints."""

    format: int = FORMAT
    graphcompress: str
    rules: list[RuleSummary]


class RuleExample(Document):
    """A graph of a rule's file that it changes, or that the clause `refused` keeps as it is."""

    graph: str
    opset: int
    refused: str | None


class RuleShowReport(Document):
    """What `rules show` prints: a rule as its file has it. `where` are the clauses in the order in which they are judged."""

    format: int = FORMAT
    graphcompress: str
    id: str
    summary: str
    effect: str
    target: str | None
    benefit: str
    nonfinite: str = Field(
        description="Where it may change what is not finite: empty (nowhere), overflow (where a value between leaves the range of its type, before or after alone), any (where infinities and NaN that come in meet too)."
    )
    opsets: tuple[int, int]
    before: str
    after: str
    optional: list[str]
    where: list[str]
    let: dict[str, str]
    examples: list[RuleExample]


class FaultReport(Document):
    """A graph on which a rule is wrong: which judge says so, what came out, the graph as ONNX text and its inputs."""

    judge: str
    kind: str = Field(description="value, shape, overflow, load (it no longer runs) or lint (it is no valid graph).")
    problem: str
    graph: str
    feed: dict[str, list[Any] | float | int | bool]


class ProofReport(Document):
    """What came of one rule: graphs tried, those that it changed, comparisons by judge, what was changed by element type and by opset; the fault, made small, or null."""

    id: str
    tried: int
    changed: int
    judged: dict[str, int]
    types: dict[str, int]
    opsets: dict[str, int]
    fault: FaultReport | None


class VerifyReport(Document):
    """What `rules verify` prints."""

    format: int = FORMAT
    graphcompress: str
    cases: int = Field(description="How many graphs each rule was to change.")
    seed: int
    rules: list[ProofReport]


class MissReport(Document):
    """A place where a rule nearly holds: `matched` of the `size` nodes of its pattern are there. `clause` is what refuses it, null where the pattern does not match."""

    node: str
    op: str
    matched: int
    size: int
    clause: str | None
    reason: str


class WhyReport(Document):
    """What `rules why` prints: how often the rule was applied when the model was simplified, and where it nearly holds in the result, the nearest first."""

    format: int = FORMAT
    graphcompress: str
    model: ModelFile
    rule: str
    applied: int
    misses: list[MissReport]


class MoveReport(Document):
    """How far something that was done moved the outputs: the norm of the difference by that of the output before it, of the worst output over all feeds."""

    number: int = Field(description="Its place among all that was done, from 1.")
    by: str
    removed: list[str]
    added: list[str]
    moved: float | None = Field(description="Null where an output is no longer finite, or has another shape.")


class BisectReport(Document):
    """What `simplify --bisect` prints: what was done moved the outputs by `total` in all, and most of it by `moves`, the largest first."""

    format: int = FORMAT
    graphcompress: str
    model: ModelFile
    applications: int
    feeds: int
    compared: int = Field(description="How many models between the original and the result were run.")
    total: float | None
    moves: list[MoveReport]


class OperatorDifference(Document):
    """How often an operator occurs in both models, where that differs."""

    op: str
    before: int
    after: int


class NodeDifference(Document):
    """One node that is not the same in both models. `name` is that of the first model, or, of a node that was added, of the second; `changes` says what is different;
    `by` is the rule or stage that did it, where a record tells."""

    kind: str = Field(description="removed, added, changed, renamed.")
    op: str
    name: str
    other: str = Field(description="The name in the second model, of a node that is in both.")
    changes: list[str]
    by: str


class DiffReport(Document):
    """What `diff` prints. `same` nodes do the same in both models under the same names; tensors with other names in the two models are listed in `renamed`."""

    format: int = FORMAT
    graphcompress: str
    before: ModelFile
    after: ModelFile
    signature: list[str] = Field(description="How inputs, outputs, opsets differ.")
    operators: list[OperatorDifference]
    same: int
    nodes: list[NodeDifference]
    renamed: dict[str, str]
