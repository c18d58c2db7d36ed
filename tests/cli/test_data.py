"""`graphcompress data`: what the model would be fed, what looks wrong, and the sheet."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest


def ids(run: Any, data: str, model: str = "model.onnx", *more: str) -> set[str]:
    done = run("data", model, "--data", data, "--format", "json", *more)
    assert done.status == 0, done.err
    return {finding["id"] for finding in done.json["findings"]}


def test_shapes_ranges_and_rows_are_shown(place: Path, run: Any) -> None:
    done = run("data", "model.onnx", "--data", "feeds.npz", "--format", "json")
    (item,) = done.json["inputs"]
    array = np.load("feeds.npz")["x"]
    assert (item["name"], item["expected"], item["shapes"]) == ("x", "float [batch, 3, 16, 16]", [[1, 3, 16, 16]])
    assert item["minimum"] == array.min() and item["maximum"] == array.max() and item["mean"] == pytest.approx(array.mean(), rel=1e-4)
    assert item["deviation"] == pytest.approx(array.std(), rel=1e-4) and item["rows"][0] == array[0, 0, 0, :6].tolist()
    table = run("data", "model.onnx", "--data", "feeds.npz")
    assert "24 feeds from feeds.npz" in table.out and "Nothing looks wrong." in table.out


def test_what_looks_wrong_is_named(place: Path, run: Any) -> None:
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (8, 3, 16, 16)).astype(np.float32)
    for name, array in {
        "raw": pixels,
        "good": pixels / 255,
        "zero": np.zeros((8, 3, 16, 16), np.float32),
        "large": pixels * 1000.5,
        "double": pixels.astype(np.float64) / 255,
        "same": np.repeat(pixels[:1] / 255, 8, 0),
    }.items():
        np.savez(f"{name}.npz", x=array)
    assert ids(run, "good.npz") == set()
    assert ids(run, "raw.npz") == {"data/never-normalised"}
    assert ids(run, "zero.npz") == {"data/constant", "data/identical"}
    assert ids(run, "large.npz") == {"data/large"}
    assert ids(run, "double.npz") == {"data/converted"}
    assert ids(run, "same.npz") == {"data/identical"}


def test_a_model_that_scales_its_input_takes_pixels(place: Path, run: Any) -> None:
    import onnx

    text = '<ir_version: 8, opset_import: ["": 17]> g (float[n, 3, 6, 6] x) => (float[n, 3, 6, 6] y) { t = Transpose <perm = [0,1,3,2]> (x) y = Mul (t, s) }'
    model = onnx.parser.parse_model(text)
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(1 / 255, np.float32), "s"))
    onnx.save(model, "scales.onnx")
    np.savez("raw.npz", x=np.random.default_rng(0).integers(0, 256, (8, 3, 6, 6)).astype(np.float32))
    assert ids(run, "raw.npz", "scales.onnx") == set()
    image = pytest.importorskip("PIL.Image")
    Path("photos").mkdir()
    image.fromarray(np.zeros((9, 9, 3), np.uint8)).save("photos/a.png")
    asked = run("data", "scales.onnx", "--data", "photos").err
    assert "the model scales its input itself" in asked and "mean = " not in asked
    Path("preprocess.toml").write_text(asked.partition("\n")[2])  # what is shown is a file that works
    assert run("data", "scales.onnx", "--data", "photos", "--preprocess", "preprocess.toml").status == 0


def test_padding_and_layout_are_seen(place: Path, run: Any) -> None:
    import onnx

    text = '<ir_version: 8, opset_import: ["": 17]> g (int64[n, l] ids, int64[n, l] mask, float[n, a, b, c] image) => (int64[n, l] y, float[n, a, b, c] z) { y = Add (ids, mask) z = Identity (image) }'
    onnx.save(onnx.parser.parse_model(text), "tokens.onnx")
    generator = np.random.default_rng(0)
    good = {"ids": np.arange(40).reshape(8, 5), "mask": np.tile([1, 1, 1, 0, 0], (8, 1)), "image": generator.standard_normal((8, 3, 6, 6)).astype(np.float32)}
    np.savez("good.npz", **good)
    np.savez("pad.npz", **{**good, "ids": np.zeros((8, 5), np.int64)})
    np.savez("last.npz", **{**good, "image": good["image"].transpose(0, 2, 3, 1)})
    assert ids(run, "good.npz", "tokens.onnx") == set()
    assert ids(run, "pad.npz", "tokens.onnx") == {"data/padding-only"}
    assert ids(run, "last.npz", "tokens.onnx") == {"data/channels-last"}
    np.savez("full.npz", **{**good, "mask": np.ones((8, 5), np.int64)})
    np.savez("hidden.npz", **{**good, "mask": np.array([[1, 1, 1, 0, 0]] * 7 + [[0] * 5])})
    assert ids(run, "full.npz", "tokens.onnx") == set() and ids(run, "hidden.npz", "tokens.onnx") == {"data/padding-only"}


def test_single_texts_look_right(place: Path, run: Any) -> None:
    """Without padding a mask holds ones alone, and the numbers of sentences are zeros."""
    import onnx

    text = '<ir_version: 8, opset_import: ["": 17]> g (int64[n, l] input_ids, int64[n, l] attention_mask, int64[n, l] token_type_ids) => (int64[n, l] y) { s = Add (input_ids, attention_mask) y = Add (s, token_type_ids) }'
    onnx.save(onnx.parser.parse_model(text), "texts.onnx")
    np.savez("texts.npz", input_ids=np.arange(40).reshape(8, 5), attention_mask=np.ones((8, 5), np.int64), token_type_ids=np.zeros((8, 5), np.int64))
    assert ids(run, "texts.npz", "texts.onnx") == set()


def test_the_sheet_shows_the_pictures(place: Path, run: Any) -> None:
    array = np.zeros((4, 3, 16, 16), np.float32)
    array[1, 0], array[2, 1], array[3, 2] = 1, 1, 1
    np.savez("colours.npz", x=array)
    done = run("data", "model.onnx", "--data", "colours.npz", "--sheet", "sheet.png", "-q")
    assert done.status == 0 and done.err == ""
    content = Path("sheet.png").read_bytes()
    width, height = struct.unpack(">II", content[16:24])
    start = content.index(b"IDAT") + 4
    (length,) = struct.unpack(">I", content[start - 8 : start - 4])
    rows = np.frombuffer(zlib.decompress(content[start : start + length]), np.uint8).reshape(height, 1 + 3 * width)[:, 1:].reshape(height, width, 3)
    middles = [rows[height // 4, width // 4], rows[height // 4, 3 * width // 4], rows[3 * height // 4, width // 4], rows[3 * height // 4, 3 * width // 4]]
    assert [colour.tolist() for colour in middles] == [[0, 0, 0], [255, 0, 0], [0, 255, 0], [0, 0, 255]]


def test_without_pictures_there_is_no_sheet(place: Path, run: Any) -> None:
    import onnx

    onnx.save(onnx.parser.parse_model('<ir_version: 8, opset_import: ["": 17]> g (float[n, 3] x) => (float[n, 3] y) { y = Relu (x) }'), "rows.onnx")
    np.savez("rows.npz", x=np.arange(6, dtype=np.float32).reshape(2, 3))
    done = run("data", "rows.onnx", "--data", "rows.npz", "--sheet", "sheet.png")
    assert done.status == 2 and "no input is a picture" in done.err and not Path("sheet.png").exists()
    assert run("data", "rows.onnx", "--data", "rows.npz", "--preprocess", "absent.toml").status == 2
    assert "--preprocess says how --data is prepared" in run("compress", "rows.onnx", "-o", "o.onnx", "--preprocess", "absent.toml").err
