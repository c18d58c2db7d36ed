"""A model as it stands, and its message, which is put together once for all who need it: a session, the size of the file, the file itself."""

from __future__ import annotations

from functools import cached_property

from graphcompress.ir.files import serialize
from graphcompress.ir.files.serialize import Pieces
from graphcompress.ir.model.model import Model


class Snapshot:
    """`model`, which must not be edited as long as this is in use. What it holds beside the model is nodes and small tensors: large ones stay where the model has them."""

    def __init__(self, model: Model) -> None:
        self.model = model

    @cached_property
    def message(self) -> Pieces:
        """See `serialize.inline`."""
        return serialize.inline(self.model)

    @property
    def size(self) -> int:
        """Bytes on disk; see `serialize.size_on_disk`."""
        data = self.model.data
        return serialize.size_on_disk(self.model) if data is not None and data.paths() else self.message.length
