"""Which operators exist: onnx's own schemas, and those that only onnxruntime has."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib.resources import files

import onnx
from onnx.defs import OpSchema, SchemaError, get_schema, onnx_opset_version

STANDARD = "ai.onnx"
ML = "ai.onnx.ml"


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


def first_version(domain: str, op: str) -> int | None:
    """The opset in which an operator of onnx appeared; None where there is no such operator."""
    wanted = "" if domain == STANDARD else domain
    return min((int(s.since_version) for s in onnx.defs.get_all_schemas_with_history() if s.domain == wanted and s.name == op), default=None)


@dataclass(frozen=True, slots=True)
class Demands:
    """What a schema demands of a node: how many inputs and outputs, which of them must be there, and its attributes (name -> type, required)."""

    inputs: tuple[int, int]
    outputs: tuple[int, int]
    single_inputs: tuple[int, ...]
    single_outputs: tuple[int, ...]
    attributes: dict[str, tuple[int, bool]]


class Lookup:
    """Operators at the opsets of one model. Answers are remembered, since a graph asks thousands of times for the same few."""

    def __init__(self, versions: dict[str, int]) -> None:
        self.versions = versions
        self._found: dict[tuple[str, str], Demands | str | None] = {}

    def find(self, domain: str, op: str) -> Demands | str | None:
        """The demands of an operator; None where nothing is demanded (onnxruntime's own, other domains, opsets newer than onnx knows); a sentence where it does not exist."""
        key = (canonical_domain(domain), op)
        if key not in self._found:
            self._found[key] = self._look(*key)
        return self._found[key]

    def _look(self, domain: str, op: str) -> Demands | str | None:
        if domain not in known_domains() or (domain, op) in runtime_operators():
            return None
        if domain not in (STANDARD, ML):
            return f"'{domain}' has no operator of this name that onnxruntime knows"
        last = newest(domain)
        version = self.versions.get(domain, last)
        try:
            schema = get_schema(op, min(version, last), "" if domain == STANDARD else domain)
        except SchemaError:
            return _absent(domain, op, version, last)
        if schema.deprecated:
            return f"it was removed from {domain} in opset {schema.since_version}, and the file imports opset {version}"
        return None if version > last else _demands(schema)


def _absent(domain: str, op: str, version: int, last: int) -> str:
    since = first_version(domain, op)
    if since is not None:
        return f"it exists in {domain} from opset {since} on, and the file imports opset {version}"
    if version > last:
        return f"{domain} has no operator of this name up to opset {last}, the newest that the installed onnx knows; the file imports opset {version}"
    return f"{domain} has no operator of this name"


def _demands(schema: OpSchema) -> Demands:
    single = OpSchema.FormalParameterOption.Single
    return Demands(
        inputs=(schema.min_input, schema.max_input),
        outputs=(schema.min_output, schema.max_output),
        single_inputs=tuple(i for i, p in enumerate(schema.inputs) if p.option == single),
        single_outputs=tuple(i for i, p in enumerate(schema.outputs) if p.option == single),
        attributes={name: (int(a.type.value), bool(a.required)) for name, a in schema.attributes.items()},  # type: ignore[attr-defined]  # missing in the stub of onnx
    )
