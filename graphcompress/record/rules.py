"""What is said of rules, of their applications, and of how two models differ."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from graphcompress.record.base import Document, Varying


class RuleReport(Document):
    """What a rule cost in one step: nodes at which it was tried, places where its pattern matched, rewrites, matches that a clause (see `refusals`) or the engine refused."""

    id: str
    tried: int
    matched: int
    applied: int
    refused: int
    seconds: Annotated[float, Varying]


class ApplicationReport(Document):
    """One thing that a rule or stage did, by the names of nodes (of a node without a name: of its first output) as they were at that time."""

    by: str = Field(description="The id of the rule or stage.")
    removed: list[str]
    added: list[str]
