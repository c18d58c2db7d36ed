"""What the runtime made of a graph: as it rewrote it, which nodes a provider took, and how long each takes."""

from __future__ import annotations

import contextlib
import json
import tempfile
import time
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from graphcompress.ir.files import parse, read
from graphcompress.ir.files.numbered import name_tensors, numbered, numbers_in
from graphcompress.ir.files.snapshot import Snapshot
from graphcompress.ir.files.weights import message_and_weights
from graphcompress.ir.model.model import Model
from graphcompress.ir.model.objects import Node
from graphcompress.ir.model.walk import producer
from graphcompress.runtime.place import LocalPlace, Place, open_for
from graphcompress.runtime.session import Feed, LocalSession

WEIGHTS_FILE = "weights"
SMALLEST_OUTSIDE = "1024"  # bytes
KERNEL = "_kernel_time"
LONGEST_FUSION = 5
"""Nodes that the runtime computes in one kernel, at most."""
FEWEST_RUNS, MOST_RUNS = 8, 60
SECONDS = 2.0
"""CPU time that runs under the profiler take, all models together, where the fewest runs take no longer."""


def optimized_model(
    model: Model,
    provider: str = "cpu",
    *,
    feed: Feed | None = None,
    config: Mapping[str, str] | None = None,
    check: Callable[[Mapping[str, Any]], None] | None = None,
) -> Model:
    """The graph that the runtime executes. With `feed` it is run once, so that kernels that fail at each run are found; `check` gets what comes out, and raises where that cannot be. The message of a `Snapshot` is used as it is,
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
                outputs = session.run(feed)
                if check is not None:
                    check(outputs)
        return read.model_from_proto(parse.parse(place), check=False)


def _without_weights(model: Model) -> tuple[bytes, dict[str, np.ndarray[Any, Any]]]:
    message, weights = message_and_weights(model)
    return message.SerializeToString(), weights


def nodes_taken(model: Model, place: Place, *, feed: Feed, check: Callable[[Mapping[str, Any]], None] | None = None) -> list[str] | None:
    """Names of the nodes that the provider of `place` took, None where the runtime there does not say. The model is run once on `feed`, with dimensions fixed to its sizes where the provider
    wants that; `check` as for `optimized_model`. Raises as that does."""
    session, _ = open_for(place, model, [feed], threads=1)
    with closing(session):
        outputs = session.run(feed)
        if check is not None:
            check(outputs)
        return session.assigned_nodes()


@dataclass(frozen=True, slots=True)
class Kernel:
    """What the runtime executes: `node` is the node of the model that it computes, together with what was fused into that; None for what the runtime adds by itself (casts, layouts).
    `ns` is the time of one run, without that of the subgraphs in it."""

    name: str
    op: str
    provider: str
    ns: float
    node: Node | None = None


def kernel_times(models: Sequence[Model], feeds: Sequence[Feed], place: LocalPlace, *, threads: int = 1) -> list[list[Kernel]]:
    """The time of each kernel of each model at `place`, in the order of execution, all models in turn: the mean of the fastest quarter of the runs, since what else the machine does only
    ever adds time; added up over kernels of one name.

    Raises ModelError or DataError as a session does.
    """
    with tempfile.TemporaryDirectory(prefix="graphcompress-") as folder, contextlib.ExitStack() as stack:
        sessions, numbers = [], []
        for number, model in enumerate(models):
            with numbered(model) as everything:
                message, weights = message_and_weights(model)
            name_tensors(message.graph)
            numbers.append(everything)
            attributes = {"enable_profiling": True, "profile_file_prefix": str(Path(folder, str(number)))}
            session = LocalSession(
                message.SerializeToString(), provider=place.provider, threads=threads, config=dict(place.config), attributes=attributes, initializers=weights
            )
            sessions.append(stack.enter_context(session))
        begin = time.process_time()
        for round_ in range(MOST_RUNS):
            if round_ >= FEWEST_RUNS and time.process_time() - begin > SECONDS:
                break
            for session in sessions:
                session.run(feeds[round_ % len(feeds)])
        return [_kernels(_events(Path(session.end_profiling())), everything) for session, everything in zip(sessions, numbers, strict=True)]


def _events(trace: Path) -> Iterator[Mapping[str, Any]]:
    """The events of a trace, a JSON list, one by one: a node in a loop has one for each time round, and all of them as Python objects would take many times the file. Each stands on a line
    of its own; one that goes over several is put together."""
    held = ""
    with trace.open(encoding="utf-8") as lines:
        for line in lines:
            held += line.strip()
            try:
                events = json.loads(held.removesuffix(",")) if held not in ("", "[", "]") else []
            except ValueError:
                continue
            held = ""
            yield from events if isinstance(events, list) else [events]


def _kernels(events: Iterable[Mapping[str, Any]], everything: Sequence[Node]) -> list[Kernel]:
    """From the events of a trace (start and duration in us, entered as they end), in the order of execution. The first run does not count: it reserves memory."""
    runs: list[dict[tuple[str, str, str], float]] = [{}]
    ended: list[tuple[float, float]] = []  # of this run, what lies in no other so far
    for event in events:
        name = str(event.get("name", ""))
        if event.get("cat") == "Node" and name.endswith(KERNEL):
            arguments = event.get("args", {})
            kernel = name.removesuffix(KERNEL), str(arguments.get("op_name", "")), str(arguments.get("provider", ""))
            start, duration, inside = float(event["ts"]), float(event["dur"]), 0.0
            while ended and ended[-1][0] >= start:
                inside += ended.pop()[1]
            ended.append((start, duration))
            runs[-1][kernel] = runs[-1].get(kernel, 0.0) + 1000.0 * max(0.0, duration - inside)
        elif name == "model_run":
            runs.append({})
            ended = []
    samples: dict[tuple[str, str, str], list[float]] = {}
    for run in runs[1:-1]:
        for kernel, ns in run.items():
            samples.setdefault(kernel, []).append(ns)
    named = {kernel: [everything[number] for number in numbers_in(kernel[0])] for kernel in samples}
    busy = {node for members in named.values() for node in members}
    return [Kernel(*kernel, _fast(values), _computed(kernel[1], named[kernel], busy)) for kernel, values in samples.items()]


def _computed(op: str, named: Sequence[Node], busy: Container[Node]) -> Node | None:
    """The node that a kernel `op` computes, which is called after the nodes `named`: one of these, or one before the last of them (a Conv in a blocked layout is called after the last
    tensor of what was fused into it), as far as no other kernel is called after those between (`busy`)."""
    if not named:
        return None
    for node in named:
        if _is_computed_by(node, op):
            return node
    node = named[-1]
    for _ in range(LONGEST_FUSION):
        makers = [maker for tensor in node.inputs if (maker := producer(tensor)) is not None and maker not in busy]
        if not makers:
            break
        node = next((maker for maker in makers if _is_computed_by(maker, op)), makers[0])
        if _is_computed_by(node, op):
            return node
    return named[-1]


def _is_computed_by(node: Node, op: str) -> bool:
    """Whether a kernel `op` (Conv, FusedConv, QLinearConv) computes such a node. A MatMul and the Add behind it become a Gemm."""
    return node.op in op or (node.op == "MatMul" and "Gemm" in op)


def _fast(values: Sequence[float]) -> float:
    quarter = sorted(values)[: max(1, len(values) // 4)]
    return sum(quarter) / len(quarter)
