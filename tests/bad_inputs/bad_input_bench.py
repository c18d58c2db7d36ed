"""How a bad input is tried: what the folder holds, how the command is run, and what must hold afterwards."""

from __future__ import annotations

import io
import os
import re
import shlex
import stat
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

Feed = Mapping[str, np.ndarray[Any, Any]]


def value(name: str, shape: Iterable[int | str | None] = ("N", 3, 8, 8), kind: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, list(shape))


def tensor(name: str, shape: tuple[int, ...], seed: int = 0) -> TensorProto:
    values = np.random.default_rng(seed).normal(0, 0.3, shape).astype(np.float32)
    return onnx.numpy_helper.from_array(values, name)


def good_model(batch: int | str = "N", opset: int = 17) -> onnx.ModelProto:
    """Conv, Relu, GlobalAveragePool, Flatten, Gemm: quantizes and runs. Node and tensor names are what the messages must name."""
    nodes = [
        helper.make_node("Conv", ["image", "conv.weight", "conv.bias"], ["features"], name="conv", kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["features"], ["active"], name="relu"),
        helper.make_node("GlobalAveragePool", ["active"], ["pooled"], name="pool"),
        helper.make_node("Flatten", ["pooled"], ["flat"], name="flatten"),
        helper.make_node("Gemm", ["flat", "fc.weight", "fc.bias"], ["scores"], name="fc"),
    ]
    weights = [tensor("conv.weight", (8, 3, 3, 3), 1), tensor("conv.bias", (8,), 2), tensor("fc.weight", (8, 4), 3), tensor("fc.bias", (4,), 4)]
    graph = helper.make_graph(nodes, "small", [value("image", (batch, 3, 8, 8))], [value("scores", (batch, 4))], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def good_feeds(count: int = 9) -> list[Feed]:
    rng = np.random.default_rng(5)
    return [{"image": rng.normal(size=(1, 3, 8, 8)).astype(np.float32)} for _ in range(count)]


class Bench:
    """The folder of one trial. `here` is the current folder, `temporary` the system's temporary one."""

    def __init__(self, root: Path, capture: pytest.CaptureFixture[str]) -> None:
        self.root = root
        self.capture = capture
        self.here = root / "here"
        self.temporary = root / "temporary"
        self.here.mkdir()
        self.temporary.mkdir()
        self.model = self.here / "model.onnx"
        self.data = self.here / "data"
        self.out = self.here / "out.onnx"
        self.record = self.here / "record.json"
        self.recipe = self.here / "recipe.toml"
        self.closing: list[Callable[[], object]] = []

    def close(self) -> None:
        for call in reversed(self.closing):
            call()

    # --- what a case prepares ---------------------------------------------------------------------------------------------------

    def change(self, edit: Callable[[onnx.ModelProto], object]) -> None:
        """Rewrite the model after `edit`."""
        proto = onnx.load(self.model, load_external_data=False)
        edit(proto)
        self.model.write_bytes(proto.SerializeToString())

    def write_feeds(self, feeds: Iterable[Feed]) -> None:
        """The data folder, one file per feed."""
        self.data.mkdir(exist_ok=True)
        for old in self.data.iterdir():
            old.unlink()
        for index, feed in enumerate(feeds):
            np.savez(self.data / f"{index:03}.npz", **feed)

    def change_feeds(self, edit: Callable[[dict[str, Any]], object], *, only: int | None = None) -> None:
        """Rewrite the feeds (or feed number `only`) after `edit`."""
        feeds = [dict(f) for f in good_feeds()]
        for index, feed in enumerate(feeds):
            if only is None or index == only:
                edit(feed)
        self.write_feeds(feeds)

    def externalize(self, location: str = "weights.bin") -> None:
        """Move all tensors of the model to an external file."""
        proto = onnx.load(self.model)
        content = b""
        for entry in proto.graph.initializer:
            for key, text in (("location", location), ("offset", str(len(content))), ("length", str(len(entry.raw_data)))):
                entry.external_data.add(key=key, value=text)
            content += entry.raw_data
            entry.ClearField("raw_data")
            entry.data_location = TensorProto.EXTERNAL
        (self.here / location).parent.mkdir(parents=True, exist_ok=True)
        (self.here / location).write_bytes(content)
        self.model.write_bytes(proto.SerializeToString())

    def external(self, key: str, text: str, name: str = "conv.weight") -> None:
        """Change one entry of external_data."""

        def edit(proto: onnx.ModelProto) -> None:
            for entry in next(t for t in proto.graph.initializer if t.name == name).external_data:
                if entry.key == key:
                    entry.value = text

        self.change(edit)

    # --- the trial --------------------------------------------------------------------------------------------------------------

    def words(self, command: str) -> list[str]:
        """The command line: `{model}`, `{data}`, `{out}` ... stand for the paths of the bench."""
        paths = {k: str(getattr(self, k)) for k in ("model", "data", "out", "record", "recipe", "here", "root")}
        return [word.format(**paths) for word in shlex.split(command)]

    def run(self, command: str) -> Outcome:
        """Run the command in this process."""
        return run_here(self.words(command), self.capture)

    def refuses(self, command: str, *says: str, status: int = 2) -> str:
        """Run the command: it must end with `status`, one paragraph that contains every pattern of `says`, and every file as before."""
        before = snapshot(self.root)
        outcome = self.run(command)
        check_refusal(outcome, says, status)
        assert differences(before, snapshot(self.root)) == []
        return outcome.stderr


@dataclass(frozen=True)
class Outcome:
    status: int
    stdout: str
    stderr: str


@dataclass(frozen=True)
class Case:
    """One bad input: how it is made, the command, and what the message must say (regular expressions)."""

    name: str
    command: str
    says: tuple[str, ...]
    prepare: Callable[[Bench], object] = field(default=lambda bench: None)
    status: int = 2


def cases(table: Iterable[Case]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("case", [pytest.param(case, id=case.name.replace(" ", "-")) for case in table])


def try_case(bench: Bench, case: Case) -> None:
    case.prepare(bench)
    bench.refuses(case.command, *case.says, status=case.status)


def run_here(words: list[str], capture: pytest.CaptureFixture[str]) -> Outcome:
    """Call the console script's function. Capture is by file descriptor: what onnxruntime prints from C++ counts as output too."""
    from graphcompress.cli import main

    capture.readouterr()
    old = sys.argv
    sys.argv = ["graphcompress", *words]
    try:
        result = main()
        status = result if isinstance(result, int) else 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    finally:
        sys.argv = old
    out, err = capture.readouterr()
    return Outcome(status, out, err)


def check_refusal(outcome: Outcome, says: Iterable[str], status: int = 2) -> None:
    """Status, one paragraph that begins with the tool's name, nothing on stdout, no traceback, no excuse for a bug, and every pattern found."""
    shown = f"\nstatus {outcome.status}\n{outcome.stderr}\n{outcome.stdout}"
    assert "Traceback" not in outcome.stderr + outcome.stdout, shown
    assert outcome.status == status, shown
    text = outcome.stderr.strip()
    assert text, shown
    assert "\n\n" not in text, f"more than one paragraph{shown}"
    assert text.startswith("graphcompress: ") and text.count("graphcompress: ") == 1, f"not exactly one message{shown}"
    assert "bug in graphcompress" not in text, shown
    assert not outcome.stdout.strip(), shown
    flat = " ".join(text.split())
    for pattern in says:
        assert re.search(pattern, flat), f"no {pattern!r} in{shown}"


def snapshot(root: Path) -> dict[str, tuple[str, bytes]]:
    """Every path under `root` with its kind and content; mount points and special files are not opened."""
    found: dict[str, tuple[str, bytes]] = {}
    for folder, folders, names in os.walk(root):
        for name in [*folders, *names]:
            path = Path(folder) / name
            mode = path.lstat().st_mode
            content = b""
            if stat.S_ISLNK(mode):
                content = os.readlink(path).encode()
            elif stat.S_ISREG(mode):
                content = path.read_bytes()
            found[str(path.relative_to(root))] = (stat.filemode(mode), content)
    return found


def differences(before: Mapping[str, tuple[str, bytes]], after: Mapping[str, tuple[str, bytes]]) -> list[str]:
    """What appeared, vanished or changed."""
    return [
        f"{'appeared' if p not in before else 'vanished' if p not in after else 'changed'}: {p}"
        for p in sorted({*before, *after})
        if before.get(p) != after.get(p)
    ]


def zipped(**members: bytes) -> bytes:
    """A zip archive with these members."""
    import zipfile

    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return stream.getvalue()
