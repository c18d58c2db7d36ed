"""Energy of a run: read from the processor's counters where the system has them (Linux powercap), else estimated from operations and bytes."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

POWERCAP = Path("/sys/class/powercap")
SECONDS = 1.0
"""For how long is measured: counters of packages change every millisecond or so."""

# M. Horowitz, "Computing's energy problem", ISSCC 2014, 45 nm. Newer processors need less; the ratios are what an estimate is for.
FLOAT_MAC = 4.6e-12
"""Joules of a float32 multiplication (3.7 pJ) and addition (0.9 pJ)."""
INT8_MAC = 0.3e-12
"""Joules of an 8-bit multiplication (0.2 pJ) and a 32-bit addition (0.1 pJ)."""
DRAM_BYTE = 160e-12
"""Joules of a byte from memory (640 pJ for 32 bits)."""


@dataclass(frozen=True, slots=True)
class Counter:
    """The energy counter of one package, in microjoules; it begins again at 0 after `limit`."""

    file: Path
    limit: int

    def read(self) -> int:
        """Raises OSError where it cannot be read."""
        return int(self.file.read_text(encoding="ascii"))


def counters(root: Path = POWERCAP) -> list[Counter]:
    """The counters of all processor packages that can be read; empty where the system has none, or keeps them from this user."""
    found = []
    for folder in sorted(root.glob("*")) if root.is_dir() else ():
        try:
            if (folder / "name").read_text(encoding="ascii").startswith("package"):
                counter = Counter(folder / "energy_uj", int((folder / "max_energy_range_uj").read_text(encoding="ascii")))
                counter.read()
                found.append(counter)
        except (OSError, ValueError):
            continue
    return found


def joules_per_run(meters: list[Counter], run: Callable[[], object], seconds: float = SECONDS) -> float | None:
    """Joules of one `run()`, everything included that the packages do meanwhile: the mean over `seconds`. None without counters."""
    if not meters:
        return None
    before = [meter.read() for meter in meters]
    end, runs = time.perf_counter() + seconds, 0
    while time.perf_counter() < end or not runs:
        run()
        runs += 1
    used = sum((meter.read() - first) % meter.limit for meter, first in zip(meters, before, strict=True))
    return used * 1e-6 / runs


def estimate(float_macs: int, int8_macs: int, weight_bytes: int) -> float:
    """Joules of one run by operations and the weights that it reads from memory once."""
    return float_macs * FLOAT_MAC + int8_macs * INT8_MAC + weight_bytes * DRAM_BYTE
