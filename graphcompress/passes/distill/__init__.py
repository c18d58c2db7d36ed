"""Distillation: a student learns from a teacher, without labels."""

from graphcompress.passes.distill.options import Options
from graphcompress.passes.distill.run import distill

__all__ = ["Options", "distill"]
