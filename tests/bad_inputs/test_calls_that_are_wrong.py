"""Options, names and recipes that mean nothing."""

from __future__ import annotations

import shutil
from collections.abc import Callable

import onnx
from bad_input_bench import Bench, Case, cases, try_case, value
from onnx import TensorProto, helper

C = "compress {model} -o {out} --data {data}"
Q = "quantize {model} -o {out} --data {data}"
R = C + " --recipe {recipe}"


def recipe(text: str) -> Callable[[Bench], object]:
    return lambda bench: bench.recipe.write_text(text)


def linked(bench: Bench) -> None:
    (bench.here / "link.onnx").symlink_to(bench.model)


def hard_linked(bench: Bench) -> None:
    (bench.here / "second.onnx").hardlink_to(bench.model)


def folder_link(bench: Bench) -> None:
    (bench.here / "way").symlink_to(bench.here)


def unknown_domain(bench: Bench) -> None:
    def edit(model: onnx.ModelProto) -> None:
        relu = next(n for n in model.graph.node if n.name == "relu")
        relu.op_type, relu.domain = "Own", "my.domain"
        model.opset_import.add(domain="my.domain", version=1)

    bench.change(edit)


def newer_opset(bench: Bench) -> None:
    bench.change(lambda m: setattr(m.opset_import[0], "version", 999))


def other_model(*, inputs: bool = False) -> Callable[[Bench], object]:
    """A candidate with another output, or another input."""

    def prepare(bench: Bench) -> None:
        name = "picture" if inputs else "image"
        nodes = [helper.make_node("Relu", [name], ["scores" if inputs else "other"], name="relu")]
        graph = helper.make_graph(nodes, "g", [value(name)], [value("scores" if inputs else "other")])
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), bench.here / "other.onnx")

    return prepare


def types_that_clash(bench: Bench) -> None:
    """Passes every structural check, and no runtime can run it."""
    bench.change(lambda m: m.graph.node.append(helper.make_node("Add", ["image", "numbers"], ["sum"], name="clash")))
    bench.change(lambda m: m.graph.initializer.append(helper.make_tensor("numbers", TensorProto.INT64, [1], [1])))
    bench.change(lambda m: m.graph.output.append(value("sum")))


def shapes_that_clash(bench: Bench) -> None:
    bench.change(lambda m: next(n for n in m.graph.node if n.name == "fc").input.__setitem__(2, "conv.bias"))


def data_in_place(bench: Bench) -> None:
    bench.externalize()


ANY = "simplify {model} -o {out}"
TABLE = [
    Case("an unknown command", "shrink {model} -o {out}", ("shrink",)),
    Case("a misspelled command", "comprss {model} -o {out}", ("comprss", "compress")),
    Case("no model", "simplify -o {out}", ("MODEL",)),
    Case("no output", "simplify {model}", ("-o",)),
    Case("a model too many", "simplify {model} {model} -o {out}", ("model.onnx",)),
    Case("an unknown option", ANY + " --targt cpu", ("--targt", "--target")),
    Case("an option without value", "simplify {model} -o", ("-o",)),
    Case("an unknown format", ANY + " --format yaml", ("yaml", "json")),
    Case("an unknown target", C + " --target gpu9", ("gpu9", "cpu")),
    Case("an unknown target, simplify", ANY + " --target gpu9", ("gpu9", "cpu")),
    Case("a target that is a path", C + " --target ../../etc/passwd", ("passwd",)),
    Case("an empty target", C + " --target ''", ("target",)),
    Case("an unknown provider", C + " --provider warp", ("warp",)),
    Case("an unknown provider, benchmark", "benchmark {model} --provider warp", ("warp",)),
    Case("an unknown provider, validate", "validate {model} {model} --data {data} --provider warp", ("warp",)),
    Case("a provider that is not installed", C + " --provider tensorrt", ("(?i)tensorrt",)),
    Case("an unknown calibration", Q + " --calibration entropy", ("entropy", "minmax", "percentile", "mse")),
    Case("an expression that matches nothing", Q + " --exclude no_such_node", ("no_such_node",)),
    Case("one of two expressions matches nothing", Q + " --exclude conv --exclude no_such_node", ("no_such_node",)),
    Case("an expression that is none", Q + " --exclude 'conv('", (r"conv\(", "expression")),
    Case("an expression without end", Q + " --exclude '(a+)+$'", (r"\(a\+\)\+\$",)),
    Case("no threads", C + " --threads 0", ("--threads",)),
    Case("negative threads", C + " --threads -2", ("--threads",)),
    Case("threads in words", C + " --threads many", ("--threads",)),
    Case("an agreement above one", C + " --min-agreement 1.5", ("--min-agreement", "1.5")),
    Case("a negative agreement", C + " --min-agreement -0.1", ("--min-agreement", "-0.1")),
    Case("an agreement that is no number", C + " --min-agreement nan", ("--min-agreement", "nan")),
    Case("an agreement in words", C + " --min-agreement high", ("--min-agreement",)),
    Case("a negative speed-up", C + " --min-speedup -1", ("--min-speedup", "-1")),
    Case("an infinite speed-up", C + " --min-speedup inf", ("--min-speedup", "inf")),
    Case("a bar for a time that is not measured", C + " --min-speedup 2 --no-measure", ("--min-speedup", "--no-measure")),
    Case("a bar without candidate", "benchmark {model} --min-speedup 2", ("--min-speedup", "candidate")),
    Case("a missing recipe", C + " --recipe {here}/gone.toml", ("gone.toml",)),
    Case("an unknown recipe", C + " --recipe defualt", ("defualt", "default")),
    Case("a recipe that is a folder", C + " --recipe {here}/data/", ("data",)),
    Case("a recipe that is no TOML", R, ("recipe.toml", "line 1"), recipe("step = = 3")),
    Case("a recipe that is no text", R, ("recipe.toml",), lambda b: b.recipe.write_bytes(b"\xff\xfe\x00")),
    Case("an empty recipe", R, ("recipe.toml", "step"), recipe("")),
    Case("a recipe with an unknown key", R, ("recipe.toml", "'steps'"), recipe('[[steps]]\nuse = "simplify"\n')),
    Case("a recipe whose step is no table", R, ("recipe.toml", "step"), recipe('step = ["simplify"]\n')),
    Case("a recipe whose step is one table", R, ("recipe.toml", "step"), recipe('[step]\nuse = "simplify"\n')),
    Case("a step without name", R, ("recipe.toml", "use"), recipe('[[step]]\ncalibration = "mse"\n')),
    Case("an unknown step", R, ("recipe.toml", "shrink", "simplify"), recipe('[[step]]\nuse = "shrink"\n')),
    Case("a step whose name is no text", R, ("recipe.toml", "use"), recipe("[[step]]\nuse = 3\n")),
    Case("an unknown key of a step", R, ("recipe.toml", "calibraton", "calibration"), recipe('[[step]]\nuse = "quantize"\ncalibraton = "mse"\n')),
    Case("a wrong value of a key", R, ("recipe.toml", "calibration", "entropy"), recipe('[[step]]\nuse = "quantize"\ncalibration = "entropy"\n')),
    Case("a wrong type of a key", R, ("recipe.toml", "calibration"), recipe('[[step]]\nuse = "quantize"\ncalibration = 7\n')),
    Case("two faults in a recipe", R, ("distil", "calibraton"), recipe('[[step]]\nuse = "distil"\n[[step]]\nuse = "quantize"\ncalibraton = "mse"\n')),
    Case("an expression in a recipe that is none", R, (r"conv\(",), recipe("[[step]]\nuse = \"quantize\"\nexclude = ['conv(']\n")),
    Case("an expression in a recipe that matches nothing", R, ("no_such_node",), recipe("[[step]]\nuse = \"quantize\"\nexclude = ['no_such_node']\n")),
    Case("output is the model", "simplify {model} -o {model}", ("model.onnx", "overwritten")),
    Case("output is the model, compress", "compress {model} -o {model} --data {data}", ("model.onnx", "overwritten")),
    Case("output is the model by another path", "simplify {model} -o {here}/data/../model.onnx", ("overwritten",)),
    Case("output is the model by a relative path", "simplify {model} -o model.onnx", ("overwritten",)),
    Case("output is a link to the model", "simplify {model} -o {here}/link.onnx", ("overwritten",), linked),
    Case("the model is a link to the output", "simplify {here}/link.onnx -o {model}", ("overwritten",), linked),
    Case("output is a hard link to the model", "simplify {model} -o {here}/second.onnx", ("overwritten",), hard_linked),
    Case("output is the model through a linked folder", "simplify {model} -o {here}/way/model.onnx", ("overwritten",), folder_link),
    Case("output is a feed", "quantize {model} -o {data}/003.npz --data {data}/003.npz", ("003.npz", "overwritten")),
    Case("record is the model", ANY + " --record {model}", ("model.onnx", "overwritten")),
    Case("record is the output", ANY + " --record {out}", ("out.onnx",)),
    Case("record is the recipe", R + " --record {recipe}", ("recipe.toml", "overwritten"), recipe('[[step]]\nuse = "simplify"\n')),
    Case("output is the external data", "simplify {model} -o {here}/weights.bin", ("weights.bin", "overwritten"), data_in_place),
    Case("an unknown domain, compress", C, ("'relu'", "Own", "my.domain"), unknown_domain),
    Case("an unknown domain, quantize", Q, ("'relu'", "Own", "my.domain"), unknown_domain),
    Case("an unknown domain, benchmark", "benchmark {model}", ("'relu'", "Own", "my.domain"), unknown_domain),
    Case("an unknown domain, validate", "validate {model} {model} --data {data}", ("Own", "my.domain"), unknown_domain),
    Case("an opset to come, simplify", ANY, ("opset", "999"), newer_opset),
    Case("an opset to come, quantize", Q, ("opset", "999"), newer_opset),
    Case("an opset to come, compress", C, ("opset", "999"), newer_opset),
    Case("types that clash", C, ("model.onnx", "clash"), types_that_clash),
    Case("types that clash, benchmark", "benchmark {model}", ("model.onnx", "clash"), types_that_clash),
    Case("shapes that clash", C, ("model.onnx", "fc"), shapes_that_clash),
    Case("shapes that clash, validate", "validate {model} {model} --data {data}", ("model.onnx", "fc"), shapes_that_clash),
    Case("a candidate with another output", "validate {model} {here}/other.onnx --data {data}", ("other.onnx", "'scores'"), other_model()),
    Case(
        "a candidate with another input", "validate {model} {here}/other.onnx --data {data}", ("other.onnx", "'image'", "'picture'"), other_model(inputs=True)
    ),
    Case("a candidate with another input, benchmark", "benchmark {model} {here}/other.onnx", ("other.onnx", "'picture'"), other_model(inputs=True)),
]


@cases(TABLE)
def test_refused(bench: Bench, case: Case) -> None:
    try_case(bench, case)


def test_a_missed_bar_is_status_1_and_writes_nothing(bench: Bench) -> None:
    shutil.copy(bench.model, bench.here / "second.onnx")
    before = bench.out.read_bytes()
    outcome = bench.run(C + " --min-speedup 1000 -q")
    assert outcome.status == 1 and "--min-speedup 1000" in outcome.stderr
    assert bench.out.read_bytes() == before
