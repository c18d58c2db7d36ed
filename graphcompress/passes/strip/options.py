"""What a caller of `strip` may choose."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Options(BaseModel):
    """metadata    also leave out what is said of the model as a whole: its metadata, doc strings and producer, the notes of inputs and outputs, and the name of the graph"""

    model_config = ConfigDict(extra="forbid", frozen=True)

    metadata: bool = False
