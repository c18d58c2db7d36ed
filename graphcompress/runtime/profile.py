"""Where each node ends: the graph as the runtime rewrote it, the time of each kernel, the provider of each node."""

from __future__ import annotations

import json
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from graphcompress.errors import ModelError
from graphcompress.ir.model import walk
from graphcompress.ir.model.model import Model
from graphcompress.runtime import ort, providers
from graphcompress.runtime.session import Feed, LocalSession

REPEATS = 30  # durations are whole microseconds; the median of fewer is too coarse


@dataclass(frozen=True, slots=True)
class OptimizedNode:
    """A node of the optimized graph. Domains: "" ai.onnx, "com.microsoft" fused and integer kernels, "com.microsoft.nchwc" blocked float ones.
    Node names are the runtime's own; tensor names at the borders of fused groups are the model's."""

    op: str
    domain: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attrs: Mapping[str, Any] = field(compare=False)


@dataclass(frozen=True, slots=True)
class NodeTime:
    """A node's median time over the runs in microseconds (sum over its executions within one run), with shapes as {type: dims} per tensor."""

    name: str
    op: str
    provider: str
    microseconds: float
    input_shapes: tuple[Any, ...]
    output_shapes: tuple[Any, ...]


def optimized_model(model: Model | Path, provider: str = "cpu", *, optimize: Literal["all", "basic"] = "all") -> Model:
    """The graph that the runtime executes. Raises ModelError where it does not load, or where the provider compiles nodes into a form that cannot be saved.

    Its tensors are in memory: nothing remains on disk.
    """
    from graphcompress.ir.files import parse, read

    with tempfile.TemporaryDirectory(prefix="graphcompress-") as folder:
        place = Path(folder, "optimized.onnx")
        with LocalSession(model, provider=provider, threads=1, optimize=optimize, attributes={"optimized_model_filepath": str(place)}):
            pass
        return read.model_from_proto(parse.parse(place), check=False)


def optimized_nodes(model: Model | Path, provider: str = "cpu") -> list[OptimizedNode]:
    """Nodes of the optimized graph in its order, subgraphs included. Raises as `optimized_model` does."""
    return [
        OptimizedNode(n.op, "" if n.standard else n.domain, n.name, tuple(t.name for t in n.inputs), tuple(t.name for t in n.outputs), dict(n.attrs))
        for n in walk.nodes(optimized_model(model, provider))
    ]


def node_times(model: Model | Path, feeds: Sequence[Feed], provider: str = "cpu", *, threads: int | None = 1, repeats: int = REPEATS) -> list[NodeTime]:
    """Kernel times from the runtime's profile, over `repeats` passes over `feeds` after a first one, in execution order.

    Their sum is less than the time of an unprofiled run, and a profiled run about a tenth slower: scale to the unprofiled time.
    """
    runs = _profile(model, feeds, provider, threads, repeats)
    times: dict[str, list[float]] = {}
    seen: dict[str, Mapping[str, Any]] = {}
    for run in runs[len(feeds) :]:
        sums: dict[str, float] = {}
        for event in run:
            key = event["name"].removesuffix("_kernel_time")
            sums[key] = sums.get(key, 0.0) + event["dur"]
            seen.setdefault(key, event.get("args", {}))
        for key, total in sums.items():
            times.setdefault(key, []).append(total)
    return [
        NodeTime(
            name=key,
            op=seen[key].get("op_name", ""),
            provider=seen[key].get("provider", ""),
            microseconds=statistics.median(times[key]),
            input_shapes=tuple(seen[key].get("input_type_shape", ())),
            output_shapes=tuple(seen[key].get("output_type_shape", ())),
        )
        for key in times
    ]


def nodes_by_provider(model: Model | Path, provider: str = "cpu", feed: Feed | None = None, *, dims: Mapping[str, int] | None = None) -> dict[str, int]:
    """How many nodes each provider takes. Exact from onnxruntime 1.24 on; before, executed nodes are counted in a profiled run of `feed`, where a compiled part is one.

    Raises ModelError where an older onnxruntime has no feed to count with.
    """
    with LocalSession(model, provider=provider, dims=dims) as session:
        nodes: dict[str, int] | None = session.describe()["nodes"]
    if nodes is not None:
        return nodes
    if feed is None:
        raise ModelError(
            f"onnxruntime {ort.load().__version__} tells the provider of a node only in a run, and no feed was given. Give one, or install 1.24 or newer."
        )
    counts: dict[str, int] = {}
    for event in _profile(model, [feed], provider, 1, 0, dims)[0]:
        name = event.get("args", {}).get("provider") or providers.CPU
        counts[name] = counts.get(name, 0) + 1
    return dict(sorted(counts.items()))


def _profile(
    model: Model | Path, feeds: Sequence[Feed], provider: str, threads: int | None, repeats: int, dims: Mapping[str, int] | None = None
) -> list[list[dict[str, Any]]]:
    """Kernel events of each run: one pass over `feeds`, then `repeats` more."""
    with tempfile.TemporaryDirectory(prefix="graphcompress-") as folder:
        settings = {"enable_profiling": True, "profile_file_prefix": str(Path(folder, "profile"))}
        with LocalSession(model, provider=provider, threads=threads, dims=dims, attributes=settings) as session:
            try:
                for _ in range(repeats + 1):
                    for feed in feeds:
                        session.run(feed)
            finally:
                written = session.end_profiling()
        events = _events(Path(written))
    runs: list[list[dict[str, Any]]] = []
    kernels = (e for e in events if e.get("cat") == "Node" and e["name"].endswith("_kernel_time"))
    ends = sorted(e["ts"] + e["dur"] for e in events if e.get("cat") == "Session" and e["name"] == "model_run")
    waiting = sorted(kernels, key=lambda e: int(e["ts"]))
    position = 0
    for end in ends:
        begin = position
        while position < len(waiting) and waiting[position]["ts"] <= end:
            position += 1
        runs.append(waiting[begin:position])
    return runs


def _events(path: Path) -> list[dict[str, Any]]:
    """A profile's events; an unfinished list is closed."""
    text = path.read_text(encoding="utf-8").rstrip()
    found: list[dict[str, Any]] = json.loads(text if text.endswith("]") else text.rstrip(",") + "]")
    return found
