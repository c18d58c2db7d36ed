"""Recipes: read strictly, all faults at once; the runner keeps the signature."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from graphcompress.errors import ModelError, RecipeError
from graphcompress.recipe import STEPS, Recipe, known_recipes, load_recipe, run, single_step
from graphcompress.step import Context, Ladder, StepResult


def recipe(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "mine.toml"
    path.write_text(text)
    return path


def test_default_simplifies_then_quantizes_then_stores_small_what_is_float() -> None:
    assert [step.kind.name for step in load_recipe("default").steps] == ["simplify", "prune", "layout", "quantize", "store"]
    assert load_recipe("default").needs_data


def test_every_shipped_recipe_can_be_used() -> None:
    assert "default" in known_recipes()
    for name in known_recipes():
        assert load_recipe(name).steps


def test_options_are_resolved(tmp_path: Path) -> None:
    step = load_recipe(recipe(tmp_path, '[[step]]\nuse = "quantize"\ncalibration = "mse"\n')).steps[0]
    dumped = step.options.model_dump()
    assert dumped["calibration"] == "mse"
    assert dumped.keys() == STEPS["quantize"].options_model().model_fields.keys()


def test_all_faults_come_in_one_message_with_suggestions(tmp_path: Path) -> None:
    path = recipe(
        tmp_path, 'steps = 1\n[[step]]\nuse = "quantise"\n[[step]]\nuse = "quantize"\ncalibraton = "mse"\n[[step]]\nuse = "quantize"\ncalibration = "best"\n'
    )
    with pytest.raises(RecipeError) as caught:
        load_recipe(path)
    lines = str(caught.value).splitlines()
    assert lines[0] == f"{path}: the recipe cannot be used:"
    assert "unknown key 'steps' at the top. Did you mean 'step'?" in lines[1]
    assert "step 1 (quantise): there is no step 'quantise'. Did you mean 'quantize'?" in lines[2]
    assert "step 2 (quantize): unknown option 'calibraton'. Did you mean 'calibration'?" in lines[3]
    assert "step 3 (quantize): calibration:" in lines[4] and "'best'" in lines[4]
    assert len(lines) == 5


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "nothing to do"),
        ("[[step]]\n", "step 1: 'use' is missing"),
        ("step = 3\n", "list of tables"),
        ("[[step]\n", "not a TOML file"),
        ("step = [1]\n", "list of tables"),
    ],
)
def test_a_file_that_is_no_recipe(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(RecipeError, match=says):
        load_recipe(recipe(tmp_path, text))


def test_names_that_match_nothing(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="Did you mean 'default'"):
        load_recipe("defalt")
    with pytest.raises(RecipeError, match="no such recipe file"):
        load_recipe(tmp_path / "absent.toml")
    with pytest.raises(RecipeError, match="is a folder"):
        load_recipe(tmp_path)


def test_a_file_that_is_not_text(tmp_path: Path) -> None:
    path = tmp_path / "x.toml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RecipeError, match="not a TOML file"):
        load_recipe(path)


def test_the_hash_is_that_of_what_is_done(tmp_path: Path) -> None:
    assert (
        single_step("quantize", {}).sha256
        == single_step("quantize", {"calibration": single_step("quantize", {}).steps[0].options.model_dump()["calibration"]}).sha256
    )
    assert single_step("quantize", {}).sha256 != single_step("quantize", {"calibration": "mse"}).sha256


def planned(*names: str, broken: str = "") -> Recipe:
    """A recipe of steps that append their name to the model's history; the one called `broken` also changes the outputs."""

    def step(name: str) -> Any:
        def ladder(model: Any, context: Context) -> Ladder:
            outputs = ("other",) if name == broken else model.outputs
            return Ladder.single(StepResult(SimpleNamespace(inputs=model.inputs, outputs=outputs, history=(*model.history, name)), True), "all")  # type: ignore[arg-type]

        return SimpleNamespace(kind=SimpleNamespace(name=name), run=ladder)

    return Recipe("test", "0", tuple(map(step, names)))


def test_each_step_gets_what_the_one_before_made() -> None:
    model: Any = SimpleNamespace(inputs=("x",), outputs=("y",), history=())
    executed = list(run(planned("a", "b"), model, Context()))
    assert [e.result.model.history for e in executed] == [("a",), ("a", "b")]  # type: ignore[union-attr, attr-defined]
    assert all(e.seconds >= 0 and e.peak_memory_bytes and e.in_result and e.rung == "all" for e in executed)


def test_a_step_that_changes_the_signature_is_stopped() -> None:
    model: Any = SimpleNamespace(inputs=("x",), outputs=("y",), history=())
    with pytest.raises(ModelError, match="'b' changed the inputs or outputs"):
        list(run(planned("a", "b", broken="b"), model, Context()))
