"""What the runtime made of a graph: as it rewrote it, and which nodes a provider took."""

from __future__ import annotations

import contextlib
import json
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from graphcompress.ir.files import parse, read
from graphcompress.ir.files.snapshot import Snapshot
from graphcompress.ir.files.weights import message_and_weights
from graphcompress.ir.model.model import Model
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


def nodes_taken(model: Model, provider: str, *, feed: Feed, config: Mapping[str, str] | None = None) -> list[str] | None:
    """Names of the nodes that `provider` took, None where this onnxruntime does not say. The model is run once on `feed`. Raises as `optimized_model` does."""
    with LocalSession(model, provider=provider, threads=1, config=config) as session:
        session.run(feed)
        return session.assigned_nodes()


KernelTimes = Mapping[str, float]
"""ns of one run by the name of the kernel."""


def kernel_times(models: Sequence[Model], feeds: Sequence[Feed], provider: str = "cpu", config: Mapping[str, str] | None = None) -> list[KernelTimes]:
    """The time of each kernel of each model, one thread, all models in turn: the mean of the fastest quarter of the runs, added up over kernels of one name.

    Raises ModelError or DataError as a session does.
    """
    with tempfile.TemporaryDirectory(prefix="graphcompress-") as folder, contextlib.ExitStack() as stack:
        sessions = []
        for number, model in enumerate(models):
            attributes = {"enable_profiling": True, "profile_file_prefix": str(Path(folder, str(number)))}
            sessions.append(stack.enter_context(LocalSession(model, provider=provider, threads=1, config=config, attributes=attributes)))
        begin = time.process_time()
        for round_ in range(MOST_RUNS):
            if round_ >= FEWEST_RUNS and time.process_time() - begin > SECONDS:
                break
            for session in sessions:
                session.run(feeds[round_ % len(feeds)])
        return [_kernels(json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))) for session in sessions]


def _kernels(events: Sequence[Mapping[str, Any]]) -> KernelTimes:
    """From the events of a trace (times in us) to ns of one run. The first run does not count: it reserves memory."""
    runs: list[dict[str, float]] = [{}]
    for event in events:
        name = str(event.get("name", ""))
        if event.get("cat") == "Node" and name.endswith(KERNEL):
            kernel = name.removesuffix(KERNEL)
            runs[-1][kernel] = runs[-1].get(kernel, 0.0) + 1000.0 * float(event["dur"])
        elif name == "model_run":
            runs.append({})
    samples: dict[str, list[float]] = {}
    for run in runs[1:-1]:
        for kernel, ns in run.items():
            samples.setdefault(kernel, []).append(ns)
    return {kernel: _fast(values) for kernel, values in samples.items()}


def _fast(values: Sequence[float]) -> float:
    quarter = sorted(values)[: max(1, len(values) // 4)]
    return sum(quarter) / len(quarter)
