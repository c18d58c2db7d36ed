"""The exports, written once for all tests of this folder."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from environments import FRAMEWORKS, NoEnvironment, all_exports


@pytest.fixture(scope="session")
def export_folders() -> Iterator[dict[str, Path | Exception]]:
    """For each framework its folder of exports, or why there is none. GRAPHCOMPRESS_EXPORTS names a folder that outlives the session.

    Without it the environments, about 3 GB, are removed at the end; pytest would keep those of three sessions in its own temporary folder.
    """
    if reusable := os.environ.get("GRAPHCOMPRESS_EXPORTS"):
        yield all_exports(Path(reusable).resolve())
    else:
        with tempfile.TemporaryDirectory() as folder:
            yield all_exports(Path(folder))


@pytest.fixture
def export(export_folders: dict[str, Path | Exception], framework: str, name: str) -> Path:
    """NAME.onnx, beside which lie NAME.feeds and NAME.second."""
    folder = export_folders[framework]
    if isinstance(folder, NoEnvironment) and not (FRAMEWORKS[framework].required and os.environ.get("CI")):
        pytest.skip(f"no environment for {framework}: {folder}")
    if isinstance(folder, Exception):
        pytest.fail(f"no exports of {framework}: {folder}")
    return folder / f"{name}.onnx"
