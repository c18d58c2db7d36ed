"""The gate of `compress`: which of the alternatives that the steps offer is returned."""

from graphcompress.gate.bars import Bars, Goal, reaches, required_speedup, telling
from graphcompress.gate.judge import TIMED_FEEDS, CandidateFails, Judge, SessionJudge, settings_at, thread_settings, threads_text
from graphcompress.gate.outcome import Candidate, Judgement, Outcome
from graphcompress.gate.search import search
from graphcompress.runtime.agreement.measured import FLOOR

__all__ = [
    "FLOOR",
    "TIMED_FEEDS",
    "Bars",
    "Candidate",
    "CandidateFails",
    "Goal",
    "Judge",
    "Judgement",
    "Outcome",
    "SessionJudge",
    "reaches",
    "required_speedup",
    "search",
    "settings_at",
    "telling",
    "thread_settings",
    "threads_text",
]
