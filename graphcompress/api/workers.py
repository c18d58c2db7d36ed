"""Workers as callers name them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from graphcompress.errors import UsageError

if TYPE_CHECKING:
    from graphcompress.runtime.workers import Workers


@contextmanager
def open_workers(count: int | None = None, cluster: str | None = None) -> Iterator[Workers | None]:
    """Processes that share the feeds, in a `with` block: `count` of this machine, or those of the dask cluster whose scheduler is at `cluster` ("local": one of `count` processes that ends
    with the block); None where neither is stated.

    Raises UsageError where both are stated for a cluster elsewhere or nobody answers there, RuntimeUnavailable where dask is not installed.
    """
    if cluster is None:
        if count is None:
            yield None
            return
        from graphcompress.runtime.workers import ProcessWorkers

        yield ProcessWorkers(count)
        return
    if count is not None and cluster != "local":
        raise UsageError(f"--workers counts processes of this machine, and the cluster at '{cluster}' has its own: give one of both.")
    from graphcompress.runtime.workers import ClusterWorkers

    workers = ClusterWorkers(cluster, count)
    try:
        yield workers
    finally:
        workers.close()
