"""Trains the depthwise-separable network of this folder with Keras and converts it with tf2onnx.

Run in an environment with tensorflow (the CPU build is enough), tf2onnx, onnxruntime and scikit-learn:

    python models/digits_keras/make.py

A minute or two on one core.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")

import keras
import numpy as np
import onnx
import tensorflow as tf
import tf2onnx
from keras import layers

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
from digits import accuracy, digits, shifted, write_data  # noqa: E402

EPOCHS, BATCH = 40, 64


def separable(x: keras.KerasTensor, channels: int, stride: int) -> keras.KerasTensor:
    """A 3x3 convolution per channel, then a 1x1 convolution across channels, each with BatchNormalization and ReLU6."""
    x = layers.DepthwiseConv2D(3, stride, "same", use_bias=False)(x)
    x = layers.ReLU(6.0)(layers.BatchNormalization()(x))
    x = layers.Conv2D(channels, 1, use_bias=False)(x)
    return layers.ReLU(6.0)(layers.BatchNormalization()(x))


def network() -> keras.Model:
    """Images [n, 8, 8, 1] with values 0 to 16 (channels last) -> probabilities [n, 10]."""
    image = layers.Input((8, 8, 1), name="image")
    x = layers.Rescaling(1 / 8, -1.0)(image)
    x = layers.ReLU(6.0)(layers.BatchNormalization()(layers.Conv2D(64, 3, padding="same", use_bias=False)(x)))
    x = layers.Add()([x, separable(x, 64, 1)])
    x = separable(x, 128, 2)
    x = layers.Add()([x, separable(x, 128, 1)])
    x = layers.Dropout(0.1)(layers.GlobalAveragePooling2D()(x))
    return keras.Model(image, layers.Dense(10, activation="softmax", name="probabilities")(x))


def main() -> None:
    keras.utils.set_random_seed(0)
    tf.config.experimental.enable_op_determinism()
    generator = np.random.default_rng(0)
    data = digits()
    net = network()
    steps = len(data.train) // BATCH
    rate = keras.optimizers.schedules.CosineDecay(0.0, EPOCHS * steps - steps, warmup_target=4e-3, warmup_steps=steps)
    net.compile(keras.optimizers.AdamW(rate, weight_decay=1e-3), "sparse_categorical_crossentropy")
    for _ in range(EPOCHS):
        order = generator.permutation(len(data.train))[: steps * BATCH]
        net.fit(shifted(data.train[order], generator)[..., None], data.train_labels[order], batch_size=BATCH, shuffle=False, verbose=0)

    path = HERE / "model.onnx"
    call = tf.function(lambda image: net(image, training=False))
    model, _ = tf2onnx.convert.from_function(call, [tf.TensorSpec((None, 8, 8, 1), tf.float32, name="image")], opset=15)
    onnx.save(model, path)
    train, test = data.train[..., None], data.test[..., None]
    write_data(HERE, "image", train, test, data)
    print(f"accuracy {accuracy(path, 'image', test, data.test_labels):.4f}, {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
