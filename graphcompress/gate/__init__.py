"""The gate of `compress`: which of the alternatives that the steps offer is returned."""

from graphcompress.gate.bars import FLOORS, Bars, Miss, reaches
from graphcompress.gate.judge import TIMED_FEEDS, CandidateFails, Judge, SessionJudge, thread_settings, threads_text
from graphcompress.gate.search import Candidate, Judgement, Outcome, search

__all__ = [
    "FLOORS",
    "TIMED_FEEDS",
    "Bars",
    "Candidate",
    "CandidateFails",
    "Judge",
    "Judgement",
    "Miss",
    "Outcome",
    "SessionJudge",
    "reaches",
    "search",
    "thread_settings",
    "threads_text",
]
