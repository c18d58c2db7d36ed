"""What each rule is worth on onnxruntime: CPU time of graphs made from its pattern, before and after, with onnxruntime's own optimizer on.

Run: python benchmarks/rules.py [--graphs N] [RULE ...]. Default: all rules that fuse, and those of targets.

A graph is made from the rule's pattern as `rules verify` makes them, but with 64 times the channels and columns (pictures of 56 x 56, vectors of 128), in single precision. Both sides run in one
session each, one thread, in turns, CPU time of the thread that computes; a ratio above 1 says that the graph is faster after the rule. The spread over rounds is beside it.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
import zlib
from collections.abc import Iterator

import numpy as np

from graphcompress.engine import Rule, load_rule, rewrite, rule_files
from graphcompress.engine.proof.cases import Case, case_of
from graphcompress.engine.proof.choices import Choices
from graphcompress.engine.proof.draft import NoCase
from graphcompress.errors import DataError, ModelError
from graphcompress.ir import Model
from graphcompress.ir.files.text import TextError
from graphcompress.runtime.session import Feed, LocalSession, open_session
from graphcompress.targets import rules_root

WIDTH = 64
GRAPHS = 4
ROUNDS = 11
TRIES = 400
SECONDS = 0.02  # of one block


def main() -> int:
    """Measure and print one row per rule."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("rules", nargs="*", metavar="RULE")
    parser.add_argument("--graphs", type=int, default=GRAPHS)
    options = parser.parse_args()
    root = rules_root() / "rewrite"
    print("| rule | graphs | before / after, median | lowest to highest graph | spread of rounds | marked |\n|---|---|---|---|---|---|")
    for path in rule_files(root):
        rule = load_rule(path, root)
        if rule.id in options.rules if options.rules else rule.id.startswith(("fuse/", "targets/", "canonicalize/")):
            print(row(rule, options.graphs), flush=True)
    return 0


def row(rule: Rule, count: int) -> str:
    """The ratios of one rule."""
    medians, spreads = [], []
    for before, after, feed in graphs(rule, count):
        with open_session(before, threads=1) as first, open_session(after, threads=1) as second:
            ratios = interleaved(first, second, feed)
        medians.append(statistics.median(ratios))
        low, _, high = statistics.quantiles(ratios, n=4)
        spreads.append(high - low)
    if not medians:
        return f"| {rule.id} | 0 | - | - | - | {rule.benefit} |"
    middle = statistics.median(medians)
    return f"| {rule.id} | {len(medians)} | {middle:.2f} | {min(medians):.2f} to {max(medians):.2f} | {statistics.median(spreads):.2f} | {rule.benefit} |"


def graphs(rule: Rule, count: int) -> Iterator[tuple[Model, Model, Feed]]:
    """Graphs that the rule changes, as they are and changed, that onnxruntime loads and runs."""
    left = count
    for number in range(TRIES):
        choices = Choices([0, 0], np.random.default_rng([zlib.crc32(rule.id.encode()), number]))  # the usual opset, single precision
        try:
            case: Case = case_of(rule, choices, WIDTH)
            model = case.model()
            if case.large or not any(o.constant is False and o.array.size >= WIDTH for o in case.operands.values()):
                continue
            changed = model.copy()
            if not rewrite(changed, [rule]).applied:
                continue
            feed = next(case.feeds())
            open_session(model, threads=1).run(feed)
        except (NoCase, TextError, ModelError, DataError, ArithmeticError, LookupError):
            continue
        yield model, changed, feed
        left -= 1
        if not left:
            return


def interleaved(first: LocalSession, second: LocalSession, feed: Feed) -> list[float]:
    """Time of the first by that of the second, in turns, with the order swapped every other round."""
    for session in (first, second):
        session.run(feed)
    begin = time.thread_time()
    first.run(feed)
    repeats = max(1, round(SECONDS / max(time.thread_time() - begin, 1e-6)))
    ratios = []
    for turn in range(ROUNDS):
        times = {}
        for session in (first, second) if turn % 2 else (second, first):
            seconds = session.time([feed], repeats)
            times[session] = seconds.wall if seconds.cpu is None else seconds.cpu
        ratios.append(times[first] / times[second])
    return ratios


if __name__ == "__main__":
    sys.exit(main())
