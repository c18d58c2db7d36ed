"""The targets of ../shared/lab that are set up, as places: writes places.toml.

python benchmarks/places.py [places.toml]      after `python ../shared/lab/lab.py setup`; $GRAPHCOMPRESS_LAB is the lab's folder
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

SHARED = Path(os.environ.get("GRAPHCOMPRESS_SHARED", Path(__file__).resolve().parents[2] / "shared"))
PROVIDERS = {"openvino": "openvino", "qnn": "qnn"}
"""Targets whose provider is not the CPU's."""


def main() -> int:
    out = Path(sys.argv[1] if len(sys.argv) > 1 else "places.toml")
    ready, missing = write(out)
    print(f"{out}: {', '.join(ready)}" + "".join(f"; {target} is not set up" for target in missing))
    return 0


def write(out: Path) -> tuple[list[str], list[str]]:
    """Write the file; the targets that are in it, and those that are not set up."""
    sys.path.insert(0, str(SHARED / "lab"))
    import lab

    ready = [target for target in lab.TARGETS if lab.ready(target)]
    out.write_text("\n".join(table(lab, target) for target in ready), encoding="utf-8")
    return ready, [target for target in lab.TARGETS if target not in ready]


def table(lab: Any, target: str) -> str:
    """One target as a table of places.toml; JSON's strings are TOML's."""
    words, env = lab.command(target, "", 1)
    command = words[: next(k for k, word in enumerate(words) if Path(word).name.startswith("worker."))]
    lines = [f"[{target}]", f"command = {json.dumps(command)}"]
    if target in PROVIDERS:
        lines.append(f'provider = "{PROVIDERS[target]}"')
    if folder := env.pop("LAB_WEB", None):  # the lab's worker is told where the package lies; ours is started there
        lines.append(f"folder = {json.dumps(folder)}")
    if env:
        lines.append("env = { " + ", ".join(f"{name} = {json.dumps(value)}" for name, value in env.items()) + " }")
    if target not in lab.TIMED:
        lines += ["timing = false", "limit = 3600"]  # an emulator: right numbers, some hundred times slower
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
