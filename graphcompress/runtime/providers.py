"""Execution providers: names short or whole, built in or plugin, asked for and got.

Built-in providers belong to the installed onnxruntime package and are listed by it. A plugin is a package of its own beside onnxruntime, by convention
`onnxruntime_NAME` or `onnxruntime_ep_NAME` with `get_ep_name()` and `get_library_path()`: its library is registered, then its devices are chosen.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from graphcompress.errors import RuntimeUnavailable, UsageError
from graphcompress.runtime import ort

CPU = "CPUExecutionProvider"
SUFFIX = "ExecutionProvider"

# Where a provider comes from is knowledge that no onnxruntime has about the others. Names that are not here get the general sentence.
PACKAGES = {
    "cuda": "onnxruntime-gpu (graphcompress[gpu])",
    "tensorrt": "onnxruntime-gpu (graphcompress[gpu]) and TensorRT",
    "openvino": "onnxruntime-openvino (graphcompress[openvino])",
    "qnn": "onnxruntime-qnn beside onnxruntime (graphcompress[qnn])",
    "dml": "onnxruntime-directml (Windows)",
    "coreml": "onnxruntime on macOS (graphcompress[cpu])",
    "migraphx": "onnxruntime-migraphx (AMD)",
    "rocm": "onnxruntime-rocm (AMD)",
    "cann": "onnxruntime-cann (Huawei)",
    "webgpu": "onnxruntime-webgpu",
}
ALIASES = {"directml": "dml", "trt": "tensorrt"}


@dataclass(frozen=True, slots=True)
class Provider:
    """A provider that is there: its whole name, and its devices where it is a plugin."""

    name: str
    devices: tuple[Any, ...] = ()
    options: tuple[tuple[str, str], ...] = ()

    @property
    def plugin(self) -> bool:
        return bool(self.devices)


def short(name: str) -> str:
    """ "OpenVINOExecutionProvider" -> "openvino"."""
    lowered = name.strip().lower().removesuffix(SUFFIX.lower())
    return ALIASES.get(lowered, lowered)


def find(name: str) -> Provider:
    """The provider called `name`, short or whole, in any case.

    Raises UsageError for a name that nothing knows, RuntimeUnavailable naming the package for one that is not installed here.
    """
    runtime = ort.load()
    short_name = short(name)
    available = {short(n): n for n in runtime.get_available_providers()}
    devices = _devices(short_name)
    if short_name in available and not devices:
        return Provider(available[short_name])
    plugin = _plugin_module(short_name) if not devices else None
    if plugin is not None:
        _register(plugin)
        devices = _devices(short_name)
        if not devices:
            raise RuntimeUnavailable(f"The package {plugin.__name__} is installed, but it finds no device for the provider '{name}' on this machine.")
    if devices and short_name != short(CPU):
        return Provider(devices[0].ep_name, tuple(devices[:1]), _plugin_options(short_name))
    if short_name in available:
        return Provider(available[short_name])
    known = {short(n) for n in runtime.get_all_providers()} | set(PACKAGES)
    here = ", ".join(usable())
    if short_name not in known:
        raise UsageError(
            f"'{name}' is not an execution provider that onnxruntime knows. Usable here: {here}; known elsewhere: {', '.join(sorted(known - set(usable())))}."
        )
    package = f"Install {PACKAGES[short_name]}" if short_name in PACKAGES else "Install a build of onnxruntime that has it"
    raise RuntimeUnavailable(
        f"The provider '{name}' was asked for and is not in the onnxruntime of this environment ({runtime.__version__}: {here}). {package}, "
        "in an environment without another onnxruntime unless it is a plugin beside it."
    )


def usable() -> tuple[str, ...]:
    """Short names of the providers that can be asked for in this environment, the CPU first. Azure, which sends data away, is not one of them."""
    names = {short(n) for n in ort.load().get_available_providers()} - {"azure"}
    names |= {n for n in PACKAGES if n not in names and _plugin_spec(n) is not None}
    return tuple(sorted(names, key=lambda n: (n != "cpu", n)))


def builtin_options(name: str, threads: int | None) -> dict[str, str]:
    """Options of a built-in provider: OpenVINO runs on the CPU device with its own threads; the others keep their defaults."""
    if short(name) == "openvino":
        return {"device_type": "CPU"} | ({"num_of_threads": str(threads)} if threads else {})
    return {}


def chain(provider: Provider, threads: int | None) -> Sequence[tuple[str, dict[str, str]]]:
    """The list of providers for a session: the one asked for, then the CPU for what it does not take."""
    asked = [(provider.name, builtin_options(provider.name, threads))]
    return asked if provider.name == CPU else [*asked, (CPU, {})]


def _devices(provider: str) -> list[Any]:
    runtime = ort.load()
    if provider == short(CPU) or not hasattr(runtime, "get_ep_devices"):
        return []
    devices = [d for d in runtime.get_ep_devices() if short(d.ep_name) == provider]
    # A built-in provider may list devices too; it is still asked for by name.
    builtin = {short(n) for n in runtime.get_available_providers()} if _plugin_spec(provider) is None else set()
    return [] if provider in builtin else devices


def _plugin_spec(provider: str) -> str | None:
    for name in (f"onnxruntime_{provider}", f"onnxruntime_ep_{provider}"):
        if provider.isidentifier() and importlib.util.find_spec(name) is not None:
            return name
    return None


def _plugin_module(provider: str) -> Any | None:
    name = _plugin_spec(provider)
    if name is None:
        return None
    module = importlib.import_module(name)
    return module if hasattr(module, "get_library_path") and hasattr(module, "get_ep_name") else None


def _register(plugin: Any) -> None:
    runtime = ort.load()
    if not hasattr(runtime, "register_execution_provider_library"):
        raise RuntimeUnavailable(f"onnxruntime {runtime.__version__} takes no plugins, which {plugin.__name__} is: install onnxruntime 1.24 or newer.")
    try:
        with ort.native_output_to_stderr():
            runtime.register_execution_provider_library(plugin.get_ep_name(), plugin.get_library_path())
    except ort.failures() as problem:
        raise RuntimeUnavailable(
            f"The plugin {plugin.__name__} cannot be loaded: {ort.one_line(problem)}. Install versions of it and onnxruntime that fit together."
        ) from problem


def _plugin_options(provider: str) -> tuple[tuple[str, str], ...]:
    """Qualcomm's plugin wants the path of its backend; the HTP is the one that runs INT8 (an emulator on x86-64)."""
    module = _plugin_module(provider)
    if module is not None and hasattr(module, f"get_{provider}_htp_path"):
        return (("backend_path", getattr(module, f"get_{provider}_htp_path")()),)
    return ()


def refuse(asked: str, provider: Provider, got: Sequence[str]) -> None:
    """Raise RuntimeUnavailable: the session was made without the provider that was asked for."""
    package = PACKAGES.get(short(provider.name), "the package of this provider")
    raise RuntimeUnavailable(
        f"The provider '{asked}' was asked for, but onnxruntime made the session with {', '.join(got)} only: its libraries or its device are not usable here. "
        f"Check the installation of {package} and of the drivers it needs."
    )
