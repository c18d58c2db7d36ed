"""The public functions: what the command line does, from Python.

A model is a path or a `Model`; data is a path (a folder of .npz, or one .npz), a `Dataset`, or a list of feeds (dicts of arrays by input name). Nothing is
written: `graphcompress.save(result.model, path)` does that. What is the caller's business is raised as a `GraphCompressError`.
"""

from graphcompress.api.benchmarking import benchmark
from graphcompress.api.judging import inspect, validate
from graphcompress.api.making import Result, compress, quantize, simplify
from graphcompress.api.sources import Source, open_model

__all__ = ["Result", "Source", "benchmark", "compress", "inspect", "open_model", "quantize", "simplify", "validate"]
