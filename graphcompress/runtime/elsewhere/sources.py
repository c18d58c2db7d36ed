"""What is sent to a place: the worker and the modules that it uses, as one program, and the words that start it."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, TypeAlias

PACKAGE = Path(__file__).resolve().parents[2]

Kind: TypeAlias = Literal["python", "node", "own"]

MODULES = (
    "graphcompress.errors",
    "graphcompress.runtime",
    "graphcompress.runtime.ort",
    "graphcompress.runtime.providers",
    "graphcompress.runtime.machine",
    "graphcompress.runtime.ort_session",
    "graphcompress.runtime.elsewhere",
    "graphcompress.runtime.elsewhere.wire",
    "graphcompress.runtime.elsewhere.worker",
)
"""Each after those that it imports."""

# An empty entry of the path would be the folder in which the command was started, with whatever it holds. Double quotes would not survive a shell on Windows.
START_PYTHON = (
    "import sys; sys.path[:] = [p for p in sys.path if p]; "
    "sys.version_info < (3, 11) and sys.exit('Python 3.11 or newer is needed there, and this is ' + sys.version.split()[0]); "
    "i = sys.stdin.buffer; exec(i.read(int(i.readline())), {})"
)
START_NODE = (
    "const fs = require('fs'); const take = n => { const b = Buffer.alloc(n); let k = 0; while (k < n) k += fs.readSync(0, b, k, n - k, null); return b; }; "
    "let line = ''; for (let c; (c = take(1).toString()) !== '\\n';) line += c; import('data:text/javascript;base64,' + take(+line).toString('base64'))"
)

LOADER = """
import sys, types
for name, text in SOURCES:
    module = sys.modules[name] = types.ModuleType(name)
    module.__path__ = []
    parent, _, last = name.rpartition(".")
    if parent:
        setattr(sys.modules[parent], last, module)
    exec(compile(text, name, "exec"), module.__dict__)
sys.modules["graphcompress.runtime.elsewhere.worker"].main()
"""


def start_words(kind: Kind) -> list[str]:
    """What follows the interpreter's name in the command."""
    return {"python": ["-c", START_PYTHON], "node": ["-e", START_NODE], "own": []}[kind]


def program(kind: Kind) -> bytes:
    """What the started interpreter reads first: the length of the program in a line, then the program. A worker of its own gets nothing."""
    if kind == "own":
        return b""
    text = Path(__file__).with_name("worker.mjs").read_bytes() if kind == "node" else _python_program()
    return b"%d\n" % len(text) + text


def _python_program() -> bytes:
    sources = [("graphcompress", "")]
    for name in MODULES:
        file = PACKAGE.joinpath(*name.split(".")[1:])
        sources.append((name, (file / "__init__.py" if file.is_dir() else file.with_suffix(".py")).read_text(encoding="utf-8")))
    return f"SOURCES = {sources!r}\n{LOADER}".encode()
