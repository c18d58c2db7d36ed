"""The table of operators: their definitions in onnx's schemas, version by version, and which ones only onnxruntime has."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import onnx
from onnx import helper
from onnx.defs import OpSchema, SchemaError, get_schema, onnx_opset_version

STANDARD = "ai.onnx"
ML = "ai.onnx.ml"


@dataclass(frozen=True, slots=True)
class AttributeDefinition:
    """`type` is AttributeProto's number of it; `default` is None where there is none."""

    type: int
    required: bool
    default: Any


@dataclass(frozen=True, slots=True)
class OperatorDefinition:
    """One version of an operator: least and most inputs and outputs, the positions that must not be left out, and the types of inputs and outputs as the
    schema writes them ("T", "tensor(int64)") and kinds of outputs ("tensor", "sequence", "optional", "map"); the last one stands for all further ones of a variadic
    operator."""

    name: str
    domain: str
    since: int
    inputs: tuple[int, int]
    outputs: tuple[int, int]
    single_inputs: tuple[int, ...]
    single_outputs: tuple[int, ...]
    input_types: tuple[str, ...]
    output_types: tuple[str, ...]
    output_kinds: tuple[str, ...]
    attributes: dict[str, AttributeDefinition]


@cache
def operator_definition(op: str, domain: str, version: int) -> OperatorDefinition | None:
    """The definition of `op` that opset `version` of `domain` has; None where there is none, or where it was removed."""
    try:
        schema = get_schema(op, version, "" if domain == STANDARD else domain)
    except SchemaError:
        return None
    return None if schema.deprecated else _definition(op, schema.domain, schema.since_version)


class ImportedOperators:
    """The operators that one model can use, at the opsets that it imports (domain -> version, ai.onnx by its name)."""

    def __init__(self, versions: dict[str, int]) -> None:
        self.versions = versions

    def definition(self, domain: str, op: str) -> OperatorDefinition | str | None:
        """The definition of an operator; None where nothing is known of it (onnxruntime's own, opsets newer than onnx knows); a sentence where it does not exist."""
        domain = canonical_domain(domain)
        if domain not in known_domains() or (domain, op) in runtime_operators():
            return None
        if domain not in (STANDARD, ML):
            return f"'{domain}' has no operator of this name that onnxruntime knows"
        last = newest(domain)
        version = self.versions.get(domain, last)
        definition = operator_definition(op, domain, min(version, last))
        if definition is None:
            return _absent(domain, op, version, last)
        return None if version > last else definition


def canonical_domain(domain: str) -> str:
    """The name under which a domain is compared: ai.onnx for the empty one."""
    return domain or STANDARD


@cache
def runtime_operators() -> frozenset[tuple[str, str]]:
    """(domain, operator) of what onnxruntime knows beyond onnx's schemas, from `runtime_operators.txt`."""
    lines = files("graphcompress.ir.schemas").joinpath("runtime_operators.txt").read_text("utf-8").splitlines()
    return frozenset((domain, op) for domain, op in (line.split() for line in lines if line and not line.startswith("#")))


@cache
def known_domains() -> frozenset[str]:
    """Domains whose operators onnxruntime can run, so that an unknown operator in one of them is an error and not a barrier."""
    return frozenset({STANDARD, ML} | {domain for domain, _ in runtime_operators()})


@cache
def newest(domain: str) -> int:
    """The newest opset of ai.onnx or ai.onnx.ml that the installed onnx knows."""
    if domain == STANDARD:
        return int(onnx_opset_version())
    return max(int(s.since_version) for s in onnx.defs.get_all_schemas() if s.domain == domain)


def newest_opset() -> int:
    """The newest opset of ai.onnx that the installed onnx knows."""
    return newest(STANDARD)


def boundaries(op: str, old: int, new: int) -> list[int]:
    """The versions of ai.onnx's `op` in (old, new], rising. Empty for an operator that onnx does not know at `new`."""
    versions: list[int] = []
    while new > old:
        try:
            since = int(get_schema(op, new, "").since_version)
        except SchemaError:
            break
        if since > old:
            versions.append(since)
        new = since - 1
    return versions[::-1]


def _first_version(domain: str, op: str) -> int | None:
    """The opset in which an operator of onnx appeared; None where there is no such operator."""
    name = "" if domain == STANDARD else domain
    return min((int(s.since_version) for s in onnx.defs.get_all_schemas_with_history() if s.domain == name and s.name == op), default=None)


def _absent(domain: str, op: str, version: int, last: int) -> str:
    try:
        removed = get_schema(op, min(version, last), "" if domain == STANDARD else domain)
    except SchemaError:
        removed = None
    if removed is not None:
        return f"it was removed from {domain} in opset {removed.since_version}, and the file imports opset {version}"
    since = _first_version(domain, op)
    if since is not None:
        return f"it exists in {domain} from opset {since} on, and the file imports opset {version}"
    if version > last:
        return f"{domain} has no operator of this name up to opset {last}, the newest that the installed onnx knows; the file imports opset {version}"
    return f"{domain} has no operator of this name"


@cache
def _definition(op: str, domain: str, since: int) -> OperatorDefinition:
    schema = get_schema(op, since, domain)
    single = OpSchema.FormalParameterOption.Single
    return OperatorDefinition(
        name=op,
        domain=domain,
        since=since,
        inputs=(schema.min_input, schema.max_input),
        outputs=(schema.min_output, schema.max_output),
        single_inputs=tuple(i for i, p in enumerate(schema.inputs) if p.option == single),
        single_outputs=tuple(i for i, p in enumerate(schema.outputs) if p.option == single),
        input_types=tuple(p.type_str for p in schema.inputs),
        output_types=tuple(p.type_str for p in schema.outputs),
        output_kinds=tuple(_kind(p.types) for p in schema.outputs),
        # The stub of onnx lacks the type of an attribute.
        attributes={n: AttributeDefinition(int(a.type.value), bool(a.required), _default(a)) for n, a in schema.attributes.items()},  # type: ignore[attr-defined]
    )


def _kind(types: Collection[str]) -> str:
    """What a parameter is that has one of `types`; a tensor where it may be several things."""
    for prefix, kind in (("seq(", "sequence"), ("optional(", "optional"), ("map(", "map")):
        if types and all(t.startswith(prefix) for t in types):
            return kind
    return "tensor"


def _default(attribute: OpSchema.Attribute) -> Any:
    proto = attribute.default_value
    if proto.type == onnx.AttributeProto.UNDEFINED:
        return None
    value = helper.get_attribute_value(proto)
    return value.decode() if isinstance(value, bytes) else list(value) if not isinstance(value, int | float | str) else value
