"""The other side of a place: serves models to the process that started it, over standard input and output. It is sent along with the modules that it uses
(`sources.py`), and needs Python, numpy and an onnxruntime there, nothing else.

Requests, each answered by one message, {"error": class, "text": sentence} where it fails:

    {"op": "describe", "provider"}                                       runtime, version, provider, machine
    {"op": "model", "digest", "files": [[name, bytes]]}  body: files     keeps a model
    {"op": "open", "session", "model", "provider", "threads", "config", "label"}   inputs, outputs; or {"missing": [digest]}
    {"op": "run", "session", "feed": {name: digest}, "fresh", "arrays"}  values of all outputs; or {"missing": [digest]}
    {"op": "time", "session", "feeds": [...], "repeats", "fresh", "arrays"}        seconds of one pass; or {"missing": [digest]}
    {"op": "state", "session"}                                           providers got, nodes that each took
    {"op": "memory"}                                                     highest resident memory of the worker so far
    {"op": "close", "session"}
    {"op": "noise"}                                                      what equal work takes here, again and again

Arrays of feeds are sent once ("fresh", by their hashes) and kept, the latest KEPT bytes of them; so are models, the latest KEPT_MODELS. While a request is worked on,
{"beat": true} goes out every BEAT_S seconds: its absence tells a hanging machine or a lost line from long work.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import threading
import time
from collections import OrderedDict
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from graphcompress.errors import GraphCompressError
from graphcompress.runtime import machine, ort, ort_session, providers
from graphcompress.runtime.elsewhere import wire

BEAT_S = 1.0
KEPT = 256 * 2**20
KEPT_MODELS = 4
IN_MEMORY = 64 * 2**20  # bytes of a model, above which it goes through a file
NOISE_BLOCKS = 200
FOLDER = "graphcompress-worker-"


class Worker:
    """What is kept between requests: models and feeds by hash, sessions by number."""

    def __init__(self) -> None:
        self.arrays: OrderedDict[str, Any] = OrderedDict()
        self.models: OrderedDict[str, bytes | str] = OrderedDict()
        self.sessions: dict[int, ort_session.OrtSession] = {}
        self.folder: str | None = None

    def answer(self, message: wire.Message) -> tuple[wire.Head, list[wire.Array]]:
        """The answer to a request, with its arrays. Raises GraphCompressError, OSError or MemoryError, and WireError for what is no request."""
        head = message.head
        if head.get("op") == "model":
            return self.keep_model(head, message), []
        arrays = wire.arrays_of(head, message.read())
        match head:
            case {"op": "describe", "provider": str(provider)}:
                return self.describe(provider), []
            case {"op": "noise"}:
                return {"seconds": noise()}, []
            case {"op": "open", "session": int(number)}:
                return self.open(number, head), []
            case {"op": "run" | "time", "session": int(number)} if number in self.sessions:
                return self.compute(self.sessions[number], head, arrays)
            case {"op": "state", "session": int(number)} if number in self.sessions:
                return {"providers": self.sessions[number].got(), "assignment": self.sessions[number].assignment()}, []
            case {"op": "memory"}:
                return {"peak": machine.peak_memory()}, []
            case {"op": "close", "session": int(number)}:
                if number in self.sessions:
                    self.sessions.pop(number).close()
                return {}, []
        raise wire.WireError(f"a request that nothing answers: {str(head)[:80]}")

    def describe(self, provider: str) -> wire.Head:
        """See `place.Place.describe`; with the memory of the machine and the version of Python."""
        found = providers.find(provider)
        return {
            **ort.describe(),
            "provider": providers.short(found.name),
            "usable": list(providers.usable()),
            "python": ".".join(map(str, sys.version_info[:3])),
            "memory": machine.memory(),
            **machine.describe(),
        }

    def keep_model(self, head: wire.Head, message: wire.Message) -> wire.Head:
        """Take in the files of a model: one small one stays in memory."""
        files = [(str(name), int(size)) for name, size in head["files"]]
        if len(files) == 1 and message.length <= IN_MEMORY:
            self.models[head["digest"]] = bytes(message.read())
        else:
            self.folder = self.folder or tempfile.mkdtemp(prefix=f"{FOLDER}{os.getpid()}-")
            folder = Path(self.folder, head["digest"])
            folder.mkdir(exist_ok=True)
            receive_files(folder, files, message)
            self.models[head["digest"]] = str(folder / files[0][0])
        while len(self.models) > KEPT_MODELS:
            _, oldest = self.models.popitem(last=False)
            if isinstance(oldest, str):
                shutil.rmtree(Path(oldest).parent, ignore_errors=True)
        return {}

    def open(self, number: int, head: wire.Head) -> wire.Head:
        """Open a session on a model that is kept."""
        if head["model"] not in self.models:
            return {"missing": [head["model"]]}
        self.models.move_to_end(head["model"])
        begin = time.perf_counter()
        session = ort_session.OrtSession(
            self.models[head["model"]], provider=head["provider"], threads=head["threads"], config=head["config"], label=head["label"]
        )
        self.sessions[number] = session
        return {"inputs": session.inputs, "outputs": session.outputs, "seconds": time.perf_counter() - begin}

    def compute(self, session: ort_session.OrtSession, head: wire.Head, arrays: list[wire.Array]) -> tuple[wire.Head, list[wire.Array]]:
        """Run one feed or time several."""
        feeds = [head["feed"]] if head["op"] == "run" else head["feeds"]
        for name, tree in head["fresh"].items():
            self.arrays[name] = wire.unpack(tree, arrays)
        missing = [d for d in dict.fromkeys(d for feed in feeds for d in feed.values()) if d not in self.arrays]
        if missing:
            return {"missing": missing}, []
        taken = [{name: self.arrays[d] for name, d in feed.items()} for feed in feeds]
        for feed in feeds:
            for d in feed.values():
                self.arrays.move_to_end(d)
        total = sum(a.nbytes for a in self.arrays.values())
        while total > KEPT and len(self.arrays) > 1:
            total -= self.arrays.popitem(last=False)[1].nbytes
        if head["op"] == "time":
            return session.time(taken, head["repeats"])._asdict(), []
        out: list[wire.Array] = []
        return {"values": [[name, wire.pack(value, out)] for name, value in session.run(taken[0]).items()]}, out

    def close(self) -> None:
        """Remove what lies on the disk."""
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)


def receive_files(folder: Path, files: list[tuple[str, int]], message: wire.Message) -> None:
    """Write the body of a message to files. Where that fails (a full disk) nothing of them stays."""
    blocks, rest = message.blocks(), memoryview(b"")
    try:
        for name, size in files:
            if Path(name).name != name:
                raise wire.WireError(f"{name!r} is not the name of a file")
            with (folder / name).open("wb") as file:
                while size:
                    rest = rest or memoryview(next(blocks))
                    block, rest = rest[:size], rest[size:]
                    size -= len(block)
                    file.write(block)
    except OSError:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    message.drain()


def noise() -> list[float]:
    """Seconds that equal pieces of work of about a millisecond take, one after the other."""
    numbers = np.linspace(0, 1, 100_000)  # tanh, which one thread computes
    seconds = []
    for _ in range(NOISE_BLOCKS):
        begin = time.perf_counter()
        np.tanh(numbers)
        seconds.append(time.perf_counter() - begin)
    return seconds


def remove_leftovers() -> None:
    """Folders of workers that were killed: their processes are gone."""
    for folder in Path(tempfile.gettempdir()).glob(f"{FOLDER}*"):
        number = folder.name.removeprefix(FOLDER).split("-")[0]
        if number.isdigit() and sys.platform != "win32" and not _alive(int(number)):
            shutil.rmtree(folder, ignore_errors=True)


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


class Beat:
    """Says every BEAT_S seconds that a request is being worked on. Where nobody listens any more the process ends, whatever it is doing."""

    def __init__(self, out: BinaryIO) -> None:
        self.lock = threading.Lock()
        self.busy = threading.Event()
        self._out = out
        threading.Thread(target=self._beat, daemon=True).start()

    def _beat(self) -> None:
        while self.busy.wait():
            time.sleep(BEAT_S)
            with self.lock:
                if self.busy.is_set():
                    try:
                        wire.write_message(self._out, {"beat": True})
                    except OSError:
                        os._exit(1)


def serve(requests: BinaryIO, out: BinaryIO) -> None:
    """Answer requests until there are no more."""
    remove_leftovers()
    beat, worker = Beat(out), Worker()
    wire.write_message(out, {"protocol": wire.PROTOCOL, "beat": BEAT_S})
    try:
        while (message := wire.read_message(requests)) is not None:
            beat.busy.set()
            arrays: list[wire.Array] = []
            try:
                head, arrays = worker.answer(message)
            except (GraphCompressError, OSError, MemoryError) as problem:
                head = {"error": error_class(problem), "text": str(problem) or "there is not enough memory"}
            message.drain()
            with beat.lock:
                beat.busy.clear()
                described, body, length = wire.array_body(arrays)
                wire.write_message(out, {**head, "arrays": described}, body, length)
    finally:
        worker.close()


def error_class(problem: Exception) -> str:
    """The name of the error that the other side raises; "" for what is the fault of this machine."""
    return type(problem).__name__ if isinstance(problem, GraphCompressError) else ""


def main() -> None:
    """What is printed here, by whatever library, goes to standard error: standard output is the line."""
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    try:
        serve(sys.stdin.buffer, out)
    except (wire.WireError, BrokenPipeError) as problem:
        sys.exit(str(problem))
