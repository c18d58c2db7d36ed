"""What is wrong with a model, whoever made it: rules with stable ids that look, and some that mend. Rules read the graph, and what onnxruntime makes of it."""

from graphcompress.linter.precision import INTEGER, reasons_for_float
from graphcompress.linter.rule import Subject
from graphcompress.linter.run import RULES, Report, check, choose, mend

__all__ = ["INTEGER", "RULES", "Report", "Subject", "check", "choose", "mend", "reasons_for_float"]
