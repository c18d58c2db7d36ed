"""More processes than one: a job is cut into parts, which processes of this machine or of a dask cluster do.

A job is sent once to each process that asks for it, and opened there once; then parts go back and forth. Outcomes come in the order of the parts, whoever was
first, so that what is made of them does not depend on who did what. A process that is lost costs the parts that it had: they are done again by others.
"""

from __future__ import annotations

import hashlib
import itertools
import pickle
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager, contextmanager
from importlib import import_module
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Protocol, TypeVar

from graphcompress.errors import ModelError, RuntimeUnavailable, UsageError
from graphcompress.ir import Model, to_bytes
from graphcompress.version import __version__

Part_contra = TypeVar("Part_contra", contravariant=True)
Outcome_co = TypeVar("Outcome_co", covariant=True)
P = TypeVar("P")
R = TypeVar("R")

AHEAD = 2
"""Parts per process that are under way, and so outcomes that may wait for an earlier one."""
LOSSES = 5
"""Processes that may be lost in a row, without one part done in between."""


class SharedJob(Protocol[Part_contra, Outcome_co]):
    """What is to be done; it can be pickled, and so can parts and outcomes."""

    def open(self) -> Callable[[Part_contra], Outcome_co]:
        """What does a part; called once in each process (thread, where a worker has several)."""
        ...


class Workers(Protocol):
    """Processes that do the parts of jobs."""

    @property
    def count(self) -> int:
        """How many there are."""
        ...

    def map(self, job: SharedJob[P, R], parts: Iterable[P]) -> Iterator[R]:
        """The outcome of each part, in their order. Raises what a part raises, and RuntimeUnavailable where processes are lost one after the other."""
        ...


def message_for(model: Model) -> bytes:
    """A model as it is sent to workers. Raises UsageError from 2 GiB on."""
    try:
        return to_bytes(model)
    except ModelError as problem:
        raise UsageError(f"Models from 2 GiB on cannot be sent to workers: leave out --workers and --cluster. {problem}") from problem


class _Opened(threading.local):
    """The job that this thread has open."""

    key = ""
    do: Callable[[Any], Any] | None = None


_opened = _Opened()


def _done(key: str, content: bytes | str, part: Any) -> Any:
    """In the worker: the outcome of a part. `content` is the pickled job, or the file that holds it."""
    if _opened.key != key or _opened.do is None:
        _opened.key, _opened.do = "", None  # one job is held at a time
        job: SharedJob[Any, Any] = pickle.loads(content if isinstance(content, bytes) else Path(content).read_bytes())
        _opened.do = job.open()
        _opened.key = key
    return _opened.do(part)


class ProcessWorkers:
    """`count` processes of this machine, started for each job. Raises UsageError for less than one."""

    def __init__(self, count: int) -> None:
        if count < 1:
            raise UsageError(f"{count} workers can do nothing: give at least 1.")
        self.count = count

    def map(self, job: SharedJob[P, R], parts: Iterable[P]) -> Iterator[R]:
        """See `Workers.map`."""
        with tempfile.TemporaryDirectory(prefix="graphcompress-") as folder:
            file = Path(folder) / "job"
            with file.open("wb") as stream:
                pickle.dump(job, stream, protocol=pickle.HIGHEST_PROTOCOL)

            def pool() -> AbstractContextManager[_Submit]:
                return self._pool(str(file))

            yield from _in_order(pool, parts, AHEAD * self.count, (BrokenProcessPool,))

    @contextmanager
    def _pool(self, file: str) -> Iterator[_Submit]:
        # Not forked: the threads of a runtime do not survive that.
        executor = ProcessPoolExecutor(self.count, mp_context=get_context("spawn"))
        try:
            yield lambda part: executor.submit(_done, file, file, part)
        finally:
            executor.shutdown(cancel_futures=True)


class ClusterWorkers:
    """The workers of a dask cluster: `address` of its scheduler ("tcp://HOST:8786"), or "local" for a cluster of processes on this machine, which `count` counts.

    graphcompress of this version, and an onnxruntime, are needed where the workers run. Raises RuntimeUnavailable where dask is not installed, UsageError where nobody answers.
    """

    def __init__(self, address: str, count: int | None = None) -> None:
        try:
            distributed: Any = import_module("distributed")
        except ImportError as problem:
            raise RuntimeUnavailable(
                "A cluster needs the package distributed, which is not installed here: pip install distributed (or graphcompress with the extra [distributed])."
            ) from problem
        self._lost: tuple[type[BaseException], ...] = (distributed.KilledWorker, distributed.client.FutureCancelledError)
        self._cluster: Any = None
        self._folder: Any = None
        self.client: Any = None
        try:
            if address == "local":
                self._folder = tempfile.TemporaryDirectory(prefix="graphcompress-")
                self._cluster = distributed.LocalCluster(
                    n_workers=count, threads_per_worker=1, processes=True, dashboard_address=None, local_directory=self._folder.name
                )
                self.client = distributed.Client(self._cluster)
            else:
                self.client = distributed.Client(address, timeout=10)
        except (OSError, ValueError) as problem:
            raise UsageError(f"There is no dask scheduler at '{address}' ({problem}). Start one with `dask scheduler`, or give 'local'.") from problem

        def version() -> str | None:  # defined here, it is sent as it is, and not by the name of this package, which may not be there
            try:
                from graphcompress.version import __version__ as there
            except ImportError:
                return None
            return there

        versions = set(self.client.run(version).values())
        if not versions:
            self.close()
            raise UsageError(f"The dask scheduler at '{address}' has no workers. Start some with `dask worker {address} --nthreads 1`.")
        if versions != {__version__}:
            self.close()
            listed = ", ".join(sorted(str(version or "none") for version in versions))
            raise UsageError(f"The workers at '{address}' have graphcompress {listed}, and this is {__version__}: install the same there.")

    @property
    def count(self) -> int:
        """See `Workers.count`; the number may change while a job is done."""
        return max(1, sum(int(worker["nthreads"]) for worker in self.client.scheduler_info(n_workers=-1)["workers"].values()))

    def map(self, job: SharedJob[P, R], parts: Iterable[P]) -> Iterator[R]:
        """See `Workers.map`."""
        content = pickle.dumps(job, protocol=pickle.HIGHEST_PROTOCOL)
        key = hashlib.sha256(content).hexdigest()

        @contextmanager
        def pool() -> Iterator[_Submit]:
            # To each worker; one that comes later gets it from these.
            there = self.client.scatter(content, broadcast=True)

            def submit(part: Any) -> Future[Any]:
                future: Future[Any] = self.client.submit(_done, key, there, part, pure=False)
                return future

            yield submit

        yield from _in_order(pool, parts, AHEAD * self.count, self._lost)

    def close(self) -> None:
        """Leave the cluster, and end it where it is this process's own."""
        self.client.close()
        if self._cluster is not None:
            self._cluster.close()
            self._folder.cleanup()


class _Submit(Protocol):
    """Has a part done; dask's futures have the `result` and `cancel` of the standard library's."""

    def __call__(self, part: Any) -> Future[Any]: ...


def _in_order(pool: Callable[[], AbstractContextManager[_Submit]], parts: Iterable[P], ahead: int, lost: tuple[type[BaseException], ...]) -> Iterator[Any]:
    """Outcomes in the order of the parts, with at most `ahead` of them under way; a new pool does what was under way when one of the errors `lost` came."""
    coming = iter(parts)
    under_way: deque[P] = deque()
    losses = 0
    while True:
        try:
            with pool() as submit:
                futures = deque(submit(part) for part in under_way)
                while True:
                    for part in itertools.islice(coming, ahead - len(under_way)):
                        under_way.append(part)
                        futures.append(submit(part))
                    if not futures:
                        return
                    outcome = futures[0].result()
                    futures.popleft()
                    under_way.popleft()
                    losses = 0
                    yield outcome
        except lost as problem:
            losses += 1
            if losses > LOSSES:
                raise RuntimeUnavailable(
                    f"{losses} worker processes ended one after the other before a part was done. Too little memory is a usual cause (use fewer workers); from a script of your own, "
                    "the call must stand under `if __name__ == '__main__':`, since each process imports it."
                ) from problem
