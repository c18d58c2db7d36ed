"""A place in another process: models and feeds go there as bytes, and this process needs no onnxruntime."""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from graphcompress import errors
from graphcompress.ir import Model, TensorSpec, to_bytes
from graphcompress.runtime.measure import Footprint
from graphcompress.runtime.session import Feed, Seconds


def serve() -> None:
    """The other side: requests are (what, arguments), answers (error class or None, value)."""
    import onnx

    from graphcompress.ir import model_from_proto
    from graphcompress.runtime.place import LocalPlace
    from graphcompress.runtime.session import LocalSession

    place = LocalPlace()
    sessions: list[LocalSession] = []

    def answer(what: str, *arguments: Any) -> Any:
        match what:
            case "describe":
                return place.describe()
            case "open":
                content, threads, dims, label = arguments
                sessions.append(place.open(model_from_proto(onnx.load_from_string(content)), threads=threads, dims=dims, label=label))
                return len(sessions) - 1, sessions[-1].inputs, sessions[-1].outputs
        number, *rest = arguments
        return getattr(sessions[number], what.removesuffix("_session"))(*rest)

    while True:
        try:
            request = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        try:
            reply = None, answer(*request)
        except errors.GraphCompressError as problem:
            reply = type(problem).__name__, str(problem)
        pickle.dump(reply, sys.stdout.buffer)
        sys.stdout.buffer.flush()


class ChildPlace:
    """See `graphcompress.runtime.place.Place`. `opened` counts the sessions, by thread setting."""

    def __init__(self) -> None:
        self.opened: list[int | None] = []
        code = f"import sys; sys.path[:0] = {sys.path!r}; import child_place; child_place.serve()"
        self._process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    @property
    def reference(self) -> ChildPlace:
        return self

    def open(self, model: Model | Path, *, threads: int | None = None, dims: Mapping[str, int] | None = None, label: str | None = None) -> ChildSession:
        self.opened.append(threads)
        content = model.read_bytes() if isinstance(model, Path) else to_bytes(model)
        return ChildSession(self, *self.ask("open", content, threads, dims, label))

    def describe(self) -> dict[str, Any]:
        described: dict[str, Any] = self.ask("describe")
        return described | {"machine": "elsewhere"}

    def footprint(self, model: Path, feed: Feed) -> Footprint:
        return Footprint(0.5, 1000)

    def ask(self, *request: Any) -> Any:
        assert self._process.stdin is not None and self._process.stdout is not None
        pickle.dump(request, self._process.stdin)
        self._process.stdin.flush()
        error, value = pickle.load(self._process.stdout)
        if error is not None:
            raise getattr(errors, error)(value)
        return value

    def end(self) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait()


class ChildSession:
    """See `graphcompress.runtime.session.Session`."""

    def __init__(self, place: ChildPlace, number: int, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]) -> None:
        self._place = place
        self._number = number
        self.inputs = inputs
        self.outputs = outputs

    def run(self, feed: Feed) -> dict[str, Any]:
        outputs: dict[str, Any] = self._place.ask("run", self._number, feed)
        return outputs

    def time(self, feeds: Sequence[Feed], repeats: int) -> Seconds:
        return Seconds(*self._place.ask("time", self._number, list(feeds), repeats))

    def describe(self) -> dict[str, Any]:
        described: dict[str, Any] = self._place.ask("describe_session", self._number)
        return described

    def assigned_nodes(self) -> list[str] | None:
        nodes: list[str] | None = self._place.ask("assigned_nodes", self._number)
        return nodes

    def close(self) -> None:
        self._place.ask("close", self._number)
