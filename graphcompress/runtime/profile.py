"""What the runtime made of a graph: as it rewrote it, which nodes a provider took, and how long each takes."""

from __future__ import annotations

import contextlib
import json
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from graphcompress.ir.files import parse, read
from graphcompress.ir.files.snapshot import Snapshot
from graphcompress.ir.files.weights import message_and_weights
from graphcompress.ir.model.model import Model
from graphcompress.runtime.place import LocalPlace, Place, open_for
from graphcompress.runtime.session import Feed, LocalSession

WEIGHTS_FILE = "weights"
SMALLEST_OUTSIDE = "1024"  # bytes
KERNEL = "_kernel_time"
FEWEST_RUNS, MOST_RUNS = 8, 60
SECONDS = 2.0
"""CPU time that runs under the profiler take, all models together, where the fewest runs take no longer."""


def optimized_model(model: Model, provider: str = "cpu", *, feed: Feed | None = None, config: Mapping[str, str] | None = None) -> Model:
    """The graph that the runtime executes. With `feed` it is run once, so that kernels that fail at each run are found. The message of a `Snapshot` is used as it is,
    and stays for whoever asks for it next; for any other model one is put together that does not hold its large weights.

    Raises ModelError where it does not load or run, or where the provider compiles nodes into a form that cannot be saved; DataError where the feed does not
    fit. Large weights are not part of it: they are references to a file that is gone, and nothing remains on disk.
    """
    with tempfile.TemporaryDirectory(prefix="graphcompress-") as folder:
        place = Path(folder, "optimized.onnx")
        source, weights = (model, {}) if isinstance(model, Snapshot) else _without_weights(model)
        settings = {
            **(config or {}),
            "session.optimized_model_external_initializers_file_name": WEIGHTS_FILE,
            "session.optimized_model_external_initializers_min_size_in_bytes": SMALLEST_OUTSIDE,
        }
        with LocalSession(
            source,
            provider=provider,
            threads=1,
            config=settings,
            attributes={"optimized_model_filepath": str(place)},
            label=str(model.path or "the model"),
            initializers=weights,
        ) as session:
            if feed is not None:
                session.run(feed)
        return read.model_from_proto(parse.parse(place), check=False)


def _without_weights(model: Model) -> tuple[bytes, dict[str, np.ndarray[Any, Any]]]:
    message, weights = message_and_weights(model)
    return message.SerializeToString(), weights


def nodes_taken(model: Model, place: Place, *, feed: Feed) -> list[str] | None:
    """Names of the nodes that the provider of `place` took, None where the runtime there does not say. The model is run once on `feed`, with dimensions fixed to its sizes where the provider
    wants that. Raises as `optimized_model` does."""
    session, _ = open_for(place, model, [feed], threads=1)
    with closing(session):
        session.run(feed)
        return session.assigned_nodes()


@dataclass(frozen=True, slots=True)
class Kernel:
    """What the runtime executes for one or more nodes, and the time of one run in ns."""

    name: str
    op: str
    provider: str
    ns: float


def kernel_times(models: Sequence[Model], feeds: Sequence[Feed], place: LocalPlace) -> list[list[Kernel]]:
    """The time of each kernel of each model at `place`, one thread, all models in turn: the mean of the fastest quarter of the runs, added up over kernels of one name.

    Raises ModelError or DataError as a session does.
    """
    with tempfile.TemporaryDirectory(prefix="graphcompress-") as folder, contextlib.ExitStack() as stack:
        sessions = []
        for number, model in enumerate(models):
            attributes = {"enable_profiling": True, "profile_file_prefix": str(Path(folder, str(number)))}
            sessions.append(stack.enter_context(LocalSession(model, provider=place.provider, threads=1, config=dict(place.config), attributes=attributes)))
        begin = time.process_time()
        for round_ in range(MOST_RUNS):
            if round_ >= FEWEST_RUNS and time.process_time() - begin > SECONDS:
                break
            for session in sessions:
                session.run(feeds[round_ % len(feeds)])
        return [_kernels(json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))) for session in sessions]


def _kernels(events: Sequence[Mapping[str, Any]]) -> list[Kernel]:
    """From the events of a trace (times in us), in the order of execution. The first run does not count: it reserves memory."""
    runs: list[dict[tuple[str, str, str], float]] = [{}]
    for event in events:
        name = str(event.get("name", ""))
        if event.get("cat") == "Node" and name.endswith(KERNEL):
            arguments = event.get("args", {})
            kernel = name.removesuffix(KERNEL), str(arguments.get("op_name", "")), str(arguments.get("provider", ""))
            runs[-1][kernel] = runs[-1].get(kernel, 0.0) + 1000.0 * float(event["dur"])
        elif name == "model_run":
            runs.append({})
    samples: dict[tuple[str, str, str], list[float]] = {}
    for run in runs[1:-1]:
        for kernel, ns in run.items():
            samples.setdefault(kernel, []).append(ns)
    return [Kernel(*kernel, ns=_fast(values)) for kernel, values in samples.items()]


def _fast(values: Sequence[float]) -> float:
    quarter = sorted(values)[: max(1, len(values) // 4)]
    return sum(quarter) / len(quarter)
