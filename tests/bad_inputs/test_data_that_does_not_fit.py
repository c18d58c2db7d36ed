"""Feeds that are missing, do not fit the model, or are no feeds."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
from bad_input_bench import Bench, Case, cases, good_model, try_case, zipped
from onnx import TensorProto, helper

Q = "quantize {model} -o {out} --data {data} --record {record}"
C = "compress {model} -o {out} --data {data} --record {record}"
STACKED = "quantize {model} -o {out} --data {here}/feeds.npz"


def feeds(edit: Callable[[dict[str, Any]], object], only: int | None = None) -> Callable[[Bench], None]:
    return lambda bench: bench.change_feeds(edit, only=only)


def image(change: Callable[[np.ndarray[Any, Any]], Any], only: int | None = 3) -> Callable[[Bench], None]:
    return feeds(lambda feed: feed.update(image=change(feed["image"])), only)


def with_nan(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    changed = array.copy()
    changed[0, 1, 2, 3] = np.nan
    return changed


def emptied(bench: Bench) -> None:
    for file in bench.data.iterdir():
        file.unlink()


def gone(bench: Bench) -> None:
    emptied(bench)
    bench.data.rmdir()


def only_texts(bench: Bench) -> None:
    emptied(bench)
    (bench.data / "readme.txt").write_text("The feeds are elsewhere.")


def file(content: bytes, name: str = "003.npz") -> Callable[[Bench], object]:
    return lambda bench: (bench.data / name).write_bytes(content)


def member(content: bytes) -> Callable[[Bench], object]:
    return file(zipped(**{"image.npy": content}))


def header(text: str, version: bytes = b"\x01\x00") -> bytes:
    """A .npy header of one's own."""
    return b"\x93NUMPY" + version + len(text).to_bytes(2, "little") + text.encode()


def bomb(bench: Bench) -> None:
    """A header that announces terabytes, over a few bytes."""
    member(header("{'descr': '<f4', 'fortran_order': False, 'shape': (1, 3, 1000000000, 1000), }\n") + bytes(64))(bench)


def code(bench: Bench) -> None:
    """A pickle that would make a file if it were opened."""

    class Bomb:
        def __reduce__(self) -> Any:
            return os.system, (f"touch {bench.root / 'executed'}",)

    member(header("{'descr': '|O', 'fortran_order': False, 'shape': (1,), }\n") + pickle.dumps([Bomb()]))(bench)


def shortened(bench: Bench) -> None:
    path = bench.data / "003.npz"
    path.write_bytes(path.read_bytes()[:400])


def damaged(bench: Bench) -> None:
    path = bench.data / "003.npz"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)


def stacked(*, batch: int | str = "N", rows: int = 10, **more: np.ndarray[Any, Any]) -> Callable[[Bench], None]:
    def prepare(bench: Bench) -> None:
        bench.model.write_bytes(good_model(batch).SerializeToString())
        np.savez(bench.here / "feeds.npz", image=np.ones((rows, 3, 8, 8), np.float32), **more)

    return prepare


def two_inputs(bench: Bench) -> None:
    """A second input, and a stacked file in which it has fewer rows."""

    def edit(model: Any) -> None:
        model.graph.input.append(helper.make_tensor_value_info("offset", TensorProto.FLOAT, ["N", 4]))
        model.graph.node.append(helper.make_node("Add", ["scores", "offset"], ["moved"], name="move"))
        model.graph.output[0].name = "moved"

    bench.change(edit)
    np.savez(bench.here / "feeds.npz", image=np.ones((9, 3, 8, 8), np.float32), offset=np.ones((7, 4), np.float32))


def sequence_input(bench: Bench) -> None:
    def edit(model: Any) -> None:
        kind = helper.make_sequence_type_proto(helper.make_tensor_type_proto(TensorProto.FLOAT, None))
        model.graph.input.append(helper.make_value_info("history", kind))

    bench.change(edit)


HERE = ("003.npz", "'image'")
TABLE = [
    Case("no data", "quantize {model} -o {out}", ("no data", "--data", "--random-data")),
    Case("no data, compress", "compress {model} -o {out}", ("no data", "--data")),
    Case("no data, validate", "validate {model} {model}", ("--data",)),
    Case("data and random data", C + " --random-data", ("--data", "--random-data")),
    Case("missing", Q, (r"/data\b",), gone),
    Case("missing, validate", "validate {model} {model} --data {data}", (r"/data\b",), gone),
    Case("missing, benchmark", "benchmark {model} --data {data}", (r"/data\b",), gone),
    Case("an empty folder", Q, (r"/data\b", "no .npz"), emptied),
    Case("a folder of other files", Q, (r"/data\b", "readme.txt"), only_texts),
    Case("a device", "quantize {model} -o {out} --data /dev/null", ("/dev/null",)),
    Case("a folder in place of a feed", Q, ("003.npz",), lambda b: ((b.data / "003.npz").unlink(), (b.data / "003.npz").mkdir())),
    Case("a pipe in place of a feed", Q, ("003.npz",), lambda b: ((b.data / "003.npz").unlink(), os.mkfifo(b.data / "003.npz"))),
    Case("a link to nothing", Q, ("003.npz",), lambda b: ((b.data / "003.npz").unlink(), (b.data / "003.npz").symlink_to("gone"))),
    Case("a missing key", Q, (*HERE, "missing"), feeds(lambda f: f.pop("image"), 3)),
    Case("only ground truth", Q, (*HERE, "missing"), feeds(lambda f: (f.pop("image"), f.update(_label=np.zeros(1))), 3)),
    Case("another key", Q, ("000.npz", "'image'", "'picture'"), feeds(lambda f: f.update(picture=f.pop("image")))),
    Case("a key too many", Q, ("003.npz", "'label'", "_"), feeds(lambda f: f.update(label=np.zeros(1)), 3)),
    Case("an output's name as key", Q, ("003.npz", "'scores'"), feeds(lambda f: f.update(scores=np.zeros((1, 4), np.float32)), 3)),
    Case("two dimensions too few", Q, (*HERE, "2 axes", "Expected 4"), image(lambda a: a[0, 0])),
    Case("the wrong size", Q, (*HERE, "axis 3", "9", "8"), image(lambda a: np.ones((1, 3, 8, 9), np.float32))),
    Case("channels last", Q, (*HERE, r"\[1, 8, 8, 3\]", r"\[N, 3, 8, 8\]"), image(lambda a: a.transpose(0, 2, 3, 1))),
    Case("an empty array", Q, (*HERE, "empty"), image(lambda a: a[:0])),
    Case("float64 beyond float32", Q, (*HERE, "float64", "float32"), image(lambda a: a.astype(np.float64) * 1e300)),
    Case("integers", Q, (*HERE, "uint8"), image(lambda a: a.astype(np.uint8))),
    Case("texts", Q, (*HERE, "str"), image(lambda a: a.astype(str))),
    Case("complex numbers", Q, (*HERE, "complex64"), image(lambda a: a.astype(np.complex64))),
    Case("NaN", Q, (*HERE, "NaN"), image(with_nan)),
    Case("NaN, compress", C, (*HERE, "NaN"), image(with_nan)),
    Case("NaN, validate", "validate {model} {model} --data {data}", (*HERE, "NaN"), image(with_nan)),
    Case("NaN, benchmark", "benchmark {model} --data {data}", (*HERE, "NaN"), image(with_nan)),
    Case("objects", Q, (*HERE, "objects"), image(lambda a: np.array([[1], [2, 3]], object))),
    Case("objects that run code", Q, (*HERE, "objects"), code),
    Case("a structured type", Q, (*HERE, "structured"), image(lambda a: np.zeros((1, 3, 8, 8), [("a", "<f4"), ("b", "<f4")]))),
    Case("no zip", Q, ("003.npz",), file(b"no archive at all")),
    Case("an empty file", Q, ("003.npz",), file(b"")),
    Case("an empty archive", Q, ("003.npz", "'image'"), file(zipped())),
    Case("a plain array", Q, ("003.npz",), file(header("{'descr': '<f4', 'fortran_order': False, 'shape': (1,), }\n") + bytes(4))),
    Case("a shortened archive", Q, ("003.npz",), shortened),
    Case("a damaged archive", Q, ("003.npz",), damaged),
    Case("a member that is no array", Q, ("003.npz", "image"), member(b"not an array")),
    Case("a member without its data", Q, ("003.npz", "image"), member(header("{'descr': '<f4', 'fortran_order': False, 'shape': (1, 3, 8, 8), }\n"))),
    Case("a header that is no header", Q, ("003.npz", "image"), member(header("__import__('os').system('true')\n"))),
    Case(
        "a header with a negative shape",
        Q,
        ("003.npz", "image"),
        member(header("{'descr': '<f4', 'fortran_order': False, 'shape': (-1, 3, 8, 8), }\n") + bytes(768)),
    ),
    Case("a header that announces terabytes", Q, ("003.npz", "image"), bomb),
    Case("a header of a later version", Q, ("003.npz", "image"), member(header("{}", b"\x09\x00"))),
    Case("a stacked file that is missing", STACKED, ("feeds.npz",)),
    Case("a remainder", STACKED, ("feeds.npz", "'image'", r"\b10\b", r"\b4\b"), stacked(batch=4)),
    Case("a remainder, compress", "compress {model} -o {out} --data {here}/feeds.npz", (r"\b10\b", r"\b4\b"), stacked(batch=4)),
    Case("fewer rows than one feed needs", STACKED, ("feeds.npz", "'image'", r"\b3\b", r"\b4\b"), stacked(batch=4, rows=3)),
    Case("no rows", STACKED, ("feeds.npz", "'image'", "empty"), stacked(rows=0)),
    Case("unequal rows", STACKED, ("feeds.npz", "'image'", "'offset'", r"\b9\b", r"\b7\b"), two_inputs),
    Case("a second input that is missing", Q, ("000.npz", "'offset'"), two_inputs),
    Case("an input that no file can hold", Q, ("'history'", "sequence"), sequence_input),
    Case("random data for such an input", "compress {model} -o {out} --random-data", ("'history'",), sequence_input),
]


@cases(TABLE)
def test_refused(bench: Bench, case: Case) -> None:
    try_case(bench, case)


def test_infinities_are_named_or_survived(bench: Bench) -> None:
    """An infinite value is no NaN; whatever a calibration makes of it, it is one message or a model."""
    bench.change_feeds(lambda feed: feed["image"].__setitem__((0, 0, 0, 0), np.inf), only=3)
    outcome = bench.run(Q + " --no-measure -q")
    assert outcome.status in (0, 2) and "Traceback" not in outcome.stderr and "bug in graphcompress" not in outcome.stderr
