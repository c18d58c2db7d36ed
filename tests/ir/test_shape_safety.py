"""Nothing that a node holds ends the process, takes much memory or raises: inference is optional knowledge."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

CASES = 12
MEMORY = 4 << 30


def test_random_nodes_of_every_operator_do_not_end_the_process(tmp_path: Path) -> None:
    last = tmp_path / "last.txt"
    script = Path(__file__).with_name("random_nodes.py")
    result = subprocess.run(
        [sys.executable, str(script), str(CASES)],
        env={**os.environ, "LAST": str(last)},
        check=False,
        capture_output=True,
        text=True,
        timeout=500,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY)),
    )
    assert result.returncode == 0, f"{last.read_text().strip()}: status {result.returncode}: {result.stderr[-2000:]}"
