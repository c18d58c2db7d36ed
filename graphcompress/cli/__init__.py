"""The command line. `main` is the console script; everything else is loaded when a command needs it."""

from __future__ import annotations

import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit status: 0 done, 1 a stated bar was missed, 2 it could not be done, 130 interrupted."""
    from graphcompress.cli.app import run

    return run(list(sys.argv[1:] if arguments is None else arguments))
