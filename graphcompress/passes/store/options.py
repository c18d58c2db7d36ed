"""What a caller of `store` may choose."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict


class Options(BaseModel):
    """`weights`: the smallest form that a weight may have, "int8" (codes with a scale per channel), "float16", or "int4" and "int3" (as int8 with fewer bits, for the weights of convolutions
    and matrix products, which are refitted on the data layer after layer; others are in int8 then)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    weights: Literal["int8", "float16", "int4", "int3"] = "int8"
