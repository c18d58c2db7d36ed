"""Linux, macOS and Windows: no call that only some systems have, and output in every encoding."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

ROOT = Path(__file__).resolve().parent.parent / "graphcompress"

# Not on every system, by the documentation of the standard library.
LACKING = {
    "os": {
        "chown", "chroot", "confstr", "copy_file_range", "ctermid", "eventfd", "fchdir", "fchmod", "fchown", "fdatasync", "fork", "forkpty", "fpathconf",
        "fstatvfs", "geteuid", "getgid", "getgroups", "getloadavg", "getpgid", "getpriority", "getresuid", "getsid", "getuid", "getxattr", "killpg", "lchown",
        "link", "lockf", "memfd_create", "mkfifo", "mknod", "nice", "openpty", "pathconf", "pidfd_open", "pipe2", "posix_fadvise", "posix_fallocate",
        "posix_spawn", "pread", "preadv", "pwrite", "pwritev", "readv", "sched_getaffinity", "sched_setaffinity", "sendfile", "setpgid", "setpriority", "setsid",
        "setuid", "setxattr", "splice", "statvfs", "sync", "sysconf", "tcgetpgrp", "ttyname", "uname", "unshare", "wait", "wait3", "wait4", "waitid", "writev",
        "umask", "O_CLOEXEC", "O_DIRECT", "O_DIRECTORY", "O_NOFOLLOW", "O_SYNC", "O_TMPFILE", "SEEK_DATA", "SEEK_HOLE",
    },
    "time": {"clock_gettime", "clock_gettime_ns", "pthread_getcpuclockid", "tzset", "CLOCK_MONOTONIC", "CLOCK_MONOTONIC_RAW", "CLOCK_PROCESS_CPUTIME_ID", "CLOCK_THREAD_CPUTIME_ID"},
    "signal": {"alarm", "pause", "pthread_kill", "pthread_sigmask", "setitimer", "sigwait", "SIGALRM", "SIGHUP", "SIGKILL", "SIGUSR1", "SIGXCPU"},
    "mmap": {"MAP_POPULATE", "MAP_PRIVATE", "MAP_SHARED", "PAGESIZE", "PROT_READ", "PROT_WRITE"},
    "socket": {"AF_UNIX", "socketpair"},
}  # fmt: skip
MODULES = {"crypt", "fcntl", "grp", "msvcrt", "nis", "posix", "pty", "pwd", "resource", "syslog", "termios", "tty", "winreg"}


def guarded(tree: ast.AST) -> set[ast.AST]:
    """Everything in a `try` that deals with an ImportError."""
    return {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.Try) and any("ImportError" in ast.unparse(h.type) for h in node.handlers if h.type is not None)
        for statement in node.body
        for inner in ast.walk(statement)
    }


def unportable(source: str) -> list[str]:
    """Uses of what some system lacks, without a question for it (`hasattr`, ImportError)."""
    tree = ast.parse(source)
    safe = guarded(tree)
    found = []
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(value=ast.Name(id=module), attr=name) if name in LACKING.get(module, ()) and f'hasattr({module}, "{name}")' not in source:
                found.append(f"{module}.{name}")
            case ast.Import(names=names) if node not in safe:
                found += [a.name for a in names if a.name in MODULES]
            case ast.ImportFrom(module=str(module), names=names):
                found += [module] if module in MODULES and node not in safe else []
                found += [f"{module}.{a.name}" for a in names if a.name in LACKING.get(module, ())]
            case ast.Call(func=ast.Attribute(attr="read_text" | "write_text")) | ast.Call(func=ast.Name(id="open")):
                found += [] if encoded(node) else [f"line {node.lineno}: text in the locale's encoding"]
    return found


def encoded(call: ast.Call) -> bool:
    """Whether a call says an encoding (or how errors are taken: then any will do), or opens bytes."""
    if {k.arg for k in call.keywords} & {"encoding", "errors"}:
        return True
    texts = [a.value for a in call.args if isinstance(a, ast.Constant) and isinstance(a.value, str)]
    return any("b" in text or text.lower().startswith("utf") for text in texts)


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT)))
def test_nothing_that_one_system_lacks(path: Path) -> None:
    assert unportable(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("source", "count"),
    [
        ("import os\nos.pread(f, 1, 2)", 1),
        ("import os\nif hasattr(os, \"link\"):\n    os.link(a, b)", 0),
        ("from os import fchmod", 1),
        ("import resource", 1),
        ("try:\n    import resource\nexcept ImportError:\n    pass", 0),
        ("try:\n    import resource\nexcept ValueError:\n    pass", 1),
        ("p.read_text()", 1),
        ("p.read_text(encoding='utf-8')", 0),
        ("open(p)", 1),
        ("open(p, 'rb')", 0),
    ],
)  # fmt: skip
def test_the_scan_sees_it(source: str, count: int) -> None:
    assert len(unportable(source)) == count


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a model, its data outside, and feeds; every name is one that ASCII and Windows' encodings cannot say."""
    monkeypatch.chdir(tmp_path)
    generator = np.random.default_rng(0)

    def weights(name: str) -> TensorProto:
        return numpy_helper.from_array((generator.standard_normal((64, 64)) * 0.1).astype(np.float32), name)

    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["größe", "w"], ["a"], "层/1"),
            helper.make_node("Relu", ["a"], ["b"], "é\u2028"),
            helper.make_node("MatMul", ["b", "v"], ["выход"], "😀"),
        ],
        "граф",
        [helper.make_tensor_value_info("größe", TensorProto.FLOAT, ["батч", 64])],
        [helper.make_tensor_value_info("выход", TensorProto.FLOAT, ["батч", 64])],
        [weights("w"), weights("v")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8, producer_name="日本")
    onnx.save(model, "modèle.onnx", save_as_external_data=True, location="modèle.bin", size_threshold=0)
    np.savez("d.npz", größe=generator.standard_normal((16, 64)).astype(np.float32))  # type: ignore[arg-type]
    return tmp_path


WITHOUT = """
import sys
import psutil  # its Linux half needs what follows
for module, names in LACKING.items():
    module = __import__(module)
    for name in names:
        if hasattr(module, name) and not name.startswith("O_") and name not in USED:
            delattr(module, name)
sys.modules.update(dict.fromkeys(["fcntl", "grp", "pwd", "resource"]))
import graphcompress
from graphcompress.cli import main
model = graphcompress.load("modèle.onnx")
for external_data in (False, True):
    graphcompress.save(model, "old.onnx", external_data=external_data)
    assert graphcompress.load("old.onnx").graph.initializers["w"].values.tobytes() == model.graph.initializers["w"].values.tobytes()
sys.exit(main(["compress", "old.onnx", "-o", "new.onnx", "--external-data", "--record", "r.json", "--data", "d.npz", "--no-measure"]))
"""
USED = {"fork", "posix_spawn", "geteuid", "getuid", "uname", "sysconf", "getpid", "waitpid"}  # by the standard library of POSIX itself


def test_work_without_what_some_systems_lack(place: Path) -> None:
    (place / "old.onnx").write_bytes(b"old")
    program = WITHOUT.replace("LACKING", repr(LACKING)).replace("USED", repr(USED))
    paths = os.pathsep.join([str(ROOT.parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=120, env=os.environ | {"PYTHONPATH": paths})
    assert done.returncode == 0, done.stderr
    assert json.loads((place / "r.json").read_text(encoding="utf-8"))["output_data"].endswith("new.onnx.data")
    assert (place / "new.onnx.data").exists()


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
@pytest.mark.parametrize(
    ("command", "status"),
    [
        ("inspect modèle.onnx", 0),
        ("inspect modèle.onnx --format json", 0),
        ("compress modèle.onnx -o résultat.onnx --record r.json --data d.npz --no-measure", 0),
        ("quantize modèle.onnx -o résultat.onnx --record r.json --data d.npz --no-measure --exclude 层", 0),
        ("simplify fehlt_ü.onnx -o o.onnx", 2),
        ("simplify modèle.onnx -o o.onnx --target é", 2),
        ("compress --help", 0),
    ],
)
def test_output_in_every_encoding(place: Path, encoding: str, command: str, status: int) -> None:
    """The interpreter of a C locale hands over arguments as bytes that it could not decode."""
    paths = os.pathsep.join([str(ROOT.parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = os.environ | {"PYTHONPATH": paths, "PYTHONIOENCODING": encoding, "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LC_ALL": "C"}
    done = subprocess.run([sys.executable, "-m", "graphcompress", *command.split()], capture_output=True, check=False, timeout=120, env=environment)
    assert done.returncode == status, done.stderr
    assert b"bug in graphcompress" not in done.stderr and b"Traceback" not in done.stderr
    text = done.stdout.decode(encoding) + done.stderr.decode(encoding)
    if "json" in command.split():
        assert json.loads(done.stdout)["inputs"][0]["name"] == "größe"
    if "--record" in command:
        assert json.loads((place / "r.json").read_text(encoding="utf-8"))["output"] == "résultat.onnx"
    if "--exclude" in command:
        assert "MatMul" in text
        operators = json.loads((place / "r.json").read_text(encoding="utf-8"))["steps"][0]["options"]["exclude"]
        assert operators == ["层"]
