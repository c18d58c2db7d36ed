"""distill: what learns, what does not, and that the file holds what was learned."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import graphcompress
from graphcompress.data import Dataset, memory_data
from graphcompress.errors import BarMissed, DataError, ModelError, UsageError
from graphcompress.ir import Model, to_bytes
from graphcompress.ir.files.text import parse_model
from graphcompress.ir.model.edit import Edits
from graphcompress.ir.shapes.infer import infer
from graphcompress.passes.distill import Options, distill
from graphcompress.passes.distill.adapters import fitted
from graphcompress.passes.distill.batches import batches
from graphcompress.passes.distill.lesson import teacher_session
from graphcompress.passes.distill.match import Adapter, Correspondence, Selection, pairs
from graphcompress.passes.distill.optimizer import STEP_LIMIT, Adam, schedule
from graphcompress.passes.distill.run import parted
from graphcompress.passes.distill.weights import learnable, with_weights
from graphcompress.runtime.session import open_session
from graphcompress.step import Context, StepResult

Array = np.ndarray[Any, Any]
NET = """(float[$n,6] x) => (float[$n,3] y)
<float[6,8] w1 = {$a}, float[8] b1 = {$b}, float[8,3] w2 = {$c}>
{
    p = Gemm (x, w1, b1)
    h = Relu (p)
    y = MatMul (h, w2)
}"""


def net(seed: int = 0, n: str = "n", text: str = NET) -> Model:
    rng = np.random.default_rng(seed)
    for mark, count in (("$a", 48), ("$b", 8), ("$c", 24)):
        text = text.replace(mark, ", ".join(f"{v:.6f}" for v in rng.standard_normal(count)))
    return parse_model(text.replace("$n", n), {"": 17})


def disturbed(model: Model, amount: float = 0.3) -> Model:
    rng = np.random.default_rng(9)
    values, _ = learnable(model, ())
    return with_weights(model, {name: (v + amount * rng.standard_normal(v.shape)).astype(np.float32) for name, v in values.items()})


def feeds(model: Model, count: int = 64) -> Dataset:
    rng = np.random.default_rng(5)
    return memory_data([{"x": rng.standard_normal((1, 6)).astype(np.float32)} for _ in range(count)], model.inputs)


def taught(student: Model, teacher: Model, data: Dataset | None = None, **options: Any) -> StepResult:
    data = feeds(teacher) if data is None else data
    return distill(student, Context(data=data, teacher=teacher, threads=1), Options(**{"steps": 60, "rate": 0.01, **options})).boldest


def outputs(model: Model, some: Sequence[dict[str, Array]]) -> Array:
    return np.concatenate([open_session(model, threads=1).run(feed)["y"] for feed in some])


def error(model: Model, teacher: Model) -> float:
    x = np.random.default_rng(77).standard_normal((200, 6)).astype(np.float32)
    first, second = (np.concatenate([s.run({"x": row[None]})["y"] for row in x]) for s in (open_session(teacher, threads=1), open_session(model, threads=1)))
    return float(np.mean((first - second) ** 2))


def test_a_student_comes_nearer_to_its_teacher_on_unseen_inputs() -> None:
    teacher = net()
    student = disturbed(teacher)
    result = taught(student, teacher)
    assert result.changed
    assert error(result.model, teacher) < 0.2 * error(student, teacher)


@pytest.mark.parametrize("n", ["n", "1"])
def test_every_weight_that_is_said_to_learn_differs_in_the_result(n: str) -> None:
    """With a free batch and, one by one, with a fixed one."""
    teacher = net(n=n)
    student = disturbed(teacher)
    result = taught(student, teacher, steps=10, batch=8)
    assert result.applied == {"distill/weights": 3}
    for name, constant in student.graph.initializers.items():
        assert not np.array_equal(constant.values, result.model.graph.initializers[name].values)


def test_weights_in_constant_nodes_learn_too() -> None:
    text = """(float[n,6] x) => (float[n,3] y) {
        w1 = Constant <value = float[6,8] {$a}> ()
        w2 = Constant <value = float[8,3] {$c}> ()
        p = MatMul (x, w1)
        h = Relu (p)
        y = MatMul (h, w2)
    }"""
    teacher = net(text=text)
    student = disturbed(teacher)
    result = taught(student, teacher)
    assert result.applied == {"distill/weights": 2} and [n.op for n in result.model.graph.nodes] == [n.op for n in student.graph.nodes]
    assert error(result.model, teacher) < 0.5 * error(student, teacher)


def test_the_written_weights_give_the_loss_that_was_seen() -> None:
    """What learns and what is written are one function."""
    teacher = net()
    data = feeds(teacher)
    result = taught(disturbed(teacher), teacher, data, steps=20, batch=8)
    teach, watch = parted(list(data))
    assert len(watch) >= 4 and len(teach) + len(watch) == len(data)
    error = np.mean((outputs(result.model, watch) - outputs(teacher, watch)) ** 2)
    assert error / outputs(teacher, teach[:8]).var() == pytest.approx(result.decisions["loss"]["after"], rel=1e-5)


def test_only_weights_change() -> None:
    teacher = net()
    student = disturbed(teacher)
    result = taught(student, teacher, steps=10).model
    assert (result.inputs, result.outputs, result.opset) == (student.inputs, student.outputs, student.opset)
    assert [n.op for n in result.graph.nodes] == [n.op for n in student.graph.nodes]


def test_equal_seeds_give_equal_weights() -> None:
    teacher = net()
    first, second = (taught(disturbed(teacher), teacher, steps=10).model.graph.initializers["w1"].values for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_a_student_that_cannot_improve_is_handed_back() -> None:
    teacher = net()
    result = taught(teacher, teacher, steps=10)
    assert not result.changed and result.model is teacher


def test_features_of_equal_name_and_shape_are_matched() -> None:
    teacher = net()
    assert taught(disturbed(teacher), teacher, steps=5).decisions["matched"] == {"outputs": ["y"], "features": ["h"]}
    assert taught(disturbed(teacher), teacher, steps=5, match="outputs").decisions["matched"] == {"outputs": ["y"], "features": []}


def narrower(keep: Sequence[int] = (0, 2, 3, 5, 6, 7)) -> tuple[Model, Model]:
    """A teacher, and a student that has some of its hidden channels."""
    teacher = net()
    student = teacher.copy()
    with Edits(student) as edits:
        for name, axis in (("w1", 1), ("b1", 0), ("w2", 0)):
            constant = student.graph.initializers[name]
            edits.set_value(constant, constant.values.take(keep, axis))
    return teacher, student


def test_what_a_cut_has_left_is_compared_channel_by_channel(tmp_path: Path) -> None:
    teacher, student = narrower()
    channels = {"channels": [{"axis": 1, "length": 8, "kept": [0, 2, 3, 5, 6, 7], "tensors": ["h"]}]}
    (tmp_path / "record.json").write_text(json.dumps({"steps": [{"decisions": channels}]}))
    with_file = taught(student, teacher, steps=40, match=str(tmp_path / "record.json"))
    context = Context(data=feeds(teacher), teacher=teacher, threads=1, earlier=(StepResult(student, True, decisions=channels),))
    as_step = distill(student, context, Options(steps=40, rate=0.01)).boldest
    assert with_file.decisions["matched"]["features"] == as_step.decisions["matched"]["features"] == ["h"]
    assert error(with_file.model, teacher) == error(as_step.model, teacher) < 0.8 * error(student, teacher)
    # What is left of the teacher is what the student has: the loss of the features is nothing at the start, so that learning the features alone changes nothing.
    shapes = {"x": (4, 6)}
    matching = Correspondence(channels={"h": Selection(1, (0, 2, 3, 5, 6, 7))})
    compared = [p for p in pairs(student, teacher, (infer(student, shapes), infer(teacher, shapes)), matching, features=True) if not p.output]
    session, names = teacher_session(teacher, compared, 1)
    x = np.ones((4, 6), np.float32)
    hidden = np.maximum(x @ student.graph.initializers["w1"].values + student.graph.initializers["b1"].values, 0)
    np.testing.assert_allclose(session.run({"x": x})[names["h"]], hidden, rtol=1e-5)
    session.close()


def test_widths_that_nobody_explains_are_compared_by_adapters() -> None:
    teacher, student = narrower()
    shapes = {"x": (4, 6)}
    compared = pairs(student, teacher, (infer(student, shapes), infer(teacher, shapes)), Correspondence(), features=True)
    (pair,) = fitted([p for p in compared if not p.output], student, teacher, [{"x": f["x"]} for f in feeds(teacher)], threads=1)
    assert isinstance(pair.view, Adapter) and pair.view.matrix is not None
    assert pair.view.matrix.shape == (6, 8)
    np.testing.assert_allclose(pair.view.matrix[:, [0, 2, 3, 5, 6, 7]], np.eye(6), atol=0.05)  # what is there is handed through
    result = taught(student, teacher, steps=40)
    assert result.decisions["matched"]["features"] == ["h"]
    assert error(result.model, teacher) < 0.8 * error(student, teacher)


def test_pairs_of_tensors_can_be_stated(tmp_path: Path) -> None:
    teacher = net()
    student = disturbed(net(text=NET.replace("Relu (p)", "Relu (q)").replace("p = Gemm", "q = Gemm").replace("h = ", "g = ").replace("(h, w2)", "(g, w2)")))
    (tmp_path / "pairs.json").write_text('{"pairs": {"g": "h"}}')
    assert taught(student, teacher, steps=2).decisions["matched"]["features"] == []
    assert taught(student, teacher, steps=2, match=str(tmp_path / "pairs.json")).decisions["matched"]["features"] == ["g"]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("{", "cannot be read as JSON"),
        ("[1]", "neither"),
        ('{"pairs": {"nowhere": "h"}}', "has no tensor 'nowhere'"),
        ('{"pairs": {"h": "nowhere"}}', "has no tensor 'nowhere'"),
    ],
)
def test_a_file_of_pairs_that_fits_nothing_is_an_error(content: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "pairs.json").write_text(content)
    with pytest.raises(UsageError, match=says):
        taught(disturbed(net()), net(), steps=2, match=str(tmp_path / "pairs.json"))


def test_sigmoids_are_learned_by_their_divergence() -> None:
    text = NET.replace("y = MatMul (h, w2)", "l = MatMul (h, w2)  y = Sigmoid (l)")
    teacher = net(text=text)
    student = disturbed(teacher)
    assert error(taught(student, teacher).model, teacher) < 0.5 * error(student, teacher)


def test_an_interrupt_keeps_what_was_learned_where_that_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    teacher = net()
    student = disturbed(teacher)

    def stop(what: str, done: int, total: int | None) -> None:
        if done == 30:
            raise KeyboardInterrupt

    context = Context(data=feeds(teacher), teacher=teacher, threads=1, progress=stop)
    result = distill(student, context, Options(steps=60, rate=0.01, keep=True)).boldest
    assert result.changed and result.decisions["interrupted"] == 30
    assert error(result.model, teacher) < error(student, teacher)
    with pytest.raises(KeyboardInterrupt):
        distill(student, context, Options(steps=60, rate=0.01))


def test_probabilities_are_learned_by_their_divergence() -> None:
    text = NET.replace("y = MatMul (h, w2)", "l = MatMul (h, w2)  y = Softmax (l)")
    teacher = net(text=text)
    student = disturbed(teacher)
    result = taught(student, teacher)
    assert error(result.model, teacher) < 0.5 * error(student, teacher)


def test_frozen_weights_stay_as_they_are() -> None:
    teacher = net()
    student = disturbed(teacher)
    result = taught(student, teacher, freeze=("^w1$",))
    np.testing.assert_array_equal(result.model.graph.initializers["w1"].values, student.graph.initializers["w1"].values)
    assert [(r.id, r.node, r.count) for r in result.refusals] == [("distill/asked", "w1", 1)]


def test_a_pattern_that_matches_no_weight_is_an_error() -> None:
    with pytest.raises(UsageError, match="matches no weight"):
        taught(net(), net(), freeze=("nothing",))


@pytest.mark.parametrize(
    ("body", "initializer", "id"),
    [
        ("y = Add (x, w)", "float w = {1}", "distill/scalar"),
        ("y = Add (x, w)", "float[2] w = {0, -1e9}", "distill/mask"),
        ("p = Mul (x, w)  q = Exp (p)  y = Log (q)", "float[2] w = {1, 2}", "distill/front-end"),
        ("y = BatchNormalization (x, s, s, s, w)", "float[2] s = {1, 2}, float[2] w = {1, 2}", "distill/statistics"),
        ("d = Cast <to = 11> (x)  p = Mul (d, w)  y = Cast <to = 1> (p)", "double[2] w = {1, 2}", "distill/precision"),
    ],
)
def test_what_is_no_weight_does_not_learn(body: str, initializer: str, id: str) -> None:
    model = parse_model(f"(float[n,2] x) => (float[n,2] y)\n<{initializer}>\n{{ {body} }}")
    assert learnable(model, ())[1]["w"].id == id


def test_a_student_without_weights_is_handed_back_with_the_reason() -> None:
    model = parse_model("(float[n,6] x) => (float[n,6] y) { y = Relu (x) }")
    result = taught(model, model)
    assert result.model is model and [r.id for r in result.refusals] == ["distill/no-weights"]


def test_a_softplus_is_no_front_end() -> None:
    model = parse_model(
        "(float[n,2] x) => (float[n,2] y)\n<float[2] w = {1, 2}, float[1] o = {1}>\n{ p = Mul (x, w)  q = Exp (p)  r = Add (q, o)  y = Log (r) }"
    )
    assert "w" in learnable(model, ())[0]


def test_a_weight_behind_what_has_no_rule_is_named() -> None:
    text = "(float[n,2,2] x) => (float[n] y)\n<float[2,2] w = {1, 2, 3, 4}, float[1] b = {1}>\n{ p = Mul (x, w)  q = Det (p)  y = Add (q, b) }"
    teacher = parse_model(text)
    rng = np.random.default_rng(0)
    data = memory_data([{"x": rng.standard_normal((1, 2, 2)).astype(np.float32)} for _ in range(16)], teacher.inputs)
    result = taught(disturbed(teacher), teacher, data, steps=5)
    assert [(r.id, r.node) for r in result.refusals] == [("distill/no-rule", "w")]
    assert result.decisions["trained"] == 1


def test_models_without_a_common_output_are_an_error() -> None:
    other = parse_model("(float[n,6] x) => (float[n,6] z) { z = Relu (x) }")
    with pytest.raises(ModelError, match="no output"):
        taught(net(), other)


def test_few_feeds_are_an_error() -> None:
    with pytest.raises(DataError, match="at least 4"):
        taught(net(), net(), feeds(net(), 3))


def test_no_teacher_is_an_error() -> None:
    with pytest.raises(UsageError, match="needs a teacher"):
        distill(net(), Context(data=feeds(net())))


def test_minutes_become_steps() -> None:
    teacher = net()
    student, context = disturbed(teacher), Context(data=feeds(teacher), teacher=teacher, threads=1)
    timed = distill(student, context, Options(minutes=0.003, rate=0.01)).boldest
    assert timed.decisions["step_seconds"] * timed.decisions["steps"] == pytest.approx(0.18, rel=0.5)
    again = distill(student, context, Options(steps=timed.decisions["steps"], rate=0.01)).boldest
    assert timed.changed and to_bytes(again.model) == to_bytes(timed.model)  # so that a record is enough to make the file again


@pytest.mark.parametrize(("steps", "minutes", "expected"), [(20, 3.0, 20), (100_000, 0.003, None)])
def test_of_steps_and_minutes_the_fewer_count(steps: int, minutes: float, expected: int | None) -> None:
    teacher = net()
    taken = taught(disturbed(teacher), teacher, steps=steps, minutes=minutes).decisions["steps"]
    assert taken == expected if expected is not None else 0 < taken < steps


def test_a_student_with_the_answers_of_its_teacher_learns_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Adam, "update", None)
    teacher = net()
    result = taught(teacher.copy(), teacher, steps=None, minutes=3.0)
    assert not result.changed and result.refusals[0].id == "distill/nothing-to-learn" and result.decisions["steps"] == 0


def test_steps_that_were_decided_before_are_taken_again() -> None:
    teacher = net()
    student, context = disturbed(teacher), Context(data=feeds(teacher), teacher=teacher, threads=1)
    first = distill(student, context, Options(minutes=0.003, rate=0.01)).boldest
    again = distill(student, replace(context, decisions=first.decisions), Options(minutes=5, rate=0.01)).boldest
    assert again.decisions["steps"] == first.decisions["steps"] and to_bytes(again.model) == to_bytes(first.model)


def test_from_python_the_record_names_the_teacher_and_compares_with_it() -> None:
    teacher = net()
    result = graphcompress.distill(disturbed(teacher), teacher, feeds(teacher), steps=60, rate=0.01, threads=1)
    assert result.record.teacher is not None and result.record.comparison is not None
    assert result.record.steps[0].use == "distill" and result.record.steps[0].in_result


def test_from_python_a_student_that_has_not_improved_comes_back_with_the_error() -> None:
    teacher = net()
    with pytest.raises(BarMissed, match="not nearer") as caught:
        graphcompress.distill(teacher, teacher, feeds(teacher), steps=5, threads=1)
    assert caught.value.result.model is teacher


def test_the_rate_rises_and_falls() -> None:
    rates = [schedule(step, 400) for step in range(1, 401)]
    assert rates[0] == 1 / 20 and rates[19] == 1.0 and rates[-1] == pytest.approx(0.01)
    assert rates[19:] == sorted(rates[19:], reverse=True)


def test_a_step_is_limited_by_the_norm_of_the_tensor() -> None:
    weights = {"w": np.full(4, 0.01, np.float32)}
    Adam(weights, rate=1.0, steps=1).update({"w": np.ones(4, np.float32)})
    assert np.linalg.norm(weights["w"] - np.float32(0.01)) == pytest.approx(STEP_LIMIT * 0.02, rel=1e-4)


def test_gradients_that_are_not_finite_are_left_out() -> None:
    weights = {"w": np.ones(2, np.float32)}
    Adam(weights, rate=0.1, steps=1).update({"w": np.array([np.nan, 1], np.float32)})
    assert (weights["w"] == 1).all()


def test_batches_take_every_feed_before_one_comes_again() -> None:
    order = batches(6, 4, np.random.default_rng(0))
    drawn = [next(order) for _ in range(3)]
    assert all(len(set(batch)) == 4 for batch in drawn)
    assert sorted(i for batch in drawn for i in batch) == sorted([*range(6)] * 2)


def test_as_a_step_of_a_recipe_the_original_is_the_teacher(tmp_path: Path) -> None:
    teacher = net()
    (tmp_path / "learn.toml").write_text('[[step]]\nuse = "simplify"\n\n[[step]]\nuse = "distill"\nsteps = 3\n')
    result = graphcompress.compress(teacher, feeds(teacher), recipe=tmp_path / "learn.toml", measure=False, threads=1)
    assert [(s.use, s.changed) for s in result.record.steps] == [("simplify", False), ("distill", False)]


def test_a_cut_its_repair_and_distillation_compose_in_a_recipe(tmp_path: Path) -> None:
    """The channels that the cut has left are known to the step after it, in the search as in a plain run."""
    teacher = net()
    (tmp_path / "ladder.toml").write_text(
        '[[step]]\nuse = "prune"\nmacs = 0.8\nround_to = 1\n\n[[step]]\nuse = "distill"\nsteps = 40\nrate = 0.01\n\n[[step]]\nuse = "store"\n'
    )
    result = graphcompress.compress(teacher, feeds(teacher, 128), recipe=tmp_path / "ladder.toml", min_agreement=0.01, goal="speed", measure=False, threads=1)
    cut, learned, _ = result.record.steps
    assert cut.in_result and learned.in_result, [(s.use, s.in_result, s.refusals) for s in result.record.steps]
    (entry,) = cut.decisions["channels"]
    assert "h" in entry["tensors"] and learned.decisions["matched"]["features"] == ["h"]
    assert learned.decisions["loss"]["after"] < learned.decisions["loss"]["before"]
