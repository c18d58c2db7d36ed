"""The documents about places elsewhere."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from graphcompress.record.base import FORMAT, Document, ModelFile
from graphcompress.record.documents import Bar, DataSource, Timing


class PlaceReport(Document):
    """What a place has, or the `problem` for which it cannot be used; what is not known is null."""

    name: str
    problem: str = ""
    runtime: str | None = None
    version: str | None = None
    provider: str | None = Field(default=None, description="The one that models run on there.")
    providers: list[str] = Field(default_factory=list, description="Those that can be asked for there.")
    python: str | None = None
    machine: str | None = None
    system: str | None = None
    cpu: str | None = None
    flags: list[str] = Field(default_factory=list, description="Instruction sets that decide which kernels are taken.")
    cores: int | None = None
    memory: int | None = Field(default=None, description="Of the machine, in bytes.")
    clock_noise: Annotated[
        float | None,
        Field(
            description="What the 90th percentile of equal pieces of work of a millisecond takes longer than their median, as a share; null where times mean nothing.",
            json_schema_extra={"varies": True},
        ),
    ] = None


class PlacesReport(Document):
    """What `places check` prints."""

    format: int = FORMAT
    graphcompress: str
    places: list[PlaceReport]


class LayerReport(Document):
    """A layer that gives something else at one place than at another when both are fed the same: named by its heaviest operator."""

    node: str
    op: str
    tensor: str = Field(description="What the layer gives.")
    noise: float | None = Field(description="The error's root mean square beside the standard deviation of the tensor; null where it is not finite.")


class MatrixCell(Document):
    """One model at one place, or the `problem` for which it does not run there."""

    model: str
    place: str = Field(description='"here" is this process, on the CPU provider.')
    problem: str = ""
    provider: str | None = None
    runtime: str | None = None
    agreement: float | None = Field(default=None, description="With the first model, run here.")
    worst: str | None = Field(default=None, description="The output that it is of.")
    faithful: bool | None = Field(default=None, description="Whether it reaches the floor; null where nothing can judge it.")
    timing: Timing | None = Field(
        default=None, description="Beside the first model at the same place; null where nothing was measured.", json_schema_extra={"varies": True}
    )
    nodes: dict[str, int] | None = Field(default=None, description="How many nodes each provider took, where the runtime tells.")
    share: float | None = Field(default=None, description="The part of the nodes that the provider asked for took, 0 to 1.")
    right_at: str | None = Field(default=None, description="Where the model is wrong here and right elsewhere: the place where it agrees best.")
    layers: list[LayerReport] = Field(default_factory=list, description="The layers that differ from that place, in an order in which the model runs.")
    notes: list[str] = Field(default_factory=list)


class MatrixReport(Document):
    """What `matrix` prints. Cells are ordered by place, then by model; the first model is the reference."""

    format: int = FORMAT
    graphcompress: str
    models: list[ModelFile]
    bytes: list[int] = Field(description="Of each model on disk.")
    data: DataSource
    places: list[str]
    threads: int
    floor: float = Field(description="The agreement from which on a cell is faithful.")
    cells: list[MatrixCell]
    bars: list[Bar]
    notes: list[str]
