"""What is wrong with a model, as data: everything at once, so that a file is mended in one round."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from graphcompress.errors import ModelError


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that makes a file an invalid model. `id` is stable; `node` and `tensor` are names out of the file, empty where the fault concerns none."""

    id: str
    message: str
    node: str = ""
    tensor: str = ""


def is_text(*names: object) -> bool:
    """False where protobuf hands out bytes: names that are not UTF-8, of which no message can speak."""
    return all(isinstance(name, str) for name in names)


def raise_faults(faults: Sequence[Fault], label: str) -> None:
    """Raise ModelError, beginning with `label`, with the first fault and the number of further ones; nothing where there are none."""
    if faults:
        more = len(faults) - 1
        raise ModelError(f"{label}: {faults[0].message}" + (f" There {'is 1 more fault' if more == 1 else f'are {more} more faults'} in it." if more else ""))
