"""What is known of the machine and of this process."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import psutil
import pytest

from graphcompress.runtime import machine


def test_peak_memory_of_this_process_is_at_least_what_it_holds() -> None:
    assert machine.peak_memory() >= psutil.Process().memory_info().rss // 2


def test_peak_memory_where_there_is_neither_proc_nor_resource(monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows."""
    monkeypatch.setattr(machine, "Path", lambda _: SimpleNamespace(exists=lambda: False))
    monkeypatch.setitem(sys.modules, "resource", None)
    monkeypatch.setattr(psutil, "Process", lambda: SimpleNamespace(memory_info=lambda: SimpleNamespace(peak_wset=5)))
    assert machine.peak_memory() == 5
