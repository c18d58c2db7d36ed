"""Messages that parse and are no model: what onnxruntime cannot run either."""

from __future__ import annotations

from collections.abc import Callable

import onnx
from bad_input_bench import Bench, Case, cases, tensor, try_case, value
from onnx import AttributeProto, TensorProto, helper

Model = onnx.ModelProto


def edited(edit: Callable[[Model], object]) -> Callable[[Bench], None]:
    return lambda bench: bench.change(edit)


def node(model: Model, name: str) -> onnx.NodeProto:
    return next(n for n in model.graph.node if n.name == name)


def weight(model: Model, name: str = "fc.bias") -> TensorProto:
    return next(t for t in model.graph.initializer if t.name == name)


def no_graph(model: Model) -> None:
    model.ClearField("graph")


def cycle(model: Model) -> None:
    node(model, "relu").input[0] = "flat"


def cycle_of_dead_nodes(model: Model) -> None:
    model.graph.node.extend([helper.make_node("Relu", ["b"], ["a"], name="one"), helper.make_node("Relu", ["a"], ["b"], name="two")])


def own_output(model: Model) -> None:
    node(model, "relu").input[0] = "active"


def branch(model: Model, body: list[onnx.NodeProto], output: str = "inner") -> None:
    """An If called "choice" whose first branch is `body`."""
    model.graph.input.append(value("condition", (), TensorProto.BOOL))
    then = helper.make_graph(body, "then", [], [value(output)])
    other = helper.make_graph([helper.make_node("Neg", ["image"], ["negated"], name="neg")], "else", [], [value("negated")])
    model.graph.node.append(helper.make_node("If", ["condition"], ["chosen"], name="choice", then_branch=then, else_branch=other))
    model.graph.output.append(value("chosen"))


def function(model: Model, name: str, body: list[onnx.NodeProto], *, imports: bool = True) -> None:
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("local", 1)]
    model.functions.append(helper.make_function("local", name, ["a"], ["b"], body, opsets))
    if imports and all(o.domain != "local" for o in model.opset_import):
        model.opset_import.add(domain="local", version=1)


def calls(model: Model, name: str = "F") -> None:
    node(model, "relu").op_type = name
    node(model, "relu").domain = "local"


def recursive_functions(model: Model) -> None:
    function(model, "F", [helper.make_node("G", ["a"], ["b"], domain="local")])
    function(model, "G", [helper.make_node("F", ["a"], ["b"], domain="local")])
    calls(model)


def exploding_functions(model: Model) -> None:
    function(model, "F0", [helper.make_node("Relu", ["a"], ["b"])])
    for i in range(1, 40):
        function(model, f"F{i}", [helper.make_node(f"F{i - 1}", ["a"], ["m"], domain="local"), helper.make_node(f"F{i - 1}", ["m"], ["b"], domain="local")])
    calls(model, "F39")


def function_that_reads_nothing(model: Model) -> None:
    function(model, "F", [helper.make_node("Relu", ["nowhere"], ["b"])])
    calls(model)


def function_without_its_output(model: Model) -> None:
    function(model, "F", [helper.make_node("Relu", ["a"], ["c"])])
    calls(model)


def unknown_in_function(model: Model) -> None:
    function(model, "F", [helper.make_node("Zork", ["a"], ["b"], name="inside")])
    calls(model)


def function_twice(model: Model) -> None:
    for _ in range(2):
        function(model, "F", [helper.make_node("Relu", ["a"], ["b"])])
    calls(model)


def attribute(model: Model, **fields: object) -> AttributeProto:
    made = node(model, "relu").attribute.add(name="alpha", type=AttributeProto.FLOAT, f=0.1)
    node(model, "relu").op_type = "LeakyRelu"
    for key, content in fields.items():
        setattr(made, key, content)
    return made


def set_op(name: str, op: str, domain: str = "", version: int | None = None) -> Callable[[Model], None]:
    def edit(model: Model) -> None:
        node(model, name).op_type = op
        node(model, name).domain = domain
        if version is not None:
            model.opset_import.add(domain=domain, version=version)

    return edit


def raw(content: bytes) -> Callable[[Model], object]:
    return lambda model: setattr(weight(model), "raw_data", content)


def dims(*sizes: int) -> Callable[[Model], None]:
    return lambda model: weight(model).dims.__setitem__(slice(None), sizes)


def typed(kind: int, shape: list[int], **fields: list[object]) -> Callable[[Model], None]:
    """An unused initializer "extra" whose typed fields are `fields`."""
    return lambda model: model.graph.initializer.append(TensorProto(name="extra", data_type=kind, dims=shape, **fields))


def deeply_nested(bench: Bench) -> None:
    content = b""
    for _ in range(200):  # a sequence of sequences of ...
        inner = b"\x0a" + _varint(len(content)) + content if content else b""
        content = b"\x22" + _varint(len(inner)) + inner
    info = b"\x0a\x04deep\x12" + _varint(len(content)) + content
    graph = b"\x5a" + _varint(len(info)) + info
    bench.model.write_bytes(b"\x08\x08\x3a" + _varint(len(graph)) + graph)


def _varint(number: int) -> bytes:
    made = bytearray()
    while number > 127:
        made.append(number & 127 | 128)
        number >>= 7
    return bytes([*made, number])


def not_utf8(bench: Bench) -> None:
    bench.model.write_bytes(bench.model.read_bytes().replace(b"active", b"\xff\xfe" * 3))


def breaks_lines(model: Model) -> None:
    node(model, "relu").input[0] = "first\n\nsecond\x1b[31m\u202e"


def sparse_badly(model: Model) -> None:
    made = onnx.SparseTensorProto(dims=[10])
    made.values.CopyFrom(helper.make_tensor("sparse", TensorProto.FLOAT, [2], [1.0, 2.0]))
    made.indices.CopyFrom(TensorProto(name="places", data_type=TensorProto.INT64, dims=[2], int64_data=[1]))
    model.graph.sparse_initializer.append(made)


S = "simplify {model} -o {out}"
TABLE = [
    Case("no graph", S, ("model.onnx", "no graph"), edited(no_graph)),
    Case("functions only", S, ("functions only",), edited(lambda m: (function(m, "F", [helper.make_node("Relu", ["a"], ["b"])]), no_graph(m)))),
    Case("an empty graph", S, ("no output",), edited(lambda m: m.graph.CopyFrom(onnx.GraphProto()))),
    Case("no output", S, ("no output",), edited(lambda m: m.graph.ClearField("output"))),
    Case("no IR version", S, ("IR version",), edited(lambda m: m.ClearField("ir_version"))),
    Case("no opset", S, ("operator set",), edited(lambda m: m.ClearField("opset_import"))),
    Case("opset 0", S, ("conv", "opset 0"), edited(lambda m: setattr(m.opset_import[0], "version", 0))),
    Case("an opset beyond all numbers", S, ("opset", str(2**40)), edited(lambda m: setattr(m.opset_import[0], "version", 2**40))),
    Case(
        "a branch with too few outputs",
        S,
        ("'choice'", "1 outputs", "_branch'", "has 0"),
        edited(lambda m: (branch(m, []), m.graph.node[-1].attribute[0].g.ClearField("output"))),
    ),
    Case(
        "a branch without its graph",
        S,
        ("'choice'", "_branch'", "holds nothing"),
        edited(lambda m: (branch(m, []), m.graph.node[-1].attribute[0].ClearField("g"))),
    ),
    Case(
        "a Constant without its tensor",
        S,
        ("'constant'", "'value'", "holds nothing"),
        edited(
            lambda m: m.graph.node.append(
                onnx.NodeProto(op_type="Constant", name="constant", output=["c"], attribute=[AttributeProto(name="value", type=AttributeProto.TENSOR)])
            )
        ),
    ),
    Case("negative opset", S, ("conv", "opset -3"), edited(lambda m: setattr(m.opset_import[0], "version", -3))),
    Case("a cycle", S, ("cycle", "'relu'", "'flatten'", "'pool'"), edited(cycle)),
    Case("a cycle of dead nodes", S, ("cycle", "'one'", "'two'"), edited(cycle_of_dead_nodes)),
    Case("a node that reads itself", S, ("cycle", "'relu'"), edited(own_output)),
    Case("a branch that reads its own If", S, ("cycle", "chosen"), edited(lambda m: branch(m, [helper.make_node("Relu", ["chosen"], ["inner"], name="r")]))),
    Case("a dangling tensor", S, ("'relu'", "'nowhere'"), edited(lambda m: node(m, "relu").input.__setitem__(0, "nowhere"))),
    Case("a dangling tensor of a dead node", S, ("'nowhere'",), edited(lambda m: m.graph.node.append(helper.make_node("Relu", ["nowhere"], ["unused"])))),
    Case(
        "a dangling tensor in a branch",
        S,
        ("'inside'", "'nowhere'", "'then'", "'choice'"),
        edited(lambda m: branch(m, [helper.make_node("Relu", ["nowhere"], ["inner"], name="inside")])),
    ),
    Case("a missing weight", S, ("'fc'", "'fc.weight'"), edited(lambda m: m.graph.initializer.remove(weight(m, "fc.weight")))),
    Case("an output that nobody makes", S, ("'nothing'",), edited(lambda m: m.graph.output.append(value("nothing")))),
    Case("an output of a branch that is outside", S, ("'features'", "'then'"), edited(lambda m: branch(m, [], "features"))),
    Case(
        "a tensor made twice",
        S,
        ("'active'", "twice", "'relu'", "'again'"),
        edited(lambda m: m.graph.node.append(helper.make_node("Relu", ["features"], ["active"], name="again"))),
    ),
    Case(
        "a tensor made twice by one node",
        S,
        ("'part'", "two outputs"),
        edited(lambda m: m.graph.node.append(helper.make_node("Split", ["image"], ["part", "part"], name="split", axis=2))),
    ),
    Case(
        "a node that makes a weight",
        S,
        ("'fc.bias'", "initializer"),
        edited(lambda m: m.graph.node.append(helper.make_node("Relu", ["features"], ["fc.bias"], name="again"))),
    ),
    Case(
        "a node that makes an input",
        S,
        ("'image'", "input"),
        edited(lambda m: m.graph.node.append(helper.make_node("Relu", ["features"], ["image"], name="again"))),
    ),
    Case(
        "a branch that makes an outer tensor",
        S,
        ("'active'", "twice", "'r'"),
        edited(lambda m: branch(m, [helper.make_node("Relu", ["image"], ["active"], name="r")], "active")),
    ),
    Case("two initializers of one name", S, ("'fc.bias'", "two"), edited(lambda m: m.graph.initializer.append(tensor("fc.bias", (4,), 9)))),
    Case("two inputs of one name", S, ("'image'", "two"), edited(lambda m: m.graph.input.append(value("image")))),
    Case("an input without a type", S, ("'image'", "type"), edited(lambda m: m.graph.input[0].ClearField("type"))),
    Case(
        "an input of an unknown element type",
        S,
        ("'image'", "element type", "99"),
        edited(lambda m: setattr(m.graph.input[0].type.tensor_type, "elem_type", 99)),
    ),
    Case(
        "an input that no machine can hold",
        S,
        ("'image'", "no machine"),
        edited(lambda m: setattr(m.graph.input[0].type.tensor_type.shape.dim[0], "dim_value", 2**60)),
    ),
    Case("a node without operator", S, ("'relu'", "op_type"), edited(set_op("relu", ""))),
    Case("an unknown operator", S, ("model.onnx", "'relu'", "unknown operator", "Zork"), edited(set_op("relu", "Zork"))),
    Case("an unknown operator, compress", "compress {model} -o {out} --data {data}", ("'relu'", "unknown operator"), edited(set_op("relu", "Zork"))),
    Case(
        "an unknown operator in a branch", S, ("'inside'", "Zork"), edited(lambda m: branch(m, [helper.make_node("Zork", ["image"], ["inner"], name="inside")]))
    ),
    Case("an unknown operator in a function", S, ("'inside'", "Zork", "'F'"), edited(unknown_in_function)),
    Case("an unknown operator of ai.onnx.ml", S, ("'relu'", "Zork", "ai.onnx.ml"), edited(set_op("relu", "Zork", "ai.onnx.ml", 3))),
    Case("an unknown operator of com.microsoft", S, ("'relu'", "Zork", "com.microsoft"), edited(set_op("relu", "Zork", "com.microsoft", 1))),
    Case("an operator of a newer opset", S, ("'relu'", "Gelu", "opset 20", "opset 17"), edited(set_op("relu", "Gelu"))),
    Case("a removed operator", S, ("'relu'", "Upsample", "removed", "opset 10"), edited(set_op("relu", "Upsample"))),
    Case(
        "an unknown operator of an opset to come",
        S,
        ("'relu'", "Zork", "999"),
        edited(lambda m: (set_op("relu", "Zork")(m), setattr(m.opset_import[0], "version", 999))),
    ),
    Case("a domain that is not imported", S, ("'relu'", "'my.domain'", "import"), edited(set_op("relu", "Own", "my.domain"))),
    Case("too few inputs", S, ("'conv'", "inputs"), edited(lambda m: node(m, "conv").ClearField("input"))),
    Case("too many inputs", S, ("'relu'", "2 inputs", "takes 1"), edited(lambda m: node(m, "relu").input.append("image"))),
    Case("too many outputs", S, ("'relu'", "2 outputs"), edited(lambda m: node(m, "relu").output.append("more"))),
    Case("a needed input left out", S, ("'fc'", "input 1", "left out"), edited(lambda m: node(m, "fc").input.__setitem__(1, ""))),
    Case("an unknown attribute", S, ("'conv'", "'padding'"), edited(lambda m: node(m, "conv").attribute.append(helper.make_attribute("padding", 1)))),
    Case(
        "an attribute twice", S, ("'conv'", "'pads'", "twice"), edited(lambda m: node(m, "conv").attribute.append(helper.make_attribute("pads", [0, 0, 0, 0])))
    ),
    Case("an attribute of the wrong type", S, ("'relu'", "'alpha'", "STRING"), edited(lambda m: attribute(m, type=AttributeProto.STRING))),
    Case("an attribute that holds something else", S, ("'relu'", "'alpha'", "FLOAT"), edited(lambda m: attribute(m, i=3))),
    Case("an attribute without type", S, ("'relu'", "'alpha'", "type"), edited(lambda m: attribute(m).ClearField("type"))),
    Case("an attribute without name", S, ("'relu'", "name"), edited(lambda m: attribute(m, name=""))),
    Case(
        "a required attribute missing", S, ("'cast'", "'to'"), edited(lambda m: m.graph.node.append(helper.make_node("Cast", ["image"], ["cast"], name="cast")))
    ),
    Case(
        "a Constant without value", S, ("'constant'", "value"), edited(lambda m: m.graph.node.append(helper.make_node("Constant", [], ["c"], name="constant")))
    ),
    Case(
        "a Constant of the wrong size",
        S,
        ("'constant'", "4 bytes", "12"),
        edited(
            lambda m: m.graph.node.append(helper.make_node("Constant", [], ["c"], name="constant", value=TensorProto(data_type=1, dims=[3], raw_data=b"1234")))
        ),
    ),
    Case("raw data too short", S, ("'fc.bias'", "15 bytes", "needs 16"), edited(raw(bytes(15)))),
    Case("raw data too long", S, ("'fc.bias'", "20 bytes", "needs 16"), edited(raw(bytes(20)))),
    Case("raw data empty", S, ("'fc.bias'", "0 bytes"), edited(raw(b""))),
    Case("no data at all", S, ("'fc.bias'", "0 values"), edited(lambda m: weight(m).ClearField("raw_data"))),
    Case("a negative dimension", S, ("'fc.bias'", r"negative dimension: \[-4\]"), edited(dims(-4))),
    Case("two negative dimensions", S, ("'fc.bias'", "negative"), edited(dims(-2, -2))),
    Case("a huge dimension", S, ("'fc.bias'", "no machine"), edited(dims(2**62))),
    Case("dimensions whose product overflows", S, ("'fc.bias'", "no machine"), edited(dims(2**32, 2**32, 4))),
    Case("a tensor without type", S, ("'fc.bias'", "element type"), edited(lambda m: setattr(weight(m), "data_type", 0))),
    Case("a tensor of an unknown type", S, ("'fc.bias'", "element type", "99"), edited(lambda m: setattr(weight(m), "data_type", 99))),
    Case("float_data too short", S, ("'extra'", "2 values in float_data", "needs 3"), edited(typed(TensorProto.FLOAT, [3], float_data=[1.0, 2.0]))),
    Case("int4 in too few bytes", S, ("'extra'", "int4", "needs 3"), edited(typed(TensorProto.INT4, [5], int32_data=[1, 2]))),
    Case("uint4 raw too short", S, ("'extra'", "2 bytes", "uint4", "needs 3"), edited(typed(TensorProto.UINT4, [5], raw_data=b"12"))),
    Case("bfloat16 too short", S, ("'extra'", "int32_data", "bfloat16"), edited(typed(TensorProto.BFLOAT16, [2], int32_data=[1]))),
    Case("complex with half its values", S, ("'extra'", "complex64", "needs 4"), edited(typed(TensorProto.COMPLEX64, [2], float_data=[1.0, 2.0]))),
    Case("too few strings", S, ("'extra'", "string_data"), edited(typed(TensorProto.STRING, [2], string_data=[b"one"]))),
    Case("sparse indices of the wrong size", S, ("'sparse'", "indices"), edited(sparse_badly)),
    Case("functions that call one another", S, ("local::F", "itself"), edited(recursive_functions)),
    Case("functions that unfold without end", S, ("unfold",), edited(exploding_functions)),
    Case("a function that reads nothing", S, ("'nowhere'", "'F'"), edited(function_that_reads_nothing)),
    Case("a function without its output", S, ("'b'", "'F'"), edited(function_without_its_output)),
    Case("a function twice", S, ("local::F", "two"), edited(function_twice)),
    Case("types nested too deeply", S, ("model.onnx", "nested"), deeply_nested),
    Case("a name that is not UTF-8", S, ("UTF-8",), not_utf8),
    Case("a name that breaks lines", S, ("'relu'", "first.*second"), edited(breaks_lines)),
]


@cases(TABLE)
def test_refused(bench: Bench, case: Case) -> None:
    try_case(bench, case)
