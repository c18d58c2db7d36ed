"""Files that are something else than a model, or half of one."""

from __future__ import annotations

import gzip
import io
import json
import os
import pickle
import random
import tarfile

import numpy as np
import pytest
from bad_input_bench import Bench, Case, cases, good_feeds, good_model, try_case, zipped

PAGE = b"<!DOCTYPE html>\n<html><head><title>404: not found</title></head><body>No such model.</body></html>\n"
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\nsize 12345\n"
SIMPLIFY = "simplify {model} -o {out}"


def holds(content: bytes):
    return lambda bench: bench.model.write_bytes(content)


def tar() -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("model.onnx"))
    return stream.getvalue()


def safetensors() -> bytes:
    header = json.dumps({"weight": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    return len(header).to_bytes(8, "little") + header + bytes(4)


def array() -> bytes:
    stream = io.BytesIO()
    np.save(stream, np.zeros(3))
    return stream.getvalue()


def replaced_by_folder(bench: Bench, *, saved_model: bool = False) -> None:
    bench.model.unlink()
    bench.model.mkdir()
    if saved_model:
        (bench.model / "saved_model.pb").write_bytes(b"\x08\x01")


def replaced_by_pipe(bench: Bench) -> None:
    bench.model.unlink()
    os.mkfifo(bench.model)


def dangling_link(bench: Bench) -> None:
    bench.model.unlink()
    bench.model.symlink_to("gone.onnx")


def endless_link(bench: Bench) -> None:
    bench.model.unlink()
    bench.model.symlink_to(bench.model)


def cut(share: float):
    def prepare(bench: Bench) -> None:
        whole = bench.model.read_bytes()
        bench.model.write_bytes(whole[: int(len(whole) * share)])

    return prepare


GOOD = good_model().SerializeToString()
TABLE = [
    Case("missing", SIMPLIFY, ("model.onnx does not exist",), lambda bench: bench.model.unlink()),
    Case("missing, with its folder", "simplify {here}/no/model.onnx -o {out}", ("no/model.onnx does not exist", "no folder")),
    Case("a link to nothing", SIMPLIFY, ("model.onnx does not exist",), dangling_link),
    Case("a link to itself", SIMPLIFY, ("model.onnx cannot be read",), endless_link),
    Case("a path below a file", "simplify {out}/model.onnx -o {here}/other.onnx", ("model.onnx",)),
    Case("a name that is too long", "simplify {here}/" + "m" * 300 + ".onnx -o {out}", ("cannot be read",)),
    Case("a folder", SIMPLIFY, ("model.onnx is a folder",), replaced_by_folder),
    Case("a SavedModel", SIMPLIFY, ("SavedModel", "tf2onnx"), lambda bench: replaced_by_folder(bench, saved_model=True)),
    Case("a pipe", SIMPLIFY, ("model.onnx is not a regular file",), replaced_by_pipe),
    Case("a device", "simplify /dev/null -o {out}", ("/dev/null is not a regular file",)),
    Case("empty", SIMPLIFY, ("model.onnx is empty",), holds(b"")),
    Case("a web page", SIMPLIFY, ("model.onnx", "web page", "download"), holds(PAGE)),
    Case("a web page after a byte order mark", SIMPLIFY, ("web page",), holds(b"\xef\xbb\xbf\n  " + PAGE)),
    Case("an XML file", SIMPLIFY, ("XML",), holds(b'<?xml version="1.0"?>\n<net name="small"/>\n')),
    Case("a Git LFS pointer", SIMPLIFY, ("model.onnx", "Git LFS pointer", "git lfs pull"), holds(POINTER)),
    Case("a zip archive", SIMPLIFY, ("zip archive",), holds(zipped(**{"model.onnx": GOOD}))),
    Case("a gzip file", SIMPLIFY, ("gzip", "unpack"), holds(gzip.compress(GOOD))),
    Case("a tar archive", SIMPLIFY, ("tar archive",), holds(tar())),
    Case("a pickle", SIMPLIFY, ("pickle", "never opened"), holds(pickle.dumps({"weight": [1.0]}))),
    Case("safetensors", SIMPLIFY, ("safetensors",), holds(safetensors())),
    Case("HDF5", SIMPLIFY, ("HDF5",), holds(b"\x89HDF\r\n\x1a\n" + bytes(64))),
    Case("TensorFlow Lite", SIMPLIFY, ("TensorFlow Lite",), holds(b"\x1c\0\0\0TFL3" + bytes(64))),
    Case("ORT format", SIMPLIFY, ("ORT format",), holds(b"\x18\0\0\0ORTM" + bytes(64))),
    Case("a numpy array", SIMPLIFY, ("numpy array",), holds(array())),
    Case("JSON", SIMPLIFY, ("JSON",), holds(b'{"graph": {"node": []}}')),
    Case("a text", SIMPLIFY, ("text",), holds(b"This is a note about the model, not the model.\n" * 5)),
    Case("ONNX text", SIMPLIFY, ("text",), holds(b'<ir_version: 8, opset_import: ["" : 17]>\nmain (float[N] x) => (float[N] y) { y = Relu (x) }'[1:])),
    Case("noise", SIMPLIFY, ("model.onnx is no",), holds(b"\xff" + random.Random(3).randbytes(4000))),
    Case("zeros", SIMPLIFY, ("model.onnx is not a readable ONNX model",), holds(bytes(4096))),
    Case("cut in the middle", SIMPLIFY, (r"model.onnx is not a readable ONNX model: \d+ bytes are announced for 'model.graph", "left", "truncated"), cut(0.5)),
    Case("cut near the end", SIMPLIFY, ("model.onnx",), cut(0.98)),
    Case("cut after a few bytes", SIMPLIFY, ("model.onnx",), holds(GOOD[:3])),
    Case("another message", SIMPLIFY, ("model.onnx",), holds(good_model().graph.SerializeToString())),
    Case("inspect", "inspect {model}", ("web page",), holds(PAGE)),
    Case("inspect as JSON", "inspect {model} --format json", ("web page",), holds(PAGE)),
    Case("compress", "compress {model} -o {out} --data {data} --record {record}", ("web page",), holds(PAGE)),
    Case("quantize", "quantize {model} -o {out} --data {data}", ("web page",), holds(PAGE)),
    Case("benchmark, reference", "benchmark {model} --data {data}", ("model.onnx", "web page"), holds(PAGE)),
    Case("benchmark, candidate", "benchmark {model} {out}", ("out.onnx",)),
    Case("validate, candidate", "validate {model} {out} --data {data}", ("out.onnx",)),
    Case("validate, missing reference", "validate {here}/gone.onnx {model} --data {data}", ("gone.onnx does not exist",)),
]


@cases(TABLE)
def test_refused(bench: Bench, case: Case) -> None:
    try_case(bench, case)


def test_a_file_beyond_protobufs_limit_is_refused_without_reading_it(bench: Bench) -> None:
    with bench.model.open("wb") as file:
        file.write(GOOD)
        file.truncate(2**31 + 5)  # sparse: takes no room
    before = bench.out.read_bytes()
    outcome = bench.run("inspect {model}")
    bench.model.write_bytes(GOOD)
    assert outcome.status == 2 and "external data" in outcome.stderr and bench.out.read_bytes() == before


def test_the_bench_itself_is_good(bench: Bench) -> None:
    """Every case changes one thing of this folder; unchanged, the command must work."""
    assert len(good_feeds()) == len(list(bench.data.iterdir()))
    outcome = bench.run("quantize {model} -o {out} --data {data} --no-measure -q")
    assert outcome.status == 0, outcome.stderr
    assert bench.out.read_bytes() != b"the previous output"


@pytest.mark.parametrize("step", [1, 7, 64])
def test_every_prefix_of_a_file_is_refused_by_the_reader(step: int) -> None:
    from graphcompress.errors import ModelError
    from graphcompress.ir import model_from_proto
    from graphcompress.ir.files.parse import parse

    for end in range(0, len(GOOD), step if step > 1 else 13):
        with pytest.raises(ModelError):
            model_from_proto(parse(GOOD[:end]))
