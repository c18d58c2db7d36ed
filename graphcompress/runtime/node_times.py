"""How long each node of a model takes inside a whole run, from onnxruntime's profile.

The runtime fuses and renames nodes. In a copy of the message every node and every tensor between nodes is named after the node's number, and what the runtime makes of them
keeps such a name; kernels that it adds by itself (reordered layouts, casts) count for the node that ran before them.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from graphcompress.ir.files.numbered import name_by_number, number_in
from graphcompress.ir.files.weights import message_and_weights
from graphcompress.ir.model.model import Model
from graphcompress.ir.model.objects import Node
from graphcompress.runtime.session import Feed, LocalSession

FEWEST_RUNS, MOST_RUNS = 5, 50
BUDGET_S = 1.0


def node_times(model: Model, feed: Feed, *, threads: int = 1, config: Mapping[str, str] | None = None) -> dict[Node, float]:
    """Seconds per run of the nodes of the main graph, on the CPU provider; what is fused counts for one of its nodes, and others are missing. Of many runs the mean of the faster half:
    what else the machine does only ever adds time.

    Raises ModelError where the model does not load or run, DataError where the feed does not fit.
    """
    message, weights = message_and_weights(model)
    nodes = list(model.graph.nodes)
    name_by_number(message.graph)
    with tempfile.TemporaryDirectory(prefix="graphcompress-") as folder:
        attributes = {"enable_profiling": True, "profile_file_prefix": str(Path(folder, "profile"))}
        with LocalSession(message.SerializeToString(), threads=threads, config=config, attributes=attributes, initializers=weights) as session:
            begin = time.perf_counter()
            for run in range(MOST_RUNS):
                if run >= FEWEST_RUNS and time.perf_counter() - begin > BUDGET_S:
                    break
                session.run(feed)
            events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    seconds: dict[Node, float] = {}
    for number, times in _kernel_times(events).items():
        times = sorted(times)
        seconds[nodes[number]] = float(np.mean(times[: (len(times) + 1) // 2])) * 1e-6
    return seconds


def _kernel_times(events: list[dict[str, object]]) -> dict[int, list[float]]:
    """Number of a node -> its time in each run, in microseconds."""
    runs: list[dict[int, float]] = []
    last: int | None = None
    for event in sorted((e for e in events if e.get("ph") == "X"), key=lambda e: float(str(e["ts"]))):
        name = str(event["name"])
        if name == "model_run":
            runs.append({})
            last = None
        elif event.get("cat") == "Node" and name.endswith("_kernel_time") and runs:
            number = number_in(name)
            last = last if number is None else number
            if last is not None:
                runs[-1][last] = runs[-1].get(last, 0.0) + float(str(event["dur"]))
    return {number: [run.get(number, 0.0) for run in runs] for number in {n for run in runs for n in run}}
