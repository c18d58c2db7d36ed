"""Places that are processes of this machine, and what became of their workers."""

from __future__ import annotations

import os
import sys
import time
from typing import Any

import numpy as np
import psutil
import pytest

from graphcompress.runtime.elsewhere.config import PlaceSpec
from graphcompress.runtime.elsewhere.remote import RemotePlace

ADD = "g (float[n, 3] x) => (float[n, 3] y) { y = Add(x, x) }"


FEED = {"x": np.ones((2, 3), np.float32)}


posix = pytest.mark.skipif(os.name == "nt", reason="signals and process groups of POSIX")


def spec(*command: str, **more: Any) -> PlaceSpec:
    return PlaceSpec(name="there", command=command or (sys.executable,), **more)


def process(place: RemotePlace) -> psutil.Process:
    """The worker of a place that has started."""
    assert place._line is not None
    return psutil.Process(place._line._process.pid)


def gone(process: psutil.Process, within: float = 10) -> bool:
    """Whether a process ends in time, though perhaps nobody asks how."""
    deadline = time.monotonic() + within
    while running := psutil.pid_exists(process.pid) and process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
        if time.monotonic() > deadline:
            break
        time.sleep(0.05)
    return not running
