"""The page that can be handed on: exact numbers, no script, nothing fetched, small, texts for pictures; the option and the command."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import onnx
import pytest

VOID = {"meta", "line", "rect"}


class Page(HTMLParser):
    """Text, tags and attributes; closing tags must match."""

    def __init__(self, content: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.feed(content)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


@pytest.fixture
def page(place: Path, run: Any) -> Page:
    """Of a quantized model with a name that is no HTML."""
    model = onnx.load("model.onnx")
    model.graph.node[0].name = "<script>alert(1)</script>"
    onnx.save(model, "model.onnx")
    done = run(
        "quantize",
        "model.onnx",
        "-o",
        "out.onnx",
        "--data",
        "feeds.npz",
        "--no-measure",
        "--exclude",
        "script",
        "--record",
        "record.json",
        "--report",
        "out.html",
        "-q",
    )
    assert done.status == 0, done.err
    return Page(Path("out.html").read_text(encoding="utf-8"))


def test_it_stands_alone(page: Page) -> None:
    content = Path("out.html").read_text(encoding="utf-8")
    assert len(content.encode()) < 300_000
    assert not {"script", "link", "img", "iframe"} & set(page.tags)
    assert not any(name.startswith("on") or name in ("src", "href") for name, _ in page.attributes)
    assert "http" not in content.replace("http://www.w3.org/2000/svg", "") and "url(" not in content
    assert "prefers-color-scheme: dark" in content and '<html lang="en">' in content
    assert page.tags.count("svg") == content.count('role="img"') == content.count("<desc>") > 2


def luminance(colour: str) -> float:
    """Relative, as WCAG 2.2 defines it."""
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_contrast(scheme: str) -> None:
    """Texts 4.5 to 1, what must be seen of pictures 3 to 1 (WCAG 2.2, 1.4.3 and 1.4.11), in both schemes; nothing of these has a colour of its own."""
    from graphcompress.api.html import STYLE

    blocks = re.findall(r":root \{(.*?)\}", STYLE)
    assert len(blocks) == 2
    colours = dict(re.findall(r"--(\w+): (#[0-9a-f]{6})", blocks[scheme == "dark"]))
    page = luminance(colours.pop("page"))
    ratios = {
        name: (max(page, luminance(c)) + 0.05) / (min(page, luminance(c)) + 0.05) for name, c in colours.items() if name != "line"
    }  # rules between rows are decoration
    assert {"text", "soft", "before", "after", "bad"} <= ratios.keys()
    assert {name: ratio for name, ratio in ratios.items() if ratio < (4.5 if name in ("text", "soft") else 3)} == {}
    rules = STYLE.partition("body {")[2]
    assert "#" not in rules and not re.search(r"(?:color|fill|stroke): (?!var\(--)[a-z]", rules)
    assert set(re.findall(r"(?:\bcolor|text[^{}]*\{ fill): var\(--(\w+)\)", rules)) == {"text", "soft"}
    assert not re.search(r"rect \{[^}]*var\(--line\)|\.edge \{[^}]*var\(--line\)", rules)


def test_headings_say_something_and_the_keyboard_reaches_what_scrolls(page: Page) -> None:
    content = Path("out.html").read_text(encoding="utf-8")
    assert "<th></th>" not in content and not re.search(r"<th[^>]*></th>", content)
    boxes = re.findall(r"<div class=wide([^>]*)>", content)
    assert len(boxes) == content.count("<table>") + content.count("<svg ") > 4
    assert all(re.fullmatch(r' tabindex="0" role="group" aria-label="[^"]+"', attributes) for attributes in boxes)
    assert "@media print" in content


def test_numbers_and_reasons_are_those_of_the_record(page: Page, run: Any) -> None:
    import json

    record = json.loads(Path("record.json").read_text())
    told = " ".join(page.words)
    for figure in (f"{record['before']['bytes']:,}", f"{record['after']['bytes']:,}", f"{record['comparison']['agreement']:.4f}", record["model"]["sha256"]):
        assert figure in told
    assert "<script>alert(1)</script>" in told and "it was excluded" in told
    assert "deep" in told and re.search(r"deep: [\d.]+ kB before, [\d.]+ kB after", told)


def test_the_command_makes_the_same_of_the_record(page: Page, run: Any) -> None:
    assert run("report", "record.json", "-o", "again.html", "-q").status == 0

    def without_times(path: str) -> str:
        return Path(path).read_text(encoding="utf-8").partition("<h2>Time by layer")[0]

    assert without_times("again.html") == without_times("out.html")
    Path("out.onnx").unlink()
    assert run("report", "record.json", "-o", "less.html", "-q").status == 0 and "Size by layer" not in Path("less.html").read_text()


def test_the_changed_regions_are_drawn_with_names_to_search_for(page: Page, run: Any) -> None:
    """Q and DQ between nodes that stay, and each look once."""
    told = " ".join(page.words)
    sides = [word for word in page.words if re.match(r"(before|after): ", word)]
    drawn = list(zip(sides[::2], sides[1::2], strict=True))
    assert ("before: Relu (same), Conv (same)", "after: Relu (same), QuantizeLinear (new), DequantizeLinear (new), Conv (same)") in drawn
    assert "by quantize. To search for: " in told and len(set(drawn)) == len(drawn) <= 6
    Path("out.onnx").unlink()
    assert run("report", "record.json", "-o", "less.html", "-q").status == 0 and "Where the graph changed" not in Path("less.html").read_text("utf-8")


def test_layers_are_told_apart_when_their_names_are_gone(place: Path, run: Any) -> None:
    """A stripped result: each layer still has bytes of its own afterwards, fewer than before, and few are left to 'all others'."""
    words = ("compress", "model.onnx", "-o", "bare.onnx", "--data", "feeds.npz", "--no-measure", "--strip", "--report", "bare.html", "-q")
    assert run(*words).status == 0
    (told,) = (word for word in Page(Path("bare.html").read_text(encoding="utf-8")).words if "kB before" in word and "deep" in word)
    sizes = {
        name: (float(before.replace(",", "")), float(after.replace(",", "")))
        for name, before, after in re.findall(r"(\w+): ([\d.,]+) kB before, ([\d.,]+) kB after", told)
    }
    assert "deep" in sizes and b"deep" not in Path("bare.onnx").read_bytes()
    assert all(0 < after < before for before, after in sizes.values() if before > 1)


def test_it_stays_small_whatever_the_record_holds(page: Page, run: Any) -> None:
    """Thousands of layers, outputs and notes, with long names that are all escapes: the first of them, and how many more there are."""
    import json

    record = json.loads(Path("record.json").read_text(encoding="utf-8"))
    long = '\u5c64/\u00e9<&>"\x07' * 60
    operators = next(step["certificate"]["operators"] for step in record["steps"] if step["certificate"])
    operators[:] = [{**operators[0], "node": f"{i}{long}{i}", "precision": "float", "reason": long} for i in range(5000)]
    output = next(iter(record["comparison"]["outputs"].values()))
    record["comparison"]["outputs"] = {f"{i}{long}{i}": output for i in range(3000)}
    record["notes"] = [f"{i}{long}" for i in range(2000)]
    Path("huge.json").write_text(json.dumps(record), encoding="utf-8")
    assert run("report", "huge.json", "-o", "huge.html", "-q").status == 0
    content = Path("huge.html").read_text(encoding="utf-8")
    assert len(content.encode()) < 300_000
    told = " ".join(Page(content).words)
    assert "And 4,940 more" in told and "And 2,940 more" in told and "And 1,960 more" in told


def test_validate_and_benchmark_have_one(place: Path, run: Any) -> None:
    assert run("validate", "model.onnx", "model.onnx", "--data", "feeds.npz", "--report", "v.html", "-q").status == 0
    assert "all bits equal" in " ".join(Page(Path("v.html").read_text()).words)
    document = run("validate", "model.onnx", "model.onnx", "--data", "feeds.npz", "--format", "json").out
    Path("v.json").write_text(document)
    assert run("report", "v.json", "-o", "w.html", "-q").status == 0 and Path("w.html").read_text() == Path("v.html").read_text()


def test_layer_bytes_follow_stored_codes_to_their_reader() -> None:
    import numpy as np
    from planted import Planted

    from graphcompress.api.report import layer_bytes
    from graphcompress.ir import model_from_proto

    p = Planted()
    stored = p.node("Mul", p.node("Cast", p.constant(np.ones((8, 8, 3, 3), np.int8)), to=1), p.constant(np.ones((8, 1, 1, 1), np.float32)))
    model = model_from_proto(p.model(p.node("Mul", p.node("Conv", p.input("x", 1, 8, 6, 6), stored, name="conv"), p.constant(np.float32(2)), name="twice")))
    assert layer_bytes(model) == {"conv": 8 * 8 * 9 + 32, "twice": 4}


@pytest.mark.parametrize(("text", "part"), [("{", "cannot be read"), ("{}", "is no record"), ('{"steps": 1}', "another version")])
def test_what_is_no_record_is_refused(place: Path, run: Any, text: str, part: str) -> None:
    Path("odd.json").write_text(text)
    done = run("report", "odd.json", "-o", "odd.html")
    assert done.status == 2 and part in done.err and not Path("odd.html").exists()
    assert "are both same.html" in run("simplify", "model.onnx", "-o", "same.html", "--report", "same.html").err
