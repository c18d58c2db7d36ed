"""Whether one node can be what it says: its operator, how many inputs and outputs it has, its attributes."""

from __future__ import annotations

import onnx
from onnx import AttributeProto

from graphcompress.errors import quoted
from graphcompress.ir.check.faults import Fault, is_text
from graphcompress.ir.check.functions import function_key
from graphcompress.ir.check.tensors import tensor_fault
from graphcompress.ir.schemas.operators import STANDARD, ImportedOperators, OperatorDefinition, canonical_domain, known_domains

_FIELD_OF_TYPE = {
    AttributeProto.FLOAT: "f",
    AttributeProto.INT: "i",
    AttributeProto.STRING: "s",
    AttributeProto.TENSOR: "t",
    AttributeProto.GRAPH: "g",
    AttributeProto.SPARSE_TENSOR: "sparse_tensor",
    AttributeProto.TYPE_PROTO: "tp",
    AttributeProto.FLOATS: "floats",
    AttributeProto.INTS: "ints",
    AttributeProto.STRINGS: "strings",
    AttributeProto.TENSORS: "tensors",
    AttributeProto.GRAPHS: "graphs",
    AttributeProto.SPARSE_TENSORS: "sparse_tensors",
    AttributeProto.TYPE_PROTOS: "type_protos",
}
_NOT_VALUES = {"name", "ref_attr_name", "doc_string", "type"}
FIRST_IR_WITH_ATTRIBUTE_TYPES = 3


def describe(node: onnx.NodeProto) -> str:
    """A node in a message: by its name, else by its first output."""
    op = node.op_type if isinstance(node.op_type, str) and node.op_type.isprintable() else quoted(node.op_type)
    if node.name:
        return f"node {quoted(node.name)} ({op})"
    output = next((n for n in node.output if n), None)
    return f"the {op} node that makes {quoted(output)}" if output is not None else f"a {op} node without name and outputs"


class NodeChecker:
    """Checks the nodes of one graph or function, subgraphs included, whose operators `operators` knows; what is wrong goes to `faults`."""

    def __init__(self, operators: ImportedOperators, model: onnx.ModelProto, faults: list[Fault]) -> None:
        self.operators = operators
        self.functions = {function_key(f.domain, f.name, f.overload) for f in model.functions}
        self.typed_attributes = model.ir_version >= FIRST_IR_WITH_ATTRIBUTE_TYPES
        self.faults = faults

    def check(self, node: onnx.NodeProto, where: str) -> None:
        """Look at one node; `where` is the graph in messages."""
        if not is_text(node.name, node.op_type, node.domain):
            self.fault("name-not-utf8", node, f"a node{where} has a name, an operator or a domain that is not UTF-8: {describe(node)}.")
            return
        if not node.op_type:
            self.fault("operator-unknown", node, f"{describe(node)}{where} has no operator (op_type is empty).")
            return
        domain = canonical_domain(node.domain)
        if domain not in known_domains() and domain not in self.operators.versions:
            self.fault("domain-not-imported", node, f"{describe(node)}{where} is of domain {quoted(domain)}, which the file does not import (opset_import).")
            return
        local = bool(self.functions) and function_key(node.domain, node.op_type, node.overload) in self.functions
        definition = None if local else self.operators.definition(domain, node.op_type)
        if isinstance(definition, str):
            self.fault("operator-unknown", node, f"{describe(node)}{where} has an unknown operator: {definition}.")
            return
        if node.attribute or definition is not None:
            self._attributes(node, definition, where)
        if definition is not None:
            self._arity(node, definition, where)
        if domain == STANDARD and node.op_type == "If" and not local:
            self._branches(node, where)

    def fault(self, id: str, node: onnx.NodeProto, message: str) -> None:
        """Note what is wrong with a node."""
        self.faults.append(Fault(id, message, node=str(node.name), tensor=str(next(iter(node.output), ""))))

    def _attributes(self, node: onnx.NodeProto, definition: OperatorDefinition | None, where: str) -> None:
        seen: set[str] = set()
        for attribute in node.attribute:
            name = attribute.name
            if not name or not is_text(name):
                self.fault("attribute-name", node, f"{describe(node)}{where} has an attribute without a name.")
                continue
            if name in seen:
                self.fault("attribute-twice", node, f"{describe(node)}{where} has the attribute {quoted(name)} twice.")
                continue
            seen.add(name)
            self._value(node, attribute, where)
            if definition is None or name.startswith("__"):  # such names are onnxruntime's own notes
                continue
            if name not in definition.attributes:
                self.fault("attribute-unknown", node, f"{describe(node)}{where} has the attribute {quoted(name)}, which its operator does not know.")
                continue
            expected = definition.attributes[name].type
            if attribute.type and attribute.type != expected:
                what = f"attribute {quoted(name)} is {_type_name(attribute.type)}, and its operator needs {_type_name(expected)}"
                self.fault("attribute-type", node, f"{describe(node)}{where}: {what}.")
        if definition is not None and node.op_type == "Constant" and not seen:
            self.fault("attribute-missing", node, f"{describe(node)}{where} has no value.")
        for name, attribute_definition in definition.attributes.items() if definition else ():
            if attribute_definition.required and name not in seen:
                self.fault("attribute-missing", node, f"{describe(node)}{where} lacks the attribute {quoted(name)}, which its operator requires.")

    def _value(self, node: onnx.NodeProto, attribute: AttributeProto, where: str) -> None:
        """One value, of the type that the attribute says; none at all is what onnxruntime takes for the type's zero."""
        if attribute.type == AttributeProto.UNDEFINED:
            if self.typed_attributes and not attribute.ref_attr_name:
                self.fault("attribute-type", node, f"{_label(attribute, node)}{where} does not say its type.")
            return
        field = _FIELD_OF_TYPE.get(attribute.type)
        if field is None:
            self.fault("attribute-type", node, f"{_label(attribute, node)}{where} has an unknown type ({attribute.type}).")
            return
        filled = [f.name for f, _ in attribute.ListFields() if f.name not in _NOT_VALUES]
        says = f"{_label(attribute, node)}{where} says that it is {_type_name(attribute.type)}, and holds" if filled != [field] else ""
        if filled and filled != [field]:
            self.fault("attribute-value", node, f"{says} {' and '.join(filled)}.")
        elif not filled and field in ("t", "g") and not attribute.ref_attr_name:
            self.fault("attribute-value", node, f"{says} nothing.")
        for tensor in [attribute.t] if filled == ["t"] else attribute.tensors:
            problem = tensor_fault(tensor)
            if problem is not None:
                self.fault("tensor", node, f"{_label(attribute, node)}{where} {problem}.")

    def _arity(self, node: onnx.NodeProto, definition: OperatorDefinition, where: str) -> None:
        for what, names, (least, most), single in (
            ("input", node.input, definition.inputs, definition.single_inputs),
            ("output", node.output, definition.outputs, definition.single_outputs),
        ):
            count = len(names)
            if not least <= count <= most:
                expected = str(least) if least == most else f"{least} to {most}" if most < 2**31 - 1 else f"at least {least}"
                self.fault("arity", node, f"{describe(node)}{where} has {count} {what}s, and its operator takes {expected}.")
                continue
            for index in single:
                if index < count and not names[index]:
                    self.fault("arity", node, f"{describe(node)}{where}: {what} {index} is left out, and its operator needs it.")

    def _branches(self, node: onnx.NodeProto, where: str) -> None:
        for branch in node.attribute:
            if branch.HasField("g") and len(branch.g.output) != len(node.output):
                what = f"has {len(node.output)} outputs, and its {quoted(branch.name)} has {len(branch.g.output)}"
                self.fault("branches", node, f"{describe(node)}{where} {what}.")


def _label(attribute: AttributeProto, node: onnx.NodeProto) -> str:
    return f"attribute {quoted(attribute.name)} of {describe(node)}"


def _type_name(code: int) -> str:
    try:
        return str(AttributeProto.AttributeType.Name(code))
    except ValueError:
        return f"type {code}"
