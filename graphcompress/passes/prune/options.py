"""What a caller of `prune` may choose."""

from __future__ import annotations

import re
from typing import Annotated, Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

GOALS = ("macs", "params", "size", "latency")
"""What channels can be removed from, in the order in which goals are searched."""
ActionKind = Literal["channels", "rank"]
ACTIONS: tuple[ActionKind, ...] = get_args(ActionKind)
"""What can be done to reach them."""


class Options(BaseModel):
    """macs         the part of the multiply-accumulates of one run that is kept, 0 to 1
    params       the part of the parameters that is kept; of several such goals all are reached
    size         the part of the bytes of the file that is kept
    latency      the part of the time of one run that is kept, as measured on this machine with one thread (or the threads that were asked for)
    ratios       regular expression -> the part of its units that a group whose name it matches anywhere keeps, whatever the goals; the first that matches counts
    actions      what may be done to reach a goal: "channels" (groups lose channels), "rank" (a layer becomes two smaller ones; needs a goal, data and the score "obs"), or both;
                 not stated: both, as far as what they need is there
    free         instead of channels that cost something: only those that are constant or repeat others, which changes no output
    sparsity     instead of channels, this part of each layer's weights becomes zero, 0 to 1; shapes stay
    pattern      instead of channels, "2:4": 2 of every 4 neighbouring input channels keep their weights, the others become zero; shapes stay
    score        how it is decided what goes first: "obs" (error after the rest is refitted), "activation" (error without), "magnitude" (norms of weights; needs no data)
    round_to     groups of more units than this keep a multiple of it, and ranks are multiples of it, which runtimes compute faster; "auto": by the target's table
    best_effort  less than was asked for is no failure where the groups do not allow more
    repair       refit what is left on the calibration inputs
    ignore       regular expressions; a group whose name one of them matches anywhere keeps its width, and a layer stays one (with sparsity or pattern: a node its weights)
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    macs: float | None = Field(default=None, gt=0, le=1)
    params: float | None = Field(default=None, gt=0, le=1)
    size: float | None = Field(default=None, gt=0, le=1)
    latency: float | None = Field(default=None, gt=0, le=1)
    ratios: dict[str, Annotated[float, Field(gt=0, le=1)]] = {}
    actions: tuple[ActionKind, ...] | None = None
    free: bool = False
    sparsity: float | None = Field(default=None, gt=0, lt=1)
    pattern: str | None = None
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

    @field_validator("actions")
    @classmethod
    def _some(cls, value: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if value == ():
            raise ValueError(f"name at least one of {', '.join(ACTIONS)}")
        return None if value is None else tuple(dict.fromkeys(value))

    @field_validator("pattern")
    @classmethod
    def _kept_of_group(cls, value: str | None) -> str | None:
        parts = re.fullmatch(r"([1-9]\d{0,3}):([1-9]\d{0,3})", value or "1:2", re.ASCII)
        if parts is None or int(parts[1]) >= int(parts[2]):
            raise ValueError("must say how many weights stay of how many, like 2:4")
        return value

    @field_validator("ignore")
    @classmethod
    def _patterns(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for pattern in value:
            _check(pattern)
        return value

    @field_validator("ratios")
    @classmethod
    def _names(cls, value: dict[str, float]) -> dict[str, float]:
        for pattern in value:
            _check(pattern)
        return value

    @model_validator(mode="after")
    def _goal(self) -> Self:
        channels = bool(self.goals or self.ratios)
        if channels + self.free + (self.sparsity is not None) + (self.pattern is not None) != 1:
            raise ValueError(
                f"say how much is kept: {', '.join(f'{name} = 0.5' for name in GOALS)} several of these, or ratios of groups; or free = true; or else sparsity = 0.5, or else pattern = 2:4"
            )
        if not channels and (self.score != "obs" or self.round_to != "auto" or self.actions is not None):
            raise ValueError("actions, score and round_to are about channels and ranks: they do not go with free, sparsity or pattern")
        if "rank" in (self.actions or ()) and (not self.goals or self.score != "obs"):
            raise ValueError('the action "rank" needs a goal such as macs = 0.5, and the score "obs"')
        if self.actions == ("rank",) and self.ratios:
            raise ValueError('ratios are about channels: they do not go with actions = ["rank"]')
        return self

    def possible_actions(self, *, data: bool) -> tuple[ActionKind, ...]:
        """What may be done, with or without data."""
        if self.actions is not None:
            return self.actions
        return ACTIONS if data and self.goals and self.score == "obs" else ("channels",)

    @property
    def goals(self) -> dict[str, float]:
        """The parts that are kept, by what they are parts of."""
        return {name: value for name in GOALS if (value := getattr(self, name)) is not None}


def _check(pattern: str) -> None:
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(f"'{pattern}' is no regular expression: {error}") from error
