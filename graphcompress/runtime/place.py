"""Places: where sessions are opened, and what there is to say about one.

Whoever runs a model to judge it (gate, validate, benchmark) asks a `Place` for its session. `LocalPlace` opens them in this process; a place in another process or
on another machine only has to speak the protocol, and nothing outside it may assume that onnxruntime is loaded here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from graphcompress.errors import ModelError, UsageError
from graphcompress.ir.model.model import Model
from graphcompress.ir.model.objects import TensorSpec
from graphcompress.runtime import machine, ort, providers
from graphcompress.runtime.session import Feed, LocalSession, Session

if TYPE_CHECKING:
    from graphcompress.runtime.measure import Footprint


class Place(Protocol):
    """Somewhere models run."""

    @property
    def reference(self) -> Place:
        """The place whose outputs count as right: the CPU provider (this place itself where it is that, so that sessions can be shared)."""
        ...

    def open(self, model: Model | Path, *, threads: int | None = None, dims: Mapping[str, int] | None = None, label: str | None = None) -> Session:
        """A session for `model`. `threads` are those inside an operator (None: the runtime's default); `dims` fixes free dimensions (see `fixed_dims`); `label` is what
        messages call the model (None: its path).

        Raises UsageError for a provider that nothing knows, RuntimeUnavailable for one that is not usable, ModelError where the model does not load.
        """
        ...

    def describe(self) -> dict[str, Any]:
        """`runtime`, `version`, `provider` (short name), and the machine (`machine`, `system`, `cpu`, `flags`, `cores`): JSON data. Raises as `open` does."""
        ...

    def footprint(self, model: Path, feed: Feed) -> Footprint:
        """Load time and peak memory of a process that loads `model` and runs `feed`, and does nothing else. Raises ModelError where that fails."""
        ...


@dataclass(frozen=True, slots=True)
class LocalPlace:
    """This process: its onnxruntime with one provider (any name that it knows, short or whole). `config` are entries of the session configuration."""

    provider: str = "cpu"
    config: tuple[tuple[str, str], ...] = ()

    @property
    def reference(self) -> LocalPlace:
        """See `Place.reference`."""
        plain = LocalPlace()
        return self if self == plain else plain

    def open(self, model: Model | Path, *, threads: int | None = None, dims: Mapping[str, int] | None = None, label: str | None = None) -> LocalSession:
        """See `Place.open`."""
        return LocalSession(model, provider=self.provider, threads=threads, dims=dims, config=dict(self.config), label=label)

    def describe(self) -> dict[str, Any]:
        """See `Place.describe`."""
        provider = providers.find(self.provider)
        return {**ort.describe(), "provider": providers.short(provider.name), **machine.describe()}

    def footprint(self, model: Path, feed: Feed) -> Footprint:
        """See `Place.footprint`."""
        from graphcompress.runtime.measure import footprint

        return footprint(model, feed, provider=self.provider)


def require_times(where: Mapping[str, Any], what: str) -> None:
    """Raise UsageError where times mean nothing at a place, by its description, for `what` needs them."""
    if not where.get("timed", True):
        raise UsageError(f"{what} needs times, and those at the place '{where['place']}' mean nothing (places.toml says `timing = false`).")


def fixed_dims(inputs: Sequence[TensorSpec], feed: Feed) -> dict[str, int]:
    """Sizes of all free dimensions of `inputs` in one feed, as `Place.open(dims=...)` takes them: a symbol's size under its name, an unnamed dimension's under
    "INPUT[AXIS]". For providers that need fixed shapes."""
    sizes: dict[str, int] = {}
    for spec in inputs:
        if spec.shape is None or spec.name not in feed or feed[spec.name].ndim != len(spec.shape):
            continue
        for axis, (dim, size) in enumerate(zip(spec.shape, feed[spec.name].shape, strict=True)):
            if isinstance(dim, str):
                sizes[dim] = size
            elif dim is None:
                sizes[f"{spec.name}[{axis}]"] = size
    return sizes


def open_for(
    place: Place, model: Model | Path, feeds: Iterable[Feed], *, threads: int | None = None, label: str | None = None
) -> tuple[Session, tuple[str, ...]]:
    """A session for `feeds` (gone through once more), and what there is to say about it.

    A provider that takes few nodes because dimensions are free gets them fixed where all feeds have the same shapes; that is said, since it holds for those only.
    Where the model does not load with fixed dimensions, or no more nodes are taken, the first session stays. Raises as `Place.open` does.
    """
    session = place.open(model, threads=threads, label=label)
    free = session.describe()
    if free["hint"] is None:
        return session, ()
    sizes: dict[str, int] | None = None
    for feed in feeds:
        of_feed = fixed_dims(session.inputs, feed)
        if not of_feed or (sizes is not None and of_feed != sizes):
            return session, (free["hint"],)
        sizes = of_feed
    if sizes is None:
        return session, (free["hint"],)
    try:
        fixed_session = place.open(model, threads=threads, dims=sizes, label=label)
    except ModelError as problem:
        return session, (free["hint"], f"With dimensions fixed to those of the feeds it does not load: {problem}")
    fixed = fixed_session.describe()
    if fixed["share"] <= free["share"]:
        fixed_session.close()
        return session, (fixed["hint"] or free["hint"],)
    session.close()
    named = ", ".join(f"{name} = {size}" for name, size in sizes.items())
    note = f"{fixed['provider']} took {'few nodes' if free['share'] else 'no node'} while dimensions were free; they were fixed to those of the feeds for this run: {named}."
    return fixed_session, (note,) if fixed["hint"] is None else (note, fixed["hint"])
