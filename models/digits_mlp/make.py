"""Trains the pipeline of this folder with scikit-learn and converts it with skl2onnx.

Run in an environment with scikit-learn, skl2onnx and onnxruntime:

    python models/digits_mlp/make.py
"""

from __future__ import annotations

import sys
from pathlib import Path

from skl2onnx import to_onnx
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
from digits import accuracy, digits, write_data  # noqa: E402


def main() -> None:
    data = digits()
    train, test = data.train.reshape(-1, 64), data.test.reshape(-1, 64)
    # Pixels [n, 64] with values 0 to 16 -> label [n], probabilities [n, 10].
    pipeline = make_pipeline(StandardScaler(), MLPClassifier((512, 256), random_state=0, max_iter=200, alpha=1e-2)).fit(train, data.train_labels)
    path = HERE / "model.onnx"
    path.write_bytes(to_onnx(pipeline, train[:1], options={"zipmap": False}, target_opset=17).SerializeToString())
    write_data(HERE, "X", train, test, data)
    print(f"accuracy {accuracy(path, 'X', test, data.test_labels):.4f}, {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
