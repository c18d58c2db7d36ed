"""A model as it stands, and its message, which is put together once for all who need it: a session, the size of the file, the file itself."""

from __future__ import annotations

from functools import cached_property

from graphcompress.ir.files import serialize
from graphcompress.ir.files.serialize import Pieces
from graphcompress.ir.model.model import Model


class Snapshot(Model):
    """The model `source` itself, not a copy, for as long as nobody edits it. What is held beside it are nodes and small tensors: large ones stay where the model
    has them."""

    def __init__(self, source: Model) -> None:
        super().__init__(source.header, source.graph, source.input_protos, source.output_protos, source.path, source.data)
        self.changes = source.changes
        self.source = source

    @cached_property
    def message(self) -> Pieces:
        """See `serialize.inline`."""
        return serialize.inline(self)

    @property
    def size(self) -> int:
        """Bytes on disk; see `serialize.size_on_disk`."""
        return serialize.size_on_disk(self) if self.data is not None and self.data.paths() else self.message.length


def snapshot_of(model: Model) -> Snapshot:
    """`model` itself where it is a snapshot."""
    return model if isinstance(model, Snapshot) else Snapshot(model)
