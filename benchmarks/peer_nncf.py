"""NNCF's post-training quantization of ONNX models, its defaults for a CPU: MODEL DATA OUT, with the first 64 calibration feeds."""

from __future__ import annotations

import sys

import nncf
import onnx
from peer_onnxruntime import FEEDS, Reader


def main(model: str, data: str, out: str) -> None:
    reader = Reader(model, data)
    feeds = list(iter(reader.get_next, None))
    onnx.save(nncf.quantize(onnx.load(model), nncf.Dataset(feeds), subset_size=FEEDS), out)


if __name__ == "__main__":
    main(*sys.argv[1:4])
