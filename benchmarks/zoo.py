"""The ten tasks of ../shared/zoo beside today's free tool, judged by the zoo's own measure.

python benchmarks/zoo.py OUTS [TASK...] [--no-peer] [--no-speed]
"""

from __future__ import annotations

import argparse
import logging
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

SHARED = Path(os.environ.get("GRAPHCOMPRESS_SHARED", Path(__file__).resolve().parents[2] / "shared"))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("outs", type=Path)
    parser.add_argument("tasks", nargs="*")
    parser.add_argument("--no-peer", action="store_true")
    parser.add_argument("--no-speed", action="store_true")
    args = parser.parse_args()
    sys.path.insert(0, str(SHARED))
    import zoo_tools

    ours, peer = args.outs / "graphcompress", args.outs / "peer"
    for folder in (ours, peer):
        folder.mkdir(parents=True, exist_ok=True)
    for name in args.tasks or zoo_tools.tasks():
        task = zoo_tools.load(name)
        start = time.perf_counter()
        words = ["compress", task.model, "-o", ours / f"{name}.onnx", "--data", task.calib, "--record", ours / f"{name}.json", "-q"]
        done = subprocess.run([sys.executable, "-m", "graphcompress", *map(str, words)], stdout=subprocess.DEVNULL, check=False)
        print(f"{name}: compress ended with {done.returncode} after {time.perf_counter() - start:.0f} s", flush=True)
        if not args.no_peer:
            print(f"{name}: peer {peer_file(zoo_tools, task, peer / f'{name}.onnx')}", flush=True)
    for folder in (ours,) if args.no_peer else (ours, peer):
        print(f"\n{folder.name}")
        words = [sys.executable, str(SHARED / "zoo_tools.py"), "--dir", str(folder), *([] if args.no_speed else ["--speed"])]
        subprocess.run(words, check=False)
    return 0


def peer_file(zoo_tools: Any, task: Any, out: Path) -> str:
    """Make the peer's file; the word "made", or what the peer said instead."""
    from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.feeds = iter(zoo_tools.feeds(task, "calib")[:64])

        def get_next(self) -> Any:
            return next(self.feeds, None)

    logging.disable(logging.WARNING)
    try:
        with tempfile.TemporaryDirectory() as folder:
            prepared = str(Path(folder) / "prepared.onnx")
            quant_pre_process(str(task.model), prepared, skip_symbolic_shape=True)
            quantize_static(
                prepared,
                str(out),
                Reader(),
                quant_format=QuantFormat.QDQ,
                per_channel=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                calibrate_method=CalibrationMethod.MinMax,
            )
    except Exception as problem:  # noqa: BLE001  (the peer's failures are findings)
        return f"failed: {type(problem).__name__}: {str(problem).splitlines()[0][:120]}"
    return "made"


if __name__ == "__main__":
    sys.exit(main())
