"""What is to be left of a model: parts of its costs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

NOUNS = {"macs": "MACs", "params": "parameters", "size": "bytes", "latency": "time"}


@dataclass(frozen=True, slots=True)
class Goals:
    """Parts that are kept, by the names of `options.GOALS`, in their order."""

    parts: Mapping[str, float]

    def towards_whole(self, part: float) -> Goals:
        """Goals that are less bold by `part` of what was to go."""
        return Goals({name: value + part * (1 - value) for name, value in self.parts.items()})

    def scaled(self, name: str, factor: float) -> Goals:
        """With one part times `factor`."""
        return Goals({**self.parts, name: self.parts[name] * factor}) if name in self.parts else self

    @property
    def label(self) -> str:
        """As the terminal shows it, with as many digits as tell rungs apart."""
        return " and ".join(f"{100 * value:.6g}% of the {NOUNS[name]}" for name, value in self.parts.items()) or "the stated ratios"
