"""What the README shows runs as it stands. Its first two commands are run by `.ci/run`, in fresh environments."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from graphcompress.cli.app import COMMANDS, root


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
    assert {name.removeprefix("graphcompress ") for name in re.findall(r"^graphcompress \w+", text, re.MULTILINE)} == set(COMMANDS)


def pages(repository: Path) -> list[Path]:
    return [*(repository / name for name in ("README.md", "CONTRIBUTING.md", "models/README.md")), *sorted((repository / "docs").glob("*.md"))]


def options_of(command: Any) -> set[str]:
    return {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}


def leaves(command: Any, name: str = "") -> dict[str, Any]:
    """Every command that takes options, by its words."""
    below = getattr(command, "commands", None)
    return {name: command} if below is None else {k: v for word, c in below.items() for k, v in leaves(c, f"{name} {word}".strip()).items()}


def test_commands_and_options_on_the_pages_exist(repository: Path) -> None:
    """In code, wherever a command stands with its options; and each option that stands alone is one of some command."""
    commands = leaves(root())
    every = {option for command in commands.values() for option in options_of(command)} | {"--help", "--version", "--install-completion", "--show-completion"}
    wrong = []
    for page in pages(repository):
        text = page.read_text(encoding="utf-8").replace("\\\n", " ")
        codes = [
            *re.findall(r"(?<!`)`([^`\n]+)`(?!`)", text),
            *(line for block in re.findall(r"^```sh\n(.*?)^```", text, re.M | re.S) for line in block.splitlines()),
        ]
        for code in codes:
            code = code.partition(" #")[0]
            for call in re.findall(r"\bgraphcompress ([a-z][^|;>]*)", code):
                words = shlex.split(call)
                known = next((name for name in (" ".join(words[:2]), words[0]) if name in commands), None)
                options = {word.partition("=")[0] for word in words if re.fullmatch(r"--?[a-z][a-z-]*(=.*)?", word)}
                if known is None and not any(name.startswith(f"{words[0]} ") for name in commands):
                    wrong.append(f"{page.name}: {call}")
                elif known is not None and (strange := options - options_of(commands[known]) - {"--help"}):
                    wrong.append(f"{page.name}: {sorted(strange)} of {known}")
            if alone := re.fullmatch(r"(--[a-z][a-z-]+)(?:[ =].*)?", code):
                wrong += [f"{page.name}: {alone[1]}"] * (alone[1] not in every)
    assert wrong == []


def test_links_lead_somewhere(repository: Path) -> None:
    dead = [
        f"{page.name}: {link}"
        for page in pages(repository)
        for link in re.findall(r"\]\(([^)#]+)", page.read_text(encoding="utf-8"))
        if not link.startswith("http") and not (page.parent / link).exists()
    ]
    assert dead == []
