"""Model -> smaller model that computes the same."""

from graphcompress.passes.simplify.options import Options
from graphcompress.passes.simplify.run import simplify

__all__ = ["Options", "simplify"]
