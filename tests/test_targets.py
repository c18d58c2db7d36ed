"""Target tables: strict, found wherever the package is installed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pydantic import ValidationError

from graphcompress import targets
from graphcompress.errors import TargetError
from graphcompress.targets import load_target, read_target, rules_root


def test_the_cpu_table_loads_under_its_file_name() -> None:
    table = load_target("cpu")
    assert table.name == "cpu"
    assert table.activation.codes == (0, 255)
    assert (table.weight.low, table.weight.high) == (-127, 127)
    assert [row.slots for row in table.rows("Conv")] == [("activation", "weight", "bias")]


def test_a_table_cannot_be_changed() -> None:
    table = load_target("cpu")
    with pytest.raises(ValidationError):
        table.provider = "other"  # type: ignore[misc]


def test_an_unknown_target_names_the_known_ones() -> None:
    with pytest.raises(TargetError, match=r"no target 'gpu-9000'.*cpu"):
        load_target("gpu-9000")


@pytest.mark.parametrize("name", ["../targets/cpu", "cpu.toml", ""])
def test_a_path_is_no_target_name(name: str) -> None:
    with pytest.raises(TargetError):
        load_target(name)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (("summary =", "sumary ="), "sumary"),
        (('op = "Conv"', 'op = "Conv"\nspeed = 3'), r"operator\.0\.speed"),
        (("axis = 0\n", ""), "axis"),
        (("symmetric = false", "symmetric ="), "cannot be read"),
        (('type = "uint8"', 'type = "uint7"'), r"activation\.type"),
        (("summary =", 'name = "x"\nsummary ='), "named after its file"),
        (("price = [{ float_ns = 0.2, ratio = 0.9 }]", "price = [{ below = { elements = 3 }, float_ns = 0.2, ratio = 0.9 }]"), "last `price`"),
        (('op = "MaxPool"', 'op = "MaxPool"\nabsorbs = ["Relu"]'), "tied row"),
        (("pair_limit = 128", "pair_limit = 126"), "pair_limit is 126, below the largest code"),
    ],
)
def test_a_faulty_table_is_an_error_with_file_and_place(tmp_path: Path, change: tuple[str, str], says: str) -> None:
    text = (rules_root() / "targets" / "cpu.toml").read_text()
    assert change[0] in text
    file = tmp_path / "mine.toml"
    file.write_text(text.replace(*change, 1))
    with pytest.raises(TargetError, match=rf"mine\.toml.*{says}") as caught:
        read_target(file)
    assert "\n" not in str(caught.value)


def test_the_rules_are_found_in_a_wheel_before_the_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "site" / "graphcompress"
    (package / "rules").mkdir(parents=True)
    (tmp_path / "site" / "rules").mkdir()
    monkeypatch.setattr(targets, "__file__", str(package / "targets.py"))
    assert rules_root() == package / "rules"
    (package / "rules").rmdir()
    assert rules_root() == tmp_path / "site" / "rules"
    (tmp_path / "site" / "rules").rmdir()
    with pytest.raises(TargetError, match=re.escape(str(package / "rules"))):
        rules_root()


def test_a_table_extends_another() -> None:
    every, exact = load_target("cpu"), load_target("cpu-vnni")
    assert exact.name == "cpu-vnni"
    assert (every.weight.pair_limit, exact.weight.pair_limit) == (128, 254)
    assert every.weight.high == exact.weight.high and every.operator == exact.operator


def test_a_table_need_not_have_the_layout_prices_of_the_one_that_it_extends(tmp_path: Path) -> None:
    (tmp_path / "base.toml").write_text((rules_root() / "targets" / "cpu.toml").read_text())
    inherits, without, wrong = (tmp_path / f"{name}.toml" for name in ("inherits", "without", "wrong"))
    for file, line in ((inherits, ""), (without, "layout = false\n"), (wrong, "layout = true\n")):
        file.write_text('extends = "base"\n' + line)
    assert read_target(inherits).layout
    assert not read_target(without).layout
    with pytest.raises(TargetError, match=r"wrong\.toml: layout"):
        read_target(wrong)


@pytest.mark.parametrize(("base", "reason"), [("nobody", "no such table"), ("loop", "no such table"), ("second", "extends another table itself")])
def test_what_cannot_be_extended(base: str, reason: str, tmp_path: Path) -> None:
    (tmp_path / "second.toml").write_text('extends = "third"\n')
    (tmp_path / "loop.toml").write_text(f'extends = "{base}"\n')
    with pytest.raises(TargetError, match=reason):
        read_target(tmp_path / "loop.toml")
