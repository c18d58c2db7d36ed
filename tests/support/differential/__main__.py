"""Judge the graphs of a range of seeds: `PYTHONPATH=tests/support python -m differential simplify 0 20000 [--seconds 500] [--known FILE]`."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from differential.report import Outcome, report, search

SLICE = 250  # faults are told after so many seeds


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m differential", description=__doc__)
    parser.add_argument("kind", choices=("simplify", "quantize", "lift", "prune", "neutral"))
    parser.add_argument("first", type=int)
    parser.add_argument("end", type=int, help="the seed behind the last one")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop after so long; the seed to go on with is printed")
    parser.add_argument("--first", dest="limit", action="store_const", const=1, help="stop at the first fault")
    parser.add_argument("--only", action="append", metavar="KIND", help='only faults of this kind count ("values", "does not load"); may be repeated')
    parser.add_argument("--known", type=Path, help="faults are shrunk and printed once per kind; the kinds seen are kept in this file")
    arguments = parser.parse_args()
    known = set(arguments.known.read_text().splitlines()) if arguments.known and arguments.known.exists() else set()
    started = time.monotonic()
    total = Outcome(next=arguments.first)
    while total.next < arguments.end and not (arguments.limit and total.faulty):
        end = min(total.next + SLICE, arguments.end)
        outcome = search(
            arguments.kind, range(total.next, end), stop=lambda: time.monotonic() - started > arguments.seconds, limit=arguments.limit, kinds=arguments.only
        )
        for case, fault in outcome.faults:
            if (key := " | ".join(fault.key)) in known:
                continue
            known.add(key)
            print(report(case, fault), flush=True)
            if arguments.known:
                arguments.known.write_text("".join(f"{k}\n" for k in sorted(known)))
        total.add(outcome)
        if total.next < end:
            break  # out of time
    print(f"{arguments.kind}: seeds {arguments.first} to {total.next - 1}, {total.discarded} discarded, {total.faulty} with a fault", file=sys.stderr)
    for key, seeds in total.seeds.items():
        print(f"  {len(seeds):5} {' | '.join(key)}: {', '.join(map(str, seeds[:5]))}", file=sys.stderr)
    return 1 if total.faulty else 0


if __name__ == "__main__":
    sys.exit(main())
