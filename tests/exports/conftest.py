"""The exports, made once for all tests of this folder."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from environments import FRAMEWORKS, NoEnvironment, all_exports


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path | Exception]:
    """For each framework its folder of exports, or why there is none. GRAPHCOMPRESS_EXPORTS names a folder that outlives the session."""
    kept = os.environ.get("GRAPHCOMPRESS_EXPORTS")
    return all_exports(Path(kept).resolve() if kept else tmp_path_factory.mktemp("exports"))


@pytest.fixture
def export(made: dict[str, Path | Exception], framework: str, name: str) -> Path:
    """NAME.onnx, beside which lie NAME.feeds and NAME.second."""
    folder = made[framework]
    if isinstance(folder, NoEnvironment) and not (FRAMEWORKS[framework].required and os.environ.get("CI")):
        pytest.skip(f"no environment for {framework}: {folder}")
    if isinstance(folder, Exception):
        pytest.fail(f"no exports of {framework}: {folder}")
    return folder / f"{name}.onnx"
