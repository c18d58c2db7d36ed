"""What the command line cannot show of the checks: size, order, and which domains are known."""

from __future__ import annotations

import onnx
import pytest
from onnx import TensorProto, helper

from graphcompress.errors import ModelError
from graphcompress.ir import model_from_proto
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
