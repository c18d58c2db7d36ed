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
