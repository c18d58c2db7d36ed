"""Exports of scikit-learn by skl2onnx: pipelines of numbers, of text and of columns, trained on random data.

make_sklearn.py FOLDER NAME...      run by an interpreter that has scikit-learn, skl2onnx and onnx
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import saving
from skl2onnx import to_onnx
from skl2onnx.common.data_types import FloatTensorType, StringTensorType
from sklearn.compose import ColumnTransformer
from sklearn.decomposition import PCA
from sklearn.ensemble import GradientBoostingClassifier, RandomForestClassifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, PolynomialFeatures, StandardScaler
from sklearn.svm import SVC

Array = np.ndarray[Any, Any]

WIDTH = 12
WORDS = ["graph", "node", "edge", "tensor", "shape", "scale", "zero", "point", "kernel", "float", "integer", "table", "model", "layer", "weight", "input"]
COLOURS = ["red", "green", "blue"]


def numbers(count: int, generator: np.random.Generator) -> Array:
    return generator.standard_normal((count, WIDTH)).astype(np.float32)


def texts(count: int, generator: np.random.Generator) -> Array:
    return np.array([[" ".join(generator.choice(WORDS, 8))] for _ in range(count)])


def classes(rows: Array) -> Array:
    return np.asarray((rows[:, 0] + rows[:, 1] * rows[:, 2] > 0).astype(np.int64) + (rows[:, 3] > 1))


def numeric(model: Callable[[], Any], **options: Any) -> Callable[[Path, str], None]:
    """A model of rows of numbers; the first shape has 32 rows, the second 1."""

    def write(folder: Path, name: str) -> None:
        rows = numbers(400, np.random.default_rng(7))
        pipeline = model().fit(rows, classes(rows))
        exported = to_onnx(pipeline, initial_types=[("rows", FloatTensorType([None, WIDTH]))], target_opset=17, **options)
        saving.write(folder, name, exported, lambda which, generator: {"rows": numbers((32, 1)[which], generator)})

    return write


def probabilities(model: Callable[[], Any]) -> Callable[[Path, str], None]:
    """A classifier whose probabilities are a tensor and not a sequence of maps."""

    def write(folder: Path, name: str) -> None:
        numeric(model, options={"zipmap": False})(folder, name)

    return write


def text(folder: Path, name: str) -> None:
    """TF-IDF of words and a linear classifier. Lower case would make a StringNormalizer, which needs a locale that many machines lack."""
    rows = texts(200, np.random.default_rng(7))
    labels = np.array(["graph" in row[0] for row in rows])
    pipeline = make_pipeline(TfidfVectorizer(lowercase=False), LogisticRegression()).fit(rows[:, 0], labels.astype(np.int64))
    exported = to_onnx(pipeline, initial_types=[("text", StringTensorType([None, 1]))], target_opset=17, options={"zipmap": False})
    saving.write(folder, name, exported, lambda which, generator: {"text": texts((4, 1)[which], generator)})


def columns(folder: Path, name: str) -> None:
    """Numbers are scaled, a column of texts becomes one of each kind: two inputs of different types."""

    def feed(count: int, generator: np.random.Generator) -> dict[str, Array]:
        return {"rows": numbers(count, generator), "colour": generator.choice(COLOURS, (count, 1))}

    table = feed(300, np.random.default_rng(7))
    merged = np.concatenate([table["rows"].astype(object), table["colour"].astype(object)], 1)
    transform = ColumnTransformer([("numbers", StandardScaler(), list(range(WIDTH))), ("colours", OneHotEncoder(handle_unknown="ignore"), [WIDTH])])
    pipeline = make_pipeline(transform, LogisticRegression()).fit(merged, classes(table["rows"]))
    types = [("rows", FloatTensorType([None, WIDTH])), ("colour", StringTensorType([None, 1]))]
    exported = to_onnx(pipeline, initial_types=types, target_opset=17, options={"zipmap": False})
    saving.write(folder, name, exported, lambda which, generator: feed((4, 1)[which], generator))


EXPORTS: dict[str, Callable[[Path, str], None]] = {
    "mlp_sklearn": probabilities(lambda: make_pipeline(StandardScaler(), MLPClassifier((256, 128), max_iter=20, random_state=0))),
    "forest_sklearn": numeric(lambda: RandomForestClassifier(40, max_depth=6, random_state=0)),
    "boosting_sklearn": probabilities(lambda: GradientBoostingClassifier(n_estimators=20, random_state=0)),
    "polynomial_svm_sklearn": probabilities(lambda: make_pipeline(PolynomialFeatures(2), PCA(8), SVC(probability=True, random_state=0))),
    "neighbours_sklearn": probabilities(lambda: make_pipeline(StandardScaler(), KNeighborsClassifier(3))),
    "text_sklearn": text,
    "columns_sklearn": columns,
}

if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    saving.main(EXPORTS)
