"""How much each stored weight moves the outputs of a model."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

from graphcompress.errors import DataError, ModelError
from graphcompress.ir import Model
from graphcompress.passes.store.codes import Codes
from graphcompress.passes.store.constants import FloatConstant
from graphcompress.passes.store.write import write
from graphcompress.runtime.noise import relative_noise
from graphcompress.runtime.session import Feed, open_session
from graphcompress.step import Context

FEEDS = 4
"""How many feeds tell the noise of a weight: an order of weights needs few."""
TRIALS = 32
"""How many sets of weights are tried at most: the largest ones each by itself, all others together."""

Outputs = list[dict[str, Any]]


def output_noise(model: Model, forms: Mapping[FloatConstant, Codes], context: Context) -> dict[FloatConstant, float]:
    """Of each constant the noise that its form alone makes in the outputs: mean square of their change over that of the outputs, the worst output counting.

    Measured on the first few feeds of the context. Without feeds, and where the model does not run on them, it is that of the weight itself: noise in weights says
    little about noise in outputs, but there is nothing better then.
    """
    feeds = [] if context.data is None else list(itertools.islice(context.data, FEEDS))
    largest = sorted(forms, key=lambda c: -c.nbytes)
    trials = [[c] for c in largest[: TRIALS - 1]]
    if rest := largest[TRIALS - 1 :]:
        trials.append(rest)
    noise: dict[FloatConstant, float] = {}
    try:
        reference = _outputs(model, feeds, context)
        for number, constants in enumerate(trials):
            context.progress("store: noise", number, len(trials))
            moved = _outputs(write(model, {c: forms[c] for c in constants})[0], feeds, context)
            noise.update(dict.fromkeys(constants, relative_noise(reference, moved)))
    except (ModelError, DataError):
        feeds = []
    return noise if feeds else {c: codes.noise for c, codes in forms.items()}


def _outputs(model: Model, feeds: list[Feed], context: Context) -> Outputs:
    with open_session(model, threads=context.threads) as session:
        return [session.run(feed) for feed in feeds]
