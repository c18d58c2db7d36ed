"""What makes a judgement weak, as values: a stable id and a sentence."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that a reader of a comparison or a measurement must know. `voids_bound`: what was compared supports no bound on other inputs; `distinct`: the part
    of the inputs that a bound may count."""

    id: str
    text: str
    voids_bound: bool = False
    distinct: float = 1.0
