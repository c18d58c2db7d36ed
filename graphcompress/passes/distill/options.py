"""What a caller of `distill` may choose."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Options(BaseModel):
    """steps    how many steps of the optimizer; None: as many as fit into `minutes`
    minutes  for how long to learn: the number of steps follows from the time that the first ones take. Where `steps` is stated too, the smaller number of both
    batch    inputs per step
    rate     the highest learning rate of Adam, for a student far from its teacher; the nearer one is, the smaller are its steps
    match    "auto": outputs, and what layers read, by what an earlier cut has left of them, or by equal names; "outputs": outputs alone; else a file that says what is compared:
             the record of the `prune` that made the student, or JSON with pairs of tensors, {"pairs": {student's: teacher's}}
    augment  inputs that are made of others: "crop", "flip", "mix", "noise", one or several, or none; "auto": those of which short trials show that they help
    keep     an interrupt ends learning, and the best state so far is the result
    freeze   regular expressions; a weight whose name one of them matches anywhere stays as it is
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    steps: int | None = Field(default=None, ge=1)
    minutes: float = Field(default=3.0, gt=0)
    batch: int = Field(default=32, ge=1)
    rate: float = Field(default=1e-3, gt=0)
    match: str = "auto"
    augment: tuple[Literal["auto", "crop", "flip", "mix", "noise"], ...] = ("auto",)
    keep: bool = False
    freeze: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _auto_alone(self) -> Options:
        if "auto" in self.augment and len(self.augment) > 1:
            raise ValueError("augment = auto chooses by itself: nothing goes beside it")
        return self
