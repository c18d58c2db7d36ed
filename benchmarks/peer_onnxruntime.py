"""onnxruntime's own quantization: MODEL DATA OUT VARIANT, with the first 64 calibration feeds."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantType, quantize_dynamic, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

FEEDS = 64
VARIANTS: dict[str, dict[str, Any]] = {
    "default": {},
    "minmax": {"per_channel": True, "activation_type": QuantType.QUInt8, "weight_type": QuantType.QInt8},
    "percentile": {
        "per_channel": True,
        "activation_type": QuantType.QUInt8,
        "weight_type": QuantType.QInt8,
        "calibrate_method": CalibrationMethod.Percentile,
    },
}


class Reader(CalibrationDataReader):  # type: ignore[misc]
    """Feeds of a folder of files, or of one file along the first axis; arrays that are no input of the model are left out."""

    def __init__(self, model: str, data: str) -> None:
        inputs = {i.name: i.type.tensor_type.shape.dim for i in onnx.load(model, load_external_data=False).graph.input}
        place = Path(data)
        if place.is_dir():
            loaded = [dict(np.load(file)) for file in sorted(place.glob("*.npz"))[:FEEDS]]
        else:
            arrays = {name: array for name, array in np.load(data).items() if name in inputs}
            batch = next(iter(inputs[next(iter(arrays))])).dim_value or 1
            loaded = [
                {name: array[i * batch : (i + 1) * batch] for name, array in arrays.items()}
                for i in range(min(FEEDS, len(next(iter(arrays.values()))) // batch))
            ]
        self.feeds = iter([{name: array for name, array in feed.items() if name in inputs} for feed in loaded])

    def get_next(self) -> Any:
        return next(self.feeds, None)


def main(model: str, data: str, out: str, variant: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        prepared = str(Path(folder) / "prepared.onnx")
        quant_pre_process(model, prepared, skip_symbolic_shape=True)
        if variant == "dynamic":
            quantize_dynamic(prepared, out, per_channel=True)
        else:
            quantize_static(prepared, out, Reader(prepared, data), **VARIANTS[variant])


if __name__ == "__main__":
    main(*sys.argv[1:])
