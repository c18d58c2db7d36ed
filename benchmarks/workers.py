"""What workers bring: wall time of observing feeds with one process and with several, and the peak memory of all processes as the feeds grow in number.

python benchmarks/workers.py [--feeds 2000] [--most 100000]      on an otherwise idle machine
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import onnx
import psutil
from onnx import TensorProto, helper, numpy_helper

import graphcompress
from graphcompress.passes.quantize.observe import observe
from graphcompress.passes.quantize.ranges import Histogram

ROUNDS = 3


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--feeds", type=int, default=2000)
    parser.add_argument("--most", type=int, default=100_000)
    stated = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        times(place, stated.feeds)
        memory(place, stated.most)
    return 0


def times(place: Path, feeds: int) -> None:
    """Observation of `feeds` pictures by a net of six layers, interleaved."""
    model = convolutions(place / "net.onnx", channels=32, size=64, layers=6)
    data = place / "pictures"
    data.mkdir()
    random = np.random.default_rng(0)
    for index in range(feeds):
        np.savez(data / f"{index:06}.npz", x=random.standard_normal((1, 3, 64, 64)).astype(np.float32))
    net = graphcompress.load(model)
    dataset = graphcompress.open_feeds(data, net)
    tensors = [t for node in net.graph.nodes for t in node.outputs]
    ways: dict[str, tuple[int | None, str | None]] = {
        "this process": (None, None),
        "1 worker": (1, None),
        "2 workers": (2, None),
        "dask, 2 workers": (2, "local"),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    seen = set()
    for _ in range(ROUNDS):
        for name, way in ways.items():
            with graphcompress.open_workers(*way) as workers:
                start = time.monotonic()
                observed = observe(net, tensors, dataset, lambda t: Histogram(), threads=1, workers=workers)
                seconds[name].append(time.monotonic() - start)
            seen.add(repr([(o.elements, o.squares, o.statistic.finish()) for o in observed.values()]))
    assert len(seen) == 1, "not the same was observed"
    one = seconds["1 worker"]
    for name, walls in seconds.items():
        ratios = [w / o for w, o in zip(walls, one, strict=True)]
        print(f"{feeds} feeds, {name:16} {statistics.median(walls):7.1f} s wall, {min(ratios):.2f} to {max(ratios):.2f} of one worker's", flush=True)


def memory(place: Path, most: int) -> None:
    """Peak of all processes together, small feeds stacked in one file."""
    model = convolutions(place / "small.onnx", channels=8, size=8, layers=2)
    count = 1000
    while count <= most:
        data = place / "stack.npy"
        np.save(data, np.random.default_rng(0).standard_normal((count, 3, 8, 8)).astype(np.float32))
        for options in ([], ["--workers", "2"]):
            wall, peak = quantize(model, data, place, options)
            print(f"{count:7} small feeds, {' '.join(options) or 'this process':12} {wall:7.1f} s wall, peak {peak / 2**20:6.0f} MiB", flush=True)
        count *= 10


def convolutions(path: Path, *, channels: int, size: int, layers: int) -> Path:
    random = np.random.default_rng(0)
    nodes, weights, name, width = [], [], "x", 3
    for layer in range(layers):
        weights.append(numpy_helper.from_array((random.standard_normal((channels, width, 3, 3)) * 0.1).astype(np.float32), f"w{layer}"))
        nodes += [helper.make_node("Conv", [name, f"w{layer}"], [f"c{layer}"], pads=[1, 1, 1, 1]), helper.make_node("Relu", [f"c{layer}"], [f"r{layer}"])]
        name, width = f"r{layer}", channels
    nodes += [helper.make_node("GlobalAveragePool", [name], ["p"]), helper.make_node("Flatten", ["p"], ["y"])]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, size, size])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", channels])
    graph = helper.make_graph(nodes, "net", [x], [y], weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


def quantize(model: Path, data: Path, place: Path, options: list[str]) -> tuple[float, int]:
    """Wall seconds of the command, and peak bytes of it and its children together."""
    out = place / "out.onnx"
    command = [
        sys.executable,
        "-m",
        "graphcompress",
        "quantize",
        str(model),
        "--data",
        str(data),
        "-o",
        str(out),
        "--no-measure",
        "--threads",
        "1",
        "-q",
        *options,
    ]
    start = time.monotonic()
    process = subprocess.Popen(command)
    peak = [0]
    done = threading.Event()

    def look() -> None:
        while not done.wait(0.1):
            try:
                family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
                peak[0] = max(peak[0], sum(p.memory_info().rss for p in family))
            except psutil.NoSuchProcess:
                continue

    watcher = threading.Thread(target=look)
    watcher.start()
    if process.wait():
        raise SystemExit(f"{' '.join(command)} failed")
    wall = time.monotonic() - start
    done.set()
    watcher.join()
    return wall, peak[0]


if __name__ == "__main__":
    raise SystemExit(main())
