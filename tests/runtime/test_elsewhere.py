"""Places elsewhere: the same answers as here, feeds sent once, damage on the wire noticed."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from graphcompress import ir
from graphcompress.errors import DataError, ModelError, RuntimeUnavailable, UsageError
from graphcompress.ir.files import serialize
from graphcompress.runtime import ort_session
from graphcompress.runtime.elsewhere import wire, worker
from graphcompress.runtime.elsewhere.remote import Package, RemotePlace
from graphcompress.runtime.place import LocalPlace
from graphcompress.runtime.session import LocalSession
from tests.support.places import ADD, FEED, spec

ModelOf = Callable[..., ir.Model]
pytestmark = pytest.mark.usefixtures("nothing_left_running")


# --- the same as here ---------------------------------------------------------------------------------------------------------------------


def test_answers_are_those_of_this_process(place: RemotePlace, models: Path) -> None:
    model = ir.load(models / "digits_cnn" / "model.onnx")
    feed = {s.name: np.random.default_rng(0).random([d if isinstance(d, int) else 2 for d in s.shape or ()], np.float32) for s in model.inputs}
    with LocalSession(model, threads=1) as here, place.open(model, threads=1) as there:
        assert (there.inputs, there.outputs) == (here.inputs, here.outputs)
        mine, its = here.run(feed), there.run(feed)
        assert mine.keys() == its.keys() and all(np.array_equal(mine[k], its[k]) and mine[k].dtype == its[k].dtype for k in mine)
        ours, told = here.describe(), there.describe()
        assert {k: told[k] for k in ours} == ours and told["place"] == "there"
        assert place.describe().keys() - LocalPlace().describe().keys() == {"place", "timed", "usable", "python", "memory"}, "and nothing of how it was sent"
        assert there.assigned_nodes() == here.assigned_nodes()
        seconds = there.time([feed], 3)
        assert 0 < seconds.wall < 1 and seconds.cpu is not None


VALUES = {
    "strings": ("g (string[n] x) => (string[n] y) { y = Identity(x) }", {"x": np.array(["ä", "", "b"], object)}),
    "nothing": ("g (float[n] x) => (float[n] y) { y = Neg(x) }", {"x": np.ones(0, np.float32)}),
    "a scalar": ("g (double x) => (double y) { y = Neg(x) }", {"x": np.float64(2.5)}),
    "half": ("g (float16[n] x) => (float16[n] y, bool[n] z) { y = Neg(x) z = IsNaN(x) }", {"x": np.float16([1, np.nan])}),
    "a sequence": ("g (float[n] x) => (seq(float[n]) y) { y = SequenceConstruct(x, x) }", {"x": np.ones(2, np.float32)}),
}


@pytest.mark.parametrize("case", VALUES)
def test_values_of_every_kind_come_back(case: str, place: RemotePlace, model_of: ModelOf) -> None:
    text, feed = VALUES[case]
    model = model_of(text)
    feed = {k: np.asarray(v) for k, v in feed.items()}
    with LocalSession(model) as here, place.open(model) as there:
        np.testing.assert_equal(there.run(feed), here.run(feed))


def test_maps_come_back(place: RemotePlace, model_of: ModelOf) -> None:
    """ZipMap gives a list of dicts from classes to floats."""
    text = "g (float[n, 2] x) => (seq(map(int64, float)) y) { y = ai.onnx.ml.ZipMap<classlabels_int64s = [3, 5]>(x) }"
    with place.open(model_of(text, extra=', "ai.onnx.ml" : 1')) as there:
        assert there.run({"x": np.float32([[1, 2]])}) == {"y": [{3: 1.0, 5: 2.0}]}


def test_float8_codes_have_their_type(place: RemotePlace, model_of: ModelOf) -> None:
    with place.open(model_of("g (float[n] x) => (float8e4m3fn[n] y) { y = Cast<to = 17>(x) }", opset=19, ir_version=9)) as there:
        assert there.run({"x": np.float32([1, 2])})["y"].astype(float).tolist() == [1, 2]


def test_dimensions_are_fixed(place: RemotePlace, model_of: ModelOf) -> None:
    with place.open(model_of("g (float[n, m] x) => (float[n, m] y) { y = Neg(x) }"), dims={"n": 2, "x[1]": 3}) as there:
        assert there.inputs[0].shape == (2, 3)


def test_errors_are_those_of_this_process(place: RemotePlace, model_of: ModelOf) -> None:
    reshape = model_of("g (float[n] x, int64[2] s) => (float[a, b] y) { y = Reshape(x, s) }")
    with place.open(reshape, label="the compressed model") as there:
        with pytest.raises(DataError, match=r"cannot run the compressed model.*at the place 'there'"):
            there.run({"x": np.ones(3, np.float64), "s": np.int64([1, 3])})
        with pytest.raises(ModelError, match="cannot run the compressed model"):
            there.run({"x": np.ones(5, np.float32), "s": np.int64([2, 3])})
        assert there.run({"x": np.ones(6, np.float32), "s": np.int64([2, 3])})["y"].shape == (2, 3), "and it goes on"
    with pytest.raises(ModelError, match=r"cannot load.*at the place 'there'"):
        place.open(model_of("g (float[n] x) => (float[n] y) { y = my.domain.NoSuch(x) }", extra=', "my.domain" : 1'))
    with RemotePlace(spec(), "warp") as wrong, pytest.raises(UsageError, match="warp"):
        wrong.describe()
    with RemotePlace(spec(), "cuda") as wrong, pytest.raises(RuntimeUnavailable, match="onnxruntime-gpu"):
        wrong.describe()


def test_what_cannot_be_sent_is_a_data_error(place: RemotePlace, model_of: ModelOf) -> None:
    with place.open(model_of(ADD)) as there, pytest.raises(DataError, match=r"\|V4"):
        there.run({"x": np.zeros((1, 3), "V4")})


def test_session_options_reach_the_session(model_of: ModelOf) -> None:
    gelu = model_of("g (float[n] x) => (float[n] y) { y = com.microsoft.Gelu(x) }", extra=', "com.microsoft" : 1')
    feed = {"x": np.float32([0.7, 1.3])}
    with RemotePlace(spec(), config={"optimization.enable_gelu_approximation": "1"}) as fast, fast.open(gelu) as there, LocalPlace().open(gelu) as plain:
        assert 1e-7 < np.abs(there.run(feed)["y"] - plain.run(feed)["y"]).max() < 1e-2


def test_a_footprint_is_that_of_a_worker_of_its_own(place: RemotePlace, models: Path) -> None:
    path = models / "digits_mlp" / "model.onnx"
    (x,) = ir.load(path).inputs
    footprint = place.footprint(path, {x.name: np.zeros((1, 64), np.float32)})
    assert footprint.load_seconds > 0 and footprint.peak_bytes > 10 * 2**20
    assert place._line is None, "the place itself was not asked"


def test_a_model_with_external_data_goes_along(place: RemotePlace, model_of: ModelOf, tmp_path: Path) -> None:
    model = model_of(f"g (float[n, 3] x) => (float[n, 400] y) <float[3, 400] w = {{{', '.join(['0.5'] * 1200)}}}> {{ y = MatMul(x, w) }}")
    ir.save(model, tmp_path / "m.onnx", external_data=True)
    with place.open(tmp_path / "m.onnx") as there:
        assert there.run(FEED)["y"].tolist() == [[1.5] * 400] * 2


def test_a_model_beyond_one_message_goes_as_two_files(place: RemotePlace, model_of: ModelOf, monkeypatch: pytest.MonkeyPatch) -> None:
    """As from 2 GiB on."""
    model = model_of(f"g (float[n, 3] x) => (float[n, 400] y) <float[3, 400] w = {{{', '.join(['0.5'] * 1200)}}}> {{ y = MatMul(x, w) }}")
    monkeypatch.setattr(serialize, "LARGEST_MESSAGE", 1000)
    assert [name for name, _ in Package(model).files] == ["model.onnx", "model.onnx.data"]
    with place.open(model) as there:
        assert there.run(FEED)["y"].tolist() == [[1.5] * 400] * 2


# --- feeds and models are sent once -------------------------------------------------------------------------------------------------------


def test_feeds_are_sent_once(place: RemotePlace, model_of: ModelOf, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[tuple[str, int]] = []
    ask = place.ask
    monkeypatch.setattr(place, "ask", lambda head, arrays=(), *rest: (sent.append((head["op"], len(arrays))), ask(head, arrays, *rest))[1])
    model = model_of(ADD)
    with place.open(model, threads=1) as first, place.open(model, threads=2) as second:
        first.run(FEED)
        second.run(FEED)
        second.time([FEED, {"x": FEED["x"] + 1}], 1)
    assert [count for op, count in sent if op in ("run", "time")] == [1, 0, 1]
    assert [op for op, _ in sent].count("model") == 1


def test_feeds_that_the_worker_has_lost_are_sent_once_more(place: RemotePlace, model_of: ModelOf) -> None:
    with place.open(model_of("g (float[n] x, float[n] b) => (float[n] y) { y = Add(x, b) }")) as there:
        feed = {"x": np.float32([1, 2]), "b": np.float32([3, 4])}
        place.known |= {wire.digest(array) for array in feed.values()}  # though it never got them
        assert there.run(feed)["y"].tolist() == [4, 6]
        place.known.add(wire.digest(np.float32([5, 6])))
        assert there.time([feed, {**feed, "x": np.float32([5, 6])}], 1).wall > 0


def test_what_the_worker_no_longer_has_is_asked_for(model_of: ModelOf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "KEPT", 30)
    serving = worker.Worker()
    session = ort_session.OrtSession(ir.to_bytes(model_of("g (float[n] x) => (float[n] y) { y = Neg(x) }")))
    big, small = np.ones(5, np.float32), np.ones(3, np.float32)

    def run(name: str, fresh: dict[str, Any], arrays: list[Any]) -> Any:
        return serving.compute(session, {"op": "run", "feed": {"x": name}, "fresh": fresh}, arrays)

    assert run("a", {}, [])[0] == {"missing": ["a"]}
    assert run("a", {"a": {"array": 0}}, [big])[1][0].tolist() == [-1] * 5
    run("b", {"b": {"array": 0}}, [small])
    assert run("a", {}, [])[0] == {"missing": ["a"]}, "it was the older one, and both are too much"


def test_only_the_latest_models_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "IN_MEMORY", 10)
    serving = worker.Worker()
    for number in range(worker.KEPT_MODELS + 1):
        content = b"x" * 20
        stream = io.BytesIO()
        wire.write_message(stream, {"op": "model", "digest": f"d{number}", "files": [["m", 12], ["m.data", 8]]}, [content], len(content))
        stream.seek(0)
        message = wire.read_message(stream)
        assert message is not None
        serving.answer(message)
    assert serving.folder is not None and sorted(p.name for p in Path(serving.folder).iterdir()) == [f"d{n}" for n in range(1, worker.KEPT_MODELS + 1)]
    assert (Path(serving.folder) / "d1" / "m").stat().st_size == 12 and (Path(serving.folder) / "d1" / "m.data").stat().st_size == 8
    serving.close()
    assert not Path(serving.folder).exists()


# --- the wire -----------------------------------------------------------------------------------------------------------------------------


def message(head: dict[str, Any], arrays: list[Any]) -> bytes:
    stream = io.BytesIO()
    described, body, length = wire.array_body(arrays)
    wire.write_message(stream, {**head, "arrays": described}, body, length)
    return stream.getvalue()


def arrays_in(content: bytes | bytearray) -> list[Any]:
    read = wire.read_message(io.BytesIO(content))
    assert read is not None
    return wire.arrays_of(read.head, read.read())


def test_every_damage_is_noticed() -> None:
    """Whatever byte is flipped, a message is refused, never read as another one."""
    whole = message({"op": "run"}, [np.arange(5, dtype=np.int16), np.ones((2, 2))])
    for position in range(len(whole)):
        damaged = bytearray(whole)
        damaged[position] ^= 4
        with pytest.raises(wire.WireError):
            arrays_in(damaged)
    for length in range(1, len(whole)):
        with pytest.raises(wire.WireError):
            arrays_in(whole[:length])


@pytest.mark.parametrize("arrays", [[["O", [1]]], [["<f4", [-1]]], [["<f4", [3]]], [["<f4", [1]]], "x", [[1]], [["<f4", ["2"]]]])
def test_arrays_that_are_none_are_refused(arrays: Any) -> None:
    with pytest.raises(wire.WireError):
        wire.arrays_of({"arrays": arrays}, bytearray(8))
