"""What a model file tells about whoever made it: every text in the message, by kind, and those that look private."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from graphcompress.ir.files.build import to_proto
from graphcompress.ir.model.model import Model

PATH = re.compile(r"(?:[A-Za-z]:\\|\\\\|/(?:home|Users|root|tmp|opt|usr|mnt|data|srv|var|work|workspace|content)/)[^\s'\",;:)]+")
HOME = re.compile(r"(?:/home/|/Users/|\\Users\\)([^/\\\s'\"]+)")
MAIL = re.compile(r"[\w.+-]+@[\w-]+\.[\w.]+")
HOST = re.compile(r"(?:https?|s3|gs|hdfs|file|ssh)://[^\s'\",)]+")
DATA = re.compile(r"(?i)(imagenet|cifar|coco|mimic|celeba|librispeech|dataset|train(?:ing)?_?(?:set|data)|patient|customer)")
PATTERNS = (("path", PATH), ("user name", HOME), ("mail address", MAIL), ("address", HOST), ("data set", DATA))
"""What looks private in a text. Data sets are looked for in names, metadata and notes only."""

KINDS = {
    ("ModelProto", "producer_name"): "producer",
    ("ModelProto", "producer_version"): "producer",
    ("ModelProto", "domain"): "producer",
    ("StringStringEntryProto", "key"): "metadata",
    ("StringStringEntryProto", "value"): "metadata",
    ("NodeProto", "name"): "node names",
    ("NodeProto", "input"): "tensor names",
    ("NodeProto", "output"): "tensor names",
    ("ValueInfoProto", "name"): "tensor names",
    ("TensorProto", "name"): "tensor names",
    ("GraphProto", "name"): "graph names",
    ("FunctionProto", "name"): "graph names",
    ("Dimension", "dim_param"): "names of sizes",
    ("AttributeProto", "s"): "embedded texts",
    ("AttributeProto", "strings"): "embedded texts",
    ("TensorProto", "string_data"): "embedded texts",
}
"""Message and field -> what its text is. Operator types, domains and attribute names are the format's own and are left out."""


@dataclass(frozen=True, slots=True)
class Text:
    """A text in the file."""

    kind: str
    value: str


@dataclass(frozen=True, slots=True)
class Leak:
    """A text that looks private: what it looks like, the part that does, where (the kind of text), and how often."""

    what: str
    part: str
    kind: str
    count: int


def texts(model: Model) -> list[Text]:
    """Every text of the file but for the format's own words."""
    return list(_texts(to_proto(model)))


def leaks(found: list[Text]) -> list[Leak]:
    """What looks private among them, each once."""
    counted: dict[tuple[str, str, str], int] = {}
    for text in found:
        for what, pattern in PATTERNS:
            if what == "data set" and text.kind == "embedded texts":
                continue
            for match in pattern.finditer(text.value):
                key = (what, match.group(1) if pattern is HOME else match.group(), text.kind)
                counted[key] = counted.get(key, 0) + 1
    return [Leak(*key, count=count) for key, count in counted.items()]


def _texts(message: Any) -> Iterator[Text]:
    """Depth first; raw data is no text."""
    kind_of = message.DESCRIPTOR.name
    for field, value in message.ListFields():
        if field.type == field.TYPE_MESSAGE:
            for part in value if isinstance(value, list) or hasattr(value, "add") else [value]:
                yield from _texts(part)
        elif field.type in (field.TYPE_STRING, field.TYPE_BYTES):
            kind = "doc strings" if field.name == "doc_string" else KINDS.get((kind_of, field.name))
            for part in value if not isinstance(value, str | bytes) else [value]:
                if kind is not None and part:
                    yield Text(kind, part if isinstance(part, str) else part.decode("utf-8", "replace"))
