"""What all documents have in common."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

VARIES = {"varies": True}
Varying = Field(json_schema_extra={"varies": True})

FORMAT = 3
"""Version of all documents here. It rises when a field is removed or changes its meaning, not when one is added."""


class Document(BaseModel):
    """Base of all parts: immutable, unknown keys refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)


class ModelFile(Document):
    """A model that was read. `sha256` covers the file and, in the order of their names, its external data; `path` is as the caller gave it, null for a model in memory."""

    path: str | None
    sha256: str


def without_varying(model: type[BaseModel], document: dict[str, Any]) -> dict[str, Any]:
    """`document` (a dump of `model`) less the fields that are marked as varying, at every depth."""
    stable: dict[str, Any] = {}
    for name, field in model.model_fields.items():
        extra = field.json_schema_extra
        if name not in document or (isinstance(extra, dict) and extra.get("varies")):
            continue
        part = _part_model(field.annotation)
        value = document[name]
        if part is not None and isinstance(value, list):
            value = [without_varying(part, item) for item in value]
        elif part is not None and isinstance(value, dict) and set(value) <= set(part.model_fields):
            value = without_varying(part, value)
        stable[name] = value
    return stable


def _part_model(annotation: Any) -> type[BaseModel] | None:
    """The Document inside `annotation` (itself, optional, or in a list)."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for argument in getattr(annotation, "__args__", ()):
        part = _part_model(argument)
        if part is not None:
            return part
    return None
