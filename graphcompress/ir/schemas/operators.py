"""What ONNX's own definitions say of an operator."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import onnx
from onnx import helper

DEFAULT_DOMAIN = ""


@dataclass(frozen=True, slots=True)
class Operator:
    """One version of an operator: how many inputs and outputs it takes, and its attributes with their defaults (None: no default)."""

    name: str
    domain: str
    since: int
    inputs: tuple[int, int]
    outputs: tuple[int, int]
    attributes: dict[str, Any]


@functools.cache
def find(op: str, domain: str, version: int) -> Operator | None:
    """The definition of `op` that opset `version` of `domain` has; None where there is none, or where it was taken out again."""
    try:
        schema = onnx.defs.get_schema(op, version, "" if domain == "ai.onnx" else domain)
    except onnx.defs.SchemaError:
        return None
    if schema.deprecated:
        return None
    return _operator(op, schema.domain, schema.since_version)


@functools.cache
def _operator(op: str, domain: str, since: int) -> Operator:
    schema = onnx.defs.get_schema(op, since, domain)
    attributes = {name: _default(a) for name, a in schema.attributes.items()}
    return Operator(op, domain, since, (schema.min_input, schema.max_input), (schema.min_output, schema.max_output), attributes)


def newest() -> int:
    """The newest opset of ai.onnx that the installed onnx knows."""
    return int(onnx.defs.onnx_opset_version())


def _default(attribute: onnx.defs.OpSchema.Attribute) -> Any:
    proto = attribute.default_value
    if proto.type == onnx.AttributeProto.UNDEFINED:
        return None
    value = helper.get_attribute_value(proto)
    return value.decode() if isinstance(value, bytes) else list(value) if not isinstance(value, int | float | str) else value
