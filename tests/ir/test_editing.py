"""What passes may rely on when they edit a graph."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, parser

from graphcompress import ir
from graphcompress.errors import ModelError
from graphcompress.ir.model.edit import Edits, detached


def model_of(text: str, *, opset: int = 17, ir_version: int = 8) -> ir.Model:
    return ir.model_from_proto(parser.parse_model(f'<ir_version: {ir_version}, opset_import: ["": {opset}]>\n{text}'))


CHAIN = "g (float[n] x) => (float[n] y) { a = Relu(x)  b = Neg(a)  c = Abs(b)  y = Exp(c) }"


def ops(model: ir.Model) -> list[str]:
    return [n.op_type for n in ir.to_proto(model).graph.node]


def test_equal_nodes_are_told_apart() -> None:
    """graphsurgeon compares by value, and `list.remove` would take the first of two equal nodes."""
    model = model_of("g (float[n] x) => (float[n] y, float[n] z) { y = Relu(x)  z = Relu(x) }")
    first, second = model.graph.nodes
    x = model.graph.inputs[0]
    with Edits(model) as edits:
        edits.set_input(second, 0, model.constant("k", np.ones(1, np.float32)))
    assert [n is first for n in x.outputs] == [True]


def test_removed_nodes_leave_no_links() -> None:
    model = model_of(CHAIN)
    relu, neg, *_ = model.graph.nodes
    with Edits(model) as edits:
        edits.set_input(neg, 0, model.graph.inputs[0])
        edits.remove([relu])
    assert ops(model) == ["Neg", "Abs", "Exp"]
    assert ir.consumers(model.graph.inputs[0]) == [neg]
    ir.lint(model)


def test_new_node_is_written_before_its_consumer() -> None:
    model = model_of(CHAIN)
    relu, neg = model.graph.nodes[:2]
    with Edits(model) as edits:
        edits.set_input(neg, 0, model.add("Tanh", [relu.outputs[0]]).outputs[0])
    assert ops(model) == ["Relu", "Tanh", "Neg", "Abs", "Exp"]


def test_unsorted_order_is_kept_until_an_edit() -> None:
    proto = parser.parse_model(f'<ir_version: 8, opset_import: ["": 17]>\n{CHAIN}')
    nodes = [onnx.NodeProto.FromString(n.SerializeToString()) for n in reversed(proto.graph.node)]
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)
    model = ir.model_from_proto(proto)
    assert ops(model) == ["Exp", "Abs", "Neg", "Relu"]
    abs_, neg = model.graph.nodes[1:3]
    with Edits(model) as edits:
        edits.set_input(abs_, 0, neg.inputs[0])
        edits.remove([neg])
    assert ops(model) == ["Relu", "Abs", "Exp"]


def test_uses_in_subgraphs_are_uses() -> None:
    model = model_of(
        "g (bool c, float[n] x) => (float[n] y) { a = Relu(x)  y = If (c) <then_branch = t () => (float[n] p) { p = Neg(a) }, else_branch = e () => (float[n] q) { q = Identity(a) }> }"
    )
    relu, if_ = model.graph.nodes
    a = relu.outputs[0]
    assert [n.op for n in a.outputs] == ["Neg", "Identity"]
    assert [t.name for t in ir.captured(if_)] == ["a"]
    with Edits(model) as edits:
        edits.replace(a, model.graph.inputs[1])
        edits.remove([relu])
    assert [t.name for t in ir.captured(if_)] == ["x"]
    ir.lint(model)


def test_fresh_names_avoid_every_scope() -> None:
    model = model_of(
        "g (bool c, float[n] x) => (float[n] y) { y = If (c) <then_branch = t () => (float[n] k) { k = Neg(x) }, else_branch = e () => (float[n] k_1) { k_1 = Abs(x) }> }"
    )
    assert model.fresh("k") == "k_2"
    assert model.fresh("k") == "k_3"
    assert model.fresh("new") == "new"


def test_changed_signature_is_refused() -> None:
    model = model_of(CHAIN)
    model.graph.outputs[0] = model.graph.nodes[2].outputs[0]
    with pytest.raises(ModelError, match="signature"):
        ir.to_proto(model)


def test_dangling_input_is_found() -> None:
    model = model_of(CHAIN)
    with Edits(model) as edits:
        edits.set_input(model.graph.nodes[1], 0, ir.Variable("nobody"))
    with pytest.raises(ModelError, match="nobody"):
        ir.lint(model)


def test_cycle_after_an_edit_is_found() -> None:
    model = model_of(CHAIN)
    with Edits(model) as edits:
        edits.set_input(model.graph.nodes[0], 0, model.graph.nodes[2].outputs[0])
    with pytest.raises(ModelError, match="cycle"):
        ir.lint(model)


def test_copies_do_not_share_their_graph() -> None:
    model = model_of(CHAIN)
    twin = model.copy()
    twin.graph.nodes[0].op = "Tanh"
    assert ops(model)[0] == "Relu"
    assert ops(twin)[0] == "Tanh"


@pytest.mark.parametrize("value", [3, 0.5, "text", [1, 2], [0.5], ["a", "b"]])
def test_edited_attribute_is_written(value: object) -> None:
    model = model_of(CHAIN)
    model.graph.nodes[0].attrs["k"] = value
    written = helper.get_attribute_value(ir.to_proto(model).graph.node[0].attribute[0])
    assert (
        written.decode()
        if isinstance(written, bytes)
        else [w.decode() if isinstance(w, bytes) else w for w in written]
        if isinstance(written, list)
        else written
    ) == value


def test_list_attribute_edited_in_place_is_written() -> None:
    model = model_of("g (float[a,b] x) => (float[b,a] y) { y = Transpose <perm = [1, 0]> (x) }")
    model.graph.nodes[0].attrs["perm"].reverse()
    assert list(ir.to_proto(model).graph.node[0].attribute[0].ints) == [0, 1]


def test_copies_keep_the_origin_and_files_do_not_hold_it() -> None:
    model = model_of(CHAIN)
    tanh = model.add("Tanh", [model.graph.inputs[0]], origin=("some-rule", "relu"))
    with Edits(model) as edits:
        edits.set_input(model.graph.nodes[1], 0, tanh.outputs[0])
    assert next(n for n in model.copy().graph.nodes if n.op == "Tanh").origin == ("some-rule", "relu")
    assert not any(n.metadata_props for n in ir.to_proto(model).graph.node)


def test_new_initializer_below_ir_4_is_listed_as_input() -> None:
    """Before IR version 4 every initializer has to be an input as well; callers never feed it."""
    model = model_of("g (float[2] x, float[2] w) => (float[2] y) <float[2] w = {1, 2}> { y = Add(x, w) }", opset=8, ir_version=3)
    assert [s.name for s in model.inputs] == ["x"]
    assert model.overridable == ()
    with Edits(model) as edits:
        edits.set_input(model.graph.nodes[0], 1, model.constant("v", np.zeros(2, np.float32)))
    assert [v.name for v in ir.to_proto(model).graph.input] == ["x", "w", "v"]


def test_overridable_initializer_is_no_constant() -> None:
    model = model_of("g (float[2] x, float[2] w) => (float[2] y) <float[2] w = {1, 2}> { y = Add(x, w) }")
    w = model.graph.nodes[0].inputs[1]
    assert ir.constant_value(w) is None
    assert [s.name for s in model.inputs] == ["x"]
    assert [s.name for s in model.overridable] == ["w"]


def test_stale_value_info_goes_with_its_producer() -> None:
    proto = parser.parse_model(f'<ir_version: 8, opset_import: ["": 17]>\n{CHAIN}')
    proto.graph.value_info.extend(helper.make_tensor_value_info(n, TensorProto.FLOAT, ["n"]) for n in ("a", "b", "elsewhere"))
    model = ir.model_from_proto(proto)
    relu, neg = model.graph.nodes[:2]
    with Edits(model) as edits:
        edits.set_input(neg, 0, model.graph.inputs[0])
        edits.remove([relu])
    assert [v.name for v in ir.to_proto(model).graph.value_info] == ["b", "elsewhere"]


def links(model: ir.Model) -> dict[int, tuple[list[int], list[int]]]:
    """Of every tensor the nodes that make and that read it, as the lists of the nodes say."""
    expected: dict[int, tuple[list[int], list[int]]] = {}
    for node in ir.nodes(model):
        for tensor in node.outputs:
            expected.setdefault(id(tensor), ([], []))[0].append(id(node))
        for tensor in node.inputs:
            expected.setdefault(id(tensor), ([], []))[1].append(id(node))
    return {key: (sorted(makers), sorted(readers)) for key, (makers, readers) in expected.items()}


def linked(model: ir.Model) -> dict[int, tuple[list[int], list[int]]]:
    """The same as the tensors say."""
    tensors = {id(t): t for n in ir.nodes(model) for t in (*n.inputs, *n.outputs)}
    return {key: (sorted(map(id, t.inputs)), sorted(map(id, t.outputs))) for key, t in tensors.items()}


WIDE = "g (float[n] x, float[n] x2, bool c) => (float[n] y) { a = Relu(x)  b = Add(a, a)  d = Neg(b)  e = Identity(d)  f = Identity(e)  h = Sum(f, a, f, d)  y = If (c) <then_branch = t () => (float[n] p) { p = Mul(f, h) }, else_branch = e () => (float[n] q) { q = Exp(a) }> }"


def replace_chain(model: ir.Model, edits: Edits) -> None:
    _, _, d, e, f, *_ = model.graph.nodes
    edits.replace(f.outputs[0], e.outputs[0])
    edits.replace(e.outputs[0], d.outputs[0])
    edits.remove([e, f])


def replace_what_is_read_twice(model: ir.Model, edits: Edits) -> None:
    edits.replace(model.graph.nodes[0].outputs[0], model.graph.inputs[1])
    edits.remove([model.graph.nodes[0]])


def rewire_one_use(model: ir.Model, edits: Edits) -> None:
    edits.set_input(model.graph.nodes[1], 1, model.graph.inputs[1])
    edits.set_input(model.graph.nodes[5], 5, model.graph.inputs[0])


def let_another_node_make_an_output(model: ir.Model, edits: Edits) -> None:
    neg = model.graph.nodes[2]
    edits.remove([neg])
    edits.add(detached("Abs", "", {}, neg.inputs, neg.outputs), model.graph)


def add_and_remove_again(model: ir.Model, edits: Edits) -> None:
    node = detached("Abs", "", {}, [model.graph.inputs[0]], [ir.Variable("fresh")])
    edits.add(node, model.graph)
    edits.remove([node])


def read_a_tensor_that_is_replaced(model: ir.Model, edits: Edits) -> None:
    e, f = model.graph.nodes[3:5]
    edits.replace(e.outputs[0], model.graph.inputs[1])
    edits.set_input(model.graph.nodes[1], 0, e.outputs[0])
    edits.add(detached("Abs", "", {}, [e.outputs[0], f.outputs[0]], [ir.Variable("fresh")]), model.graph)


def remove_what_holds_subgraphs(model: ir.Model, edits: Edits) -> None:
    if_ = model.graph.nodes[-1]
    edits.remove([if_])
    edits.add(detached("Abs", "", {}, [model.graph.inputs[0]], if_.outputs), model.graph)


EDITS = [
    remove_what_holds_subgraphs,
    replace_chain,
    replace_what_is_read_twice,
    rewire_one_use,
    let_another_node_make_an_output,
    add_and_remove_again,
    read_a_tensor_that_is_replaced,
]


@pytest.mark.parametrize("edit", EDITS, ids=lambda f: f.__name__)
def test_tensors_know_their_nodes_after_edits(edit: Callable[[ir.Model, Edits], None]) -> None:
    model = model_of(WIDE)
    before = {id(t): t for n in ir.nodes(model) for t in (*n.inputs, *n.outputs)}
    with Edits(model) as edits:
        edit(model, edits)
    assert linked(model) == links(model)
    left = {id(n) for n in ir.nodes(model)}
    assert {id(n) for t in before.values() for n in (*t.inputs, *t.outputs)} <= left
    replaced = set(edits._uses)
    assert not [n.op for n in ir.nodes(model) for t in n.inputs if t in replaced]


def test_edits_of_a_tensor_with_many_readers_are_linear() -> None:
    """Each of n readers of one tensor is rewired: the readers are gone through once, not once per edit."""

    def comparisons(count: int) -> int:
        seen = 0

        class Counted(ir.Node):
            __hash__ = object.__hash__

            def __eq__(self, other: object) -> bool:
                nonlocal seen
                seen += 1
                return self is other

        model = model_of("g (float[n] x, float[n] x2) => (float[n] y) { y = Neg(x) }")
        for node in range(count):
            model.graph.nodes.append(Counted("Relu", str(node), {}, [model.graph.inputs[0]], [model.variable("r")]))
        with Edits(model) as edits:
            for node in model.graph.nodes[1:]:
                edits.set_input(node, 0, model.graph.inputs[1])
        with Edits(model) as edits:
            edits.replace(model.graph.inputs[1], model.graph.inputs[0])
        with Edits(model) as edits:
            edits.remove(model.graph.nodes[1:])
        assert linked(model) == links(model)
        return seen

    assert comparisons(400) <= 4 * comparisons(100) + 400


def test_edits_are_recorded() -> None:
    model = model_of("g (float[2] x) => (float[2] y) <float[2] w = {1, 2}> { a = Add(x, w)  b = Neg(a)  y = Abs(b) }")
    add, neg, abs_ = model.graph.nodes
    with Edits(model) as edits:
        edits.set_input(abs_, 0, add.outputs[0])
        edits.remove([neg])
    assert model.changes.nodes == [abs_]
    with Edits(model) as edits:
        edits.set_value(model.graph.initializers["w"], np.zeros(2, np.float32))
    assert model.changes.nodes == [abs_, add]
    assert not model.changes.reshaped
    with Edits(model) as edits:
        edits.set_value(model.graph.initializers["w"], np.zeros(1, np.float32))
    assert list(model.changes.reshaped) == [model.graph.initializers["w"]]


@pytest.mark.parametrize("opset", [8, 17])
def test_value_info_of_what_follows_another_shape_is_not_written(opset: int) -> None:
    """onnxruntime refuses a file whose value_info contradicts its own inference."""
    ir_version = 3 if opset == 8 else 8
    listed = ", float[3,4,1,1] w" if ir_version == 3 else ""
    proto = parser.parse_model(
        f'<ir_version: {ir_version}, opset_import: ["": {opset}]> g (float[1,4,2,2] x, float[2,3,1,1] k{listed}, bool c) => (float[1,2,2,2] y) '
        "{ s = Relu(x)  a = Conv(s, w)  b = Relu(a)  d = If (c) <then_branch = t () => (float[1,3,2,2] p) { u = Neg(b)  p = Abs(u) }, else_branch = e () => (float[1,3,2,2] q) { q = Identity(a) }> y = Conv(d, k) }"
    )
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.ones((3, 4, 1, 1), np.float32), "w"))
    shapes = {"s": [1, 4, 2, 2], "a": [1, 3, 2, 2], "b": [1, 3, 2, 2], "d": [1, 3, 2, 2], "elsewhere": [7]}
    proto.graph.value_info.extend(helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in shapes.items())
    proto.graph.node[3].attribute[0].g.value_info.append(helper.make_tensor_value_info("u", TensorProto.FLOAT, [1, 3, 2, 2]))
    model = ir.model_from_proto(proto)
    with Edits(model) as edits:
        edits.set_value(model.graph.initializers["w"], np.ones((5, 4, 1, 1), np.float32))
    for each in (model, model.copy()):
        written = ir.to_proto(each)
        assert [v.name for v in written.graph.value_info] == ["s", "elsewhere"]
        branch = written.graph.node[3].attribute[0].g
        assert not branch.value_info
        assert not branch.output[0].type.tensor_type.HasField("shape")
        entries = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in (*written.graph.input, *written.graph.output)}
        assert entries.get("w", [5, 4, 1, 1]) == [5, 4, 1, 1]
        assert entries["y"] == [1, 2, 2, 2]


def test_nobody_else_touches_the_lists_of_producers_and_consumers() -> None:
    package = Path(ir.__file__).parent.parent
    lists = re.compile(
        r"list\.(append|extend|clear|remove|__setitem__)\(|\.(inputs|outputs)\.(append|extend|clear|remove|pop|insert)\(|\.(inputs|outputs)\[[^]=]*\] = |\.inputs\[0\]\.inputs|\.nodes = \[|\.nodes\.(append|extend|remove|insert)\(|constant\.values = "
    )
    free = {"ir/model/edit.py", "ir/model/objects.py"}
    # They fill graphs that nobody has seen, or put values aside that come back.
    builders = {
        "ir/files/read.py",
        "ir/files/weights.py",
        "ir/inline.py",
        "ir/model/twins.py",
        "ir/model/model.py",
        "ir/model/extract.py",
        "ir/model/scopes.py",
        "ir/model/signature.py",
    }
    for file in package.rglob("*.py"):
        name = file.relative_to(package).as_posix()
        for line in [] if name in free else file.read_text(encoding="utf-8").splitlines():
            match = lists.search(line)
            assert match is None or (name in builders and not match[0].startswith("list.")), f"{name}: {line.strip()}"


def test_links_hold_no_dict_and_keep_both_sides() -> None:
    """Two lists belong to each node and tensor: what each of them holds beside its entries is most of a large graph's memory."""
    model = model_of("g (float[N] x) => (float[N] y) { a = Relu (x)  y = Abs (a) }")
    copy, _ = model.clone()
    for graph in (model.graph, copy.graph):
        first, second = graph.nodes
        for side in (first.inputs, first.outputs, second.inputs[0].inputs, graph.inputs[0].outputs):
            assert not getattr(side, "__dict__", None)
        (middle,) = first.outputs
        assert middle.inputs == [first] and middle.outputs == [second]
        second.inputs = [graph.inputs[0]]
        assert middle.outputs == [] and graph.inputs[0].outputs == [first, second]
        del first.inputs[0]
        assert graph.inputs[0].outputs == [second]
