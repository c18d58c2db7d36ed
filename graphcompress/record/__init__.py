"""What happened, as data: the record of a run, and the JSON documents that the commands print.

These models are the definition of the formats; `docs/formats.md` is generated from them. Fields marked as varying hold times and what was decided from
times: everything else is equal for equal inputs. Numbers that are undefined (the SQNR of equal tensors, MACs where shapes are unknown) are null.
"""

from graphcompress.record.base import FORMAT, VARIES, Document, Varying, without_varying
from graphcompress.record.documents import (
    Bar,
    BenchmarkReport,
    BenchmarkRow,
    CandidateReport,
    CertificateReport,
    ChannelGroup,
    DataSource,
    Distance,
    FindingReport,
    Gate,
    InspectReport,
    MeasureReport,
    ModelFile,
    NodeInfo,
    OperatorReport,
    OutputDistance,
    RecipeSource,
    Record,
    RefusalReport,
    Size,
    StepRun,
    TensorInfo,
    Timing,
    ValidateReport,
)
from graphcompress.record.rules import ApplicationReport, RuleReport

DOCUMENTS: tuple[tuple[str, type[Document]], ...] = (
    ("compress, simplify, prune, quantize (and --record FILE)", Record),
    ("validate", ValidateReport),
    ("benchmark", BenchmarkReport),
    ("inspect", InspectReport),
)
"""The documents that others script against, by the commands that print them."""

__all__ = [
    "DOCUMENTS",
    "FORMAT",
    "VARIES",
    "ApplicationReport",
    "Bar",
    "BenchmarkReport",
    "BenchmarkRow",
    "CandidateReport",
    "CertificateReport",
    "ChannelGroup",
    "DataSource",
    "Distance",
    "Document",
    "FindingReport",
    "Gate",
    "InspectReport",
    "MeasureReport",
    "ModelFile",
    "NodeInfo",
    "OperatorReport",
    "OutputDistance",
    "RecipeSource",
    "Record",
    "RefusalReport",
    "RuleReport",
    "Size",
    "StepRun",
    "TensorInfo",
    "Timing",
    "ValidateReport",
    "Varying",
    "without_varying",
]
