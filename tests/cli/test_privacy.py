"""What a file tells, and what --strip leaves of it: no path, user name or note, the interface and the results as they were."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime

SECRET = "/home/someone/secret-project/train.py"


def noted() -> onnx.ModelProto:
    """Notes wherever the format has room for them."""
    model = onnx.load("model.onnx")
    graph = model.graph
    model.doc_string = model.producer_version = model.domain = graph.doc_string = SECRET
    model.producer_name = "someone@example.com"
    model.metadata_props.add(key="command", value=f"python {SECRET} s3://bucket/patients")
    graph.metadata_props.add(key="source", value=SECRET)
    graph.name = "/home/someone/graph"
    for node in graph.node:
        node.name = f"/home/someone/{node.name}"
        node.doc_string = f'File "{SECRET}", line 3'
        node.metadata_props.add(key="trace", value=SECRET)
    for info in (*graph.input, *graph.output):
        info.doc_string = SECRET
        info.metadata_props.add(key="from", value=SECRET)
    for tensor in graph.initializer:
        tensor.doc_string = SECRET
        tensor.metadata_props.add(key="from", value=SECRET)
    graph.value_info.append(onnx.helper.make_tensor_value_info("c", 1, ["batch", 32, 16, 16], doc_string=SECRET))
    onnx.save(model, "noted.onnx")
    return model


def test_privacy_lists_texts_by_kind_and_what_looks_private(place: Path, run: Any) -> None:
    model = noted()
    document = run("inspect", "noted.onnx", "--privacy", "--format", "json").json
    kinds = {kind["kind"]: kind for kind in document["kinds"]}
    assert {"doc strings", "metadata", "producer", "node names", "tensor names", "graph names", "names of sizes"} <= set(kinds)
    assert kinds["node names"]["count"] == len(model.graph.node) and kinds["node names"]["bytes"] == sum(len(node.name) for node in model.graph.node)
    found = {(leak["what"], leak["part"], leak["kind"]) for leak in document["leaks"]}
    assert {
        ("path", SECRET, "metadata"),
        ("path", SECRET, "doc strings"),
        ("user name", "someone", "node names"),
        ("mail address", "someone@example.com", "producer"),
    } <= found
    assert ("address", "s3://bucket/patients", "metadata") in found and any(what == "data set" for what, _, _ in found)
    assert "look private" in run("inspect", "noted.onnx", "--privacy").out
    clean = run("inspect", "model.onnx", "--privacy", "--format", "json").json
    assert clean["leaks"] == [] and clean["samples"] == []


def test_strip_leaves_nothing_private_and_accounts_for_what_went(place: Path, run: Any) -> None:
    noted()
    common = ("--data", "feeds.npz", "--no-measure", "--threads", "1", "-q")
    assert run("compress", "noted.onnx", "-o", "plain.onnx", *common).status == 0
    assert run("compress", "noted.onnx", "-o", "bare.onnx", "--strip", "--record", "record.json", *common).status == 0
    content = Path("bare.onnx").read_bytes()
    assert all(part not in content for part in (b"someone", b"/home", b"secret", b"train.py", b"bucket"))
    assert b"someone" in Path("plain.onnx").read_bytes()
    step = json.loads(Path("record.json").read_text())["steps"][-1]
    gone = step["decisions"]["removed_bytes"]
    assert (
        step["use"] == "strip" and step["in_result"] and gone["producer"] == len("someone@example.com") + 2 * len(SECRET) and gone["doc strings"] > len(SECRET)
    )
    plain, bare = (onnxruntime.InferenceSession(name, providers=["CPUExecutionProvider"]) for name in ("plain.onnx", "bare.onnx"))
    assert [(i.name, i.shape, i.type) for i in (*bare.get_inputs(), *bare.get_outputs())] == [
        (i.name, i.shape, i.type) for i in (*plain.get_inputs(), *plain.get_outputs())
    ]
    feed = {"x": np.load("feeds.npz")["x"][:4]}
    np.testing.assert_array_equal(bare.run(None, feed)[0], plain.run(None, feed)[0])


def test_exclude_keeps_a_layer_float_in_compress(place: Path, run: Any) -> None:
    done = run("compress", "model.onnx", "-o", "out.onnx", "--data", "feeds.npz", "--no-measure", "--exclude", "^deep$", "--format", "json", "-q")
    operators = next(step for step in done.json["steps"] if step["use"] == "quantize")["certificate"]["operators"]
    assert next(o["reason"] for o in operators if o["node"] == "deep") == "it was excluded"
    Path("simple.toml").write_text('[[step]]\nuse = "simplify"\n')
    assert "no step of the recipe" in run("compress", "model.onnx", "-o", "out.onnx", "--recipe", "./simple.toml", "--exclude", "x").err


def test_nothing_but_the_formats_words_is_left_out_of_the_list(place: Path) -> None:
    """Every text that `noted` plants is among the texts."""
    from graphcompress.ir import load
    from graphcompress.ir.analysis.privacy import texts

    planted = noted().SerializeToString().count(SECRET.encode())
    assert sum(text.value.count(SECRET) for text in texts(load("noted.onnx"))) == planted
