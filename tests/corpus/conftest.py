"""The shared corpus: trap graphs ("probes") and real tasks ("zoo") in a folder `shared` beside the repository, or where GRAPHCOMPRESS_SHARED says.

Without it these tests are skipped, and say so. With it, whatever is missing or unreadable is a failure.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType

import pytest

BESIDE = Path(__file__).resolve().parents[3] / "shared"
PARTS = ("probes", "zoo", "zoo_tools.py")


def corpus() -> Path | None:
    """The corpus, None where there is none. A folder that has one of its parts is taken for the corpus: the other parts then have to be there."""
    named = os.environ.get("GRAPHCOMPRESS_SHARED")
    if named:
        folder = Path(named)
        if not folder.is_dir():
            raise pytest.UsageError(f"GRAPHCOMPRESS_SHARED is {named}, and there is no such folder.")
        return folder
    return BESIDE if any((BESIDE / part).exists() for part in PARTS) else None


def module(path: Path) -> ModuleType:
    """A module of the corpus, imported by its path."""
    name = f"graphcompress_corpus_{path.stem}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    sys.modules[name] = made
    try:
        spec.loader.exec_module(made)
    except BaseException:
        del sys.modules[name]
        raise
    return made


ABSENT = pytest.mark.skip(reason="the shared corpus is not there: no folder 'shared' beside the repository, and GRAPHCOMPRESS_SHARED is not set")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One test per probe, per task of the zoo, or one for the whole corpus."""
    folder = corpus()
    for fixture in {"probe", "task", "shared"} & set(metafunc.fixturenames):
        if folder is None:
            metafunc.parametrize(fixture, [pytest.param(None, marks=ABSENT, id="no-corpus")])
        elif fixture == "shared":
            metafunc.parametrize(fixture, [folder], ids=["corpus"])
        elif fixture == "probe":
            probes = module(folder / "probes" / "probes.py").PROBES
            metafunc.parametrize(fixture, probes, ids=[p.name for p in probes])
        else:
            tools = module(folder / "zoo_tools.py")
            names = tools.tasks(folder / "zoo")
            assert names, f"{folder / 'zoo'} has no task"
            metafunc.parametrize(fixture, [tools.load(name, folder / "zoo") for name in names], ids=names)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything in this folder reads the corpus."""
    here = Path(__file__).resolve().parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.corpus)


@pytest.fixture(scope="session")
def probes() -> ModuleType:
    """The corpus's module of probes."""
    folder = corpus()
    assert folder is not None
    return module(folder / "probes" / "probes.py")


@pytest.fixture(scope="session")
def zoo() -> ModuleType:
    """The corpus's module of tasks and metrics."""
    folder = corpus()
    assert folder is not None
    return module(folder / "zoo_tools.py")
