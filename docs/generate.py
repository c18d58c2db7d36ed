"""Write docs/formats.md from the pydantic models that define the formats, docs/rules.md from the rule files, docs/lint.md from the rules of the linter and docs/images/zoo.svg from the table of the README. `python docs/generate.py` writes them, `--check` ends with 1 where one is stale."""

from __future__ import annotations

import re
import sys
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from graphcompress import linter, record
from graphcompress.api import documents
from graphcompress.engine import load_rule, rule_files
from graphcompress.ir.schemas.operators import newest_opset
from graphcompress.recipe import STEPS, known_recipes
from graphcompress.targets import rules_root

TARGET = Path(__file__).resolve().parent / "formats.md"
LINT = TARGET.with_name("lint.md")
README = TARGET.parents[1] / "README.md"
PLOT = TARGET.parent / "images" / "zoo.svg"

LINT_INTRODUCTION = """# What `graphcompress lint` finds

<!-- Made by docs/generate.py from graphcompress/linter. Edit that, then run it. -->

`graphcompress lint MODEL...` looks at any ONNX files, quantized by whatever tool or not at all. The rules about Q and DQ are measured on onnxruntime 1.19 to 1.32, CPU provider. Status 1 where something of severity
error is found. `--select` and `--ignore` take ids or what stands before the slash, `--format json` and `--format sarif` are for machines, `--fix -o OUT` mends what can be mended without changing what the graph
computes (onnxruntime may compute it with other kernels afterwards: that is what it is for).

| id | severity | what | --fix |
|---|---|---|---|
"""
RULES = TARGET.with_name("rules.md")

RULES_INTRODUCTION = """# Rewrite rules

<!-- Made by docs/generate.py from rules/rewrite/. Edit those, then run it. -->

What `simplify` rewrites, by id. Each rule is a file of `rules/rewrite/` in ONNX's own text syntax; `graphcompress rules show ID` prints it with its examples, `rules why ID MODEL` says why it
does not hold in a model, `rules verify` holds rules against random graphs.

An **exact** rule gives the same bits. An **equivalent** one is equal in real arithmetic. An **approximate** one is off unless a recipe names it.
What a rule is **for**, where it was measured (`benchmarks/rules.py`): *speed*; *size*, where onnxruntime takes the same time without it, because it does the same when it loads a model; *int8*, where
integer kernels need it and floats do not gain.
Values that are **not finite** stay what they are, but for the rules that say otherwise: *overflow*, where a value between leaves the range of its type, before or after alone, because the rule has other values
formed between; *any*, also where infinities and NaN that come in meet, or do not meet, in other places.

"""

INTRODUCTION = """# Formats

<!-- Made by docs/generate.py from graphcompress/record/ and the options of the steps. Edit those, then run it. -->

Everything here is a contract: scripts may rely on it. `format` is the version of all documents; it rises when a field is removed or changes its meaning, not when one is added.

## Command line

Every command takes `--format json` and then prints exactly one JSON document on stdout, also where a bar was missed (status 1); after an error (status 2) stdout is empty.
Progress and notes go to stderr; with `-q` nothing is printed but errors, and the document where `--format` asks for one.

A result stands alone: OUT is one file that needs no other, also where MODEL has external data. From 2 GiB on, or with `--external-data`, its tensors of 1 KiB and more are in OUT.data beside
it, which the command and the record (`output_data`) name; the two belong together. An OUT.data that the model at OUT does not use is not overwritten: the command ends with 2 before the work.
OUT, OUT.data and the record appear together or not at all. From Python: `graphcompress.save(model, path, external_data=True)`.

| status | meaning |
|---|---|
| 0 | done, and every bar that was stated held |
| 1 | done, but a stated bar was not met (`--min-agreement`, `--min-speedup`): nothing is written unless `--keep`; a rule that `rules verify` found wrong |
| 2 | it could not be done: bad usage, bad file, missing data. One paragraph on stderr says what is wrong, where, and what to do |
| 130 | interrupted; nothing was written |

## Bars

`compress` holds a result against two bars: agreement, built in 0.99, and speed-up, built in 1 (never slower). `--min-agreement X` and `--min-speedup X` replace them, higher or lower.
A built-in and a stated bar mean the same and are compared in the same way:

- agreement (of the worst output, on the feeds that judge) >= bar, as numbers;
- speed-up >= bar with every thread setting, where equal within the interval is enough, and what is not proved slower counts as 1. Noise never rolls anything back. Where a machine is too busy to tell, a stated
  bar above 1 counts as missed, and the message says so.

Of alternatives among which the feeds that judge have to choose, the boldest is taken that is nearer to 1 than to the built-in bar, where there is one: what is chosen looks better on these feeds than on others.
What misses a bar is rolled back: alternatives of a step that are less bold (layers in float) are tried, then the step is left out, at worst all steps. Where a built-in bar is missed that
is the end of it, the status is 0, and `gate` in the record says what was rolled back and why. Where nothing reaches a stated bar the status is 1; what `--keep` writes is the fastest result that
is faithful and not slower. What so many inputs prove of others (`statement`) is a sentence about inputs, never compared with a bar. `quantize` rolls nothing back; `validate` and `benchmark` compare their bars
in the same way.

**Ratios** say how many times better: speed-up = time of the reference / time of the candidate, smaller = bytes of the reference / bytes of the candidate.
**Undefined** numbers (the SQNR of equal tensors) are `null`. **Hashes** are sha256 in hexadecimal. **Paths** are as they were given.

## Data

A folder of `.npz` files, one complete feed each, in the order of their names; or one `.npz` with arrays stacked along the first axis, cut by the model's fixed first dimension,
else one by one; a folder with one such file stands for it. Other forms, and the file that `--preprocess` names: [data.md](data.md). Keys are input names; other keys that begin with `_` are ground truth and are not fed. Nothing is ever unpickled. An array may be empty along a dimension that the
model leaves free (a cache at its first step), as long as not all arrays of a feed are.

Every 4th of the feeds that differ from one another is kept out of calibration and judges; below 8 such feeds all do both. **Findings** say what makes a judgement weak; they
have stable ids, and their sentences are among the notes. Those marked with * void the bound on other inputs.

| id | meaning |
|---|---|
| `data/not-held-out` * | calibrated and judged on the same feeds |
| `data/random` * | the feeds are random numbers |
| `data/identical` * | all feeds are equal |
| `data/repeated` | some feeds repeat others: they do not count in the bound |
| `data/converted` | integers were widened, floats converted to the model's float type, or a batch axis put in front |
| `data/not-fed` | files of the samples of tar files that are neither arrays nor pictures |
| `data/columns` | which columns of a table became an input |
| `data/constant` * | every feed holds one value per input |
| `data/constant-input` | a float input has the same value in all feeds |
| `data/perhaps-stacked` | a few files of a folder hold many rows each, and may be meant as stacked feeds |
| `compare/unstable-output` | the original differs from itself on the same input, so the output was not judged |
| `compare/constant-output` * | an output is the same for all feeds (* where all are) |
| `compare/one-class` | an output gives the same class for all inputs |
| `measure/busy` | other processes disturbed the measurement |

## Recipe

A TOML file with one `[[step]]` table per step. `use` names the step, all other keys are its options; unknown keys are refused. Shipped: RECIPES.

"""


def main() -> int:
    """Write the pages, or compare them with what would be written."""
    status = 0
    for target, text in ((TARGET, page()), (RULES, rules_page()), (LINT, lint_page()), (PLOT, plot(README.read_text(encoding="utf-8")))):
        if "--check" not in sys.argv[1:]:
            target.write_text(text, encoding="utf-8")
        elif not target.exists() or target.read_text(encoding="utf-8") != text:
            print(f"{target.name} is stale: run python docs/generate.py", file=sys.stderr)
            status = 1
    return status


def lint_page() -> str:
    """A section for each rule of `graphcompress lint`."""
    table = "".join(
        f"| [{rule.id}](#{rule.id.replace('/', '')}) | {rule.severity} | {rule.title} | {'yes' if rule.fix is not None else ''} |\n" for rule in linter.RULES
    )
    sections = "".join(
        f"\n## {rule.id}\n\n**{rule.title}** ({rule.severity}{', --fix mends it' if rule.fix is not None else ''})\n\n{rule.why}\n\n{rule.cure}\n"
        for rule in linter.RULES
    )
    return LINT_INTRODUCTION + table + sections


def rules_page() -> str:
    """Every rule: what it does, before and after, under which conditions."""
    parts = [RULES_INTRODUCTION]
    for path in rule_files(rules_root() / "rewrite"):
        rule = load_rule(path, rules_root() / "rewrite")
        marks = [rule.effect, f"opset {rule.opsets[0]} on" if rule.opsets[1] == newest_opset() else f"opset {rule.opsets[0]} to {rule.opsets[1]}"]
        marks += [f"target {rule.target}"] if rule.target else []
        marks += [f"for {rule.benefit}"] if rule.benefit else []
        marks += [f"not finite: {rule.nonfinite}"] if rule.nonfinite else []
        before, after = rule.texts
        parts.append(f"## {rule.id}\n\n{rule.summary}. ({', '.join(marks)})\n\n```\n{before}\n```\nbecomes\n```\n{after}\n```\n")
        if rule.optional:
            parts.append(f"May be absent: {', '.join(f'`{name}`' for name in sorted(rule.optional))}.\n")
        if rule.clauses:
            parts.append("Where " + ", ".join(f"`{clause.text}`" for clause in rule.clauses) + ".\n")
        if rule.lets:
            parts.append("With " + ", ".join(f"`{name} = {expression.text}`" for name, expression in rule.lets.items()) + ".\n")
        parts.append("\n")
    return "".join(parts).rstrip() + "\n"


def page() -> str:
    """The whole page."""
    parts = [INTRODUCTION.replace("RECIPES", ", ".join(f"`{name}`" for name in known_recipes()))]
    for name, kind in STEPS.items():
        model = kind.options_model()
        parts.append(f'### use = "{name}"\n\n')
        if model.__doc__:
            parts.append("".join(f"    {line}\n" for line in _lines(model.__doc__)) + "\n")
        parts.append(_fields(model, default=True))
    parts.append("## JSON documents\n\nFields marked (varies) hold times and what was decided from times; all others are equal for equal inputs.\n\n")
    seen: list[type[BaseModel]] = []
    for commands, model in (*record.DOCUMENTS, *documents.DOCUMENTS):
        parts.append(f"### {commands}\n\n{_paragraph(model)}\n\n{_fields(model)}")
        seen = list(dict.fromkeys([*seen, *_parts(model)]))
    parts.append("## Parts of the documents\n\n")
    for part in seen:
        parts.append(f"### {part.__name__}\n\n{_paragraph(part)}\n\n{_fields(part)}")
    return "".join(parts).rstrip() + "\n"


def _fields(model: type[BaseModel], *, default: bool = False) -> str:
    head = "| option | type | default | |\n|---|---|---|---|\n" if default else "| field | type | |\n|---|---|---|\n"
    rows = ""
    for name, field in model.model_fields.items():
        cells = [f"`{name}`", _type(field.annotation)]
        if default:
            cells.append(f"`{field.get_default(call_default_factory=True)!r}`")
        cells.append(_text(field))
        rows += "| " + " | ".join(cells) + " |\n"
    return head + rows + "\n"


def _text(field: FieldInfo) -> str:
    extra = field.json_schema_extra
    varies = "(varies) " if isinstance(extra, dict) and extra.get("varies") else ""
    return (varies + " ".join((field.description or "").split())).strip()


def _type(annotation: Any) -> str:
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return _type(arguments[0])
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_type(argument) for argument in arguments)
    if origin is typing.Literal:
        return " or ".join(f'"{argument}"' for argument in arguments)
    if origin is list:
        return f"list of {_type(arguments[0])}"
    if origin is tuple:
        return f"list of {_type(arguments[0])}" if arguments[-1] is Ellipsis else "[" + ", ".join(_type(argument) for argument in arguments) + "]"
    if origin is dict:
        return f"object: name to {_type(arguments[1])}"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return f"[{annotation.__name__}](#{annotation.__name__.lower()})"
    return {type(None): "null", str: "string", int: "integer", float: "number", bool: "true or false", Any: "any"}.get(annotation, str(annotation))


def _parts(model: type[BaseModel]) -> Iterator[type[BaseModel]]:
    """The documents inside a document, in the order of the fields, at every depth."""
    for field in model.model_fields.values():
        yield from _inside(field.annotation)


def _inside(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
        yield from _parts(annotation)
    for argument in typing.get_args(annotation):
        yield from _inside(argument)


def _paragraph(model: type[BaseModel]) -> str:
    return " ".join((model.__doc__ or "").split())


def _lines(text: str) -> list[str]:
    import inspect

    return inspect.cleandoc(text).splitlines()


def plot(readme: str) -> str:
    """The README's table of tasks as a picture: each result's size as a part of the original's, and its fidelity beside the bar of the task."""
    rows = re.findall(r"^\| (\w+) \| [^|]+ \| ([\d.]+), ([\d.]+) \| ([\d.]+)x \|", readme, re.MULTILINE)
    left, width, step = 170, 300, 24
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" viewBox="0 0 760 {step * len(rows) + 34}" font-family="system-ui, sans-serif" font-size="13">',
        "<title>Size of each compressed model beside its original</title>",
        f"<desc>{'; '.join(f'{task}: {smaller}x smaller, fidelity {fidelity}' for task, fidelity, _, smaller in rows)}</desc>",
        "<style>text { fill: #1a1a1a } .whole { fill: #c9ced6 } .part { fill: #1f6feb } @media (prefers-color-scheme: dark) { text { fill: #e6e6e6 } .whole { fill: #3a404a } .part { fill: #6ea8fe } }</style>",
    ]
    for index, (task, fidelity, bar, smaller) in enumerate(rows):
        y = step * index + 8
        lines += [
            f'<text x="{left - 8}" y="{y + 12}" text-anchor="end">{task}</text>',
            f'<rect class="whole" x="{left}" y="{y}" width="{width}" height="15"/>',
            f'<rect class="part" x="{left}" y="{y}" width="{width / float(smaller):.1f}" height="15"/>',
            f'<text x="{left + width + 10}" y="{y + 12}">{smaller}x smaller, fidelity {fidelity} (bar {bar})</text>',
        ]
    lines.append(f'<text x="{left}" y="{step * len(rows) + 26}">grey: the original file, blue: the result</text>')
    return "\n".join([*lines, "</svg>"]) + "\n"


if __name__ == "__main__":
    sys.exit(main())
