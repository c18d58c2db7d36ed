"""What the runtime made of a graph: as it rewrote it, which nodes a provider took, and how long each takes."""

from __future__ import annotations

import json
import statistics
import tempfile
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
from graphcompress.runtime.place import Place, open_for
from graphcompress.runtime.session import Feed, LocalSession

KERNEL_TIME = "_kernel_time"
WEIGHTS_FILE = "weights"
SMALLEST_OUTSIDE = "1024"  # bytes


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
    """One node of the graph that the runtime executes, and the median wall time of its runs, in microseconds."""

    name: str
    op: str
    provider: str
    microseconds: float


def kernel_times(model: Model, feeds: Sequence[Feed], provider: str = "cpu", *, repeats: int = 10, config: Mapping[str, str] | None = None) -> list[Kernel]:
    """Time of every node that the runtime executes, with one thread, in the order of execution. Raises ModelError or DataError where it does not load or run."""
    with tempfile.TemporaryDirectory(prefix="graphcompress-") as folder:
        profiling = {"enable_profiling": True, "profile_file_prefix": str(Path(folder, "profile"))}
        with LocalSession(model, provider=provider, threads=1, config=config, attributes=profiling) as session:
            for _ in range(repeats):
                for feed in feeds:
                    session.run(feed)
            events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    times: dict[tuple[str, str, str], list[float]] = {}
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith(KERNEL_TIME):
            arguments = event["args"]
            key = (event["name"].removesuffix(KERNEL_TIME), str(arguments.get("op_name", "")), str(arguments.get("provider", "")))
            times.setdefault(key, []).append(float(event["dur"]))
    return [Kernel(*key, microseconds=statistics.median(durations) * len(durations) / (repeats * len(feeds))) for key, durations in times.items()]
