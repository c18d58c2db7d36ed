"""How far two models are apart: definitions, laws, odd values."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from graphcompress import ir
from graphcompress.errors import ModelError, UsageError
from graphcompress.findings import Finding
from graphcompress.ir.analysis.output_kinds import KIND_NAMES, OutputKind, stated_kind
from graphcompress.runtime.agreement.measured import FLOORS, Measured
from graphcompress.runtime.compare import Comparison, ComparisonStatistic, compare, upper_bound
from graphcompress.runtime.magnitudes import Magnitudes
from graphcompress.runtime.metric import Metric
from graphcompress.runtime.output_statistics import OutputComparison, OutputStatistic, flatten
from graphcompress.runtime.session import open_session

Array = np.ndarray[Any, Any]
NAN, INF = math.nan, math.inf


def single(kind: str, *pairs: tuple[Any, Any]) -> OutputComparison:
    statistic = OutputStatistic(stated_kind(kind))
    for r, c in pairs:
        statistic.update(r, c, rows=len(r) if isinstance(r, list) or getattr(r, "ndim", 0) else 1)
    return statistic.finish()


def f32(*values: Any) -> Array:
    return np.array(values, np.float32)


# --- definitions ------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int64", "bool", "U3", object])
def test_exact_counts_equal_elements(dtype: str) -> None:
    found = single("exact", (np.array([0, 1, 1, 0]).astype(dtype), np.array([0, 1, 0, 0]).astype(dtype)))
    assert found.agreement == 0.75 and not found.equal


def test_integers_are_exact_whatever_is_asked() -> None:
    assert single("values", (np.array([1000]), np.array([1001]))).agreement == 0


def test_large_integers_are_not_rounded() -> None:
    assert single("exact", (np.array([2**60]), np.array([2**60 + 1]))).agreement == 0


def test_sqnr_cosine_and_largest_difference() -> None:
    found = single("values", (f32(3, 4), f32(3, 5)))
    assert found.sqnr_db == pytest.approx(10 * math.log10(25 / 1))
    assert found.cosine == pytest.approx((9 + 20) / (5 * math.sqrt(34)))
    assert found.max_abs == 1 and not found.equal


def test_equal_tensors_have_no_sqnr() -> None:
    found = single("values", (f32(1, 2), f32(1, 2)))
    assert found.equal and found.sqnr_db is None and found.agreement == 1 and found.max_abs == 0 and found.cosine == pytest.approx(1)


def test_zeros() -> None:
    found = single("values", (f32(0, 0), f32(0, 0)))
    assert found.equal and found.cosine is None and found.agreement == 1
    found = single("values", (f32(0, 0), f32(0, 1e-3)))
    assert found.lowest is not None and found.lowest.value == 0.5 and found.sqnr_db is None


@pytest.mark.parametrize("kind", ["values", "classes"])
@pytest.mark.parametrize(
    ("r", "c", "agrees"),
    [(1, NAN, False), (NAN, 1, False), (NAN, NAN, True), (INF, INF, True), (INF, -INF, False), (1, INF, False), (INF, 1, False)],
)
def test_values_that_are_not_finite(kind: str, r: float, c: float, agrees: bool) -> None:
    found = single(kind, (f32([r, 2]), f32([c, 2])))
    assert found.lowest is not None and (found.lowest.disagreements == 0) is agrees
    assert found.equal is agrees
    assert found.broken == (0 if agrees else 1)


def test_broken_candidate_is_not_hidden_by_its_percentile() -> None:
    found = single("values", (f32(*range(100)), f32(*[NAN] * 100)))
    assert found.agreement == 0 and found.broken == 100 and found.sqnr_db is None


def test_other_shape_disagrees_altogether() -> None:
    found = single("values", (f32(1, 2, 3), f32(1, 2)))
    assert found.agreement == 0 and not found.equal and found.measures == (Measured("values", 0.0, 3, 3),)
    found = single("values", (f32(1, 2), np.array(["a", "b"])))
    assert found.agreement == 0


@pytest.mark.parametrize("kind", ["values", "classes", "probabilities", "exact"])
def test_elements_without_a_counterpart_are_so_many_differing_decisions(kind: str) -> None:
    """Two of three feeds agree, in the third the candidate has another shape: a third of the decisions, whatever a measure counts."""
    array = np.linspace(0, 1, 12, dtype=np.float32).reshape(4, 3)
    array = array.astype(np.int64) if kind == "exact" else array
    found = single(kind, *[(array, array)] * 2, (array, array[:2]))
    assert found.measures
    for measured in found.measures:
        assert measured.disagreements / measured.decisions == pytest.approx(1 / 3)
        assert measured.value == pytest.approx(2 / 3)


def test_empty_output_decides_nothing() -> None:
    found = single("values", (np.zeros((0, 3), np.float32), np.zeros((0, 3), np.float32)))
    assert found.agreement is None and found.equal


@pytest.mark.parametrize("dtype", ["float16", "float64", "complex64", "bfloat16"])
def test_types_of_fractions(dtype: str) -> None:
    import ml_dtypes

    kind = np.dtype(getattr(ml_dtypes, dtype, dtype))
    r = np.array([1, 2, 100]).astype(kind)
    found = single("values", (r, (r + np.array([0, 0, 50]).astype(kind)).astype(kind)))
    assert found.lowest is not None and 0.6 < found.lowest.value < 0.9 and found.max_abs == 50


# --- sequences and maps -------------------------------------------------------------------------------------------------------------------


def test_maps_of_one_table_are_its_rows() -> None:
    r = [{1: 0.9, 2: 0.1}, {1: 0.2, 2: 0.8}]
    c = [{1: 0.6, 2: 0.4}, {1: 0.7, 2: 0.3}]
    found = single("classes", (r, c))
    assert found.lowest is not None
    assert (found.lowest.decisions, found.lowest.disagreements, found.inputs) == (2, 1, 2)


def test_sequences_count_all_their_parts() -> None:
    found = single("values", ([f32(1, 2), f32(3)], [f32(1, 2), f32(9)]))
    assert found.lowest is not None and found.lowest.value == pytest.approx(2 / 3)
    found = single("values", ([f32(1, 2), f32(3)], [f32(1, 2)]))
    assert found.lowest is not None and found.lowest.value == pytest.approx(2 / 3) and not found.equal


def test_maps_with_other_keys_disagree() -> None:
    found = single("values", ({"a": 1.0}, {"b": 1.0}))
    assert found.agreement is not None and found.agreement < 1 and not found.equal


@pytest.mark.parametrize("value", [None, [], {}, [[]], [None], "text", 3, 2.5, [{}], [{1: 2}, {2: 3}], {"a": [f32(1)]}])
def test_nothing_crashes(value: Any) -> None:
    assert all(isinstance(a, np.ndarray) for a in flatten(value))
    for kind in KIND_NAMES:
        assert single(kind, (value, value)).equal


# --- laws -----------------------------------------------------------------------------------------------------------------------------------

ARRAYS = hnp.arrays(np.float32, st.tuples(st.integers(1, 4), st.just(3)), elements=st.floats(-1e6, 1e6, width=32) | st.sampled_from([NAN, INF, 0.0]))
KINDS = [*map(stated_kind, KIND_NAMES), OutputKind("classes", unsure=True), OutputKind("values", scores=True)]


def same(a: Comparison, b: Comparison) -> None:
    for name, left in a.outputs.items():
        right = b.outputs[name]
        for part in ("kind", "equal", "max_abs", "inputs", "broken", "constant", "answer"):
            assert getattr(left, part) == getattr(right, part), part
        assert sorted(m.name for m in left.measures) == sorted(m.name for m in right.measures)
        for m, other in zip(sorted(left.measures, key=lambda m: m.name), sorted(right.measures, key=lambda m: m.name), strict=True):
            assert (m.value, m.decisions, m.disagreements) == pytest.approx((other.value, other.decisions, other.disagreements), rel=1e-9, abs=1e-9)
        for part in ("sqnr_db", "cosine"):
            x, y = getattr(left, part), getattr(right, part)
            assert (x is None) == (y is None)
            if x is not None:
                assert x == pytest.approx(y, rel=1e-9, abs=1e-9)
    assert (a.feeds, a.worst) == (b.feeds, b.worst)


@given(data=st.data(), pairs=st.lists(ARRAYS.map(lambda a: (a, a * np.float32(1.01))), min_size=1, max_size=6), kind=st.sampled_from(KINDS))
def test_any_split_and_order_gives_the_same(data: st.DataObject, pairs: list[tuple[Array, Array]], kind: OutputKind) -> None:
    def learn(part: list[tuple[Array, Array]]) -> ComparisonStatistic:
        return learned(*part, kind=kind)

    whole = learn(pairs).finish()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(pairs)), max_size=3)))
    parts = [pairs[a:b] for a, b in zip([0, *cuts], [*cuts, len(pairs)], strict=True)]
    left = learn([])
    for part in parts:
        left.merge(learn(part))
    same(left.finish(), whole)
    right = learn([])
    for part in reversed(parts):
        right = learn(part).merge(right)
    same(right.finish(), whole)


@given(
    values=hnp.arrays(np.float64, st.integers(1, 300), elements=st.floats(0, 1e30, allow_subnormal=False).filter(lambda v: v == 0 or v > 1e-30)),
    share=st.floats(0, 1),
)
def test_quantile_is_numpys_to_a_thousandth(values: Array, share: float) -> None:
    counted = Magnitudes()
    counted.update(values)
    assert counted.quantile(share) == pytest.approx(float(np.quantile(values, share)), rel=1e-3)


def test_magnitudes_stay_small() -> None:
    counted = Magnitudes()
    for scale in (1e-300, 1e-38, 1e-3, 1.0, 1e38, 1e300):
        counted.update(np.linspace(0, scale, 100_000))
    assert counted.counts.nbytes <= 2 * 2**20 and counted.total == 600_000
    assert counted.quantile(1.0) == pytest.approx(3.4e38, rel=0.01)


# --- the whole model --------------------------------------------------------------------------------------------------------------------------


def comparison(decisions: int, disagreements: int, inputs: int | None = None) -> Comparison:
    measured = Measured("classes", 1.0, decisions, disagreements)
    output = OutputComparison("classes", False, (measured,), None, None, None, inputs or decisions, 0)
    return Comparison({"y": output}, 1, (("y", measured),))


def test_worst_output_is_the_models(model_of: Callable[..., ir.Model]) -> None:
    ref = model_of("g (float[n, 2] x) => (float[n, 2] y, float[n, 2] z) { y = Neg(x) z = Abs(x) }")
    cand = model_of("g (float[n, 2] x) => (float[n, 2] y, float[n, 2] z) { y = Neg(x) z = Neg(x) }")
    with open_session(ref) as a, open_session(cand) as b:
        found = compare(a, b, ({"x": f32([1, i])} for i in range(-2, 3)), {})
    assert found.worst == "z" and found.feeds == 5 and found.outputs["y"].equal
    # z: [1, |i|] beside [-1, -i]: i = -2, -1 and 0 agree
    assert found.agreement == pytest.approx(0.3 * 0.99 / FLOORS["values"])


def test_missing_output_is_named(model_of: Callable[..., ir.Model]) -> None:
    ref = model_of("g (float[n] x) => (float[n] y) { y = Neg(x) }")
    cand = model_of("g (float[n] x) => (float[n] z) { z = Neg(x) }")
    with open_session(ref) as a, open_session(cand) as b, pytest.raises(ModelError, match="'y'"):
        compare(a, b, [], {})


def test_statement_is_the_exact_bound() -> None:
    sentence = "at most 4.6% of such inputs are answered differently (95% confidence, 64 inputs); 300 more would bring it to 0.8%"
    assert comparison(64, 0).statement() == sentence
    assert comparison(10, 10).statement().startswith("at most 100.0% of such inputs")
    assert ComparisonStatistic([], {}).finish().statement() == "nothing could be compared"


def test_elements_of_one_input_are_not_so_many_trials() -> None:
    assert "(95% confidence, 64 inputs)" in comparison(640_000, 0, inputs=64).statement()


@pytest.mark.parametrize(
    ("rows", "inputs"),
    [(3, 3), (1, 1), (6, 1)],
    ids=["a batch of 3", "3 frames of one input", "3 frames of 6 steps"],
)
def test_rows_are_inputs_where_the_feed_has_as_many(rows: int, inputs: int) -> None:
    statistic = OutputStatistic(stated_kind("classes"))
    table = f32([0, 1], [5, 2], [1, 3])
    statistic.update(table, table, rows=rows)
    found = statistic.finish()
    assert found.lowest is not None and (found.inputs, found.lowest.decisions) == (inputs, 3)


@pytest.mark.parametrize(("a", "b", "inputs"), [((5, 3), (), 5), ((5, 3), (5,), 5), ((5, 3), (2,), 1)])
def test_rows_are_those_that_all_tensors_of_a_feed_have(a: tuple[int, ...], b: tuple[int, ...], inputs: int, model_of: Callable[..., ir.Model]) -> None:
    shapes = [",".join(map(str, shape)) for shape in (a, b)]
    model = model_of(f"g (float[{shapes[0]}] a, float[{shapes[1]}] b) => (float[5, 3] y) {{ c = ReduceMax <keepdims = 0> (b) y = Add (a, c) }}")
    with open_session(model) as session:
        seen = compare(session, session, [{"a": np.ones(a, np.float32), "b": np.ones(b, np.float32)}], {"y": stated_kind("classes")})
    assert seen.outputs["y"].inputs == inputs


def test_a_finding_about_the_feeds_voids_the_bound() -> None:
    statistic = ComparisonStatistic(["y"], {})
    for value in (1.0, 2.0):
        statistic.update({"y": f32(value)}, {"y": f32(value)})
    fine, poor = Finding("data/constant-input", "Input 'h' is 0."), Finding("data/random", "Random.", voids_bound=True)
    assert "at most" in statistic.finish([fine]).statement()
    assert statistic.finish([fine, poor]).statement() == "no bound on other inputs is claimed"
    assert statistic.finish([fine, poor]).findings == (fine, poor)


def test_repeated_inputs_count_once() -> None:
    statistic = ComparisonStatistic(["y"], {})
    for i in range(100):
        statistic.update({"y": f32(i % 64)}, {"y": f32(i % 64)})
    assert "64 inputs" in statistic.finish([Finding("data/repeated", "36 repeat.", distinct=64 / 100)]).statement()


# --- judging on nothing -----------------------------------------------------------------------------------------------------------------------


def learned(*feeds: tuple[Any, Any], kind: str | OutputKind = "values", again: Callable[[Any], Any] | None = None) -> ComparisonStatistic:
    statistic = ComparisonStatistic(["y"], {"y": kind if isinstance(kind, OutputKind) else stated_kind(kind)})
    for r, c in feeds:
        statistic.update({"y": r}, {"y": c}, again=None if again is None else {"y": again(r)})
    return statistic


def test_an_output_that_is_the_same_for_all_feeds_shows_nothing() -> None:
    one, other = f32(1, 2), f32(1, 3)
    constant = learned((one, one), (one, one)).finish()
    assert [f.id for f in constant.findings] == ["compare/constant-output"] and "no bound" in constant.statement()
    assert learned((one, one)).finish().findings == ()  # of one feed nothing is known
    assert learned((one, one), (other, other)).finish().findings == ()
    alike = Finding("data/identical", "All 2 feeds are identical.", voids_bound=True)
    assert learned((one, one), (one, one)).finish([alike]).findings == (alike,)


def test_a_constant_output_beside_one_that_varies_leaves_the_bound() -> None:
    statistic = ComparisonStatistic(["y", "z"], {})
    for value in (1.0, 2.0):
        statistic.update({"y": f32(1), "z": f32(value)}, {"y": f32(1), "z": f32(value)})
    found = statistic.finish()
    assert [f.id for f in found.findings] == ["compare/constant-output"] and "'y'" in found.findings[0].text and "at most" in found.statement()


def test_a_single_class_is_said() -> None:
    found = learned((f32([0, 1]), f32([0, 1])), (f32([0, 3]), f32([0, 3])), kind="classes").finish()
    assert [f.id for f in found.findings] == ["compare/one-class"] and "class 1" in found.findings[0].text
    assert learned((f32([0, 1]), f32([0, 1])), (f32([3, 1]), f32([3, 1])), kind="classes").finish().findings == ()


@given(st.lists(st.sampled_from([1.0, 2.0]), min_size=2, max_size=5), st.data())
def test_constancy_does_not_depend_on_the_split(values: list[float], data: st.DataObject) -> None:
    cut = data.draw(st.integers(0, len(values)))
    pairs = [(f32(v), f32(v)) for v in values]
    expected = len(set(values)) == 1
    assert learned(*pairs[:cut]).merge(learned(*pairs[cut:])).finish().outputs["y"].constant is expected
    assert learned(*pairs).finish().outputs["y"].constant is expected


@pytest.mark.parametrize("kind", ["values", "classes"])
def test_an_output_that_differs_from_itself_is_no_judge(kind: str) -> None:
    table = f32([0, 1], [5, 2])
    found = learned((table, table), kind=kind, again=lambda r: r[::-1]).finish()
    assert found.agreement is None and found.worst is None and found.outputs["y"].unstable
    assert [f.id for f in found.findings] == ["compare/unstable-output"] and "itself" in found.findings[0].text
    assert not learned((table, table), kind=kind, again=lambda r: r).finish().outputs["y"].unstable


def test_an_output_that_wavers_a_little_judges_a_candidate_that_is_broken() -> None:
    table = f32(*np.random.default_rng(0).standard_normal((20, 100)))
    wavering, broken = table.copy(), table[::-1].copy()
    wavering[0, :2] += 1
    found = learned((table, broken), again=lambda r: wavering).finish()
    assert not found.outputs["y"].unstable and found.agreement is not None and found.agreement < 0.5


def test_instability_survives_a_merge() -> None:
    table = f32([0, 1], [5, 2])
    assert learned((table, table)).merge(learned((table, table), again=lambda r: r[::-1])).finish().outputs["y"].unstable


def test_a_random_output_leaves_the_judgement_to_the_others(model_of: Callable[..., ir.Model]) -> None:
    model = model_of("g (float[n, 8] x) => (float[n, 8] y, float[n, 8] z) { y = Neg(x) r = RandomNormalLike(x) z = Add(x, r) }")
    with open_session(model) as a, open_session(model) as b:
        found = compare(a, b, ({"x": np.full((2, 8), i, np.float32)} for i in range(3)), {})
    assert (found.worst, found.agreement, found.outputs["z"].unstable, found.outputs["y"].unstable) == ("y", 1.0, True, False)


@pytest.mark.parametrize(("failures", "trials"), [(0, 10), (3, 50), (49, 50), (1, 1000)])
def test_bound_inverts_the_binomial(failures: int, trials: int) -> None:
    rate = upper_bound(failures, trials)
    chance = sum(math.comb(trials, k) * rate**k * (1 - rate) ** (trials - k) for k in range(failures + 1))
    assert chance == pytest.approx(0.05)
    assert upper_bound(trials, trials) == 1


# --- metrics of the caller ----------------------------------------------------------------------------------------------------------------------


def judged(metric: Metric, labels: list[dict[str, Any]] | None = None) -> Comparison:
    statistic = ComparisonStatistic(["y"], {}, metric)
    for i in range(4):
        statistic.update({"y": f32(i, 0)}, {"y": f32(i, 9)}, labels=None if labels is None else labels[i])
    return statistic.finish()


def test_a_metric_takes_the_place_of_the_outputs_or_joins_them() -> None:
    alone = judged(Metric("half", lambda r, c: 0.5 if r["y"][0] else 1.0))
    assert (alone.agreement, alone.worst, alone.metric) == (0.625, None, Measured("metric", 0.625, 4, 1.5))
    assert alone.outputs["y"].agreement is not None and "4 inputs" in alone.statement()
    joined = judged(Metric("fine", lambda r, c: 1.0, joins=True))
    assert joined.worst == "y" and joined.agreement == joined.outputs["y"].agreement is not None and joined.agreement < 1


def test_a_metric_of_three_arguments_is_given_the_labels_where_there_are_any() -> None:
    labels = [{"_label": i % 2} for i in range(4)]
    three = Metric("three", lambda r, c, known=None: 1.0 if known is None else float(known["_label"]))
    assert judged(three, labels).agreement == 0.5
    assert judged(three).agreement == 1.0
    assert judged(Metric("two", lambda r, c: 1.0), labels).agreement == 1.0


@pytest.mark.parametrize(
    ("function", "told"), [(lambda r, c: 1.5, "gave 1.5"), (lambda r, c: NAN, "gave nan"), (lambda r, c: r["z"], "KeyError"), (lambda r: 1.0, "TypeError")]
)
def test_a_metric_that_fails_is_the_callers_fault(function: Callable[..., Any], told: str) -> None:
    with pytest.raises(UsageError, match=told):
        judged(Metric("mine", function))


def test_metrics_of_parts_add_up() -> None:
    parts = [ComparisonStatistic(["y"], {}, Metric("m", lambda r, c: float(c["y"][0]))) for _ in range(2)]
    for part, value in zip(parts, (0.25, 0.75), strict=True):
        part.update({"y": f32(1)}, {"y": f32(value)})
    assert parts[0].merge(parts[1]).finish().agreement == 0.5
