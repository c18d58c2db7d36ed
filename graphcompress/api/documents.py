"""The JSON documents of the commands that answer questions; those of the others are in `graphcompress.record`."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from graphcompress.record import FORMAT, DataSource, Document, FindingReport, ModelFile


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


DOCUMENTS: tuple[tuple[str, type[Document]], ...] = (("data", DataReport), ("lint", LintReport))
"""These documents, by the commands that print them."""
