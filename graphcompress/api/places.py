"""Places elsewhere: opened by name or command, and looked at."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from graphcompress.errors import GraphCompressError, UsageError
from graphcompress.record import PlaceReport, PlacesReport
from graphcompress.step import Progress, silent
from graphcompress.targets import load_target
from graphcompress.version import __version__

if TYPE_CHECKING:
    from graphcompress.runtime.elsewhere.remote import RemotePlace


@contextmanager
def open_place(name: str | None, provider: str | None = None, target: str | None = None) -> Iterator[RemotePlace | None]:
    """The place `name` (of places.toml, or a command that starts Python or Node there) in a `with` block, at the end of which its worker ends; None without a name.

    `provider` goes before the place's own; without either it is that of `target`, whose session options it gets, else the CPU provider. The worker starts where something is asked of it
    first. Raises UsageError for a name that is neither.
    """
    if name is None:
        yield None
        return
    from graphcompress.runtime.elsewhere.config import find_place
    from graphcompress.runtime.elsewhere.remote import RemotePlace

    table = None if target is None else load_target(target)
    spec = find_place(name)
    chosen = provider or spec.provider or ("cpu" if table is None else table.provider)
    with RemotePlace(spec, chosen, {} if table is None else table.session_options) as place:
        yield place


def check_places(names: Sequence[str] = (), *, progress: Progress = silent) -> PlacesReport:
    """What each of the places has (default: all that are named in places.toml), or why it cannot be used.

    Raises UsageError where no place is named, or a name is neither a place nor a command.
    """
    from graphcompress.runtime.elsewhere.config import find_place, known_places, places_files

    chosen = list(names) or list(known_places())
    if not chosen:
        raise UsageError(f"No place is named: neither {' nor '.join(map(str, places_files()))} is there, or they are empty. Name one, or give a command.")
    for name in chosen:
        find_place(name)
    return PlacesReport(graphcompress=__version__, places=[_look_at(name, number, len(chosen), progress) for number, name in enumerate(chosen)])


def _look_at(name: str, number: int, total: int, progress: Progress) -> PlaceReport:
    progress(f"look at {name}", number, total)
    try:
        with open_place(name) as place:
            assert place is not None
            has = place.describe()
            return PlaceReport(
                name=name,
                runtime=has["runtime"],
                version=has["version"],
                provider=has["provider"],
                providers=has["usable"],
                python=has["python"],
                machine=has["machine"],
                system=has["system"],
                cpu=has["cpu"],
                flags=has["flags"],
                cores=has["cores"],
                memory=has["memory"],
                clock_noise=place.clock_noise() if has["timed"] else None,
            )
    except GraphCompressError as problem:
        return PlaceReport(name=name, problem=str(problem))
