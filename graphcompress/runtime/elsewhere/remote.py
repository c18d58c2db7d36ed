"""A place elsewhere: see `graphcompress.runtime.place.Place`. One worker serves all its sessions."""

from __future__ import annotations

import hashlib
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from graphcompress.errors import DataError, ModelError
from graphcompress.ir.files import read, serialize, snapshot
from graphcompress.ir.model.model import Model
from graphcompress.ir.model.objects import TensorSpec
from graphcompress.runtime import providers
from graphcompress.runtime.elsewhere import wire
from graphcompress.runtime.elsewhere.config import PlaceSpec
from graphcompress.runtime.elsewhere.line import Answer, Crash, Line
from graphcompress.runtime.elsewhere.sources import program
from graphcompress.runtime.measure import Footprint
from graphcompress.runtime.place import LocalPlace
from graphcompress.runtime.session import Feed, Seconds, shares, specs, typed, with_fixed_dims

FILE = "model.onnx"


class RemotePlace:
    """The place that `spec` describes, on `provider` (default: the one of `spec`, else the CPU provider). Use it in a `with` block, or `close` it."""

    def __init__(self, spec: PlaceSpec, provider: str | None = None, config: Mapping[str, str] | None = None) -> None:
        """`config` are entries of onnxruntime's session configuration. The worker starts when something is asked of it first."""
        self.spec = spec
        self.provider = provider or spec.provider or "cpu"
        self._config = dict(config or {})
        self._line: Line | None = None
        self._described: dict[str, Any] | None = None
        self._sessions = 0
        self.generation = 0
        """Rises with each worker that is started."""
        self.known: set[str] = set()
        """The arrays that the worker has been sent."""

    @property
    def name(self) -> str:
        """As the caller says it."""
        return self.spec.name

    @property
    def reference(self) -> LocalPlace:
        """See `Place.reference`: the CPU provider of this process."""
        return LocalPlace()

    def open(self, model: Model | Path, *, threads: int | None = None, dims: Mapping[str, int] | None = None, label: str | None = None) -> RemoteSession:
        """See `Place.open`. Raises PlaceError, too."""
        loaded = model if isinstance(model, Model) else read.load(model)
        named = label or str(loaded.path or "the model")
        if dims:
            loaded = with_fixed_dims(loaded, dims)
        self._sessions += 1
        return RemoteSession(self, self._sessions, Package(loaded), {"provider": self.provider, "threads": threads, "config": self._config, "label": named})

    def describe(self) -> dict[str, Any]:
        """See `Place.describe`; with `place` (its name), `timed` (whether times mean something there), `usable` (providers), `python` and `memory` (bytes). Raises PlaceError, too."""
        if self._described is None:
            self._described = {"place": self.name, "timed": self.spec.timing, **self.ask({"op": "describe", "provider": self.provider})[0]}
            self._described.pop("arrays", None)
        return self._described

    def clock_noise(self) -> float:
        """What the 90th percentile of equal pieces of work takes longer than their median, as a share."""
        seconds = sorted(self.ask({"op": "noise"})[0]["seconds"])
        return float(seconds[len(seconds) * 9 // 10] / statistics.median(seconds) - 1)

    def footprint(self, model: Path, feed: Feed) -> Footprint:
        """See `Place.footprint`: in a worker of its own."""
        with RemotePlace(self.spec, self.provider, self._config) as fresh, fresh.open(model, threads=1) as session:
            session.run(feed)
            return Footprint(session.load_seconds, int(fresh.ask({"op": "memory"})[0]["peak"]))

    def ask(self, head: wire.Head, arrays: Sequence[wire.Array] = (), body: wire.Body = (), length: int = 0) -> Answer:
        """Ask the worker. Raises as `Line.ask` does."""
        return self.start().ask(head, arrays, body, length)

    def start(self) -> Line:
        """The line to the worker, which is started where there is none, or none any more. Raises PlaceError."""
        if not self.started:
            self.close()
            self.generation += 1
            self.known = set()
            spec = self.spec
            self._line = Line(spec.name, spec.words(), program(spec.worker), limit=spec.limit, silence=spec.silence, folder=spec.folder, env=spec.env)
        assert self._line is not None
        return self._line

    @property
    def started(self) -> bool:
        """Whether there is a worker."""
        return self._line is not None and not self._line.ended

    def close(self) -> None:
        """End the worker."""
        if self._line is not None:
            self._line.end()
            self._line = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


class Package:
    """A model on its way: one message, or from 2 GiB on a message and a file of data. `digest` is what it is kept by."""

    def __init__(self, model: Model) -> None:
        whole = snapshot.snapshot_of(model).message
        if whole.length <= serialize.LARGEST_MESSAGE:
            self.files = [(FILE, whole)]
        else:
            message, data = serialize.with_data_file(model, f"{FILE}.data")
            self.files = [(FILE, message), (f"{FILE}.data", data)]
        known = hashlib.blake2b(digest_size=16)
        for block in self.body():
            known.update(block)
        self.digest = known.hexdigest()

    @property
    def length(self) -> int:
        """Bytes of all files."""
        return sum(pieces.length for _, pieces in self.files)

    def body(self) -> Iterable[bytes | memoryview]:
        """The files, one behind the other."""
        for _, pieces in self.files:
            yield from pieces.blocks()


class RemoteSession:
    """See `graphcompress.runtime.session.Session`. After the worker has been started again the session is opened again where it is used next."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    def __init__(self, place: RemotePlace, number: int, package: Package, settings: Mapping[str, Any]) -> None:
        self._place = place
        self._number = number
        self._package = package
        self._settings = dict(settings)
        self._generation = -1
        self.load_seconds = 0.0
        self._open()

    def run(self, feed: Feed) -> dict[str, Any]:
        """See `Session.run`. Raises PlaceError, too."""
        reply, arrays = self._compute({"op": "run", "feed": {}}, [feed])
        try:
            values = {name: wire.unpack(tree, arrays) for name, tree in reply["values"]}
        except (wire.WireError, KeyError, ValueError) as problem:
            raise ModelError(f"The place '{self._place.name}' gave outputs of {self._settings['label']} that are none: {problem}.") from problem
        return typed(values, self.outputs)

    def time(self, feeds: Sequence[Feed], repeats: int) -> Seconds:
        """See `Session.time`. Raises PlaceError, too."""
        reply, _ = self._compute({"op": "time", "feeds": [], "repeats": repeats}, feeds)
        return Seconds(reply["wall"], reply["cpu"])

    def describe(self) -> dict[str, Any]:
        """See `Session.describe`; with what the place says of itself."""
        state = self._ask({"op": "state", "session": self._number})[0]
        known = {providers.short(name): name for name in state["providers"]}
        provider = known.get(providers.short(self._place.provider), self._place.provider)
        return {
            **self._place.describe(),
            "providers": state["providers"],
            "threads": self._settings["threads"],
            **shares(provider, state["assignment"], self.inputs),
        }

    def assigned_nodes(self) -> list[str] | None:
        """See `Session.assigned_nodes`."""
        assignment = self._ask({"op": "state", "session": self._number})[0]["assignment"]
        if assignment is None:
            return None
        asked = providers.short(self._place.provider)
        return [node for name, taken in assignment.items() if providers.short(name) == asked for node in taken]

    def close(self) -> None:
        """See `Session.close`."""
        if self._place.started and self._generation == self._place.generation:
            self._place.ask({"op": "close", "session": self._number})
        self._generation = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    # --- inside -------------------------------------------------------------------------------------------------------------------------

    def _open(self) -> None:
        request = {"op": "open", "session": self._number, "model": self._package.digest, **self._settings}
        reply, _ = self._asked(request)
        if "missing" in reply:
            files = [[name, pieces.length] for name, pieces in self._package.files]
            self._asked({"op": "model", "digest": self._package.digest, "files": files}, body=self._package.body(), length=self._package.length)
            reply, _ = self._asked(request)
        self._generation = self._place.generation
        self.inputs, self.outputs = specs(reply["inputs"]), specs(reply["outputs"])
        self.load_seconds = float(reply["seconds"])

    def _compute(self, head: wire.Head, feeds: Sequence[Feed]) -> Answer:
        """Run or time: arrays that the worker does not have yet, or no longer, go along."""
        self._reopen()
        feeds = [{name: np.asarray(array) for name, array in feed.items()} for feed in feeds]
        digests = [{name: wire.digest(array) for name, array in feed.items()} for feed in feeds]
        content = {digest: feed[name] for feed, of_feed in zip(feeds, digests, strict=True) for name, digest in of_feed.items()}
        fresh = {digest for digest in content if digest not in self._place.known}
        head = {**head, "session": self._number} | ({"feed": digests[0]} if head["op"] == "run" else {"feeds": digests})
        while True:
            arrays: list[wire.Array] = []
            try:
                trees = {digest: wire.pack(content[digest], arrays) for digest in sorted(fresh)}
            except wire.WireError as problem:
                raise DataError(f"A feed cannot be sent to the place '{self._place.name}': {problem}.") from problem
            reply, values = self._ask({**head, "fresh": trees}, arrays)
            self._place.known |= fresh
            if "missing" not in reply:
                return reply, values
            fresh |= set(reply["missing"])

    def _ask(self, head: wire.Head, arrays: Sequence[wire.Array] = ()) -> Answer:
        self._reopen()
        return self._asked(head, arrays)

    def _reopen(self) -> None:
        self._place.start()
        if self._generation != self._place.generation:
            self._open()

    def _asked(self, head: wire.Head, arrays: Sequence[wire.Array] = (), body: wire.Body = (), length: int = 0) -> Answer:
        try:
            return self._place.ask(head, arrays, body, length)
        except Crash as problem:
            raise ModelError(f"{self._settings['label']} ended the runtime: {problem}") from problem
