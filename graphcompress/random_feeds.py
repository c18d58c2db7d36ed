"""Random feeds that a model can run."""

from __future__ import annotations

import math
from contextlib import closing

from graphcompress.data import Dataset, random_data
from graphcompress.errors import DataError, ModelError
from graphcompress.ir import Model
from graphcompress.runtime.session import open_session

SIZES = (1, 8, 32, 128, 512, 2048, 16384)
"""Elements of a free dimension that are tried, the least first: a kernel, a pooled map or a TopK may need more than 1."""
MOST_ELEMENTS = 1 << 24
"""Of all inputs of one feed together."""


def random_feeds(model: Model, count: int, seed: int, *, least: int = 1) -> Dataset:
    """`count` feeds of random numbers whose free dimensions have the least of SIZES, from `least` on, with which `model` runs, on the CPU provider.

    Raises ModelError where the model does not load, DataError where it runs with none of the sizes, or has inputs that no random numbers fit.
    """
    feeds = random_data(model.inputs, count, seed)
    if all(isinstance(dim, int) for spec in model.inputs for dim in spec.shape or ()):
        return feeds
    reason = ""
    with closing(open_session(model, threads=1)) as session:
        sizes = [size for size in SIZES if size >= least]
        for size in sizes:
            trial = random_data(model.inputs, count, seed, free=size)
            feed = next(iter(trial))
            if sum(math.prod(array.shape) for array in feed.values()) > MOST_ELEMENTS:
                break
            try:
                session.run(feed)
            except (ModelError, DataError) as problem:
                reason = reason or str(problem)
            else:
                return trial
    raise DataError(
        f"No random feed fits this model: with {sizes[0]} to {size} elements in its free dimensions it does not run. Give data. The first reason was: {reason}"
    )
