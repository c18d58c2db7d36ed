"""Recipes: named sequences of steps, as TOML files, and the runner that takes a model through one.

A recipe is a list of `[[step]]` tables. `use` names the step; every other key is one of the step's options:

    [[step]]
    use = "quantize"
    calibration = "percentile"

A name stands for a file of `rules/recipes/`; anything that ends in `.toml` or holds a path separator is a file of the user's. Reading a recipe checks every
step and option, and reports all faults at once. It loads neither onnx nor onnxruntime.
"""

from __future__ import annotations

import hashlib
import time
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from graphcompress.errors import ModelError, RecipeError, cause, shown, suggestion
from graphcompress.step import ExecutedStep, PlannedStep, StepKind

if TYPE_CHECKING:
    from graphcompress.ir import Model
    from graphcompress.step import Context


STEPS: Mapping[str, StepKind] = {
    kind.name: kind
    for kind in (
        StepKind("simplify", "graphcompress.passes.simplify.options:Options", "graphcompress.passes.simplify:simplify", "simplification", exact=True),
        StepKind("layout", "graphcompress.passes.layout.options:Options", "graphcompress.passes.layout:layout", "layout", exact=True),
        StepKind("prune", "graphcompress.passes.prune.options:Options", "graphcompress.passes.prune:prune", "pruning", stated=True),
        StepKind(
            "distill", "graphcompress.passes.distill.options:Options", "graphcompress.passes.distill:distill", "distillation", needs_data=True, teaches=True
        ),
        StepKind("quantize", "graphcompress.passes.quantize.options:Options", "graphcompress.passes.quantize:quantize", "quantization", needs_data=True),
        StepKind("products", "graphcompress.passes.quantize.options:ProductOptions", "graphcompress.passes.quantize:products", "integer products"),
        StepKind("store", "graphcompress.passes.store.options:Options", "graphcompress.passes.store:store", "storing weights small"),
        StepKind("strip", "graphcompress.passes.strip.options:Options", "graphcompress.passes.strip:strip", "stripping", exact=True),
    )
}


@dataclass(frozen=True, slots=True)
class Recipe:
    """A recipe that was read and checked. `name` is what it was asked for by; `sha256` is that of the file (of the step list where there is no file)."""

    name: str
    sha256: str
    steps: tuple[PlannedStep, ...]
    path: Path | None = None

    @property
    def needs_data(self) -> bool:
        """True where a step learns from data."""
        return any(step.kind.needs_data for step in self.steps)


def known_recipes() -> dict[str, Path]:
    """The recipes that are shipped: name -> file."""
    from graphcompress.targets import rules_root

    return {path.stem: path for path in sorted((rules_root() / "recipes").glob("*.toml"))}


def load_recipe(name: str | Path) -> Recipe:
    """Read a recipe by name or file.

    Raises RecipeError: no such recipe, no TOML, unknown step, unknown or wrong option (all faults of a file in one message, one line each).
    """
    path = _locate(name)
    try:
        raw = path.read_bytes()
        document = tomllib.loads(raw.decode())
    except OSError as error:
        raise RecipeError(f"{path}: the recipe cannot be read: {error.strerror}.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: not a TOML file: {cause(error)}.") from error
    return Recipe(shown(name), hashlib.sha256(raw).hexdigest(), _steps(path, document), path)


def single_step(use: str, options: Mapping[str, Any]) -> Recipe:
    """The recipe of one step, as `graphcompress simplify` and `graphcompress quantize` run it. Raises RecipeError on an option that the step does not take."""
    return recipe_of(use, ((use, options),))


def recipe_of(name: str, steps: Sequence[tuple[str, Mapping[str, Any]]]) -> Recipe:
    """A recipe that is in no file, as the command `name` runs it: (step, its options), in order. Raises RecipeError on an option that a step does not take."""
    faults: list[str] = []
    resolved = [_step(use, options, use, faults) for use, options in steps]
    if faults:
        raise RecipeError("; ".join(faults) + ".")
    known = tuple(step for step in resolved if step is not None)
    digest = hashlib.sha256(" ".join(f"{step.kind.name} {step.options.model_dump_json()}" for step in known).encode()).hexdigest()
    return Recipe(name, digest, known)


def excluding(recipe: Recipe, patterns: Sequence[str]) -> Recipe:
    """The recipe with nodes left float whose name one of the regular expressions matches, besides those that it leaves float itself. Raises RecipeError where no step quantizes."""
    steps = []
    for step in recipe.steps:
        own = step.options.model_dump()
        steps.append(replace(step, options=step.options.model_copy(update={"exclude": (*own["exclude"], *patterns)})) if step.kind.name == "quantize" else step)
    if not any(step.kind.name == "quantize" for step in steps):
        raise RecipeError(f"--exclude keeps nodes out of INT8, and no step of the recipe '{recipe.name}' quantizes.")
    digest = hashlib.sha256(" ".join([recipe.sha256, *patterns]).encode()).hexdigest()
    return replace(recipe, sha256=digest, steps=tuple(steps))


def stripped(recipe: Recipe) -> Recipe:
    """The recipe with a last step that leaves out names, notes and all that is said of the model as a whole."""
    last = recipe_of("strip", (("strip", {"metadata": True}),))
    digest = hashlib.sha256(f"{recipe.sha256} {last.sha256}".encode()).hexdigest()
    return replace(recipe, sha256=digest, steps=(*(step for step in recipe.steps if step.kind.name != "strip"), *last.steps))


def _locate(name: str | Path) -> Path:
    text = str(name)
    if isinstance(name, Path) or text.endswith(".toml") or "/" in text or "\\" in text:
        path = Path(name)
        if path.is_dir():
            raise RecipeError(f"{path} is a folder; a recipe is a TOML file, or a name of rules/recipes/.")
        if not path.exists():
            raise RecipeError(f"{path}: there is no such recipe file.")
        return path
    known = known_recipes()
    if text not in known:
        raise RecipeError(f"There is no recipe '{text}'. {suggestion(text, known)} A recipe of your own is given as a path, for instance ./{text}.toml.")
    return known[text]


def _steps(path: Path, document: Mapping[str, Any]) -> tuple[PlannedStep, ...]:
    faults = [f"unknown key '{key}' at the top. {suggestion(key, ('step',))}" for key in document if key != "step"]
    tables = document.get("step", [])
    steps: list[PlannedStep] = []
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        faults.append("'step' must be a list of tables, each begun by [[step]]")
    elif not tables:
        faults.append("no [[step]] in it, so there is nothing to do")
    else:
        for index, table in enumerate(tables, 1):
            use = table.get("use")
            if not isinstance(use, str):
                faults.append(f"step {index}: 'use' is missing or no string. {suggestion('', STEPS)}")
                continue
            step = _step(use, {key: value for key, value in table.items() if key != "use"}, f"step {index} ({use})", faults)
            if step is not None:
                steps.append(step)
    if faults:
        raise RecipeError(f"{path}: the recipe cannot be used:\n" + "\n".join(f"  {fault}" for fault in faults))
    return tuple(steps)


def _step(use: str, options: Mapping[str, Any], where: str, faults: list[str]) -> PlannedStep | None:
    """One checked step; None after adding what is wrong to `faults`."""
    kind = STEPS.get(use)
    if kind is None:
        faults.append(f"{where}: there is no step '{use}'. {suggestion(use, STEPS)}")
        return None
    model = kind.options_model()
    try:
        return PlannedStep(kind, model.model_validate(dict(options)))
    except ValidationError as error:
        for fault in error.errors(include_url=False):
            key = ".".join(str(part) for part in fault["loc"])
            if fault["type"] == "extra_forbidden":
                faults.append(f"{where}: unknown option '{key}'. {suggestion(key, model.model_fields)}")
            else:
                message = fault["msg"].removeprefix("Value error, ")
                faults.append(f"{where}: {key or 'options'}: {message}" + (f" (it is {fault['input']!r})" if key else ""))
        return None


def run(recipe: Recipe, model: Model, context: Context) -> Iterator[ExecutedStep]:
    """Take `model` through the steps, each at its boldest, yielding each as it is done: what a command does where nobody judges.

    Raises what the steps raise, and ModelError where a step changed the inputs or outputs of the model.
    """
    from graphcompress.runtime.machine import peak_memory

    signature = (model.inputs, model.outputs)
    for step in recipe.steps:
        begin = time.perf_counter()
        ladder = step.run(model, context)
        result = ladder.boldest
        context = replace(context, earlier=(*context.earlier, result))
        if (result.model.inputs, result.model.outputs) != signature:
            raise ModelError(f"The step '{step.kind.name}' changed the inputs or outputs of the model, which no step may do.")
        yield ExecutedStep(step, result, ladder.rungs[0].label, result.changed, time.perf_counter() - begin, peak_memory())
        model = result.model
