"""Files whose shapes are hard to infer: each command ends well, in another process, because what was seen ended the process without a word."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

REPOSITORY = Path(__file__).resolve().parents[2]
SIZES = "s = Shape (x)  n = Gather <axis = 0> (s, zero)  v = Unsqueeze (n, front)"
CONSTANTS = "int64 zero = {0}, int64 one = {1}, int64[1] front = {0}, int64[1] eight = {8}, int64[1] minus = {-1}"
BODIES = {
    # A dimension that is believed to be negative once the free one is taken for 1.
    "negative_dimension": "axes = Constant <value_ints = [0, 1]> ()  u = Unsqueeze (x, axes)  c = Conv <kernel_shape = [7, 1]> (u, w)  d = Slice (c, front, minus, two)"
    "  y = Squeeze (d, axes)",
    "constant_of_shape": f"{SIZES}  t = Concat <axis = 0> (v, eight)  h = ConstantOfShape (t)  y = Add (x, h)",
    "expand": f"{SIZES}  t = Concat <axis = 0> (v, eight)  k = Constant <value = float {{1}}> ()  e = Expand (k, t)  y = Add (x, e)",
    "tile": f"{SIZES}  t = Concat <axis = 0> (v, eight)  k = Constant <value = float[1,1] {{1}}> ()  e = Tile (k, t)  y = Add (x, e)",
    "range": f"{SIZES}  r = Range (zero, n, one)  y = Gather (x, r)",
    "gather_index": f"{SIZES}  l = Sub (n, one)  i = Unsqueeze (l, front)  y = Gather (x, i)",
    "where": f"{SIZES}  p = Equal (v, minus)  o = Where (p, eight, v)  t = Concat <axis = 0> (o, eight)  y = Reshape (x, t)",
    "slice_end": f"{SIZES}  l = Sub (v, eight)  y = Slice (x, front, l, front)",
}


COMMANDS = """
import sys
from graphcompress.cli import main
for name in sys.argv[1:]:
    for line in (
        f"inspect {name}.onnx",
        f"simplify {name}.onnx -o {name}.simple.onnx",
        f"compress {name}.onnx -o {name}.small.onnx --data feeds --no-measure",
        f"validate {name}.onnx {name}.simple.onnx --data feeds",
    ):
        print(line, file=sys.stderr, flush=True)
        if main(line.split()):
            sys.exit(f"failed: {line}")
"""


def test_each_command_ends_well(tmp_path: Path) -> None:
    for name, body in BODIES.items():
        model = onnx.parser.parse_model(
            f'<ir_version: 8, opset_import: ["": 17]> g (float[T, 8] x) => (float[R, 8] y) <{CONSTANTS}, int64[1] two = {{2}}> {{ {body} }}'
        )
        model.graph.initializer.append(numpy_helper.from_array(np.ones((1, 1, 7, 1), np.float32), "w"))
        onnx.save(model, tmp_path / f"{name}.onnx")
    generator = np.random.default_rng(0)
    (tmp_path / "feeds").mkdir()
    for k in range(8):
        np.savez(tmp_path / "feeds" / f"{k}.npz", x=generator.standard_normal((9 + k, 8)).astype(np.float32))
    result = subprocess.run(
        [sys.executable, "-c", COMMANDS, *BODIES],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-2000:]
