"""Sessions: where a model runs.

`Session` is all that `compare` and `measure` know of a runtime. Whoever judges a model gets its sessions from a `Place` (place.py); `open_session` is for what always runs
in this process on the CPU provider: folding and observation.
"""

from __future__ import annotations

import re
import shutil
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Protocol, Self, TypeAlias

import numpy as np

from graphcompress.errors import DataError, GraphCompressError, ModelError
from graphcompress.ir.model.element_types import numpy_dtype
from graphcompress.ir.model.model import Model
from graphcompress.ir.model.objects import TensorSpec
from graphcompress.runtime import machine, ort, providers
from graphcompress.runtime.ort import Optimize

Feed: TypeAlias = dict[str, np.ndarray[Any, Any]]

# From this size on an untouched model is run from its own file, and a changed one from a temporary file: bytes would be held twice.
LARGE = 64 * 2**20
UNNAMED = re.compile(r"(.+)\[(\d+)\]")


class Seconds(NamedTuple):
    """`wall` time, and `cpu` time of the thread that did all the work; None where several threads did, or where the system's clock is too coarse."""

    wall: float
    cpu: float | None


class Session(Protocol):
    """A model ready to run. `inputs` are those that must be fed."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    def run(self, feed: Feed) -> dict[str, Any]:
        """All outputs by name: arrays (strings as object arrays), lists for sequences, dicts for maps, None for an empty optional.

        Raises DataError where the feed does not fit, ModelError where the model fails on it."""
        ...

    def time(self, feeds: Sequence[Feed], repeats: int) -> Seconds:
        """Time of one pass over `feeds`, mean of `repeats` passes, measured where the model runs."""
        ...

    def describe(self) -> dict[str, Any]:
        """Runtime and version, provider asked for, providers got, nodes per provider, machine, CPU flags, threads: JSON data."""
        ...

    def close(self) -> None:
        """Free everything. A closed session cannot run."""
        ...


def open_session(
    model: Model | Path | str,
    *,
    provider: str = "cpu",
    threads: int | None = None,
    optimize: Optimize = "all",
    dims: Mapping[str, int] | None = None,
) -> LocalSession:
    """A session in this process.

    `provider` is any name that onnxruntime knows, short or whole; `threads` those inside an operator (None: the runtime's default);
    `dims` fixes free dimensions: a symbol's size under its name, an unnamed dimension's under "INPUT[AXIS]" (`place.fixed_dims` makes it from a feed).
    Raises UsageError for an unknown provider, RuntimeUnavailable for one that was not got, ModelError where onnxruntime cannot load the model.
    """
    return LocalSession(model, provider=provider, threads=threads, optimize=optimize, dims=dims)


class LocalSession:
    """A `Session` on the onnxruntime of this process. Use it in a `with` block, or `close` it."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    optional: tuple[TensorSpec, ...]

    def __init__(
        self,
        model: Model | Path | str | bytes,
        *,
        provider: str = "cpu",
        threads: int | None = None,
        optimize: Optimize = "all",
        dims: Mapping[str, int] | None = None,
        config: Mapping[str, str] | None = None,
        attributes: Mapping[str, Any] | None = None,
        label: str | None = None,
        initializers: Mapping[str, np.ndarray[Any, Any]] | None = None,
    ) -> None:
        """As `open_session`; `config` are entries of onnxruntime's session configuration, `attributes` fields of its SessionOptions, `label` is what messages call the model.

        A model may also be a message whose large weights lie in `initializers`, by name, so that they are not in the message once more.
        """
        self._provider = providers.find(provider)
        self._threads = threads
        self._folder: str | None = None
        self._label = label or ("the model" if isinstance(model, bytes) else str(model.path or "the model") if isinstance(model, Model) else str(model))
        named = {k: v for k, v in (dims or {}).items() if not UNNAMED.fullmatch(k)}
        unnamed = {k: v for k, v in (dims or {}).items() if UNNAMED.fullmatch(k)}
        settings = ort.options(threads=threads, optimize=optimize, dims=named)
        self._can_count = hasattr(ort.load().InferenceSession, "get_provider_graph_assignment_info")
        if self._can_count:
            settings.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        for key, value in (config or {}).items():
            settings.add_session_config_entry(key, value)
        for key, value in (attributes or {}).items():
            setattr(settings, key, value)
        # Kept for as long as the session, which reads the arrays in place; of an array that is not contiguous the runtime would make a copy, and refuse it.
        self._weights = {name: ort.load().OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array)) for name, array in (initializers or {}).items()}
        if self._weights:
            settings.add_external_initializers(list(self._weights), list(self._weights.values()))
        if self._provider.plugin:
            settings.add_provider_for_devices(list(self._provider.devices), dict(self._provider.options))
        try:
            self._session: Any = ort.create(self._source(model, unnamed), settings, providers.chain(self._provider, threads))
        except ort.failures() as problem:
            self.close()
            where = "" if self._provider.name == providers.CPU else f" on {self._provider.name}"
            raise ModelError(f"onnxruntime cannot load {self._label}{where}: {ort.one_line(problem)}") from problem
        except GraphCompressError:
            self.close()
            raise
        got = self._session.get_providers()
        if self._provider.name not in got:
            self.close()
            providers.refuse(provider, self._provider, got)
        self.inputs = tuple(_spec(a) for a in self._session.get_inputs())
        self.outputs = tuple(_spec(a) for a in self._session.get_outputs())
        self.optional = tuple(_spec(a) for a in self._session.get_overridable_initializers())
        self._names = [o.name for o in self.outputs]
        # onnxruntime hands out the codes of these types as uint8.
        self._float8 = {o.name: o.dtype for o in self.outputs if o.dtype is not None and o.dtype.startswith("float8")}
        self._fed = {s.name for s in (*self.inputs, *self.optional)}

    def run(self, feed: Feed, names: Sequence[str] | None = None) -> dict[str, Any]:
        """See `Session.run`; `names` picks outputs."""
        outputs = list(names) if names is not None else self._names
        if not outputs:  # onnxruntime reads an empty list as "all"
            return {}
        try:
            values = self._session.run(outputs, feed)
        except ort.failures() as problem:
            kind = DataError if ort.misfit(problem) else ModelError
            raise kind(f"onnxruntime cannot run {self._label}: {ort.one_line(problem)}") from problem
        return {name: self._value(name, value) for name, value in zip(outputs, values, strict=True)}

    def time(self, feeds: Sequence[Feed], repeats: int) -> Seconds:
        """See `Session.time`. With one thread the CPU provider computes in the thread that calls; Windows counts a thread's time in steps of 16 ms."""
        run = self._session.run
        alone = self._threads == 1 and self._provider.name == providers.CPU and sys.platform != "win32"
        try:
            wall, cpu = time.perf_counter(), time.thread_time()
            for _ in range(repeats):
                for feed in feeds:
                    run(None, feed)
            cpu, wall = time.thread_time() - cpu, time.perf_counter() - wall
        except ort.failures() as problem:
            kind = DataError if ort.misfit(problem) else ModelError
            raise kind(f"onnxruntime cannot run {self._label}: {ort.one_line(problem)}") from problem
        return Seconds(wall / repeats, cpu / repeats if alone else None)

    def describe(self) -> dict[str, Any]:
        """See `Session.describe`. `nodes` counts nodes of the graph as it was divided among providers, `share` is the part that the asked provider took
        (both None where this onnxruntime does not say), `hint` says what to do where it took none."""
        nodes = self._nodes()
        share = None if nodes is None else nodes.get(self._provider.name, 0) / max(1, sum(nodes.values()))
        return {
            **ort.describe(),
            "provider": self._provider.name,
            "providers": list(self._session.get_providers()),
            "nodes": nodes,
            "share": share,
            "hint": self._hint(nodes),
            "threads": self._threads,
            **machine.describe(),
        }

    def assigned_nodes(self) -> list[str] | None:
        """Names of the nodes that the provider asked for took, None where this onnxruntime does not say."""
        if not self._can_count:
            return None
        return [n.name for part in self._session.get_provider_graph_assignment_info() if part.ep_name == self._provider.name for n in part.get_nodes()]

    def close(self) -> None:
        """See `Session.close`."""
        self._session = None
        self._weights = {}
        ort.return_memory()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None

    def end_profiling(self) -> str:
        """Path of the profile that a session opened with `enable_profiling` has written."""
        return str(self._session.end_profiling())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    # --- inside -----------------------------------------------------------------------------------------------------------------

    def _source(self, model: Model | Path | str | bytes, unnamed: Mapping[str, int]) -> str | bytes:
        """What onnxruntime reads: the bytes of a small model; of a large one its own file where it is untouched, else a temporary file with external data."""
        from graphcompress.ir.files import read, snapshot, write

        if isinstance(model, bytes):
            return model
        if not isinstance(model, Model):
            if not Path(model).is_file():
                raise ModelError(f"{model} is not a file.")
            if not unnamed:
                return str(model)
            model = read.load(model)
        if unnamed:
            model = _with_fixed_dims(model, unnamed)
        message = snapshot.snapshot_of(model).message
        if message.length < LARGE:
            return b"".join(message.blocks())
        if write.is_its_file(model):
            return str(model.path)
        self._folder = tempfile.mkdtemp(prefix="graphcompress-")
        place = Path(self._folder, "model.onnx")
        write.save(model, place, external_data=True)
        return str(place)

    def _value(self, name: str, value: Any) -> Any:
        if not isinstance(value, np.ndarray):
            return _plain(value)
        if name in self._fed:  # an input that is an output: in 1.24 a view of the caller's memory that does not keep it alive
            return np.array(value)
        return value.view(numpy_dtype(self._float8[name])) if name in self._float8 else value

    def _nodes(self) -> dict[str, int] | None:
        if not self._can_count:
            return None
        counts: dict[str, int] = {}
        for part in self._session.get_provider_graph_assignment_info():
            counts[part.ep_name] = counts.get(part.ep_name, 0) + len(part.get_nodes())
        return dict(sorted(counts.items()))

    def _hint(self, nodes: Mapping[str, int] | None) -> str | None:
        """What hinders a provider that took less than half of the nodes."""
        name, total = self._provider.name, sum((nodes or {}).values())
        assigned = (nodes or {}).get(name, 0)
        if nodes is None or assigned * 2 >= total or name == providers.CPU:
            return None
        says = f"{name} took {f'only {assigned}' if assigned else 'none'} of the {total} nodes, the others run on the CPU provider"
        free = [f"'{s.name}' axis {i}" + (f" ({d})" if d else "") for s in self.inputs for i, d in enumerate(s.shape or ()) if not isinstance(d, int)]
        free += [f"'{s.name}' (its rank is free)" for s in self.inputs if s.shape is None and s.kind == "tensor"]
        if free:
            return (
                f"{says}: dimensions of the inputs are free ({', '.join(free)}), and it may need them fixed. "
                "Give feeds that all have the same shapes, or export the model with fixed dimensions."
            )
        return f"{says}: it seems to support {'few' if assigned else 'none'} of these operators with these element types and shapes."


def _spec(arg: Any) -> TensorSpec:
    """onnxruntime's "tensor(float)", "seq(...)", "map(...)", "optional(...)" as a TensorSpec."""
    outer, _, inner = arg.type.partition("(")
    kind = {"seq": "sequence"}.get(outer, outer)
    if kind not in ("tensor", "sparse_tensor"):
        return TensorSpec(arg.name, None, None, kind)
    shape = tuple(d if isinstance(d, int | str) else None for d in arg.shape)
    return TensorSpec(arg.name, inner.removesuffix(")"), shape, kind)


def _plain(value: Any) -> Any:
    """Lists, dicts and None as they are; a sparse tensor as a dict of its values and its shape."""
    if isinstance(value, list | dict | str | int | float | np.generic) or value is None:
        return value
    if hasattr(value, "dense_shape"):
        return {"values": np.asarray(value.values()), "shape": np.asarray(value.dense_shape())}
    return value.numpy() if hasattr(value, "numpy") else value


def _with_fixed_dims(model: Model, unnamed: Mapping[str, int]) -> Model:
    """A copy, for one session, whose unnamed input dimensions have sizes. What the file says of inner tensors and outputs stays: the runtime infers them anew."""
    from graphcompress.ir.files import build, read

    proto = build.to_proto(model)
    sizes = {(m.group(1), int(m.group(2))): size for key, size in unnamed.items() if (m := UNNAMED.fullmatch(key))}
    for info in proto.graph.input:
        for axis, dim in enumerate(info.type.tensor_type.shape.dim):
            if (info.name, axis) in sizes:
                dim.dim_value = sizes[info.name, axis]
    return read.model_from_proto(proto, source=model, check=False)
