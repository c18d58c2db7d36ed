"""The command line. `main` is the console script; everything else is loaded when a command needs it."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

# Threads of the BLAS that numpy brings spin for some 20 ms after each product; what is timed beside it shares the cores with them. 2**10 cycles are enough between two products of one solve.
os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "10")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit status: 0 done, 1 a stated bar was missed, 2 it could not be done, 130 interrupted."""
    from graphcompress.cli.app import run

    return run(list(sys.argv[1:] if arguments is None else arguments))
