"""Structured pruning: channels that go, the graph that is left, and its repair."""

from graphcompress.passes.prune.options import Options
from graphcompress.passes.prune.run import prune

__all__ = ["Options", "prune"]
