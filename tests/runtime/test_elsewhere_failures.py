"""Places elsewhere that fail: what becomes of a worker, and of what it leaves, in any phase."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from loop_model import loop_feed, loop_model
from onnx import helper, numpy_helper

from graphcompress import ir
from graphcompress.errors import ModelError, PlaceError, RuntimeUnavailable
from graphcompress.runtime.elsewhere import worker
from graphcompress.runtime.elsewhere.config import PlaceSpec
from graphcompress.runtime.elsewhere.remote import RemotePlace
from tests.support.places import ADD, FEED, gone, posix, process, spec

ModelOf = Callable[..., ir.Model]
pytestmark = pytest.mark.usefixtures("nothing_left_running")


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
