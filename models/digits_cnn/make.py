"""Trains the residual network of this folder with PyTorch and exports it.

Run in an environment with torch (the CPU build is enough), onnx, onnxruntime and scikit-learn:

    python models/digits_cnn/make.py

Minutes on one core. The same versions on the same machine give the same file.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import nn
from torch.nn import functional as F

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
from digits import accuracy, digits, shifted, write_data  # noqa: E402

EPOCHS, BATCH = 24, 64


class Block(nn.Module):
    """Two 3x3 convolutions with BatchNormalization and a way around them."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.short = (
            nn.Identity() if inputs == outputs and stride == 1 else nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        inner = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(inner)) + self.short(x))


def network() -> nn.Module:
    """Images [n, 1, 8, 8] with values 0 to 1 -> logits [n, 10]."""
    return nn.Sequential(
        nn.Conv2d(1, 64, 3, 1, 1, bias=False),
        nn.BatchNorm2d(64),
        nn.ReLU(),
        Block(64, 64),
        Block(64, 64),
        Block(64, 96, stride=2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(96, 10),
    )


def main() -> None:
    torch.manual_seed(0)
    torch.use_deterministic_algorithms(True)
    generator = np.random.default_rng(0)
    data = digits()
    train, test = (data.train / 16)[:, None], (data.test / 16)[:, None]
    net = network()
    steps = len(train) // BATCH
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4, nesterov=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=EPOCHS * steps, pct_start=0.25)
    for _ in range(EPOCHS):
        net.train()
        order = generator.permutation(len(train))
        for step in range(steps):
            some = order[step * BATCH : (step + 1) * BATCH]
            images = torch.from_numpy(shifted(train[some, 0], generator)[:, None])
            loss = F.cross_entropy(net(images), torch.from_numpy(data.train_labels[some]), label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    net.eval()
    path = HERE / "model.onnx"
    # BatchNormalization is left in the file, as a user's export often has it: folding it is the compressor's business.
    torch.onnx.export(
        net,
        (torch.zeros(1, 1, 8, 8),),
        str(path),
        input_names=["image"],
        output_names=["logits"],
        dynamic_axes={"image": {0: "batch"}, "logits": {0: "batch"}},
        opset_version=17,
        do_constant_folding=False,
        training=torch.onnx.TrainingMode.PRESERVE,
        dynamo=False,
    )
    model = onnx.load(path)
    for node in model.graph.node:
        node.ClearField("doc_string")  # the exporter puts source paths there
    onnx.save(model, path)
    write_data(HERE, "image", train, test, data)
    print(f"accuracy {accuracy(path, 'image', test, data.test_labels):.4f}, {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
