"""What a caller of `prune` may choose."""

from __future__ import annotations

import re
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator


class Options(BaseModel):
    """macs         the part of the multiply-accumulates of one run that is kept, 0 to 1
    params       the part of the parameters that is kept; with both, both are reached
    score        how it is decided what goes first: "obs" (error after the rest is refitted), "activation" (error without), "magnitude" (norms of weights; needs no data)
    round_to     groups of more units than this keep a multiple of it, which runtimes compute faster; "auto": by the target's table
    best_effort  less than was asked for is no failure where the groups do not allow more
    repair       refit what is left on the calibration inputs
    ignore       regular expressions; a group whose name one of them matches anywhere keeps its width
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    macs: float | None = Field(default=None, gt=0, le=1)
    params: float | None = Field(default=None, gt=0, le=1)
    score: Literal["obs", "activation", "magnitude"] = "obs"
    round_to: int | Literal["auto"] = "auto"
    best_effort: bool = False
    repair: bool = True
    ignore: tuple[str, ...] = ()

    @field_validator("round_to")
    @classmethod
    def _positive(cls, value: int | str) -> int | str:
        if isinstance(value, int) and value < 1:
            raise ValueError('must be a number from 1 on, or "auto"')
        return value

    @field_validator("ignore")
    @classmethod
    def _patterns(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for pattern in value:
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"'{pattern}' is no regular expression: {error}") from error
        return value

    @model_validator(mode="after")
    def _goal(self) -> Self:
        if self.macs is None and self.params is None:
            raise ValueError("say how much is kept: macs = 0.5 or params = 0.5")
        return self
