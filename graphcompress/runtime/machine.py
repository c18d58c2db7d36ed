"""What is known of the machine that a session runs on."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

# What decides which integer and float kernels are taken; the other flags tell nothing about speed or saturation.
TELLING = ("avx", "avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512_vnni", "avx_vnni", "avx_vnni_int8", "avx512_bf16", "amx_tile", "amx_int8", "amx_bf16",
           "asimd", "asimddp", "asimdhp", "fphp", "i8mm", "bf16", "sve", "sve2", "sme")  # fmt: skip


def cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cpu() -> tuple[str, tuple[str, ...]]:
    """The processor's name and the instruction sets among TELLING that it has; empty where the system does not say."""
    name, instruction_sets = "", set[str]()
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(errors="replace").splitlines():
            key, _, value = line.partition(":")
            match key.strip().lower():
                case "model name" | "cpu model":
                    name = name or value.strip()
                case "flags" | "features":
                    instruction_sets = instruction_sets or set(value.split())
    elif platform.system() == "Darwin":
        keys = ["machdep.cpu.brand_string", "machdep.cpu.features", "machdep.cpu.leaf7_features"]
        name, *rest = (_sysctl(k) for k in keys)
        instruction_sets = set(" ".join(rest).lower().split())
        if platform.machine() == "arm64":
            instruction_sets |= {"asimd", "asimddp", "fphp", "asimdhp"}
    if platform.machine().lower() not in ("x86_64", "amd64", "i386", "i686"):  # an emulator may show the processor that it runs on
        instruction_sets = {f for f in instruction_sets if not f.startswith(("avx", "amx"))}
    return name or platform.processor(), tuple(f for f in TELLING if f in instruction_sets)


def _sysctl(key: str) -> str:
    return subprocess.run(["/usr/sbin/sysctl", "-n", key], capture_output=True, text=True, check=False).stdout.strip()


def memory() -> int | None:
    """Bytes of memory that the machine has, None where the system does not say."""
    if not hasattr(os, "sysconf") or not {"SC_PAGE_SIZE", "SC_PHYS_PAGES"} <= set(os.sysconf_names):
        return None
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def describe() -> dict[str, Any]:
    """Architecture, system, processor, usable cores and telling flags, as JSON data."""
    name, flags = cpu()
    return {"machine": platform.machine(), "system": platform.system(), "cpu": name, "flags": list(flags), "cores": cores()}


def peak_memory() -> int:
    """Highest resident memory of this process so far, in bytes. On Linux not from getrusage: there a child begins with its parent's maximum."""
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    try:
        import resource
    except ImportError:  # Windows
        import psutil

        return int(getattr(psutil.Process().memory_info(), "peak_wset", 0))
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(most) * (1 if sys.platform == "darwin" else 1024)
