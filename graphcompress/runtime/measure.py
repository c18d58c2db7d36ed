"""Time of two models beside each other, with the noise that it has; load time and peak memory in a process of their own.

How a verdict comes about:
1. A block is as many passes over the feeds as take about 40 ms. It starts with a pause of 4 ms, in which the spinning workers of the idle sessions go to sleep, and an inference or a pass that is not timed.
2. A round is a block of the reference, of the reference in a second session, and of the candidate, in an order that rotates from round to round.
3. A round's speed-up is mean(reference, reference again) / candidate. The result is the median over the rounds, with the order statistics that enclose the
   true median with 95% confidence.
4. The noise band is the 10th to 90th percentile of reference / reference again. Where it is wider than 5% everything is measured once more, and the quieter of the two is taken.
5. "faster" or "slower": the whole interval of the speed-up lies outside the band, and on one side of 1. Otherwise "same", or "noisy" where the band is still wider than 5%.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np

from graphcompress.errors import DataError, GraphCompressError, ModelError
from graphcompress.ir.model.model import Model
from graphcompress.runtime import machine
from graphcompress.runtime.session import Feed, Session, open_session

Verdict: TypeAlias = Literal["faster", "slower", "same", "noisy"]

BLOCK_S = 0.04
PAUSE_S = 0.004
MOST_ROUNDS = 31
FEWEST_ROUNDS = 6  # below six no interval of order statistics reaches 95%
WIDEST_BAND = 0.05
CONFIDENCE = 0.95
BUDGET_S = 6.0
# Each round after the other: who begins changes, and so does who follows whom.
ORDERS = ((0, 1, 2), (2, 1, 0), (1, 2, 0), (0, 2, 1), (2, 0, 1), (1, 0, 2))


@dataclass(frozen=True, slots=True)
class Measurement:
    """Medians in milliseconds for one feed; `speedup` = time of the reference / time of the candidate with its 95% interval; `band` is what the reference
    shows against itself; `threads` is the setting (None: the runtime's default)."""

    reference_ms: float
    median_ms: float
    speedup: float
    speedup_ci: tuple[float, float]
    band: tuple[float, float]
    rounds: int
    verdict: Verdict
    threads: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """As JSON data."""
        return asdict(self)


def measure(ref: Session, again: Session, cand: Session, feeds: Sequence[Feed], *, threads: int | None = None, budget_s: float = BUDGET_S) -> Measurement:
    """Time `cand` beside `ref`; `again` is a second session of the reference. Takes about `budget_s` seconds at most, more only where six rounds need it.

    Raises DataError without feeds, and what the sessions raise.
    """
    if not feeds:
        raise DataError("There are no feeds to measure with.")
    trio = (ref, again, cand)
    some = _affordable(trio, feeds, budget_s / 2)
    found = _attempt(trio, some, budget_s / 2)
    if _width(found) > WIDEST_BAND:
        found = min(found, _attempt(trio, some, budget_s / 2), key=_width)
    return _judged(found, len(some), threads)


def measure_models(
    reference: Model | Path,
    candidate: Model | Path,
    feeds: Sequence[Feed],
    *,
    provider: str = "cpu",
    threads: int | None = None,
    budget_s: float = BUDGET_S,
) -> dict[int, Measurement]:
    """`measure` with sessions of its own, by thread setting: `threads`, by default one *and* all cores. `budget_s` is for each setting."""
    settings = [threads] if threads is not None else sorted({1, machine.cores()})
    found: dict[int, Measurement] = {}
    for setting in settings:
        with (
            closing(open_session(reference, provider=provider, threads=setting)) as ref,
            closing(open_session(reference, provider=provider, threads=setting)) as again,
            closing(open_session(candidate, provider=provider, threads=setting)) as cand,
        ):
            found[setting] = measure(ref, again, cand, feeds, threads=setting, budget_s=budget_s)
    return found


# --- rounds ---------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Rounds:
    """Seconds per pass, a row for each round: reference, reference again, candidate."""

    seconds: tuple[tuple[float, float, float], ...]

    @property
    def ratios(self) -> list[float]:
        return sorted((a + b) / 2 / c for a, b, c in self.seconds)

    @property
    def own(self) -> list[float]:
        return sorted(a / b for a, b, _ in self.seconds)


def _affordable(trio: Sequence[Session], feeds: Sequence[Feed], budget_s: float) -> Sequence[Feed]:
    """As many of `feeds` as the fewest rounds can run over within the budget, at least one."""
    one = sum(min(s.time(feeds[:1], 1), s.time(feeds[:1], 1)) for s in trio)
    return feeds[: max(1, int(budget_s / FEWEST_ROUNDS / max(1e-9, one)))]


def _attempt(trio: Sequence[Session], feeds: Sequence[Feed], budget_s: float) -> Rounds:
    deadline = time.perf_counter() + budget_s
    passes = [max(1e-7, s.time(feeds, 1)) for s in trio]
    repeats = [max(1, round(BLOCK_S / p)) for p in passes]
    # Waking a session takes one inference; a whole pass only where that costs next to nothing.
    waking = [feeds if p < BLOCK_S / 8 else feeds[:1] for p in passes]
    rounds: list[tuple[float, float, float]] = []
    for order in itertools.islice(itertools.cycle(ORDERS), MOST_ROUNDS):
        if len(rounds) >= FEWEST_ROUNDS and time.perf_counter() > deadline:
            break
        took = {i: _block(trio[i], feeds, waking[i], repeats[i]) for i in order}
        rounds.append((took[0], took[1], took[2]))
    return Rounds(tuple(rounds))


def _block(session: Session, feeds: Sequence[Feed], waking: Sequence[Feed], repeats: int) -> float:
    time.sleep(PAUSE_S)
    session.time(waking, 1)
    return max(1e-9, session.time(feeds, repeats))


def band(own: Sequence[float]) -> tuple[float, float]:
    """10th and 90th percentile of sorted ratios of the reference to itself."""
    cut = len(own) // 10
    return own[cut], own[-1 - cut]


def median_interval(values: Sequence[float]) -> tuple[float, float]:
    """The narrowest pair of order statistics of sorted `values` that encloses the median of their distribution with 95% confidence, whatever the distribution:
    ranks k and n + 1 - k with P(Binomial(n, 1/2) < k) <= 2.5%. The extremes where n is too small."""
    count = len(values)
    rank, below = 0, 0.0
    while (below := below + math.comb(count, rank) / 2**count) <= (1 - CONFIDENCE) / 2:
        rank += 1
    cut = max(0, rank - 1)
    return values[cut], values[-1 - cut]


def _width(rounds: Rounds) -> float:
    low, high = band(rounds.own)
    return high - low


def _judged(rounds: Rounds, feeds: int, threads: int | None) -> Measurement:
    low, high = band(rounds.own)
    interval = median_interval(rounds.ratios)
    return Measurement(
        reference_ms=statistics.median((a + b) / 2 for a, b, _ in rounds.seconds) / feeds * 1e3,
        median_ms=statistics.median(c for _, _, c in rounds.seconds) / feeds * 1e3,
        speedup=statistics.median(rounds.ratios),
        speedup_ci=interval,
        band=(low, high),
        rounds=len(rounds.seconds),
        verdict=verdict(interval, (low, high)),
        threads=threads,
    )


def verdict(interval: tuple[float, float], noise: tuple[float, float]) -> Verdict:
    """What an interval of the speed-up says beside the noise band. A difference that stands clear of a wide band is still a difference."""
    if interval[0] > max(1.0, noise[1]):
        return "faster"
    if interval[1] < min(1.0, noise[0]):
        return "slower"
    return "noisy" if noise[1] - noise[0] > WIDEST_BAND else "same"


# --- load time and memory -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Footprint:
    """What a model costs a process that does nothing else: seconds until the session is ready; the highest resident memory of the process in bytes, and how
    much of that came with the model (above onnxruntime, loaded and idle)."""

    load_seconds: float
    peak_bytes: int
    model_bytes: int


def footprint(model: Path | str, feed: Feed, *, provider: str = "cpu", threads: int | None = 1) -> Footprint:
    """Load `model` and run `feed` in a fresh process. Raises ModelError with the process's last words where that fails."""
    with tempfile.TemporaryDirectory(prefix="graphcompress-") as folder:
        place = Path(folder, "feed.npz")
        np.savez(place, **{name: np.asarray(a, str) if a.dtype == object else a for name, a in feed.items()})  # type: ignore[arg-type]
        words = [sys.executable, "-m", "graphcompress.runtime.probe", str(model), str(place), "--provider", provider]
        words += [] if threads is None else ["--threads", str(threads)]
        roots = os.pathsep.join([str(Path(__file__).resolve().parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])])
        done = subprocess.run(words, capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": roots})
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or [f"it ended with status {done.returncode}"])[-1]
        raise ModelError(f"{model} could not be loaded and run in a process of its own: {reason}")
    try:
        return Footprint(**json.loads(done.stdout.splitlines()[-1]))
    except (ValueError, TypeError, IndexError) as problem:
        raise GraphCompressError(f"The process that measures {model} gave no answer: {done.stdout[-200:]!r}") from problem


def load_seconds(model: Path | str, feed: Feed, *, provider: str = "cpu", threads: int | None = 1) -> float:
    """Seconds from nothing to a ready session, in a fresh process."""
    return footprint(model, feed, provider=provider, threads=threads).load_seconds


def peak_memory(model: Path | str, feed: Feed, *, provider: str = "cpu", threads: int | None = 1) -> int:
    """Highest resident memory in bytes of a fresh process that loads the model and runs one feed."""
    return footprint(model, feed, provider=provider, threads=threads).peak_bytes
