"""onnxruntime: the one place that imports it, creates its sessions and reads its errors."""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import importlib.util
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias

from graphcompress.errors import RuntimeUnavailable

Optimize: TypeAlias = Literal["all", "basic", "none"]
LEVELS = {"all": "ORT_ENABLE_ALL", "basic": "ORT_ENABLE_BASIC", "none": "ORT_DISABLE_ALL"}
NO_LOG = 4  # "fatal": errors are raised, so their log lines would only say the same twice

OLDEST = "1.24"  # the lower bound that pyproject.toml gives

STATED = re.compile(r"""^__version__ *= *["']([^"']+)["']""", re.MULTILINE)

MISSING = (
    "onnxruntime is not installed, and nothing can be run without it. Install graphcompress with the extra for your hardware: graphcompress[cpu] (onnxruntime), "
    "graphcompress[gpu] (onnxruntime-gpu), graphcompress[openvino] (onnxruntime-openvino) or graphcompress[qnn] (onnxruntime with onnxruntime-qnn beside it); "
    "one of cpu, gpu and openvino only, because these packages overwrite one another."
)


def load() -> Any:
    """The module onnxruntime. Raises RuntimeUnavailable where it is not installed, is too old, or is broken by a second package of the same import name."""
    if "onnxruntime" not in sys.modules:
        _check_version("onnxruntime", _stated_version())
    try:
        module = importlib.import_module("onnxruntime")
    except ImportError as problem:
        if isinstance(problem, ModuleNotFoundError) and problem.name == "onnxruntime":
            raise RuntimeUnavailable(MISSING) from problem
        raise RuntimeUnavailable(f"onnxruntime is installed but cannot be imported ({one_line(problem)}). Reinstall it in a fresh environment.") from problem
    if not hasattr(module, "InferenceSession"):
        raise RuntimeUnavailable(
            "The installation of onnxruntime is incomplete, most likely because a second onnxruntime package was removed from this environment. "
            "Uninstall all packages whose name begins with onnxruntime and install one of them again."
        )
    _check_version(_package(module), module.__version__)
    return module


def _stated_version() -> str:
    """What its files say before they are run: builds for an older numpy fail with tracebacks. Empty where they do not say it, or are not there."""
    with contextlib.suppress(ImportError, ValueError, OSError):
        spec = importlib.util.find_spec("onnxruntime")
        if spec is not None and spec.origin is not None:
            stated = STATED.search(Path(spec.origin).read_text(encoding="utf-8", errors="replace"))
            return stated[1] if stated else ""
    return ""


def _check_version(package: str, version: str) -> None:
    if version and _numbers(version) < _numbers(OLDEST):
        raise RuntimeUnavailable(
            f"{package} {version} is installed, and graphcompress needs {OLDEST} or newer. Upgrade it: pip install --upgrade '{package}>={OLDEST}'."
        )


def _package(module: Any) -> str:
    """What was installed, as the module says: older builds say nothing."""
    return getattr(module, "package_name", "") or "onnxruntime"


def _numbers(version: str) -> tuple[int, ...]:
    """The first two numbers of a version."""
    return tuple(int(part) for part in re.findall(r"\d+", version)[:2])


def describe() -> dict[str, str]:
    """`runtime`, the package that is installed, and its `version`. Raises as `load` does."""
    module = load()
    return {"runtime": _package(module), "version": module.__version__}


def failures() -> tuple[type[Exception], ...]:
    """What onnxruntime raises: its exceptions exceptions share no base class."""
    load()
    state = importlib.import_module("onnxruntime.capi.onnxruntime_pybind11_state")
    exceptions = [v for v in vars(state).values() if isinstance(v, type) and issubclass(v, Exception)]
    return (*exceptions, RuntimeError, ValueError, TypeError)


def misfit(problem: Exception) -> bool:
    """True where the feed is at fault, not the model."""
    return type(problem).__name__ == "InvalidArgument" or isinstance(problem, ValueError | TypeError)


# What C++ puts before the reason: the code, places in the sources, signatures of functions.
CODE = re.compile(r"\[ONNXRuntimeError\] : \d+ : \w+ : ")
TEMPLATE = re.compile(r"/\S+\.(?:cc|h):\d+ [^\n]*\[with [^\n]*\] (?=\[)")
SOURCE = re.compile(r"/\S+\.(?:cc|h):\d+ (?:[\w:~<>*&, ]+\([^)]*\)(?: const)? )?")
THROWN = re.compile(r"Exception from \S+\.cpp:\d+:|(?<=failed) at \S+\.cpp:\d+:")

# What it says of models that are newer than itself.
NEWER_IR = re.compile(r"Unsupported model IR version: (\d+), max supported IR version: (\d+)")
NEWER_OPSET = re.compile(r"Opset (\d+) is under development .* support for domain (\S+) is till opset (\d+)", re.DOTALL)


def one_line(problem: BaseException) -> str:
    """The reason that an exception gives, without onnxruntime's code, source paths and line breaks; at most 400 characters."""
    text = str(problem)
    for pattern, what in (
        (NEWER_IR, "IR version {0}, and onnxruntime {version} knows {1}"),
        (NEWER_OPSET, "opset {0} of {1}, and onnxruntime {version} knows {2}"),
    ):
        newer = pattern.search(text)
        if newer is not None:
            return f"the model has {what.format(*newer.groups(), version=load().__version__)} at most: upgrade onnxruntime, or export the model for an older version."
    for noise in (CODE, TEMPLATE, SOURCE, THROWN):
        text = noise.sub("", text)
    text = " ".join(text.split()) or type(problem).__name__
    return text if len(text) <= 400 else text[:400].rsplit(" ", 1)[0] + " ..."


def options(*, threads: int | None = None, optimize: Optimize = "all", dims: Mapping[str, int] | None = None) -> Any:
    """SessionOptions: `threads` inside an operator (None: the runtime's default), optimization level, sizes for named free dimensions."""
    ort = load()
    settings = ort.SessionOptions()
    settings.log_severity_level = NO_LOG
    if threads is not None:
        settings.intra_op_num_threads = threads
    settings.graph_optimization_level = getattr(ort.GraphOptimizationLevel, LEVELS[optimize])
    for name, size in (dims or {}).items():
        settings.add_free_dimension_override_by_name(name, size)
    return settings


def create(model: str | bytes, settings: Any, providers: Sequence[tuple[str, dict[str, str]]]) -> Any:
    """An InferenceSession that never falls back to other providers. Raises one of `failures()`."""
    if isinstance(model, str):  # onnxruntime takes UTF-8, whatever the encoding of names of files is to Python
        model = os.fsencode(model).decode("utf-8", "surrogateescape")
    with native_output_to_stderr():
        if settings.has_providers():  # plugins were added to the options, and a list beside them is an error
            session = load().InferenceSession(model, settings, enable_fallback=0)
        else:
            session = load().InferenceSession(model, settings, providers=list(providers), enable_fallback=0)
    session._model_bytes = None  # held for a change of providers, which nobody asks for here
    return_memory()
    return session


@contextlib.contextmanager
def native_output_to_stderr() -> Iterator[None]:
    """What libraries print on file descriptor 1 goes to standard error: standard output may be a JSON document. (Qualcomm's emulator prints.)"""
    try:
        saved = os.dup(1)
    except OSError:  # no standard output at all
        yield
        return
    try:
        _flush()
        os.dup2(2, 1)
        yield
    finally:
        _flush()
        os.dup2(saved, 1)
        os.close(saved)


def return_memory() -> None:
    """Give memory that was freed back to the system: glibc keeps most of what a session held in its heap, where the next session does not find all of it again."""
    with contextlib.suppress(AttributeError, OSError, TypeError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)


def _flush() -> None:
    """Empty Python's and C's buffers, so that what was printed before goes where it was meant to go."""
    with contextlib.suppress(AttributeError, OSError, ValueError):
        sys.stdout.flush()
    with contextlib.suppress(OSError, TypeError, AttributeError):
        ctypes.CDLL(None).fflush(None)
