"""Places elsewhere: the same answers as here, feeds sent once, and what becomes of a worker that fails, in any phase."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from loop_model import loop_feed, loop_model
from onnx import helper, numpy_helper

from graphcompress import ir
from graphcompress.errors import DataError, ModelError, PlaceError, RuntimeUnavailable, UsageError
from graphcompress.ir.files import serialize
from graphcompress.runtime import ort_session
from graphcompress.runtime.elsewhere import wire, worker
from graphcompress.runtime.elsewhere.config import PlaceSpec
from graphcompress.runtime.elsewhere.remote import Package, RemotePlace
from graphcompress.runtime.place import LocalPlace
from graphcompress.runtime.session import LocalSession

ModelOf = Callable[..., ir.Model]
ADD = "g (float[n, 3] x) => (float[n, 3] y) { y = Add(x, x) }"
FEED = {"x": np.ones((2, 3), np.float32)}

posix = pytest.mark.skipif(os.name == "nt", reason="signals and process groups of POSIX")


def spec(*command: str, **more: Any) -> PlaceSpec:
    return PlaceSpec(name="there", command=command or (sys.executable,), **more)


@pytest.fixture(autouse=True)
def nothing_left_running() -> Iterator[None]:
    """Every test ends with the processes that there were before."""
    before = {p.pid for p in psutil.Process().children(recursive=True)}
    yield
    left = [p for p in psutil.Process().children(recursive=True) if p.pid not in before]
    assert left == []


@pytest.fixture
def place() -> Iterator[RemotePlace]:
    with RemotePlace(spec()) as opened:
        yield opened


def process(place: RemotePlace) -> psutil.Process:
    """The worker of a place that has started."""
    assert place._line is not None
    return psutil.Process(place._line._process.pid)


def gone(process: psutil.Process, within: float = 10) -> bool:
    """Whether a process ends in time, though perhaps nobody asks how."""
    deadline = time.monotonic() + within
    while running := psutil.pid_exists(process.pid) and process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
        if time.monotonic() > deadline:
            break
        time.sleep(0.05)
    return not running


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


# --- workers that fail --------------------------------------------------------------------------------------------------------------------


def own(code: str) -> PlaceSpec:
    return spec(sys.executable, "-c", code, worker="own", limit=20)


HELLO = "import sys; sys.path[:0] = {path!r}; from graphcompress.runtime.elsewhere import wire; out = sys.stdout.buffer; "
BAD = {
    "a command that is not there": (spec("/no/such/python"), "cannot be started: /no/such/python: No such file"),
    "one that ends": (own("import sys; sys.exit('no thanks')"), "ended with status 1 when it was started.*It said: no thanks"),
    "one that ends well": (own(""), "ended with status 0 when it was started"),
    "rubbish": (own("print('Welcome to the machine'); import time; time.sleep(60)"), "does not speak the protocol .*'Welcome to the machine'"),
    "another version of the frames": (
        own("print('gcw9....................'); import time; time.sleep(60)"),
        "version 9 of the protocol, and this is version 1",
    ),
    "another version of the worker": (own(HELLO + "wire.write_message(out, {{'protocol': 7}}); sys.stdin.read()"), "speaks version 7 of the protocol"),
    "silence": (spec(sys.executable, "-c", "import time; time.sleep(60)", worker="own", limit=1), "took longer than its limit of 1 s when it was started"),
    "half a message": (own("import sys; sys.stdout.write('gcw1'); sys.stdout.flush()"), "it ended in the middle of a message"),
    "no numpy": (spec(sys.executable, "-S"), "No module named 'numpy'.*Python with numpy and an onnxruntime is all that it needs"),
    "an answer that is none": (
        own(HELLO + "wire.write_message(out, {{'protocol': 1, 'beat': None}}); wire.write_message(out, {{'arrays': [['O', [1]]]}}); sys.stdin.read()"),
        "gave an answer that is none",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_a_place_that_cannot_be_used_is_one_clear_error(case: str, repository: Path) -> None:
    bad, says = BAD[case]
    bad = bad.model_copy(update={"command": tuple(word.format(path=[str(repository)]) if word.startswith(HELLO) else word for word in bad.command)})
    with RemotePlace(bad) as there, pytest.raises(PlaceError, match=says) as caught:
        there.describe()
    assert "there" in str(caught.value) and "\n" not in str(caught.value)


def test_a_place_without_onnxruntime_says_what_to_install(tmp_path: Path) -> None:
    folder = Path(np.__file__).parent
    for name in (folder, folder.with_name("numpy.libs")):
        if name.exists():
            (tmp_path / name.name).symlink_to(name)
    with (
        RemotePlace(spec(sys.executable, "-S", env={"PYTHONPATH": str(tmp_path)})) as there,
        pytest.raises(RuntimeUnavailable, match="onnxruntime is not installed"),
    ):
        there.describe()


PHASES: dict[str, Callable[[RemotePlace, Any, ir.Model], object]] = {
    "describe": lambda place, session, model: place.clock_noise(),
    "open": lambda place, session, model: place.open(model.copy()),
    "run": lambda place, session, model: session.run(loop_feed(3)),
    "time": lambda place, session, model: session.time([loop_feed(3)], 2),
    "state": lambda place, session, model: session.describe(),
    "close": lambda place, session, model: session.close(),
}


@posix
@pytest.mark.parametrize("phase", PHASES)
def test_a_worker_that_is_killed_at_work_is_one_clear_error(phase: str, place: RemotePlace) -> None:
    session = place.open(loop_model())
    there = process(place)
    there.suspend()  # so that the request is under way
    threading.Timer(0.3, there.kill).start()
    with pytest.raises(PlaceError, match=r"'there' was ended by SIGKILL \(perhaps for lack of memory\) at the request"):
        PHASES[phase](place, session, loop_model())
    assert not there.is_running()


@posix
@pytest.mark.parametrize("phase", PHASES)
def test_a_worker_that_hangs_is_ended(phase: str, model_of: ModelOf) -> None:
    with RemotePlace(spec(silence=0.5)) as place:
        session = place.open(loop_model())
        process(place).suspend()
        with pytest.raises(PlaceError, match=r"gave no sign of life for 0\.5 s at the request .*it hangs, or the line to it is lost"):
            PHASES[phase](place, session, loop_model())


@posix
def test_a_place_that_was_lost_can_be_asked_again(place: RemotePlace) -> None:
    session = place.open(loop_model())
    before = session.run(loop_feed(3))["y"]
    process(place).kill()
    with pytest.raises(PlaceError):
        session.run(loop_feed(3))
    assert np.array_equal(session.run(loop_feed(3))["y"], before), "by a new worker, which gets model and feed again"
    session.close()


@posix
def test_a_runtime_that_crashes_is_the_models_fault(place: RemotePlace) -> None:
    session, other = place.open(loop_model(), label="the compressed model"), place.open(loop_model())
    there = process(place)
    there.suspend()
    threading.Timer(0.3, lambda: (there.send_signal(signal.SIGSEGV), there.resume())).start()
    with pytest.raises(ModelError, match=r"the compressed model ended the runtime.*SIGSEGV"):
        session.run(loop_feed(3))
    assert other.run(loop_feed(3))["y"].shape == (1000,), "other sessions go on in a new worker"
    other.close()


def test_long_work_is_no_silence() -> None:
    with RemotePlace(spec(silence=1.5)) as place:
        place.describe()
        session = place.open(loop_model(), threads=1)
        turns, seconds = 1000, 0.0
        while seconds < 2:
            turns *= 2
            begin = time.monotonic()
            session.run(loop_feed(turns))
            seconds = time.monotonic() - begin


def test_work_beyond_the_limit_is_ended() -> None:
    with RemotePlace(spec(limit=1.5)) as place:
        session = place.open(loop_model(), threads=1)
        with pytest.raises(PlaceError, match=r"took longer than its limit of 1\.5 s at the request 'run': raise `limit`"):
            session.run(loop_feed(10**9))


SLOW = """
import os, subprocess, sys, time
worker = subprocess.Popen(sys.argv[1:], stdin=subprocess.PIPE)
while block := os.read(0, 65536):
    worker.stdin.write(block)
    worker.stdin.flush()
    time.sleep(0.02)
worker.stdin.close()
worker.wait()
"""


@pytest.mark.slow
def test_the_time_that_a_slow_line_takes_is_not_counted(model_of: ModelOf, tmp_path: Path) -> None:
    """About 3 MB a second."""
    (tmp_path / "slow.py").write_text(SLOW, encoding="utf-8")
    big = {"x": np.ones((1_500_000, 3), np.float32)}
    with RemotePlace(spec(sys.executable, str(tmp_path / "slow.py"), sys.executable, limit=3)) as place, place.open(model_of(ADD)) as session:
        begin = time.monotonic()
        assert session.run(big)["y"].shape == (1_500_000, 3)
        assert time.monotonic() - begin > 3


@posix
def test_all_that_a_command_started_is_ended() -> None:
    """The worker is a child of the command here."""
    with RemotePlace(spec("sh", "-c", '"$0" "$@"; true', sys.executable)) as place:
        place.describe()
        tree = [process(place), *process(place).children(recursive=True)]
        assert len(tree) == 2
        tree[1].suspend()
    assert all(gone(p) for p in tree)


DRIVER = """
import sys
from graphcompress.runtime.elsewhere.config import PlaceSpec
from graphcompress.runtime.elsewhere.remote import Package, RemotePlace
from loop_model import loop_feed, loop_model
from onnx import helper, numpy_helper
place = RemotePlace(PlaceSpec(name="there", command=(sys.executable,)))
session = place.open(loop_model())
print(place._line._process.pid, flush=True)
session.run(loop_feed(10**9))
"""


@posix
def test_a_worker_ends_with_the_process_that_started_it(repository: Path) -> None:
    path = os.pathsep.join([str(repository), str(repository / "tests" / "support")])
    driver = subprocess.Popen([sys.executable, "-c", DRIVER], stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": path})
    assert driver.stdout is not None
    there = psutil.Process(int(driver.stdout.readline()))
    driver.kill()
    driver.wait()
    driver.stdout.close()
    assert gone(there)


@posix
def test_a_full_disk_there_is_one_clear_error(model_of: ModelOf, tmp_path: Path) -> None:
    """As a limit on the size of files, which fails at the same call."""
    columns = worker.IN_MEMORY // 4000 + 1
    weights = numpy_helper.from_array(np.ones((1000, columns), np.float32), "w")
    inputs, outputs = [helper.make_tensor_value_info("x", 1, ["n", 1000])], [helper.make_tensor_value_info("y", 1, ["n", columns])]
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "g", inputs, outputs, [weights])
    large = ir.model_from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8))
    limited = spec("sh", "-c", 'ulimit -f 1000; exec "$0" "$@"', sys.executable, env={"TMPDIR": str(tmp_path)})
    with RemotePlace(limited) as place:
        with pytest.raises(PlaceError, match=r"'there' could not do it: .*File too large"):
            place.open(large)
        with place.open(model_of(ADD)) as session:
            assert session.run(FEED)["y"].tolist() == [[2.0] * 3] * 2, "and it goes on"
    assert list(tmp_path.iterdir()) == []


@posix
def test_what_a_killed_worker_left_on_the_disk_is_removed_by_the_next_one(tmp_path: Path) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    left, other = tmp_path / f"{worker.FOLDER}{gone.pid}-x", tmp_path / f"{worker.FOLDER}{os.getpid()}-x"
    for folder in (left, other):
        folder.mkdir()
    with RemotePlace(spec(env={"TMPDIR": str(tmp_path)})) as place:
        place.describe()
    assert not left.exists() and other.exists()
