"""What a caller of `quantize` may choose."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class Options(BaseModel):
    """calibration  how a range is chosen: "minmax" (all that was seen), "percentile" (all but the tails), "mse" (least squared error of the 8-bit codes)
    percentile   for "percentile": percent of the values that lie below the upper end, and above the lower one
    exclude      regular expressions; a node whose name (an unnamed node: first output) one of them matches anywhere stays float
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    calibration: Literal["minmax", "percentile", "mse"] = "minmax"
    percentile: float = Field(default=99.99, gt=50, le=100)
    exclude: tuple[str, ...] = ()


class ProductOptions(BaseModel):
    """form     "dynamic" (8-bit weights per column, activations in 8 bits by the range of each run; of LSTMs too) or "int4" (4-bit weights in blocks, fitted where there is data)
    block    for "int4": rows of a weight that share a scale: 16, 32, 64, 128 or 256
    exclude  regular expressions; a node whose name (an unnamed node: first output) one of them matches anywhere stays float
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    form: Literal["dynamic", "int4"] = "dynamic"
    block: Literal[16, 32, 64, 128, 256] = 32
    exclude: tuple[str, ...] = ()
