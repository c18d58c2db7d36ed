"""What the runtime made of a graph: as it rewrote it, and which nodes a provider took."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from graphcompress.ir.files import parse, read
from graphcompress.ir.files.snapshot import Snapshot
from graphcompress.ir.files.weights import message_and_weights
from graphcompress.ir.model.model import Model
from graphcompress.runtime.place import Place, open_for
from graphcompress.runtime.session import Feed, LocalSession

WEIGHTS_FILE = "weights"
SMALLEST_OUTSIDE = "1024"  # bytes


def optimized_model(model: Model, provider: str = "cpu", *, feed: Feed | None = None, config: Mapping[str, str] | None = None) -> Model:
    """The graph that the runtime executes. With `feed` it is run once, so that kernels that fail at each run are found. The message of a `Snapshot` is used as it is,
    and stays for whoever asks for it next; for any other model one is put together that does not hold its large weights.

    Raises ModelError where it does not load or run, or where the provider compiles nodes into a form that cannot be saved; DataError where the feed does not
    fit. Large weights are not part of it: they are references to a file that is gone, and nothing remains on disk.
    """
    with tempfile.TemporaryDirectory(prefix="graphcompress-") as folder:
        place = Path(folder, "optimized.onnx")
        source, weights = (model, {}) if isinstance(model, Snapshot) else _without_weights(model)
        settings = {
            **(config or {}),
            "session.optimized_model_external_initializers_file_name": WEIGHTS_FILE,
            "session.optimized_model_external_initializers_min_size_in_bytes": SMALLEST_OUTSIDE,
        }
        with LocalSession(
            source,
            provider=provider,
            threads=1,
            config=settings,
            attributes={"optimized_model_filepath": str(place)},
            label=str(model.path or "the model"),
            initializers=weights,
        ) as session:
            if feed is not None:
                session.run(feed)
        return read.model_from_proto(parse.parse(place), check=False)


def _without_weights(model: Model) -> tuple[bytes, dict[str, np.ndarray[Any, Any]]]:
    message, weights = message_and_weights(model)
    return message.SerializeToString(), weights


def nodes_taken(model: Model, place: Place, *, feed: Feed) -> list[str] | None:
    """Names of the nodes that the provider of `place` took, None where the runtime there does not say. The model is run once on `feed`, with dimensions fixed to its sizes where the provider
    wants that. Raises as `optimized_model` does."""
    session, _ = open_for(place, model, [feed], threads=1)
    with closing(session):
        session.run(feed)
        return session.assigned_nodes()
