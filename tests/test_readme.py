"""What the README shows runs as it stands. Its first two commands are run by `.ci/run`, in fresh environments."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from graphcompress.cli.app import app


def blocks(repository: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", (repository / "README.md").read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


@pytest.mark.slow
def test_the_python_example_runs(repository: Path, models: Path, tmp_path: Path) -> None:
    (tmp_path / "models").symlink_to(models)
    (example,) = blocks(repository, "python")
    done = subprocess.run([sys.executable, "-c", example], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "digits.int8.onnx").exists()
    assert 0.99 <= float(done.stdout.strip().splitlines()[-1]) <= 1


def test_every_command_is_listed(repository: Path) -> None:
    text = "\n".join(blocks(repository, "sh"))
    assert {name.removeprefix("graphcompress ") for name in re.findall(r"^graphcompress \w+", text, re.MULTILINE)} == {
        c.name for c in (*app.registered_commands, *app.registered_groups)
    }


def test_links_lead_somewhere(repository: Path) -> None:
    pages = [repository / name for name in ("README.md", "CONTRIBUTING.md", "models/README.md", "docs/architecture.md", "docs/build-steps.md")]
    dead = [
        f"{page.name}: {link}"
        for page in pages
        for link in re.findall(r"\]\(([^)#]+)", page.read_text(encoding="utf-8"))
        if not link.startswith("http") and not (page.parent / link).exists()
    ]
    assert dead == []
