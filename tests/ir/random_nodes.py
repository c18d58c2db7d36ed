"""Shape inference on random nodes of every operator and version in onnx's schemas: odd ranks, sizes, attributes and values. Run as a script, because what is looked
for ends the process: `python random_nodes.py COUNT [SEED]`. The file named by the variable LAST holds the case that was under way."""

from __future__ import annotations

import os
import random
import re
import sys
import zlib
from typing import Any

import numpy as np
import onnx
from onnx import AttributeProto, helper, numpy_helper
from onnx.defs import OpSchema, get_all_schemas_with_history

from graphcompress.ir.files.read import model_from_proto
from graphcompress.ir.model.walk import subgraphs
from graphcompress.ir.shapes.infer import infer

Option = OpSchema.FormalParameterOption
CODES = {onnx.TensorProto.DataType.Name(code).lower(): code for code in helper.get_all_tensor_dtypes()}
VALUES = {code: helper.tensor_dtype_to_np_dtype(code) for code in (1, 2, 3, 5, 6, 7, 9, 11, 12, 13)}
TEXTS = (
    "NOTSET",
    "SAME_UPPER",
    "VALID",
    "bidirectional",
    "linear",
    "cubic",
    "ij,jk->ik",
    "...ij->ji",
    "ii->i",
    "->",
    "tf_crop_and_resize",
    "not_larger",
    "add",
)


def random_dim(r: random.Random) -> int | str | None:
    return r.choice([0, 1, 2, 3, 4, 6, "N", "M", None]) if r.random() < 0.93 else r.choice([1 << 31, 1 << 40, (1 << 62) + 1])


def random_integer(r: random.Random) -> int:
    return r.choice([0, 1, 1, 2, 2, 3, -1, -2, 4]) if r.random() < 0.95 else r.choice([100, -100, 2**31, 2**63 - 1, -(2**63)])


def random_attribute(r: random.Random, name: str, definition: Any, rank: int) -> Any:
    kind = int(definition.type.value)
    lengths = [rank, max(rank - 2, 0), 2 * rank, 2 * max(rank - 2, 0), r.randint(0, 6)]
    if kind == AttributeProto.INT:
        return random_integer(r) if name not in ("to", "dtype", "output_dtype") else r.choice([1, 6, 7, 9, 10, 16, 99])
    if kind == AttributeProto.INTS:
        return [random_integer(r) for _ in range(r.choice(lengths))]
    if kind == AttributeProto.FLOAT:
        return r.choice([0.0, 0.5, 2.0, -1.0, float("nan"), float("inf")])
    if kind == AttributeProto.FLOATS:
        return [r.choice([0.0, 0.5, 2.0, -1.0, 1e30]) for _ in range(r.choice(lengths))]
    if kind == AttributeProto.STRING:
        return r.choice([*TEXTS, *re.findall(r"['\"`]([A-Za-z_]+)['\"`]", definition.description or "")])
    if kind == AttributeProto.STRINGS:
        return [r.choice(["a", "b"]) for _ in range(r.randint(0, 3))]
    if kind == AttributeProto.TENSOR:
        return numpy_helper.from_array(np.array([r.randint(-1, 3) for _ in range(r.randint(0, 2))], r.choice([np.float32, np.int64])))
    if kind == AttributeProto.GRAPH:
        body = [helper.make_node("Identity", ["a"], ["b"])]
        return helper.make_graph(body, "body", [onnx.ValueInfoProto(name="a")] * r.randint(0, 1), [onnx.ValueInfoProto(name="b")] * r.randint(0, 2))
    return None


class RandomNode:
    """A model of one node."""

    def __init__(self, schema: OpSchema, seed: int) -> None:
        self.random = r = random.Random(seed)
        self.schema = schema
        self.types: dict[str, int | None] = {}
        self.inputs: list[onnx.ValueInfoProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.rank = r.randint(0, 5)
        names = [self.input(i) for i in range(self.count(schema.inputs, schema.min_input))]
        outputs = self.count(schema.outputs, schema.min_output)
        self.node = helper.make_node(schema.name, names, [f"o{i}" if i == 0 or r.random() < 0.9 else "" for i in range(outputs)], domain=schema.domain)
        for name, definition in schema.attributes.items():
            value = random_attribute(r, name, definition, self.rank) if definition.required or r.random() < 0.45 else None
            if value is not None:
                self.node.attribute.append(helper.make_attribute(name, value, attr_type=int(definition.type.value)))

    def count(self, parameters: Any, least: int) -> int:
        most = len(parameters) + (self.random.randint(0, 3) if parameters and parameters[-1].option == Option.Variadic else 0)
        return max(self.random.randint(min(least, most), most) - (self.random.random() < 0.05), 0)

    def element_type(self, name: str) -> int | None:
        if name not in self.types:
            allowed = next((list(c.allowed_type_strs) for c in self.schema.type_constraints if c.type_param_str == name), [name])
            codes = [CODES[t[7:-1]] for t in allowed if t.startswith("tensor(") and t[7:-1] in CODES]
            self.types[name] = self.random.choice(codes) if codes else None
        return self.types[name]

    def input(self, index: int) -> str:
        r, parameter, name = self.random, self.schema.inputs[min(index, len(self.schema.inputs) - 1)], f"i{index}"
        if parameter.option == Option.Optional and r.random() < 0.3:
            return ""
        code = self.element_type(parameter.type_str)
        if code is None or r.random() < 0.03:
            inner = helper.make_tensor_type_proto(1, [2, "N"])
            kinds = [onnx.TypeProto(), helper.make_sequence_type_proto(inner), helper.make_optional_type_proto(inner), inner]
            self.inputs.append(helper.make_value_info(name, r.choice(kinds)))
            return name
        rank = r.choice([0, 1, 1]) if index and r.random() < 0.35 else self.rank if r.random() < 0.5 else r.randint(0, 5)
        shape = [random_dim(r) for _ in range(rank)]
        numbers = [d for d in shape if isinstance(d, int)]
        if code in VALUES and len(numbers) == rank and max(numbers, default=0) <= 20 and np.prod(numbers) <= 20 and r.random() < 0.8:
            low, high = r.choice([(0, 3), (-4, 4), (-1, 8), (0, 100)])
            value = np.array([r.randint(low, high) for _ in range(int(np.prod(numbers)))]).astype(VALUES[code]).reshape(numbers)
            if value.dtype == np.int64 and value.size and r.random() < 0.1:
                value.reshape(-1)[0] = r.choice([2**63 - 1, -(2**63), 2**31, 2**62])
            self.constants.append(numpy_helper.from_array(value, name))
            return name
        self.inputs.append(helper.make_value_info(name, helper.make_tensor_type_proto(code, shape if r.random() < 0.9 else None)))
        return name

    def model(self) -> onnx.ModelProto:
        graph = helper.make_graph([self.node], "g", self.inputs, [onnx.ValueInfoProto(name="o0")] if self.node.output else [], self.constants)
        imports = [helper.make_opsetid(self.schema.domain, self.schema.since_version)]
        if self.schema.domain:
            imports.append(helper.make_opsetid("", 21))
        return helper.make_model(graph, opset_imports=imports, ir_version=10)


def main() -> None:
    count, seed = int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0
    with open(os.environ.get("LAST", os.devnull), "w", encoding="utf-8") as last:
        for schema in get_all_schemas_with_history():
            start = zlib.crc32(f"{schema.domain} {schema.name} {schema.since_version} {seed}".encode())
            for k in range(count):
                last.seek(0)
                last.write(f"{schema.domain or 'ai.onnx'} {schema.name} {schema.since_version}, random number {start + k}".ljust(200))
                last.flush()
                model = model_from_proto(RandomNode(schema, start + k).model(), check=False)
                shapes = infer(model)
                for node in [n for g in [model.graph] for n in g.nodes]:
                    assert all(subgraphs(node) is not None and shapes.spec(t) is not None for t in node.outputs if t.name)


if __name__ == "__main__":
    main()
