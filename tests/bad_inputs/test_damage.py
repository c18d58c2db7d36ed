"""Whatever happens to a good file, it is taken or refused with status 2 and one paragraph: never a traceback, a hang, a bug report or a file left behind."""

from __future__ import annotations

import random
from typing import Any

import onnx
import pytest
from bad_input_bench import Bench, check_refusal, differences, good_model, snapshot, tensor, value
from google.protobuf.descriptor import FieldDescriptor
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

COMMANDS = ("inspect {model} -q", "simplify {model} -o {out} -q")


def rich_model() -> onnx.ModelProto:
    """The good model with a branch, a function, a Constant, strings, int4 and metadata."""
    model = good_model()
    graph = model.graph
    graph.initializer.append(helper.make_tensor("condition", TensorProto.BOOL, [], [True]))
    graph.initializer.append(helper.make_tensor("texts", TensorProto.STRING, [2], [b"one", b"two"]))
    graph.initializer.append(TensorProto(name="packed", data_type=TensorProto.INT4, dims=[3], raw_data=b"\x21\x03"))
    graph.node.append(helper.make_node("Constant", [], ["half"], name="half", value=tensor("", (1, 4))))
    then = helper.make_graph([helper.make_node("Add", ["scores", "half"], ["inner"])], "then", [], [value("inner", ("N", 4))])
    other = helper.make_graph([helper.make_node("Neg", ["scores"], ["negated"])], "else", [], [value("negated", ("N", 4))])
    graph.node.append(helper.make_node("If", ["condition"], ["chosen"], name="choice", then_branch=then, else_branch=other))
    graph.node.append(helper.make_node("Twice", ["chosen"], ["doubled"], name="twice", domain="local"))
    graph.output[0].CopyFrom(value("doubled", ("N", 4)))
    body = [helper.make_node("Add", ["a", "a"], ["b"])]
    model.functions.append(helper.make_function("local", "Twice", ["a"], ["b"], body, [helper.make_opsetid("", 17)]))
    model.opset_import.add(domain="local", version=1)
    model.metadata_props.add(key="author", value="nobody")
    return model


GOOD = rich_model().SerializeToString()


def try_file(bench: Bench, content: bytes) -> None:
    bench.model.write_bytes(content)
    for command in COMMANDS:
        before = snapshot(bench.root)
        outcome = bench.run(command)
        assert outcome.status in (0, 2), outcome
        if outcome.status == 2:
            check_refusal(outcome, ("model.onnx",))
            assert differences(before, snapshot(bench.root)) == []
        else:
            assert set(snapshot(bench.root)) == set(before)


def test_the_undamaged_file_is_taken(bench: Bench) -> None:
    bench.model.write_bytes(GOOD)
    for command in COMMANDS:
        assert bench.run(command).status == 0


place = st.integers(0, len(GOOD) - 1)
edits = st.one_of(
    st.tuples(st.just("set"), place, st.integers(0, 255)),
    st.tuples(st.just("delete"), place, st.sampled_from([1, 2, 8])),
    st.tuples(st.just("insert"), place, st.integers(0, 255)),
    st.tuples(st.just("cut"), place, st.just(0)),
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(edits, min_size=1, max_size=3))
def test_changed_bytes(bench: Bench, changes: list[tuple[str, int, int]]) -> None:
    content = bytearray(GOOD)
    for how, at, what in changes:
        if how == "set" and at < len(content):
            content[at] = what
        elif how == "delete":
            del content[at : at + what]
        elif how == "insert":
            content[at:at] = bytes([what])
        elif how == "cut":
            del content[at:]
    try_file(bench, bytes(content))


@pytest.mark.parametrize("seed", range(8))
def test_changed_fields(bench: Bench, seed: int) -> None:
    """Changes that protobuf does not notice: fields cleared, doubled, swapped, set to something else."""
    rng = random.Random(seed)
    for _ in range(12):
        model = onnx.ModelProto.FromString(GOOD)
        for _ in range(rng.choice([1, 1, 2, 3])):
            change_field(model, rng)
        try_file(bench, model.SerializeToString())


def messages(message: Any) -> list[Any]:
    found = [message]
    for at in found:
        for field, content in at.ListFields():
            if field.message_type is not None:
                found.extend(content if field.is_repeated else [content])
    return found


def change_field(model: onnx.ModelProto, rng: random.Random) -> None:
    every = messages(model)
    message = rng.choice([m for m in every if m.ListFields()])
    field, content = rng.choice(message.ListFields())
    names = ["", "nowhere", "Relu", "line\n\nline", *(n for m in every if isinstance(m, onnx.NodeProto) for n in [*m.input, *m.output])]
    other: dict[int, Any] = {
        FieldDescriptor.TYPE_STRING: rng.choice(names),
        FieldDescriptor.TYPE_BYTES: rng.choice([b"", b"\xff" * 7, bytes(3)]),
        FieldDescriptor.TYPE_INT64: rng.choice([0, 1, -1, 3, 2**31, 2**62, -(2**40)]),
        FieldDescriptor.TYPE_INT32: rng.choice([0, 1, 3, 7, 16, 99]),
        FieldDescriptor.TYPE_FLOAT: rng.choice([0.0, float("nan"), 1e38]),
        FieldDescriptor.TYPE_ENUM: rng.randrange(12),
    }
    if rng.random() < 0.3 or (field.message_type is not None and not field.is_repeated):
        message.ClearField(field.name)
    elif not field.is_repeated:
        try:
            setattr(message, field.name, other[field.type])
        except ValueError:  # not a value of this enum
            message.ClearField(field.name)
    elif field.message_type is None:
        content[rng.randrange(len(content))] = other[field.type]
    elif rng.random() < 0.5:
        del content[rng.randrange(len(content))]
    else:
        content.add().CopyFrom(content[rng.randrange(len(content) - 1)] if len(content) > 1 else content[0])
