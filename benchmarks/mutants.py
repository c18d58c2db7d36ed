"""Whether the tests notice when the code is wrong: a seeded sample of mutants, each run against the tests of its package.

python benchmarks/mutants.py [--seed 17] [--count 200] [--only PACKAGE] [--list] [--again] [--out build/mutants]

- An equal share of mutants per package, taken in turn, so that an interrupted run is a smaller sample. Run again, it goes on: the results are in OUT/results.json.
- The tests run in a copy of the tree that is compiled once, each mutant in a process forked from one that has already imported onnx and onnxruntime.
- A test runs for a mutant only if it enters the mutant's function: a first run of every test file notes which ones it enters (OUT/reach.json; noted again when
  the file or code that it enters changes). The file with the module's name first, cheap tests first, up to the first failure. Code that runs on import, or that
  no test enters in its own process, has every test of the package.
- A mutant is killed by a test that fails, by its limit of CPU seconds or memory, or by not importing.
- `mutants-equivalent.toml` lists mutants that change nothing: not counted. `--again` runs those that survived once more, after new tests.
"""

from __future__ import annotations

import argparse
import ast
import builtins
import compileall
import contextlib
import hashlib
import importlib
import importlib.machinery
import itertools
import json
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import threading
import time
import tomllib
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from types import CodeType
from typing import Any

from mutations import Mutant, mutants

REPOSITORY = Path(__file__).resolve().parent.parent
COPIED = ("graphcompress", "rules", "tests", "models", "pyproject.toml", "README.md")
PACKAGES = {
    "engine": ["tests/engine", "tests/passes/test_simplify.py"],
    "ir": ["tests/ir", "tests/bad_inputs/test_files_that_are_no_models.py", "tests/bad_inputs/test_models_that_are_none.py"],
    "passes": ["tests/passes"],
    "runtime": ["tests/runtime"],
    "gate": ["tests/gate"],
}
# A test may need this many times the CPU seconds that it needs unchanged, and so many more for start-up; bytes of address space.
SLOWER = 4
START_UP = 15
MEMORY = 12 << 30
PYTEST = ["-x", "-q", "-m", "not slow", "-p", "no:cacheprovider", "--no-header"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=17)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--only", choices=PACKAGES)
    parser.add_argument("--list", action="store_true", help="print the sample and end")
    parser.add_argument("--again", action="store_true", help="run the survivors of an earlier run again")
    parser.add_argument("--out", type=Path, default=REPOSITORY / "build" / "mutants")
    options = parser.parse_args()
    picked = sample(options.seed, -(-options.count // len(PACKAGES)), [options.only] if options.only else list(PACKAGES))
    if options.list:
        for package, mutant in picked:
            print(package, described(mutant))
        return 0
    options.out.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(1))  # so that the copy and the child go
    results = Results(options.out / "results.json")
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder).resolve()
        copy_tree(tree)
        warm_up(tree)
        reach = Reach(tree, options.out / "reach.json")
        for package, mutant in picked:
            if (before := results.of(mutant)) and not (options.again and before["outcome"] == "survived"):
                continue
            start = time.monotonic()
            outcome = judge(tree, mutant, reach.tests_for(package, mutant))
            results.add(package, mutant, outcome, time.monotonic() - start)
    report(picked, results)
    return 0


# --- the sample ---


def sample(seed: int, share: int, packages: list[str]) -> list[tuple[str, Mutant]]:
    """`share` mutants per package, package after package in turn: pieces of text drawn evenly, one mutation of each.

    Drawn by a hash of the text, so that the sample stays nearly the same while the code changes.
    """
    listed = tomllib.loads((REPOSITORY / "benchmarks" / "mutants-equivalent.toml").read_text())["equivalent"]
    equivalent = {(e["file"], e["line"], e["mutant"]) for e in listed}
    drawn = []
    for package in packages:
        pieces: dict[tuple[str, int, int], list[Mutant]] = {}
        for path in sorted((REPOSITORY / "graphcompress" / package).rglob("*.py")):
            for mutant in mutants(str(path.relative_to(REPOSITORY)), path.read_bytes()):
                pieces.setdefault((mutant.file, mutant.start, mutant.end), []).append(mutant)
        ranked = ((m, hashlib.sha256(f"{seed} {identity(m)}".encode()).digest()) for m in (p[0] for p in pieces.values()))
        order = sorted(ranked, key=lambda pair: pair[1])
        choices = (random.Random(rank).choice(pieces[m.file, m.start, m.end]) for m, rank in order)
        fit = (m for m in choices if m.parses(source(m)) and (m.file, *m.sides(source(m))) not in equivalent)
        drawn.append([(package, mutant) for mutant in itertools.islice(fit, share)])
    return [pair for turn in itertools.zip_longest(*drawn) for pair in turn if pair]


def identity(mutant: Mutant) -> str:
    """What a mutant is, without its line number."""
    removed, added = mutant.sides(source(mutant))
    return f"{mutant.file} {mutant.function}: {removed} -> {added}"


def source(mutant: Mutant) -> bytes:
    return (REPOSITORY / mutant.file).read_bytes()


def described(mutant: Mutant) -> str:
    removed, added = mutant.sides(source(mutant))
    return f"{mutant.file}:{mutant.line} ({mutant.kind})\n    - {removed}\n    + {added}"


# --- one mutant ---


def copy_tree(tree: Path) -> None:
    for name in COPIED:
        origin = REPOSITORY / name
        if origin.is_dir():
            shutil.copytree(origin, tree / name, ignore=shutil.ignore_patterns("__pycache__", ".hypothesis"))
        else:
            shutil.copy2(origin, tree / name)
    compileall.compile_dir(tree / "graphcompress", quiet=2)


def warm_up(tree: Path) -> None:
    """Import what every test imports, so that a forked child need not; nothing of the package itself."""
    for module in ("hypothesis", "onnx_graphsurgeon", "onnxruntime", "pydantic", "pytest", "scipy.stats"):
        importlib.import_module(module)

    sys.dont_write_bytecode = True
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
    os.environ["PYTHONPATH"] = str(tree)
    sys.path.insert(0, str(tree))
    os.chdir(tree)


def judge(tree: Path, mutant: Mutant, tests: dict[str, float]) -> str:
    """`killed`, or `survived`."""
    place = tree / mutant.file
    unchanged, times = place.read_bytes(), place.stat()
    place.write_bytes(mutant.apply(unchanged))
    try:
        status = forked(lambda: run_tests(list(tests), Limit(tests)), START_UP + SLOWER * sum(tests.values())) if tests else 0
    finally:
        place.write_bytes(unchanged)
        os.utime(place, ns=(times.st_atime_ns, times.st_mtime_ns))  # its compiled form is valid again
    return "survived" if status == 0 else "killed"


class Limit:
    """A plugin of pytest that ends the process where a test needs far more CPU than it does unchanged."""

    def __init__(self, seconds: dict[str, float]) -> None:
        self._seconds = seconds

    def pytest_runtest_protocol(self, item: Any, nextitem: Any) -> None:
        signal.setitimer(signal.ITIMER_PROF, START_UP + SLOWER * self._seconds.get(item.nodeid, 0.0))


def run_tests(names: list[str], *plugins: object) -> int:
    import pytest

    return int(pytest.main([*PYTEST, *names], plugins=plugins))


def forked(work: Callable[[], int], seconds: float) -> int:
    """The exit status of `work` in a child without output; not 0 too when it needs more CPU than `seconds`, or ten times that on the clock (a deadlock)."""
    child = os.fork()
    if child == 0:
        status = 1
        with contextlib.suppress(BaseException):
            os.setsid()
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            resource.setrlimit(resource.RLIMIT_CPU, (int(seconds), int(seconds)))
            resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
            quiet = os.open(os.devnull, os.O_RDWR)
            for stream in range(3):
                os.dup2(quiet, stream)
            status = work()
        os._exit(status)
    timer = threading.Timer(10 * seconds, os.killpg, (child, signal.SIGKILL))
    timer.start()
    try:
        return os.waitpid(child, 0)[1]
    except BaseException:
        os.killpg(child, signal.SIGKILL)
        raise
    finally:
        timer.cancel()


# --- which test enters which function ---


class Reach:
    """Per test: its CPU seconds and the functions of graphcompress that it enters, as `file:qualified name`."""

    def __init__(self, tree: Path, file: Path) -> None:
        self._tree = tree
        self._file = file
        self._known: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
        self._checksums: dict[str, int] = {}

    def tests_for(self, package: str, mutant: Mutant) -> dict[str, float]:
        """The tests to run, with their CPU seconds, in their order."""
        module = Path(mutant.file).stem
        ranked = []
        for file in self._files(package):
            for name, (seconds, entered) in self._of(file).items():
                ranked.append((f"{mutant.file}:{mutant.function}" not in entered, module not in Path(file).stem, seconds, name))
        # Where no test enters the function, a process that a test starts may.
        everything = not mutant.function or all(other for other, *_ in ranked)
        return {name: seconds for other, _, seconds, name in sorted(ranked) if everything or not other}

    def _files(self, package: str) -> list[str]:
        paths = [p for name in PACKAGES[package] for p in ([self._tree / name] if name.endswith(".py") else sorted((self._tree / name).rglob("test_*.py")))]
        return [str(p.relative_to(self._tree)) for p in paths]

    def _of(self, file: str) -> dict[str, tuple[float, list[str]]]:
        known = self._known.get(file)
        if not known or any(self._checksum(name) != checksum for name, checksum in known["checksums"].items()):
            place = self._tree / "reach.tmp"
            place.write_text("{}")
            print(f"noting what {file} enters", flush=True)
            if status := forked(lambda: self._note(file, place), 3600):
                raise SystemExit(f"{file} fails on the unchanged tree (status {status})")
            tests = json.loads(place.read_text())
            sources = {file} | {function.partition(":")[0] for _, entered in tests.values() for function in entered}
            known = self._known[file] = {"checksums": {name: self._checksum(name) for name in sorted(sources)}, "tests": tests}
            self._file.write_text(json.dumps(self._known))
        return known["tests"]

    def _checksum(self, name: str) -> int:
        if name not in self._checksums:
            path = self._tree / name
            self._checksums[name] = zlib.crc32(path.read_bytes()) if path.exists() else 0
        return self._checksums[name]

    def _note(self, file: str, place: Path) -> int:
        recorder = Recorder(self._tree)
        status = run_tests([file], recorder)
        place.write_text(json.dumps({name: (seconds, sorted(entered)) for name, (seconds, entered) in recorder.tests.items()}))
        return 0 if status == 5 else status  # 5: every test of the file is slow


class Recorder:
    """A plugin of pytest that notes which functions each test enters, fixtures included: modules are loaded with a mark at the start of each function."""

    def __init__(self, tree: Path) -> None:
        self._tree = tree
        self.tests: dict[str, tuple[float, set[str]]] = {}
        builtins.entered_functions = set()  # of what runs on import
        sys.meta_path.insert(0, self)

    def find_spec(self, name: str, path: Sequence[str] | None, target: object = None) -> importlib.machinery.ModuleSpec | None:
        spec = importlib.machinery.PathFinder.find_spec(name, path) if name.partition(".")[0] == "graphcompress" else None
        if spec and isinstance(spec.loader, importlib.machinery.SourceFileLoader):
            spec.loader = MarkingLoader(name, spec.loader.path, str(Path(spec.loader.path).relative_to(self._tree)))
        return spec

    def pytest_runtest_protocol(self, item: Any, nextitem: Any) -> None:
        for name, module in list(sys.modules.items()):
            if name.startswith("graphcompress"):  # what is cached would not be entered again
                for value in list(vars(module).values()):
                    if callable(getattr(value, "cache_clear", None)):
                        value.cache_clear()
        builtins.entered_functions = set()
        self._start = time.process_time()

    def pytest_runtest_logfinish(self, nodeid: str, location: Any) -> None:
        self.tests[nodeid] = (time.process_time() - self._start, builtins.entered_functions)


class MarkingLoader(importlib.machinery.SourceFileLoader):
    """Each function of the module adds `file:qualified name` to the builtin set `entered_functions`, which costs a test far less time than a profiler."""

    def __init__(self, name: str, path: str, file: str) -> None:
        super().__init__(name, path)
        self._file = file

    def get_code(self, fullname: str) -> CodeType:
        tree = ast.parse(self.get_data(self.path))
        self._mark(tree, "")
        return compile(ast.fix_missing_locations(tree), self.path, "exec", dont_inherit=True)

    def _mark(self, node: ast.AST, outer: str) -> None:
        for child in ast.iter_child_nodes(node):
            match child:
                case ast.FunctionDef(name=name, body=body):
                    self._mark(child, f"{outer}{name}.<locals>.")
                    text = f"{self._file}:{outer}{name}"
                    mark = ast.parse(f"try: entered_functions.add({text!r})\nexcept NameError: pass  # sent to another process").body[0]
                    body.insert(1 if ast.get_docstring(child, clean=False) is not None else 0, mark)
                case ast.ClassDef(name=name):
                    self._mark(child, f"{outer}{name}.")
                case _:
                    self._mark(child, outer)


# --- results ---


class Results:
    """The outcomes so far, in a file that is complete after every mutant."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._known: dict[str, dict[str, Any]] = json.loads(file.read_text()) if file.exists() else {}

    def of(self, mutant: Mutant) -> dict[str, Any] | None:
        return self._known.get(identity(mutant))

    def add(self, package: str, mutant: Mutant, outcome: str, seconds: float) -> None:
        self._known[identity(mutant)] = {"package": package, "outcome": outcome, "seconds": round(seconds, 1)}
        self._file.write_text(json.dumps(self._known, indent=1))
        print(f"{outcome} {seconds:6.1f} s  {described(mutant) if outcome == 'survived' else f'{mutant.file}:{mutant.line}'}", flush=True)


def report(picked: list[tuple[str, Mutant]], results: Results) -> None:
    """The survivors, then the share killed per package."""
    judged = [(package, mutant, outcome) for package, mutant in picked if (outcome := results.of(mutant))]
    for _, mutant, outcome in judged:
        if outcome["outcome"] == "survived":
            print(described(mutant))
    for package in (*PACKAGES, "all"):
        counts = Counter(o["outcome"] for p, _, o in judged if package in (p, "all"))
        if total := counts.total():
            print(f"{package:8} {counts['killed']:4} killed {counts['survived']:4} survived  {100 * counts['killed'] / total:5.1f}%")
    print(f"{sum(o['seconds'] for _, _, o in judged) / max(len(judged), 1):.0f} s per mutant")


if __name__ == "__main__":
    raise SystemExit(main())
