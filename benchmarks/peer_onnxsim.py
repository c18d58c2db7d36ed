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
BATCH = 64


def main(path: str, data: str, out: str, part: str) -> None:
    arrays = {name: array for name, array in np.load(data).items() if not name.startswith("_")}
    model, _ = onnxsim.simplify(onnx.load(path))
    batch = BATCH
    if ModelInfo(cut_by_weights(model, 0.5)).macs == ModelInfo(model).macs:
        # Its matchers take weights behind a Reshape only where all shapes are known.
        batch = 1
        model, _ = onnxsim.simplify(onnx.load(path), overwrite_input_shapes={name: [batch, *array.shape[1:]] for name, array in arrays.items()})
    count = len(next(iter(arrays.values())))
    feeds = [{name: array[i : i + batch] for name, array in arrays.items()} for i in range(0, count, batch)]
    macs = float(part) * ModelInfo(model).macs
    sparsity = least_sparsity(model, macs)
    cut = onnxsim.apply_structured_wanda_pruning(model, calibration_data=feeds, sparsity=sparsity)
    cut = onnxsim.apply_attention_head_wanda_pruning(cut, calibration_data=feeds, sparsity=sparsity)
    if ModelInfo(cut).macs > macs:
        # The matchers of the scores with data leave more layers whole, such as those in front of a MaxPool.
        cut = cut_by_weights(model, sparsity)
    onnx.save(onnxsim.apply_pruning_finetune(model, cut, calibration_data=feeds), out)


def cut_by_weights(model: onnx.ModelProto, sparsity: float) -> onnx.ModelProto:
    """Without data: how many channels go depends on the sparsity alone."""
    return onnxsim.apply_attention_head_pruning(onnxsim.apply_structured_pruning(model, sparsity=sparsity), sparsity=sparsity)


def least_sparsity(model: onnx.ModelProto, macs: float) -> float:
    """The least sparsity that leaves at most `macs`, MOST where none does."""
    low, high = 0.0, MOST
    for _ in range(STEPS):
        middle = (low + high) / 2
        low, high = (low, middle) if ModelInfo(cut_by_weights(model, middle)).macs <= macs else (middle, high)
    return high


if __name__ == "__main__":
    main(*sys.argv[1:])
