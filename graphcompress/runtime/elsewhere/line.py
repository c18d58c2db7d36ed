"""The line to a worker: a process, and messages to and from it, with a limit on every wait. Nothing of it outlives this process."""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import subprocess
import threading
import time
import weakref
from collections import deque
from collections.abc import Mapping, Sequence
from typing import BinaryIO, NoReturn, TypeAlias, cast

from graphcompress import errors
from graphcompress.errors import GraphCompressError, PlaceError
from graphcompress.runtime.elsewhere import wire

END_S = 2.0
"""How long a worker may take to end by itself."""
LAST_WORDS = 4096
CRASHES = ("SIGSEGV", "SIGABRT", "SIGILL", "SIGBUS", "SIGFPE")
"""How a process ends whose native code failed."""

Answer: TypeAlias = tuple[wire.Head, list[wire.Array]]


class Crash(PlaceError):
    """The runtime ended the worker while it worked on a request: a fault of its native code on this model."""


class Line:
    """A started worker. `end` it."""

    def __init__(
        self, name: str, words: Sequence[str], program: bytes, *, limit: float, silence: float, folder: str | None = None, env: Mapping[str, str] | None = None
    ) -> None:
        """Start `words`, send `program`, and wait for the worker's first message. `limit` is what one request may take, `silence` how long a worker that is at work
        may give no sign of life, in seconds. Raises PlaceError."""
        self.name = name
        self._limit = limit
        self._silence = silence
        self._beats = False
        self._log: deque[bytes] = deque(maxlen=64)
        self._replies: queue.SimpleQueue[tuple[wire.Head, bytearray] | wire.WireError | GraphCompressError | None] = queue.SimpleQueue()
        self._requests: queue.SimpleQueue[tuple[wire.Head, wire.Body, int] | None] = queue.SimpleQueue()
        self._begin = self._life = time.monotonic()
        try:
            self._process = subprocess.Popen(
                list(words),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                cwd=folder,
                env={**os.environ, **(env or {})},
                start_new_session=True,  # so that all of it can be ended at once
            )
        except OSError as problem:
            raise PlaceError(f"The place '{name}' cannot be started: {words[0]}: {problem.strerror or problem}. Check its command.") from problem
        # Also where this process ends without a word to the worker.
        self._finalizer = weakref.finalize(self, kill, self._process)
        pipes = [cast(BinaryIO, pipe) for pipe in (self._process.stdin, self._process.stdout, self._process.stderr)]
        self._threads = [
            threading.Thread(target=self._write, args=(pipes[0], program), daemon=True),
            threading.Thread(target=self._read, args=(pipes[1],), daemon=True),
            threading.Thread(target=self._listen, args=(pipes[2],), daemon=True),
        ]
        for thread in self._threads:
            thread.start()
        hello = self._wait("when it was started")[0]
        if hello.get("protocol") != wire.PROTOCOL:
            self._fail(f"speaks version {hello.get('protocol')} of the protocol, and this is version {wire.PROTOCOL}: use the worker of this version")
        self._beats = hello.get("beat") is not None

    def ask(self, head: wire.Head, arrays: Sequence[wire.Array] = (), body: wire.Body = (), length: int = 0) -> Answer:
        """Send a request with arrays (or another body) and wait for the answer. Raises what the worker raises, PlaceError where there is no answer, and Crash where its
        runtime ended it."""
        if arrays:
            described, body, length = wire.array_body(arrays)
            head = {**head, "arrays": described}
        self._requests.put((head, body, length))
        reply, content = self._wait(f"at the request '{head['op']}'")
        if "error" in reply:
            kind = getattr(errors, str(reply["error"]), None)
            if isinstance(kind, type) and issubclass(kind, GraphCompressError) and kind is not errors.BarMissed:
                raise kind(f"{reply.get('text')} (at the place '{self.name}')")
            raise PlaceError(f"The place '{self.name}' could not do it: {reply.get('text')}.")
        try:
            return reply, wire.arrays_of(reply, content)
        except wire.WireError as problem:
            self._fail(f"gave an answer that is none: {problem}")

    @property
    def ended(self) -> bool:
        """Whether the worker is gone."""
        return not self._finalizer.alive

    def end(self) -> None:
        """End the worker: it may do so by itself, else it is killed with all that it started."""
        if self._finalizer.alive:
            self._requests.put(None)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(END_S)
        self._stop()

    # --- waiting ------------------------------------------------------------------------------------------------------------------------

    def _wait(self, when: str) -> tuple[wire.Head, bytearray]:
        """The next answer."""
        self._begin = self._life = time.monotonic()
        while True:
            now = time.monotonic()
            left = self._begin + self._limit - now
            quiet = self._life + self._silence - now if self._beats else left
            if left <= 0:
                self._fail(f"took longer than its limit of {self._limit:g} s {when}: raise `limit` in places.toml, or give it less to do")
            if quiet <= 0:
                self._fail(f"gave no sign of life for {self._silence:g} s {when}: it hangs, or the line to it is lost")
            try:
                reply = self._replies.get(timeout=max(0.01, min(left, quiet)))
            except queue.Empty:
                continue
            if isinstance(reply, wire.WireError):
                self._fail(f"does not speak the protocol {when}: {reply}")
            if isinstance(reply, GraphCompressError):
                self._stop()
                raise reply
            if reply is None:
                self._died(when)
            if "beat" not in reply[0] or "protocol" in reply[0]:
                return reply

    def _died(self, when: str) -> NoReturn:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(END_S)
        status = self._process.poll()
        self._threads[2].join(END_S)  # its last words
        if status is None:
            self._fail(f"closed the line {when}")
        ending = _signal(status)
        how = f"was ended by {ending}" if ending else f"ended with status {status}"
        hint = " (perhaps for lack of memory)" if ending == "SIGKILL" else ""
        self._fail(f"{how}{hint} {when}", Crash if ending in CRASHES else PlaceError)

    def _fail(self, what: str, kind: type[PlaceError] = PlaceError) -> NoReturn:
        self._stop()
        words = b"".join(self._log).decode("utf-8", "replace").strip().splitlines()
        said = f" It said: {words[-1].strip()[:300]}" if words else ""
        need = " Python with numpy and an onnxruntime is all that it needs." if "No module named" in said else ""
        raise kind(f"The worker at the place '{self.name}' {what}.{said}{need}")

    def _stop(self) -> None:
        self._requests.put(None)
        self._finalizer()
        for thread in self._threads:
            thread.join(END_S)

    # --- threads ------------------------------------------------------------------------------------------------------------------------

    def _write(self, stream: BinaryIO, program: bytes) -> None:
        with contextlib.suppress(OSError):  # the reader tells that the worker is gone
            stream.write(program)
            stream.flush()
            while (request := self._requests.get()) is not None:
                head, body, length = request
                try:
                    wire.write_message(stream, head, body, length, self._sent)
                except GraphCompressError as problem:  # what should have been sent cannot be read
                    self._replies.put(problem)
                    break
        with contextlib.suppress(OSError):
            stream.close()

    def _read(self, stream: BinaryIO) -> None:
        try:
            while (message := wire.read_message(stream)) is not None:
                self._alive()
                self._replies.put((message.head, message.read(self._alive)))
            self._replies.put(None)
        except wire.WireError as problem:
            self._replies.put(problem)
            with contextlib.suppress(OSError, ValueError):
                while stream.read(wire.BLOCK):  # or the worker would wait for us for ever
                    pass
        except (OSError, ValueError):
            self._replies.put(None)
        with contextlib.suppress(OSError):
            stream.close()

    def _listen(self, stream: BinaryIO) -> None:
        with contextlib.suppress(OSError, ValueError):
            while text := os.read(stream.fileno(), LAST_WORDS):
                self._log.append(text)
        with contextlib.suppress(OSError):
            stream.close()

    def _sent(self) -> None:
        """The limit is for the work: it begins when the request is there, however slow the line is."""
        self._begin = self._life = time.monotonic()

    def _alive(self) -> None:
        self._life = time.monotonic()


def kill(process: subprocess.Popen[bytes]) -> None:
    """End a process and all that it started, and wait for it."""
    if hasattr(os, "killpg") and hasattr(signal, "SIGKILL"):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()
    process.wait()


def _signal(status: int) -> str:
    """The name of the signal that ended a process, "" where none did. A shell says 128 and the signal's number."""
    number = -status if status < 0 else status - 128 if 128 < status < 160 else 0
    try:
        return signal.Signals(number).name
    except ValueError:
        return ""
