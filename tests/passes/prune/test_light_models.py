"""The light models of the onnx wheel, with weights, cut in half: whole networks as people know them."""

from __future__ import annotations

import numpy as np
import pytest
from light_models import light_model

from graphcompress.data import random_data
from graphcompress.ir import lint, model_from_proto
from graphcompress.passes.prune.cut import cut
from graphcompress.passes.prune.groups import find_groups
from graphcompress.passes.prune.oracle import TOLERANCE, difference
from graphcompress.passes.simplify import simplify
from graphcompress.step import Context

# Name -> groups of channels: no fewer may be found.
GROUPS = {
    "bvlc_alexnet": 5,
    "densenet121": 120,
    "inception_v1": 55,
    "inception_v2": 69,
    "resnet50": 37,
    "shufflenet": 13,
    "squeezenet": 25,
    "vgg19": 18,
    "zfnet512": 5,
}


@pytest.mark.slow
@pytest.mark.parametrize("name", GROUPS)
def test_half_of_the_channels_go(name: str) -> None:
    model = simplify(model_from_proto(light_model(name)), Context()).boldest.model
    groups = find_groups(model)
    assert len(groups.groups) == GROUPS[name]
    keep, widths = np.ones(len(groups.group_of), bool), groups.widths
    for index, group in enumerate(groups.groups):
        lost = [u for block in group.partition for u in block[::2]]
        keep[group.units[lost]] = False
        widths[index] -= len(lost)
    attempt = cut(groups.algebra, keep)
    assert not lint(attempt.model) and (attempt.model.inputs, attempt.model.outputs) == (model.inputs, model.outputs)
    assert difference(attempt, random_data(model.inputs, 1, 0)) <= TOLERANCE
    assert groups.macs.at(widths) < 0.7 * groups.macs.at(groups.widths)
