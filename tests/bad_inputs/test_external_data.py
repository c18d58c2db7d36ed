"""External data that is missing, too short, or outside the model's folder."""

from __future__ import annotations

import os

import pytest
from bad_input_bench import Bench, Case, cases, try_case

S = "simplify {model} -o {out}"


def external(key: str | None = None, text: str = "", *, then=None):
    """Move the weights out, change one entry of 'conv.weight', then change the folder."""

    def prepare(bench: Bench) -> None:
        bench.externalize()
        if key is not None:
            bench.external(key, text)
        if then is not None:
            then(bench)

    return prepare


def outside(bench: Bench):
    """Move the file out of the folder."""
    place = bench.root / "weights.bin"
    (bench.here / "weights.bin").rename(place)
    return place


def through_link(bench: Bench) -> None:
    (bench.here / "weights.bin").symlink_to(outside(bench))


def through_folder_link(bench: Bench) -> None:
    bench.externalize("weights/weights.bin")
    (bench.here / "weights").rename(bench.root / "elsewhere")
    (bench.here / "weights").symlink_to(bench.root / "elsewhere")


def pipe(bench: Bench) -> None:
    (bench.here / "weights.bin").unlink()
    os.mkfifo(bench.here / "weights.bin")


def folder(bench: Bench) -> None:
    (bench.here / "weights.bin").unlink()
    (bench.here / "weights.bin").mkdir()


def short(bench: Bench) -> None:
    os.truncate(bench.here / "weights.bin", 100)


def no_location(bench: Bench) -> None:
    bench.change(lambda m: [t.external_data.pop(0) for t in m.graph.initializer if t.name == "conv.weight"])


def strings(bench: Bench) -> None:
    bench.change(lambda m: setattr(m.graph.initializer[0], "data_type", 8))


def negative(bench: Bench) -> None:
    bench.change(lambda m: m.graph.initializer[0].dims.__setitem__(0, -8))


def in_constant(bench: Bench) -> None:
    """The tensor of a Constant node reaches outside."""
    bench.externalize()

    def edit(model) -> None:
        made = model.graph.node.add(op_type="Constant", name="constant", output=["c"])
        attribute = made.attribute.add(name="value", type=4)
        attribute.t.CopyFrom(model.graph.initializer[0])
        attribute.t.name = "secret"
        attribute.t.external_data[0].value = "../weights.bin"

    bench.change(edit)


CULPRIT = ("model.onnx", "'conv.weight'")
TABLE = [
    Case("missing", S, (*CULPRIT, "'weights.bin' is missing"), external(then=lambda b: (b.here / "weights.bin").unlink())),
    Case("missing, compress", "compress {model} -o {out} --data {data}", (*CULPRIT, "missing"), external(then=lambda b: (b.here / "weights.bin").unlink())),
    Case("missing, inspect", "inspect {model}", (*CULPRIT, "missing"), external(then=lambda b: (b.here / "weights.bin").unlink())),
    Case("in the folder above", S, (*CULPRIT, "'../weights.bin'", "outside"), external("location", "../weights.bin", then=outside)),
    Case("through a detour", S, (*CULPRIT, "outside"), external("location", "data/../../weights.bin", then=outside)),
    Case("through a detour inside the folder", S, (*CULPRIT, "outside"), external("location", "data/../weights.bin")),
    Case("with backslashes", S, (*CULPRIT, "outside"), external("location", "..\\weights.bin", then=outside)),
    Case("absolute", S, (*CULPRIT, "'/etc/passwd'", "absolute"), external("location", "/etc/passwd")),
    Case("on another drive", S, (*CULPRIT, "absolute"), external("location", "C:weights.bin")),
    Case("through a link", S, (*CULPRIT, "link", "outside"), external(then=through_link)),
    Case("through a linked folder", S, (*CULPRIT, "link", "outside"), through_folder_link),
    Case("a pipe", S, (*CULPRIT, "not a regular file"), external(then=pipe)),
    Case("a folder", S, (*CULPRIT, "not a regular file"), external(then=folder)),
    Case(
        "a device through a link",
        S,
        (*CULPRIT, "outside"),
        external(then=lambda b: ((b.here / "weights.bin").unlink(), (b.here / "weights.bin").symlink_to("/dev/zero"))),
    ),
    Case("past the end", S, (*CULPRIT, "ends at 1040"), external("offset", "1000")),
    Case("far past the end", S, (*CULPRIT, "ends at"), external("offset", "9000000000000000000")),
    Case("a shortened file", S, (*CULPRIT, "ends at 100"), external(then=short)),
    Case("an empty file", S, (*CULPRIT, "ends at 0"), external(then=lambda b: os.truncate(b.here / "weights.bin", 0))),
    Case("a negative offset", S, (*CULPRIT, "offset", "'-4'"), external("offset", "-4")),
    Case("an offset that is no number", S, (*CULPRIT, "offset", "'0x10'"), external("offset", "0x10")),
    Case("an offset without end", S, (*CULPRIT, "offset"), external("offset", "9" * 5000)),
    Case("a length that is no number", S, (*CULPRIT, "length", "'many'"), external("length", "many")),
    Case("a negative length", S, (*CULPRIT, "length"), external("length", "-1")),
    Case("a length that does not fit", S, (*CULPRIT, "860 bytes", "needs 864"), external("length", "860")),
    Case("no location", S, (*CULPRIT, "location"), external(then=no_location)),
    Case("an empty location", S, (*CULPRIT, "location"), external("location", "")),
    Case("a location with a zero byte", S, (*CULPRIT, "name"), external("location", "weights\0.bin")),
    Case("a location that is too long", S, (*CULPRIT, "cannot be read"), external("location", "w" * 300)),
    Case("an address in memory", S, (*CULPRIT, "missing"), external("location", "*/_ORT_MEM_ADDR_/*")),
    Case("strings", S, (*CULPRIT, "strings"), external(then=strings)),
    Case("a negative dimension", S, (*CULPRIT, "negative"), external(then=negative)),
    Case("in the tensor of a Constant", S, ("model.onnx", "'secret'", "outside"), in_constant),
]


@cases(TABLE)
def test_refused(bench: Bench, case: Case) -> None:
    try_case(bench, case)


@pytest.mark.parametrize("how", ["plain", "hard link", "link inside", "no length"])
def test_external_data_in_the_folder_is_taken(bench: Bench, how: str) -> None:
    bench.externalize()
    weights = bench.here / "weights.bin"
    if how == "hard link":
        os.link(weights, bench.root / "second name")
    if how == "link inside":
        weights.rename(bench.here / "real.bin")
        weights.symlink_to("real.bin")
    if how == "no length":
        bench.change(lambda m: [t.external_data.pop(2) for t in m.graph.initializer])
    outcome = bench.run("inspect {model}")
    assert outcome.status == 0, outcome.stderr
