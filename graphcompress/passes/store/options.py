"""What a caller of `store` may choose."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict


class Options(BaseModel):
    """`weights`: the smallest form that a weight may have, "int8" (codes with a scale per channel) or "float16"."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    weights: Literal["int8", "float16"] = "int8"
