"""Settings and fixtures that all tests share."""

from __future__ import annotations

import os
from pathlib import Path

import hypothesis
import pytest
from small import Tools

REPOSITORY = Path(__file__).resolve().parent.parent

# The same examples on every run: a failure in CI is one that anybody can repeat. `HYPOTHESIS_PROFILE=search` looks for new ones.
hypothesis.settings.register_profile("ci", derandomize=True, deadline=None, max_examples=60, print_blob=True)
hypothesis.settings.register_profile("search", deadline=None, max_examples=1000)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the repository."""
    return REPOSITORY


@pytest.fixture(scope="session")
def models() -> Path:
    """The folder with the trained models."""
    return REPOSITORY / "models"


@pytest.fixture(scope="session")
def tools() -> type[Tools]:
    """Small models, and how they are run."""
    return Tools
