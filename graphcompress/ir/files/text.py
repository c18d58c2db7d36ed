"""ONNX text: bodies of rules, small models for examples, and what messages print.

onnx's parser wants typed inputs for a graph and takes untyped names for a function, so a body is parsed as the function `NAME`: the header is put before
it on its first line, which keeps line numbers. Function bodies also know attribute references (`perm = @p`, `perm: ints = @p`).
onnx's own syntax reference: https://github.com/onnx/onnx/blob/main/docs/Syntax.md.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import onnx
import onnx.parser
import onnx.printer

from graphcompress.ir.files.build import to_proto
from graphcompress.ir.files.read import LONGEST_LIST, model_from_proto
from graphcompress.ir.model.element_types import dtype_code, dtype_name
from graphcompress.ir.model.messages import node_protos, tensor_protos
from graphcompress.ir.model.model import Model
from graphcompress.ir.model.objects import Constant, Graph, Node
from graphcompress.ir.model.tensors import TensorData, to_tensor_proto
from graphcompress.ir.model.walk import graphs

PRINTED_ELEMENTS = 64
DEFAULT_OPSET = 17
DEFAULT_IR = 8
NAME = "NAME"
_ELIDED = '["elided": ""]'

_TOKEN = re.compile(r'"(?:\\.|[^"\\])*"|#[^\n]*|=>|\.\.\.|[A-Za-z_][\w.$/]*|[-+]?\d[\w.+-]*|\s+|.', re.DOTALL)
_FAULT = re.compile(r"\(line: (\d+) column: (\d+)\)\]\nError context:.*\n(.*)\Z", re.DOTALL)
_UNPARSED_TYPES = frozenset((onnx.TensorProto.UINT4, onnx.TensorProto.INT4, onnx.TensorProto.FLOAT4E2M1))


class TextError(ValueError):
    """ONNX text that cannot be parsed. `line` counts from 1 in the text that was given; `message` says what is wrong without the line."""

    def __init__(self, line: int, message: str) -> None:
        super().__init__(f"line {line}: {message}")
        self.line = line
        self.message = message


@dataclass(frozen=True, slots=True)
class BodyNode:
    """One operator of a body.

    An absent optional input or output is the empty string. `domain` is "" for ai.onnx. `attrs` holds int, float, str (bytes if not UTF-8), lists of these,
    arrays (tensor literals) and, for an empty list, the AttributeProto (its kind is not in the value). `refs` maps an attribute's name to the name
    behind its `@`, `ref_kinds` to the kind that the text states ("int", "ints", ...), where it states one. `line` is where its operator stands in the text.
    """

    op: str
    domain: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attrs: dict[str, Any]
    refs: dict[str, str]
    name: str = ""
    line: int = 0
    ref_kinds: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Body:
    """An untyped graph: `(inputs) => (outputs) { nodes }`, in the order of the text."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    nodes: tuple[BodyNode, ...]


def parse_body(text: str, opsets: Mapping[str, int]) -> Body:
    """Parse a rule's body, such as `(x, w) => (y) { c = Conv (x, w)  y = Relu (c) }`.

    `opsets` are the versions that the body is written for; they are not looked up here.
    Raises TextError (a ValueError with `.line` and `.message`) where the text is not a body, and for subgraphs and 4-bit literals, which a body cannot hold.
    """
    header = f'<domain: "rule", opset_import: [{_opset_list(opsets)}]> {NAME} '
    last = _end_of_body(text)
    function = _parsed(onnx.parser.parse_function, header, text)
    if function.value_info:
        raise TextError(1, f"'{function.value_info[0].name}' has a type; the names of a rule's body have none")
    if function.attribute or function.attribute_proto:
        raise TextError(1, "a rule's body has no attribute parameters; `@name` refers to `let`")
    lines = _node_lines(text, last)
    if len(lines) != len(function.node):  # the token scan and the parser disagree: keep the nodes, give the first line
        lines = [1] * len(function.node)
    return Body(tuple(function.input), tuple(function.output), tuple(_body_node(n, line) for n, line in zip(function.node, lines, strict=True)))


def parse_model(text: str, opsets: Mapping[str, int] | None = None) -> Model:
    """Parse a small model: whole (`< ir_version: 8, opset_import: [...] > name (...) => (...) {...}`), or a graph alone, with or without a name.

    A graph alone gets `opsets` (default: ai.onnx 17) and IR version 8. Inputs need types (`float[N,3] x`); outputs may go without.
    Raises TextError for text that is not a model, ModelError for an invalid graph.
    """
    start = text.lstrip()
    header = ""
    if not start.startswith("<"):
        name = "" if re.match(r'["A-Za-z_]', start) else f"{NAME} "
        header = f"<ir_version: {DEFAULT_IR}, opset_import: [{_opset_list(opsets or {'': DEFAULT_OPSET})}]> {name}"
    elif opsets is not None:
        raise TextError(1, "the text has a header of its own; `opsets` would be ignored")
    proto = _parsed(onnx.parser.parse_model, header, text)
    for tensor in tensor_protos(proto):
        if tensor.data_type in _UNPARSED_TYPES:
            raise TextError(
                1, f"'{tensor.name}' is a literal of type {onnx.TensorProto.DataType.Name(tensor.data_type).lower()}, which onnx's parser reads unpacked"
            )
    return model_from_proto(proto)


def to_text(model: Model, around: Node | None = None, *, elements: int = PRINTED_ELEMENTS) -> str:
    """ONNX text of `model`, or of the nodes next to `around` (its producers and consumers, in its own graph).

    Tensors of more than `elements` elements, and those whose bytes are in another file, are printed as `...`; text without `...` parses back.
    """
    if around is None:
        proto = to_proto(model)
        for tensor in tensor_protos(proto):
            _elide(tensor, elements)
        for node in node_protos([*proto.graph.node, *(n for f in proto.functions for n in f.node)]):
            for attribute in node.attribute:
                if (short := _shortened(attribute, elements)) is not attribute:
                    attribute.CopyFrom(short)
        return _printed(proto)
    return _neighbourhood(model, around, elements)


def node_text(node: Node, *, elements: int = PRINTED_ELEMENTS) -> str:
    """One node as ONNX text; a subgraph is shown by its names only."""
    return _printed(_node_proto(node, elements))


# --- parsing --------------------------------------------------------------------------------------------------------------------


P = TypeVar("P", onnx.FunctionProto, onnx.ModelProto)


def _parsed(parse: Callable[[str], P], header: str, text: str) -> P:
    try:
        return parse(header + text)
    except onnx.parser.ParseError as error:
        raise _fault(error, header, text) from error
    except (IndexError, ValueError, RuntimeError) as error:  # std::stoll and the float reader leave through the binding
        raise TextError(_line_of_huge_number(text), "a number does not fit into its type") from error


def _fault(error: onnx.parser.ParseError, header: str, text: str) -> TextError:
    message = error.args[0].decode("utf-8", "replace") if isinstance(error.args[0], bytes) else str(error)
    match = _FAULT.search(message)
    if not match:
        return TextError(1, message.strip())
    line, column, fault = int(match[1]), int(match[2]), match[3].strip().rstrip(".")
    column -= len(header) if line == 1 else 0
    lines = text.splitlines() or [""]
    line = min(line, len(lines))
    return TextError(line, f"{fault} (column {max(column, 1)}): {lines[line - 1].strip()}")


def _opset_list(opsets: Mapping[str, int]) -> str:
    return ", ".join(f'"{domain}" : {int(version)}' for domain, version in opsets.items())


def _line_of_huge_number(text: str) -> int:
    match = re.search(r"\d{19,}|\d[eE][-+]?\d{3,}", text)
    return text.count("\n", 0, match.start()) + 1 if match else 1


def _tokens(text: str) -> Iterator[tuple[str, int]]:
    """(token, line) without blanks and comments; a string is one token."""
    line = 1
    for match in _TOKEN.finditer(text):
        token = match[0]
        if not token.isspace() and not token.startswith("#"):
            yield token, line
        line += token.count("\n")


def _end_of_body(text: str) -> int:
    """Index of the token that closes the body. onnx's parser stops reading there; whatever follows is an error here."""
    depth, end = 0, -1
    for index, (token, line) in enumerate(_tokens(text)):
        if end >= 0:
            raise TextError(line, f"'{token}' stands behind the end of the body")
        depth += (token == "{") - (token == "}")
        if token == "}" and depth == 0:
            end = index
    return end


def _node_lines(text: str, last: int) -> list[int]:
    """The line of each node's operator: the token behind each `=` that stands in the body itself, not among attributes."""
    lines: list[int] = []
    braces = angles = 0
    after = False
    for index, (token, line) in enumerate(_tokens(text)):
        if after:
            lines.append(line)
            after = False
        braces += (token == "{") - (token == "}")
        angles += (token == "<") - (token == ">")
        after = token == "=" and braces == 1 and angles == 0 and index < last
    return lines


def _body_node(node: onnx.NodeProto, line: int) -> BodyNode:
    attrs: dict[str, Any] = {}
    refs: dict[str, str] = {}
    kinds: dict[str, str] = {}
    for attribute in node.attribute:
        if attribute.name in attrs or attribute.name in refs:
            raise TextError(line, f"{node.op_type} has the attribute '{attribute.name}' twice")
        if attribute.ref_attr_name:
            refs[attribute.name] = attribute.ref_attr_name
            if attribute.type != onnx.AttributeProto.UNDEFINED:
                kinds[attribute.name] = onnx.AttributeProto.AttributeType.Name(attribute.type).lower()
        else:
            attrs[attribute.name] = _attribute(node, attribute, line)
    domain = "" if node.domain == "ai.onnx" else node.domain
    return BodyNode(node.op_type, domain, tuple(node.input), tuple(node.output), attrs, refs, node.name, line, kinds)


def _attribute(node: onnx.NodeProto, attribute: onnx.AttributeProto, line: int) -> Any:
    kinds = onnx.AttributeProto
    if attribute.type in (kinds.GRAPH, kinds.GRAPHS):
        raise TextError(line, f"{node.op_type} has a subgraph in '{attribute.name}'; a rule's body cannot hold one")
    if attribute.type == kinds.TENSOR:
        if attribute.t.data_type in _UNPARSED_TYPES:
            raise TextError(line, f"'{attribute.name}' is a 4-bit literal, which onnx's parser reads unpacked")
        return onnx.numpy_helper.to_array(attribute.t)
    value = onnx.helper.get_attribute_value(attribute)
    if attribute.type == kinds.STRING:
        return _decoded(value)
    if attribute.type == kinds.STRINGS and value:
        return [_decoded(v) for v in value]
    if attribute.type in (kinds.INTS, kinds.FLOATS) and value:
        return list(value)
    return value if attribute.type in (kinds.INT, kinds.FLOAT) else attribute


def _decoded(value: bytes) -> str | bytes:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value


# --- printing -------------------------------------------------------------------------------------------------------------------


def _printed(proto: onnx.ModelProto | onnx.GraphProto | onnx.NodeProto) -> str:
    """onnx's text; tensors of `_elided` as dots."""
    return str(onnx.printer.to_text(proto)).replace(_ELIDED, "...").strip()


def _elided(name: str, data_type: int, dims: Iterable[int]) -> onnx.TensorProto:
    """A tensor whose data is printed as `...`. The printer writes an empty list for missing data, so a mark goes through it."""
    tensor = onnx.TensorProto(name=name, data_type=data_type, dims=dims, data_location=onnx.TensorProto.EXTERNAL)
    tensor.external_data.add(key="elided", value="")
    return tensor


def _elide(tensor: onnx.TensorProto, elements: int) -> None:
    """Drop the data of a tensor that is too large to read: the printer then writes `...`."""
    count = 1
    for dim in tensor.dims:
        count *= dim
    if count <= elements and tensor.data_location != onnx.TensorProto.EXTERNAL:
        return
    tensor.CopyFrom(_elided(tensor.name, tensor.data_type, tensor.dims))


def _neighbourhood(model: Model, around: Node, elements: int) -> str:
    """The graph of `around` cut down to it, its producers and its consumers. What comes from outside is an input, what leaves is an output."""
    near = {id(around)}
    near.update(id(n) for t in around.inputs for n in t.inputs)
    near.update(id(n) for t in around.outputs for n in t.outputs)
    home = next((g for g in graphs(model) if any(n is around for n in g.nodes)), None)
    if home is None:
        return node_text(around, elements=elements)
    return _part([n for n in home.nodes if id(n) in near], home.name, elements)


def _part(nodes: list[Node], name: str, elements: int) -> str:
    outputs = {t.name for n in nodes for t in n.outputs if t.name}
    used = {t.name: t for n in nodes for t in n.inputs if t.name}
    graph = onnx.GraphProto(name=name or "part")
    for tensor in used.values():
        if isinstance(tensor, Constant):
            copy = graph.initializer.add()
            copy.CopyFrom(_tensor_proto(tensor.name, tensor.data if tensor.data is not None else tensor.values, elements))
        elif tensor.name not in outputs:
            graph.input.add(name=tensor.name)
    graph.output.extend(onnx.ValueInfoProto(name=t.name) for n in nodes for t in n.outputs if t.name and t.name not in used)
    graph.node.extend(_node_proto(n, elements) for n in nodes)
    return _printed(graph)


def _node_proto(node: Node, elements: int) -> onnx.NodeProto:
    """For printing only: tensors of more than `elements` elements and the nodes of subgraphs are left out."""
    proto = onnx.NodeProto(
        op_type=node.op, domain=node.domain or "", name=node.name or None, input=[t.name for t in node.inputs], output=[t.name for t in node.outputs]
    )
    for name, value in node.attrs.items():
        if isinstance(value, onnx.AttributeProto):
            proto.attribute.append(_shortened(value, elements))
        elif isinstance(value, Graph):
            proto.attribute.append(onnx.AttributeProto(name=name, type=onnx.AttributeProto.GRAPH, g=_outline(value)))
        elif isinstance(value, list) and value and isinstance(value[0], Graph):
            proto.attribute.append(onnx.AttributeProto(name=name, type=onnx.AttributeProto.GRAPHS, graphs=[_outline(g) for g in value]))
        elif isinstance(value, (TensorData, np.ndarray)):
            proto.attribute.append(onnx.AttributeProto(name=name, type=onnx.AttributeProto.TENSOR, t=_tensor_proto("", value, elements)))
        elif not isinstance(value, list) or value:
            proto.attribute.append(onnx.helper.make_attribute(name, value))
    return proto


def _shortened(attribute: onnx.AttributeProto, elements: int) -> onnx.AttributeProto:
    """`attribute` itself, or, where it is a table, a tensor of its type and length that is printed as `...`."""
    for values, code in ((attribute.floats, onnx.TensorProto.FLOAT), (attribute.ints, onnx.TensorProto.INT64), (attribute.strings, onnx.TensorProto.STRING)):
        if len(values) > max(elements, LONGEST_LIST):
            return onnx.AttributeProto(name=attribute.name, type=onnx.AttributeProto.TENSOR, t=_elided("", code, [len(values)]))
    return attribute


def _outline(graph: Graph) -> onnx.GraphProto:
    return onnx.GraphProto(
        name=graph.name, input=[onnx.ValueInfoProto(name=t.name) for t in graph.inputs], output=[onnx.ValueInfoProto(name=t.name) for t in graph.outputs]
    )


def _tensor_proto(name: str, value: TensorData | np.ndarray[Any, Any], elements: int) -> onnx.TensorProto:
    if int(np.prod(value.shape, dtype=np.float64)) <= elements:
        return to_tensor_proto(value if isinstance(value, np.ndarray) else value.load(), name)
    kind = value.dtype_name if isinstance(value, TensorData) else dtype_name(onnx.helper.np_dtype_to_tensor_dtype(value.dtype))
    return _elided(name, dtype_code(kind), value.shape)
