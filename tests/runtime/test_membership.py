"""What answers say about training inputs: signals by hand, the area against all pairs, its errors against a bootstrap."""

from __future__ import annotations

import numpy as np
import pytest

from graphcompress.errors import DataError
from graphcompress.ir.analysis.output_kinds import OutputKind
from graphcompress.runtime.membership import advantage, label_of, signals

CLASSES = OutputKind("classes", 1)


def test_signals_of_logits_probabilities_and_their_logarithms_are_the_same() -> None:
    logits = np.array([[2.0, 0.0, -1.0], [0.5, 0.4, 0.3]], np.float32)
    p = np.exp(logits.astype(np.float64)) / np.exp(logits.astype(np.float64)).sum(1, keepdims=True)
    for answer in (logits, p, np.log(p)):
        found = signals(answer, CLASSES, 2, np.array([0, 2]))
        np.testing.assert_allclose(found["confidence"], p.max(1), rtol=1e-6)
        np.testing.assert_allclose(found["entropy"], (p * np.log(p)).sum(1), rtol=1e-6)
        np.testing.assert_allclose(found["loss"], np.log([p[0, 0], p[1, 2]]), rtol=1e-6)
    assert set(signals(logits, CLASSES, 2, None)) == {"confidence", "entropy"}


def test_classes_may_lie_along_any_axis_and_frames_are_averaged() -> None:
    answer = np.zeros((2, 3, 4), np.float32)
    answer[:, 1] = 5
    labels = np.full((2, 4), 1)
    labels[1, :2] = 0
    loss = signals(answer, CLASSES, 2, labels)["loss"]
    assert loss.shape == (2,) and loss[0] > loss[1] and np.isclose(loss[1], loss[0] - 2.5)


def test_decisions_by_themselves() -> None:
    found = signals(np.array([[0.9], [0.2]], np.float32), OutputKind("probabilities"), 2, np.array([1, 1]))
    np.testing.assert_allclose(found["confidence"], [0.9, 0.8], rtol=1e-6)
    np.testing.assert_allclose(found["loss"], np.log([0.9, 0.2]), rtol=1e-6)


@pytest.mark.parametrize(
    ("labels", "part"), [(np.array([0]), "expected one class for each"), (np.array([0, 3]), "a label is 3"), (np.array([-1, 0]), "a label")]
)
def test_labels_that_do_not_fit(labels: np.ndarray, part: str) -> None:
    with pytest.raises(DataError, match=part):
        signals(np.zeros((2, 3), np.float32), CLASSES, 2, labels)


def test_labels_are_found_by_their_names() -> None:
    assert label_of({"_id": np.array([7]), "_Label": np.array([1])}) == np.array([1])
    assert label_of({"_y": np.array([0.5])}) is None and label_of({"_id": np.array([7])}) is None


def test_the_area_is_that_of_all_pairs_and_its_errors_those_of_resampling() -> None:
    generator = np.random.default_rng(0)
    base = generator.normal(size=400)
    members, others = base[:180] + 0.7, base[180:]
    result = [np.round(part + 0.5 * generator.normal(size=len(part)), 1) for part in (members, others)]  # with ties

    def area(m: np.ndarray, o: np.ndarray) -> float:
        return float(np.mean((m[:, None] > o) + 0.5 * (m[:, None] == o)))

    found = advantage((members, result[0]), (others, result[1]))
    assert np.isclose(found.reference, area(members, others)) and np.isclose(found.candidate, area(*result))
    drawn = []
    for _ in range(600):
        m, o = generator.integers(0, 180, 180), generator.integers(0, 220, 220)
        drawn.append((area(members[m], others[o]), area(result[0][m], result[1][o])))
    spread = 1.96 * np.array([*np.std(drawn, axis=0), np.std(np.diff(drawn, axis=1))])
    np.testing.assert_allclose([found.reference_error, found.candidate_error, found.difference_error], spread, rtol=0.15)
    same = advantage((members, members), (others, others))
    assert same.difference == 0 and same.difference_error == 0 and 0.5 < found.candidate < found.reference
