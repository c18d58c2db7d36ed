"""What the command line cannot show of the checks: size, order, and which domains are known."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from graphcompress.errors import ModelError
from graphcompress.ir import load, model_from_proto
from graphcompress.ir.check.models import model_faults, unknown_domain_nodes
from graphcompress.ir.check.nodes import NodeChecker
from graphcompress.ir.files.parse import damage, parse


def chain(length: int, *, ring: bool = False) -> onnx.ModelProto:
    """A chain of Relu nodes, last one first; with `ring` the first reads the last."""
    nodes = [helper.make_node("Relu", [f"t{i}"], [f"t{i + 1}"], name=f"n{i}") for i in range(length)][::-1]
    if ring:
        nodes[-1].input[0] = f"t{length}"
    info = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1]) for n in ("t0", f"t{length}")]
    return helper.make_model(helper.make_graph(nodes, "chain", info[:1], info[1:]), opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_long_chains_need_no_recursion() -> None:
    assert model_faults(chain(20_000)) == []


def test_a_long_cycle_is_told_in_few_words() -> None:
    (fault,) = model_faults(chain(20_000, ring=True))
    assert fault.id == "cycle"
    assert len(fault.message) < 300


def test_every_node_is_visited_once(monkeypatch: pytest.MonkeyPatch) -> None:
    visits = 0
    real = NodeChecker.check

    def counted(self: NodeChecker, node: onnx.NodeProto, where: str) -> None:
        nonlocal visits
        visits += 1
        real(self, node, where)

    monkeypatch.setattr(NodeChecker, "check", counted)
    for length in (500, 2000):
        visits = 0
        model_faults(chain(length))
        assert visits == length


def test_a_cut_in_a_long_file_is_found_where_it_is() -> None:
    content = chain(200).SerializeToString()
    assert "truncated" in damage(content[:-40])
    with pytest.raises(ModelError, match=r"truncated"):
        parse(content[:-40])


def test_domains_that_nothing_can_run() -> None:
    model = chain(5)
    for node, domain in zip(model.graph.node, ("", "ai.onnx", "com.microsoft.nchwc", "local", "foreign"), strict=True):
        node.domain = domain
    model.graph.node[2].op_type = "Conv"
    for domain in ("com.microsoft.nchwc", "local", "foreign"):
        model.opset_import.add(domain=domain, version=1)
    model.functions.append(helper.make_function("local", "Relu", ["a"], ["b"], [helper.make_node("Abs", ["a"], ["b"])], [helper.make_opsetid("", 17)]))
    assert [node.domain for node in unknown_domain_nodes(model_from_proto(model))] == ["foreign"]


def broken() -> onnx.ModelProto:
    """A fault of many kinds at once, each at a node or tensor of its own."""
    model = chain(12)
    nodes = {n.name: n for n in model.graph.node}
    nodes["n0"].op_type = "NoSuchOperator"
    nodes["n1"].domain = "nowhere"
    nodes["n2"].input.append("t0")
    nodes["n3"].attribute.append(helper.make_attribute("alpha", 1.0))
    nodes["n4"].input[0] = "missing"
    nodes["n5"].attribute.add(name="", type=1)
    model.graph.node.append(helper.make_node("Relu", ["t0"], ["t7"], name="again"))
    for name in ("w", "w"):
        model.graph.initializer.append(helper.make_tensor(name, TensorProto.FLOAT, [1], [1.0]))
    model.graph.initializer.add(name="odd", data_type=99, dims=[1])
    model.graph.initializer.add(name="short", data_type=1, dims=[3], raw_data=b"1234")
    model.graph.input.append(helper.make_tensor_value_info("t0", TensorProto.FLOAT, [1]))
    model.graph.input.add(name="typeless")
    model.graph.output.append(helper.make_tensor_value_info("nothing", TensorProto.FLOAT, [1]))
    return model


def test_all_faults_are_found_at_once() -> None:
    faults = model_faults(broken())
    assert [(f.id, f.node or f.tensor) for f in faults] == [
        ("initializer-twice", "w"),
        ("tensor", "odd"),
        ("tensor", "short"),
        ("input-twice", "t0"),
        ("tensor-twice", "again"),
        ("attribute-name", "n5"),
        ("tensor-missing", "n4"),
        ("attribute-unknown", "n3"),
        ("arity", "n2"),
        ("domain-not-imported", "n1"),
        ("operator-unknown", "n0"),
        ("output-missing", "nothing"),
        ("input-type", "typeless"),
    ]
    assert all(f.message.endswith(".") for f in faults)


def test_loading_tells_the_first_fault_and_how_many_there_are(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(broken().SerializeToString())
    with pytest.raises(ModelError, match=r"m\.onnx: two initializers are called 'w'.*There are 12 more faults in it\."):
        load(tmp_path / "m.onnx")
    model = chain(3)
    model.graph.node[0].op_type = model.graph.node[1].op_type = "Nope"
    with pytest.raises(ModelError, match=r"There is 1 more fault in it\."):
        model_from_proto(model)


def test_faults_of_functions() -> None:
    model = chain(3)
    model.graph.node[0].domain = "local"
    model.graph.node[0].op_type = "F"
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("local", 1)]
    model.opset_import.append(opsets[1])
    for name, body in (("F", "G"), ("G", "F"), ("F", "Relu")):
        node = helper.make_node(body, ["a"], ["b"], domain="" if body == "Relu" else "local")
        model.functions.append(helper.make_function("local", name, ["a"], ["b"], [node, helper.make_node("Bad", ["a"], ["c"])], opsets))
    assert [f.id for f in model_faults(model)] == ["function-twice", "function-recursive", "operator-unknown", "operator-unknown"]
