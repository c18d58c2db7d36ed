"""What an error in some layers does to the outputs, without labels: by trying each action alone, on feeds that its repair did not see, and where there are too many by gradients."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from graphcompress.data import Dataset
from graphcompress.errors import GraphCompressError
from graphcompress.ir import Model
from graphcompress.passes.prune.actions import Action, ChannelCut
from graphcompress.passes.prune.attempt import PruneAttempt
from graphcompress.passes.prune.axes.labels import Array
from graphcompress.passes.prune.deviation import TeacherAnswers
from graphcompress.passes.prune.propagation import PASSES, propagated_errors
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
"""Multiply-accumulates of all probes together, each input being run PROBE_PASSES times: some minutes of one core. Where the model allows no LEAST_PROBE_INPUTS, nothing is tried."""
MOST_PROBES, FEW_PROBES = 24, 6
"""Of groups, and of layers that could be two. Of more groups than the first number the second is tried, from all over the model, and as many layers: enough to tell what gradients are off by."""
LAYER_PROBE_INPUTS = 48
"""Beside few groups as many layers are tried, from FEW_PROBES on, as leave so many inputs to each probe."""
ROUNDING = 1e-10
"""An expected error, as a part of the energy, up to which it is one of rounding: what the outputs make of it tells nothing of larger ones."""
PROPAGATED_INPUTS = 64
"""Of the pass of gradients; of large models as many fewer as PROBE_MACS says."""


def sensitivities(
    actions: Sequence[Action], places: Sequence[int], model: Model, macs: float, context: Context, attempt: Callable[[int, int], PruneAttempt]
) -> Array:
    """[actions] the outputs' relative error with one of the actions at `places` alone at its probe and the rest refitted, as a part of the error that it expects; 1 for others, and where nothing is known.

    It is tried for as many groups and layers as can be afforded. For those that are not tried it is what gradients say (`propagated_errors`), times what that is off by where it was tried (the median, for groups and for
    layers): gradients know how an error grows on its way, not what refitting the rest makes of it. Of a model of so many multiply-accumulates for one input (`macs`) that nothing can be tried gradients alone are known.
    `attempt` carries one action out alone, by its place and size."""
    result = np.ones(len(actions))
    if context.data is None or not places:
        return result
    kinds = [[place for place in places if isinstance(actions[place], ChannelCut) is channels] for channels in (True, False)]
    many = len(kinds[0]) > MOST_PROBES
    affordable = int(PROBE_MACS / max(1.0, PROBE_PASSES * LAYER_PROBE_INPUTS * macs)) - len(kinds[0])
    chosen = [_spread(kinds[0], FEW_PROBES if many else MOST_PROBES), _spread(kinds[1], FEW_PROBES if many else min(MOST_PROBES, max(FEW_PROBES, affordable)))]
    tried = _tried([place for kind in chosen for place in kind], actions, model, macs, context, attempt)
    slopes = _slopes(actions, model, macs, context) if len(tried) < len(places) else result
    for kind in kinds:
        known = [place for place in kind if place in tried]
        ratios = [tried[place] / slopes[place] for place in known if slopes[place] > 0]
        estimates = slopes * (np.median(ratios) if ratios else 1.0)
        if known:  # beyond what was seen slopes tell of errors that are no longer small
            estimates = np.clip(estimates, min(tried[place] for place in known), max(tried[place] for place in known))
        for place in kind:
            result[place] = tried[place] if place in tried else estimates[place] if estimates[place] > 0 else 1.0
    return result


def _spread(places: Sequence[int], most: int) -> list[int]:
    """`most` of some places, from all over; all where there are no more."""
    return [places[i * len(places) // most] for i in range(most)] if len(places) > most else list(places)


def _slopes(actions: Sequence[Action], model: Model, macs: float, context: Context) -> Array:
    """[actions] what gradients say: the mean over the layers that feel an action; NaN where they say nothing."""
    assert context.data is not None
    layers = list(dict.fromkeys(layer for action in actions for layer in action.layers))
    feeds = list(sampled(context.data, PROPAGATED_INPUTS))
    each = next(map(items, feeds), 1)
    most = int(min(max(1, PROPAGATED_INPUTS // each), PROBE_MACS / max(1.0, PASSES * macs * each)))
    alike = [feed for feed in feeds if all(feed[name].shape == array.shape for name, array in feeds[0].items())] if feeds else []
    if not layers or not alike or most < 1:
        return np.full(len(actions), np.nan)
    try:
        errors = dict(zip(layers, propagated_errors(model, layers, alike[:most], seed=context.seed, threads=context.threads), strict=True))
    except GraphCompressError:
        return np.full(len(actions), np.nan)
    return np.array([np.mean([errors[layer] for layer in action.layers]) if action.layers else np.nan for action in actions])


def _tried(
    probed: Sequence[int], actions: Sequence[Action], model: Model, macs: float, context: Context, attempt: Callable[[int, int], PruneAttempt]
) -> dict[int, float]:
    """By its place what trying an action at its probe gives; nothing where there is too little data, the model is too large, or the trial tells nothing."""
    assert context.data is not None
    if not probed:
        return {}
    each = next(map(items, context.data), 1)  # inputs in a feed
    most = int(min(max(PROBE_INPUTS // each, LEAST_PROBE_FEEDS), PROBE_MACS / max(1.0, PROBE_PASSES * len(probed) * macs * each)))
    if most < PROBE_JUDGES or most * each < LEAST_PROBE_INPUTS:
        return {}
    feeds = sampled(context.data, most)
    judging = feeds[PROBE_JUDGES - 1 :: PROBE_JUDGES] or feeds
    feeds = [feed for index, feed in enumerate(feeds) if index % PROBE_JUDGES != PROBE_JUDGES - 1]
    positions = max(1, PROBE_POSITIONS * PROBE_INPUTS // (most * each))
    reference = TeacherAnswers(model, judging, threads=context.threads)
    result = {}
    with TeacherRows(model, feeds, seed=context.seed, positions=positions, threads=context.threads) as rows:
        for index, place in enumerate(probed):
            action = actions[place]
            ratio = _measured(attempt(place, action.probe), action.error(action.probe), rows, reference)
            if ratio is not None:
                result[place] = ratio
            context.progress("measuring sensitivity", index + 1, len(probed))
    return result


def sampled(feeds: Dataset, count: int) -> list[Feed]:
    """`count` feeds from all over the data, all where there are no more."""
    chosen = {place * len(feeds) // count for place in range(count)} if len(feeds) > count else range(len(feeds))
    return [feed for index, feed in enumerate(feeds) if index in chosen]


def _measured(trial: PruneAttempt, expected: float, teacher: TeacherRows, reference: TeacherAnswers) -> float | None:
    """The outputs' error as a part of what is `expected`, None where it tells nothing: the trial does not run, nothing was expected, or the outputs did not move."""
    try:
        repair_from(teacher, trial.model, trial.repair_layers(), ridges=(1e-2,))
        error = reference.relative_error(trial.model)
    except GraphCompressError:
        return None
    return error / expected if expected > ROUNDING and np.isfinite(error) and error > 0 else None
