"""Judge the graphs of a range of seeds: `PYTHONPATH=tests/support python -m differential simplify 0 20000 [--seconds 500] [--known FILE]`."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from differential.report import report, search


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m differential", description=__doc__)
    parser.add_argument("kind", choices=("simplify", "quantize", "lift"))
    parser.add_argument("first", type=int)
    parser.add_argument("end", type=int, help="the seed behind the last one")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop after so long; the seed to go on with is printed")
    parser.add_argument("--known", type=Path, help="faults are shrunk and printed once per kind; the kinds seen are kept in this file")
    arguments = parser.parse_args()
    known = set(arguments.known.read_text().splitlines()) if arguments.known and arguments.known.exists() else set()
    started = time.monotonic()
    outcome = search(arguments.kind, range(arguments.first, arguments.end), stop=lambda: time.monotonic() - started > arguments.seconds)
    for case, fault in outcome.faults:
        key = " | ".join(fault.key).replace("\n", " ")
        if key in known:
            continue
        known.add(key)
        print(report(case, fault), flush=True)
        if arguments.known:
            arguments.known.write_text("\n".join(sorted(known)) + "\n")
    print(f"{arguments.kind}: seeds {arguments.first} to {outcome.next - 1}, {outcome.discarded} discarded, {outcome.faulty} with a fault", file=sys.stderr)
    return 1 if outcome.faulty else 0


if __name__ == "__main__":
    sys.exit(main())
