"""A quantized student learns through its rounding, and what is written is what learned."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from quantized import done, residual

from graphcompress.data import Dataset, memory_data
from graphcompress.ir import Model, constant_value, lint, producer, to_bytes
from graphcompress.ir.analysis.code_pairs import as_pairs, as_rows, pair_sums
from graphcompress.ir.files.text import parse_model
from graphcompress.ir.model.edit import Edits
from graphcompress.passes.distill import Options, distill
from graphcompress.passes.distill.masters import Masters
from graphcompress.passes.distill.weights import learnable, with_weights
from graphcompress.runtime.session import open_session
from graphcompress.step import Context, StepResult

Array = np.ndarray[Any, Any]
RNG = np.random.default_rng(3)
WEIGHTS = [RNG.standard_normal(shape).astype(np.float32) for shape in ((8, 6), (8,), (3, 8), (3,))]
COARSE = 7  # codes of 4 bits in an int8


def numbers(array: Array) -> str:
    return ", ".join(f"{v:.7g}" for v in array.reshape(-1))


def teacher() -> Model:
    w1, b1, w2, b2 = map(numbers, WEIGHTS)
    return parse_model(
        f"""(float[n,6] x) => (float[n,3] y)
        <float[8,6] w1 = {{{w1}}}, float[8] b1 = {{{b1}}}, float[3,8] w2 = {{{w2}}}, float[3] b2 = {{{b2}}}>
        {{
            p = Gemm <transB = 1> (x, w1, b1)
            h = Relu (p)
            y = Gemm <transB = 1> (h, w2, b2)
        }}""",
        {"": 17},
    )


def coarse(weight: Array) -> tuple[Array, Array]:
    """Codes of 4 bits, and a scale for each row."""
    scale = np.abs(weight).max(axis=1) / COARSE
    return np.rint(weight / scale[:, None]).astype(np.int8), scale.astype(np.float32)


def dequantized_student() -> Model:
    """As INT8 is written, with fewer codes: weights by rows, int32 biases at the product of the scales, activations in uint8."""
    (first, s1), (second, s2) = coarse(WEIGHTS[0]), coarse(WEIGHTS[2])
    sx, sh = np.float32(0.03), np.float32(0.04)
    biases = [np.rint(b / (sx_ * s)).astype(np.int32) for b, sx_, s in ((WEIGHTS[1], sx, s1), (WEIGHTS[3], sh, s2))]
    return parse_model(
        f"""(float[n,6] x) => (float[n,3] y)
        <int8[8,6] w1 = {{{numbers(first)}}}, int32[8] b1 = {{{numbers(biases[0])}}}, int8[3,8] w2 = {{{numbers(second)}}}, int32[3] b2 = {{{numbers(biases[1])}}},
         float[8] s1 = {{{numbers(s1)}}}, float[3] s2 = {{{numbers(s2)}}}, float[8] t1 = {{{numbers(sx * s1)}}}, float[3] t2 = {{{numbers(sh * s2)}}},
         int8[8] z1 = {{{numbers(np.zeros(8))}}}, int8[3] z2 = {{0, 0, 0}}, float sx = {{{sx}}}, uint8 zx = {{128}}, float sh = {{{sh}}}, uint8 zh = {{0}}>
        {{
            xq = QuantizeLinear (x, sx, zx)
            xd = DequantizeLinear (xq, sx, zx)
            wd = DequantizeLinear <axis = 0> (w1, s1, z1)
            bd = DequantizeLinear <axis = 0> (b1, t1)
            p = Gemm <transB = 1> (xd, wd, bd)
            h = Relu (p)
            hq = QuantizeLinear (h, sh, zh)
            hd = DequantizeLinear (hq, sh, zh)
            vd = DequantizeLinear <axis = 0> (w2, s2, z2)
            cd = DequantizeLinear <axis = 0> (b2, t2)
            y = Gemm <transB = 1> (hd, vd, cd)
        }}""",
        {"": 17},
    )


def stored_student() -> Model:
    """Weights alone, as they are stored small: codes behind Cast and Mul."""
    (first, s1), (second, s2) = coarse(WEIGHTS[0]), coarse(WEIGHTS[2])
    return parse_model(
        f"""(float[n,6] x) => (float[n,3] y)
        <int8[8,6] w1 = {{{numbers(first)}}}, float[8] b1 = {{{numbers(WEIGHTS[1])}}}, int8[3,8] w2 = {{{numbers(second)}}}, float[3] b2 = {{{numbers(WEIGHTS[3])}}},
         float[8,1] s1 = {{{numbers(s1)}}}, float[3,1] s2 = {{{numbers(s2)}}}>
        {{
            c1 = Cast <to = 1> (w1)
            m1 = Mul (c1, s1)
            p = Gemm <transB = 1> (x, m1, b1)
            h = Relu (p)
            c2 = Cast <to = 1> (w2)
            m2 = Mul (c2, s2)
            y = Gemm <transB = 1> (h, m2, b2)
        }}""",
        {"": 17},
    )


STUDENTS = {"dequantized": dequantized_student, "stored": stored_student}


def feeds(model: Model, count: int = 400) -> Dataset:
    rng = np.random.default_rng(5)
    return memory_data([{"x": rng.standard_normal((1, 6)).astype(np.float32)} for _ in range(count)], model.inputs)


def taught(student: Model, **options: Any) -> StepResult:
    master = teacher()
    return distill(student, Context(data=feeds(master), teacher=master, threads=1), Options(**{"steps": 200, "rate": 3e-2, **options})).boldest


def longest_pair(model: Model) -> float:
    return max(float(pair_sums(as_pairs(as_rows(model.graph.initializers[name].values, 0))).max()) for name in ("w1", "w2"))


def error(model: Model) -> float:
    x = np.random.default_rng(77).standard_normal((400, 6)).astype(np.float32)
    first, second = (open_session(m, threads=1).run({"x": x})["y"] for m in (teacher(), model))
    return float(np.mean((first - second) ** 2))


@pytest.mark.parametrize("form", STUDENTS)
def test_codes_learn_and_stay_codes(form: str) -> None:
    student = STUDENTS[form]()
    result = taught(student)
    assert result.changed
    assert error(result.model) < 0.9 * error(student)
    before, after = student.graph.initializers, result.model.graph.initializers
    for name in ("w1", "w2"):
        assert after[name].values.dtype == np.int8 and after[name].values.shape == before[name].values.shape
    assert any(np.any(after[name].values != before[name].values) for name in ("w1", "w2"))
    assert set(after) == set(before)
    assert [n.op for n in result.model.graph.nodes] == [n.op for n in student.graph.nodes]


@pytest.mark.parametrize("form", STUDENTS)
def test_what_is_written_is_what_learned(form: str) -> None:
    """The outputs of the file are those of the graph that learns, with the same values, but for the rounding of the biases, 0.01 at these scales (a code of a weight is 0.3)."""
    masters = Masters(STUDENTS[form]())
    values, _ = learnable(masters.model, (), masters.scales, masters.fixed)
    rng = np.random.default_rng(1)
    moved = {name: np.asarray(v * (1 + 0.1 * rng.standard_normal(v.shape)), np.float32) for name, v in values.items()}
    x = rng.standard_normal((50, 6)).astype(np.float32)
    models = with_weights(masters.model, moved), masters.written(moved), masters.student
    learning, written, before = (open_session(m, threads=1, optimize="none").run({"x": x})["y"] for m in models)
    assert {"w1", "w2"} <= values.keys()
    assert float(np.abs(written - learning).mean()) < 0.05 < 0.3 < float(np.abs(before - learning).mean())


@pytest.mark.parametrize("form", STUDENTS)
def test_a_student_that_has_not_learned_keeps_its_values(form: str) -> None:
    student = STUDENTS[form]()
    x = np.random.default_rng(2).standard_normal((50, 6)).astype(np.float32)
    before, after = (open_session(m, threads=1, optimize="none").run({"x": x})["y"] for m in (student, Masters(student).written({})))
    np.testing.assert_allclose(after, before, rtol=1e-4, atol=1e-5)


def test_the_scale_of_a_bias_follows_its_layer() -> None:
    """Integer kernels take it for the product of the two others."""
    result = taught(dequantized_student()).model
    seen = 0
    for node in result.graph.nodes:
        if node.is_op("Gemm"):
            x, w, b = (producer(t) for t in node.inputs)
            assert x is not None and w is not None and b is not None
            scales = [constant_value(n.inputs[1]) for n in (x, w, b)]
            assert scales[0] is not None and scales[1] is not None
            np.testing.assert_allclose(scales[2], scales[0] * scales[1], rtol=1e-6)
            assert scales[0] not in (np.float32(0.03), np.float32(0.04))
            seen += 1
    assert seen == 2


def test_pairs_of_codes_grow_no_longer() -> None:
    """Processors that add two products in 16 bits saturate beyond a bound, which the student keeps."""
    student = dequantized_student()
    masters = Masters(student)
    grown = {"w1": (3 * learnable(masters.model, ())[0]["w1"]).astype(np.float32)}
    masters.keep_bounds(grown)
    before, after = (pair_sums(as_pairs(as_rows(m.graph.initializers["w1"].values, 0))).max() for m in (student, masters.written(grown)))
    assert after == before


def test_learning_keeps_that_bound() -> None:
    """A student with half of the weights that it should have wants longer codes."""
    student = dequantized_student()
    with Edits(student) as edits:
        for name in ("w1", "w2"):
            codes = student.graph.initializers[name]
            edits.set_value(codes, (codes.values // 2).astype(np.int8))
    result = taught(student, rate=0.1)
    assert any(np.any(result.model.graph.initializers[n].values != student.graph.initializers[n].values) for n in ("w1", "w2"))
    assert longest_pair(result.model) <= longest_pair(student)


def test_a_bias_of_another_scale_and_codes_in_a_calculation_stay() -> None:
    """A bias whose scale is no product does not learn, nor do the scales that nobody can change without it; codes that more than a DequantizeLinear reads are no weight."""
    model = parse_model(
        """(float[2] x) => (float[2] y, int8[2] c)
        <int8[2] w = {3, 4}, int32[2] b = {5, 6}, float s = {0.1}, float t = {0.7}, int8 z = {0}>
        {
            d = DequantizeLinear (w, s, z)
            e = DequantizeLinear (b, t)
            p = Mul (x, d)
            y = Add (p, e)
            c = Identity (w)
        }""",
        {"": 17},
    )
    masters = Masters(model)
    assert masters.model is model
    assert masters.scales == {"s"}


def test_biases_that_shared_a_scale_get_their_own() -> None:
    """Equal scales are one initializer; when they are no longer equal, each bias has the product of its layer's, and what nobody reads is not in the file."""
    model = parse_model(
        """(float[n,2] x) => (float[n,2] y, float[n,2] z)
        <int8[2,2] w = {5, -3, 2, 7}, int32[2] b = {40, -80}, int32[2] c = {10, 90}, float s = {0.1}, float t = {0.1}, float v = {0.2}, float u = {0.02}, int8 o = {0}, uint8 m = {128}>
        {
            q = QuantizeLinear (x, s, m)
            d = DequantizeLinear (q, s, m)
            e = QuantizeLinear (x, t, m)
            f = DequantizeLinear (e, t, m)
            k = DequantizeLinear (w, v, o)
            g = DequantizeLinear (b, u)
            h = DequantizeLinear (c, u)
            y = Gemm (d, k, g)
            z = Gemm (f, k, h)
        }""",
        {"": 17},
    )
    written = Masters(model).written({"s": np.array(0.11, np.float32)})
    scales = [float(n.inputs[1].values) for n in written.graph.nodes if n.op == "DequantizeLinear" and n.inputs[0].name in ("b", "c")]
    assert scales == pytest.approx([0.022, 0.02])
    assert all(c.outputs for c in written.graph.initializers.values())
    np.testing.assert_array_equal(written.graph.initializers["b"].values, np.rint(np.array([40, -80]) * 0.02 / 0.022))
    np.testing.assert_array_equal(written.graph.initializers["c"].values, [10, 90])


def test_half_precision_and_scales_inside_a_branch_do_not_learn() -> None:
    """Codes whose scale is not a float32 initializer of the main graph stay codes."""
    model = parse_model(
        """(float16[2] x, bool p) => (float16[2] y, float[2] z)
        <int8[2] w = {3, 4}, int8[2] v = {5, 6}, float16 s = {11878}>
        {
            d = DequantizeLinear (w, s)
            y = Add (x, d)
            z = If (p) <then_branch = t () => (float[2] a) <float r = {0.5}> { a = DequantizeLinear (v, r) },
                        else_branch = e () => (float[2] b) <float r2 = {0.25}> { b = DequantizeLinear (v, r2) }>
        }""",
        {"": 19},
    )
    masters = Masters(model)
    assert masters.model is model and masters.sizes().keys() <= {"s"}


def test_int8_of_the_step_learns_and_the_same_steps_give_the_same_bytes(tools: Any) -> None:
    """What `quantize` writes is what `distill` reads: all that is in integers learns, and nothing else is new."""
    master = residual(tools)
    student = done(master, tools).model
    context = Context(data=tools.feeds(master, 32), teacher=master, threads=1)
    first, second = (distill(student, context, Options(steps=30)).boldest for _ in range(2))
    assert first.changed and to_bytes(first.model) == to_bytes(second.model)
    frozen = {r.id for r in first.refusals}
    assert not frozen & {"distill/unused", "distill/no-rule", "distill/precision"}
    assert [n.op for n in first.model.graph.nodes] == [n.op for n in student.graph.nodes]
    lint(first.model)
