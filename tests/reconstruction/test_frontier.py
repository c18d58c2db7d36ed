"""Going through a model piece by piece: the values of a whole run, each node once, later weights as they are by then."""

from __future__ import annotations

import gc
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from graphcompress.ir import Model
from graphcompress.ir.files.text import parse_model
from graphcompress.ir.model.edit import Edits
from graphcompress.reconstruction import frontier as module
from graphcompress.reconstruction.frontier import Frontier
from graphcompress.reconstruction.store import Store
from graphcompress.runtime.evaluate import run_once

BRANCHES = """(float[n,4] x, float[n,4] late) => (float[n,4] y) <float[4] v = {1,2,3,4}, float[4] w = {2,0,1,5}> {
    a = Mul (x, v)
    b = Relu (a)
    c = Mul (b, w)
    d = Add (c, a)
    y = Add (d, late)
}"""
FUNCTION = (
    '<ir_version: 8, opset_import: ["" : 17, "f" : 1]> g '
    + BRANCHES.replace("Relu (a)", "f.rectified (a)")
    + """
<domain: "f", opset_import: ["" : 17]> rectified (p) => (q) { q = Relu (p) }"""
)
SUBGRAPH = BRANCHES.replace(
    "b = Relu (a)",
    "t = Constant <value: tensor = bool {1}> () b = If (t) <then_branch = f () => (float[n,4] p) { p = Relu (a) }, else_branch = e () => (float[n,4] q) { q = Neg (a) }>",
)


def feeds(count: int = 3) -> list[dict[str, np.ndarray]]:
    random = np.random.default_rng(0)
    return [{name: random.normal(0, 1, (2, 4)).astype(np.float32) for name in ("x", "late")} for _ in range(count)]


def tensors(model: Model, *names: str) -> list[Any]:
    known = {t.name: t for t in (*model.graph.inputs, *(t for n in model.graph.nodes for t in n.outputs))}
    return [known[name] for name in names]


STOPS = [("a",), ("x", "b"), ("b",), ("c", "a"), ("y",)]


@pytest.mark.parametrize("text", [BRANCHES, FUNCTION, SUBGRAPH], ids=["pieces", "function", "subgraph"])
@pytest.mark.parametrize("limit", [0, 100, 2**20])
def test_every_stop_has_the_values_of_a_whole_run(text: str, limit: int) -> None:
    model = parse_model(text)
    with Store(limit) as store:
        for stop, values in zip(STOPS, Frontier(model, [tensors(model, *stop) for stop in STOPS], feeds(), store), strict=True):
            for feed, arrays in zip(feeds(), values, strict=True):
                expected = run_once(model, feed, stop)
                for name, array in zip(stop, arrays, strict=True):
                    np.testing.assert_allclose(array, expected[name], rtol=1e-6, err_msg=name)


@pytest.mark.parametrize("text", [BRANCHES, SUBGRAPH], ids=["pieces", "subgraph"])
def test_a_weight_changed_at_its_stop_counts_from_there_on(text: str) -> None:
    model = parse_model(text)
    with Store() as store:
        for values in Frontier(model, [tensors(model, "b"), tensors(model, "y")], feeds(), store):
            arrays = [array for (array,) in values]
            with Edits(model) as edits:
                edits.set_value(model.graph.initializers["w"], np.array([7, 7, 7, 7], np.float32))
    for feed, array in zip(feeds(), arrays, strict=True):
        np.testing.assert_allclose(array, run_once(model, feed)["y"], rtol=1e-6)


def test_each_node_runs_once_for_each_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    pieces: list[list[str]] = []
    extract = module.extract

    def spy(model: Model, nodes: Any, *rest: Any) -> Any:
        pieces.append([n.outputs[0].name for n in nodes])
        return extract(model, nodes, *rest)

    monkeypatch.setattr(module, "extract", spy)
    model = parse_model(BRANCHES)
    with Store() as store:
        for values in Frontier(model, [tensors(model, *stop) for stop in STOPS], feeds(), store):
            assert len(list(values)) == 3
    assert pieces == [["a"], ["b"], ["c"], ["d", "y"]]


def test_what_nothing_reads_any_more_is_dropped() -> None:
    model = parse_model(BRANCHES)
    held: list[set[str]] = []
    with Store() as store:
        for values in Frontier(model, [tensors(model, *stop) for stop in STOPS], feeds(), store):
            list(values)
            held.append({name for name in "xabcdy" if (tensors(model, name)[0], 0) in store})
    assert held == [{"x", "a"}, {"a", "b"}, {"a", "b"}, {"a", "c"}, set()]


@pytest.mark.parametrize("limit", [0, 50, 10**6])
def test_a_store_gives_back_what_was_put(limit: int) -> None:
    arrays = [np.arange(i, i + 5.0).reshape(1, 5) for i in range(4)]
    with Store(limit) as store:
        for index, array in enumerate(arrays):
            store.put(index, array)
        store.drop(1)
        assert [index in store for index in range(4)] == [True, False, True, True]
        for index in (0, 2, 3):
            np.testing.assert_array_equal(store.get(index), arrays[index])
        with pytest.raises(KeyError):
            store.get(1)


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path


def test_a_store_holds_no_more_than_its_limit_in_memory_and_leaves_no_files(scratch: Path) -> None:
    with Store(100) as store:
        for index in range(3):
            store.put(index, np.zeros(10))  # 80 bytes each
        assert len(list(scratch.rglob("*.npy"))) == 2
        store.drop(0)
        store.put(3, np.zeros(10))
        assert len(list(scratch.rglob("*.npy"))) == 2
        store.drop(1)
        assert len(list(scratch.rglob("*.npy"))) == 1
    assert not list(scratch.iterdir())


def test_files_go_with_the_last_reference_to_a_store_that_nobody_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    store = Store(limit=0)
    store.put("a", np.arange(3))
    assert [len(list(folder.iterdir())) for folder in tmp_path.iterdir()] == [1]
    del store
    gc.collect()
    assert not list(tmp_path.iterdir())
