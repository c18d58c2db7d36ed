"""What an error in some layers does to the outputs: measured for each action alone, without labels, on feeds that its repair did not see."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from graphcompress.data import Dataset
from graphcompress.errors import GraphCompressError
from graphcompress.ir import Model
from graphcompress.passes.prune.actions import Action, ChannelCut, LowRank
from graphcompress.passes.prune.attempt import PruneAttempt
from graphcompress.passes.prune.axes.labels import Array
from graphcompress.passes.prune.deviation import TeacherAnswers
from graphcompress.reconstruction.batches import items
from graphcompress.reconstruction.repair import repair_from
from graphcompress.reconstruction.targets import TeacherRows
from graphcompress.runtime.session import Feed
from graphcompress.step import Context

PROBE_INPUTS = 192
"""Of a probe, in as many feeds as have them, and LEAST_PROBE_FEEDS at least: inputs of one feed may be alike."""
PROBE_JUDGES = 3
"""Every third of the feeds of a probe judges it and takes no part in its repair: on the feeds that were fitted, errors look smaller the more there is to fit."""
PROBE_POSITIONS = 4
"""Of each of PROBE_INPUTS inputs; of fewer as many more, of more as many fewer."""
LEAST_PROBE_FEEDS = LEAST_PROBE_INPUTS = 12
PROBE_PASSES = 3
PROBE_MACS = 2e12
"""Multiply-accumulates of all probes together, each input being run PROBE_PASSES times: some minutes of one core. Where the model allows no LEAST_PROBE_INPUTS, nothing is probed."""
MOST_PROBES = 24
"""Of groups, and of layers that could be two."""
LAYER_PROBES, LAYER_PROBE_INPUTS = 6, 48
"""Of these layers as many are tried, from LAYER_PROBES on, as leave so many inputs to each probe: groups have no layers to stand for them."""


def sensitivities(
    actions: Sequence[Action], places: Sequence[int], model: Model, macs: float, context: Context, attempt: Callable[[int, int], PruneAttempt]
) -> Array:
    """[actions] the outputs' relative error with one of the actions at `places` alone at its probe and the rest refitted, as a part of the error that it expects. 1 for others, without
    data, or where there are too many groups, or the model of `macs` multiply-accumulates for one input is too large, to try each. Of layers that could be two some are tried, which stand for the others of their
    shape. `attempt` carries one action out alone, by its place and size."""
    result = np.ones(len(actions))
    groups = sum(isinstance(actions[place], ChannelCut) for place in places)
    affordable = int(PROBE_MACS / max(1.0, PROBE_PASSES * LAYER_PROBE_INPUTS * macs)) - groups
    stands_for = _representatives(actions, places, min(MOST_PROBES, max(LAYER_PROBES, affordable)))
    probed = sorted({stands_for[place] for place in places})
    if context.data is None or not probed or groups > MOST_PROBES:
        return result
    each = next(map(items, context.data), 1)  # inputs in a feed
    most = int(min(max(PROBE_INPUTS // each, LEAST_PROBE_FEEDS), PROBE_MACS / max(1.0, PROBE_PASSES * len(probed) * macs * each)))
    if most < PROBE_JUDGES or most * each < LEAST_PROBE_INPUTS:
        return result
    feeds = sampled(context.data, most)
    judging = feeds[PROBE_JUDGES - 1 :: PROBE_JUDGES] or feeds
    feeds = [feed for index, feed in enumerate(feeds) if index % PROBE_JUDGES != PROBE_JUDGES - 1]
    positions = max(1, PROBE_POSITIONS * PROBE_INPUTS // (most * each))
    reference = TeacherAnswers(model, judging, threads=context.threads)
    with TeacherRows(model, feeds, seed=context.seed, positions=positions, threads=context.threads) as rows:
        for index, place in enumerate(probed):
            action = actions[place]
            result[place] = _measured(attempt(place, action.probe), action.error(action.probe), rows, reference)
            context.progress("measuring sensitivity", index + 1, len(probed))
    return result[stands_for]


def sampled(feeds: Dataset, count: int) -> list[Feed]:
    """`count` feeds from all over the data, all where there are no more."""
    chosen = {place * len(feeds) // count for place in range(count)} if len(feeds) > count else range(len(feeds))
    return [feed for index, feed in enumerate(feeds) if index in chosen]


def _measured(trial: PruneAttempt, expected: float, teacher: TeacherRows, reference: TeacherAnswers) -> float:
    try:
        repair_from(teacher, trial.model, trial.repair_layers(), ridges=(1e-2,))
        error = reference.relative_error(trial.model)
    except GraphCompressError:
        return 1.0
    return error / expected if expected > 0 and np.isfinite(error) and error > 0 else 1.0


def _representatives(actions: Sequence[Action], places: Sequence[int], most: int) -> list[int]:
    """For each action the place of the one that is probed for it: itself, or of more than `most` layers the nearest one of its shape that is tried."""
    layers = [place for place in places if isinstance(actions[place], LowRank)]
    tried = {layers[i * len(layers) // most] for i in range(most)} if len(layers) > most else set(layers)
    result = list(range(len(actions)))
    for place in layers:
        shape = _shape(actions[place])
        result[place] = min(tried, key=lambda other: (_shape(actions[other]) != shape, abs(other - place), other))
    return result


def _shape(action: Action) -> tuple[int, ...]:
    return action.layer.form.shape if isinstance(action, LowRank) else ()
