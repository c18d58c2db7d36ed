"""Whether the tool stays linear in the graph and bounded in memory: CPU seconds and peak resident memory of the real commands, each in its own process.

python benchmarks/scale.py [--quick]      --quick: 64 MiB instead of 1 GiB
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

NODES = 20_000


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    quick = parser.parse_args().quick
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        for order in ("sorted", "reversed", "shuffled"):
            for shape in ("chain", "wide"):
                graph_of(NODES, shape, order, place / "m.onnx")
                seconds, _ = run(["simplify", place / "m.onnx", "-o", place / "o.onnx", "-q"])
                failed += report(f"simplify, {NODES} nodes, {shape}, {order}", seconds, "s CPU", 10)
        size = 64 if quick else 1024
        external_model(size, place / "big.onnx")
        (place / "out").mkdir()
        _, peak = run(["simplify", place / "big.onnx", "-o", place / "out" / "o.onnx", "-q"])
        failed += report(f"simplify, {size} MiB of external data", peak, "MiB", 300)
        failed += quantize_memory(place)
    return int(failed > 0)


def report(what: str, figure: float, unit: str, bar: float) -> int:
    print(f"{what:60} {figure:8.1f} {unit:6} (bar {bar:.0f})  {'ok' if figure <= bar else 'MISSED'}", flush=True)
    return int(figure > bar)


# A child's ru_maxrss begins at its parent's, so the process says itself how high its memory went.
WRAPPER = """
import sys
from graphcompress.cli import main
try:
    main()
finally:
    peak = next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM"))
    open(sys.argv[-1] + ".peak", "w").write(peak)
"""


def run(words: Sequence[str | Path]) -> tuple[float, float]:
    """User and system seconds and peak MiB of `graphcompress WORDS` in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        record = Path(folder, "record.json")
        process = subprocess.Popen([sys.executable, "-c", WRAPPER, *map(str, words), "--record", str(record)], stdout=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        if status:
            raise SystemExit(f"graphcompress {' '.join(map(str, words))} ended with status {os.waitstatus_to_exitcode(status)}")
        return usage.ru_utime + usage.ru_stime, int(Path(f"{record}.peak").read_text()) / 1024


def graph_of(count: int, shape: str, order: str, path: Path) -> None:
    """`count` nodes: a chain of Relu, Neg and Identity, or one input read by all of them and a Sum at the end."""
    ops = ("Relu", "Identity", "Neg")
    if shape == "chain":
        nodes = [helper.make_node(ops[i % 3], [f"t{i}"], [f"t{i + 1}"], name=f"n{i}") for i in range(count)]
        output = f"t{count}"
    else:
        nodes = [helper.make_node(ops[i % 3], ["t0"], [f"b{i}"], name=f"n{i}") for i in range(count - 1)]
        nodes.append(helper.make_node("Sum", [f"b{i}" for i in range(count - 1)], ["y"], name="sum"))
        output = "y"
    if order == "reversed":
        nodes.reverse()
    elif order == "shuffled":
        random.Random(0).shuffle(nodes)
    graph = helper.make_graph(nodes, "g", [helper.make_tensor_value_info("t0", 1, ["n", 4])], [helper.make_tensor_value_info(output, 1, ["n", 4])])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


def external_model(mebibytes: int, path: Path) -> None:
    """A chain of MatMul, Add and Identity over 4096 x 4096 weights in an external file."""
    initializers, nodes, offset = [], [], 0
    layers = max(1, mebibytes // 64)
    with path.with_suffix(".bin").open("wb") as file:
        for i in range(layers):
            weight = np.random.default_rng(i).standard_normal((4096, 4096)).astype(np.float32)
            file.write(weight.tobytes())
            tensor = TensorProto(name=f"w{i}", data_type=TensorProto.FLOAT, dims=weight.shape, data_location=TensorProto.EXTERNAL)
            for key, value in (("location", path.with_suffix(".bin").name), ("offset", offset), ("length", weight.nbytes)):
                tensor.external_data.add(key=key, value=str(value))
            offset += weight.nbytes
            initializers += [tensor, numpy_helper.from_array(np.zeros(4096, np.float32), f"b{i}")]
            nodes += [
                helper.make_node("MatMul", [f"t{i}", f"w{i}"], [f"m{i}"]),
                helper.make_node("Add", [f"m{i}", f"b{i}"], [f"a{i}"]),
                helper.make_node("Identity", [f"a{i}"], [f"t{i + 1}"]),
            ]
    nodes.append(helper.make_node("Relu", [f"t{layers}"], ["y"]))
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("t0", 1, ["n", 4096])], [helper.make_tensor_value_info("y", 1, ["n", 4096])], initializers
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


def quantize_memory(place: Path) -> int:
    """Peak memory of `quantize` must not grow with the number of feeds, whichever way they are stored."""
    conv_net(place / "conv.onnx")
    failed = 0
    for method in ("minmax", "percentile", "mse"):
        peaks = {}
        for count in (16, 256):
            data = np.random.default_rng(0).standard_normal((count, 3, 224, 224)).astype(np.float32)
            np.savez(place / f"stacked{count}.npz", x=data)
            folder = place / f"folder{count}"
            folder.mkdir(exist_ok=True)
            for i, row in enumerate(data):
                np.savez(folder / f"{i:04}.npz", x=row[None])
            for source in (place / f"stacked{count}.npz", folder):
                peaks[source.name] = run(["quantize", place / "conv.onnx", "-o", place / "q.onnx", "--data", source, "--calibration", method, "-q"])[1]
        print(f"quantize --calibration {method}: " + ", ".join(f"{name} {peak:.0f} MiB" for name, peak in peaks.items()), flush=True)
        failed += report(f"  largest / smallest peak, {method}", max(peaks.values()) / min(peaks.values()), "x", 1.1)
    return failed


def conv_net(path: Path) -> None:
    rng = np.random.default_rng(0)
    nodes, initializers, channels = [], [], 3
    for i in range(4):
        initializers.append(numpy_helper.from_array((rng.standard_normal((32, channels, 3, 3)) * 0.2).astype(np.float32), f"w{i}"))
        nodes += [
            helper.make_node(
                "Conv", ["x" if i == 0 else f"r{i - 1}", f"w{i}"], [f"c{i}"], name=f"conv{i}", pads=[1, 1, 1, 1], strides=[2, 2] if i < 2 else [1, 1]
            ),
            helper.make_node("Relu", [f"c{i}"], [f"r{i}"]),
        ]
        channels = 32
    nodes += [helper.make_node("GlobalAveragePool", ["r3"], ["p"]), helper.make_node("Flatten", ["p"], ["y"])]
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", 1, ["n", 3, 224, 224])], [helper.make_tensor_value_info("y", 1, ["n", 32])], initializers
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


if __name__ == "__main__":
    sys.exit(main())
