"""An onnxruntime session: one serialized model, run, timed, and asked where its nodes went. Needs nothing but numpy and onnxruntime, since workers elsewhere use it too
(`elsewhere/`); what knows of `Model` is `session.LocalSession`."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from graphcompress.errors import DataError, ModelError
from graphcompress.runtime import ort, providers
from graphcompress.runtime.ort import Optimize

Array: TypeAlias = np.ndarray[Any, Any]
Feed: TypeAlias = dict[str, Array]


class Seconds(NamedTuple):
    """`wall` time, and `cpu` time of the thread that did all the work; None where several threads did, or where the system's clock is too coarse."""

    wall: float
    cpu: float | None


class OrtSession:
    """`inputs`, `outputs` and `optional` (initializers that may be fed) are triples of name, onnxruntime's type ("tensor(float)") and shape; `weights` are kept for
    as long as the session, which reads them in place."""

    def __init__(
        self,
        content: str | bytes,
        *,
        provider: str = "cpu",
        threads: int | None = None,
        optimize: Optimize = "all",
        dims: Mapping[str, int] | None = None,
        config: Mapping[str, str] | None = None,
        attributes: Mapping[str, Any] | None = None,
        label: str = "the model",
        weights: Mapping[str, np.ndarray[Any, Any]] | None = None,
    ) -> None:
        """`content` is a serialized model or the path of one; the rest as for `session.LocalSession`.

        Raises UsageError for an unknown provider, RuntimeUnavailable for one that was not got, ModelError where onnxruntime cannot load the model.
        """
        self.provider = providers.find(provider)
        self.threads = threads
        self.label = label
        settings = ort.options(threads=threads, optimize=optimize, dims=dims)
        self._can_count = hasattr(ort.load().InferenceSession, "get_provider_graph_assignment_info")
        if self._can_count:
            settings.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        for key, value in (config or {}).items():
            settings.add_session_config_entry(key, value)
        for key, value in (attributes or {}).items():
            setattr(settings, key, value)
        # Of an array that is not contiguous the runtime would make a copy, and refuse it.
        self._weights = {name: ort.load().OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array)) for name, array in (weights or {}).items()}
        if self._weights:
            settings.add_external_initializers(list(self._weights), list(self._weights.values()))
        if self.provider.plugin:
            settings.add_provider_for_devices(list(self.provider.devices), dict(self.provider.options))
        try:
            self._session: Any = ort.create(content, settings, providers.chain(self.provider, threads))
        except ort.failures() as problem:
            where = "" if self.provider.name == providers.CPU else f" on {self.provider.name}"
            raise ModelError(f"onnxruntime cannot load {label}{where}: {ort.one_line(problem)}") from problem
        got = self._session.get_providers()
        if self.provider.name not in got:
            self.close()
            providers.refuse(provider, self.provider, got)
        self.inputs, self.outputs, self.optional = (
            tuple((a.name, a.type, tuple(a.shape)) for a in values)
            for values in (self._session.get_inputs(), self._session.get_outputs(), self._session.get_overridable_initializers())
        )
        self._names = [name for name, _, _ in self.outputs]
        self._fed = {name for name, _, _ in (*self.inputs, *self.optional)}

    def run(self, feed: Feed, names: Sequence[str] | None = None) -> dict[str, Any]:
        """Outputs by name (all, or `names`). Raises DataError where the feed does not fit, ModelError where the model fails on it."""
        outputs = list(names) if names is not None else self._names
        if not outputs:  # onnxruntime reads an empty list as "all"
            return {}
        try:
            values = self._session.run(outputs, feed)
        except ort.failures() as problem:
            raise self._failure(problem) from problem
        # An input that is an output is, in 1.24, a view of the caller's memory that does not keep it alive.
        return {name: np.array(value) if name in self._fed else _plain(value) for name, value in zip(outputs, values, strict=True)}

    def time(self, feeds: Sequence[Feed], repeats: int) -> Seconds:
        """Time of one pass over `feeds`, mean of `repeats`. With one thread the CPU provider computes in the thread that calls; Windows counts a thread's time in steps of
        16 ms. Raises as `run` does."""
        run = self._session.run
        alone = self.threads == 1 and self.provider.name == providers.CPU and sys.platform != "win32"
        try:
            wall, cpu = time.perf_counter(), time.thread_time()
            for _ in range(repeats):
                for feed in feeds:
                    run(None, feed)
            cpu, wall = time.thread_time() - cpu, time.perf_counter() - wall
        except ort.failures() as problem:
            raise self._failure(problem) from problem
        return Seconds(wall / repeats, cpu / repeats if alone else None)

    def got(self) -> list[str]:
        """Whole names of the providers of this session."""
        return list(self._session.get_providers())

    def assignment(self) -> dict[str, list[str]] | None:
        """The names of the nodes that each provider took, None where this onnxruntime does not say."""
        if not self._can_count:
            return None
        taken: dict[str, list[str]] = {}
        for part in self._session.get_provider_graph_assignment_info():
            taken.setdefault(part.ep_name, []).extend(n.name for n in part.get_nodes())
        return dict(sorted(taken.items()))

    def end_profiling(self) -> str:
        """Path of the profile that a session opened with `enable_profiling` has written."""
        return str(self._session.end_profiling())

    def close(self) -> None:
        """Free everything. A closed session cannot run."""
        self._session = None
        self._weights = {}
        ort.return_memory()

    def _failure(self, problem: Exception) -> Exception:
        kind = DataError if ort.misfit(problem) else ModelError
        return kind(f"onnxruntime cannot run {self.label}: {ort.one_line(problem)}")


def _plain(value: Any) -> Any:
    """Arrays, lists, dicts and None as they are; a sparse tensor as a dict of its values and its shape."""
    if isinstance(value, np.ndarray | list | dict | str | int | float | np.generic) or value is None:
        return value
    if hasattr(value, "dense_shape"):
        return {"values": np.asarray(value.values()), "shape": np.asarray(value.dense_shape())}
    return value.numpy() if hasattr(value, "numpy") else value
