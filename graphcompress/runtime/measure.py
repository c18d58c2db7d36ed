"""Time of two models beside each other, with the noise that it has; load time and peak memory in a process of their own.

How a verdict comes about:
1. The clock is the CPU time of the thread that computes, where all three sessions have one (one thread, CPU provider): time that other processes take does not
   count. Otherwise it is the wall clock.
2. A block is as many passes over the feeds as take about 10 ms, or 40 ms by the wall clock, there after a pause in which the spinning workers of the idle
   sessions go to sleep. One inference, or a short pass, that is not timed comes first.
3. A round is a block of the reference, of the candidate, and of the reference in a second session, or the other way round, in turn. The candidate stands in
   the middle: a machine that changes its pace during a round shows it in the two references, and a steady drift cancels out.
4. A round in which the two references differ by more than 5% is rejected. Where fewer than six are left, all count, and their noise with them.
5. A round's speed-up is mean(reference, reference again) / candidate. The result is the median over the rounds, with the order statistics that enclose the
   true median with 95% confidence.
6. The noise band is the 10th to 90th percentile of reference / reference again, and at least 1% to both sides: two sessions of one model lie at different
   addresses, and that alone makes some difference.
7. "faster" or "slower": the whole interval of the speed-up lies outside the band, and on one side of 1. Otherwise "same", or "noisy" where the band is wider
   than 5%, the interval wider than 10%, or rounds were missing.
8. Measuring stops when the verdict is decided: after ten rounds that count, as soon as the interval is narrow and clear of the band or inside it; else when the
   rounds or the budget are used up; what is noisy then goes on for up to three times as many; where a stated
   bar above 1 is missed anyway, a third of them is enough. The budget is in seconds of the clock, so that a busy machine gets as many rounds as an idle one.
9. What stays noisy proves nothing, and is never handed out as more than it is: against the bar "not slower" the median decides (2% below 1 at most), whatever
   the interval holds.
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
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np

from graphcompress.errors import DataError, GraphCompressError, ModelError
from graphcompress.findings import Finding
from graphcompress.runtime.session import Feed, Seconds, Session

Verdict: TypeAlias = Literal["faster", "slower", "same", "noisy"]
Clock: TypeAlias = Literal["cpu", "wall"]

BLOCK_S: dict[Clock, float] = {"cpu": 0.01, "wall": 0.04}
MOST_ROUNDS: dict[Clock, int] = {"cpu": 121, "wall": 31}
PAUSE_S = 0.004
FEWEST_ROUNDS = 6  # below six no interval of order statistics reaches 95%
DECIDING_ROUNDS = 10
WIDEST_BAND = 0.05
LEAST_BAND = 0.01
CONFIDENCE = 0.95
BUDGET_S = 6.0
PATIENCE = 3  # times the budget and the rounds, while the verdict is noisy
CLOSE = 0.02  # below 1, of a noisy median that passes for no loss
LEAST_SHARE = 0.8  # of the wall time, that one thread gets on an idle machine
ORDERS = ((0, 2, 1), (1, 2, 0))  # reference, candidate, reference again


@dataclass(frozen=True, slots=True)
class Measurement:
    """Medians in milliseconds for one feed; `speedup` = time of the reference / time of the candidate with its 95% interval; `band` is what the reference
    shows against itself; in `rejected` of the `rounds` it differed too much; `threads` is the setting (None: the runtime's default); `busy`: something else ran; `share` of the wall
    time was CPU time of the runs, where that is counted."""

    reference_ms: float
    median_ms: float
    speedup: float
    speedup_ci: tuple[float, float]
    band: tuple[float, float]
    rounds: int
    verdict: Verdict
    threads: int | None = None
    clock: Clock = "wall"
    rejected: int = 0
    busy: bool = False
    share: float = 1.0

    def reaches(self, bar: float) -> bool | None:
        """Whether the speed-up is at least `bar`. Equal within the interval is enough, and what is measured and not slower counts as 1. A noisy measurement
        proves nothing: the median decides about a bar up to 1, and None is the answer where a higher one lies inside its interval."""
        low, high = self.speedup_ci
        if low >= bar:
            return True
        if self.verdict == "noisy":
            return self.speedup >= bar - CLOSE if bar <= 1 else None if high >= bar else False
        return high >= bar or (bar <= 1 and self.verdict != "slower")

    def findings(self) -> tuple[Finding, ...]:
        """That the machine is busy, where it is."""
        if not self.busy:
            return ()
        setting = "" if self.threads is None else f" with {self.threads} thread{'s' * (self.threads != 1)}"
        clock = "CPU time" if self.clock == "cpu" else "the wall clock"
        what = (
            f"the original differed from itself by more than {WIDEST_BAND:.0%} in {self.rejected} of {self.rounds} rounds"
            if 2 * self.rejected > self.rounds
            else f"the runs had the processor for {self.share:.0%} of the time only"
        )
        text = f"This machine is busy: timed{setting} by {clock}, {what}. Times measured beside other work are rough."
        return (Finding("measure/busy", text),)


def measure(
    ref: Session, again: Session, cand: Session, feeds: Sequence[Feed], *, threads: int | None = None, budget_s: float = BUDGET_S, bar: float = 1.0
) -> Measurement:
    """Time `cand` beside `ref`; `again` is a second session of the reference. Takes about `budget_s` seconds at most, three times that where it stays noisy,
    more only where six rounds need it. By how much a `bar` above 1 is missed is not measured: that it is missed, and whether the candidate is faster or
    slower at all, ends it.

    Raises DataError without feeds, and what the sessions raise.
    """
    if not feeds:
        raise DataError("There are no feeds to measure with.")
    trio = (ref, again, cand)
    some = _affordable(trio, feeds, budget_s / 2)
    return _judged(_rounds(trio, some, budget_s, bar), len(some), threads)


# --- rounds ---------------------------------------------------------------------------------------------------------------------------

Round: TypeAlias = tuple[float, float, float]


@dataclass(frozen=True)
class Rounds:
    """Seconds per pass by `clock`, a row for each round: reference, reference again, candidate. `share` of the wall time was CPU time (1 by the wall clock).

    What follows from the rows is calculated once: several hundred rounds are looked at after each of them."""

    clock: Clock
    seconds: tuple[Round, ...]
    share: float = 1.0

    @cached_property
    def steady(self) -> tuple[Round, ...]:
        """Those in which the reference took the same time twice."""
        return tuple(r for r in self.seconds if max(r[0], r[1]) <= (1 + WIDEST_BAND) * min(r[0], r[1]))

    @cached_property
    def counting(self) -> tuple[Round, ...]:
        return self.steady if len(self.steady) >= FEWEST_ROUNDS else self.seconds

    @property
    def busy(self) -> bool:
        """Whether something else ran on the machine."""
        return 2 * len(self.steady) < len(self.seconds) or self.share < LEAST_SHARE

    @cached_property
    def interval(self) -> tuple[float, float]:
        """Of the median speed-up."""
        return median_interval(sorted(speedup(r) for r in self.counting))

    @cached_property
    def band(self) -> tuple[float, float]:
        """What the reference shows against itself."""
        low, high = band(sorted(a / b for a, b, _ in self.counting))
        return min(low, 1 - LEAST_BAND), max(high, 1 + LEAST_BAND)

    def noisy(self) -> bool:
        """Whether nothing can be told yet."""
        answer = verdict(self.interval, self.band)
        return answer == "noisy" or (answer == "same" and len(self.steady) < FEWEST_ROUNDS)

    def misses(self, bar: float) -> bool:
        """Whether the whole interval lies below a bar above 1, clear of what the reference shows against itself."""
        return bar > 1 and self.interval[1] < bar * self.band[0]

    def patience(self, bar: float) -> float:
        """How many times the budget may be used up for what is known so far: a third of it where the bar is missed, all of it for an answer, three times that
        while it is noisy."""
        return 1 / PATIENCE if self.misses(bar) else PATIENCE if self.noisy() else 1

    def decided(self, bar: float = 1.0) -> bool:
        """Whether more rounds would not change the verdict; where `bar` is missed, however wide the interval."""
        if len(self.steady) < DECIDING_ROUNDS:
            return False
        (low, high), noise = self.interval, self.band
        if noise[0] <= low and high <= noise[1]:
            return noise[1] - noise[0] <= WIDEST_BAND
        return verdict((low, high), noise) in ("faster", "slower") and (narrow((low, high)) or self.misses(bar))


def speedup(seconds: Round) -> float:
    """Of one round."""
    first, again, candidate = seconds
    return (first + again) / 2 / candidate


def _affordable(trio: Sequence[Session], feeds: Sequence[Feed], budget_s: float) -> Sequence[Feed]:
    """As many of `feeds` as the fewest rounds can run over within the budget, at least one."""
    one = sum(min(_read(s.time(feeds[:1], 1)), _read(s.time(feeds[:1], 1))) for s in trio)
    return feeds[: max(1, int(budget_s / FEWEST_ROUNDS / max(1e-9, one)))]


def _read(seconds: Seconds) -> float:
    return seconds.wall if seconds.cpu is None else seconds.cpu


def _rounds(trio: Sequence[Session], feeds: Sequence[Feed], budget_s: float, bar: float) -> Rounds:
    first = [s.time(feeds, 1) for s in trio]
    clock: Clock = "wall" if any(seconds.cpu is None for seconds in first) else "cpu"
    passes = [max(1e-7, seconds.wall if clock == "wall" else _read(seconds)) for seconds in first]
    repeats = [max(1, round(BLOCK_S[clock] / p)) for p in passes]
    # Waking a session takes one inference; a whole pass only where that costs next to nothing.
    waking = [feeds if p < BLOCK_S[clock] / 8 else feeds[:1] for p in passes]
    cost = sum(p * r + p * len(w) / len(feeds) for p, r, w in zip(passes, repeats, waking, strict=True))
    rounds = Rounds(clock, ())
    wall = cpu = 0.0
    for order in itertools.islice(itertools.cycle(ORDERS), 2 * PATIENCE * MOST_ROUNDS[clock]):
        used = max(len(rounds.steady) / MOST_ROUNDS[clock], len(rounds.seconds) / (2 * MOST_ROUNDS[clock]), len(rounds.seconds) * cost / budget_s)
        if len(rounds.seconds) >= FEWEST_ROUNDS and (rounds.decided(bar) or used >= rounds.patience(bar)):
            break
        blocks = {i: _block(trio[i], feeds, waking[i], repeats[i], clock) for i in order}
        wall += sum(b.wall * repeats[i] for i, b in blocks.items())
        cpu += sum(_read(b) * repeats[i] for i, b in blocks.items())
        row = [max(1e-9, blocks[i].wall if clock == "wall" else _read(blocks[i])) for i in range(3)]
        rounds = Rounds(clock, (*rounds.seconds, (row[0], row[1], row[2])), cpu / wall if clock == "cpu" and wall else 1.0)
    return rounds


def _block(session: Session, feeds: Sequence[Feed], waking: Sequence[Feed], repeats: int, clock: Clock) -> Seconds:
    if clock == "wall":
        time.sleep(PAUSE_S)
    session.time(waking, 1)
    return session.time(feeds, repeats)


def band(ratios: Sequence[float]) -> tuple[float, float]:
    """10th and 90th percentile of sorted ratios of the reference to itself."""
    cut = len(ratios) // 10
    return ratios[cut], ratios[-1 - cut]


def median_interval(values: Sequence[float]) -> tuple[float, float]:
    """The narrowest pair of order statistics of sorted `values` that encloses the median of their distribution with 95% confidence, whatever the distribution:
    ranks k and n + 1 - k with P(Binomial(n, 1/2) < k) <= 2.5%. The extremes where n is too small."""
    count = len(values)
    rank, below = 0, 0.0
    while (below := below + math.comb(count, rank) / 2**count) <= (1 - CONFIDENCE) / 2:
        rank += 1
    cut = max(0, rank - 1)
    return values[cut], values[-1 - cut]


def _judged(rounds: Rounds, feeds: int, threads: int | None) -> Measurement:
    counting, interval, noise = rounds.counting, rounds.interval, rounds.band
    return Measurement(
        reference_ms=statistics.median((a + b) / 2 for a, b, _ in counting) / feeds * 1e3,
        median_ms=statistics.median(c for _, _, c in counting) / feeds * 1e3,
        speedup=statistics.median(speedup(r) for r in counting),
        speedup_ci=interval,
        band=noise,
        rounds=len(rounds.seconds),
        verdict="noisy" if rounds.noisy() else verdict(interval, noise),
        threads=threads,
        clock=rounds.clock,
        rejected=len(rounds.seconds) - len(rounds.steady),
        busy=rounds.busy,
        share=rounds.share,
    )


def verdict(interval: tuple[float, float], noise: tuple[float, float]) -> Verdict:
    """What an interval of the speed-up says beside the noise band. A difference that stands clear of a wide band is still a difference."""
    if interval[0] > max(1.0, noise[1]):
        return "faster"
    if interval[1] < min(1.0, noise[0]):
        return "slower"
    return "noisy" if noise[1] - noise[0] > WIDEST_BAND or not narrow(interval) else "same"


def narrow(interval: tuple[float, float]) -> bool:
    """Whether an interval tells a speed-up to 5%."""
    return interval[1] <= (1 + 2 * WIDEST_BAND) * interval[0]


# --- load time and memory -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Footprint:
    """What a model costs a process that does nothing else: seconds until the session is ready, the highest resident memory of the process in bytes."""

    load_seconds: float
    peak_bytes: int


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
