"""Load one model and run one feed in this process; print load time and memory as one line of JSON. `measure.footprint` starts it.

python -m graphcompress.runtime.probe MODEL FEED.npz [--provider NAME] [--threads N]
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import numpy as np

from graphcompress.errors import GraphCompressError
from graphcompress.runtime import machine, ort
from graphcompress.runtime.session import open_session


def main() -> int:
    """Print the figures; 2 and one line on standard error where the model cannot be loaded or run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("feed")
    parser.add_argument("--provider", default="cpu")
    parser.add_argument("--threads", type=int)
    args = parser.parse_args()
    with np.load(args.feed, allow_pickle=False) as file:
        feed = {name: array.astype(object) if array.dtype.kind == "U" else array for name, array in file.items()}
    try:
        ort.load()
        start = time.perf_counter()
        with open_session(Path(args.model), provider=args.provider, threads=args.threads) as session:
            loaded = time.perf_counter() - start
            session.run(feed)
    except GraphCompressError as problem:
        print(" ".join(str(problem).split()), file=sys.stderr)
        return problem.status
    print(json.dumps({"load_seconds": loaded, "peak_bytes": machine.peak_memory()}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
