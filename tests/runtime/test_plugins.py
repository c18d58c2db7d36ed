"""Providers that come as packages of their own, and what native code prints."""

from __future__ import annotations

import os
from types import SimpleNamespace
from typing import Any

import pytest

from graphcompress.errors import RuntimeUnavailable
from graphcompress.runtime import ort, providers

DEVICE = SimpleNamespace(ep_name="FakeExecutionProvider")


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The packages that were registered; onnxruntime knows devices of the provider "fake" from then on."""
    packages: list[Any] = []
    monkeypatch.setattr(providers, "_devices", lambda name: [DEVICE, DEVICE] if packages and name == "fake" else [])
    monkeypatch.setattr(providers, "_plugin_module", lambda name: SimpleNamespace(__name__=f"package_of_{name}") if name in ("fake", "empty") else None)
    monkeypatch.setattr(providers, "_register", packages.append)
    monkeypatch.setattr(providers, "_plugin_options", lambda name: (("a", "b"),))
    return packages


def test_a_package_is_registered_once_and_its_first_device_is_taken(registered: list[Any]) -> None:
    for _ in range(2):
        found = providers.find("FakeExecutionProvider")
        assert found == providers.Provider("FakeExecutionProvider", (DEVICE,), (("a", "b"),)) and found.plugin
    assert [package.__name__ for package in registered] == ["package_of_fake"]


def test_a_package_without_a_device_is_named(registered: list[Any]) -> None:
    with pytest.raises(RuntimeUnavailable, match="package_of_empty is installed, but it finds no device for the provider 'empty'"):
        providers.find("empty")


def test_a_package_is_asked_for_the_backend_that_runs_integers(monkeypatch: pytest.MonkeyPatch) -> None:
    packages = {"qnn": SimpleNamespace(get_qnn_htp_path=lambda: "/lib/htp.so"), "other": SimpleNamespace()}
    monkeypatch.setattr(providers, "_plugin_module", packages.get)
    monkeypatch.setattr(providers, "_devices", lambda name: [DEVICE])
    assert providers.find("qnn").options == (("backend_path", "/lib/htp.so"),)
    assert providers.find("other").options == providers.find("absent").options == ()


def test_what_is_built_in_needs_no_package(registered: list[Any]) -> None:
    assert providers.find("cpu") == providers.Provider("CPUExecutionProvider") and registered == []


def test_output_goes_where_it_went_once_native_code_is_done(capfd: pytest.CaptureFixture[str]) -> None:
    for number in range(2):
        with ort.native_output_to_stderr():
            os.write(1, b"native\n")
            os.write(2, b"error\n")
        os.write(1, f"mine {number}\n".encode())
        os.write(2, b"note\n")
    told = capfd.readouterr()
    assert told.out == "mine 0\nmine 1\n" and told.err == "native\nerror\nnote\n" * 2


def test_output_goes_where_it_went_where_native_code_fails(capfd: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        with ort.native_output_to_stderr():
            os.write(1, b"native\n")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    os.write(1, b"mine\n")
    assert tuple(capfd.readouterr()) == ("mine\n", "native\n")
