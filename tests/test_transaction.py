"""Files that appear together or not at all."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from graphcompress.errors import WriteError
from graphcompress.transaction import Staged, Transaction


def content(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir()}


def write(folder: Path, *names: str) -> None:
    with Transaction() as files:
        for name in names:
            files.add(folder / name, f"new {name}".encode())


def test_files_appear_at_the_end(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"old a")
    with Transaction() as files:
        files.add(tmp_path / "a", b"new a")
        files.add(tmp_path / "b", b"new b")
        assert (tmp_path / "a").read_bytes() == b"old a" and not (tmp_path / "b").exists()
    assert content(tmp_path) == {"a": b"new a", "b": b"new b"}


@pytest.mark.parametrize("problem", [ValueError, KeyboardInterrupt])
def test_nothing_appears_where_the_block_fails(tmp_path: Path, problem: type[BaseException]) -> None:
    (tmp_path / "a").write_bytes(b"old a")

    def fail() -> None:
        with Transaction() as files:
            files.add(tmp_path / "a", b"new a")
            with files.open(tmp_path / "b") as stream:
                stream.write(b"half")
                raise problem

    with pytest.raises(problem):
        fail()
    assert content(tmp_path) == {"a": b"old a"}


@pytest.mark.parametrize("links", ["links", "no links", "links that fail"])
@pytest.mark.parametrize("failing", ["a", "b", "c"])
def test_a_rename_that_fails_is_rolled_back(tmp_path: Path, failing: str, links: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in "ac":
        (tmp_path / name).write_bytes(f"old {name}".encode())
    before = content(tmp_path)
    replace = os.replace

    def sometimes(source: Path, target: Path) -> None:
        if Path(target).name == failing and str(source).endswith(".tmp"):
            raise OSError(28, "No space left on device")
        replace(source, target)

    def no_link(source: Path, target: Path) -> None:
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr(os, "replace", sometimes)
    if links == "no links":
        monkeypatch.delattr(os, "link")
    elif links == "links that fail":
        monkeypatch.setattr(os, "link", no_link)
    with pytest.raises(WriteError, match=rf"Cannot write .*{failing}: No space left"):
        write(tmp_path, "a", "b", "c")
    assert content(tmp_path) == before
    monkeypatch.setattr(os, "replace", replace)
    write(tmp_path, "a", "b", "c")
    assert content(tmp_path) == {n: f"new {n}".encode() for n in "abc"}


@pytest.mark.parametrize("damage", ["cut", "changed"])
def test_what_is_read_back_must_be_what_was_written(tmp_path: Path, damage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    finish = Staged.finish

    def damaged(self: Staged) -> None:
        self._file.flush()
        with open(self._path, "r+b") as file:
            if damage == "cut":
                file.truncate(3)
            else:
                file.write(b"#")
        finish(self)

    monkeypatch.setattr(Staged, "finish", damaged)
    with pytest.raises(WriteError, match="read back"):
        write(tmp_path, "a")
    assert content(tmp_path) == {}


@pytest.mark.skipif(os.name == "nt", reason="modes are POSIX's")
def test_modes(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"")
    (tmp_path / "a").chmod(0o640)
    mask = os.umask(0o027)
    try:
        write(tmp_path, "a", "b")
    finally:
        os.umask(mask)
    assert [stat.S_IMODE((tmp_path / n).stat().st_mode) for n in "ab"] == [0o640, 0o640]
    (tmp_path / "a").chmod(0o600)
    write(tmp_path, "a")
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o600


def test_long_names(tmp_path: Path) -> None:
    for name in ("o" * 255, "漢" * 85):
        write(tmp_path, name)
    assert len(content(tmp_path)) == 2


def test_the_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(WriteError, match=r"nowhere.*a: No such file"):
        write(tmp_path / "nowhere", "a")
