"""What must hold between a case and a cut of it: the oracle agrees, shapes are those of before, the checker finds nothing."""

from __future__ import annotations

import numpy as np

from differential.program import Case
from differential.running import Fault, failure, loaded, original, signature
from graphcompress.errors import ModelError
from graphcompress.ir import lint, to_proto
from graphcompress.passes.prune.cut import cut
from graphcompress.passes.prune.groups import find_groups
from graphcompress.passes.prune.oracle import TOLERANCE, difference


def judge_prune(case: Case) -> Fault | None:
    """A random cut of all groups, at most to two units of each. Raises Discarded."""
    original(case)
    random = np.random.default_rng([5, case.seed])
    try:
        groups = find_groups(loaded(case.model))
        keep = np.ones(len(groups.group_of), bool)
        for group in groups.groups:
            count = random.integers(0, max(1, group.size // group.step - 1))
            keep[group.units[[u for block in group.partition for u in random.permutation(block)[:count]]]] = False
        attempt = cut(groups.algebra, keep)
        result = to_proto(attempt.model)
        if keep.all():
            return None
        faults = lint(attempt.model)
        apart = difference(attempt, case.feeds)
    except ModelError as problem:
        return Fault("does not load or run", str(problem).split(":")[-1][:60], str(problem))
    except Exception as problem:  # noqa: BLE001
        return failure("prune raises", problem)
    if faults:
        return Fault("not valid", str(faults[0])[:60], str(faults), result)
    if wrong := signature(case.model, result):
        return Fault("signature", wrong.split(":")[0], wrong, result)
    if apart > TOLERANCE:
        names = ", ".join(g.name for g in groups.groups if not keep[g.units].all())
        return Fault("values", names, f"the cut of {names} is {apart:.3g} off", result)
    return None
