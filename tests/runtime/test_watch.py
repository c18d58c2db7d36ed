"""Looking into graphs: each tensor's values, in groups that stay small."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import numpy_helper, parser

from graphcompress import ir
from graphcompress.errors import ModelError
from graphcompress.ir.model.edit import Edits
from graphcompress.ir.model.scopes import tensor_homes
from graphcompress.runtime import session, watch
from graphcompress.runtime.evaluate import run_once
from graphcompress.runtime.profile import optimized_model
from graphcompress.runtime.watch import Watch

ModelOf = Callable[..., ir.Model]
CHAIN = "g (float[n] x) => (float[n] d) { a = Neg(x) b = Exp(a) c = Add(a, b) d = Mul(c, x) }"


def feeds(count: int) -> list[dict[str, np.ndarray]]:
    return [{"x": np.arange(1, 2 + i, dtype=np.float32)} for i in range(count)]


def tensors(model: ir.Model, names: Iterable[str]) -> list[ir.Tensor]:
    """Tensors by name, in the order of the names; of the main graph, else the only one of that name."""
    homes = tensor_homes(model)
    return [max((t for t in homes if t.name == name), key=lambda t: homes[t] is model.graph) for name in names]


def observe(model: ir.Model, names: Iterable[str], given: Iterable[dict[str, np.ndarray]], **how: int) -> Iterator[dict[str, np.ndarray]]:
    for values in Watch(model, tensors(model, names)).run(given, **how):  # type: ignore[arg-type]
        yield {t.name: v for t, v in values.items()}


def truth(feed: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    x = feed["x"]
    a = -x
    b = np.exp(a)
    return {"x": x, "a": a, "b": b, "c": a + b, "d": (a + b) * x}


def test_ragged_feeds_give_one_dict_each(model_of: ModelOf) -> None:
    found = list(observe(model_of(CHAIN), ["b", "a", "x", "d"], feeds(4)))
    assert len(found) == 4
    for feed, values in zip(feeds(4), found, strict=True):
        for name, value in values.items():
            np.testing.assert_allclose(value, truth(feed)[name], rtol=1e-6)


@given(budget=st.integers(0, 200), names=st.lists(st.sampled_from("xabcd"), min_size=1), count=st.integers(0, 4))
def test_every_pair_comes_once_whatever_the_budget(budget: int, names: list[str], count: int) -> None:
    model = ir.model_from_proto(parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]>\n{CHAIN}'))
    seen: dict[str, list[np.ndarray]] = {}
    for values in observe(model, names, feeds(count), budget=budget):
        for name, value in values.items():
            seen.setdefault(name, []).append(value)
    assert set(seen) == (set(names) if count else set())
    for name, values in seen.items():
        assert len(values) == count
        for feed, value in zip(feeds(count), values, strict=True):
            np.testing.assert_allclose(value, truth(feed)[name], rtol=1e-6)


def test_groups_keep_to_the_budget(model_of: ModelOf, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    real = session.LocalSession.run

    def run(self: session.LocalSession, feed: session.Feed, names: list[str] | None = None) -> dict[str, object]:
        made = real(self, feed, names)
        asked.append(sum(np.asarray(v).nbytes for v in made.values()))
        return made

    monkeypatch.setattr(session.LocalSession, "run", run)
    list(observe(model_of(CHAIN), list("abcd"), [{"x": np.ones(1000, np.float32)}], budget=17_000))
    assert max(asked) <= 17_000 and len(asked) == 1 + 2  # the shapes, then two groups of two tensors


def test_known_sizes_need_no_run_of_their_own(model_of: ModelOf, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[int] = []
    real = watch.LocalSession

    def counted(*args: object, **more: object) -> object:
        opened.append(1)
        return real(*args, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(watch, "LocalSession", counted)
    model = model_of(CHAIN)
    watched = tensors(model, "abcd")
    for sizes, sessions in (({}, 2), (dict.fromkeys(watched, 4), 1)):
        opened.clear()
        list(Watch(model, watched).run(feeds(2), sizes=sizes))
        assert len(opened) == sessions


def test_nothing_is_kept_between_feeds(model_of: ModelOf) -> None:
    """The next feed is not read before the values of the last one were handed out."""
    log: list[str] = []

    class Source:
        def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
            for i, feed in enumerate(feeds(3)):
                log.append(f"read {i}")
                yield feed

    for i, _ in enumerate(observe(model_of(CHAIN), ["a"], Source())):
        log.append(f"used {i}")
    assert log == ["read 0", "read 0", "used 0", "read 1", "used 1", "read 2", "used 2"]  # the first for the shapes


def test_sequences_are_observed_too(model_of: ModelOf) -> None:
    model = model_of("g (float[n] x) => (float[n] y) { s = SequenceConstruct(x, x) i = Constant<value = int64 {0}>() y = SequenceAt(s, i) }")
    (found,) = observe(model, ["s", "y"], feeds(1))
    assert len(found["s"]) == 2 and found["y"].tolist() == [1]


def test_constants_and_other_types(model_of: ModelOf) -> None:
    model = model_of("g (float[n] x) => (float[n] y) <float[1] c = {3}> { m = Greater(x, c) k = Cast<to = 1>(m) y = Add(k, c) }")
    (found,) = observe(model, ["m", "c"], [{"x": np.float32([1, 5])}])
    assert found["m"].tolist() == [False, True] and found["c"].tolist() == [3]


BODIES = """g (bool p, float[n] x, int64 k, bool go, float[3,2] rows) => (float[n] y, float[m] w, float[3,2] z) {
    y = If (p) <then_branch = t () => (float[n] a) { a = Neg (x) same = Exp (a) }, else_branch = e () => (float[n] b) { same = Abs (x) b = Identity (same) }>
    w = Loop (k, go, x) <body = l (int64 i, bool c, float[m] s) => (bool c2, float[o] s2) {
        c2 = Identity (c) s2 = Concat <axis = 0> (s, x)
        inner = If (p) <then_branch = t2 () => (float[q] f) { f = Neg (s) }, else_branch = e2 () => (float[q] h) { h = Abs (s) }>
    }>
    z = Scan (rows) <num_scan_inputs = 1, body = r (float[2] row) => (float[2] out) { twice = Add (row, row) out = Neg (twice) }>
}"""


def bodies_feed(taken: bool, iterations: int = 2) -> dict[str, np.ndarray]:
    rows = np.arange(6, dtype=np.float32).reshape(3, 2)
    return {"p": np.array(taken), "x": np.float32([1, 2]), "k": np.array(iterations), "go": np.array(True), "rows": rows}


@pytest.mark.parametrize("taken", [True, False])
def test_tensors_of_branches_and_bodies(taken: bool, model_of: ModelOf) -> None:
    model = model_of(BODIES)
    watched = [t for t, home in tensor_homes(model).items() if t.name in ("same", "a", "s", "s2", "f", "twice", "y")]
    assert len(watched) == 8
    (seen,) = Watch(model, watched).run([bodies_feed(taken)])
    values = {t.name: value for t, value in seen.items() if t.name != "same"}
    assert values["s"].tolist() == [1, 2, 1, 2, 1, 2] and values["s2"].size == 4 + 6  # both iterations, though of unequal size
    assert values["twice"].ravel().tolist() == [0, 2, 4, 6, 8, 10]
    assert values["a"].tolist() == ([-1, -2] if taken else [])
    assert values["f"].size == (6 if taken else 0)
    both = sorted(v.tolist() for t, v in seen.items() if t.name == "same")
    assert both == ([[], pytest.approx([np.exp(-1), np.exp(-2)])] if taken else [[], [1, 2]])
    np.testing.assert_array_equal(values["y"], run_once(model, bodies_feed(taken), ["y"])["y"])


def test_a_loop_without_iterations_hands_out_nothing(model_of: ModelOf) -> None:
    model = model_of(BODIES)
    (seen,) = observe(model, ["s2"], [bodies_feed(True, 0)])
    assert seen["s2"].size == 0


def test_what_cannot_be_handed_out_is_said_and_the_rest_is_watched(model_of: ModelOf) -> None:
    """A branch inside a Scan: its output has another size in each iteration. A body of an operator that is neither."""
    model = model_of(
        """g (float[3,2] rows) => (float[3,2] z, float[3,2] v) {
            z = Scan (rows) <num_scan_inputs = 1, body = r (float[2] row) => (float[2] out) {
                s = ReduceSum <keepdims = 0> (row) p = Cast <to = 9> (s)
                out = If (p) <then_branch = t () => (float[2] a) { a = Neg (row) }, else_branch = e () => (float[2] b) { b = Abs (row) }>
            }>
            v = Neg (z)
        }"""
    )
    watched = tensors(model, ["a", "v"])
    watch_ = Watch(model, watched)
    (seen,) = watch_.run([{"rows": np.float32([[0, 0], [1, 2], [0, 0]])}])
    assert [t.name for t in seen] == ["v"]
    assert list(watch_.problems) == watched[:1] and "Scan" in watch_.problems[watched[0]]


def fail_inside(monkeypatch: pytest.MonkeyPatch, *, after: int = 0) -> None:
    """Let runs fail that hand out what stands in subgraphs, all `after` so many."""
    real, runs = session.LocalSession.run, []

    def run(self: session.LocalSession, feed: session.Feed, names: list[str] | None = None) -> dict[str, object]:
        runs.append(names)
        if len(runs) > after and any("seen" in name for name in names or ()):
            raise ModelError("no such thing")
        return real(self, feed, names)

    monkeypatch.setattr(session.LocalSession, "run", run)


def test_a_runtime_that_fails_on_what_was_added_still_shows_the_main_graph(model_of: ModelOf, monkeypatch: pytest.MonkeyPatch) -> None:
    fail_inside(monkeypatch)
    model = model_of(BODIES)
    watched = tensors(model, ["a", "y"])
    watch_ = Watch(model, watched)
    seen = list(watch_.run([bodies_feed(True), bodies_feed(False)], sizes=dict.fromkeys(watched, 8)))
    assert [[t.name for t in s] for s in seen] == [["y"], ["y"]]
    assert "no such thing" in watch_.problems[watched[0]]


def test_a_session_that_stays_open_gives_way_to_one_that_shows_the_main_graph(model_of: ModelOf, monkeypatch: pytest.MonkeyPatch) -> None:
    """What fails in a later run of the same watch leaves the other tensors watched."""
    fail_inside(monkeypatch, after=1)
    model = model_of(BODIES)
    watched = tensors(model, ["a", "y"])
    watch_ = Watch(model, watched)
    seen = [[t.name for t in s] for _ in range(2) for s in watch_.run([bodies_feed(True)], sizes=dict.fromkeys(watched, 8), again=True)]
    assert seen == [["a", "y"], ["y"]] and watched[0] in watch_.problems
    watch_.close()


def test_the_model_is_left_as_it_was_and_its_weights_are_not_in_the_message(models: Path) -> None:
    model = ir.load(models / "digits_cnn" / "model.onnx")
    before = ir.to_bytes(model)
    seen = Watch(model, [model.graph.nodes[0].outputs[0]])
    assert ir.to_bytes(model) == before
    assert seen._proto.ByteSize() < len(before) / 4
    assert {"float32"} == {str(a.dtype) for a in seen._fed.values()}


def test_a_kernel_that_wants_constants_gets_them(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights are fed, which a runtime may refuse."""
    model = ir.load(models / "digits_cnn" / "model.onnx")
    open_ = session.LocalSession.__init__
    loaded: list[bool] = []

    def refusing(self: session.LocalSession, *arguments: object, **how: object) -> None:
        if not how["initializers"]:
            raise ModelError("the weight must be a constant")
        loaded.append(True)
        open_(self, *arguments, **how)  # type: ignore[arg-type]

    feed = {s.name: np.ones([d if isinstance(d, int) else 2 for d in s.shape or ()], np.float32) for s in model.inputs}
    sizes = {t: 8 for n in model.graph.nodes for t in n.outputs}
    (fed,) = Watch(model, sizes).run([feed], sizes=sizes)
    monkeypatch.setattr(session.LocalSession, "__init__", refusing)
    (seen,) = Watch(model, sizes).run([feed], sizes=sizes)
    assert loaded
    for tensor, value in fed.items():
        np.testing.assert_array_equal(seen[tensor], value)


def test_values_equal_those_of_the_model_as_it_stands(models: Path) -> None:
    model = ir.load(models / "digits_cnn" / "model.onnx")
    inner = [t.name for n in model.graph.nodes for t in n.outputs if t.name]
    feed = {s.name: np.random.default_rng(0).random([d if isinstance(d, int) else 2 for d in s.shape or ()], np.float32) for s in model.inputs}
    (found,) = observe(model, inner, [feed])
    plain = run_once(model, feed)
    for spec in model.outputs:
        np.testing.assert_array_equal(found[spec.name], plain[spec.name])
    assert watch.BUDGET == 256 * 2**20


WEIGHT_USES = {
    "read": "g (float[2,64] x) => (float[2,64] y) { y = MatMul (x, w) }",
    "unused": "g (float[2,64] x) => (float[2,64] y) { y = Neg (x) }",
    "an output": "g (float[2,64] x) => (float[2,64] y, float[64,64] w) { y = Neg (x) }",
    "read and an output": "g (float[2,64] x) => (float[2,64] y, float[64,64] w) { y = MatMul (x, w) }",
    "read by what nobody reads": "g (float[2,64] x) => (float[2,64] y) { d = MatMul (x, w) y = Neg (x) }",
    "read in a branch": """g (float[2,64] x) => (float[2,64] y) { s = ReduceMax <keepdims = 0> (x) p = Cast <to = 9> (s)
        y = If (p) <then_branch = t () => (float[2,64] a) { a = MatMul (x, w) }, else_branch = e () => (float[2,64] b) { b = Neg (x) }> }""",
}


@pytest.mark.parametrize("use", WEIGHT_USES)
def test_a_large_weight_is_handed_over_wherever_it_is_read(use: str) -> None:
    proto = parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]>\n{WEIGHT_USES[use]}')
    proto.graph.initializer.append(numpy_helper.from_array(np.random.default_rng(0).normal(size=(64, 64)).astype(np.float32), "w"))
    model = ir.model_from_proto(proto)
    feed = {"x": np.ones((2, 64), np.float32)}
    (seen,) = observe(model, ["y"], [feed])
    np.testing.assert_array_equal(seen["y"], run_once(model, feed)["y"])
    optimized_model(model, feed=feed)


def test_weights_that_do_not_lie_in_order_in_memory(model_of: ModelOf) -> None:
    model = model_of("g (float[64,64] x) => (float[64,64] d) { a = Mul (x, x) d = Neg (a) }")
    weight = np.arange(64 * 64, dtype=np.float32).reshape(64, 64)[:, ::-1]
    with Edits(model) as edits:
        edits.set_input(model.graph.nodes[0], 1, model.constant("w", weight))
    (values,) = observe(model, ["a"], [{"x": np.ones((64, 64), np.float32)}])
    np.testing.assert_array_equal(values["a"], weight)
