"""The JSON documents about places elsewhere; `record.py` has the others."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from graphcompress.record import FORMAT, Document


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


DOCUMENTS: tuple[tuple[str, type[Document]], ...] = (("places check", PlacesReport),)
"""What each command prints as JSON."""
