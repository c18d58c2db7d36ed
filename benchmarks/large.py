"""A model beyond 2 GiB, with random weights in external data, and what commands need for it: wall time and peak memory.

    python benchmarks/large.py FOLDER [--gib 3] [--width 8192] [COMMAND...]     commands: validate simplify quantize compress (default: all)

The files are removed at the end.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from onnx import TensorProto, helper, save

COMMANDS = {
    "validate": ["validate", "large.onnx", "large.onnx", "--data", "feeds.npz"],
    "simplify": ["simplify", "large.onnx", "-o", "simple.onnx"],
    "quantize": ["quantize", "large.onnx", "-o", "int8.onnx", "--data", "feeds.npz", "--no-measure"],
    "compress": ["compress", "large.onnx", "-o", "small.onnx", "--data", "feeds.npz", "--no-measure"],
}


def make(folder: Path, width: int, layers: int) -> None:
    """Residual layers of two products each; weights are written layer by layer."""
    nodes, weights = [], []
    generator = np.random.default_rng(0)
    with (folder / "large.onnx.data").open("wb") as data:
        for i in range(layers):
            tensor = TensorProto(name=f"w{i}", data_type=TensorProto.FLOAT, dims=[width, width], data_location=TensorProto.EXTERNAL)
            for key, value in (("location", "large.onnx.data"), ("offset", data.tell()), ("length", 4 * width * width)):
                tensor.external_data.add(key=key, value=str(value))
            weights.append(tensor)
            for _ in range(0, width, 256):
                data.write((generator.standard_normal((256, width), np.float32) / width**0.5).tobytes())
            before = f"h{i - 1}" if i else "x"
            nodes += [
                helper.make_node("MatMul", [before, f"w{i}"], [f"m{i}"]),
                helper.make_node("Relu", [f"m{i}"], [f"r{i}"]),
                helper.make_node("Add", [f"r{i}", before], [f"h{i}" if i < layers - 1 else "y"]),
            ]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", width]) for name in "xy"]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], weights)
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), folder / "large.onnx")
    np.savez(folder / "feeds.npz", x=generator.standard_normal((8, width), np.float32))


def main() -> int:
    """Print a line for each command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--gib", type=float, default=3.0)
    parser.add_argument("--width", type=int, default=8192)
    parser.add_argument("commands", nargs="*", default=list(COMMANDS))
    arguments = parser.parse_intermixed_args()
    layers = max(1, round(arguments.gib * 2**30 / 4 / arguments.width**2))
    arguments.folder.mkdir()
    try:
        make(arguments.folder, arguments.width, layers)
        size = (arguments.folder / "large.onnx.data").stat().st_size
        print(f"{size / 2**30:.2f} GiB, {layers} layers of {4 * arguments.width**2 / 2**30:.2f} GiB", flush=True)
        for name in arguments.commands:
            begin = time.monotonic()
            process = subprocess.Popen(
                [sys.executable, "-m", "graphcompress", *COMMANDS[name], "-q"], cwd=arguments.folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
            )
            _, status, usage = os.wait4(process.pid, 0)
            said = process.stderr.read().decode()[-300:].strip() if process.stderr else ""
            print(
                f"{name}: status {os.waitstatus_to_exitcode(status)}, {time.monotonic() - begin:.0f} s, peak {usage.ru_maxrss / 2**20:.2f} GiB {said}",
                flush=True,
            )
    finally:
        shutil.rmtree(arguments.folder)
    return 0


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    sys.exit(main())
