"""Pictures and texts as feeds: what is asked, what the preparation does, and what a picture or a text becomes."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from graphcompress.data import open_data
from graphcompress.data.preparation import read_preparation
from graphcompress.errors import DataError
from graphcompress.ir import TensorSpec

Image = pytest.importorskip("PIL.Image", reason="the extra [images]")
PHOTO = TensorSpec("image", "float", ("n", 3, 4, 6))


def picture(path: Path, height: int = 4, width: int = 6, mode: str = "RGB", **how: Any) -> np.ndarray[Any, Any]:
    """A picture at `path`, and its pixels."""
    path.parent.mkdir(exist_ok=True, parents=True)
    pixels = np.random.default_rng(len(path.name)).integers(0, 256, (height, width, *([len(mode)] if len(mode) > 1 else [])), dtype=np.uint8)
    Image.fromarray(pixels).save(path, **how)
    return pixels


def toml(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "preprocess.toml"
    path.write_text(text)
    return path


def fed(path: Path, spec: TensorSpec, preprocess: Path | None = None) -> list[np.ndarray[Any, Any]]:
    return [feed[spec.name] for feed in open_data(path, [spec], preprocess=preprocess)]


def test_one_message_asks_everything_and_its_answer_works(tmp_path: Path) -> None:
    picture(tmp_path / "photos" / "a.png", 40, 60)
    picture(tmp_path / "photos" / "below" / "b.JPG".lower(), 60, 40)
    with pytest.raises(DataError, match=r"2 pictures.*'image' as float \[n, 3, 224, 224\].*--preprocess preprocess.toml") as caught:
        fed(tmp_path / "photos", TensorSpec("image", "float", ("n", 3, 224, 224)))
    answer = toml(tmp_path, str(caught.value).partition("\n")[2])
    first, second = fed(tmp_path / "photos", TensorSpec("image", "float", ("n", 3, 224, 224)), answer)
    assert first.shape == second.shape == (1, 3, 224, 224) and first.dtype == np.float32 and -2.2 < first.min() < first.max() < 2.7


def test_pixels_become_what_the_preparation_says(tmp_path: Path) -> None:
    pixels = picture(tmp_path / "a.png")
    ways = toml(tmp_path, "[images]\nscale = 0.5\nmean = [1, 2, 3]\nstd = [2, 4, 8]\n")
    np.testing.assert_allclose(fed(tmp_path / "a.png", PHOTO, ways)[0][0], ((pixels * 0.5 - [1, 2, 3]) / [2, 4, 8]).transpose(2, 0, 1), rtol=1e-6)
    last = TensorSpec("image", "float", ("n", 4, 6, 3))
    np.testing.assert_array_equal(fed(tmp_path / "a.png", last, toml(tmp_path, '[images]\ncolor = "bgr"\n'))[0][0], pixels[:, :, ::-1])


def test_pixels_that_the_type_cannot_hold_are_refused(tmp_path: Path) -> None:
    pixels = picture(tmp_path / "a.png")
    spec = TensorSpec("image", "int8", ("n", 3, 4, 6))
    with pytest.raises(DataError, match=r"a.png: its prepared pixels are \d+ to 2\d\d, which int8 cannot hold"):
        fed(tmp_path / "a.png", spec, toml(tmp_path, "[images]\n"))
    np.testing.assert_array_equal(fed(tmp_path / "a.png", spec, toml(tmp_path, "\ufeff[images]\nmean = 128\n"))[0][0], pixels.transpose(2, 0, 1) - 128.0)


def test_hidden_folders_hold_no_data(tmp_path: Path) -> None:
    spec = TensorSpec("image", "uint8", ("n", 3, 4, 6))
    for name in ("a.png", ".thumbnails/a.png", "below/.cache/b.png", "below/c.png"):
        picture(tmp_path / "photos" / name)
    assert len(fed(tmp_path / "photos", spec)) == 2


def test_an_input_of_any_shape_takes_what_the_preparation_says(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    spec = TensorSpec("image", "float", None)
    assert fed(tmp_path / "a.png", spec, toml(tmp_path, '[images]\nsize = 8\nlayout = "nchw"\n'))[0].shape == (1, 3, 8, 8)
    assert fed(tmp_path / "a.png", spec, toml(tmp_path, '[images]\nlayout = "nhwc"\n'))[0].shape == (1, 4, 6, 3)


def test_bytes_are_taken_as_they_are(tmp_path: Path) -> None:
    pixels = picture(tmp_path / "a.png")
    np.testing.assert_array_equal(fed(tmp_path / "a.png", TensorSpec("image", "uint8", ("n", 3, 4, 6)))[0][0], pixels.transpose(2, 0, 1))
    gray = picture(tmp_path / "g.png", mode="L")
    np.testing.assert_array_equal(fed(tmp_path / "g.png", TensorSpec("image", "uint8", ("n", 1, 4, 6)))[0][0, 0], gray)


@pytest.mark.parametrize(
    ("text", "shape", "corner"),
    [
        ('resize = "stretch"', (4, 6), None),
        ('resize = "shortest"\nresize_to = 8\ncrop = "center"', (4, 6), None),
        ('resize = "fit"\npad = 7\nsize = [6, 6]', (6, 6), 7),
        ('resize = "none"\ncrop = "center"', (4, 6), None),
        ('resize = "none"', (8, 12), None),
    ],
)
def test_resizing(tmp_path: Path, text: str, shape: tuple[int, int], corner: int | None) -> None:
    pixels = picture(tmp_path / "a.png", 8, 12)
    free = TensorSpec("image", "float", ("n", 3, "h", "w"))
    spec = free if shape != (4, 6) else PHOTO
    (array,) = fed(tmp_path / "a.png", spec, toml(tmp_path, f"[images]\n{text}\n"))
    assert array.shape == (1, 3, *shape)
    if corner is not None:
        assert array[0, 0, 0, 0] == corner
    if "none" in text and "crop" in text:
        np.testing.assert_array_equal(array[0], pixels[2:6, 3:9].transpose(2, 0, 1))


def test_pictures_are_turned_as_the_camera_was_held(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    pixels = picture(tmp_path / "a.png", 6, 4, exif=exif)
    np.testing.assert_array_equal(fed(tmp_path / "a.png", PHOTO, toml(tmp_path, "[images]\n"))[0][0], np.rot90(pixels, -1).transpose(2, 0, 1))


def test_a_configuration_of_hugging_face(tmp_path: Path) -> None:
    picture(tmp_path / "a.png", 8, 12)
    config = tmp_path / "preprocessor_config.json"
    known = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.25, 0.25, 0.25], "do_normalize": True, "do_resize": True, "resample": 3}
    config.write_text(json.dumps({**known, "size": {"height": 4, "width": 6}}))
    ways = read_preparation(config).images
    assert ways is not None and (ways.size, ways.resize, ways.interpolation, ways.mean, ways.scale) == ((4, 6), "stretch", "bicubic", (0.5,) * 3, 1 / 255)
    config.write_text(json.dumps({**known, "size": {"shortest_edge": 8}, "do_center_crop": True, "crop_size": {"height": 4, "width": 6}, "do_rescale": False}))
    ways = read_preparation(config).images
    assert ways is not None and (ways.size, ways.resize, ways.resize_to, ways.crop, ways.scale) == ((4, 6), "shortest", 8, "center", 1.0)
    assert fed(tmp_path / "a.png", PHOTO, config)[0].shape == (1, 3, 4, 6)
    # One number: a square, but where something is cut afterwards, or sides of any ratio are allowed up to a length.
    for more, expected in (
        ({"size": 6}, ("stretch", (6, 6), None, "none")),
        ({"size": 6, "do_center_crop": True, "crop_size": 4}, ("shortest", (4, 4), 6, "center")),
        ({"size": 6, "crop_pct": 0.5}, ("shortest", (6, 6), 12, "center")),
        ({"size": {"height": 4, "width": 4}, "do_center_crop": True, "crop_size": 4}, ("stretch", (4, 4), None, "center")),
        ({"size": 6, "max_size": 9}, ("shortest", None, 6, "none")),
    ):
        config.write_text(json.dumps(known | more))
        ways = read_preparation(config).images
        assert ways is not None and (ways.resize, ways.size, ways.resize_to, ways.crop) == expected
    config.write_text(json.dumps({"vocab_size": 3}))
    with pytest.raises(DataError, match=r"neither a preprocessor_config.json .* nor a tokenizer.json"):
        read_preparation(config)


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("[images]\nsise = 3\n", r"\[images\] sise: there is no such key. Did you mean 'size'"),
        ('[image]\nsize = 3\n[images]\nresize = "big"', r"image: there is no such key. Did you mean 'images'.*|resize"),
        ("[images]\nstd = [0, 1, 1]\n", "std has a 0"),
        ("[images]\nmean = [1, 2]\n", "mean has 2 numbers.*'rgb' has 3 channels"),
        ("[images\n", "is no TOML"),
    ],
)
def test_faults_of_the_file(tmp_path: Path, text: str, part: str) -> None:
    with pytest.raises(DataError, match=part):
        read_preparation(toml(tmp_path, text))


def test_pictures_that_cannot_be_fed(tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(DataError, match=r"bad.png: this picture cannot be read"):
        fed(tmp_path / "bad.png", PHOTO, toml(tmp_path, "[images]\n"))
    Image.fromarray(np.zeros((4, 6), np.uint16)).save(tmp_path / "deep.png")
    with pytest.raises(DataError, match=r"deep.png.*not of 8 bits"):
        fed(tmp_path / "deep.png", PHOTO, toml(tmp_path, "[images]\n"))
    picture(tmp_path / "a.png")
    with pytest.raises(DataError, match=r"'series' is float \[n, 5\], not a batch of images"):
        fed(tmp_path / "a.png", TensorSpec("series", "float", ("n", 5)))
    with pytest.raises(DataError, match="does not tell where the channels are"):
        fed(tmp_path / "a.png", TensorSpec("image", "float", ("n", "a", "b", "c")), toml(tmp_path, "[images]\n"))
    with pytest.raises(DataError, match=r"the model also needs 'scale'|needs 'image'.*'scale'"):
        open_data(tmp_path / "a.png", [PHOTO, TensorSpec("scale", "float", ("n",))])


# --- texts ----------------------------------------------------------------------------------------------------------------------------

IDS, MASK, TYPES = (TensorSpec(name, "int64", ("n", "length")) for name in ("input_ids", "attention_mask", "token_type_ids"))


@pytest.fixture
def tokenizer(tmp_path: Path) -> Path:
    tokenizers = pytest.importorskip("tokenizers", reason="the extra [text]")
    vocabulary = {"[PAD]": 0, "[UNK]": 1, "one": 2, "two": 3, "three": 4}
    built = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="[UNK]"))
    built.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    built.save(str(tmp_path / "tokenizer.json"))
    return tmp_path / "tokenizer.json"


def write(tmp_path: Path, name: str, text: str) -> Path:
    path = tmp_path / name
    path.write_text(text)
    return path


def test_texts_become_ids_masks_and_types(tmp_path: Path, tokenizer: Path) -> None:
    path = write(tmp_path, "texts.txt", "one two\n\nthree what one\n")
    with pytest.raises(DataError, match=r"these are texts.*--preprocess tokenizer.json"):
        open_data(path, [IDS, MASK])
    feeds = list(open_data(path, [IDS, MASK, TYPES], preprocess=tokenizer))
    assert [feed["input_ids"].tolist() for feed in feeds] == [[[2, 3]], [[4, 1, 2]]]
    assert feeds[1]["attention_mask"].tolist() == [[1, 1, 1]] and feeds[1]["token_type_ids"].tolist() == [[0, 0, 0]]
    fixed = TensorSpec("tokens", "int32", (1, 4))
    assert [feed["tokens"].tolist() for feed in open_data(path, [fixed], preprocess=tokenizer)] == [[[2, 3, 0, 0]], [[4, 1, 2, 0]]]


def test_examples_in_messages_can_be_copied_from_a_narrow_terminal(tmp_path: Path, tokenizer: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sixty columns: a line that is broken on the terminal is no TOML any more."""
    monkeypatch.chdir(tmp_path)
    picture(tmp_path / "a.png")
    rows, lines = write(tmp_path, "rows.csv", "a,b,Unnamed: 0\n1,2,3\n"), write(tmp_path, "texts.txt", "one\n")
    pair = [TensorSpec(name, "float", ("n", 1)) for name in ("first_input", "second_input")]
    photo = TensorSpec("image", "float", ("n", 3, 224, 224))
    for path, inputs, ways in ((tmp_path / "a.png", [photo], None), (rows, pair, None), (lines, [IDS, MASK], None), (lines, pair, tokenizer.name)):
        with pytest.raises(DataError) as error:
            open_data(path, inputs, preprocess=ways)
        _, *example = str(error.value).split("\n")
        assert example and max(map(len, example)) <= 60, example
        assert tomllib.loads("\n".join(example)).keys() & {"images", "table", "text"}


def test_texts_beside_their_tokenizer(tmp_path: Path, tokenizer: Path) -> None:
    """What Hugging Face's libraries put into a folder, and the file that --preprocess names, are no data; of several files it is asked which one."""
    write(tmp_path, "texts.txt", "one two\nthree what one\n")
    write(tmp_path, "tokenizer_config.json", "{}")
    assert len(open_data(tmp_path, [IDS, MASK], preprocess=tokenizer)) == 2
    with pytest.raises(DataError, match=r"these are texts.*--preprocess tokenizer.json"):
        open_data(tmp_path, [IDS, MASK])
    other = tokenizer.rename(tmp_path / "words.json")
    assert len(open_data(tmp_path, [IDS, MASK], preprocess=other)) == 2
    ways = write(tmp_path, "text.toml", '[text]\ntokenizer = "words.json"\n')
    assert len(open_data(tmp_path, [IDS, MASK], preprocess=ways)) == 2
    write(tmp_path, "more.txt", "one\n")
    with pytest.raises(DataError, match=r"several files that could be the data: more.txt, texts.txt. Give the one"):
        open_data(tmp_path, [IDS, MASK], preprocess=other)


def test_length_padding_columns_and_names(tmp_path: Path, tokenizer: Path) -> None:
    ways = write(tmp_path, "text.toml", '[text]\ntokenizer = "tokenizer.json"\nlength = 2\ncolumns = ["q", "a"]\ninputs.ids = "A"\ninputs.mask = "B"\n')
    path = write(tmp_path, "pairs.csv", "q,a,id\none,two three,7\ntwo,two,8\n")
    inputs = [TensorSpec(name, "int64", ("n", "length")) for name in "AB"]
    feeds = list(open_data(path, inputs, preprocess=ways))
    assert all(feed["A"].shape == (1, 2) for feed in feeds) and len(feeds) == 2
    with pytest.raises(DataError, match="which of these takes the token ids"):
        open_data(path, inputs, preprocess=write(tmp_path, "less.toml", '[text]\ntokenizer = "tokenizer.json"\ncolumns = ["q"]\n'))
    with pytest.raises(DataError, match=r"which of the columns 'q', 'a', 'id' hold the texts"):
        open_data(path, [IDS], preprocess=tokenizer)
    with pytest.raises(DataError, match=r"absent.json: this tokenizer cannot be read"):
        open_data(path, [IDS], preprocess=write(tmp_path, "gone.toml", '[text]\ntokenizer = "absent.json"\ncolumns = ["q"]\n'))


def test_a_text_that_is_missing_is_no_text(tmp_path: Path, tokenizer: Path) -> None:
    """And is not the word None."""
    ways = write(tmp_path, "text.toml", '[text]\ntokenizer = "tokenizer.json"\ncolumns = ["q"]\n')
    data = open_data(write(tmp_path, "texts.jsonl", '{"q": "one", "n": 1}\n{"q": null, "n": 2}\n'), [IDS], preprocess=ways)
    assert len(data) == 1 and "1 of 2 rows were left out, since cells are empty in 'q'." in [finding.text for finding in data.findings()]


def test_a_model_of_strings_takes_texts_as_they_are(tmp_path: Path) -> None:
    path = write(tmp_path, "texts.txt", "one two\nthree\n")
    assert [f["t"].tolist() for f in open_data(path, [TensorSpec("t", "string", ("n", 1))])] == [[["one two"]], [["three"]]]
    assert [f["t"].tolist() for f in open_data(path, [TensorSpec("t", "string", ("n",))])] == [["one two"], ["three"]]
