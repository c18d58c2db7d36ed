"""The JSON documents of the commands that answer questions; those of the others are in `graphcompress.record`."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from graphcompress.record import FORMAT, DataSource, Document, FindingReport, ModelFile

Precision = Literal["int8", "float", "moves data"]


class FedInput(Document):
    """What one input of the model is fed over all feeds. Numbers are of the finite elements, null where there are none (texts)."""

    name: str
    expected: str = Field(description="Type and shape as the model says them.")
    dtype: str
    shapes: list[list[int]] = Field(description="The different shapes, in the order in which they occur.")
    minimum: float | None
    maximum: float | None
    mean: float | None
    deviation: float | None
    zeros: float | None = Field(description="The part of the elements that is zero.")
    rows: list[list[Any]] = Field(description="The first elements of the first feeds.")


class DataReport(Document):
    """What `data` prints: what the model would be fed."""

    format: int = FORMAT
    graphcompress: str
    model: ModelFile
    data: DataSource
    inputs: list[FedInput]
    findings: list[FindingReport] = Field(description="What was converted, and what looks wrong.")


class LintFinding(Document):
    """One place where a rule of docs/lint.md holds. `place` is a node or tensor, `fixable` whether --fix mends it."""

    id: str
    severity: Literal["error", "warning", "info"]
    place: str
    text: str
    cure: str
    fixable: bool


class LintReport(Document):
    """What `lint` prints, the gravest first."""

    format: int = FORMAT
    graphcompress: str
    model: ModelFile
    findings: list[LintFinding]


class NodeTime(Document):
    """One node, with everything that the runtime made of it. Times vary."""

    node: str
    op: str
    kernels: list[str] = Field(description="What the runtime executes for it.")
    share: float = Field(description="The part of the time of all nodes, 0 to 1.")
    microseconds: float
    precision: Precision
    reason: str = Field(description="Why a heavy operator computes in float; empty for others.")
    advice: str


class ExplainReport(Document):
    """What `explain` prints, the most expensive node first."""

    format: int = FORMAT
    graphcompress: str
    model: ModelFile
    provider: str
    microseconds: float = Field(description="Of one run, the sum over all nodes, one thread.")
    precisions: dict[Precision, float] = Field(
        description="The part of the time that is spent in each precision; and between operators, in conversions and layouts."
    )
    nodes: list[NodeTime]
    advice: list[str]
    notes: list[str]


class TextKind(Document):
    """The texts of one kind in a file: how many, their bytes, and the longest."""

    kind: str
    count: int
    bytes: int
    example: str


class LeakReport(Document):
    """A text that looks private: a path, user name, mail address, address or data set, in texts of a kind, so many times."""

    what: str
    part: str
    kind: str
    count: int


class PrivacyReport(Document):
    """What `inspect --privacy` prints: what the file tells beside what it computes."""

    format: int = FORMAT
    graphcompress: str
    model: ModelFile
    kinds: list[TextKind]
    leaks: list[LeakReport]
    training_information: int = Field(description="Entries of training information: gradients, optimizer state.")
    samples: list[str] = Field(description="Constants of bytes that no weight is: perhaps samples that were stored.")


DOCUMENTS: tuple[tuple[str, type[Document]], ...] = (
    ("data", DataReport),
    ("lint", LintReport),
    ("explain", ExplainReport),
    ("inspect --privacy", PrivacyReport),
)
"""These documents, by the commands that print them."""
