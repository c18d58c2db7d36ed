"""What a caller of `layout` may choose."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class Options(BaseModel):
    """`growth`: by what part of the model's parameters kernels that compute several rows at once may grow the file; beyond that they grow when a session loads it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    growth: float = Field(default=0.0625, ge=0)
