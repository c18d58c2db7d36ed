"""onnxsim's structured pruning with its own recovery, in an environment with onnxsim and onnxruntime: MODEL DATA OUT PART_OF_MACS"""

from __future__ import annotations

import sys

import numpy as np
import onnx
import onnxsim
from onnxsim.model_info import ModelInfo

MOST = 0.98
"""Sparsity: more would leave one channel of most layers."""
STEPS = 10


def main(path: str, data: str, out: str, part: str) -> None:
    arrays = np.load(data)
    names = [x for x in arrays.files if not x.startswith("_")]
    feeds = [{name: arrays[name][i : i + 1] for name in names} for i in range(len(arrays[names[0]]))]
    # Its matchers take weights behind a Reshape only where the shapes are known: the batch is 1.
    model, _ = onnxsim.simplify(onnx.load(path), overwrite_input_shapes={name: list(array.shape) for name, array in feeds[0].items()})
    sparsity = least_sparsity(model, float(part) * ModelInfo(model).macs)
    cut = onnxsim.apply_structured_wanda_pruning(model, calibration_data=feeds, sparsity=sparsity)
    cut = onnxsim.apply_attention_head_wanda_pruning(cut, calibration_data=feeds, sparsity=sparsity)
    onnx.save(onnxsim.apply_pruning_finetune(model, cut, calibration_data=feeds), out)


def least_sparsity(model: onnx.ModelProto, macs: float) -> float:
    """The least sparsity that leaves at most `macs`, MOST where none does. How many channels go depends on it alone, so that scores of weights will do here."""
    low, high = 0.0, MOST
    for _ in range(STEPS):
        middle = (low + high) / 2
        cut = onnxsim.apply_attention_head_pruning(onnxsim.apply_structured_pruning(model, sparsity=middle), sparsity=middle)
        low, high = (low, middle) if ModelInfo(cut).macs <= macs else (middle, high)
    return high


if __name__ == "__main__":
    main(*sys.argv[1:])
