"""Places as commands: named in places.toml, through a shell, over ssh, in Node."""

from __future__ import annotations

import os
import shlex
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from loop_model import loop_feed, loop_model

from graphcompress import ir
from graphcompress.errors import ModelError, PlaceError, UsageError
from graphcompress.runtime.elsewhere import sources
from graphcompress.runtime.elsewhere.config import PlaceSpec, find_place, known_places
from graphcompress.runtime.elsewhere.remote import RemotePlace
from graphcompress.runtime.session import LocalSession

ModelOf = Callable[..., ir.Model]
ADD = "g (float[n, 3] x) => (float[n, 3] y) { y = Add(x, x) }"
FEED = {"x": np.ones((2, 3), np.float32)}

posix = pytest.mark.skipif(os.name == "nt", reason="needs a shell of POSIX")


def spec(*command: str, **more: Any) -> PlaceSpec:
    return PlaceSpec(name="there", command=command, **more)


# --- places.toml --------------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """The working folder's places.toml, and the user's."""
    project, home = tmp_path / "project", tmp_path / "home"
    project.mkdir()
    (home / ".config" / "graphcompress").mkdir(parents=True)
    monkeypatch.chdir(project)
    monkeypatch.setattr(Path, "home", lambda: home)
    return project / "places.toml", home / ".config" / "graphcompress" / "places.toml"


def test_a_name_is_looked_up_in_the_project_then_at_the_user(folders: tuple[Path, Path]) -> None:
    project, user = folders
    project.write_text('[phone]\ncommand = "ssh phone"\nlimit = 7\n', encoding="utf-8")
    user.write_text('[phone]\ncommand = ["other"]\n[board]\ncommand = ["./run", "x"]\nfolder = "sub"\nprovider = "qnn"\ntiming = false\n', encoding="utf-8")
    assert find_place("phone").command == ("ssh", "phone") and find_place("phone").limit == 7
    board = find_place("board")
    assert board.command == (str(user.parent / "run"), "x") and board.folder == str(user.parent / "sub")
    assert (board.provider, board.timing, board.name) == ("qnn", False, "board")
    assert list(known_places()) == ["phone", "board"]


def test_what_is_no_name_is_a_command(folders: tuple[Path, Path]) -> None:
    assert find_place(f"{shlex.quote(sys.executable)} -E").command == (sys.executable, "-E")
    with pytest.raises(UsageError, match="is no command: No closing quotation"):
        find_place("python 'x")
    folders[0].write_text('[phone]\ncommand = "ssh phone"\n', encoding="utf-8")
    with pytest.raises(UsageError, match=r"'phnoe' is neither a place that places\.toml or .* names nor a command .* Did you mean 'phone'\?"):
        find_place("phnoe")


FAULTS = {
    "not TOML": ("[phone", "cannot be read"),
    "no table": ("phone = 3", "'phone' is no place"),
    "no command": ("[phone]", "the place 'phone': command: Field required"),
    "an empty command": ("[phone]\ncommand = []", "command: "),
    "an unknown key": ('[phone]\ncommand = "x"\nlimits = 3', "limits: Extra inputs"),
    "a limit that is none": ('[phone]\ncommand = "x"\nlimit = 0', "limit: "),
    "a name inside": ('[phone]\ncommand = "x"\nname = "y"', "is called what the place is called"),
    "an unknown worker": ('[phone]\ncommand = "x"\nworker = "ruby"', "worker: "),
}


@pytest.mark.parametrize("case", FAULTS)
def test_a_file_that_cannot_be_used_is_named(case: str, folders: tuple[Path, Path]) -> None:
    text, says = FAULTS[case]
    folders[0].write_text(text, encoding="utf-8")
    with pytest.raises(UsageError, match=says) as caught:
        find_place("phone")
    assert str(caught.value).startswith("places.toml")


# --- commands -----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "start"),
    [
        (("ssh", "host"), ["ssh", "host", "python3", "-c"]),
        (("docker", "exec", "-i", "box"), ["docker", "exec", "-i", "box", "python3", "-c"]),
        (("docker", "exec", "-i", "box", "/opt/bin/python3.12"), ["docker", "exec", "-i", "box", "/opt/bin/python3.12", "-c"]),
        (("qemu-aarch64-static", "-L", "root", "root/usr/bin/python3.11"), ["qemu-aarch64-static", "-L", "root", "root/usr/bin/python3.11", "-c"]),
        (("ssh", "host", "node"), ["ssh", "host", "node", "-e"]),
        (("node",), ["node", "-e"]),
    ],
)
def test_what_a_command_starts(command: tuple[str, ...], start: list[str]) -> None:
    assert spec(*command).words()[: len(start)] == start
    assert len(spec(*command).words()) == len(start) + 1


def test_only_what_a_shell_reads_once_more_is_quoted() -> None:
    quoted, plain = spec("ssh", "host", "python3").words()[-1], spec("docker", "exec", "-i", "box", "python3").words()[-1]
    assert quoted != plain and shlex.split(quoted) == [plain]
    assert spec("worker", worker="own").words() == ["worker"]


@posix
def test_a_command_that_hands_its_words_to_a_shell(tmp_path: Path, model_of: ModelOf) -> None:
    """What ssh does: the words behind the host, joined by blanks, are a line for the shell there."""
    ssh = tmp_path / "ssh"
    ssh.write_text('#!/bin/sh\nshift\nexec sh -c "$*"\n', encoding="utf-8")
    ssh.chmod(0o755)
    with RemotePlace(spec(str(ssh), "host", sys.executable)) as place, place.open(model_of(ADD)) as session:
        assert session.run(FEED)["y"].tolist() == [[2.0] * 3] * 2


@posix
def test_a_host_that_cannot_be_reached_says_so(tmp_path: Path) -> None:
    ssh = tmp_path / "ssh"
    ssh.write_text("#!/bin/sh\necho 'ssh: connect to host box port 22: Connection refused' >&2\nexit 255\n", encoding="utf-8")
    ssh.chmod(0o755)
    with (
        RemotePlace(spec(str(ssh), "box")) as place,
        pytest.raises(PlaceError, match=r"ended with status 255 when it was started\. It said: ssh: connect to host box"),
    ):
        place.describe()


# --- a real sshd --------------------------------------------------------------------------------------------------------------------------

SSHD = shutil.which("sshd", path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"]))


@pytest.fixture
def ssh_place(tmp_path: Path) -> Iterator[PlaceSpec]:
    """A sshd of our own on the loopback interface, with keys of its own."""
    if SSHD is None or shutil.which("ssh") is None or shutil.which("ssh-keygen") is None:
        pytest.skip("no sshd, ssh or ssh-keygen on this machine")
    tmp_path.chmod(0o700)
    for key in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / key)], check=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    lines = [
        "ListenAddress 127.0.0.1",
        f"Port {port}",
        f"HostKey {tmp_path / 'host'}",
        f"AuthorizedKeysFile {tmp_path / 'user.pub'}",
        "StrictModes no",
        "PidFile none",
    ]
    (tmp_path / "sshd_config").write_text("\n".join([*lines, "PasswordAuthentication no", "UsePAM no", "PermitRootLogin yes", ""]), encoding="utf-8")
    server = subprocess.Popen([SSHD, "-D", "-e", "-f", str(tmp_path / "sshd_config")], stderr=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline and server.poll() is None:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.05)
        if server.poll() is not None:
            assert server.stderr is not None
            pytest.skip(f"sshd does not start here: {server.stderr.read().strip()[-200:]}")
        options = ["-o", "StrictHostKeyChecking=no", "-o", f"UserKnownHostsFile={tmp_path / 'known'}", "-o", "IdentitiesOnly=yes", "-F", "none"]
        yield spec("ssh", "-p", str(port), "-i", str(tmp_path / "user"), *options, "127.0.0.1", sys.executable)
    finally:
        server.terminate()
        server.wait()
        if server.stderr is not None:
            server.stderr.close()


@posix
@pytest.mark.slow
def test_over_ssh(ssh_place: PlaceSpec, models: Path) -> None:
    model = ir.load(models / "digits_mlp" / "model.onnx")
    feed = {model.inputs[0].name: np.random.default_rng(0).random((4, 64), np.float32)}
    with RemotePlace(ssh_place) as place, place.open(model, threads=1) as there, LocalSession(model, threads=1) as here:
        np.testing.assert_equal(there.run(feed), here.run(feed))


@posix
@pytest.mark.slow
def test_the_worker_behind_a_lost_line_ends(ssh_place: PlaceSpec, tmp_path: Path) -> None:
    """ssh is killed in the middle of a run: the worker on the other side finds nobody to tell that it is alive."""
    import threading

    import psutil

    with RemotePlace(ssh_place) as place:
        session = place.open(loop_model())
        mine = place.start()._process.pid
        far = [p for p in psutil.process_iter(["cmdline"]) if "i.readline()" in " ".join(p.info["cmdline"] or ()) and p.info["cmdline"][0] == sys.executable]
        threading.Timer(0.5, lambda: os.kill(mine, 9)).start()
        with pytest.raises(PlaceError, match=r"was ended by SIGKILL"):
            session.run(loop_feed(10**9))
    deadline = time.monotonic() + 10
    while any(p.is_running() for p in far) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert far and not any(p.is_running() for p in far)


# --- Node ---------------------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def node_place() -> PlaceSpec:
    """Node with onnxruntime-web in the lab's folder."""
    lab = Path(os.environ.get("GRAPHCOMPRESS_LAB", Path.home() / ".cache" / "graphcompress-lab")) / "web"
    if shutil.which("node") is None or not (lab / "node_modules" / "onnxruntime-web").is_dir():
        pytest.skip("no Node with onnxruntime-web in the lab's folder")
    return spec("node", folder=str(lab))


@pytest.mark.slow
def test_in_node(node_place: PlaceSpec, models: Path, model_of: ModelOf) -> None:
    model = ir.load(models / "digits_cnn" / "model.onnx")
    feed = {s.name: np.random.default_rng(0).random([d if isinstance(d, int) else 2 for d in s.shape or ()], np.float32) for s in model.inputs}
    with RemotePlace(node_place) as place:
        assert place.describe()["runtime"] == "onnxruntime-web" and place.clock_noise() >= 0
        with place.open(model) as there, LocalSession(model) as here:
            assert (there.inputs, [(o.name, o.dtype) for o in there.outputs]) == (here.inputs, [(o.name, o.dtype) for o in here.outputs])
            mine, its = here.run(feed), there.run(feed)
            assert mine.keys() == its.keys() and all(np.allclose(mine[k], its[k], atol=1e-4) for k in mine)
            assert there.time([feed], 2).wall > 0 and there.time([feed], 2).cpu is None
            assert there.describe()["share"] is None and there.assigned_nodes() is None
        with place.open(model_of("g (string[n] x, int64[n] i) => (string[n] y, int64[n] j) { y = Identity(x) j = Neg(i) }")) as there:
            values = there.run({"x": np.array(["ä", "b"], object), "i": np.int64([2**53 + 1, -3])})
            assert values["y"].tolist() == ["ä", "b"] and values["j"].tolist() == [-(2**53) - 1, 3]
        with pytest.raises(ModelError, match=r"onnxruntime-web cannot load .* \(at the place 'there'\)"):
            place.open(model_of("g (float[n] x) => (float[n] y) { y = my.domain.NoSuch(x) }", extra=', "my.domain" : 1'))
        with pytest.raises(UsageError, match="one thread"):
            place.open(model, threads=4)


@pytest.mark.slow
def test_node_without_a_runtime_says_what_to_install(node_place: PlaceSpec, tmp_path: Path) -> None:
    from graphcompress.errors import RuntimeUnavailable

    with RemotePlace(node_place.model_copy(update={"folder": str(tmp_path)})) as place, pytest.raises(RuntimeUnavailable, match="npm install onnxruntime-web"):
        place.describe()


@posix
@pytest.mark.slow
def test_a_node_that_is_killed_is_one_clear_error(node_place: PlaceSpec) -> None:
    import threading

    with RemotePlace(node_place) as place:
        session = place.open(loop_model())
        threading.Timer(0.5, lambda: os.kill(place.start()._process.pid, 9)).start()
        with pytest.raises(PlaceError, match="SIGKILL"):
            session.run(loop_feed(10**8))


@pytest.mark.parametrize(("kind", "part"), [("node", b"onnxruntime-web"), ("python", b"graphcompress.runtime.elsewhere.worker")])
def test_an_interpreter_is_sent_its_worker_behind_the_length_of_it(kind: sources.Kind, part: bytes) -> None:
    length, _, text = sources.program(kind).partition(b"\n")
    assert int(length) == len(text) and part in text
    assert sources.program("own") == b""
