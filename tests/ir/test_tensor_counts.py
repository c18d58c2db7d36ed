"""Whether a tensor holds as many values as its dimensions say, for every element type and both ways to hold them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from graphcompress.ir import Constant, load, save
from graphcompress.ir.check.tensors import MAX_ELEMENTS, tensor_fault, type_fault
from graphcompress.ir.files.text import parse_model

TYPES = {name: code for name, code in TensorProto.DataType.items() if name != "UNDEFINED"}
FIELDS = ("float_data", "int32_data", "int64_data", "double_data", "uint64_data", "string_data")
SHAPES = ((), (0,), (1,), (5,), (2, 3))


def tensor(name: str, shape: tuple[int, ...], *, raw: bool = False) -> TensorProto:
    """Ones, as the onnx package stores them."""
    count = int(np.prod(shape))
    if name == "STRING":
        return helper.make_tensor("t", TYPES[name], shape, [b"one"] * count)
    if not raw:
        return helper.make_tensor("t", TYPES[name], shape, [1] * count)
    return numpy_helper.from_array(np.ones(shape).astype(helper.tensor_dtype_to_np_dtype(TYPES[name])), "t")


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", TYPES)
def test_what_the_onnx_package_stores_has_no_fault_and_one_more_or_less_has(name: str, shape: tuple[int, ...]) -> None:
    sound = tensor(name, shape)
    assert tensor_fault(sound) is None
    field = next((f for f in FIELDS if len(getattr(sound, f))), None)
    if field is None:
        assert 0 in shape
        return
    longer, shorter = TensorProto(), TensorProto()
    longer.CopyFrom(sound)
    shorter.CopyFrom(sound)
    getattr(longer, field).append(getattr(sound, field)[0])
    getattr(shorter, field).pop()
    count = len(getattr(sound, field))
    for wrong, has in ((longer, count + 1), (shorter, count - 1)):
        fault = tensor_fault(wrong)
        assert fault is not None and fault.startswith(f"has {has} values in {field}") and fault.endswith(f"needs {count}")


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", [n for n in TYPES if n != "STRING"])
def test_raw_bytes_are_counted(name: str, shape: tuple[int, ...]) -> None:
    sound = tensor(name, shape, raw=True)
    assert tensor_fault(sound) is None
    content = sound.raw_data
    for wrong in (content + b"\0", content[:-1]) if content else (content + b"\0",):
        sound.raw_data = wrong
        fault = tensor_fault(sound)
        assert fault is not None and fault.startswith(f"has {len(wrong)} bytes of raw data") and fault.endswith(f"needs {len(content)}")


@pytest.mark.parametrize(
    ("dims", "fault"), [([-1], "negative"), ([3, -2], "negative"), ([2**24, 2**24], None), ([2**24, 2**24 + 1], "no machine"), ([2**62, 4], "no machine")]
)
def test_dimensions_that_nothing_can_have(dims: list[int], fault: str | None) -> None:
    elsewhere = TensorProto(data_type=TensorProto.FLOAT, dims=dims, data_location=TensorProto.EXTERNAL)
    found = tensor_fault(elsewhere)
    assert found is None if fault is None else found is not None and fault in found
    assert MAX_ELEMENTS == 2**48
    stated = type_fault(helper.make_tensor_type_proto(TensorProto.FLOAT, dims))
    assert (stated is not None) == (fault == "no machine")  # in a type a negative one is unknown


@pytest.mark.parametrize("code", [0, 99, -1])
def test_element_types_that_there_are_not(code: int) -> None:
    assert "unknown element type" in (tensor_fault(TensorProto(data_type=code)) or "")
    for kind in (helper.make_tensor_type_proto(code, [1]), helper.make_sparse_tensor_type_proto(code, [1])):
        for outer in (
            kind,
            helper.make_sequence_type_proto(kind),
            helper.make_optional_type_proto(helper.make_sequence_type_proto(kind)),
            helper.make_map_type_proto(7, kind),
        ):
            assert f"unknown element type ({code})" in (type_fault(outer) or "")


@pytest.mark.parametrize("count", [7, 40_001])
@pytest.mark.parametrize("name", [n for n in TYPES if n != "STRING"])
def test_new_values_of_every_type_are_written_as_the_onnx_package_reads_them(name: str, count: int, tmp_path: Path) -> None:
    """Inside the message, where large ones are no protobuf field that onnx makes, and in a data file."""
    random = np.random.default_rng(3)
    values = random.integers(0, 2, count).astype(helper.tensor_dtype_to_np_dtype(TYPES[name]))
    model = parse_model("(float x) => (float y) { y = Neg (x) }")
    model.graph.initializers["w"] = Constant("w", values)
    for external in (False, True):
        place = tmp_path / f"{external}.onnx"
        save(model, place, external_data=external)
        (stored,) = onnx.load(place).graph.initializer
        assert numpy_helper.to_array(stored).tobytes() == values.tobytes() and stored.data_type == TYPES[name]
        read = load(place).graph.initializers["w"]
        raw = numpy_helper.from_array(values).raw_data
        assert read.nbytes == len(raw) and read.values.dtype == values.dtype and read.values.tobytes() == values.tobytes()
        assert read.data is None or (read.data.nbytes == len(raw) and bytes(read.data.raw()) == raw)  # None: an array says it all
