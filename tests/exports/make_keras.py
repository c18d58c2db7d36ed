"""Exports of Keras by tf2onnx: random weights, channels last, dynamic axes.

make_keras.py FOLDER NAME...      run by an interpreter that has tensorflow, tf2onnx and onnx
"""

from __future__ import annotations

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import saving
import tensorflow as tf
import tf2onnx
from keras import layers as L

Shape = Sequence["int | None"]


def convert(model: Callable[[], keras.Model], shape: Shape, first: Shape, second: Shape, opset: int) -> Callable[[Path, str], None]:
    """A function (folder, name) that exports a model of one input of `shape` and writes feeds of the shapes `first` and `second`."""

    def write(folder: Path, name: str) -> None:
        keras.utils.set_random_seed(0)
        net = model()
        _normalize(net)
        function = tf.function(lambda data: net(data, training=False))
        exported, _ = tf2onnx.convert.from_function(function, input_signature=[tf.TensorSpec(shape, tf.float32, name="data")], opset=opset)

        def feed(which: int, generator: np.random.Generator) -> dict[str, np.ndarray[Any, Any]]:
            return {"data": generator.standard_normal((first, second)[which]).astype(np.float32)}

        saving.write(folder, name, exported, feed)

    return write


def _normalize(net: keras.Model) -> None:
    """Running statistics that are not 0 and 1."""
    generator = np.random.default_rng(5)
    for layer in net.layers:
        if isinstance(layer, L.BatchNormalization):
            gamma, beta, mean, variance = layer.get_weights()
            layer.set_weights([gamma, beta, mean + 0.1 * generator.standard_normal(mean.shape), variance * generator.uniform(0.5, 2, variance.shape)])


def separable() -> keras.Model:
    """Depthwise and pointwise convolutions with ReLU6, a residual, pooling."""
    data = L.Input((None, None, 3))
    x = L.ReLU(6.0)(L.BatchNormalization()(L.Conv2D(32, 3, 2, "same", use_bias=False)(L.Rescaling(0.5, 0.1)(data))))
    for width, stride in ((32, 1), (96, 2), (96, 1)):
        y = L.ReLU(6.0)(L.BatchNormalization()(L.DepthwiseConv2D(3, stride, "same", use_bias=False)(x)))
        y = L.BatchNormalization()(L.Conv2D(width, 1, use_bias=False)(y))
        x = L.Add()([x, y]) if stride == 1 else y
    return keras.Model(data, L.Dense(10, "softmax")(L.GlobalAveragePooling2D()(x)))


def classifier() -> keras.Model:
    """Convolutions of a fixed image, flattened."""
    data = L.Input((28, 28, 1))
    x = L.MaxPooling2D(2)(L.Conv2D(32, 3, activation="relu")(data))
    x = L.Flatten()(L.AveragePooling2D(2)(L.Conv2D(64, 3, activation="elu")(x)))
    return keras.Model(data, L.Dense(10, "softmax")(L.Dropout(0.5)(L.Dense(128, "relu")(x))))


def recurrent() -> keras.Model:
    """LSTM and GRU over a free number of steps."""
    data = L.Input((None, 12))
    x = L.Bidirectional(L.LSTM(16, return_sequences=True))(data)
    return keras.Model(data, L.Dense(4)(L.GRU(16)(x)))


def attention() -> keras.Model:
    """A transformer block over a free number of steps."""
    data = L.Input((None, 128))
    x = L.LayerNormalization()(data)
    x = L.Add()([data, L.MultiHeadAttention(2, 64)(x, x)])
    y = L.Dense(128)(L.Dense(256, lambda z: keras.activations.gelu(z, approximate=True))(L.LayerNormalization()(x)))
    return keras.Model(data, L.Dense(5)(L.GlobalAveragePooling1D()(L.Add()([x, y]))))


def up_and_down() -> keras.Model:
    """An autoencoder with a transposed convolution and a resize, of fixed images."""
    data = L.Input((32, 32, 1))
    x = L.LeakyReLU(negative_slope=0.2)(L.Conv2D(32, 3, 2, "same")(data))
    x = L.PReLU(shared_axes=[1, 2])(L.Conv2D(64, 3, 2, "same")(x))
    x = L.Conv2DTranspose(32, 3, 2, "same", activation="relu")(x)
    x = L.UpSampling2D(2, interpolation="bilinear")(x)
    return keras.Model(data, L.Conv2D(1, 3, padding="same", activation="sigmoid")(x))


EXPORTS: dict[str, Callable[[Path, str], None]] = {
    "separable_keras": convert(separable, (None, None, None, 3), (2, 64, 64, 3), (3, 96, 80, 3), 15),
    "classifier_keras": convert(classifier, (None, 28, 28, 1), (2, 28, 28, 1), (5, 28, 28, 1), 13),
    "recurrent_keras": convert(recurrent, (None, None, 12), (2, 9, 12), (3, 5, 12), 17),
    "attention_keras": convert(attention, (None, None, 128), (2, 30, 128), (3, 41, 128), 17),
    "autoencoder_keras": convert(up_and_down, (None, 32, 32, 1), (2, 32, 32, 1), (1, 32, 32, 1), 18),
}

if __name__ == "__main__":
    logging.disable(logging.WARNING)
    saving.main(EXPORTS)
