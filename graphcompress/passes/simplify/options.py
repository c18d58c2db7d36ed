"""What a caller of `simplify` may choose."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Options(BaseModel):
    """`off` names stages ("simplify/fold") and rules ("fuse/conv_bn") that are left out; a name that there is not is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    off: tuple[str, ...] = ()
