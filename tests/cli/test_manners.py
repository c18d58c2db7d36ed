"""How the commands behave: help, narrow terminals, typos, quiet, progress, the sentence that comes first."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

pty = pytest.importorskip("pty", reason="terminals of POSIX")

COMMANDS = ("compress", "simplify", "prune", "quantize", "distill", "validate", "benchmark", "inspect", "data", "lint")
BOX = re.compile(r"[━┏┳┓┃┡╇┩│└┴┘├┼┤─┌┬┐╭╮╰╯]+|\x1b\[[0-9;?]*[a-zA-Z]")


def on_a_terminal(columns: int, *arguments: str) -> str:
    """What a command line shows on a terminal of that width, boxes and colours aside."""
    master, slave = pty.openpty()
    environment = {**os.environ, "COLUMNS": str(columns), "TERM": "xterm"}
    process = subprocess.Popen([sys.executable, "-m", "graphcompress", *arguments], stdout=slave, stderr=slave, stdin=slave, env=environment)
    os.close(slave)
    content = b""
    while True:
        try:
            part = os.read(master, 65536)
        except OSError:  # the other side is closed
            break
        if not part:
            break
        content += part
    os.close(master)
    process.wait(timeout=60)
    return BOX.sub(" ", content.decode()).replace("\r", "")


@pytest.mark.parametrize("command", COMMANDS)
def test_help_names_no_types_has_groups_and_an_example_and_cuts_nothing(command: str, run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    pages = {}
    for width in (60, 200):
        monkeypatch.setenv("COLUMNS", str(width))
        pages[width] = run(command, "--help").out
        assert "<" not in pages[width] and "…" not in pages[width]
        assert "Example:\n" in pages[width] and f"graphcompress {command} " in pages[width] and "What is printed:\n" in pages[width]
    assert pages[60].split() == pages[200].split()
    assert all(len(line) <= 60 or " " not in line.strip() for line in pages[60].splitlines())


def test_examples_of_files_are_not_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever copies them off a narrow terminal gets the same lines; sentences beside them are broken."""
    from graphcompress.cli.wrap import wrapped

    monkeypatch.setenv("COLUMNS", "60")
    terminal = io.StringIO()
    monkeypatch.setattr(terminal, "isatty", lambda: True, raising=False)
    example = f'[text]\n# {"what it is " * 8}\ntokenizer = "/{"folder/" * 12}tokenizer.json"\ncolumns."a" = [{", ".join(["1"] * 40)}]'
    sentence = "A word after another. " * 8
    shown = wrapped(f"{sentence}\n{example}", terminal)
    assert shown.endswith(f"\n{example}") and all(len(line) <= 60 for line in shown.removesuffix(example).split("\n"))


@pytest.mark.parametrize(
    "arguments",
    [("inspect", "model.onnx"), ("simplify", "model.onnx", "-o", "out.onnx"), ("data", "model.onnx", "--data", "feeds.npz"), ("lint", "model.onnx")],
)
def test_at_60_columns_no_word_is_cut(place: Path, arguments: tuple[str, ...]) -> None:
    wide, narrow = on_a_terminal(200, *arguments), on_a_terminal(60, *arguments)
    words = set(wide.split()) | {word.strip(":") for word in wide.split()}
    assert {word for word in narrow.split() if word not in words and word.strip(":") not in words} == set()
    assert len(narrow.split()) > 20


def test_a_table_of_long_names_becomes_a_list(place: Path) -> None:
    model = onnx.load("model.onnx")
    model.graph.node[0].name = "/encoder/layers.0/self_attention/output/dense/a_rather_long_name/Conv"
    onnx.save(model, "long.onnx")
    assert model.graph.node[0].name in on_a_terminal(60, "inspect", "long.onnx").split()


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (("compress", "model.onnx", "-o", "o.onnx", "--int8"), "There is no option '--int8'. 'graphcompress compress --help'"),
        (("compress", "model.onnx", "-o", "o.onnx", "--min-agreemnt", "1"), "Did you mean '--min-agreement'?"),
        (("compress", "model.onnx", "small.onnx", "--data", "feeds.npz"), "the result's place is given with it, as in -o small.onnx"),
        (("compres", "model.onnx"), "Did you mean 'compress'?"),
        (("model.onnx",), "The command is missing before 'model.onnx'. Known: benchmark, calibrate, compress"),
    ],
)
def test_what_was_meant_is_guessed(place: Path, run: Any, arguments: tuple[str, ...], part: str) -> None:
    done = run(*arguments)
    assert done.status == 2 and part in done.err


@pytest.mark.parametrize(
    "arguments",
    [("simplify", "model.onnx", "-o", "out.onnx"), ("inspect", "model.onnx"), ("lint", "model.onnx"), ("data", "model.onnx", "--data", "feeds.npz")],
)
def test_quiet_prints_nothing_but_what_a_format_asks_for(place: Path, run: Any, arguments: tuple[str, ...]) -> None:
    done = run(*arguments, "-q")
    assert (done.status, done.out, done.err) == (0, "", "")
    assert run(*arguments, "-q", "--format", "json").json["format"] == 3


def test_the_outcome_comes_first_in_one_sentence(place: Path, run: Any) -> None:
    done = run("simplify", "model.onnx", "-o", "out.onnx")
    assert re.match(r"simplify: size unchanged\.|simplify: [\d.]+x smaller\.", done.out)
    again = run("simplify", "out.onnx", "-o", "again.onnx").out
    assert again.startswith("simplify: size unchanged.") and "1.00x" not in again and re.search(r"size .*unchanged", again)


def test_nodes_of_which_some_only_convert_and_the_processor_are_said(place: Path, run: Any) -> None:
    done = run("quantize", "model.onnx", "-o", "out.onnx", "--data", "feeds.npz", "--no-measure")
    count = sum(node.op_type in ("QuantizeLinear", "DequantizeLinear") for node in onnx.load("out.onnx").graph.node)
    assert count and f"of which {count} Q/DQ" in done.out
    assert re.search(r"^On .*, \d+ cores, (with|whose)", done.out, re.M)
    document = run("quantize", "model.onnx", "-o", "out.onnx", "--data", "feeds.npz", "--no-measure", "--format", "json").json
    assert document["machine"]["cores"] >= 1 and isinstance(document["machine"]["flags"], list)


def test_what_was_left_for_like_reasons_is_one_row(place: Path, run: Any) -> None:
    from rich.console import Console

    from graphcompress.cli.tables import record_tables
    from graphcompress.record import Record, RefusalReport

    record = Record.model_validate(run("quantize", "model.onnx", "-o", "out.onnx", "--data", "feeds.npz", "--no-measure", "--format", "json").json)
    alike = [RefusalReport(id="quantize/noise", reason=f"it has {n}% of the noise", node=f"mul{n}", count=1) for n in range(9, 0, -1)]
    other = RefusalReport(id="quantize/no-range", reason="no range is known", node="add", count=2)
    step = record.steps[0].model_copy(update={"refusals": [other, *alike]})
    console = Console(width=90, record=True, file=io.StringIO())
    for part in record_tables(record.model_copy(update={"steps": [step]})):
        console.print(part)
    rows = [line for line in console.export_text().splitlines() if "it has" in line or "no range" in line]
    assert [re.findall(r"[^│ ][^│]*[^│ ]|\d", row) for row in rows] == [["mul9", "it has 9% of the noise", "9"], ["add", "no range is known", "2"]]


def test_the_processor_in_words() -> None:
    from graphcompress.cli.tables import machine_text

    said = {flag: machine_text({"cpu": "a CPU", "cores": 2, "flags": ["avx2", flag]}) for flag in ("fma", "avx512_vnni", "amx_int8")}
    assert "without VNNI: INT8 gains less here" in said["fma"] and "with VNNI" in said["avx512_vnni"] and "with AMX" in said["amx_int8"]
    assert "dot products" in machine_text({"machine": "aarch64", "cores": 4, "flags": ["asimd", "asimddp"]})


def test_the_processor_is_told_where_models_run_on_it(place: Path, run: Any) -> None:
    from graphcompress.cli.tables import record_tables
    from graphcompress.record import Record

    record = Record.model_validate(run("quantize", "model.onnx", "-o", "out.onnx", "--data", "feeds.npz", "--no-measure", "--format", "json").json)
    assert record.machine is not None
    for provider, told in {"cpu": True, "openvino": True, "qnn": False, "tensorrt": False}.items():
        parts = record_tables(record.model_copy(update={"provider": provider, "machine": {"cpu": "a CPU", "cores": 2, "flags": ["avx2"]}}))
        assert any("without VNNI" in str(part) for part in parts) == told, provider


def test_one_bar_with_percent_and_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    from graphcompress.cli import console as module

    monkeypatch.setattr(module, "_terminal", lambda stream: True)
    with module.Console() as console:
        for what in ("calibrate", "compare"):
            for done in range(3):
                console.progress(what, done, 2)
        assert console._bars is not None
        (task,) = console._bars.tasks
        assert (task.description, task.percentage) == ("compare", 100)
        assert [type(column).__name__ for column in console._bars.columns] == ["TextColumn", "BarColumn", "TaskProgressColumn", "TimeRemainingColumn"]


def test_a_result_is_short_in_a_notebook(place: Path) -> None:
    import graphcompress

    result = graphcompress.quantize("model.onnx", {"x": np.load("feeds.npz")["x"]}, measure=False)
    assert repr(result).startswith("Result(quantize: ") and len(repr(result)) < 120 and "agreement" in repr(result)
    page = result._repr_html_()
    assert page.count("<tr>") == 5 and f"<td>{result.record.after.bytes:,}</td>" in page
    result.save("saved.onnx")
    assert onnx.load("saved.onnx").graph.output[0].name == "y"


def test_benchmark_tells_throughput_energy_and_cost(place: Path, run: Any) -> None:
    assert run("quantize", "model.onnx", "-o", "out.onnx", "--data", "feeds.npz", "--no-measure", "-q").status == 0
    done = run("benchmark", "model.onnx", "out.onnx", "--data", "feeds.npz", "--threads", "1", "--price-per-hour", "3.6", "--format", "json")
    first, second = done.json["models"]
    cores = done.json["machine"]["cores"]
    assert first["cost_per_million"] == pytest.approx(first["median_ms"] / cores) and second["joules_estimated"] < first["joules_estimated"]
    assert run("benchmark", "model.onnx", "--price-per-hour", "-1").status == 2
    from graphcompress.cli.tables import economy
    from graphcompress.record import BenchmarkRow

    row = BenchmarkRow.model_validate({**first, "joules": None})
    assert "energy not measured" in economy(row) and "estimated from MACs" in economy(row) and "per million at the stated price" in economy(row)
    assert "2 mJ each, measured" in economy(row.model_copy(update={"joules": 0.002}))


@pytest.mark.parametrize("words", [(), ("rules",), ("places",)])
def test_a_call_without_a_command_lists_them_in_one_paragraph(run: Any, words: tuple[str, ...]) -> None:
    done = run(*words)
    assert done.status == 2 and done.out == ""
    assert re.match(
        rf"graphcompress: The command is missing. Known: [a-z, ]+\. '{' '.join(('graphcompress', *words))} --help' shows how it is called.",
        " ".join(done.err.split()),
    )


def test_a_page_of_help_reads_the_options_of_no_command(monkeypatch: pytest.MonkeyPatch) -> None:
    """And all of them are there when they are asked for."""
    from graphcompress.cli import app, commands

    built: list[str] = []
    real = commands._built
    monkeypatch.setattr(commands, "_built", lambda name, part: built.append(name) or real(name, part))
    for words, needed in ((["--help"], []), (["--version"], []), (["rules", "--help"], ["rules"]), (["compress", "--help"], ["compress"]), (["nonsense"], [])):
        built.clear()
        app.run(words)
        assert built == needed
    root = app.root()
    assert {name: command.name for name, command in root.commands.items()} == {name: name for name in app.COMMANDS}


def test_where_the_time_of_a_run_went_is_one_line(place: Path, run: Any) -> None:
    """The whole is at least its parts, which are the steps of the record and the rest."""
    from types import SimpleNamespace

    from graphcompress.cli.tables import seconds_text

    steps: Any = [SimpleNamespace(use="simplify", seconds=2.0), SimpleNamespace(use="quantize", seconds=10.04), SimpleNamespace(use="store", seconds=0.02)]
    assert seconds_text(31.06, steps) == "Took 31.1 s: searching, comparing and measuring 19.0, quantize 10.0, simplify 2.0."
    assert seconds_text(1.0, steps[1:2]) == "Took 1.0 s: quantize 10.0."
    record = run("compress", "model.onnx", "-o", "out.onnx", "--data", "feeds.npz", "--no-measure", "--format", "json", "-q").json
    assert record["seconds"] >= sum(step["seconds"] for step in record["steps"]) > 0


def test_a_step_that_was_left_out_is_not_listed_as_applied(place: Path, run: Any) -> None:
    """The smallest file may be the one without INT8, which is then neither rolled back for a bar nor in the result."""
    done = run("compress", "model.onnx", "-o", "out.onnx", "--data", "feeds.npz", "--no-measure", "--goal", "size", "--record", "record.json")
    steps = {step["use"]: step for step in json.loads(Path("record.json").read_text())["steps"]}
    assert steps["quantize"]["changed"] and not steps["quantize"]["in_result"] and steps["quantize"]["applied"]
    assert steps["store"]["in_result"] and "store: " in done.out and "quantize/" not in done.out and "left out because" in " ".join(done.out.split())
