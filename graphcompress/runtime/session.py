"""Sessions: where a model runs.

`Session` is all that `compare` and `measure` know of a runtime. Whoever judges a model gets its sessions from a `Place` (place.py); `open_session` is for what always runs
in this process on the CPU provider: folding and observation.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

import numpy as np

from graphcompress.errors import GraphCompressError, ModelError
from graphcompress.ir.model.element_types import numpy_dtype
from graphcompress.ir.model.model import Model
from graphcompress.ir.model.objects import TensorSpec
from graphcompress.runtime import machine, ort, providers
from graphcompress.runtime.ort import Optimize
from graphcompress.runtime.ort_session import Feed, OrtSession, Seconds

__all__ = ["Feed", "LocalSession", "Seconds", "Session", "open_session", "shares", "specs", "typed", "with_fixed_dims"]

# From this size on an untouched model is run from its own file, and a changed one from a temporary file: bytes would be held twice.
LARGE = 64 * 2**20
UNNAMED = re.compile(r"(.+)\[(\d+)\]")


class Runnable(Protocol):
    """What gives outputs for feeds."""

    outputs: tuple[TensorSpec, ...]

    def run(self, feed: Feed) -> dict[str, Any]:
        """All outputs by name: arrays (strings as object arrays), lists for sequences, dicts for maps, None for an empty optional.

        Raises DataError where the feed does not fit, ModelError where the model fails on it."""
        ...


class Session(Runnable, Protocol):
    """A model ready to run. `inputs` are those that must be fed."""

    inputs: tuple[TensorSpec, ...]

    def time(self, feeds: Sequence[Feed], repeats: int) -> Seconds:
        """Time of one pass over `feeds`, mean of `repeats` passes, measured where the model runs."""
        ...

    def describe(self) -> dict[str, Any]:
        """Runtime and version, `providers` got, `threads`, what `shares` says of the nodes, machine and CPU flags: JSON data."""
        ...

    def assigned_nodes(self) -> list[str] | None:
        """Names of the nodes that the provider asked for took, None where the runtime does not say."""
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
        self._folder: str | None = None
        named = {k: v for k, v in (dims or {}).items() if not UNNAMED.fullmatch(k)}
        unnamed = {k: v for k, v in (dims or {}).items() if UNNAMED.fullmatch(k)}
        try:
            self.core = OrtSession(
                self._source(model, unnamed),
                provider=provider,
                threads=threads,
                optimize=optimize,
                dims=named,
                config=config,
                attributes=attributes,
                label=label or ("the model" if isinstance(model, bytes) else str(model.path or "the model") if isinstance(model, Model) else str(model)),
                weights=initializers,
            )
        except GraphCompressError:
            self._remove()
            raise
        self.inputs, self.outputs, self.optional = (specs(values) for values in (self.core.inputs, self.core.outputs, self.core.optional))

    def run(self, feed: Feed, names: Sequence[str] | None = None) -> dict[str, Any]:
        """See `Session.run`; `names` picks outputs."""
        return typed(self.core.run(feed, names), self.outputs)

    def time(self, feeds: Sequence[Feed], repeats: int) -> Seconds:
        """See `Session.time`."""
        return self.core.time(feeds, repeats)

    def describe(self) -> dict[str, Any]:
        """See `Session.describe`."""
        return {
            **ort.describe(),
            "providers": self.core.got(),
            "threads": self.core.threads,
            **shares(self.core.provider.name, self.core.assignment(), self.inputs),
            **machine.describe(),
        }

    def assigned_nodes(self) -> list[str] | None:
        """See `Session.assigned_nodes`."""
        assignment = self.core.assignment()
        return None if assignment is None else assignment.get(self.core.provider.name, [])

    def close(self) -> None:
        """See `Session.close`."""
        self.core.close()
        self._remove()

    def end_profiling(self) -> str:
        """Path of the profile that a session opened with `enable_profiling` has written."""
        return self.core.end_profiling()

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
            model = with_fixed_dims(model, unnamed)
        message = snapshot.snapshot_of(model).message
        if message.length < LARGE:
            return b"".join(message.blocks())
        if write.is_its_file(model):
            return str(model.path)
        self._folder = tempfile.mkdtemp(prefix="graphcompress-")
        place = Path(self._folder, "model.onnx")
        write.save(model, place, external_data=True)
        return str(place)

    def _remove(self) -> None:
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None


def specs(values: Iterable[tuple[str, str, Sequence[Any]]]) -> tuple[TensorSpec, ...]:
    """onnxruntime's names, types ("tensor(float)", "seq(...)", "map(...)", "optional(...)") and shapes as TensorSpecs."""
    return tuple(_spec(*value) for value in values)


def _spec(name: str, declared: str, shape: Sequence[Any]) -> TensorSpec:
    outer, _, inner = declared.partition("(")
    kind = {"seq": "sequence"}.get(outer, outer)
    if kind not in ("tensor", "sparse_tensor"):
        return TensorSpec(name, None, None, kind)
    return TensorSpec(name, inner.removesuffix(")"), tuple(d if isinstance(d, int | str) else None for d in shape), kind)


def typed(values: dict[str, Any], outputs: Iterable[TensorSpec]) -> dict[str, Any]:
    """Values by name with their own types: of float8 onnxruntime hands out the codes as uint8."""
    float8 = {o.name: o.dtype for o in outputs if o.dtype is not None and o.dtype.startswith("float8")}
    return {name: value.view(numpy_dtype(float8[name])) if name in float8 and isinstance(value, np.ndarray) else value for name, value in values.items()}


def shares(provider: str, assignment: Mapping[str, Sequence[str]] | None, inputs: Iterable[TensorSpec]) -> dict[str, Any]:
    """What `Session.describe` says of the nodes that each provider took: `provider` (the one asked for), `nodes` counts them, `share` is the part of that provider
    (both None where the runtime does not say), `hint` says what hinders a provider that took less than half of them."""
    if assignment is None:
        return {"provider": provider, "nodes": None, "share": None, "hint": None}
    nodes = {name: len(taken) for name, taken in assignment.items()}
    total, assigned = sum(nodes.values()), nodes.get(provider, 0)
    hint = None if assigned * 2 >= total or provider == providers.CPU else _hint(provider, assigned, total, inputs)
    return {"provider": provider, "nodes": nodes, "share": assigned / max(1, total), "hint": hint}


def _hint(provider: str, assigned: int, total: int, inputs: Iterable[TensorSpec]) -> str:
    says = f"{provider} took {f'only {assigned}' if assigned else 'none'} of the {total} nodes, the others run on the CPU provider"
    free = [f"'{s.name}' axis {i}" + (f" ({d})" if d else "") for s in inputs for i, d in enumerate(s.shape or ()) if not isinstance(d, int)]
    free += [f"'{s.name}' (its rank is free)" for s in inputs if s.shape is None and s.kind == "tensor"]
    if free:
        return (
            f"{says}: dimensions of the inputs are free ({', '.join(free)}), and it may need them fixed. "
            "Give feeds that all have the same shapes, or export the model with fixed dimensions."
        )
    return f"{says}: it seems to support {'few' if assigned else 'none'} of these operators with these element types and shapes."


def with_fixed_dims(model: Model, dims: Mapping[str, int]) -> Model:
    """A copy, for one session, whose input dimensions have the sizes `dims` (see `open_session`). What the file says of inner tensors and outputs stays: the runtime infers them anew."""
    from graphcompress.ir.files import build, read

    proto = build.to_proto(model)
    sizes = {(m.group(1), int(m.group(2))): size for key, size in dims.items() if (m := UNNAMED.fullmatch(key))}
    for info in proto.graph.input:
        for axis, dim in enumerate(info.type.tensor_type.shape.dim):
            size = sizes.get((info.name, axis), dims.get(dim.dim_param))
            if size is not None:
                dim.dim_value = size
    return read.model_from_proto(proto, source=model, check=False)
